"""`hemoscan train`, from options to weights, card and printed figures."""

from __future__ import annotations

import contextlib
import csv
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

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from filelock import FileLock
from trainer_data import FIRST_TEST_ID, FIRST_TRAINING_ID, FIRST_VALIDATION_ID, make_rows, picture, write_data_set

from hemoscan import NOTICE
from hemoscan.card import BRAIN, find_model
from hemoscan.cli import cli, main
from hemoscan.errors import DataError, HemoscanError, OutputError, StartError, TrainingError
from hemoscan.networks import load_classifier
from hemoscan.preprocess import preprocess
from hemoscan.trainer import command
from hemoscan.trainer.data import load_splits
from hemoscan.trainer.metrics import at_threshold, measure, probabilities
from hemoscan.trainer.parallel import Processes
from hemoscan.trainer.records import RunFiles
from hemoscan.trainer.splits import DataSet, LeftOut, Slices, Split
from hemoscan.trainer.train import predict

NAME = "densenet-bias"
STEM = f"{NAME}.validation"
EPOCHS = 4
TRAINING = make_rows([0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0], FIRST_TRAINING_ID)
VALIDATION = make_rows([1, 0, 0, 1, 1, 0, 0, 1], FIRST_VALIDATION_ID)
TEST = make_rows([1, 0, 0], FIRST_TEST_ID)
AT_THRESHOLD = {
    **dict.fromkeys(("true_positives", "false_positives", "false_negatives", "true_negatives"), 2),
    **dict.fromkeys(("accuracy", "precision", "recall", "f1"), 0.5),
}
WHOLE_RECORD = {
    "format": 1,
    "key": "k",
    "sha256": "s",
    "history": [{"size": 32}],
    "metrics": {
        "n": 8,
        "positives": 4,
        "auc": 0.5,
        "average_precision": 0.5,
        "auc_group_balanced": None,
        "auc_within_groups": {"70": 0.5},
        "at_0.5": AT_THRESHOLD,
        "at_cross_fitted_threshold": None,
        "threshold": 0.5,
    },
}


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
    return write_data_set(tmp_path_factory.mktemp("data"), TRAINING, VALIDATION, test=TEST)


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


def test_it_writes_weights_card_record_logits_and_checkpoint_only(run: Run):
    assert sorted(path.name for path in run.weights.iterdir()) == [f"{NAME}.json", f"{NAME}.safetensors"]
    left = {path.name for path in run.runs.iterdir()} - {"lock"}
    assert left == {STEM + suffix for suffix in (".checkpoint.pt", ".json", ".csv", ".test.csv")}


def test_it_prints_the_cards_figures(run: Run, card: dict[str, Any]):
    printed, metrics = run.result.stdout, card["metrics"]
    assert f"{NAME} on 8 validation slices, 4 positive" in printed
    assert f"AUC {metrics['auc']:.4f}" in printed
    for key in ("at_0.5", "at_cross_fitted_threshold"):
        found = metrics[key]
        figures = ("-" if found[name] is None else f"{found[name]:.4f}" for name in ("precision", "recall", "f1"))
        assert "precision {}  recall {}  F1 {}".format(*figures) in printed
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
    rounding = card["metrics"]["rounding"]
    assert rounding["bits"] == 16
    assert rounding["auc_before"] - rounding["auc_lost"] == pytest.approx(card["metrics"]["auc"])


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
    found = measure(logits, validation.labels, validation.groups, validation.clusters)
    stated = card["metrics"]
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


def record_of(folder: Path, stem: str = STEM) -> dict[str, Any]:
    return json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_record_says_how_it_was_trained_and_what_came_out(run: Run, card: dict[str, Any]):
    record = record_of(run.runs)
    expected = {
        "experiment": NAME,
        "split": "validation",
        "recipe": "report",
        "input": "brain",
        "init": "scratch",
        "reweigh_groups": False,
        "epochs": EPOCHS,
        "sizes": [[32, EPOCHS]],
        "seed": 0,
        "device": "cpu",
        "precision": "fp32",
        "n": 8,
        "positives": 4,
        "trained_on": {"slices": 12, "positives": 3},
    }
    assert {key: record[key] for key in expected} == expected
    assert record["seconds"] >= 0
    assert record["machine"]["cores"] >= 1
    rounding = card["metrics"]["rounding"]
    assert {"split": "validation", **record["metrics"], "rounding": rounding} == card["metrics"]
    assert rounding["auc_before"] - rounding["auc_lost"] == pytest.approx(record["metrics"]["auc"])
    assert [(epoch["epoch"], epoch["size"], epoch["validation"]["n"]) for epoch in record["history"]] == [
        (number, 32, 8) for number in range(1, EPOCHS + 1)
    ]


def test_the_record_names_no_path_and_no_user(run: Run):
    text = (run.runs / f"{STEM}.json").read_text(encoding="utf-8")
    for private in (str(run.data), str(run.runs), str(Path.home()), socket.gethostname()):
        assert private not in text


def test_the_logits_of_the_held_out_slices_are_those_of_the_shipped_weights(run: Run):
    rows = rows_of(run.runs / f"{STEM}.csv")
    assert list(rows[0]) == ["id", "label", "group", "logit", "cluster"]
    assert [(row["id"], int(row["label"])) for row in rows] == [(row.id, row.label) for row in VALIDATION]
    _, validation = load_splits(run.data, BRAIN)
    assert [int(row["group"]) for row in rows] == validation.groups.tolist()
    assert [int(row["cluster"]) for row in rows] == validation.clusters.tolist()
    logits = np.array([float(row["logit"]) for row in rows], np.float32)
    classifier = load_classifier(find_model(NAME, run.weights))
    expected = predict(classifier, validation, torch.device("cpu"), "fp32")
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    expected = measure(logits, validation.labels, validation.groups, validation.clusters)
    assert record_of(run.runs)["metrics"] == expected


def test_the_test_images_are_scored(run: Run):
    rows = rows_of(run.runs / f"{STEM}.test.csv")
    assert [row["id"] for row in rows] == [row.id for row in TEST]
    images = np.stack([preprocess(row.image, BRAIN) for row in TEST])
    classifier = load_classifier(find_model(NAME, run.weights))
    expected = predict(classifier, Slices(tuple(row.id for row in TEST), images), torch.device("cpu"), "fp32")
    np.testing.assert_allclose([float(row["logit"]) for row in rows], expected, rtol=1e-5, atol=1e-6)


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
    assert " epoch " not in again.stderr
    assert f"{STEM}: already done" in again.stderr
    assert again.stdout == run.result.stdout
    assert (copied / "weights" / f"{NAME}.safetensors").read_bytes() == before


def test_more_epochs_go_on_from_the_checkpoint(run: Run, copied: Path):
    longer = invoke(options_of(run.data, copied, sizes=f"32:{EPOCHS + 1}"))
    assert longer.exit_code == 0, longer.output
    assert re.findall(rf"{NAME} validation epoch (\d+):", longer.stderr) == [str(EPOCHS + 1)]
    record = record_of(copied / "runs")
    assert [epoch["epoch"] for epoch in record["history"]] == list(range(1, EPOCHS + 2))
    assert find_model(NAME, copied / "weights").card.training["epochs"] == EPOCHS + 1


def test_a_run_of_other_options_is_refused(run: Run, copied: Path):
    other = invoke(options_of(run.data, copied, seed="1"))
    assert other.exit_code == 1
    assert isinstance(other.exception, TrainingError)
    assert "seed 0, now 1" in str(other.exception)


def test_without_its_checkpoint_a_finished_training_is_known_by_its_record(run: Run, copied: Path):
    (copied / "runs" / f"{STEM}.checkpoint.pt").unlink()
    again = invoke(options_of(run.data, copied))
    assert again.exit_code == 0, again.output
    assert again.stdout == run.result.stdout
    other = invoke(options_of(run.data, copied, seed="1"))
    assert isinstance(other.exception, TrainingError)
    assert f"{STEM}.json: is of another training" in str(other.exception)


@pytest.mark.parametrize(
    ("lost", "damaged"),
    [
        ("runs/{STEM}.csv", False),
        ("runs/{STEM}.csv", True),
        ("runs/{STEM}.test.csv", False),
        ("runs/{STEM}.json", False),
        ("weights/{NAME}.json", False),
        ("weights/{NAME}.json", True),
        ("weights/{NAME}.safetensors", False),
        ("weights/{NAME}.safetensors", True),
    ],
)
def test_what_a_finished_training_lost_is_written_again_without_a_step(
    run: Run, copied: Path, lost: str, damaged: bool
):
    path = copied / lost.format(STEM=STEM, NAME=NAME)
    before = path.read_bytes()
    if damaged:
        path.write_bytes(before[:-9])
    else:
        path.unlink()
    again = invoke(options_of(run.data, copied))
    assert again.exit_code == 0, again.output
    assert " epoch " not in again.stderr
    if "weights" in lost:
        assert f"{STEM}: {NAME}.json or its weights lost or damaged; written again from" in again.stderr
    assert path.read_bytes() == before


def test_weights_of_another_training_in_their_place_are_told_and_replaced(run: Run, copied: Path):
    before = (copied / "weights" / f"{NAME}.safetensors").read_bytes()
    other = invoke(options_of(run.data, copied, seed="1", run_dir=str(copied / "others")))
    assert other.exit_code == 0, other.output
    assert (copied / "weights" / f"{NAME}.safetensors").read_bytes() != before
    again = invoke(options_of(run.data, copied))
    assert f"{NAME}.json another training's; written again from the checkpoint" in again.stderr
    assert (copied / "weights" / f"{NAME}.safetensors").read_bytes() == before
    (copied / "others" / f"{STEM}.checkpoint.pt").unlink()
    without = invoke(options_of(run.data, copied, seed="1", run_dir=str(copied / "others")))
    assert isinstance(without.exception, TrainingError)
    assert f"{NAME}.json: another training's; name another --weights-dir" in str(without.exception)
    assert (copied / "weights" / f"{NAME}.safetensors").read_bytes() == before


def test_a_training_that_lost_weights_and_checkpoint_is_trained_again_to_the_same_weights(run: Run, copied: Path):
    path = copied / "weights" / f"{NAME}.safetensors"
    before = path.read_bytes()
    path.unlink()
    (copied / "runs" / f"{STEM}.checkpoint.pt").unlink()
    again = invoke(options_of(run.data, copied))
    assert again.exit_code == 0, again.output
    assert f"{NAME}.json or its weights lost or damaged; trained again" in again.stderr
    assert len(re.findall(rf"{NAME} validation epoch \d+:", again.stderr)) == EPOCHS
    assert path.read_bytes() == before


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpoint", "record alone"])
def test_fewer_epochs_never_replace_a_finished_training(run: Run, copied: Path, checkpoint: bool):
    if not checkpoint:
        (copied / "runs" / f"{STEM}.checkpoint.pt").unlink()
    before = (copied / "weights" / f"{NAME}.safetensors").read_bytes()
    fewer = invoke(options_of(run.data, copied, sizes=f"32:{EPOCHS - 1}"))
    assert isinstance(fewer.exception, TrainingError)
    assert re.search(r"has epochs of .* pixels, asked for are .*--run-dir", str(fewer.exception))
    assert (copied / "weights" / f"{NAME}.safetensors").read_bytes() == before


def test_without_the_test_no_stale_scores_of_it_stay(run: Run, copied: Path):
    (copied / "runs" / f"{STEM}.json").unlink()
    again = invoke([*options_of(run.data, copied), "--no-test"])
    assert again.exit_code == 0, again.output
    assert not (copied / "runs" / f"{STEM}.test.csv").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "Expecting value"),
        ("{}", "format is missing"),
        ("[]", "[]; legal: an object"),
        ('{"format": 99}', "format 99; legal: 1"),
        ("[" * 200_000, "maximum recursion depth"),
    ],
    ids=["empty", "no keys", "a list", "format 99", "deep"],
)
def test_a_file_that_is_no_record_is_refused_by_name(run: Run, copied: Path, content: str, named: str):
    (copied / "runs" / f"{STEM}.json").write_text(content, encoding="utf-8")
    again = invoke(options_of(run.data, copied))
    assert isinstance(again.exception, TrainingError)
    assert f"{STEM}.json: not the record of a training" in str(again.exception)
    assert named in str(again.exception)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("key", None, "key None; legal: a text"),
        ("sha256", 5, "sha256 5; legal: a text"),
        ("history", 5, "history 5; legal: a list of one or more"),
        ("history", [{"size": "32"}], "history[0].size '32'; legal: a whole number, 32 to 1,024"),
        ("metrics", 5, "metrics 5; legal: an object"),
        ("metrics", {"n": 8}, "metrics.positives is missing"),
    ],
)
def test_a_record_that_lacks_what_is_used_of_it_is_refused_with_the_key(
    tmp_path: Path, key: str, value: object, named: str
):
    files = RunFiles(tmp_path, STEM)
    files.record.write_text(json.dumps({**WHOLE_RECORD, key: value}), encoding="utf-8")
    with pytest.raises(
        TrainingError, match=rf"{re.escape(STEM)}\.json: not the record of a training.*{re.escape(named)}"
    ):
        files.read()
    for known in (WHOLE_RECORD, {name: value for name, value in WHOLE_RECORD.items() if name != "sha256"}):
        files.record.write_text(json.dumps(known), encoding="utf-8")
        assert files.read() == known, "records of earlier versions lack the SHA-256"


HELD_OUT = Split(
    ("a", "b"), np.zeros((2, 2, 2), np.uint8), np.array([0, 1], np.uint8), np.array([70, 70]), np.array([0, 1])
)


@pytest.mark.parametrize(
    ("rows", "fits"),
    [
        (["a,0,70,1.5,0", "b,1,70.0,2,1"], True),
        ([], False),
        (["a,0,70,1.5,0"], False),
        (["a,0,70,1.5,0", "b,300,70,2,1"], False),
        (["a,0,70,1.5,0", "b,-1,70,2,1"], False),
        (["a,0,70,1.5,0", "b,0.9,70,2,1"], False),
        (["a,0,70,1.5,0", "b,0,70,2,1"], False),
        (["a,0,70,1.5,0", "b,1,80,2,1"], False),
        (["a,0,70,1.5,0", "b,1,70,2"], False),
    ],
    ids=["whole", "emptied", "cut", "300", "-1", "0.9", "another label", "another group", "cut in a row"],
)
def test_held_out_slices_that_are_not_those_of_the_training_are_damaged(tmp_path: Path, rows: list[str], fits: bool):
    files = RunFiles(tmp_path, STEM)
    files.held_out.write_text("\n".join(["id,label,group,logit,cluster", *rows]), encoding="utf-8")
    assert files.damaged(HELD_OUT, None) == [f"{STEM}.csv"] * (not fits)


def test_scores_of_other_test_slices_are_damaged(tmp_path: Path):
    files, test = RunFiles(tmp_path, STEM), Slices(("c", "d"), np.zeros((2, 2, 2), np.uint8))
    files.held_out.write_text("id,label,group,logit\na,0,70,1\nb,1,70,2\n", encoding="utf-8")
    files.test.write_text("id,logit\nc,1\nd,2\n", encoding="utf-8")
    assert files.damaged(HELD_OUT, test) == []
    files.test.write_text("id,logit\nc,1\n", encoding="utf-8")
    assert files.damaged(HELD_OUT, test) == [f"{STEM}.test.csv"]


def test_what_killed_runs_left_half_written_is_removed(run: Run, copied: Path):
    left = copied / "runs" / f".{STEM}.checkpoint.pt.abc.tmp"
    left.write_bytes(b"half")
    assert invoke(options_of(run.data, copied)).exit_code == 0
    assert not left.exists()


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
        ({"sizes": "32:1,256:1"}, r"sizes 32:1,256:1; legal: up to the input's 224 pixels \(--size\)"),
        ({"batch_size": "1"}, "--batch-size"),
        ({"learning_rate": "0"}, "--learning-rate"),
        ({"learning_rate": "nan"}, "'--learning-rate': nan; legal: a finite number"),
        ({"learning_rate": "inf"}, "'--learning-rate': inf; legal: a finite number"),
        ({"negatives": "nan"}, "'--negatives': nan; legal: a finite number"),
        ({"ema": "nan"}, "'--ema': nan; legal: a finite number"),
        ({"seed": "-1"}, "--seed"),
        ({"limit": "1"}, "--limit"),
        ({"epochs": "0"}, "--epochs"),
        ({"epochs": "1000001"}, "--epochs"),
        ({"batch_size": "9" * 30}, "--batch-size"),
        ({"limit": "9" * 30}, "--limit"),
        ({"folds": "1"}, "--folds"),
        ({"recipe": "secret"}, "--recipe"),
        ({"device": "abacus"}, "'abacus'; legal: auto, cpu"),
        ({"input": "bone"}, "--input"),
        ({"precision": "fp16"}, "--precision"),
        ({"png_window": "40,80"}, "--png-window is for --labels"),
        ({"png_window": "40"}, "legal: centre and width in HU"),
        ({"unknown": "1"}, "--unknown"),
    ],
    ids=lambda value: "=".join(*value.items()) if isinstance(value, dict) else "",
)
def test_bad_options_exit_with_2_and_the_legal_values(data: Path, tmp_path: Path, changed: dict[str, str], named: str):
    result = invoke(options_of(data, tmp_path, **changed))
    assert result.exit_code == 2, result.output
    assert re.search(named, result.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("split", [{"folds": "2"}, {}], ids=["folds", "validation"])
def test_a_start_that_may_know_the_held_out_slices_is_told_of(data: Path, tmp_path: Path, split: dict[str, str]):
    result = invoke(options_of(data, tmp_path, init=str(tmp_path / "none.safetensors"), **split))
    assert result.exit_code == 1
    assert ("if it learned from slices that are held out now" in result.stderr) == bool(split)


def test_steps_can_only_be_captured_on_a_gpu(data: Path, tmp_path: Path):
    result = invoke([*options_of(data, tmp_path), "--capture"])
    assert result.exit_code == 2
    assert "--capture on cpu in 1 processes; legal: on one CUDA GPU" in result.stderr.replace("\n", " ")
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


def test_epochs_that_contradict_the_sizes_are_refused(run: Run, tmp_path: Path):
    result = invoke(options_of(run.data, tmp_path, sizes="32:2", epochs="3"))
    assert result.exit_code == 2
    assert "do not add up to 3 epochs" in result.output


def test_a_start_that_does_not_fit_the_last_network_is_told_before_the_first_is_trained(run: Run, tmp_path: Path):
    start = str(run.weights / f"{NAME}.safetensors")
    result = invoke(options_of(run.data, tmp_path, init=start, experiments="densenet-base,resnet-base"))
    assert isinstance(result.exception, StartError)
    assert "densenet-base validation:" not in result.stderr


def test_more_processes_than_half_a_batch_are_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    joined = contextlib.nullcontext((Processes(0, 3), torch.device("cpu")))
    monkeypatch.setattr(command, "join_processes", lambda _: joined)
    result = invoke(options_of(run.data, tmp_path, batch_size="4"))
    assert result.exit_code == 2
    assert "--batch-size 4 of 3 processes; legal: 2 for each" in result.output


def test_a_model_that_is_never_trained_at_its_own_pixels_is_told_of(run: Run):
    assert "--sizes ends at 32 pixels; the model's input has 224 (--size)" in run.result.stderr


def test_the_environment_names_the_data(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEMOSCAN_DATA", str(data))
    arguments = options_of(data, tmp_path, init="missing.pth")
    del arguments[arguments.index("--data") : arguments.index("--data") + 2]
    result = invoke(arguments)
    assert "training: 12 slices, 3 positive" in result.stderr
    assert "missing.pth: cannot be read" in str(result.exception)


@pytest.mark.parametrize(
    ("changed", "ships"),
    [
        ({}, True),
        ({"input": "head"}, True),
        ({"recipe": "strong"}, True),
        ({"input": "raw"}, False),
        ({"input": "raw", "recipe": "strong"}, False),
        ({"folds": "2"}, False),
        ({"limit": "8"}, False),
        ({"sizes": "224:1"}, False),
        ({"sizes": "112:1,224:7"}, True),
        ({"epochs": "6"}, False),
        ({"epochs": "8"}, True),
        ({"size": "128"}, False),
        ({"negatives": "0.5"}, False),
        ({"negatives": "0.5", "epochs": "14"}, True),
    ],
    ids=lambda value: "=".join(*value.items()) if isinstance(value, dict) and len(value) == 1 else "",
)
def test_only_whole_trainings_on_0_to_70_hu_write_where_the_weights_that_ship_are(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], ships: bool
):
    monkeypatch.chdir(tmp_path)
    arguments = options_of(data, tmp_path, init="missing.pth", **changed)
    for option in ("--weights-dir", "--sizes") if "sizes" not in changed else ("--weights-dir",):
        del arguments[arguments.index(option) : arguments.index(option) + 2]
    result = invoke(arguments)
    assert "missing.pth: cannot be read" in str(result.exception)
    assert (tmp_path / "weights").is_dir() == ships
    assert (tmp_path / "runs" / "weights").is_dir() != ships


@pytest.fixture(scope="module")
def folds(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    out = tmp_path_factory.mktemp("folds")
    arguments = options_of(data, out, folds="2", sizes="32:1", batch_size="10")
    del arguments[arguments.index("--weights-dir") : arguments.index("--weights-dir") + 2]
    result = invoke(arguments)
    yield Run(data, out / "runs", out / "runs" / "weights", result)
    shutil.rmtree(out)


def test_folds_hold_out_every_labelled_slice_once(folds: Run):
    assert folds.result.exit_code == 0, folds.result.output
    assert "labelled: 20 slices, 7 positive, in 2 folds" in folds.result.stderr
    rows = [rows_of(folds.runs / f"{NAME}.fold{k}of2.csv") for k in (1, 2)]
    assert all(rows)
    assert sorted(row["id"] for part in rows for row in part) == [row.id for row in [*TRAINING, *VALIDATION]]
    labels = {row.id: row.label for row in [*TRAINING, *VALIDATION]}
    assert all(int(row["label"]) == labels[row["id"]] for part in rows for row in part)
    for k, part in enumerate(rows, 1):
        record = record_of(folds.runs, f"{NAME}.fold{k}of2")
        assert (record["split"], record["n"]) == (f"fold{k}of2", len(part))
        assert record["trained_on"]["slices"] == 20 - len(part)
        assert len(rows_of(folds.runs / f"{NAME}.fold{k}of2.test.csv")) == len(TEST)


def test_the_figures_of_all_folds_together_are_printed(folds: Run):
    rows = [row for k in (1, 2) for row in rows_of(folds.runs / f"{NAME}.fold{k}of2.csv")]
    columns = (np.array([float(row[name]) for row in rows]) for name in ("logit", "label", "group"))
    logits, labels, groups = columns
    expected = measure(logits.astype(np.float32), labels.astype(np.uint8), groups.astype(np.int64))
    printed = folds.result.stdout.partition(f"{NAME} on 20 out-of-fold slices, 7 positive\n")[2]
    assert f"AUC {expected['auc']:.4f}   AP {expected['average_precision']:.4f}" in printed


def test_folds_leave_the_weights_that_ship_alone(folds: Run):
    names = sorted(path.name for path in folds.weights.iterdir())
    assert names == [f"{NAME}.fold{k}of2.{suffix}" for k in (1, 2) for suffix in ("json", "safetensors")]
    for k in (1, 2):
        model = find_model(str(folds.weights / f"{NAME}.fold{k}of2.json"))
        assert model.card.metrics["split"] == f"fold{k}of2"
        load_classifier(model)


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices of 24 patients, two of which cannot be used, beside their labels."""
    home = tmp_path_factory.mktemp("own")
    (home / "images").mkdir()
    rows = make_rows([1, 0, 0] * 8, 1)
    for row in rows:
        picture(row, "L").save(home / "images" / f"{row.id}.png")
    (home / "images" / f"{rows[1].id}.png").write_bytes(b"\x89PNG\r\n\x1a\n but damaged")
    (home / "images" / f"{rows[2].id}.png").unlink()
    text = "".join(f"images/{row.id}.png,{row.label},SOMEBODY{row.id}\n" for row in rows)
    (home / "labels.csv").write_text(f"path,label,patient\n{text}", encoding="utf-8")
    return home


def test_data_of_ones_own_train_and_what_is_left_out_is_listed(own_data: Path, tmp_path: Path):
    arguments = options_of(own_data, tmp_path, labels=str(own_data / "labels.csv"), sizes="32:1", batch_size="16")
    del arguments[arguments.index("--weights-dir") : arguments.index("--weights-dir") + 2]
    result = invoke(arguments)
    assert result.exit_code == 0, result.output
    assert "left out: 1 error, 2 not found; listed in" in result.stderr
    assert "held out by patient: 22 patients, by the label file" in result.stderr
    listed = rows_of(tmp_path / "runs" / "left-out.csv")
    assert [(Path(row["name"]).stem, row["status"]) for row in listed] == [
        ("000002", "error"),
        ("000002", "not found"),
        ("000003", "not found"),
    ]
    record = record_of(tmp_path / "runs")
    assert record["n"] + record["trained_on"]["slices"] == 22
    assert record["data"] == "a label file of its own"
    card = find_model(str(tmp_path / "runs" / "weights" / f"{NAME}.json")).card
    assert "RSNA" not in card.notice
    assert str(own_data) not in card.to_json() + json.dumps(record)
    clusters = [int(row["cluster"]) for row in rows_of(tmp_path / "runs" / f"{STEM}.csv")]
    assert len(clusters) == record["n"]
    for path in [*(tmp_path / "runs").glob("*.csv"), *(tmp_path / "runs").glob("*.json")]:
        assert "SOMEBODY" not in path.read_text(encoding="utf-8"), "who a patient is goes nowhere"
    shutil.rmtree(tmp_path)


def test_labels_never_lie_where_what_is_left_out_is_listed(own_data: Path, tmp_path: Path):
    labels = tmp_path / "runs" / "left-out.csv"
    labels.parent.mkdir()
    labels.write_bytes((own_data / "labels.csv").read_bytes())
    result = invoke(options_of(own_data, tmp_path, labels=str(labels)))
    assert result.exit_code == 2, result.output
    assert "left-out.csv: is read, too" in " ".join(result.stderr.split())
    assert labels.read_bytes() == (own_data / "labels.csv").read_bytes()


def test_what_is_left_out_is_no_formula_to_a_spreadsheet(tmp_path: Path):
    split = Split((), np.zeros((0, 2, 2), np.uint8), np.zeros(0, np.uint8), np.zeros(0, int), np.zeros(0, int))
    left_out = (LeftOut("=1+1", "error", "-x"), LeftOut("caf\udce9.png", "error", "damaged"))
    command._note_left_out(DataSet(split, None, None, "", "", left_out), tmp_path)
    assert (tmp_path / "left-out.csv").read_bytes().splitlines() == [
        b"name,status,reason",
        b"'=1+1,error,'-x",
        b"caf\\udce9.png,error,damaged",
    ]


def test_groups_can_only_be_reweighed_where_the_labels_have_them(own_data: Path, tmp_path: Path):
    arguments = options_of(own_data, tmp_path, labels=str(own_data / "labels.csv"))
    result = invoke([*arguments, "--reweigh-groups"])
    assert result.exit_code == 2
    assert re.search(r"--reweigh-groups: .*labels\.csv has no column group", result.stderr.replace("\n", " "))


def test_help_names_every_option():
    result = invoke(["train", "--help"])
    assert result.exit_code == 0
    for option in (
        "--data",
        "--experiments",
        "--init",
        "--reweigh-groups",
        "--sizes",
        "--labels",
        "--folds",
        "--test",
        "--run-dir",
        "--weights-dir",
    ):
        assert option in result.stdout
