"""The head within a slice: its brightness brought to a common level, its surroundings cut away.

Scanners, kernels and exports differ by some HU in the level of the same brain, and heads fill 33 to 85 % of the frame.
A model whose card asks for it is shown neither difference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRAME = 224
"""Rows and columns of a slice before the head is cut out: the data set's own size, so that no slice is sharper."""
MAX_SHIFT = 20
"""HU by which a slice is shifted at most: more is not the calibration of a scanner but another body part."""
TISSUE = (8, 62)
"""HU between which brain, blood and muscle lie, and neither fluid, fat nor bone."""
FEWEST_TISSUE = 400
FOREGROUND = 10
SMALLEST_SHARE = 0.02
SMALLEST_SIDE = FRAME // 2
MARGIN = 1.06


def align_tissue(frame: NDArray[np.uint8], level: float, limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Shift a slice so that the median of its central tissue is `level` HU.

    Parameters
    ----------
    frame
        Shape (rows, columns), whole HU within `limits`.
    level
        HU. A slice with too little tissue to tell, such as one above the head, is left as it is.
    limits
        Lowest and highest value, HU. What was clipped to them, air and bone, stays there.
    """
    top, left, side = head_box(frame)
    inner = side // 5
    centre = frame[max(top + inner, 0) : top + side - inner, max(left + inner, 0) : left + side - inner]
    tissue = centre[(centre >= TISSUE[0]) & (centre <= TISSUE[1])]
    if tissue.size < FEWEST_TISSUE * frame.size / FRAME**2:
        return frame
    shift = round(min(max(level - float(np.median(tissue)), -MAX_SHIFT), MAX_SHIFT))
    low, high = limits
    grey = np.arange(256)
    inside = (grey > low) & (grey < high)
    shifted: NDArray[np.uint8] = np.where(inside, np.clip(grey + shift, low, high), grey).astype(np.uint8)[frame]
    return shifted


def head_box(frame: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Find the square around the head: top row, left column and side, in pixels; it may reach over the frame's edge.

    The head is the largest connected part of what is brighter than water. A frame without one is taken whole, and the
    square is never smaller than half the frame, so that a slice through the vertex keeps its scale.
    """
    from scipy import ndimage  # noqa: PLC0415 - slow to import, and only some cards ask for it

    rows = len(frame)
    labels, count = ndimage.label(frame >= FOREGROUND)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    if not count or sizes.max() < SMALLEST_SHARE * frame.size:
        return 0, 0, rows
    head = labels == sizes.argmax() + 1
    (top, bottom), (left, right) = _extent(head.any(axis=1)), _extent(head.any(axis=0))
    side = round(min(max(MARGIN * max(bottom - top, right - left), SMALLEST_SIDE * rows / FRAME), rows))
    return round((top + bottom - side) / 2), round((left + right - side) / 2), side


def _extent(line: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the first index that is true, and the one after the last."""
    found = np.flatnonzero(line)
    return int(found[0]), int(found[-1]) + 1


def cut_out(frame: NDArray[np.uint8], box: tuple[int, int, int], value: int) -> NDArray[np.uint8]:
    """Return the square of shape (side, side) that `box` names; what lies beyond the frame's edge is `value`."""
    top, left, side = box
    rows, columns = frame.shape
    square = np.full((side, side), value, frame.dtype)
    first, before = max(top, 0), max(left, 0)
    last, behind = min(top + side, rows), min(left + side, columns)
    square[first - top : last - top, before - left : behind - left] = frame[first:last, before:behind]
    return square
