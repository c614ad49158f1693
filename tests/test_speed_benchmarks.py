"""What the benchmarks of speed measure with: processes to their end, and slices that differ."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

pytest.importorskip("psutil")

import speed_slices
from scan_speed import aim, compare, format_aims, make_many
from speed_processes import Ran, run
from speed_slices import FORMATS, slices

CHILD = "import subprocess, sys, time; held = bytearray(2**26); subprocess.run([sys.executable, '-c', {child!r}])"
BUSY = """
import time
held = bytearray(2**26)
until = time.process_time() + 1
while time.process_time() < until:
    pass
"""


def test_memory_and_cpu_time_are_of_the_children_too():
    ran = run([sys.executable, "-c", CHILD.format(child=BUSY)])
    assert ran.peak_mib > 128
    assert ran.cpu_seconds > 0.2
    assert ran.seconds > 1


def test_a_process_that_fails_ends_the_benchmark_with_what_it_said():
    with pytest.raises(SystemExit, match=r"(?s)exit code 3.*no such thing"):
        run([sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"])


def test_an_aim_is_reached_or_not():
    assert aim("speed", 0.85, least=0.85) == "- speed: 0.85; aim: at least 0.85: reached."
    assert aim("speed", 0.849, least=0.85).endswith("at least 0.85: not reached.")
    assert aim("memory", 1.3, most=1.2) == "- memory: 1.3; aim: at most 1.2: not reached."
    assert aim("memory", float("nan"), most=1.2).endswith("not reached.")


def test_each_format_has_its_own_aims():
    assert ["not reached" in line for line in format_aims("uncompressed", 5.6, 0.5, 0.7)] == [False, True]
    assert "leave 0.70 at most" in format_aims("uncompressed", 5.6, 0.5, 0.7)[1]
    assert len(format_aims("JPEG 2000", 3.1, 0.5, 0.7)) == 1
    assert format_aims("PNG", 5.6, 0.5, 0.7) == []


def test_growth_tells_start_up_from_slices():
    text = compare({1000: Ran(30.0, 500.0, 25.0), 2000: Ran(50.0, 550.0, 45.0)})
    assert "20.0 ms for each slice\nbeyond 1,000, and 5.0 s" in text
    assert text.count(": reached") == 2
    assert "of that at 1,000: 1.1; aim: at most 1.05: not reached" in text
    assert compare({1000: Ran(30.0, 500.0, 25.0)}) == ""


def test_many_files_are_links_to_a_copy_for_each_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scan_speed.LINKS", 10)
    (tmp_path / "one").write_bytes(b"slice")
    nested, flat = make_many(tmp_path / "many", tmp_path / "one", 25)
    assert sorted(len(list(part.iterdir())) for part in nested.iterdir()) == [5, 10, 10]
    files = list(flat.iterdir())
    assert len(files) == 25
    assert sorted({path.stat().st_nlink for path in files}) == [10, 20]
    assert {path.read_bytes() for path in files} == {b"slice"}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make small slices in this process."""

    class Pool:
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, write: Callable[..., None], *arguments: object) -> Pool:
            write(*arguments)
            return self

        def result(self) -> None:
            pass

    monkeypatch.setattr(speed_slices, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(speed_slices, "SIDE", 64)
    speed_slices.heads.cache_clear()
    yield
    speed_slices.heads.cache_clear()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("format_", FORMATS)
def test_no_two_slices_are_alike(tmp_path: Path, format_: str):
    files = sorted(slices(tmp_path, format_, 30).iterdir())
    assert len(files) == len({path.read_bytes() for path in files}) == 30


@pytest.mark.usefixtures("here")
def test_a_smaller_folder_is_the_first_slices_of_a_larger_one(tmp_path: Path):
    large, small = slices(tmp_path, "PNG", 12), slices(tmp_path, "PNG", 5)
    assert [path.name for path in sorted(small.iterdir())] == [f"{number:05d}.png" for number in range(5)]
    assert all(path.samefile(large / path.name) for path in small.iterdir())


@pytest.mark.usefixtures("here")
def test_making_slices_goes_on_where_it_was_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encode, made = speed_slices.encode, []

    def end_at_three(format_: str, number: int) -> bytes:
        if number == 3 and not made:
            raise KeyboardInterrupt
        made.extend([number] if number >= 3 else [])
        return encode(format_, number)

    monkeypatch.setattr(speed_slices, "encode", end_at_three)
    with pytest.raises(KeyboardInterrupt):
        slices(tmp_path, "PNG", 5)
    assert not (tmp_path / "PNG-5").exists()
    made.append(-1)
    assert len(list(slices(tmp_path, "PNG", 5).iterdir())) == 5
    assert made == [-1, 3, 4]
