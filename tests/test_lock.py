"""The lock: one holder, who is named; a dead one never blocks (tests/test_unattended.py kills real ones)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hemoscan.errors import LockedError, StateError
from hemoscan.lock import lock_paths, locked


def test_a_second_holder_is_refused_and_told_of_the_first(tmp_path: Path):
    state = tmp_path / "new" / "state.sqlite"
    with locked(state):
        with pytest.raises(LockedError) as caught, locked(state):
            pass
        holder = f"process {os.getpid()} on {platform.node()}, since 20"
        assert str(caught.value).startswith(f"state {state}: another run holds its lock: {holder}")
    with locked(state):
        pass


@pytest.mark.parametrize("note", [None, "", "{}", "[]", "\udcff"])
def test_a_lock_without_a_readable_note_holds(tmp_path: Path, note: str | None):
    state = tmp_path / "state"
    with locked(state):
        _, path = lock_paths(state)
        path.unlink()
        if note is not None:
            path.write_bytes(note.encode("utf-8", "surrogateescape"))
        with pytest.raises(LockedError, match="has not said"), locked(state):
            pass


def test_a_note_of_the_dead_blocks_nobody(tmp_path: Path):
    state = tmp_path / "state"
    # The context is held: let go of, it would be left in order.
    code = (
        "import os, sys, pathlib, hemoscan.lock as lock;"
        "held = lock.locked(pathlib.Path(sys.argv[1])); held.__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(state)], check=False).returncode == 9  # noqa: S603
    _, note = lock_paths(state)
    assert json.loads(note.read_text())["pid"] != os.getpid()
    with locked(state):
        assert json.loads(note.read_text())["pid"] == os.getpid()
    assert not note.exists()


@pytest.mark.skipif(os.name != "posix", reason="liveness is not asked for")
def test_a_dead_process_is_not_named_as_the_holder(tmp_path: Path):
    """As between the taking of a lock and the writing of the note, after a run that was killed."""
    state = tmp_path / "state"
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    with locked(state):
        _, path = lock_paths(state)
        path.write_text(json.dumps({"pid": int(dead.stdout), "host": platform.node(), "since": "2020"}))
        with pytest.raises(LockedError, match="has not said"), locked(state):
            pass


def test_a_holder_that_is_late_to_say_so_is_waited_for(tmp_path: Path):
    state = tmp_path / "state"
    with locked(state):
        _, path = lock_paths(state)
        note = path.read_text()
        path.unlink()
        timer = threading.Timer(0.3, path.write_text, [note])
        timer.start()
        with pytest.raises(LockedError, match=f"process {os.getpid()} on "), locked(state):
            pass
        timer.join()


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_its_files_are_private(tmp_path: Path):
    with locked(tmp_path / "state"):
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot be locked"), locked(tmp_path / "file" / "state"):
        pass
