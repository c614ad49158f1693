"""Which of the files found are taken now, and in which order."""

from __future__ import annotations

import io
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, replace
from typing import Any

from hemoscan.slices import OK, SKIPPED, Decoded
from hemoscan.sniff import DICOM, sniff
from hemoscan.sources import Entry, Reader, find_entries
from hemoscan.text import to_bytes, to_text

UNSETTLED = "not settled: its study's newest file is younger than --settle"
# Enough of a file to hold StudyInstanceUID; little enough that nothing in it can be made to hurt.
HEAD_BYTES = 2**16


class Settling:
    """Studies that are still arriving: one of their files was changed less than `seconds` ago.

    A study is the files with one StudyInstanceUID; those without one belong together by folder. A time in the future
    by more than that says nothing.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]], seconds: float) -> None:
        """Look at the files' times, and into the heads of young ones."""
        self._seconds = seconds
        self._now = time.time()
        self._studies: set[str] = set()
        with Reader() as reader:
            for entry in find_entries(paths):
                if self._is_young(entry):
                    self._studies.update((_study_of(entry, reader) or entry.folder,))

    def _is_young(self, entry: Entry) -> bool:
        return entry.mtime is not None and abs(self._now - entry.mtime) < self._seconds

    def hold(self, entry: Entry) -> Entry:
        """Return a young entry as one that is skipped, others as they are."""
        looked_into = not (entry.error or entry.skipped)
        return replace(entry, skipped=UNSETTLED) if looked_into and self._is_young(entry) else entry

    def hold_back(self, decoded: Decoded) -> Decoded:
        """Return a slice of a study that is still arriving as one that is skipped, others as they are."""
        if decoded.status != OK or (decoded.identity.study_uid or decoded.folder) not in self._studies:
            return decoded
        return replace(decoded, image=None, status=SKIPPED, reason=UNSETTLED, passing=True)


def _study_of(entry: Entry, reader: Reader) -> str:
    """Return StudyInstanceUID, the empty string for what has none or cannot be read."""
    if entry.error or entry.skipped:
        return ""
    from hemoscan.dicom import configure_pydicom, read_first_values  # noqa: PLC0415 - seldom needed, slow to import

    configure_pydicom()
    try:
        with reader.open(entry) as file:
            head = file.read(HEAD_BYTES)
    except Exception:  # as in decode: damaged archives raise many kinds
        return ""
    return read_first_values(io.BytesIO(head), ["StudyInstanceUID"])[0] if sniff(head) == DICOM else ""


def newest_first(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries by falling time of change, those of one time in the order found; sorted on the disk."""
    connection = sqlite3.connect("")  # a nameless file, which is removed when it is closed
    try:
        connection.execute(
            "CREATE TABLE entries (found INTEGER PRIMARY KEY, path, mtime REAL, size, error, skipped,"
            " member, position INTEGER, mtime_ns, frames_done)"
        )
        connection.executemany("INSERT INTO entries VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_pack, entries))
        for row in connection.execute("SELECT * FROM entries ORDER BY mtime DESC, found"):
            fields: list[Any] = [to_text(value) if isinstance(value, bytes) else value for value in row[1:]]
            yield Entry(*fields)
    finally:
        connection.close()


def _pack(entry: Entry) -> list[object]:
    """Return the fields as columns can hold them."""
    values: list[object] = []
    for value in astuple(entry):
        if isinstance(value, str):
            values.append(to_bytes(value))
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            values.append(2**63 - 1)
        else:
            values.append(value)
    return values
