"""The state's database file: made, checked, migrated, and set aside when it is damaged.

Write-ahead logging with synchronous=NORMAL: a commit survives the process's death at any moment, and a power cut leaves
the database whole, as of some commit since the last checkpoint (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hemoscan.errors import StateError
from hemoscan.sniff import DICOM, HEAD_BYTES, RASTER, ZIP, sniff

APPLICATION_ID = 0x48454D4F  # "HEMO"
TABLES = ("settings", "files", "slices")
COMPANIONS = ("-wal", "-shm", "-journal")
# Each step brings a database from the schema of its index to the next. Steps are only ever added.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE settings (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)",
        # A path is bytes: names that are not UTF-8 are no text. `part`: place in the zip's directory from 1, else 0.
        """CREATE TABLE files (
            id INTEGER PRIMARY KEY,
            path BLOB NOT NULL,
            part INTEGER NOT NULL,
            settings INTEGER NOT NULL REFERENCES settings (id),
            member BLOB,
            size INTEGER NOT NULL,
            mtime_ns INTEGER,
            passing INTEGER NOT NULL,
            UNIQUE (path, part, settings))""",
        """CREATE TABLE slices (
            file INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
            ordinal INTEGER NOT NULL,
            frame INTEGER,
            study_uid BLOB NOT NULL,
            series_uid BLOB NOT NULL,
            sop_uid BLOB NOT NULL,
            instance_number INTEGER,
            z_mm REAL,
            logit REAL,
            status TEXT NOT NULL,
            reason BLOB NOT NULL,
            notes BLOB NOT NULL,
            PRIMARY KEY (file, ordinal)) WITHOUT ROWID""",
    ),
)

_log = logging.getLogger(__name__)


class _DamagedError(Exception):
    """The content of the database is not what it was."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the state's database, made or migrated if need be, 0600.

    A damaged one is renamed to `NAME.damaged-TIME`, with a warning, and a new one is made in its place.

    Raises
    ------
    StateError
        If the file belongs to another program or to a newer hemoscan, or cannot be read or written.
    """
    try:
        _make_private(path)
        try:
            return _open(path)
        except _DamagedError as error:
            _set_aside(path, str(error))
        _make_private(path)
        return _open(path)
    except StateError:
        raise
    except (OSError, sqlite3.Error) as error:
        raise state_error(path, error) from error


def state_error(path: Path, error: Exception) -> StateError:
    """Return what is told of an error of the system or of SQLite, whose texts for a full disk are several."""
    text = getattr(error, "strerror", None) or str(error)
    try:
        full = shutil.disk_usage(path.parent).free < 2**16
    except OSError:
        full = False
    return StateError(f"state {path}: cannot be used: {text}{' (no space left on device)' if full else ''}")


def _make_private(path: Path) -> None:
    """Make the file for its owner alone, before SQLite makes it for everybody; its companions take its mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        kind = sniff(os.read(handle, HEAD_BYTES))
    finally:
        os.close(handle)
    if kind in (DICOM, RASTER, ZIP):
        raise StateError(f"state {path}: is an image or an archive and is left alone; name another with --state")
    path.chmod(0o600)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection, MIGRATIONS)
    except sqlite3.DatabaseError as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _DamagedError(str(error)) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if owner != APPLICATION_ID and (tables or version or owner):
        raise StateError(f"state {path}: is another program's database and is left alone; name another with --state")
    if version > len(MIGRATIONS):
        raise StateError(
            f"state {path}: was written by a newer hemoscan (schema {version}; legal: up to {len(MIGRATIONS)}); "
            "install that, or name another file with --state"
        )
    if version and not tables.issuperset(TABLES):
        raise _DamagedError(f"tables are missing: {', '.join(sorted(set(TABLES) - tables))}")
    found = [text for (text,) in connection.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise _DamagedError("; ".join(found))


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """Bring a database to the last schema, wholly or not at all."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in migrations[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it itself on a full disk
            connection.execute("ROLLBACK")
        raise


def _set_aside(path: Path, reason: str) -> None:
    # Microseconds, so that no two have one name: on POSIX, a rename would silently replace the first.
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    for suffix in ("", *COMPANIONS):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    _log.warning("state %s is damaged (%s): set aside as %s; everything is scored anew", path, reason, aside.name)
