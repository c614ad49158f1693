"""One run per state: a lock of the operating system, which dies with its process, and a note of who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from hemoscan.errors import LockedError, StateError


def lock_paths(state: Path) -> tuple[Path, Path]:
    """Return the paths of a state's lock and of the note beside it."""
    return state.with_name(f"{state.name}.lock"), state.with_name(f"{state.name}.lock.json")


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the lock of a state.

    The files stay when it is released, since removing a lock that another run waits for would let two hold it.

    Raises
    ------
    LockedError
        If another run holds it; the text says which, on what host, since when.
    StateError
        If the state's folder cannot be written.
    """
    path, note = lock_paths(state)
    lock = FileLock(path, mode=0o600)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise LockedError(f"state {state}: another run holds its lock: {_holder(note)}") from error
    except (OSError, NotImplementedError) as error:
        raise StateError(f"state {state}: cannot be locked: {getattr(error, 'strerror', None) or error}") from error
    try:
        _leave_note(note)
        yield
    finally:
        lock.release()


def _leave_note(path: Path) -> None:
    """Say who holds the lock. The lock itself holds without it, such as on a full disk."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since})
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")


def _holder(path: Path) -> str:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return f"process {note['pid']} on {note['host']}, since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not said which process it is"
