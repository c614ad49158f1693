"""The command line: exit codes, what goes to stdout and stderr, options, and what `--help` loads."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from hemoscan import NOTICE, __version__, card
from hemoscan.card import MODEL_NAMES, Model
from hemoscan.cli import cli
from hemoscan.errors import HemoscanError
from hemoscan.lock import locked
from hemoscan.phantom import make_phantom, write_dicom, write_png

# `main` with a network that scores by the mean and acts at its third batch: a real scan, without importing torch.
DRIVER = """
import os, signal, sys, time

class Engine:
    calls = 0
    def __init__(self, *args): pass
    def describe(self): return {"name": "fake", "device": "cpu", "precision": "fp32"}
    def logits(self, images):
        self.calls += 1
        if self.calls == 3:
            act()
        return images.mean(axis=(1, 2)) / 255 - 1

def act():
    if action == "raise":
        raise RuntimeError("boom\\nand more")
    if action != "none":
        os.kill(os.getpid(), int(action))
        time.sleep(0.5)  # a batch takes longer than the main thread takes to hear of the signal

signal.signal(signal.SIGINT, signal.default_int_handler)
from hemoscan import engines

class Choice(engines.EngineChoice):
    batch_size = 2
    def load(self, model, say=None): return Engine()

engines.choose_engine = lambda *options: Choice("fake", "cpu", "fp32")

from hemoscan.cli import main
action, sys.argv = sys.argv[1], ["hemoscan", *sys.argv[2:]]
main()
"""


def python(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd)  # noqa: S603


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight DICOM slices."""
    folder = tmp_path_factory.mktemp("study")
    write_dicom(make_phantom("epidural", size=64, slices=8), folder)
    return folder


@pytest.fixture(scope="module")
def two_slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for path in write_png(make_phantom("epidural", size=64, slices=8), folder)[2:]:
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def card_path(untrained: Model) -> Path:
    return untrained.folder / "untrained.json"


# main, in a process of its own


def drive(action: str | int, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return python("-c", DRIVER, str(action), *arguments, cwd=cwd)


def make_input(kind: str, study: Path, folder: Path) -> Path:
    folder.mkdir()
    if kind != "text":
        shutil.copy(study / "phantom-004.dcm", folder)
    if kind == "truncated":
        content = (study / "phantom-005.dcm").read_bytes()
        (folder / "truncated.dcm").write_bytes(content[: len(content) // 2])
    (folder / "notes.txt").write_text("a note", encoding="utf-8")
    return folder


@pytest.mark.parametrize(("kind", "code"), [("slice", 0), ("text", 3), ("truncated", 4)])
def test_exit_code_and_streams_of_a_scan(study: Path, card_path: Path, tmp_path: Path, kind: str, code: int):
    folder = make_input(kind, study, tmp_path / "in")
    run = drive("none", "scan", folder, "-m", card_path, "-o", "out.csv", cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert run.stdout == ""
    assert run.stderr.startswith(f"{NOTICE}\n")
    assert "\r" not in run.stderr, "no progress bar where stderr is no terminal"
    assert "PHANTOM" not in run.stderr
    assert len(rows_of(tmp_path / "out.csv")) == len(list(folder.iterdir()))
    quiet = drive("none", "scan", folder, "-m", card_path, "-o", "quiet.csv", "-q", cwd=tmp_path)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (code, "", f"{NOTICE}\n")
    assert (tmp_path / "quiet.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()


def test_the_summary_counts_and_names_the_files(study: Path, card_path: Path, tmp_path: Path):
    folder = make_input("truncated", study, tmp_path / "in")
    run = drive("none", "scan", folder, "-m", card_path, "-o", "out.csv", "--threshold", "0", cwd=tmp_path)
    assert "1 slices scored, 1 flagged, in 1 studies" in run.stderr
    assert "1 skipped, 1 unreadable, of 3 files" in run.stderr
    assert all(name in run.stderr for name in ("out.csv", "out.studies.csv", "out.run.json"))


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_scan_and_keeps_what_was_done(
    study: Path, card_path: Path, tmp_path: Path, number: signal.Signals, code: int
):
    run = drive(number.value, "scan", study, "-m", card_path, "-o", "out.csv", "-b", "2", cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert run.stdout == ""
    assert "finishing the batch" in run.stderr
    assert "what was saved is kept" in run.stderr
    assert "Traceback" not in run.stderr
    assert [row["status"] for row in rows_of(tmp_path / "out.csv")] == ["ok"] * 6, (
        "the third batch, of two, is finished"
    )
    record = json.loads((tmp_path / "out.run.json").read_text(encoding="utf-8"))
    assert record["state"] == "interrupted"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.run.json", "out.studies.csv"]


def test_an_unexpected_error_is_one_line(study: Path, card_path: Path, tmp_path: Path):
    run = drive("raise", "scan", study, "-m", card_path, "-o", "out.csv", "-q", cwd=tmp_path)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()[1:]
    assert line.startswith("hemoscan: unexpected RuntimeError in ")
    assert line.endswith(" (please report it; HEMOSCAN_DEBUG=1 shows more)")
    assert "boom" not in line, "the text of an error may quote a header"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-m", "absent.json"), "absent.json: card cannot be read"),
        (("-o", "file/out.csv"), "file/out.csv: cannot be written"),
    ],
)
def test_an_error_is_one_line_that_names_the_file(
    study: Path, card_path: Path, tmp_path: Path, arguments: tuple[str, ...], expected: str
):
    (tmp_path / "file").touch()
    run = drive("none", "scan", study, "-m", card_path, *arguments, cwd=tmp_path)
    assert run.returncode == 1
    assert run.stdout == ""
    notice, line = run.stderr.splitlines()
    assert notice == NOTICE
    assert line.startswith(f"hemoscan: {expected}")


@pytest.mark.parametrize("arguments", [(), ("scan",), ("scan", "x", "--surprise"), ("surprise",)])
def test_a_wrong_call_exits_with_2_and_says_how(tmp_path: Path, arguments: tuple[str, ...]):
    run = python("-m", "hemoscan", *arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert "Usage: " in run.stderr
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_on_a_state_exits_with_75_before_anything_else(study: Path, card_path: Path, tmp_path: Path):
    with locked(tmp_path / "state"):
        run = drive("none", "scan", study, "-m", card_path, "-o", "out.csv", "--state", "state", cwd=tmp_path)
    assert run.returncode == 75
    (line,) = run.stderr.splitlines()[1:]
    assert line.startswith("hemoscan: state state: another run holds its lock: process ")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("output", ["out.csv", "new/out.csv"])
def test_a_second_scan_says_what_was_known(study: Path, card_path: Path, tmp_path: Path, output: str):
    arguments = ("scan", study, "-m", card_path, "-o", output)
    assert "known" not in drive("none", *arguments, cwd=tmp_path).stderr
    content = (tmp_path / output).read_bytes()
    run = drive("none", *arguments, "-v", "--log-file", "scan.log", "--log-format", "json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "8 files known from earlier runs, 0 slices scored now" in run.stderr
    assert (tmp_path / output).read_bytes() == content
    messages = [json.loads(line)["message"] for line in (tmp_path / "scan.log").read_text().splitlines()]
    assert any("densenet-bias on cpu" in message for message in messages)
    assert all(run.stderr.count(message) <= 1 for message in messages), "nothing is shown twice"


def test_the_whole_program(two_slices: Path, card_path: Path, untrained: Model, tmp_path: Path):
    run = python(
        *("-m", "hemoscan", "scan", two_slices, "-m", card_path, "-d", "cpu", "--precision", "fp32"),
        *("--engine", "torch"),
        *("-b", "2", "-j", "2", "--threshold", "0.25", "-o", "new/out.csv"),
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert run.stderr.splitlines()[1] == "densenet-bias on cpu in fp32 (torch), flags from 0.2500"
    rows = rows_of(tmp_path / "new" / "out.csv")
    assert [row["path"] for row in rows] == sorted(str(path) for path in two_slices.iterdir())
    assert all(row["flag"] == str(int(float(row["probability"]) >= 0.25)) for row in rows)
    record = json.loads((tmp_path / "new" / "out.run.json").read_text(encoding="utf-8"))
    assert record["sha256"] == untrained.card.sha256
    assert record["threshold"] == 0.25
    assert record["arguments"]["paths"] == [str(two_slices)]
    assert record["arguments"]["batch_size"] == 2


def test_help_loads_neither_torch_nor_pydicom(tmp_path: Path):
    code = """
import sys
from hemoscan.cli import cli
for command in ((), *((name,) for name in cli.list_commands(None))):
    cli.main([*command, "--help"], standalone_mode=False)
print("loaded:", sorted({"torch", "torchvision", "pydicom", "numpy", "PIL", "sklearn"} & set(sys.modules)))
"""
    run = python("-c", code, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "loaded: []"


# Commands, in this process


def test_every_command_has_help():
    names = cli.list_commands(click.Context(cli))
    assert {"evaluate", "scan", "models", "phantom", "train"} <= set(names)
    overview = invoke("--help").stdout
    for name in names:
        result = invoke(name, "--help")
        assert result.exit_code == 0
        assert f"Usage: cli {name}" in result.stdout
        assert f"\n  {name} " in overview


def test_help_has_a_short_name():
    """In a process of its own: click keeps the help option of whoever asked a command first."""
    found = [
        subprocess.run([sys.executable, "-m", "hemoscan", "scan", flag], capture_output=True, check=True)  # noqa: S603
        for flag in ("-h", "--help")
    ]
    assert found[0].stdout == found[1].stdout
    assert b"--output" in found[0].stdout


def test_every_option_has_help():
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        options = [option for option in command.params if isinstance(option, click.Option)]
        unexplained = [option.name for option in options if not (option.help or isinstance(option.type, click.Choice))]
        plain = {"epochs", "batch_size", "seed", "slices"}
        assert set(unexplained) <= plain, name


def test_the_version():
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"hemoscan, version {__version__}\n")


BAD_OPTIONS: list[tuple[tuple[str, ...], str]] = [
    (("--settle", "-1"), "legal: seconds, 0 or more"),
    (("--settle", "nan"), "legal: seconds, 0 or more"),
    (("--time-budget", "inf"), "legal: seconds, 0 or more"),
    (("--order", "size"), "'name', 'newest'"),
    (("--log-format", "xml"), "'text', 'json'"),
    (("--config", "absent.toml"), "cannot be read"),
    (("--precision", "fp8"), "'auto', 'fp32', 'bf16'"),
    (("-b", "0"), "1<=x<=4096"),
    (("-b", "4097"), "1<=x<=4096"),
    (("-b", "many"), "'many'"),
    (("-j", "257"), "0<=x<=256"),
    (("--limit", "0"), "x>=1"),
    (("--threshold", "1.01"), "0<=x<=1"),
    (("--threshold", "-0.01"), "0<=x<=1"),
    (("--threshold", "nan"), "0<=x<=1"),
    (("--window", "40"), "legal: centre and width in HU, such as 40,80"),
    (("--window", "40,80,1"), "legal: centre and width in HU, such as 40,80"),
    (("--window", "a,b"), "legal: centre and width in HU, such as 40,80"),
    (("--window", "40,0"), "legal: "),
    (("--window", "nan,80"), "legal: "),
    (("--window", "40,400"), "0 to 255"),
    (("--png-window", "40"), "legal: centre and width in HU, such as 40,80"),
    (("--png-window", "40,-80"), "width above 0 to 65536"),
    (("--png-window", "40,inf"), "width above 0 to 65536"),
    (("-m", "nonsense"), ", ".join(MODEL_NAMES)),
    (("--engine", "onnx"), "'auto', 'torch', 'openvino'"),
    (("--engine", "openvino", "-d", "cuda"), "legal: auto, cpu"),
    (("--precision", "int8"), "'auto', 'fp32', 'bf16'"),
    (("--threads", "0"), "1<=x<=1024"),
    (("-d", "toaster"), "auto, cpu, cuda, cuda:N, mps"),
    (("-o", "."), "directory"),
]


@pytest.mark.parametrize(("options", "legal"), BAD_OPTIONS, ids=[" ".join(options) for options, _ in BAD_OPTIONS])
def test_a_bad_option_is_a_usage_error_that_names_the_legal_values(
    two_slices: Path, card_path: Path, tmp_path: Path, options: tuple[str, ...], legal: str
):
    result = invoke("scan", two_slices, "-m", card_path, "-o", tmp_path / "out.csv", *options)
    assert legal in result.stderr + str(result.exception)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_scan_with_every_option(two_slices: Path, card_path: Path, tmp_path: Path):
    options = (
        "-d cpu --engine openvino --threads 1 --precision fp32 -b 1 -j 1 "
        "--threshold 1 --window 40,80 --png-window 40,80 --limit 1 -q"
    )
    result = invoke(
        "scan", two_slices, "-m", card_path, "-o", tmp_path / "out.csv", "--no-repair-12bit", *options.split()
    )
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"{NOTICE}\n")
    (row,) = rows_of(tmp_path / "out.csv")
    assert (row["status"], row["flag"]) == ("ok", "0")
    arguments = json.loads((tmp_path / "out.run.json").read_text(encoding="utf-8"))["arguments"]
    assert arguments["window"] == [40, 80]
    assert arguments["png_window"] == [40, 80]
    assert arguments["repair_12bit"] is False
    assert arguments["limit"] == 1


def test_a_model_without_weights_says_how_to_come_by_them(
    two_slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(card, "builtin_folder", lambda: tmp_path)
    result = invoke("scan", two_slices, "-m", "resnet-base", "-o", tmp_path / "out.csv")
    assert result.exit_code == 1
    assert isinstance(result.exception, HemoscanError)
    assert "hemoscan train --experiments resnet-base" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def installed(untrained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed weights that holds densenet-bias only."""
    shutil.copy(untrained.weights_path, tmp_path)
    shutil.copy(untrained.folder / "untrained.json", tmp_path / "densenet-bias.json")
    monkeypatch.setattr(card, "builtin_folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(("options", "state"), [((), "yes"), (("--verify",), "verified")])
@pytest.mark.usefixtures("installed")
def test_the_list_of_models(options: tuple[str, ...], state: str):
    result = invoke("models", *options)
    assert result.exit_code == 0
    header, *lines = result.stdout.splitlines()[: 1 + len(MODEL_NAMES)]
    assert header.split()[:2] == ["MODEL", "WEIGHTS"]
    assert [line.split()[0] for line in lines] == list(MODEL_NAMES)
    states = {line.split()[0]: line.split()[1] for line in lines}
    assert states == {name: state if name == "densenet-bias" else "-" for name in MODEL_NAMES}


@pytest.mark.usefixtures("installed")
def test_the_card_of_a_model(untrained: Model):
    result = invoke("models", "densenet-bias")
    assert (result.exit_code, result.stdout) == (0, untrained.card.to_json())
    verified = invoke("models", "densenet-bias", "--verify")
    assert verified.stdout == result.stdout
    assert "untrained.safetensors: verified" in verified.stderr


@pytest.mark.parametrize("names", [(), ("densenet-bias",)])
def test_verify_fails_on_changed_weights(installed: Path, names: tuple[str, ...]):
    (installed / "untrained.safetensors").write_bytes(b"changed")
    result = invoke("models", *names, "--verify")
    assert result.exit_code == 1
    assert isinstance(result.exception, HemoscanError)
    assert "SHA-256" in str(result.exception)
    assert invoke("models", *names).exit_code == 0


def test_the_card_of_a_model_by_its_path(card_path: Path, untrained: Model):
    assert invoke("models", card_path).stdout == untrained.card.to_json()


def test_a_phantom(tmp_path: Path):
    result = invoke("phantom", tmp_path / "new", "--bleed", "epidural", "--slices", "8", "--seed", "1")
    assert (result.exit_code, result.stdout) == (0, "")
    for kind, ending in (("dicom", "dcm"), ("png", "png")):
        names = sorted(path.name for path in (tmp_path / "new" / kind).iterdir())
        assert names == [f"phantom-{number:03d}.{ending}" for number in range(1, 9)]
    with (tmp_path / "new" / "labels.csv").open(encoding="utf-8", newline="") as file:
        labels = list(csv.DictReader(file))
    assert [label["id"] for label in labels] == [f"phantom-{number:03d}" for number in range(1, 9)]
    bleeding = sum(int(label["class"]) for label in labels)
    assert 0 < bleeding < 8
    assert f"8 slices in {tmp_path / 'new'}, {bleeding} with blood (epidural)" in result.stderr


@pytest.mark.parametrize(
    ("options", "legal"),
    [
        (("--slices", "7"), "8<=x<=240"),
        (("--bleed", "nose"), "'epidural'"),
        (("--seed", "-1"), "0<=x<=4294967295"),
    ],
)
def test_a_bad_option_of_phantom(tmp_path: Path, options: tuple[str, ...], legal: str):
    result = invoke("phantom", tmp_path / "new", *options)
    assert result.exit_code == 2
    assert legal in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_phantom_that_cannot_be_written_is_told_in_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    run = python("-m", "hemoscan", "phantom", tmp_path / "file" / "deeper", "--slices", "8")
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()[1:]
    assert str(tmp_path / "file") in line
    assert "please report" not in line


def test_the_bleeds_of_the_option_are_those_of_the_phantom():
    from hemoscan.phantom import BLEEDS

    command: Any = cli.get_command(click.Context(cli), "phantom")
    (choices,) = (option.type.choices for option in command.params if option.name == "bleed")
    assert tuple(choices) == BLEEDS
