"""The output files of a scan: slices, worklist, run record; JSON lines and a page, if wanted."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from hemoscan.aggregate import Study, Worklist
from hemoscan.errors import OptionError, OutputError
from hemoscan.identifiers import COLUMNS, read_identifiers
from hemoscan.outputs import neutralise, remove_leftovers, write_atomically
from hemoscan.page import Page
from hemoscan.slices import PROBABILITY_DIGITS, Z_DIGITS, Row
from hemoscan.sniff import DICOM, HEAD_BYTES, RASTER, ZIP, sniff

SLICE_COLUMNS = (
    "path",
    "frame",
    "study_uid",
    "series_uid",
    "sop_uid",
    "instance_number",
    "z_mm",
    "probability",
    "flag",
    "status",
    "reason",
    "model",
    "notes",
)
STUDY_COLUMNS = (
    "rank",
    "study_uid",
    "n_slices",
    "n_flagged",
    "n_skipped",
    "n_errors",
    "score",
    "flag",
    "top_slices",
    "newest_file",
    "notes",
)
SEPARATOR = " | "
DECIMALS = {"z_mm": f"{{:.{Z_DIGITS}f}}", "probability": f"{{:.{PROBABILITY_DIGITS}f}}"}


class Results:
    """Writes `NAME.csv`, `NAME.studies.csv` and `NAME.run.json`, each whole or not at all."""

    def __init__(
        self,
        output: Path,
        *,
        identifiers: bool = False,
        study_threshold: float | None = None,
        jsonl: Path | None = None,
        page: Page | None = None,
    ) -> None:
        """Check that the outputs can be written, before hours of work; remove what a killed run left half written.

        Parameters
        ----------
        output
            The path of the slices' CSV.
        identifiers
            Whether the worklist has PatientID, AccessionNumber and StudyDate.
        study_threshold
            Score from which a study is flagged; None: if any of its slices is.
        jsonl
            Where the rows go as JSON lines, too; None for nowhere.
        page
            The worklist page; None for none.

        Raises
        ------
        OptionError
            If an output is a folder, a device, or an image: no study is ever overwritten.
        OutputError
            If the folder cannot be written.
        """
        if not output.name:
            raise OptionError(f"output {str(output)!r}; legal: the path of a CSV")
        self.slices_path = output
        self.studies_path = output.with_suffix(".studies.csv")
        self.record_path = output.with_suffix(".run.json")
        self.jsonl_path = jsonl
        self.page = page
        self._study_threshold = study_threshold
        self._identifiers = _Identifiers() if identifiers else None
        self._record: dict[str, Any] = {}
        self.studies: list[Study] = []
        """The studies last published, the most urgent first."""
        if len(self.paths) < len(self._outputs):
            raise OptionError(f"outputs {', '.join(map(str, self._outputs))}: two are one file; legal: different ones")
        for path in self._outputs:
            check_output(path)

    @property
    def paths(self) -> frozenset[str]:
        """Absolute paths of the files."""
        return frozenset(map(os.path.abspath, self._outputs))

    @property
    def _outputs(self) -> list[Path]:
        page = None if self.page is None else self.page.path
        wanted = (self.slices_path, self.studies_path, self.record_path, self.jsonl_path, page)
        return [path for path in wanted if path is not None]

    def publish(self, rows: Iterable[Row], record: Callable[[], dict[str, Any]]) -> None:
        """Write the files; a reader sees those of before or these, never half of one.

        Parameters
        ----------
        rows
            All rows of the slices' CSV; streamed.
        record
            Called for the run record, after the rows.

        Raises
        ------
        OutputError
            If one cannot be written.
        """
        worklist = Worklist(self._study_threshold)
        if self.page is not None:
            self.page.begin()

        def write_slices(file: IO[bytes], lines: IO[bytes] | None = None) -> None:
            file.write(_line(SLICE_COLUMNS))
            for row in rows:
                file.write(_line(_slice_cells(row)))
                worklist.add(row)
                if lines is not None:
                    lines.write(_json_line(row))
                if self.page is not None:
                    self.page.add(row)

        if self.jsonl_path is None:
            write_atomically(self.slices_path, write_slices)
        else:
            write_atomically(
                self.jsonl_path,
                lambda lines: write_atomically(self.slices_path, lambda file: write_slices(file, lines)),
            )
        self.studies = list(worklist.ranked())
        write_atomically(self.studies_path, lambda file: file.writelines(self._study_lines()))
        self._record = record()
        text = json.dumps(self._record, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.record_path, lambda file: file.write(_encode(text)))
        self.write_page()

    def write_page(self) -> None:
        """Write the page, if one is wanted, of what was last published; raises OutputError if it cannot be written."""
        if self.page is not None:
            added = self._identifiers
            identifiers = added.of if added is not None else lambda study: ()
            self.page.write(self.studies, self._record, datetime.now(UTC), identifiers)

    def _study_lines(self) -> Iterator[bytes]:
        added = self._identifiers
        yield _line(STUDY_COLUMNS if added is None else (*STUDY_COLUMNS, *COLUMNS))
        for rank, study in enumerate(self.studies, start=1):
            cells = _study_cells(rank, study)
            yield _line(cells if added is None else (*cells, *map(neutralise, added.of(study))))


class _Identifiers:
    """The identifiers of studies, each read once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, ...]] = {}

    def of(self, study: Study) -> tuple[str, ...]:
        if study.uid not in self._known:
            self._known[study.uid] = read_identifiers(study.example)
        return self._known[study.uid]


def check_output(path: Path) -> None:
    """Check that an output can be written, and remove what a killed run left of it.

    Raises
    ------
    OptionError
        If it is a folder, a device, an image or an archive.
    OutputError
        If its folder cannot be written.
    """
    _check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    remove_leftovers(path)


def _check_replaceable(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_file():
        raise OptionError(f"output {path}: is no regular file; legal: the path of a file")
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(HEAD_BYTES))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    if kind in (DICOM, RASTER, ZIP):
        raise OptionError(f"output {path}: is an image or an archive, which is never overwritten")


def _slice_values(row: Row) -> tuple[str | float | None, ...]:
    """Return the values of a row, in the order of `SLICE_COLUMNS`."""
    decoded, identity = row.decoded, row.decoded.identity
    return (
        decoded.path,
        decoded.frame,
        identity.study_uid,
        identity.series_uid,
        identity.sop_uid,
        identity.instance_number,
        None if identity.z_mm is None else round(identity.z_mm, Z_DIGITS),
        None if row.probability is None else round(row.probability, PROBABILITY_DIGITS),
        None if row.flag is None else int(row.flag),
        decoded.status,
        decoded.reason,
        row.model,
        "; ".join(decoded.notes),
    )


def _slice_cells(row: Row) -> tuple[object, ...]:
    return tuple(
        neutralise(value)
        if isinstance(value, str)
        else DECIMALS[column].format(value)
        if value is not None and column in DECIMALS
        else value
        for column, value in zip(SLICE_COLUMNS, _slice_values(row), strict=True)
    )


def _json_line(row: Row) -> bytes:
    return _encode(json.dumps(dict(zip(SLICE_COLUMNS, _slice_values(row), strict=True)), ensure_ascii=False) + "\n")


def _study_cells(rank: int, study: Study) -> tuple[object, ...]:
    newest = study.newest_mtime
    return (
        rank,
        neutralise(study.uid),
        study.n_slices,
        study.n_flagged,
        study.n_skipped,
        study.n_errors,
        None if study.score is None else f"{study.score:.{PROBABILITY_DIGITS}f}",
        None if study.flag is None else int(study.flag),
        neutralise(SEPARATOR.join(study.top_slices)),
        _utc(newest),
        neutralise("; ".join(study.notes)),
    )


def _utc(mtime: float | None) -> str | None:
    """Return a file's time as text, None for times that no calendar has, which file systems do hold."""
    try:
        return None if mtime is None else datetime.fromtimestamp(mtime, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _line(cells: tuple[object, ...]) -> bytes:
    text = io.StringIO()
    # csv quotes what is part of the line's end: a carriage return in a file's name has to be quoted, too.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return _encode(text.getvalue().removesuffix("\r\n") + "\n")


def _encode(text: str) -> bytes:
    # File names that are not UTF-8 come as lone surrogates; the outputs stay UTF-8, the bytes readable as \udcXX.
    return text.encode("utf-8", errors="backslashreplace")
