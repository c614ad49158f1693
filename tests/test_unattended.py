"""Runs that are killed, interrupted, started twice, or meet a full disk: nothing is lost, nothing scored twice."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unattended import Nursery, Setting, arrive, fill_up, interrupt, is_whole, start_together

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and fork")
NEVER = ("slices kept and scored again", "broken CSVs seen", "final CSVs that differ")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("unattended")
    with Nursery(folder) as nursery:
        yield Setting(folder, nursery)


@pytest.mark.parametrize("times", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_a_scan_that_is_killed_loses_nothing(setting: Setting, times: int):
    counts = interrupt(setting, signal.SIGKILL, times)
    assert {name: counts[name] for name in NEVER} == dict.fromkeys(NEVER, 0)
    assert counts["interruptions"] >= times
    assert counts["reads of the CSV meanwhile"] > 0


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_scan_that_is_terminated_loses_nothing(setting: Setting, times: int):
    counts = interrupt(setting, signal.SIGTERM, times)
    assert {name: counts[name] for name in NEVER} == dict.fromkeys(NEVER, 0)
    assert counts["slices scored twice"] == 0


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_of_two_runs_on_a_state_one_exits_at_once(setting: Setting, times: int):
    counts = start_together(setting, times)
    assert counts["one scanned, the other exited 75"] == counts["the other named the holder"] == times
    assert counts["CSVs that differ from one run's"] == 0


@pytest.mark.slow
def test_a_file_system_that_fills_up(setting: Setting):
    try:
        counts = fill_up(setting, [4096 * pages for pages in range(1, 40, 3)])
    except PermissionError as error:
        pytest.skip(str(error))
    assert counts["full: exit 1, one line that says so"] + counts["large enough"] == counts["file systems"]
    assert min(counts["full: exit 1, one line that says so"], counts["large enough"]) > 0
    assert counts["broken CSVs left"] == counts["final CSVs that differ"] == counts["slices kept and scored again"] == 0


@pytest.mark.parametrize(("studies", "runs"), [(20, 2), pytest.param(200, 5, marks=pytest.mark.slow)])
def test_files_that_arrive_during_scans_have_one_result_each(setting: Setting, studies: int, runs: int):
    counts = arrive(setting, studies, runs)
    assert counts["slices with exactly one result"] == counts["slices that arrived"] == 2 * studies
    assert counts["CSVs that differ from a one-shot scan"] == 0


def test_the_second_signal_ends_at_once(setting: Setting):
    place = setting.folder / "twice"
    place.mkdir()
    begun = setting.nursery.folder / "scored.begun"
    begun.unlink()
    pid = setting.nursery.start(*setting.arguments("twice"), pace=30)
    wait_until(begun.exists)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: "finishing the batch" in setting.nursery.stderr())
    os.kill(pid, signal.SIGTERM)
    assert setting.nursery.wait(pid) == -signal.SIGTERM
    assert setting.scan("twice") == 4


def wait_until(there: Callable[[], bool]) -> None:
    for _ in range(1200):
        if there():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")


@pytest.mark.parametrize("content", ["", "path,frame\n", "path"])
def test_a_broken_csv_is_told_from_a_whole_one(content: str, setting: Setting):
    whole = setting.reference[0].decode()
    assert is_whole(whole)
    assert not is_whole(whole[:-1])
    assert not is_whole(whole[: len(whole) // 2])
    assert not content or not is_whole(content)


@pytest.mark.skipif(sys.platform != "linux", reason="the mode of a file")
def test_state_and_log_are_private(setting: Setting):
    place = setting.folder / "private"
    place.mkdir()
    assert setting.scan("private", "--log-file", place / "scan.log") == 4
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in place.iterdir() if path.is_file()}
    private = {name: mode for name, mode in modes.items() if not name.startswith("out")}
    assert {"state.sqlite", "scan.log"} <= set(private)
    assert set(private.values()) == {"0o600"}
    assert Path(place / "out.csv").stat().st_mode & 0o044


def test_a_log_in_a_scanned_folder_is_not_scanned(setting: Setting):
    place = setting.study / "own"
    place.mkdir()
    arguments = ["scan", setting.study, "-m", setting.card, "-o", place / "out.csv", "--state", place / "state.sqlite"]
    for _ in range(2):
        pid = setting.nursery.start(*arguments, "--log-file", place / "scan.log", pace=0)
        assert setting.nursery.wait(pid) == 4
        assert str(place) not in (place / "out.csv").read_text()
    for path in place.iterdir():
        path.unlink()
    place.rmdir()
