"""Files with the scores to be evaluated: the slices of `hemoscan scan`, or another tool's CSV.

A CSV with a header, as label files are (`hemoscan.trainer.labels`); other columns are passed over:

- the slice: `path`, `SOPInstanceUID` or `sop_uid`, or `id`; paths and UIDs are both used where both are there;
- the score, higher for hemorrhage: `probability` (or `prob`, `score`, `prediction`, `y_score`, `y_prob`), or the column
  that the caller names; a row without score is counted, not scored; `probability` beside `status` is 0 to 1;
- optional `flag` (or `flagged`), 0 or 1; `frame`, from 1; `study_uid` (or `study`, `StudyInstanceUID`);
- optional `status`, as `hemoscan scan` writes it: rows that are not `ok` are counted, not scored. In such a file the
  apostrophe before cells that a spreadsheet would run is taken away (`hemoscan.outputs.restore`).

RSNA 2019's submission form, `ID,Label` with `ID_x_any` and probabilities, is such a file, too.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemoscan.errors import DataError, OptionError
from hemoscan.outputs import restore
from hemoscan.slices import OK
from hemoscan.trainer.labels import (
    FRAME_COLUMNS,
    KEY_COLUMNS,
    LABEL_COLUMNS,
    LABEL_VALUES,
    OTHER_COLUMNS,
    RSNA_ID,
    parse_frame,
    rsna_slice,
)
from hemoscan.trainer.tables import Table, open_table

PROBABILITY = "probability"
SCORE_COLUMNS = (PROBABILITY, "prob", "score", "prediction", "y_score", "y_prob")
FLAG_COLUMNS = ("flag", "flagged")
WITHOUT_SCORE = "without score"


@dataclass(frozen=True)
class Scores:
    """The scored rows of a file, in its order."""

    source: Path
    paths: tuple[str, ...]
    """As in the file; empty where there is none."""
    uids: tuple[str, ...]
    """SOPInstanceUIDs (0008,0018), or ids; empty where there is none."""
    frames: NDArray[np.int64]
    """Shape (n,), from 1."""
    scores: NDArray[np.float64]
    """Shape (n,), finite, higher for hemorrhage."""
    flags: NDArray[np.bool_] | None
    """Shape (n,); None without such a column."""
    studies: tuple[str, ...]
    """StudyInstanceUID (0020,000D); empty where there is none."""
    left_out: dict[str, int]
    """How many rows have no score, by their status."""
    without: Scores | None = None
    """Rows without score, as far as they name their slice: they tell its study; their `scores` are 0."""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def are_probabilities(self) -> bool:
        """Whether all scores lie in 0 to 1."""
        return bool(((self.scores >= 0) & (self.scores <= 1)).all())

    def name_of(self, row: int) -> str:
        """Return what a user finds the row by."""
        name = self.paths[row] or self.uids[row]
        return name if self.frames[row] == 1 else f"{name} frame {self.frames[row]}"


def read_scores(path: Path, score_column: str | None = None, *, probabilities: bool = False) -> Scores:
    """Read a file of scores as the module's docstring specifies; with `probabilities` all have to be 0 to 1.

    Raises
    ------
    DataError
        If it cannot be read, lacks a column, or a cell is out of its legal range; the text names file, line and value.
    OptionError
        If there is no such `score_column`.
    """
    with open_table(path) as table:
        return _Reader(table, score_column, probabilities).read()


@dataclass(frozen=True)
class _Row:
    path: str
    uid: str
    frame: int
    study: str
    score: float | None = None
    flag: bool = False


class _Reader:
    """Reads the rows of one file."""

    def __init__(self, table: Table, score_column: str | None, probabilities: bool) -> None:
        self.table = table
        self.path, self.uid = (table.column(KEY_COLUMNS[kind]) for kind in ("path", "uid"))
        if self.uid is None:
            self.uid = table.column(KEY_COLUMNS["id"])
        if self.path is None and self.uid is None:
            raise self.lacks("path, SOPInstanceUID or id")
        self.score = self.score_place(score_column)
        self.status, self.flag, self.frame, self.study = (
            table.column(names) for names in (("status",), FLAG_COLUMNS, FRAME_COLUMNS, OTHER_COLUMNS["studies"])
        )
        own = self.status is not None and self.score == table.column((PROBABILITY,))  # as a scan writes it
        self.low, self.high = (0.0, 1.0) if probabilities or own else (-math.inf, math.inf)
        self.rsna: bool | None = None  # the first row tells
        self.left_out: Counter[str] = Counter()

    def score_place(self, asked: str | None) -> int:
        if asked is not None:
            place = self.table.column((asked,))
            if place is None:
                raise OptionError(f"score column {asked!r}; legal, in {self.table.path}: {self.table.columns}")
            return place
        try:
            place = self.table.column(SCORE_COLUMNS)
        except DataError as error:
            raise DataError(f"{error}; --score-column tells which") from error
        if place is None and len(self.table.header) == 2:  # RSNA's submissions call a probability a label
            place = self.table.column(LABEL_COLUMNS)
        if place is None:
            raise self.lacks(f"{' or '.join(SCORE_COLUMNS)}, or the one that --score-column names,")
        return place

    def lacks(self, columns: str) -> DataError:
        return DataError(f"{self.table.path}: columns {self.table.columns}; legal: {columns} among them")

    def read(self) -> Scores:
        """Return what the file holds."""
        found = [row for line, cells in self.table.rows if (row := self.row_of(line, cells)) is not None]
        rows = [row for row in found if row.score is not None]
        if not rows:
            raise DataError(f"{self.table.path}: no scored slice; legal: at least one")
        without = [row for row in found if row.score is None and (row.path or row.uid)]
        return replace(
            self.collect(rows), left_out=dict(self.left_out), without=self.collect(without) if without else None
        )

    def collect(self, rows: list[_Row]) -> Scores:
        return Scores(
            source=self.table.path,
            paths=tuple(row.path for row in rows),
            uids=tuple(row.uid for row in rows),
            frames=np.array([row.frame for row in rows], np.int64),
            scores=np.array([row.score or 0.0 for row in rows]),
            flags=None if self.flag is None else np.array([row.flag for row in rows]),
            studies=tuple(row.study for row in rows),
            left_out={},
        )

    def row_of(self, line: int, cells: list[str]) -> _Row | None:
        """Return what a row says, None if it is not used."""
        status = self.cell(cells, self.status)
        path, uid, study = (self.text(cells, place) for place in (self.path, self.uid, self.study))
        if self.rsna is None:
            self.rsna = self.path is None and RSNA_ID.fullmatch(uid) is not None
        if self.rsna:
            slice_ = rsna_slice(self.table, line, uid)
            if slice_ is None:
                return None
            uid = slice_
        if (self.status is not None and status != OK) or not cells[self.score]:
            self.left_out[status if status != OK and status else WITHOUT_SCORE] += 1
            return _Row(path, uid, self.frame_of(line, cells), study)
        if not (path or uid):
            raise DataError(f"{self.table.path}, line {line}: has neither path nor UID; legal: one of them")
        return _Row(path, uid, self.frame_of(line, cells), study, self.score_of(line, cells), self.flag_of(line, cells))

    @staticmethod
    def cell(cells: list[str], place: int | None) -> str:
        return "" if place is None else cells[place]

    def text(self, cells: list[str], place: int | None) -> str:
        """Return a cell, of a scan's CSV as it was before it was made harmless for spreadsheets."""
        cell = self.cell(cells, place)
        return cell if self.status is None else restore(cell)

    def frame_of(self, line: int, cells: list[str]) -> int:
        return 1 if self.frame is None else parse_frame(self.table, line, cells, self.frame)

    def score_of(self, line: int, cells: list[str]) -> float:
        try:
            score = float(cells[self.score])
        except ValueError:
            score = math.nan
        if not (math.isfinite(score) and self.low <= score <= self.high):
            raise self.table.error(line, self.score, cells, "0 to 1" if self.high == 1 else "a finite number")
        return score

    def flag_of(self, line: int, cells: list[str]) -> bool:
        if self.flag is None:
            return False
        try:
            return bool(LABEL_VALUES[cells[self.flag].lower()])
        except KeyError:
            raise self.table.error(line, self.flag, cells, "0 or 1") from None
