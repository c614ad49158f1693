"""Stored values of a CT frame to HU. docs/reading.md has the rules in prose."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import get_j2k_parameters
from pydicom.uid import JPEG2000TransferSyntaxes

from hemoscan.elements import group_with, integer, number, string, values
from hemoscan.errors import ImageError, NotForModelError

RESCALE = "PixelValueTransformationSequence"
RESCALE_TAGS = {"RescaleSlope": "0028,1053", "RescaleIntercept": "0028,1052"}
AIR_HU = -1024.0
LOWEST_12_BIT_HU = -1024
PLAUSIBLE_MEDIAN_HU = (-200.0, 900.0)
# A quarter of the rows and columns tells the median as well, in a twentieth of the time.
PLAUSIBLE_STEP = 4


def to_hu(
    stored: NDArray[np.number[Any]], header: Dataset, index: int = 0, *, repair_12_bit: bool = True
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Turn stored values into HU: `stored * RescaleSlope + RescaleIntercept` (DICOM PS3.3, C.11.1).

    Parameters
    ----------
    stored
        Shape (rows, columns), as decoded.
    header
        The data set; a frame's own functional groups come before the shared ones and the top level.
    index
        Of the frame, from 0.
    repair_12_bit
        Whether wrapped 12-bit values are unwrapped, see `unwrap_12_bit`.

    Returns
    -------
    hu
        Shape (rows, columns), HU; padding is air.
    notes
        The rules that were applied beyond that.

    Raises
    ------
    ImageError
        If slope or intercept is no number, or the slope is 0; the text names tag and value.
    NotForModelError
        If RescaleType says that the values are no HU.
    """
    notes: list[str] = []
    _check_unit(header, index)
    padding = is_padding(stored, header)
    slope = _rescale(header, index, "RescaleSlope")
    if slope is None:
        slope = 1.0
        notes.append(f"RescaleSlope ({RESCALE_TAGS['RescaleSlope']}) absent: 1 taken")
    intercept = _rescale(header, index, "RescaleIntercept")
    if intercept is None:
        intercept = guess_intercept(stored if padding is None else stored[~padding])
        tag = RESCALE_TAGS["RescaleIntercept"]
        notes.append(f"RescaleIntercept ({tag}) absent: {intercept:g} taken from the values")
    measured = stored.astype(np.float32)
    unsigned_12_bit = integer(header, "BitsStored") == 12 and integer(header, "PixelRepresentation") == 0
    if repair_12_bit and unsigned_12_bit and intercept > -100 and slope == 1:
        measured, changed = unwrap_12_bit(measured)
        notes += ["12-bit values unwrapped"] * changed
    hu = measured * np.float32(slope) + np.float32(intercept)
    if padding is not None:
        hu[padding] = AIR_HU
    if string(header, "PhotometricInterpretation") == "MONOCHROME1":
        notes.append("MONOCHROME1: display only, HU unchanged")
    if _sign_differs(header, index):
        notes.append("JPEG 2000 sign corrected")
    return hu, (*notes, *implausible(hu))


def _check_unit(header: Dataset, index: int) -> None:
    unit = string(group_with(header, index, RESCALE, "RescaleType"), "RescaleType")
    if unit not in ("HU", "US", ""):  # US: unspecified, which scanners write for HU
        raise NotForModelError(f"RescaleType (0028,1054) is {unit!r}; legal: HU, US")


def _rescale(header: Dataset, index: int, keyword: str) -> float | None:
    """Return a frame's slope or intercept, None if it is absent or empty."""
    group = group_with(header, index, RESCALE, keyword)
    if not values(group, keyword):
        return None
    value = number(group, keyword)
    if value is None or (keyword == "RescaleSlope" and value == 0):
        found = str(group.get(keyword))
        raise ImageError(f"{keyword} ({RESCALE_TAGS[keyword]}) is {found!r}; legal: a number, not 0 for the slope")
    return value


def unwrap_12_bit(stored: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
    """Undo a defect of some RSNA files: HU in 12 unsigned bits without an offset, so that negative ones wrapped.

    Of the HU that 12 bits hold, -1024 to 3071, the negative ones are stored as 3072 to 4095 and get 4096 taken off. A
    heuristic: metal of 3072 HU or more in a file that is not defective would be taken for air. It can be turned off,
    and a note says where it changed anything.

    Returns
    -------
    tuple
        Values of the same shape, and whether any is another than before.
    """
    wrapped = stored >= 4096 + LOWEST_12_BIT_HU
    if not wrapped.any():
        return stored, False
    return np.where(wrapped, stored - 4096, stored).astype(np.float32), True


def guess_intercept(stored: NDArray[np.number[Any]]) -> float:
    """Return -1024 if the values look like HU + 1024 (none below 0, a tenth in 1024 to 1124: soft tissue), else 0."""
    if not stored.size or stored.min() < 0:
        return 0.0
    tissue = np.count_nonzero((stored >= 1024) & (stored <= 1124))
    return -1024.0 if tissue >= 0.1 * stored.size else 0.0


def implausible(hu: NDArray[np.float32]) -> tuple[str, ...]:
    """Return a note if what is not air has a median that no head has, such as values that were never rescaled."""
    sample = hu[::PLAUSIBLE_STEP, ::PLAUSIBLE_STEP]
    body = sample[sample > -500]
    if body.size < 0.02 * sample.size:
        return ()
    low, high = PLAUSIBLE_MEDIAN_HU
    median = float(np.median(body))
    if low <= median <= high:
        return ()
    return (f"implausible HU: median outside air {median:.0f}; expected {low:g} to {high:g}",)


def is_padding(stored: NDArray[np.number[Any]], header: Dataset) -> NDArray[np.bool_] | None:
    """Return, of shape (rows, columns), what is padding (PS3.3, C.7.5.1.1.2), one value or a range; None without.

    The values may be written as signed beside unsigned pixels or the other way round, and wider than BitsStored, to
    which decoded pixels were cut: they are cut to the same bits.
    """
    first = integer(header, "PixelPaddingValue")
    if first is None:
        return None
    last = integer(header, "PixelPaddingRangeLimit")
    bits = integer(header, "BitsStored") or 8 * stored.itemsize
    limits = [_cut(value, bits, signed=stored.dtype.kind == "i") for value in (first, first if last is None else last)]
    inside: NDArray[np.bool_] = (stored >= min(limits)) & (stored <= max(limits))
    return inside


def _cut(value: int, bits: int, *, signed: bool) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value


def _sign_differs(header: Dataset, index: int) -> bool:
    """Tell whether a JPEG 2000 codestream has another sign than PixelRepresentation (0028,0103); pydicom mends it."""
    if header.file_meta.TransferSyntaxUID not in JPEG2000TransferSyntaxes or "PixelData" not in header:
        return False
    try:
        stream = get_frame(header.PixelData, index, number_of_frames=integer(header, "NumberOfFrames") or 1)
    except ValueError:
        return False
    signed = get_j2k_parameters(stream).get("is_signed")
    return signed is not None and bool(signed) != bool(header.get("PixelRepresentation"))
