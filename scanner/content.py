"""Whether a slice looks like what the models were trained on: a ring of bone around tissue, within the frame.

The limits lie outside what the data set's labelled slices show, by `tests/benchmarks/content_check.py` (docs/reading.md
has the figures). They tell other parts of the body, frames filled to the edge, metal and HU that are none; they do not
tell a head scanned for another reason from one that was scanned for a bleed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hemoscan.slices import BLANK, OUT_OF_DISTRIBUTION

FOREGROUND = 10
"""HU; brighter than water."""
BONE = 69
"""HU; the frame ends at 70."""
RAYS = 72
LEAST_FOREGROUND = 0.02
LEAST_RING = 0.5
# A head too large for its frame leaves it at one side or two, a trunk at three. No labelled hemorrhage has three sides
# of more than 0.1; of the one trunk with a ring of bone among pydicom's files the third has 0.25.
CUT_SIDE = 0.15
MOST_CUT_SIDES = 2
MOST_BONE = 0.3
MOST_CAVITY = 0.2
METAL = 3000
"""HU; bone stays below, and 12 bits end at 3071."""
BODY = -200
"""HU; brighter than air, and than most of a pillow."""
MOST_METAL = 0.003


def content_notes(frame: NDArray[np.uint8]) -> tuple[str, ...]:
    """Say what a slice is, if it is not a head on its usual background.

    Parameters
    ----------
    frame
        Shape (size, size), whole HU clipped to 0 to 70, the whole field of view.

    Returns
    -------
    tuple
        `blank`: less than 2 % of the frame is brighter than water, as above the head.
        `out-of-distribution`: seen from the middle of the largest bright part, bone lies in less than half of all
        directions; or three sides of the frame cut a body off, more than 15 % of each being bright; or more than 30 %
        of the frame is bone, as of metal or of an MR's values; or more than 20 % of it is cavity or fat within the
        body. Else nothing.
    """
    bright = frame >= FOREGROUND
    if bright.mean() < LEAST_FOREGROUND:
        return (BLANK,)
    labels, _ = ndimage.label(bright)
    head = _filled(labels == np.bincount(labels[bright]).argmax())
    strange = (
        _ring(frame, head) < LEAST_RING
        or _cut_sides(frame) > MOST_CUT_SIDES
        or (head & (frame >= BONE)).mean() > MOST_BONE
        or (head & ~bright).mean() > MOST_CAVITY
    )
    return (OUT_OF_DISTRIBUTION,) if strange else ()


def flooded_by_metal(hu: NDArray[np.floating]) -> bool:
    """Tell whether more than 0.3 % of the body, about 60 mm2 of a head, is as dense as metal only is.

    Its streaks then cross much of the slice. A clip or a wire takes less.

    Parameters
    ----------
    hu
        Shape (rows, columns), HU before any window; NaN where nothing was measured.
    """
    return bool(np.count_nonzero(hu >= METAL) > MOST_METAL * np.count_nonzero(hu > BODY))


def _ring(frame: NDArray[np.uint8], head: NDArray[np.bool_]) -> float:
    """Return the share of directions, seen from the head's centre, that meet bone."""
    down, across = _rays(frame.shape[0])
    row, column = (_middle(head.sum(axis=axis)) for axis in (1, 0))
    rows = np.round(row + down).astype(np.intp)
    columns = np.round(column + across).astype(np.intp)
    inside = (rows >= 0) & (rows < frame.shape[0]) & (columns >= 0) & (columns < frame.shape[1])
    values = frame[np.where(inside, rows, 0), np.where(inside, columns, 0)]
    return float((inside & (values >= BONE)).any(axis=1).mean())


def _middle(counts: NDArray[np.integer]) -> float:
    """Return the mean place of what is counted along a side."""
    return float((counts * np.arange(len(counts))).sum() / counts.sum())


@lru_cache(maxsize=8)
def _rays(length: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rows and columns of points up to `length` away in every direction, each of shape (RAYS, length)."""
    angle = np.linspace(0, 2 * np.pi, RAYS, endpoint=False)[:, None]
    distance = np.arange(length)
    return np.sin(angle) * distance, np.cos(angle) * distance


def _filled(part: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a part with its holes filled, as scipy's binary_fill_holes does in more than twice the time."""
    labels, count = ndimage.label(~part)
    outside = np.zeros(count + 1, bool)
    outside[np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1]))] = True
    outside[0] = False
    return np.asarray(~outside[labels])


def _cut_sides(frame: NDArray[np.uint8]) -> int:
    """Return how many sides of the frame cut through what is brighter than its background, which may be lifted."""
    sides = np.stack((frame[0], frame[-1], frame[:, 0], frame[:, -1])).astype(np.int16)
    return int(np.count_nonzero((sides >= sides.min() + FOREGROUND).mean(axis=1) > CUT_SIDE))
