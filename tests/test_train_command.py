"""`hemoscan train`, from options to weights, card and printed figures."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from click.testing import CliRunner, Result
from filelock import FileLock
from trainer_data import FIRST_TRAINING_ID, FIRST_VALIDATION_ID, make_rows, write_data_set

from hemoscan import NOTICE
from hemoscan.card import BRAIN, find_model
from hemoscan.cli import cli, main
from hemoscan.errors import DataError, HemoscanError, OutputError, TrainingError
from hemoscan.networks import load_classifier
from hemoscan.trainer.data import load_splits
from hemoscan.trainer.metrics import at_threshold, measure, probabilities
from hemoscan.trainer.train import predict

NAME = "densenet-bias"
EPOCHS = 4
TRAINING = make_rows([0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0], FIRST_TRAINING_ID)
VALIDATION = make_rows([1, 0, 0, 1, 1, 0, 0, 1], FIRST_VALIDATION_ID)


@dataclass(frozen=True)
class Run:
    """A finished run of the command."""

    data: Path
    runs: Path
    weights: Path
    result: Result


def options_of(folder: Path, out: Path, **changed: str) -> list[str]:
    values = {
        "data": str(folder),
        "experiments": NAME,
        "init": "scratch",
        "sizes": f"32:{EPOCHS}",
        "batch-size": "4",
        "device": "cpu",
        "precision": "fp32",
        "run-dir": str(out / "runs"),
        "weights-dir": str(out / "weights"),
        **{key.replace("_", "-"): value for key, value in changed.items()},
    }
    return ["train", "--quiet", *(part for key, value in values.items() for part in (f"--{key}", value))]


def invoke(arguments: list[str]) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), TRAINING, VALIDATION)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    out = tmp_path_factory.mktemp("trained")
    result = invoke(options_of(data, out))
    yield Run(data, out / "runs", out / "weights", result)
    shutil.rmtree(out)


@pytest.fixture(scope="module")
def card(run: Run) -> dict[str, Any]:
    return json.loads((run.weights / f"{NAME}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_the_command_succeeds_and_says_what_it_is_for(run: Run):
    assert run.result.exit_code == 0, run.result.output
    assert NOTICE in run.result.stderr
    assert "training: 12 slices, 3 positive" in run.result.stderr
    assert "validation: 8 slices, 4 positive" in run.result.stderr


def test_it_writes_weights_card_history_and_checkpoint_only(run: Run):
    assert sorted(path.name for path in run.weights.iterdir()) == [f"{NAME}.json", f"{NAME}.safetensors"]
    left = {path.name for path in run.runs.iterdir()} - {"lock"}
    assert left == {f"{NAME}.checkpoint.pt", f"{NAME}.history.json"}


def test_it_prints_the_cards_figures(run: Run, card: dict[str, Any]):
    printed, metrics = run.result.stdout, card["metrics"]
    assert f"{NAME} on 8 validation slices, 4 positive" in printed
    assert f"AUC {metrics['auc']:.4f}" in printed
    for key in ("at_0.5", "at_cross_fitted_threshold"):
        found = metrics[key]
        assert f"precision {found['precision']:.4f}  recall {found['recall']:.4f}  F1 {found['f1']:.4f}" in printed
        matrix = [found[f"{kind}s"] for kind in ("true_positive", "false_positive", "false_negative", "true_negative")]
        assert re.search(r"TP {}\s+FP {}\s+FN {}\s+TN {}\b".format(*matrix), printed)
        assert sum(matrix) == 8
    assert max(map(len, printed.splitlines())) <= 80


def test_the_card_says_how_the_model_was_made(card: dict[str, Any]):
    training = card["training"]
    expected = {
        "slices": 12,
        "positives": 3,
        "init": "scratch",
        "input": "brain",
        "class_weight": False,
        "output_bias": True,
        "reweigh_groups": False,
        "epochs": EPOCHS,
        "sizes": [[32, EPOCHS]],
        "batch_size": 4,
        "seed": 0,
        "device": "cpu",
        "precision": "fp32",
    }
    assert {key: training[key] for key in expected} == expected
    assert "non-commercial" in card["notice"]


def test_the_card_names_no_path_and_no_user(run: Run):
    text = (run.weights / f"{NAME}.json").read_text(encoding="utf-8")
    assert str(run.data) not in text
    assert str(Path.home()) not in text
    assert socket.gethostname() not in text


def test_the_scanner_takes_the_model_and_finds_the_cards_figures_again(run: Run, card: dict[str, Any]):
    model = find_model(NAME, run.weights)
    assert model.card.input == BRAIN
    classifier = load_classifier(model)
    _, validation = load_splits(run.data, model.card.input)
    logits = predict(classifier, validation, torch.device("cpu"), "fp32")
    found, stated = measure(logits, validation.labels, validation.groups), card["metrics"]
    assert (stated["n"], stated["positives"]) == (found["n"], found["positives"])
    assert model.card.threshold == pytest.approx(found["threshold"], abs=2e-3)
    # Rounding to float16 may swap neighbours: a pair of the 16 at most.
    for key in ("auc", "auc_group_balanced"):
        assert stated[key] == pytest.approx(found[key], abs=1.01 / 16)
    assert stated["average_precision"] == pytest.approx(found["average_precision"], abs=0.15)
    assert stated["at_0.5"] == pytest.approx(found["at_0.5"])


def test_the_cards_threshold_is_the_best_for_the_weights_as_shipped(run: Run):
    model = find_model(NAME, run.weights)
    _, validation = load_splits(run.data, model.card.input)
    scores = probabilities(predict(load_classifier(model), validation, torch.device("cpu"), "fp32"))
    best = max(at_threshold(scores >= threshold, validation.labels)["f1"] for threshold in scores)
    assert at_threshold(scores >= model.card.threshold, validation.labels)["f1"] == pytest.approx(best)


def test_the_history_file_has_a_record_an_epoch(run: Run):
    record = json.loads((run.runs / f"{NAME}.history.json").read_text(encoding="utf-8"))
    assert record["experiment"] == NAME
    assert [(epoch["epoch"], epoch["size"], epoch["validation"]["n"]) for epoch in record["history"]] == [
        (number, 32, 8) for number in range(1, EPOCHS + 1)
    ]


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Iterator[Path]:
    """A folder with a copy of what the run left."""
    shutil.copytree(run.runs, tmp_path / "runs")
    shutil.copytree(run.weights, tmp_path / "weights")
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_the_same_command_again_trains_nothing_and_prints_the_same(run: Run, copied: Path):
    before = (copied / "weights" / f"{NAME}.safetensors").read_bytes()
    again = invoke(options_of(run.data, copied))
    assert again.exit_code == 0, again.output
    assert f"{NAME} epoch" not in again.stderr
    assert again.stdout == run.result.stdout
    assert (copied / "weights" / f"{NAME}.safetensors").read_bytes() == before


def test_more_epochs_go_on_from_the_checkpoint(run: Run, copied: Path):
    longer = invoke(options_of(run.data, copied, sizes=f"32:{EPOCHS + 1}"))
    assert longer.exit_code == 0, longer.output
    assert re.findall(rf"{NAME} epoch (\d+):", longer.stderr) == [str(EPOCHS + 1)]
    record = json.loads((copied / "runs" / f"{NAME}.history.json").read_text(encoding="utf-8"))
    assert [epoch["epoch"] for epoch in record["history"]] == list(range(1, EPOCHS + 2))
    assert find_model(NAME, copied / "weights").card.training["epochs"] == EPOCHS + 1


def test_a_run_of_other_options_is_refused(run: Run, copied: Path):
    other = invoke(options_of(run.data, copied, seed="1"))
    assert other.exit_code == 1
    assert isinstance(other.exception, TrainingError)
    assert "seed 0, now 1" in str(other.exception)


def test_changed_weights_are_refused_by_their_hash(copied: Path):
    path = copied / "weights" / f"{NAME}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(HemoscanError, match="SHA-256"):
        load_classifier(find_model(NAME, copied / "weights"))


def test_a_second_run_in_the_same_folder_fails_with_a_message(data: Path, tmp_path: Path):
    (tmp_path / "runs").mkdir()
    with FileLock(tmp_path / "runs" / "lock"):
        second = invoke(options_of(data, tmp_path))
    assert second.exit_code == 1
    assert isinstance(second.exception, TrainingError)
    assert re.search(r"runs: another training is running there; .*--run-dir", str(second.exception))
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"experiments": "densenet"}, "legal: densenet-base"),
        ({"sizes": "112"}, "legal: PIXELS:EPOCHS"),
        ({"sizes": "16:1"}, "legal: 32 to 1024"),
        ({"batch_size": "1"}, "--batch-size"),
        ({"learning_rate": "0"}, "--learning-rate"),
        ({"learning_rate": "nan"}, "learning.rate"),
        ({"seed": "-1"}, "--seed"),
        ({"limit": "1"}, "--limit"),
        ({"epochs": "0"}, "--epochs"),
        ({"device": "abacus"}, "'abacus'; legal: auto, cpu"),
        ({"input": "bone"}, "--input"),
        ({"precision": "fp16"}, "--precision"),
        ({"unknown": "1"}, "--unknown"),
    ],
    ids=lambda value: "=".join(*value.items()) if isinstance(value, dict) else "",
)
def test_bad_options_exit_with_2_and_the_legal_values(data: Path, tmp_path: Path, changed: dict[str, str], named: str):
    result = invoke(options_of(data, tmp_path, **changed))
    assert result.exit_code == 2, result.output
    assert re.search(named, result.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "error", "named"),
    [
        ({"data": "nowhere"}, DataError, "nowhere: no train_labels.txt"),
        ({"limit": "2"}, DataError, "training split has 2 slices"),
        ({"run_dir": "file/runs"}, OutputError, "file"),
        ({"weights_dir": "file/weights", "limit": "4", "sizes": "32:1"}, OutputError, "file"),
    ],
    ids=["no data", "one class", "run folder below a file", "weights folder below a file"],
)
def test_what_fails_exits_with_1_and_says_why(  # noqa: PLR0917
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    error: type[HemoscanError],
    named: str,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    result = invoke(options_of(data, tmp_path, **changed))
    assert result.exit_code == 1
    assert isinstance(result.exception, error), repr(result.exception)
    assert named in str(result.exception)
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


def test_without_imagenet_weights_it_exits_with_1_and_names_the_ways_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def offline(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["hemoscan", *options_of(data, tmp_path, init="imagenet")])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("hemoscan: --init imagenet: ")
    assert re.search(r"put densenet121-\w+\.pth into .*hub/checkpoints", last)
    assert "--init FILE" in last
    assert "--init scratch" in last
    assert not list((tmp_path / "weights").iterdir())
    assert not list((tmp_path / "runs").glob("*.pt"))


def test_a_start_of_its_own_weights_is_taken(run: Run, tmp_path: Path):
    start = run.weights / f"{NAME}.safetensors"
    result = invoke(
        options_of(run.data, tmp_path, init=str(start), sizes="32:1", experiments="densenet-base", limit="8")
    )
    assert result.exit_code == 0, result.output
    card = find_model("densenet-base", tmp_path / "weights").card
    assert card.training["init"] == f"{NAME}.safetensors"
    assert card.training["slices"] == 8
    shutil.rmtree(tmp_path)


def test_the_environment_names_the_data(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEMOSCAN_DATA", str(data))
    arguments = options_of(data, tmp_path, init="missing.pth")
    del arguments[arguments.index("--data") : arguments.index("--data") + 2]
    result = invoke(arguments)
    assert "training: 12 slices, 3 positive" in result.stderr
    assert "missing.pth: cannot be read" in str(result.exception)


def test_help_names_every_option():
    result = invoke(["train", "--help"])
    assert result.exit_code == 0
    for option in ("--data", "--experiments", "--init", "--reweigh-groups", "--sizes", "--run-dir", "--weights-dir"):
        assert option in result.stdout
