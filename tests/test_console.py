"""Colours, progress, and the shell's completion."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hemoscan.card import MODEL_NAMES
from hemoscan.cli import _summary
from hemoscan.console import paint, show_progress
from hemoscan.scan import Report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report_of(known: int = 0, errors: int = 0) -> Any:
    return SimpleNamespace(known=known, flagged=1, counts={"error": errors})


def show(folder: Path, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, quiet: bool = False, rows: int) -> str:
    """Return what is shown of a scan of a folder after some rows, once its files were counted."""
    monkeypatch.setattr(sys, "stderr", stream)
    with show_progress(quiet, [folder]) as progress:
        for _ in range(rows):
            time.sleep(0.15)  # tqdm draws ten times a second at most, and the files are counted meanwhile
            progress(report_of(known=1))
    return stream.getvalue()


@pytest.fixture
def ten_files(tmp_path: Path) -> Path:
    for number in range(10):
        (tmp_path / f"{number}.dcm").write_bytes(b"x" * 200)
    return tmp_path


def test_the_progress_has_count_rate_and_time_left(ten_files: Path, monkeypatch: pytest.MonkeyPatch):
    text = show(ten_files, monkeypatch, Terminal(), rows=3).split("\r")[-1]
    assert " 3/9 [" in text, "one of the ten files is known from an earlier run"
    assert "<00:0" in text
    assert "slices/s" in text or "s/ slices" in text
    assert "flagged=1" in text


def test_the_progress_fits_80_columns(ten_files: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, show(ten_files, monkeypatch, Terminal(), rows=3).replace("\n", "\r").split("\r"))) <= 80


@pytest.mark.parametrize(("stream", "quiet"), [(io.StringIO(), False), (Terminal(), True)])
def test_no_progress_under_cron_and_when_quiet(
    ten_files: Path, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, quiet: bool
):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # whose import would be a part of every start
    assert show(ten_files, monkeypatch, stream, quiet=quiet, rows=1) == ""


def test_a_path_that_cannot_be_counted_is_left_to_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = show(tmp_path / "absent", monkeypatch, Terminal(), rows=2)
    assert "Traceback" not in text


def test_the_summary_fits_80_columns():
    million = 12_345_678
    report = Report(
        counts={"ok": million, "skipped": million, "error": million},
        flagged=million,
        files=million,
        known=million,
        scored=million,
        seconds=1234567.8,
    )
    results: Any = SimpleNamespace(
        studies=range(million),
        page=None,
        slices_path="flags.csv",
        studies_path="flags.studies.csv",
        record_path="flags.run.json",
    )
    lines = _summary(report, results).splitlines()
    assert len(lines) == 7
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "\x1b[31mred\x1b[0m"), ("", "\x1b[31mred\x1b[0m"), ("1", "red")]
)
def test_no_color_is_kept(monkeypatch: pytest.MonkeyPatch, value: str | None, expected: str):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    assert paint("red", fg="red") == expected


# Completion, as the shells ask for it


def complete(shell: str, words: str, current: int, cwd: Path) -> list[str]:
    environment = {**os.environ, "_HEMOSCAN_COMPLETE": f"{shell}_complete", "COMP_WORDS": words}
    environment["COMP_CWORD"] = (
        words.rsplit(maxsplit=1)[-1] if shell == "fish" and not words.endswith(" ") else str(current)
    )
    if shell == "fish" and words.endswith(" "):
        environment["COMP_CWORD"] = ""
    code = "import sys; sys.argv[0] = 'hemoscan'; from hemoscan.cli import main; main()"
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=60
    )
    assert run.stderr == ""
    return run.stdout.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_the_names_of_models(shell: str, tmp_path: Path):
    found = "\n".join(complete(shell, "hemoscan scan --model res", 3, tmp_path))
    assert all((name in found) == name.startswith("resnet") for name in MODEL_NAMES)


@pytest.mark.parametrize("words", ["hemoscan models ", "hemoscan export ", "hemoscan doctor -m "])
def test_models_are_completed_wherever_they_stand(words: str, tmp_path: Path):
    found = complete("bash", words, len(words.split()), tmp_path)
    assert [line.removeprefix("plain,") for line in found] == list(MODEL_NAMES)


def test_a_card_is_completed_as_a_file(tmp_path: Path):
    assert complete("bash", "hemoscan scan -m ./own", 3, tmp_path) == ["file,./own"]


def test_commands_are_completed(tmp_path: Path):
    assert complete("bash", "hemoscan do", 1, tmp_path) == ["plain,doctor"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_line_gives_the_shell_its_script(shell: str, tmp_path: Path):
    environment = {**os.environ, "_HEMOSCAN_COMPLETE": f"{shell}_source"}
    code = "import sys; sys.argv[0] = 'hemoscan'; from hemoscan.cli import main; main()"
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert f"{shell}_complete" in run.stdout
    assert "hemoscan" in run.stdout
