"""Output files: written whole or not at all, so that a reader never sees half a file."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from hemoscan.errors import OptionError, OutputError

# A cell that begins so is a formula to a spreadsheet (OWASP, CSV Injection).
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", *"\uff1d\uff0b\uff0d\uff20")  # and their full-width forms


def neutralise(text: str) -> str:
    """Return a text as a cell that no spreadsheet runs: behind an apostrophe, if it begins like a formula.

    `restore` undoes it: a text that already has apostrophes before such a beginning gets one more.

    >>> neutralise("=1+1"), neutralise("'=1+1"), neutralise("/a/=b")
    ("'=1+1", "''=1+1", '/a/=b')
    """
    return f"'{text}" if text.lstrip("'").startswith(FORMULA_STARTS) else text


def restore(cell: str) -> str:
    """Return the text that `neutralise` was given.

    >>> restore("'=1+1"), restore("''=1+1"), restore("'tis")
    ('=1+1', "'=1+1", "'tis")
    """
    return cell[1:] if cell.startswith("'") and neutralise(cell) != cell else cell


def scan_files(results: Path) -> tuple[Path, ...]:
    """Return the CSV of a scan's slices, and the paths of the worklist and the run record beside it."""
    return (results, *(results.with_suffix(suffix) for suffix in (".studies.csv", ".run.json") if results.name))


def refuse_inputs(output: Path, inputs: Iterable[Path]) -> None:
    """Check that an output is none of the files that are read, by whatever name; best before any work.

    Raises
    ------
    OptionError
        If it is one of them.
    """
    for path in inputs:
        if _is_same(output, path):
            raise OptionError(f"output {output}: is read, too; legal: the path of a new file")


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there
        return os.path.realpath(one) == os.path.realpath(other)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file through a temporary one in the same folder, fsync and `os.replace`.

    Parameters
    ----------
    path
        The file; what was there stays until the new content is whole on the disk.
    write
        Called with the open temporary file.

    Raises
    ------
    OutputError
        If the folder or the file cannot be written, or is no regular file, such as a device, which root could replace;
        nothing is left behind.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    try:
        if path.exists() and not path.is_file():
            raise OSError("is no regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes 0600; outputs follow the umask
            temporary.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that a process killed in `write_atomically` of this path left behind."""
    path = Path(os.path.realpath(path))
    leftover = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.tmp")  # as mkstemp names them
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):  # noqa: PTH208 - names suffice
            if leftover.fullmatch(name):
                (path.parent / name).unlink()


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk, too; Windows has no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
