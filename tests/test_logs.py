"""The log: own logger only, private, one line a record, and never the end of a scan."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from hemoscan.errors import HemoscanError, OutputError
from hemoscan.logs import logging_to

log = logging.getLogger("hemoscan.test")


def write_all() -> None:
    for level in ("debug", "info", "warning", "error"):
        getattr(log, level)("%s it is", level)


@pytest.mark.parametrize(
    ("verbosity", "stderr", "file"),
    [(-1, 1, 3), (0, 2, 3), (1, 3, 3), (2, 4, 4)],
)
def test_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str], verbosity: int, stderr: int, file: int):
    with logging_to(tmp_path / "log", "text", verbosity):
        write_all()
    assert len(capsys.readouterr().err.splitlines()) == stderr
    assert len((tmp_path / "log").read_text().splitlines()) == file


def test_the_root_logger_is_left_alone(tmp_path: Path):
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("hemoscan").level)
    with logging_to(tmp_path / "log", "text", 2):
        assert (list(root.handlers), root.level) == before[:2]
        logging.getLogger("pydicom").warning("not ours")
    assert (list(root.handlers), root.level, logging.getLogger("hemoscan").level) == before
    assert logging.getLogger("hemoscan").handlers == []
    assert (tmp_path / "log").read_text() == ""


def test_a_text_line_is_one_line_whatever_it_quotes(tmp_path: Path):
    with logging_to(tmp_path / "log", "text", 0):
        log.info("file %s", "a\nb\x1b[31m\u2028\udce9é")
    (line,) = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert line.endswith(" INFO file a\\nb\\x1b[31m\\u2028\\udce9é")


def test_json_lines_hold_what_was_said(tmp_path: Path):
    with logging_to(tmp_path / "log", "json", 0):
        log.warning("file %s", 'a\nb"\udce9')
    (line,) = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("+00:00")
    assert record == {"level": "warning", "logger": "hemoscan.test", "message": 'file a\nb"\udce9'}


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_the_log_is_private_and_appended_to(tmp_path: Path):
    path = tmp_path / "new" / "log"
    for _ in range(2):
        with logging_to(path, "text", -1):
            log.error("once")
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.skipif(os.name != "posix", reason="logrotate")
def test_a_log_that_was_moved_is_begun_anew(tmp_path: Path):
    with logging_to(tmp_path / "log", "text", -1):
        log.error("first")
        (tmp_path / "log").rename(tmp_path / "log.1")
        log.error("second")
    assert "first" in (tmp_path / "log.1").read_text()
    assert "second" in (tmp_path / "log").read_text()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
def test_a_full_disk_ends_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fchmod", lambda *_: None)  # not of the device
    with logging_to(Path("/dev/full"), "text", -1):
        log.info("lost")
    assert capsys.readouterr().err == ""


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), logging_to(tmp_path / "file" / "log", "text", 0):
        pass


def test_what_ends_a_run_is_logged_but_its_text_only_if_it_is_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for error in (HemoscanError("ours"), ValueError("a patient's name")):
        with pytest.raises(type(error)), logging_to(tmp_path / "log", "text", 2):
            raise error
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first.endswith("ERROR ours")
    assert second.endswith("ERROR unexpected ValueError")
    assert capsys.readouterr().err == "", "the command line shows it"
