"""The run folder: of every finished training a record and the logits of the slices that it had not seen.

docs/training.md describes the files; tables and plots are made from them alone.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hemoscan.errors import ResultsError, TrainingError
from hemoscan.outputs import write_atomically
from hemoscan.trainer.legal import SHARE, TEXT, Legal, Maybe, Schema, check, whole
from hemoscan.trainer.splits import Slices, Split

RECORD_FORMAT = 1
FORMAT = Legal(str(RECORD_FORMAT), lambda value: type(value) is int and value == RECORD_FORMAT)
COUNT = whole(0, 10**9)
AT_THRESHOLD: Schema = {
    **dict.fromkeys(("true_positives", "false_positives", "false_negatives", "true_negatives"), COUNT),
    "accuracy": SHARE,
    **dict.fromkeys(("precision", "recall", "f1"), Maybe(SHARE)),
}
FINISHED: Schema = {
    "format": FORMAT,
    "key": TEXT,
    "sha256": Maybe(TEXT),  # records of earlier versions lack it
    "history": [{"size": whole(32, 1024)}],
    "metrics": {
        "n": COUNT,
        "positives": COUNT,
        "auc": SHARE,
        "average_precision": SHARE,
        "auc_group_balanced": Maybe(SHARE),
        "auc_within_groups": Legal(
            "an object of 0 to 1", lambda value: isinstance(value, dict) and all(map(SHARE.fits, value.values()))
        ),
        "at_0.5": AT_THRESHOLD,
        "at_cross_fitted_threshold": Maybe(AT_THRESHOLD),
        "threshold": SHARE,
    },
}
"""What `hemoscan train` uses of the record of a training that is done."""
HELD_OUT_COLUMNS = ("id", "label", "group", "logit")
CLUSTER = "cluster"
"""The last column of the held-out slices, a number that says nothing of a patient; run folders of before lack it."""
TEST_COLUMNS = ("id", "logit")
# Said of a run folder whose lock is taken; what starts trainings knows it by this.
HELD = "another training is running there"

Logits = NDArray[np.float32]
Cell = TypeVar("Cell")


@dataclass(frozen=True)
class RunFiles:
    """The files of one experiment on one division."""

    folder: Path
    stem: str
    """`<experiment>.<division>`."""

    @property
    def record(self) -> Path:
        """JSON: how it was trained, and its figures. Written last, so a record means that all the others are there."""
        return self.folder / f"{self.stem}.json"

    @property
    def held_out(self) -> Path:
        """CSV of the held-out slices: id, label, group, logit, cluster."""
        return self.folder / f"{self.stem}.csv"

    @property
    def test(self) -> Path:
        """CSV of the test slices: id, logit."""
        return self.folder / f"{self.stem}.test.csv"

    def write(self, record: dict[str, Any], held_out: tuple[Split, Logits], test: tuple[Slices, Logits] | None) -> None:
        """Write all that a finished training leaves.

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        split, logits = held_out
        numbers = (values.tolist() for values in (split.labels, split.groups))
        columns = zip(split.ids, *numbers, _texts(logits), split.clusters.tolist(), strict=True)
        write_csv(self.held_out, (*HELD_OUT_COLUMNS, CLUSTER), columns)
        if test is None:
            self.test.unlink(missing_ok=True)  # of an earlier training
        else:
            write_csv(self.test, TEST_COLUMNS, zip(test[0].ids, _texts(test[1]), strict=True))
        text = json.dumps({"format": RECORD_FORMAT, **record}, indent=1) + "\n"
        write_atomically(self.record, lambda file: file.write(text.encode()))

    def read(self) -> dict[str, Any] | None:
        """Return the record, None if there is none.

        Raises
        ------
        TrainingError
            If it is none of this format, or lacks what is used of it; the text names file, key, value and legal range.
        """
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            check(record, FINISHED)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise TrainingError(
                f"{self.record}: not the record of a training ({error}); remove it or name another --run-dir"
            ) from error
        return dict(record)

    def read_held_out(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], Logits]:
        """Return labels, groups and logits of the held-out slices, each of shape (n,).

        Raises
        ------
        ResultsError
            If they cannot be read.
        """
        path, cells = self.held_out, read_columns(self.held_out, HELD_OUT_COLUMNS, (CLUSTER,))
        read_integers(path, CLUSTER, cells.get(CLUSTER, []))  # the last column: a file that was cut is noticed here
        return (
            read_labels(path, cells["label"]),
            read_integers(path, "group", cells["group"]),
            read_numbers(path, "logit", cells["logit"]).astype(np.float32),
        )

    def damaged(self, held_out: Split, test: Slices | None) -> list[str]:
        """Return the names of the CSVs that are not there, cannot be read, or are not of these slices."""
        found = [self.held_out.name] + [self.test.name] * (test is not None)
        with contextlib.suppress(ResultsError):
            labels, groups, _ = self.read_held_out()
            if np.array_equal(labels, held_out.labels) and np.array_equal(groups, held_out.groups):
                found.remove(self.held_out.name)
        with contextlib.suppress(ResultsError):
            if test is not None and len(self._read_test()) == len(test):
                found.remove(self.test.name)
        return found

    def _read_test(self) -> NDArray[np.float64]:
        """Return the test slices' logits, of shape (n,)."""
        return read_numbers(self.test, "logit", read_columns(self.test, TEST_COLUMNS)["logit"])


def key_of(identity: dict[str, Any]) -> str:
    """Return a hash of what two trainings must share to be the same: for the record, which must name no path."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _texts(logits: Logits) -> list[str]:
    return [f"{value:.9g}" for value in logits.tolist()]  # nine digits give a float32 back


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    # File names that are not UTF-8 come as lone surrogates: as in the outputs of a scan, readable as \udcXX.
    write_atomically(path, lambda file: file.write(text.getvalue().encode(errors="backslashreplace")))


def read_columns(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the cells of some columns of a CSV of a run folder, of `optional` ones as far as they are there.

    Raises
    ------
    ResultsError
        If it cannot be read or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            header = reader.fieldnames or ()
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(f"{path}: cannot be read: {error}") from error
    if not set(names) <= set(header):
        raise ResultsError(f"{path}: header {','.join(header)}; legal: {','.join(names)}")
    found = [*names, *(name for name in optional if name in header)]
    return {name: [row[name] for row in rows] for name in found}


def read_numbers(path: Path, column: str, values: Sequence[str]) -> NDArray[np.float64]:
    """Return a column's cells as numbers, of shape (n,).

    Raises
    ------
    ResultsError
        If one is no finite number; the text names file, line, column and value.
    """
    return np.array(_read_cells(path, column, values, _finite, "finite numbers"), np.float64)


def read_integers(path: Path, column: str, values: Sequence[str]) -> NDArray[np.int64]:
    """Return a column's cells, such as `70` or `70.0`, as integers, of shape (n,).

    Raises
    ------
    ResultsError
        If one is no integer of 64 bits; the text names file, line, column and value.
    """
    return np.array(_read_cells(path, column, values, _integer, "integers of 64 bits"), np.int64)


def read_labels(path: Path, values: Sequence[str]) -> NDArray[np.uint8]:
    """Return the cells of the column `label`, of shape (n,).

    Raises
    ------
    ResultsError
        If one is neither 0 nor 1; the text names file, line and value.
    """
    return np.array(_read_cells(path, "label", values, _label, "labels 0 and 1"), np.uint8)


def _read_cells(path: Path, column: str, values: Sequence[str], read: Callable[[str], Cell], legal: str) -> list[Cell]:
    """Return what `read`, which raises ValueError where a cell is not legal, makes of a column's cells."""
    found = []
    for line, value in enumerate(values, 2):
        try:
            found.append(read(value))
        except ValueError as error:
            raise ResultsError(f"{path}, line {line}: {column} {reprlib.repr(value)}; legal: {legal}") from error
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _integer(text: str) -> int:
    # Not by way of a float, which has 53 bits: numbers of clusters would become one.
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise ValueError from error
    bounds = np.iinfo(np.int64)
    if not (value.is_finite() and bounds.min <= value <= bounds.max and value == value.to_integral_value()):
        raise ValueError
    return int(value)


def _label(text: str) -> int:
    value = _integer(text)
    if value not in (0, 1):
        raise ValueError
    return value
