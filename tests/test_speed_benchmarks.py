"""What the benchmarks of speed measure with: processes to their end, and slices that differ."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

pytest.importorskip("psutil")

import speed_slices
from speed_processes import run
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
