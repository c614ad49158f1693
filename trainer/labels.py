"""Label files: which slice holds hemorrhage, of which patient, from which site.

A CSV with a header; commas, semicolons or tabs; case, spaces, `_` and `-` in the header make no difference; other
columns are passed over:

- the slice, by the first of these that is there: `path` (or `file`, `filename`): absolute, or relative to where the
  reader looks; `SOPInstanceUID` (or `sop_uid`); `id`: a file's name without its suffix, or a SOPInstanceUID. Beside
  paths, SOPInstanceUIDs are kept for results that have no paths;
- `label` (or `class`): 0 or 1 (also 0.0, 1.0, false, true);
- optional, empty where not known: `patient` (or `patient_id`), `study` (or `study_uid`, `StudyInstanceUID`; a name
  need be no other study's of the same patient only), `group` (or `site`);
- optional `frame`: the number of the frame in its file, from 1; empty means 1.

So the Unibuc data set's `id,class` is such a file. RSNA 2019's `ID,Label` is known by its ids, `ID_x_any`,
`ID_x_epidural` and so on: only the rows `_any` are used, and `ID_x` is the SOPInstanceUID.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hemoscan.errors import DataError
from hemoscan.trainer.tables import Table, open_table, shorten

KeyKind = Literal["path", "uid", "id"]

KEY_COLUMNS: dict[KeyKind, tuple[str, ...]] = {
    "path": ("path", "file", "filename"),
    "uid": ("SOPInstanceUID", "sop_uid"),
    "id": ("id",),
}
LABEL_COLUMNS = ("label", "class")
FRAME_COLUMNS = ("frame",)
OTHER_COLUMNS = {
    "patients": ("patient", "patient_id"),
    "studies": ("study", "study_uid", "StudyInstanceUID"),
    "groups": ("group", "site"),
}
RSNA_ID = re.compile(r"(ID_\w+)_(any|epidural|intraparenchymal|intraventricular|subarachnoid|subdural)")
MAX_FRAME = 2**31
LABEL_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class Labels:
    """A label file, in its order; no slice is there twice."""

    source: Path
    """The file: relative paths in it may be meant relative to its folder."""
    keys: tuple[str, ...]
    """As in the file; RSNA's without `_any`."""
    kind: KeyKind
    """What `keys` are: paths, SOPInstanceUIDs (0008,0018), or ids: a file's name without its suffix, or a UID."""
    labels: NDArray[np.uint8]
    """Shape (n,), 1 for hemorrhage."""
    frames: NDArray[np.int64] | None = None
    """Shape (n,), from 1; None without such a column."""
    patients: tuple[str, ...] | None = None
    """Empty where not known; None if it is nowhere. So are the others."""
    studies: tuple[str, ...] | None = None
    """StudyInstanceUID (0020,000D) or another name of the study."""
    groups: tuple[str, ...] | None = None
    """Such as the site."""
    uids: tuple[str, ...] | None = None
    """SOPInstanceUIDs beside keys that are paths."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: Sequence[int]) -> Labels:
        """Return the labels at some places."""

        def at(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if values is None else tuple(values[place] for place in places)

        index = np.array(places, np.intp)
        return replace(
            self,
            keys=tuple(self.keys[place] for place in places),
            labels=self.labels[index],
            frames=None if self.frames is None else self.frames[index],
            uids=at(self.uids),
            patients=at(self.patients),
            studies=at(self.studies),
            groups=at(self.groups),
        )

    def name_of(self, place: int) -> str:
        """Return what a user finds the label by, of no other label."""
        frame = 1 if self.frames is None else self.frames[place]
        return self.keys[place] if frame == 1 else f"{self.keys[place]} frame {frame}"


def read_labels(path: Path) -> Labels:
    """Read a label file as the module's docstring specifies.

    Raises
    ------
    DataError
        If it cannot be read, lacks a column, has a slice twice or no slice at all, or a cell is out of its legal
        range; the text names file, line, column and value. RSNA's published file repeats some rows; those may, as
        long as their labels agree.
    """
    with open_table(path) as table:
        kind, key = find_key_column(table)
        if key is None:
            raise DataError(f"{path}: columns {table.columns}; legal: path, SOPInstanceUID or id among them")
        return _Reader(table, kind, key).read()


def find_key_column(table: Table) -> tuple[KeyKind, int | None]:
    """Return what names a table's slices and the place of that column; None if there is no such column."""
    for kind, names in KEY_COLUMNS.items():
        place = table.column(names)
        if place is not None:
            return kind, place
    return "id", None


def rsna_slice(table: Table, line: int, key: str) -> str | None:
    """Return the SOPInstanceUID of RSNA's id `ID_x_any`, None for its rows on one kind of hemorrhage.

    Raises
    ------
    DataError
        If the id is none of RSNA's.
    """
    parts = RSNA_ID.fullmatch(key)
    if parts is None:
        raise DataError(
            f"{table.path}, line {line}: id is {shorten(key)!r}; legal: ids such as ID_x_any, as in the rows before"
        )
    return parts[1] if parts[2] == "any" else None


def parse_frame(table: Table, line: int, cells: list[str], place: int) -> int:
    """Return the number of a frame, 1 if its cell is empty.

    Raises
    ------
    DataError
        If it is none; the text names file, line and value.
    """
    text = (cells[place] or "1").lstrip("0")
    # Its length first: int() refuses thousands of digits.
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_FRAME)) and int(text) < MAX_FRAME):
        raise table.error(line, place, cells, "1, 2, 3, ..., or empty for 1")
    return int(text)


class _Reader:
    """Reads the rows of one file."""

    def __init__(self, table: Table, kind: KeyKind, key: int) -> None:
        self.table, self.kind, self.key = table, kind, key
        label = table.column(LABEL_COLUMNS)
        if label is None:
            raise DataError(f"{table.path}: columns {table.columns}; legal: label or class among them")
        self.label = label
        self.frame = table.column(FRAME_COLUMNS)
        places = {name: table.column(columns) for name, columns in OTHER_COLUMNS.items()}
        if kind == "path":
            places["uids"] = table.column(KEY_COLUMNS["uid"])
        self.others = {name: place for name, place in places.items() if place is not None}
        self.rsna: bool | None = None if kind == "id" else False  # None: the first row tells

    def read(self) -> Labels:
        """Return what the file holds."""
        found: dict[tuple[str, int], int] = {}
        others: dict[str, list[str]] = {name: [] for name in self.others}
        for line, cells in self.table.rows:
            key = self.key_of(line, cells)
            if key is None:
                continue
            slice_, label = (key, self.frame_of(line, cells)), self.label_of(line, cells)
            if slice_ in found:
                if self.rsna and found[slice_] == label:
                    continue
                raise self.table.error(line, self.key, cells, "each slice once")
            found[slice_] = label
            for name, values in others.items():
                values.append(cells[self.others[name]])
        return self.collect(found, {name: tuple(values) for name, values in others.items() if any(values)})

    def collect(self, found: dict[tuple[str, int], int], others: dict[str, tuple[str, ...]]) -> Labels:
        if not found:
            raise DataError(f"{self.table.path}: no labels; legal: a row for each slice")
        return Labels(
            source=self.table.path,
            keys=tuple(key for key, _ in found),
            kind="uid" if self.rsna else self.kind,
            labels=np.fromiter(found.values(), np.uint8, len(found)),
            frames=None if self.frame is None else np.array([frame for _, frame in found], np.int64),
            **others,
        )

    def key_of(self, line: int, cells: list[str]) -> str | None:
        """Return what names the slice, None for RSNA's rows on one kind of hemorrhage."""
        key = cells[self.key]
        if not key:
            raise self.table.error(line, self.key, cells, "filled in every row")
        if self.rsna is None:
            self.rsna = RSNA_ID.fullmatch(key) is not None
        return rsna_slice(self.table, line, key) if self.rsna else key

    def label_of(self, line: int, cells: list[str]) -> int:
        try:
            return LABEL_VALUES[cells[self.label].lower()]
        except KeyError:
            raise self.table.error(line, self.label, cells, "0 or 1") from None

    def frame_of(self, line: int, cells: list[str]) -> int:
        return 1 if self.frame is None else parse_frame(self.table, line, cells, self.frame)
