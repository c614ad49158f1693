"""Output files are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, strategies

from hemoscan.errors import HemoscanError, OutputError
from hemoscan.outputs import neutralise, restore, write_atomically


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def fail_half_way(error: BaseException, file: IO[bytes]) -> None:
    file.write(b"half")
    file.flush()
    raise error


@pytest.mark.parametrize("old", [None, b"old and longer"])
def test_the_new_content_replaces_the_old(tmp_path: Path, old: bytes | None):
    path = tmp_path / "out.csv"
    if old is not None:
        path.write_bytes(old)
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made(tmp_path: Path):
    write_atomically(tmp_path / "a" / "b" / "out.csv", lambda file: file.write(b"new"))
    assert (tmp_path / "a" / "b" / "out.csv").read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_writer_that_fails_half_way_changes_nothing(tmp_path: Path, old: bytes | None, error: BaseException):
    path = tmp_path / "out.csv"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(type(error)):
        write_atomically(path, lambda file: fail_half_way(error, file))
    assert [found.name for found in tmp_path.iterdir()] == ([] if old is None else ["out.csv"])
    assert old is None or path.read_bytes() == old


TEXTS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "'=1", "''-1", "'tis", "/a/=b", "", "'", "a=b"]


@pytest.mark.parametrize("text", TEXTS)
def test_no_cell_begins_like_a_formula_and_all_come_back(text: str):
    cell = neutralise(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))
    assert restore(cell) == text


@given(strategies.text("'=+-@\ta"))
def test_every_text_comes_back(text: str):
    assert restore(neutralise(text)) == text


def test_a_full_disk_changes_nothing_and_is_told(tmp_path: Path):
    path = tmp_path / "out.csv"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"out\.csv: cannot be written: No space left on device"):
        write_atomically(path, lambda file: fail_half_way(OSError(28, "No space left on device"), file))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_content_is_there_while_the_new_is_written(tmp_path: Path):
    path = tmp_path / "out.csv"
    path.write_bytes(b"old")
    seen = []

    def write(file: IO[bytes]) -> None:
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())
        seen.extend(found.parent for found in tmp_path.iterdir() if found != path)

    write_atomically(path, write)
    assert seen == [b"old", tmp_path], "the temporary file lies in the same folder"


@pytest.mark.skipif(os.name != "posix", reason="POSIX pipes")
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OutputError, match="pipe: cannot be written: is no regular file"):
            write_atomically(tmp_path / name, lambda file: file.write(b"new"))
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, mode: int):
    os.umask(mask)
    write_atomically(tmp_path / "out.csv", lambda file: file.write(b"new"))
    assert (tmp_path / "out.csv").stat().st_mode & 0o777 == mode
    assert os.umask(0o022) == mask


@pytest.mark.parametrize("place", ["file/out.csv", "file/deeper/out.csv", "folder", "n" * 300])
def test_an_unwritable_place_is_named(tmp_path: Path, place: str):
    (tmp_path / "file").write_bytes(b"a file")
    (tmp_path / "folder" / "kept").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_atomically(tmp_path / place, lambda file: file.write(b"new"))
    assert str(tmp_path / place) in str(caught.value)
    assert isinstance(caught.value, HemoscanError)
    assert isinstance(caught.value, OSError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"a file"
