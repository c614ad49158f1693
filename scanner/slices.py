"""What passes from reading to writing: a slice with its identity, and a row of the results."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemoscan.operating import Calibration

PROBABILITY_DIGITS = 6
Z_DIGITS = 3
OK, SKIPPED, ERROR = "ok", "skipped", "error"
# Rows or columns of a slice: larger images are no CT slices, and are refused before anything is allocated.
MAX_SIDE = 4096
# Notes that decide what a study is scored by. What only the header says bears on whole series, what the content says
# on the slice: notes are compared whole, so that the first two are not taken for the last.
CONTRAST, BONE_KERNEL = "out-of-distribution: contrast", "out-of-distribution: bone kernel"
BLANK, OUT_OF_DISTRIBUTION = "blank", "out-of-distribution"


@dataclass(frozen=True)
class Identity:
    """Where a slice belongs. Nothing here identifies a patient."""

    study_uid: str = ""
    """StudyInstanceUID (0020,000D)."""
    series_uid: str = ""
    """SeriesInstanceUID (0020,000E)."""
    sop_uid: str = ""
    """SOPInstanceUID (0008,0018)."""
    instance_number: int | None = None
    """InstanceNumber (0020,0013)."""
    z_mm: float | None = None
    """Position along the slice's normal, mm."""


NOBODY = Identity()


@dataclass(frozen=True)
class HUFrame:
    """One slice as it was measured."""

    hu: NDArray[np.float32]
    """Shape (rows, columns), HU."""
    frame: int
    """Number of the frame in its file, from 1."""
    identity: Identity
    notes: tuple[str, ...] = ()
    """Every rule that was applied beyond reading."""


@dataclass(frozen=True)
class Decoded:
    """What became of one file, or of one frame of it: an input for the network, or the reason why there is none."""

    path: str
    folder: str
    mtime: float | None
    frame: int | None = None
    identity: Identity = NOBODY
    notes: tuple[str, ...] = ()
    image: NDArray[np.uint8] | None = None
    """Shape (size, size), the network's input; None unless `status` is ok."""
    field: NDArray[np.uint8] | None = None
    """Shape (224, 224), the whole field of view at 0 to 70 HU, whatever the input; None unless it was asked for."""
    status: str = OK
    reason: str = ""
    """Why the status is not ok."""
    last: bool = True
    """Whether it is the last of its file."""
    more: int | None = None
    """Frames of the file that were decoded so far, if it was left there for another task."""
    passing: bool = False
    """Whether another try may do better with the same file: a share that was away, a machine short of memory."""


def to_probability(logit: float, calibration: Calibration | None = None) -> float:
    """Return the probability, 0 to 1, of a logit, rounded to what is written, so that a reader computes the same flag.

    `calibration` is applied first; None: the logit is taken as it is.

    >>> to_probability(0.0), to_probability(-1000.0)
    (0.5, 0.0)
    """
    logit = logit if calibration is None else calibration.apply(logit)
    smaller = math.exp(-abs(logit))  # of either sign, never above 1
    return round((1 if logit >= 0 else smaller) / (1 + smaller), PROBABILITY_DIGITS)


@dataclass(frozen=True)
class Row:
    """A row of the slices' CSV."""

    decoded: Decoded
    probability: float | None
    """0 to 1; None unless the status is ok."""
    flag: bool | None
    """Whether the probability is at or above the threshold; None unless the status is ok."""
    model: str
