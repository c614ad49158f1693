"""What is there: every file under the PATHs of a run, once, in a stable order, without reading more than is needed.

Folders are walked in the order of names, members of a zip in the archive's order. A DICOMDIR names its files. What
cannot be listed or opened is yielded all the same, with the reason: nothing that was met vanishes.
"""

from __future__ import annotations

import os
import posixpath
import stat
import threading
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hemoscan.errors import ImageError
from hemoscan.sniff import HEAD_BYTES, ZIP, sniff

MAX_FILE_BYTES = 4 * 2**30
MAX_MEMBER_BYTES = 2 * 2**30
MAX_ZIP_RATIO = 200


@dataclass(frozen=True)
class Entry:
    """A file that was met, or a place that could not be looked into."""

    path: str
    """Absolute, as found (links not resolved); members of a zip as `archive.zip!member`."""
    mtime: float | None = None
    """Time of last change, seconds since 1970; None where unknown."""
    error: str | None = None
    """Why it cannot be read, if so: its row is an `error`."""
    skipped: str | None = None
    """Why it is not looked into, if so: its row is `skipped`."""
    member: str | None = None
    """Name within the zip, if it is a member of one."""
    position: int | None = None
    """Of the member in the zip's directory, since two members may have one name; None: found by name."""

    @property
    def file(self) -> str:
        """The path of the file in the file system: the archive, for a member of a zip."""
        return self.path[: -len(self.member) - 1] if self.member is not None else self.path

    @property
    def folder(self) -> str:
        """The folder (or `archive.zip!folder`) that the file lies in."""
        if self.member is None:
            return os.path.dirname(self.path)  # noqa: PTH120 - of millions of files, without a Path each
        return f"{self.file}!{posixpath.dirname(self.member)}"


def find_entries(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Entry]:
    """Yield every file under the paths.

    A path that is, or lies within, another of the paths is not walked twice. Links are followed; a folder that was
    already entered through another is not entered again.
    """
    roots = _outermost([os.path.abspath(path) for path in paths])  # noqa: PTH100 - links stay as found
    walk = _Walk(roots)
    for root in roots:
        yield from walk.find(root)


def _outermost(roots: list[str]) -> list[str]:
    unique = list(dict.fromkeys(roots))
    return [root for root in unique if not any(_within(root, other) and root != other for other in unique)]


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


class _Walk:
    """One walk over the roots of a run."""

    def __init__(self, roots: list[str]) -> None:
        self._roots = roots
        self._entered: set[tuple[int, int]] = set()

    def find(self, path: str) -> Iterator[Entry]:
        """Yield what is at a path."""
        try:
            status = os.stat(path)  # noqa: PTH116 - of millions of files, without a Path each
        except OSError as error:
            yield Entry(path, error=f"cannot be read: {error.strerror}")
            return
        if stat.S_ISDIR(status.st_mode):
            yield from self._find_in_folder(path, (status.st_dev, status.st_ino))
        elif not stat.S_ISREG(status.st_mode):
            yield Entry(path, status.st_mtime, skipped="not a regular file")
        elif status.st_size > MAX_FILE_BYTES:
            yield Entry(path, status.st_mtime, error=f"{status.st_size} bytes; legal: up to {MAX_FILE_BYTES}")
        else:
            yield from self._find_in_file(Entry(path, status.st_mtime))

    def _find_in_folder(self, path: str, identity: tuple[int, int]) -> Iterator[Entry]:
        if identity in self._entered:
            yield Entry(path, skipped="a folder that was already entered by another path")
            return
        self._entered.add(identity)
        try:
            names = sorted(os.listdir(path))  # noqa: PTH208 - names suffice
        except OSError as error:
            yield Entry(path, error=f"folder cannot be listed: {error.strerror}")
            return
        for name in names:
            yield from self.find(os.path.join(path, name))  # noqa: PTH118

    def _find_in_file(self, entry: Entry) -> Iterator[Entry]:
        try:
            with Path(entry.path).open("rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError as error:
            yield Entry(entry.path, entry.mtime, error=f"cannot be read: {error.strerror}")
            return
        if sniff(head) == ZIP:
            yield from _find_in_zip(entry)
        elif Path(entry.path).name.upper() == "DICOMDIR":
            yield from self._find_by_dicomdir(entry)
        else:
            yield entry

    def _find_by_dicomdir(self, entry: Entry) -> Iterator[Entry]:
        """Yield the files that a DICOMDIR refers to (DICOM PS3.10, 8; PS3.3, F.3).

        Those that the walk meets anyway are left to it; those that are missing are news.
        """
        from hemoscan.dicom import referenced_files  # noqa: PLC0415 - few runs meet a DICOMDIR

        home = Path(entry.path).parent
        try:
            found = referenced_files(Path(entry.path))
        except (ImageError, OSError) as error:
            yield Entry(entry.path, entry.mtime, error=str(error))
            return
        yield Entry(entry.path, entry.mtime, skipped="a DICOMDIR: its files have their own rows")
        for names in found:
            path = str(home.joinpath(*names))
            if any(name in ("", "..") or "/" in name or os.sep in name for name in names):
                yield Entry(path, error="DICOMDIR refers to a file outside its folder: not followed")
            elif not (any(_within(path, root) for root in self._roots) and Path(path).exists()):
                yield from self.find(path)


def _find_in_zip(entry: Entry) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(entry.path) as archive:
            members = [(i, member) for i, member in enumerate(archive.infolist()) if not member.is_dir()]
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        yield Entry(entry.path, entry.mtime, error=f"zip cannot be read: {error}")
        return
    if not members:
        yield Entry(entry.path, entry.mtime, skipped="an empty zip")
    for i, member in members:
        path = f"{entry.path}!{member.filename}"
        yield Entry(path, entry.mtime, _forbidden(member), member=member.filename, position=i)


def _forbidden(member: zipfile.ZipInfo) -> str | None:
    """Return why a member is not unpacked, None if it is: limits are checked before anything is allocated."""
    if member.flag_bits & 0x1:
        return "zip member is encrypted"
    if member.file_size > MAX_MEMBER_BYTES:
        return f"zip member of {member.file_size} bytes; legal: up to {MAX_MEMBER_BYTES}"
    if member.file_size > 2**20 and member.file_size > MAX_ZIP_RATIO * member.compress_size:
        growth = f"{member.compress_size} to {member.file_size} bytes"
        return f"zip member grows from {growth}; legal: up to {MAX_ZIP_RATIO} times"
    return None


class Reader:
    """Reads entries, from several threads if need be. Keeps the last archive open: its directory is read once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._archive: zipfile.ZipFile | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def open(self, entry: Entry) -> IO[bytes]:
        """Open a file or a member of a zip for reading, from its first byte on.

        Raises
        ------
        OSError
            If it cannot be opened.
        zipfile.BadZipFile, NotImplementedError
            If the archive is damaged, or packed in a way that Python cannot unpack; reading may raise zlib.error too.
        """
        if entry.member is None:
            return Path(entry.path).open("rb")
        with self._lock:
            if self._archive is None or self._archive.filename != entry.file:
                self.__exit__()
                self._archive = zipfile.ZipFile(entry.file)
            # Python keeps the archive's file open until the last of its members is closed.
            members = self._archive.infolist()
            return self._archive.open(entry.member if entry.position is None else members[entry.position])
