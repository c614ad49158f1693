"""Hostile and damaged files, by the hundred, through a whole scan: one row each, no traceback, no hang, no growth."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutations import make_bases, write_mutant
from survey import scan_rows, survey_mutants, survey_shipped

from hemoscan.sources import Entry, find_entries

# Growth that a leak of one kilobyte a file would pass many times over at 20,000 files.
GROWTH_BYTES = 64 * 2**20


def test_the_mutants_of_a_number_are_always_the_same(tmp_path: Path):
    first, second = (write_mutant(make_bases(), 7, tmp_path / name).read_bytes() for name in "ab")
    assert first == second


def test_mutants_are_scanned_to_the_end(capfd: pytest.CaptureFixture[str]):
    found = survey_mutants(200)
    assert (found.files, found.without_row, found.lost) == (200, [], [])
    assert min(found.rows[status] for status in ("ok", "skipped", "error")) > 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_20_000_mutants_are_scanned_to_the_end(capfd: pytest.CaptureFixture[str]):
    found = survey_mutants(20_000)
    assert (found.files, found.without_row) == (20_000, [])
    assert capfd.readouterr() == ("", "")
    assert max(found.memory[4:], default=0) < min(found.memory[:4], default=0) + GROWTH_BYTES


def test_every_file_that_pydicom_ships_has_a_row(capfd: pytest.CaptureFixture[str]):
    found = survey_shipped()
    assert found.files > 100
    assert (found.without_row, found.lost) == ([], [])
    assert min(found.rows[status] for status in ("ok", "skipped", "error")) > 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX has these")
def test_places_that_are_no_files_have_a_row_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    root = tmp_path / "in"
    root.mkdir()
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(root)
        listener.bind("socket")
        (root / "loop").symlink_to(root / "loop")
        (root / "up").symlink_to(root, target_is_directory=True)
        (root / "gone").symlink_to(root / "absent")
        (root / "device").symlink_to("/dev/zero")
        (root / "new\nline").write_text("text", encoding="utf-8")
        (root / os.fsdecode(b"caf\xe9")).write_text("text", encoding="utf-8")
        rows = scan_rows([root], tmp_path / "out.csv")
    statuses = {Path(row["path"]).name: row["status"] for row in rows}
    assert statuses == {
        "caf\\udce9": "skipped",
        "device": "skipped",
        "fifo": "skipped",
        "gone": "error",
        "loop": "error",
        "new\nline": "skipped",
        "socket": "skipped",
        "up": "skipped",
    }
    assert capfd.readouterr() == ("", "")


def test_a_file_that_vanishes_meanwhile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "in"
    root.mkdir()
    for number in range(3):
        write_mutant({"slice.dcm": make_bases()["bare.dcm"]}, number, root)
    entries = find_entries([root])

    def vanish(paths: list[Path]) -> Iterator[Entry]:
        for entry in entries:
            Path(entry.path).unlink()
            yield entry

    monkeypatch.setattr("hemoscan.scan.find_entries", vanish)
    rows = scan_rows([root], tmp_path / "out.csv")
    assert [row["status"] for row in rows] == ["error"] * 3
    assert all("No such file" in row["reason"] for row in rows)


def test_a_folder_that_vanishes_meanwhile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "in"
    for name in ("a", "b"):
        write_mutant(make_bases(), 1, root / name)
    listdir = os.listdir

    def vanish(path: str) -> list[str]:
        names = listdir(path)
        if path == str(root):
            shutil.rmtree(root / "b")
        return names

    monkeypatch.setattr(os, "listdir", vanish)
    rows = scan_rows([root], tmp_path / "out.csv")
    assert (rows[-1]["path"], rows[-1]["status"]) == (str(root / "b"), "error")
