"""What was scanned before: one row a file, one a slice, with raw logits, so that a new threshold needs no new scan.

Nothing of it grows in memory with the number of files; the order in which a run met them is kept in a temporary table.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hemoscan.schema import COMPANIONS, open_database, state_error
from hemoscan.slices import Decoded, Identity
from hemoscan.sources import Entry
from hemoscan.text import to_bytes, to_text

SEPARATOR = "; "
Scored = tuple[Decoded, float | None]
"""A slice without its image, and its logit; None unless its status is ok."""

_ROWS = """SELECT path, part, member, mtime_ns, frame, study_uid, series_uid, sop_uid, instance_number, z_mm, logit,
    status, reason, notes FROM """
_MET = _ROWS + "met JOIN files ON files.id = met.file JOIN slices ON slices.file = files.id ORDER BY position, ordinal"
_NOT_MET = (
    _ROWS  # noqa: S608 - a constant
    + """files JOIN slices ON slices.file = files.id
    WHERE settings IN (SELECT value FROM json_each(:known)) AND path >= :low AND path < :high AND NOT EXISTS (
        SELECT 1 FROM files AS other WHERE other.path = files.path AND other.part = files.part AND (
            other.id IN (SELECT file FROM met)
            OR other.settings IN (SELECT value FROM json_each(:known))
                AND (ifnull(other.mtime_ns, 0), other.id) > (ifnull(files.mtime_ns, 0), files.id)))
    ORDER BY path, part, ordinal"""
)
_ADD_FILE = """INSERT INTO files (path, part, settings, member, size, mtime_ns, passing) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET member = excluded.member, size = excluded.size, mtime_ns = excluded.mtime_ns,
    passing = excluded.passing RETURNING id"""
# What was met twice keeps its first place, whichever of the two is scored first.
_MEET = "INSERT INTO met VALUES (?, ?) ON CONFLICT (file) DO UPDATE SET position = min(position, excluded.position)"
_ADD_SLICE = "INSERT INTO slices VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ANY_MET = """SELECT 1 FROM met JOIN files ON files.id = met.file WHERE path >= ? AND path < ? AND size > 0 LIMIT 1"""
_MAYBE_GONE = """SELECT id, path, part, member, mtime_ns FROM files WHERE path >= ? AND path < ? AND id > ?
    AND id NOT IN (SELECT file FROM met) ORDER BY id LIMIT 1000"""


def default_path(output: Path) -> Path:
    """Return where the state of an output is: the user's local state folder, by the output's real path."""
    from platformdirs import user_state_path  # noqa: PLC0415 - not needed with --state

    real = os.path.realpath(output)
    digest = hashlib.sha256(to_bytes(real)).hexdigest()[:16]
    return user_state_path("hemoscan", appauthor=False) / f"{digest}.sqlite"


class State:
    """The state of one output. One process at a time: see `hemoscan.lock`."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it; raises StateError, see `open_database`."""
        self.path = path
        self._settings = 0
        self._known = "[]"
        self._connection = open_database(path)
        with self._told():
            self._connection.execute("CREATE TEMP TABLE met (position INTEGER PRIMARY KEY, file INTEGER UNIQUE)")

    def __enter__(self) -> State:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()  # what was not committed is a batch that was not finished

    @property
    def paths(self) -> frozenset[str]:
        """Absolute paths of its files."""
        path = os.path.abspath(self.path)  # noqa: PTH100 - links stay as found
        return frozenset(path + suffix for suffix in ("", *COMPANIONS))

    def use(self, settings: str, *others: str) -> None:
        """Say by what slices are scored from now on: only what was scored by the same is known, or by `others`."""
        with self._told():
            ids = [self._id_of(text) for text in (settings, *others)]
        self._settings, self._known = ids[0], json.dumps(ids)

    def _id_of(self, settings: str) -> int:
        self._connection.execute("INSERT OR IGNORE INTO settings (text) VALUES (?)", (settings,))
        (found,) = self._connection.execute("SELECT id FROM settings WHERE text = ?", (settings,)).fetchone()
        return int(found)

    def find(self, entry: Entry) -> int | None:
        """Return the number of a file if it is known: by path, size and time, scored by what `use` was told."""
        with self._told():
            found = self._connection.execute(
                "SELECT id FROM files WHERE path = ? AND part = ? AND settings IN (SELECT value FROM json_each(?))"
                " AND size = ? AND mtime_ns = ? AND NOT passing ORDER BY id DESC",
                (*_key(entry), self._known, *_stamp(entry)),
            ).fetchone()
        return None if found is None else int(found[0])

    def meet(self, position: int, file: int) -> None:
        """Note that the run met a known file at a place in its order; a file that is met again keeps its first."""
        with self._told():
            self._connection.execute(_MEET, (position, file))

    def add(self, position: int, entry: Entry, scored: Sequence[Scored]) -> None:
        """Take in what became of a file, in place of what was known of it; kept from the next `commit` on.

        A file with a passing failure (`Decoded.passing`), or that was not looked into, is tried again by the next run.
        """
        member = None if entry.member is None else to_bytes(entry.member)
        passing = bool(entry.error or entry.skipped) or any(decoded.passing for decoded, _ in scored)
        with self._told(), self._whole():
            stamp = _stamp(entry)
            (file,) = self._connection.execute(
                _ADD_FILE, (*_key(entry), self._settings, member, *stamp, passing)
            ).fetchone()
            self._connection.execute("DELETE FROM slices WHERE file = ?", (file,))
            cells = (_cells(file, ordinal, *item) for ordinal, item in enumerate(scored))
            self._connection.executemany(_ADD_SLICE, cells)
            self._connection.execute(_MEET, (position, file))

    def settings_of(self, weights: str) -> list[str]:
        """Return by what slices were scored with weights of this SHA-256, what knows most files last."""
        with self._told():
            found = self._connection.execute(
                "SELECT text FROM settings JOIN files ON files.settings = settings.id"
                " GROUP BY settings.id ORDER BY count(*), settings.id"
            ).fetchall()
        return [text for (text,) in found if json.loads(text).get("weights") == weights]

    def commit(self) -> None:
        """Keep what was added, whatever becomes of the process."""
        if self._connection.in_transaction:
            with self._told():
                self._connection.execute("COMMIT")

    def rows(self) -> Iterator[Scored]:
        """Yield the slices of the files that this run met, in its order."""
        with self._told():
            yield from map(_scored, self._connection.execute(_MET))

    def rows_not_met(self, roots: Iterable[str]) -> Iterator[Scored]:
        """Yield what is known, from runs before, of files under the roots that this run has not met (yet)."""
        with self._told():
            for bounds in _ranges(roots):
                yield from self._not_met(*bounds)

    def rows_known(self) -> Iterator[Scored]:
        """Yield all that is known by the settings in use."""
        with self._told():
            yield from self._not_met(b"", b"\xff")

    def _not_met(self, low: bytes, high: bytes) -> Iterator[Scored]:
        bounds = {"known": self._known, "low": low, "high": high}
        return map(_scored, self._connection.execute(_NOT_MET, bounds))

    def prune(self, roots: Iterable[str]) -> int:
        """Forget the files under the roots that are gone, and members of zips that changed; return how many.

        A root below which the run met nothing loses nothing: a share that is not mounted looks just so.
        """
        gone = 0
        with self._told():
            for bounds in _ranges(roots):
                if self._connection.execute(_ANY_MET, bounds).fetchone() is None:
                    continue
                gone += self._prune_between(*bounds)
        self.commit()
        return gone

    def _prune_between(self, low: bytes, high: bytes) -> int:
        gone, last = 0, 0
        while True:  # in portions: a cursor must not see rows vanish, and a list of all would grow with the files
            found = self._connection.execute(_MAYBE_GONE, (low, high, last)).fetchall()
            if not found:
                return gone
            last = found[-1][0]
            dead = [(row[0],) for row in found if _is_gone(_entry(*row[1:]))]
            self._begin()
            self._connection.executemany("DELETE FROM files WHERE id = ?", dead)
            gone += len(dead)

    def checkpoint(self) -> None:
        """Bring what was committed to the disk itself, so that a power cut costs nothing up to here."""
        self.commit()
        with self._told():
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Do all of what is within, or forget all since the last commit: no file is kept without its slices."""
        self._begin()
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise state_error(self.path, error) from error


def _key(entry: Entry) -> tuple[bytes, int]:
    return to_bytes(entry.path), 0 if entry.position is None else entry.position + 1


def _stamp(entry: Entry) -> tuple[int, int | None]:
    """Return size and time as far as a column can hold them: a zip's directory and some file systems hold anything."""
    return min(entry.size, 2**63 - 1), _integer(entry.mtime_ns)


def _entry(path: bytes, part: int, member: bytes | None, mtime_ns: int | None) -> Entry:
    name = None if member is None else to_text(member)
    return Entry(to_text(path), mtime_ns=mtime_ns, member=name, position=part - 1 if part else None)


def _is_gone(entry: Entry) -> bool:
    """Tell whether what is known of a file can never be used again."""
    try:
        status = os.stat(entry.file)  # noqa: PTH116 - of millions of files, without a Path each
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return entry.member is not None and status.st_mtime_ns != entry.mtime_ns


def _ranges(roots: Iterable[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yield, for each root, bounds of the paths that are it, lie below it, or are members of it."""
    for root in roots:
        path = to_bytes(os.path.abspath(root))  # noqa: PTH100 - links stay as found
        yield path, path + b"\x00"
        for separator in {to_bytes(os.sep), b"!"}:
            low = path.rstrip(separator) + separator
            yield low, low[:-1] + bytes([low[-1] + 1])


def _cells(file: int, ordinal: int, decoded: Decoded, logit: float | None) -> tuple[object, ...]:
    identity = decoded.identity
    return (
        file,
        ordinal,
        decoded.frame,
        to_bytes(identity.study_uid),
        to_bytes(identity.series_uid),
        to_bytes(identity.sop_uid),
        _integer(identity.instance_number),
        identity.z_mm,
        logit,
        decoded.status,
        to_bytes(decoded.reason),
        to_bytes(SEPARATOR.join(decoded.notes)),
    )


def _integer(value: int | None) -> int | None:
    """Return what a column can hold: DICOM's IS has 32 bits (PS3.5, 6.2), but a header may hold anything."""
    return value if value is not None and -(2**63) <= value < 2**63 else None


def _scored(
    row: tuple[
        bytes,
        int,
        bytes | None,
        int | None,
        int | None,
        bytes,
        bytes,
        bytes,
        int | None,
        float | None,
        float | None,
        str,
        bytes,
        bytes,
    ],
) -> Scored:
    path, part, member, mtime_ns, frame, study, series, sop, number, z_mm, logit, status, reason, notes = row
    entry = _entry(path, part, member, mtime_ns)
    return Decoded(
        path=entry.path,
        folder=entry.folder,
        mtime=None if mtime_ns is None else mtime_ns / 1e9,
        frame=frame,
        identity=Identity(to_text(study), to_text(series), to_text(sop), number, z_mm),
        notes=tuple(to_text(notes).split(SEPARATOR)) if notes else (),
        status=status,
        reason=to_text(reason),
    ), logit
