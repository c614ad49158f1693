"""Scanning hostile files by the hundred, and counting what becomes of them."""

from __future__ import annotations

import collections
import csv
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mutations import make_bases, write_mutant
from numpy.typing import NDArray
from pydicom.data import get_testdata_files
from pydicom.data.data_manager import DATA_ROOT

from hemoscan.card import BRAIN, Card, Model
from hemoscan.decode import DecodeOptions
from hemoscan.results import Results
from hemoscan.scan import Job, ScanOptions, scan
from hemoscan.state import State

MODEL = Model(Card("densenet-bias", "densenet121", BRAIN, 0.5, "none.safetensors", "0" * 64), Path("nowhere"))
FILES_PER_SCAN = 500


class MeanEngine:
    """Scores a slice by its mean: what is tested is what comes before."""

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = images.mean(axis=(1, 2)) / 255
        return found

    def describe(self) -> dict[str, str]:
        return {"name": "mean", "device": "none", "precision": "exact"}


@dataclass
class Survey:
    """What became of many files."""

    files: int = 0
    rows: collections.Counter[str] = field(default_factory=collections.Counter)
    """Rows by status."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """Files that ended or outlasted a decoder process, and the reason."""
    without_row: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    """Resident bytes of the scanning process after each scan, on Linux."""

    def add(self, files: Iterable[Path], rows: list[dict[str, str]]) -> None:
        """Count in the rows that a scan gave to some files."""
        of_file = collections.Counter(row["path"].partition("!")[0] for row in rows)
        for path in files:
            self.files += 1
            if not of_file[str(path)]:
                self.without_row.append(path.name)
        for row in rows:
            self.rows[row["status"]] += 1
            if "crashed its decoder" in row["reason"] or "took longer" in row["reason"]:
                self.lost.append((Path(row["path"]).name, row["reason"]))
        if sys.platform == "linux":
            self.memory.append(
                int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
            )


def scan_rows(paths: list[Path], output: Path, file_timeout: float = 60.0) -> list[dict[str, str]]:
    """Scan with two decoder processes, and return the rows."""
    options = ScanOptions(DecodeOptions(BRAIN), 0.5, 16, 2, file_timeout=file_timeout)
    with State(output.with_name("state.sqlite")) as state:
        scan(Job(paths, MODEL, MeanEngine(), options, {}), Results(output), state)
    with output.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def shipped_files() -> list[Path]:
    """Return the files that pydicom brings with it for its tests, without those that it would download."""
    found = (Path(path) for path in get_testdata_files())
    return sorted(path for path in found if path.is_file() and path.is_relative_to(DATA_ROOT))


def survey_shipped() -> Survey:
    """Scan pydicom's test files."""
    survey = Survey()
    with tempfile.TemporaryDirectory() as folder:
        survey.add(shipped_files(), scan_rows(shipped_files(), Path(folder, "out.csv")))
    return survey


def survey_mutants(count: int) -> Survey:
    """Scan so many damaged files."""
    survey = Survey()
    for files, rows in _scans(count):
        survey.add(files, rows)
    return survey


def _scans(count: int) -> Iterator[tuple[list[Path], list[dict[str, str]]]]:
    bases = make_bases()
    for first in range(0, count, FILES_PER_SCAN):
        with tempfile.TemporaryDirectory() as folder:
            numbers = range(first, min(first + FILES_PER_SCAN, count))
            files = [write_mutant(bases, number, Path(folder, "in")) for number in numbers]
            yield files, scan_rows([Path(folder, "in")], Path(folder, "out.csv"))
