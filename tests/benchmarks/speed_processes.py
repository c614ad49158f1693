"""Processes run to their end, with their time, and the memory and CPU time of all that they start."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psutil

# Looking costs the machine some ms a process, which is part of what is measured.
SAMPLE_SECONDS = 0.25
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Ran:
    """A process and its children, from start to end."""

    seconds: float
    peak_mib: float
    """Memory of all of them together, pages that they share counted once where the system tells (PSS on Linux)."""
    cpu_seconds: float
    """Of all of them together, as last seen: other work on the machine delays a process and leaves this as it is."""


class Sampler(threading.Thread):
    """Looks at a process and its children until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._cpu: dict[int, float] = {}
        self._process = psutil.Process(pid)
        self._stopped = threading.Event()

    @property
    def cpu_seconds(self) -> float:
        return sum(self._cpu.values())

    def run(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            processes = tree(self._process)
            self.peak = max(self.peak, sum(map(memory, processes)))
            self._cpu |= {each.pid: used for each in processes if (used := cpu_seconds(each))}

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def scan_command(folder: Path, model: str, output: Path, device: str = "cpu") -> list[str | Path]:
    """Return the command of a scan; its state is beside its output."""
    return [
        *(sys.executable, "-m", "hemoscan", "scan", folder, "--model", model, "--device", device, "--quiet"),
        *("--output", output, "--state", output.with_suffix(".sqlite")),
    ]


def run(command: Sequence[str | Path]) -> Ran:
    """Run a command to its end; raises SystemExit, with what it said, if it fails."""
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], stdout=said, stderr=said)  # noqa: S603 - our own
        sampler = Sampler(process.pid)
        sampler.start()
        try:
            code = process.wait()
            seconds = time.perf_counter() - started
        finally:
            process.kill()
            sampler.stop()
        if code:
            said.seek(0)
            raise SystemExit(f"{command}: exit code {code}\n{said.read().decode(errors='replace')}")
    return Ran(seconds, sampler.peak / 2**20, sampler.cpu_seconds)


@dataclass(frozen=True)
class First:
    """When a scan had its first results, in seconds after its start."""

    kept: float
    """A slice in the state: a scan that is killed now will not score it again."""
    published: float
    """A row in the CSV."""


def first_results(command: Sequence[str | Path], state: Path, output: Path) -> First:
    """Start a scan, wait for its first results, and stop it; raises SystemExit if it ends without."""
    started = time.perf_counter()
    kept = published = None
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([str(part) for part in command], stdout=said, stderr=said)  # noqa: S603 - our own
        try:
            while kept is None or published is None:
                if process.poll() is not None:
                    said.seek(0)
                    raise SystemExit(f"{command}: ended first\n{said.read().decode(errors='replace')}")
                time.sleep(POLL_SECONDS)
                now = time.perf_counter() - started
                kept = now if kept is None and holds_a_slice(state) else kept
                published = now if published is None and holds_a_row(output) else published
        finally:
            process.terminate()
            process.wait()
    return First(kept, published)


def holds_a_slice(state: Path) -> bool:
    """Return whether a scan's state has a slice yet."""
    try:
        with sqlite3.connect(f"file:{state}?mode=ro", uri=True) as connection:
            return connection.execute("SELECT 1 FROM slices LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return False


def holds_a_row(output: Path) -> bool:
    """Return whether a scan's CSV has a row yet, beside its header."""
    try:
        with output.open(encoding="utf-8") as file:
            return sum(1 for _ in islice(file, 2)) == 2
    except FileNotFoundError:
        return False


def tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
        return float(used.user + used.system)
    except psutil.Error:
        return 0.0


def memory(process: psutil.Process) -> int:
    try:
        found = process.memory_full_info()
        return int(getattr(found, "pss", found.rss))
    except psutil.Error:
        return 0
