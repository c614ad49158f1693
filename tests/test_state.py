"""The state: what is known, what is kept, what is tried again; its schema, its damage, its limits."""

from __future__ import annotations

import os
import sqlite3
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hemoscan import schema
from hemoscan.errors import HemoscanError, OutputError, StateError
from hemoscan.slices import ERROR, SKIPPED, Decoded, Identity
from hemoscan.sources import Entry
from hemoscan.state import Scored, State, default_path

ENTRY = Entry("/in/1.dcm", 1.5, 100, mtime_ns=1_500_000_000)
SLICE = Decoded("/in/1.dcm", "/in", 1.5, 1, Identity("1.2", "1.2.3", "1.2.3.4", 7, -12.5), ("one", "two"))
SCORED: list[Scored] = [(SLICE, -1.25)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    with State(path) as state:
        state.use("settings")
        yield state


def reopened(path: Path, settings: str = "settings") -> State:
    state = State(path)
    state.use(settings)
    return state


def test_what_is_added_comes_back(state: State):
    second = replace(SLICE, frame=2, notes=(), identity=Identity())
    state.add(0, ENTRY, [*SCORED, (second, 2.0)])
    assert list(state.rows()) == [(SLICE, -1.25), (second, 2.0)]


def test_logits_come_back_to_the_last_bit(state: State):
    logits = [0.1, -1e-300, 1 / 3, 88.123456789012345]
    state.add(0, ENTRY, [(replace(SLICE, frame=n), logit) for n, logit in enumerate(logits)])
    assert [logit for _, logit in state.rows()] == logits


@pytest.mark.parametrize(
    "changes", [{"size": 101}, {"mtime_ns": 1_500_000_001}, {"path": "/in/2.dcm"}, {"position": 0, "member": "dcm"}]
)
def test_a_file_is_known_by_path_size_and_time(path: Path, state: State, changes: dict[str, object]):
    state.add(0, ENTRY, SCORED)
    state.commit()
    with reopened(path) as again:
        assert again.find(ENTRY) is not None
        assert again.find(replace(ENTRY, **changes)) is None


def test_of_a_file_that_two_engines_scored_the_later_one_is_known(path: Path, state: State):
    state.add(0, ENTRY, SCORED)
    state.use("others")
    state.add(1, ENTRY, [(SLICE, 3.0)])
    state.use("settings")
    changed = replace(ENTRY, mtime_ns=1_600_000_000)
    state.add(2, changed, [(SLICE, 5.0)])
    state.commit()
    with State(path) as again:
        for settings in (("settings", "others"), ("others", "settings")):
            again.use(*settings)
            assert [logit for _, logit in again.rows_not_met(["/in"])] == [5.0]


def test_what_was_scored_by_other_settings_is_not_known_and_not_lost(state: State):
    state.add(0, ENTRY, SCORED)
    state.use("others")
    assert state.find(ENTRY) is None
    state.add(1, ENTRY, [(SLICE, 3.0)])
    assert state.find(ENTRY) is not None
    state.use("settings")
    assert state.find(ENTRY) is not None


def test_a_file_that_changed_replaces_what_was_known(path: Path, state: State):
    state.add(0, ENTRY, [*SCORED, (replace(SLICE, frame=2), 1.0)])
    state.commit()
    with reopened(path) as again:
        again.add(0, replace(ENTRY, size=50), [(SLICE, 0.5)])
        assert list(again.rows()) == [(SLICE, 0.5)]


def test_rows_stand_in_the_order_met(state: State):
    entries = [replace(ENTRY, path=f"/in/{name}") for name in "cab"]
    for position, entry in reversed(list(enumerate(entries))):
        state.add(position, entry, [(replace(SLICE, path=entry.path), 0.0)])
    assert [decoded.path for decoded, _ in state.rows()] == ["/in/c", "/in/a", "/in/b"]


def test_a_file_met_twice_has_its_rows_once(state: State):
    state.add(0, ENTRY, SCORED)
    state.add(1, ENTRY, SCORED)
    state.meet(2, state.find(ENTRY) or 0)
    assert len(list(state.rows())) == 1


@pytest.mark.parametrize(
    ("entry", "decoded", "known"),
    [
        (ENTRY, replace(SLICE, status=ERROR, reason="truncated"), True),
        (ENTRY, replace(SLICE, status=SKIPPED, reason="MR"), True),
        (ENTRY, replace(SLICE, status=ERROR, reason="share away", passing=True), False),
        (replace(ENTRY, error="Permission denied"), replace(SLICE, status=ERROR), False),
        (replace(ENTRY, skipped="not settled"), replace(SLICE, status=SKIPPED), False),
    ],
)
def test_what_failed_for_now_is_tried_again(state: State, entry: Entry, decoded: Decoded, known: bool):
    state.add(0, entry, [(decoded, None)])
    assert (state.find(ENTRY) is not None) == known


def test_names_of_any_bytes_come_back(state: State):
    names = ["/in/caf\udce9.dcm", "/in/new\nline", "/in/漢", "/in/a.zip!\udcff/b"]
    for position, name in enumerate(names):
        state.add(position, replace(ENTRY, path=name), [(replace(SLICE, path=name, reason=name), 0.0)])
    assert [(decoded.path, decoded.reason) for decoded, _ in state.rows()] == [(name, name) for name in names]


def test_two_members_of_one_name_are_two_files(state: State):
    first = Entry("/in/a.zip!x/b", 1.5, 10, member="x/b", position=0, mtime_ns=1)
    decoded = replace(SLICE, path=first.path, folder=first.folder, mtime=1e-9)
    state.add(0, first, [(decoded, 0.0)])
    state.add(1, replace(first, position=1), [(decoded, 1.0)])
    assert list(state.rows()) == [(decoded, 0.0), (decoded, 1.0)]
    assert decoded.folder == "/in/a.zip!x"


@pytest.mark.parametrize("entry", [replace(ENTRY, size=2**64), replace(ENTRY, mtime_ns=2**70)])
def test_sizes_and_times_beyond_64_bits_end_nothing(state: State, entry: Entry):
    state.add(0, entry, [(replace(SLICE, identity=Identity(instance_number=10**30)), 0.0)])
    state.find(entry)
    ((decoded, _),) = state.rows()
    assert decoded.identity.instance_number is None


def test_what_is_known_but_not_met_yet(path: Path, state: State):
    names = ["/in/1", "/in/2/a.zip!b", "/in.other", "/inner", "/z"]
    for position, name in enumerate(names):
        state.add(position, replace(ENTRY, path=name), [(replace(SLICE, path=name), 0.0)])
    state.commit()
    with reopened(path) as again:
        assert list(again.rows()) == []
        again.meet(0, again.find(replace(ENTRY, path="/in/1")) or 0)
        assert [d.path for d, _ in again.rows_not_met(["/in", "/z"])] == ["/in/2/a.zip!b", "/z"]
        again.use("others")
        assert list(again.rows_not_met(["/in"])) == []


def test_what_was_not_committed_is_gone_whole(path: Path, state: State):
    state.add(0, ENTRY, SCORED)
    state.commit()
    state.add(1, replace(ENTRY, path="/in/2"), SCORED)
    state._connection.close()
    with reopened(path) as again:
        assert again.find(ENTRY) is not None
        assert again.find(replace(ENTRY, path="/in/2")) is None


def test_an_addition_that_fails_half_way_leaves_nothing_half(state: State):
    state.add(0, ENTRY, SCORED)
    state.commit()

    def broken() -> Iterator[Scored]:
        yield SLICE, 1.0
        raise MemoryError

    class Broken(list[Scored]):
        looked = 0

        def __iter__(self) -> Iterator[Scored]:
            self.looked += 1
            return iter(SCORED) if self.looked == 1 else broken()

    with pytest.raises(MemoryError):
        state.add(1, replace(ENTRY, size=1), Broken(SCORED))
    state.commit()
    assert state.find(ENTRY) is not None
    assert list(state.rows()) == SCORED


def test_a_full_disk_is_told_and_loses_nothing(path: Path, state: State):
    state.add(0, ENTRY, SCORED)
    state.commit()
    pages = state._connection.execute("PRAGMA page_count").fetchone()[0]
    state._connection.execute(f"PRAGMA max_page_count = {pages}")
    large = replace(SLICE, reason="x" * 100_000)
    with pytest.raises(StateError, match=r"state\.sqlite: cannot be used: database or disk is full") as caught:
        state.add(1, replace(ENTRY, path="/in/2"), [(large, 0.0)])
    assert isinstance(caught.value, OutputError)
    state.commit()
    assert state.find(ENTRY) is not None


# Forgetting


def fill(state: State, *files: Path, member: str | None = None) -> None:
    for position, file in enumerate(files):
        status = file.stat()
        path = f"{file}!{member}" if member else str(file)
        entry = Entry(path, size=9, member=member, position=0 if member else None, mtime_ns=status.st_mtime_ns)
        state.add(position, entry, SCORED)
    state.commit()


def count(state: State) -> int:
    return int(state._connection.execute("SELECT count(*) FROM files").fetchone()[0])


def test_files_that_are_gone_are_forgotten(tmp_path: Path, path: Path, state: State):
    files = [tmp_path / "in" / name for name in "abc"]
    files[0].parent.mkdir()
    for file in files:
        file.write_text("x")
    fill(state, *files)
    files[1].unlink()
    with reopened(path) as again:
        again.use("other settings")
        again.add(0, Entry(str(files[0]), size=9, mtime_ns=1), SCORED)
        assert again.prune([str(tmp_path / "elsewhere")]) == 0
        assert again.prune([str(tmp_path / "in")]) == 1
        assert count(again) == 3
        assert again._connection.execute("SELECT count(*) FROM slices").fetchone() == (3,)


def test_a_share_that_is_not_mounted_loses_nothing(tmp_path: Path, path: Path, state: State):
    file = tmp_path / "in" / "a"
    file.parent.mkdir()
    file.write_text("x")
    fill(state, file)
    file.unlink()
    with reopened(path) as again:
        again.add(0, Entry(str(file.parent), error="folder cannot be listed"), [(SLICE, None)])
        assert again.prune([str(file.parent)]) == 0


def test_members_of_a_zip_that_changed_are_forgotten(tmp_path: Path, path: Path, state: State):
    archive = tmp_path / "in" / "a.zip"
    archive.parent.mkdir()
    archive.write_text("x")
    fill(state, archive, member="b")
    with reopened(path) as again:
        again.add(0, Entry(str(tmp_path / "in" / "c"), size=9, mtime_ns=1), SCORED)
        assert again.prune([str(tmp_path / "in")]) == 0
        os.utime(archive, (1, 1))
        assert again.prune([str(tmp_path / "in")]) == 1


# The file


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_the_state_is_its_owners_alone(tmp_path: Path):
    path = tmp_path / "new" / "state.sqlite"
    with State(path) as state:
        state.use("settings")
        state.add(0, ENTRY, SCORED)
        state.commit()
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert path.name in modes
    assert set(modes.values()) == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_each_output_has_a_state(tmp_path: Path, state_home: Path):
    (tmp_path / "link").symlink_to(tmp_path)
    one, other = default_path(tmp_path / "a.csv"), default_path(tmp_path / "b.csv")
    assert one != other
    assert one == default_path(tmp_path / "link" / "a.csv")
    assert one.is_relative_to(state_home)


DAMAGES = {
    "garbage": lambda content: b"garbage " * 1000,
    "no header": lambda content: bytes(100) + content[100:],
    "cut": lambda content: content[: len(content) // 2],
    "overwritten": lambda content: content[:4096] + b"\xff" * (len(content) - 4096),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_set_aside_and_told(path: Path, damage: str, caplog: pytest.LogCaptureFixture):
    with reopened(path) as state:
        for number in range(200):
            state.add(number, replace(ENTRY, path=f"/in/{number}"), SCORED)
        state.commit()
    content = DAMAGES[damage](path.read_bytes())
    path.write_bytes(content)
    with reopened(path) as state:
        assert state.find(replace(ENTRY, path="/in/7")) is None
        state.add(0, ENTRY, SCORED)
        state.commit()
    (aside,) = path.parent.glob("state.sqlite.damaged-*Z")
    assert aside.read_bytes()[: len(content)] == content
    assert "is damaged" in caplog.text
    assert aside.name in caplog.text
    with reopened(path) as state:
        assert state.find(ENTRY) is not None, "the new one is kept"


def test_missing_tables_are_damage(path: Path, caplog: pytest.LogCaptureFixture):
    with State(path) as state:
        state._connection.execute("DROP TABLE slices")
    State(path).__exit__()
    assert "tables are missing: slices" in caplog.text


def test_a_newer_state_is_refused_and_left(path: Path):
    with State(path) as state:
        state._connection.execute("PRAGMA user_version = 99")
    content = path.read_bytes()
    with pytest.raises(StateError, match=r"newer hemoscan \(schema 99; legal: up to 1\)"):
        State(path)
    assert path.read_bytes() == content


def test_an_older_state_is_migrated_whole_or_not_at_all(path: Path, state: State, monkeypatch: pytest.MonkeyPatch):
    state.add(0, ENTRY, SCORED)
    state.commit()
    state._connection.close()
    before = schema.MIGRATIONS
    monkeypatch.setattr(schema, "MIGRATIONS", (*before, ("ALTER TABLE files ADD COLUMN extra", "NONSENSE")))
    with pytest.raises(StateError, match="NONSENSE"):
        State(path)
    monkeypatch.setattr(schema, "MIGRATIONS", (*before, ("ALTER TABLE files ADD COLUMN extra DEFAULT 5",)))
    with reopened(path) as migrated:
        assert migrated.find(ENTRY) is not None
        assert migrated._connection.execute("SELECT extra FROM files").fetchall() == [(5,)]
        assert migrated._connection.execute("PRAGMA user_version").fetchone() == (2,)
    monkeypatch.setattr(schema, "MIGRATIONS", before)
    with pytest.raises(StateError, match="newer"):
        State(path)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", bytes(128) + b"DICM", b"PK\x03\x04"])
def test_an_image_is_no_state_and_is_left(path: Path, content: bytes):
    path.write_bytes(content)
    with pytest.raises(StateError, match="image or an archive"):
        State(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_left(path: Path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StateError, match="another program's"):
        State(path)
    assert [file.name for file in path.parent.iterdir()] == ["state.sqlite"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "state", tmp_path):
        with pytest.raises(HemoscanError, match="cannot be used"):
            State(path)


def test_memory_does_not_grow_with_the_files(path: Path):
    """Ten times the files, the same peak within a page cache's size."""
    peaks = []
    for files in (2_000, 20_000):
        with State(path.with_name(f"{files}")) as state:
            state.use("settings")
            tracemalloc.start()
            for number in range(files):
                state.add(number, replace(ENTRY, path=f"/in/{number}"), SCORED)
                if number % 16 == 0:
                    state.commit()
            assert sum(1 for _ in state.rows()) == files
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**20
