"""What is there: every file under the PATHs of a run, once, in a stable order, without reading more than is needed.

Folders are walked in the order of names, members of a zip in the archive's order. A DICOMDIR names its files. What
cannot be listed or opened is yielded all the same, with the reason: nothing that was met vanishes.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import stat
import threading
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from hemoscan.bounds import MAX_RATIO, largest
from hemoscan.errors import ImageError
from hemoscan.located import locate
from hemoscan.sniff import HEAD_BYTES, ZIP, sniff

MAX_MEMBER_BYTES = 2 * 2**30
# Of a zip's directory, which is read as a whole: about 200,000 members.
MAX_ZIP_DIRECTORY_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Entry:
    """A file that was met, or a place that could not be looked into."""

    path: str
    """Absolute, as found (links not resolved); members of a zip as `archive.zip!member`."""
    mtime: float | None = None
    """Time of last change, seconds since 1970; None where unknown."""
    size: int = 0
    """Bytes, unpacked."""
    error: str | None = None
    """Why it cannot be read, if so: its row is an `error`."""
    skipped: str | None = None
    """Why it is not looked into, if so: its row is `skipped`."""
    member: str | None = None
    """Name within the zip, if it is a member of one."""
    position: int | None = None
    """Of the member in the zip's directory, since two members may have one name; None: found by name."""
    mtime_ns: int | None = None
    """Time of last change, ns since 1970, to tell whether a file has changed; None where unknown."""
    frames_done: int = 0
    """Frames that were decoded before, and are passed over."""

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


def entry_at(path: str) -> Entry | None:
    """Return the entry of a path that was scanned, as results give it; None if it is gone.

    Of two members of a zip with one name it is the last, as Python's zipfile finds them.
    """
    try:
        file, member = locate(path)
        status = os.stat(file)  # noqa: PTH116 - as above
        return Entry(path, status.st_mtime, status.st_size, member=member, mtime_ns=status.st_mtime_ns)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None


def _outermost(roots: list[str]) -> list[str]:
    """Return the roots that lie within no other, each once."""
    unique = dict.fromkeys(roots)
    return [root for root in unique if not any(str(parent) in unique for parent in Path(root).parents)]


def _within(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in roots)


class _Walk:
    """One walk over the roots of a run."""

    def __init__(self, roots: list[str]) -> None:
        self._roots = roots
        self._entered: set[object] = set()

    def find(self, root: str) -> Iterator[Entry]:
        """Yield what is at a path and below it."""
        waiting = [root]  # a stack, the next on top: folders may be nested deeper than calls can be
        while waiting:
            path = waiting.pop()
            try:
                status = os.stat(path)  # noqa: PTH116 - of millions of files, without a Path each
            except (OSError, ValueError) as error:  # ValueError: a NUL in the name
                yield Entry(path, error=f"cannot be read: {_text(error)}")
                continue
            if stat.S_ISDIR(status.st_mode):
                found = self._list(path, status)
                if isinstance(found, Entry):
                    yield found
                else:
                    waiting += [os.path.join(path, name) for name in reversed(found)]  # noqa: PTH118 - as above
            elif not stat.S_ISREG(status.st_mode):
                yield Entry(path, status.st_mtime, skipped="not a regular file")
            else:
                yield from self._find_in_file(Entry(path, status.st_mtime, status.st_size, mtime_ns=status.st_mtime_ns))

    def _list(self, path: str, status: os.stat_result) -> list[str] | Entry:
        """Return the names in a folder, in order, or an entry that says why it is not looked into."""
        # Some network file systems number no files.
        identity = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
        if identity in self._entered:
            return Entry(path, skipped="a folder that was already entered by another path")
        self._entered.add(identity)
        try:
            return sorted(os.listdir(path))  # noqa: PTH208 - names suffice
        except OSError as error:
            return Entry(path, error=f"folder cannot be listed: {_text(error)}")

    def _find_in_file(self, entry: Entry) -> Iterator[Entry]:
        try:
            with _open(entry.path) as file:
                head = file.read(HEAD_BYTES)
        except OSError as error:
            yield replace(entry, error=f"cannot be read: {_text(error)}")
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

        home = os.path.dirname(entry.path)  # noqa: PTH120 - as above
        try:
            found = referenced_files(Path(entry.path))
        except Exception as error:  # never a text that may quote a header
            yield replace(
                entry, error=_text(error) if isinstance(error, ImageError | OSError) else type(error).__name__
            )
            return
        yield replace(entry, skipped="a DICOMDIR: its files have their own rows")
        for names in found:
            path = os.path.normpath(os.path.join(home, *names))  # noqa: PTH118
            if path == home or not _within(path, [home]):
                yield Entry(path, error="DICOMDIR refers to a file outside its folder: not followed")
                continue
            # PS3.10 wants upper case; Linux shows the names of a CD in lower case.
            lower = os.path.join(home, *(name.lower() for name in names))  # noqa: PTH118
            path = path if _exists(path) or not _exists(lower) else lower
            if not (_within(path, self._roots) and _exists(path)):
                yield from self.find(path)


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)  # noqa: PTH110 - as above
    except ValueError:
        return False


def _open(path: str) -> IO[bytes]:
    return open(path, "rb", opener=_open_regular)


def _open_regular(path: str, flags: int) -> int:
    """Open a file as `open` has it, without waiting for ever should it have been replaced by a FIFO meanwhile."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "not a regular file")


def _text(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class _ListedFile(io.BufferedReader):
    """Reads a zip, but for a directory, which is read at once, that is larger than any archive of slices has."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_ZIP_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"directory of {size} bytes; legal: up to {MAX_ZIP_DIRECTORY_BYTES}")
        return super().read(size)


def _find_in_zip(entry: Entry) -> Iterator[Entry]:
    try:
        with _ListedFile(io.FileIO(entry.path, opener=_open_regular)) as file, zipfile.ZipFile(file) as archive:
            members = [(i, member) for i, member in enumerate(archive.infolist()) if not member.is_dir()]
    except Exception as error:  # a damaged archive leads zipfile to many
        yield replace(entry, error=f"zip cannot be read: {str(error) or type(error).__name__}")
        return
    if not members:
        yield replace(entry, skipped="an empty zip")
    for i, member in members:
        path = f"{entry.path}!{member.filename}"
        forbidden = _forbidden(member)
        yield replace(entry, path=path, size=member.file_size, error=forbidden, member=member.filename, position=i)


def _forbidden(member: zipfile.ZipInfo) -> str | None:
    """Return why a member is not unpacked, None if it is: limits are checked before anything is allocated."""
    if member.flag_bits & 0x1:
        return "zip member is encrypted"
    if member.file_size > MAX_MEMBER_BYTES:
        return f"zip member of {member.file_size} bytes; legal: up to {MAX_MEMBER_BYTES}"
    if member.file_size > largest(member.compress_size):
        growth = f"{member.compress_size} to {member.file_size} bytes"
        return f"zip member grows from {growth}; legal: up to {MAX_RATIO} times"
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
            return _open(entry.path)
        with self._lock:
            if self._archive is None or self._archive.filename != entry.file:
                self.__exit__()
                self._archive = None  # should the next one fail to open
                self._archive = zipfile.ZipFile(entry.file)
            # Python keeps the archive's file open until the last of its members is closed.
            if entry.position is None:
                return self._archive.open(entry.member)
            members = self._archive.infolist()[entry.position :][:1]
            if not members or members[0].filename != entry.member:
                raise zipfile.BadZipFile("the archive was changed since it was found")
            return self._archive.open(members[0])
