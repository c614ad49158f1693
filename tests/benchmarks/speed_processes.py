"""Processes run to their end, with their time, and the memory and CPU time of all that they start."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Looking costs the machine some ms a process, which is part of what is measured.
SAMPLE_SECONDS = 0.25


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
