"""The three output files of a scan: slices, worklist, run record."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from hemoscan.aggregate import Study, Worklist
from hemoscan.errors import OptionError, OutputError
from hemoscan.outputs import write_atomically
from hemoscan.slices import PROBABILITY_DIGITS, Row
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
)
SEPARATOR = " | "
# Rows wait in memory up to here, then in a nameless file beside the outputs.
SPOOL_BYTES = 2**20


class Results:
    """Collects rows and writes `NAME.csv`, `NAME.studies.csv` and `NAME.run.json`, each whole or not at all."""

    def __init__(self, output: Path) -> None:
        """Check that the outputs can be written, before hours of work.

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
        for path in (self.slices_path, self.studies_path, self.record_path):
            _check_replaceable(path)
        self._worklist = Worklist()
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(output.parent))  # noqa: SIM115 - closed in __exit__
            with tempfile.TemporaryFile(dir=output.parent):
                pass
        except OSError as error:
            raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error
        self._spool.write(_line(SLICE_COLUMNS))

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    @property
    def paths(self) -> frozenset[str]:
        """Absolute paths of the three files."""
        return frozenset(map(os.path.abspath, (self.slices_path, self.studies_path, self.record_path)))

    @property
    def studies(self) -> list[Study]:
        """Studies so far, the most urgent first."""
        return list(self._worklist.ranked())

    def add(self, row: Row) -> None:
        """Take a row in; it is on the disk after the next `publish`."""
        try:
            self._spool.write(_line(_slice_cells(row)))
        except OSError as error:
            raise OutputError(f"{self.slices_path}: cannot be written: {error.strerror or error}") from error
        self._worklist.add(row)

    def publish(self, record: dict[str, Any]) -> None:
        """Write the three files as of now; a reader sees those of before or these, never half of one."""
        self._spool.seek(0)
        write_atomically(self.slices_path, lambda file: shutil.copyfileobj(self._spool, file))
        self._spool.seek(0, io.SEEK_END)
        write_atomically(self.studies_path, lambda file: file.writelines(self._study_lines()))
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.record_path, lambda file: file.write(_encode(text)))

    def _study_lines(self) -> Iterator[bytes]:
        yield _line(STUDY_COLUMNS)
        for rank, study in enumerate(self._worklist.ranked(), start=1):
            yield _line(_study_cells(rank, study))


def _check_replaceable(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_file():
        raise OptionError(f"output {path}: is no regular file; legal: the path of a CSV")
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(HEAD_BYTES))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    if kind in (DICOM, RASTER, ZIP):
        raise OptionError(f"output {path}: is an image or an archive, which is never overwritten")


def _slice_cells(row: Row) -> tuple[object, ...]:
    decoded, identity = row.decoded, row.decoded.identity
    return (
        decoded.path,
        decoded.frame,
        identity.study_uid,
        identity.series_uid,
        identity.sop_uid,
        identity.instance_number,
        None if identity.z_mm is None else f"{identity.z_mm:.3f}",
        None if row.probability is None else f"{row.probability:.{PROBABILITY_DIGITS}f}",
        None if row.flag is None else int(row.flag),
        decoded.status,
        decoded.reason,
        row.model,
        "; ".join(decoded.notes),
    )


def _study_cells(rank: int, study: Study) -> tuple[object, ...]:
    newest = study.newest_mtime
    return (
        rank,
        study.uid,
        study.n_slices,
        study.n_flagged,
        study.n_skipped,
        study.n_errors,
        None if study.score is None else f"{study.score:.{PROBABILITY_DIGITS}f}",
        None if study.score is None else int(study.n_flagged > 0),
        SEPARATOR.join(study.top_slices),
        _utc(newest),
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
