"""`hemoscan objects`: DICOM objects of the studies that a scan flagged, for a PACS."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from hemoscan.aggregate import Study, Worklist, study_of
from hemoscan.card import Model
from hemoscan.dicom import configure_pydicom
from hemoscan.errors import ExtraError, ObjectError
from hemoscan.origin import read_origin
from hemoscan.outputs import remove_leftovers, write_atomically
from hemoscan.redraw import redraw
from hemoscan.reread import Reread
from hemoscan.resilient import Engine
from hemoscan.slices import Row

if TYPE_CHECKING:
    from hemoscan.finding import Finding, Slice

BATCH_SIZE = 16
# What `storescu --rename` appends to files that it has sent.
SENT = ".done"

_log = logging.getLogger(__name__)


@dataclass
class Written:
    """What became of the flagged studies."""

    studies: int = 0
    """Flagged ones with objects, of this run or an earlier one."""
    refused: int = 0
    """Flagged ones without."""
    reports: int = 0
    """Structured Reports that this run wrote."""
    captures: int = 0
    """Secondary Captures that this run wrote."""
    lacking: int = 0
    """Flagged slices without Secondary Capture: their files are gone, or no longer score as they did."""

    @property
    def return_code(self) -> int:
        """0 done; 4 done, with a flagged study or slice that has no object."""
        return 4 if self.refused or self.lacking else 0


@dataclass
class _Flagged:
    """Rows of a study: those that are flagged, and the one with the highest probability."""

    rows: list[Row] = field(default_factory=list)
    best: Row | None = None

    def add(self, row: Row) -> None:
        if row.flag:
            self.rows.append(row)
        if self.best is None or (row.probability or 0) > (self.best.probability or 0):
            self.best = row


def check_extra() -> None:
    """Raise ExtraError unless highdicom is installed."""
    if importlib.util.find_spec("highdicom") is None:
        raise ExtraError("DICOM objects need highdicom, which is not installed: pip install 'hemoscan[dicom]'")


def write_objects(found: Reread, model: Model, folder: Path, *, load: Callable[[Model], Engine]) -> Written:
    """Write a Structured Report of each flagged study, and a Secondary Capture of each of its flagged slices.

    Their UIDs follow from study, model and result, so an object is written once: not again if it is in the folder,
    with or without the `.done` of one that was sent.

    Parameters
    ----------
    found
        What the scan left behind.
    model
        What it was scored by.
    folder
        Gets a folder a study, named after its StudyInstanceUID.
    load
        Loads what makes the heatmaps, called only if one is lacking.

    Returns
    -------
    Written
        What was done.

    Raises
    ------
    ExtraError
        If highdicom is not installed.
    OptionError
        If the results cannot be read.
    OutputError
        If an object cannot be written.
    """
    check_extra()
    configure_pydicom()
    written, captures = Written(), _Captures()
    for study, flagged in _flagged_studies(found):
        try:
            finding = _finding(study, flagged, found, model)
            place = folder / finding.study_uid
            written.reports += _write(place / f"SR.{finding.report_uid}.dcm", finding.make_report)
        except ObjectError as error:
            _log.warning("study %s is flagged but has no DICOM objects: %s", study.uid, error)
            written.refused += 1
            continue
        written.studies += 1
        captures.want(finding, place)
    if captures.wanted:
        rows = [each.row for _, each, _ in captures.wanted.values()]
        written.lacking = redraw(
            rows, captures, load(model), found.decoding, calibration=found.calibration, batch_size=BATCH_SIZE
        )
        written.lacking += captures.failed
    written.captures = captures.written
    return written


class _Captures:
    """Writes the captures of slices that are given to it with their maps."""

    def __init__(self) -> None:
        self.wanted: dict[tuple[str, int | None], tuple[Finding, Slice, Path]] = {}
        """By path and frame."""
        self.written, self.failed = 0, 0

    def want(self, finding: Finding, place: Path) -> None:
        """Note which captures of a study are lacking."""
        for found in finding.slices:
            path = place / f"SC.{finding.capture_uid(found)}.dcm"
            if not _exists(path):
                self.wanted[found.row.decoded.path, found.row.decoded.frame] = finding, found, path

    def take(self, row: Row, image: NDArray[np.uint8], activation: NDArray[np.float32]) -> None:
        """Write the capture of a slice; raises OutputError if it cannot be written."""
        finding, found, path = self.wanted[row.decoded.path, row.decoded.frame]
        try:
            self.written += _write(path, lambda: finding.make_capture(found, image, activation))
        except ObjectError as error:
            _log.warning("slice %s is flagged but has no capture: %s", found.origin.sop_uid, error)
            self.failed += 1


def _flagged_studies(found: Reread) -> Iterator[tuple[Study, _Flagged]]:
    """Yield flagged studies, the most urgent first, with their flagged slices, or with the highest if none is."""
    worklist, slices = Worklist(found.study_threshold), dict[str, _Flagged]()
    for row in found.rows:
        worklist.add(row)
        if row.probability is not None:
            slices.setdefault(study_of(row), _Flagged()).add(row)
    for study in worklist.ranked():
        if study.flag:
            yield study, slices[study.uid]


def _finding(study: Study, flagged: _Flagged, found: Reread, model: Model) -> Finding:
    """Read what the objects refer to; raises ObjectError if there can be none."""
    from hemoscan.finding import Finding, Slice  # noqa: PLC0415 - highdicom may be missing

    rows = flagged.rows or [row for row in (flagged.best,) if row is not None]
    slices = {each.key: each for each in (Slice(row, read_origin(row.decoded)) for row in rows)}
    ids = {(each.origin.copied["PatientID"], each.origin.copied.get("IssuerOfPatientID")) for each in slices.values()}
    if len(ids) > 1:
        raise ObjectError("PatientID (0010,0020) differs between its slices; legal: one patient a study")
    score = 0.0 if study.score is None else study.score
    return Finding(model.card, found.threshold, found.decoding.spec.limits, score, list(slices.values()))


def _exists(path: Path) -> bool:
    return path.exists() or path.with_name(path.name + SENT).exists()


def _write(path: Path, make: Callable[[], Dataset]) -> bool:
    """Write an object unless it is there; tell whether it was written."""
    if _exists(path):
        return False
    try:
        made = make()
    except Exception as error:  # whatever a header leads highdicom to; its text may quote the header
        raise ObjectError(f"highdicom raised {type(error).__name__}") from error
    remove_leftovers(path)
    write_atomically(path, lambda file: made.save_as(file, enforce_file_format=True))
    return True
