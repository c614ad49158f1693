"""Viewers' exports: 0 to the largest grey value span a window. Which one, if it was not declared, and back to HU."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STRETCHED_LEVEL = 160
STRETCHED_SHARE = 0.005
STRETCHED_MEDIAN = 57
NEARLY_BLACK = 5
"""Grey values of 8 bits: what JPEG leaves of black."""
NEARLY_WHITE = 245
"""The same: what JPEG leaves of white."""
BONE = 80.0
"""HU; above what any model here is shown, so what is white is taken for bone where the window ends below."""
COARSE = 3.5
"""HU between two grey values at which blood is too few of them off brain: a window of some 900 HU of 8 bits."""
NEAR_TOP = 0.9
"""Of the largest grey value; what is brighter is bone."""
NOT_BLACK = 0.1
"""Of the largest grey value; what JPEG leaves around a skull's edge is darker."""
FEWEST_TISSUE = 400
"""Pixels of tissue below which a slice does not tell its window."""
TISSUE_LEVEL = 30
"""HU; the median of the tissue in the middle of a labelled slice is 31."""
DEFAULT_WINDOW = (40.0, 80.0)
GUESSES = (40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0, 120.0, 150.0, 200.0, 250.0, 300.0, 400.0, 700.0, 1000.0, 2000.0)
"""HU; widths as a user reads them."""


class Window(NamedTuple):
    """A window that viewers export, and what brain looks like through it, of 8 bits.

    `level` and `spread` are medians, over the data set's training slices, of what `level_and_spread` finds; `level_sd`
    and `spread_sd` the standard deviations of their natural logarithms. `tests/benchmarks/png_rule.py` measures them.
    """

    centre: float
    width: float
    """HU, both. Where the tissue lies is seen in the slice itself, so the centre only names the window."""
    share: float
    """How many exports are taken to have this window: not measured, a matter of which are usual."""
    level: float
    level_sd: float
    spread: float
    spread_sd: float


WINDOWS = (
    Window(40, 80, 0.6, 99, 0.16, 36, 0.60),  # brain
    Window(40, 120, 0.1, 108, 0.10, 24, 0.61),  # brain
    Window(40, 40, 0.08, 76, 0.35, 52, 0.44),  # stroke
    Window(80, 200, 0.06, 65, 0.10, 15, 0.61),  # subdural
    Window(60, 120, 0.05, 66, 0.19, 24, 0.60),
    Window(50, 100, 0.05, 79, 0.17, 29, 0.59),
    Window(40, 400, 0.04, 122, 0.03, 8, 0.61),  # soft tissue
    Window(50, 350, 0.02, 114, 0.03, 9, 0.61),  # soft tissue
    Window(40, 250, 0.02, 118, 0.04, 12, 0.61),
    # Bone; the level's deviation is that of such windows' centres, 300 to 700 HU, and widths: not measured.
    Window(500, 2000, 0.04, 68, 0.15, 2, 0.35),
)


def guess_window(grey: NDArray[np.integer]) -> tuple[float, float] | None:
    """Tell a viewer's stretched export from grey values that are HU, and which window it spans.

    An 8-bit slice whose values are HU ends at its window's top, 70 to 115 in nearly all, so the skull has that value
    and the brain 20 to 45. In an export that spans a window for brain, blood or soft tissue the skull is near 255 and
    brain of 30 HU at 64 (40/40, 60/120, 80/200) to 106 (40/120). Hence: stretched if at least 0.5 % of the pixels are
    160 or more and the median of those that are neither near black nor near the top is 57 or more.

    The wider the window, the less the tissue's values differ; where it lies shows in their level. The width is the
    geometric mean of those of `WINDOWS`, each as likely as it is for this level and spread, these being log-normal and
    independent. So two windows that look alike are both missed by a little, and neither by much. The tissue's level
    then is about `TISSUE_LEVEL`. With too little tissue it is 40/80.

    Parameters
    ----------
    grey
        Shape (rows, columns), 0 to 255; of 16 bits the upper eight, below 160 in all that is HU plus 1024.

    Returns
    -------
    tuple or None
        Centre and width, HU; None if the values are HU.
    """
    if np.count_nonzero(grey >= STRETCHED_LEVEL) < STRETCHED_SHARE * grey.size:
        return None
    inside = grey[(grey > NOT_BLACK * grey.max()) & (grey < NEAR_TOP * grey.max())]
    if inside.size == 0 or np.median(inside) < STRETCHED_MEDIAN:
        return None
    seen = level_and_spread(grey)
    if seen is None:
        return DEFAULT_WINDOW
    logarithms = np.array([_log_likelihood(window, *seen) for window in WINDOWS])
    likelihoods = np.exp(logarithms - logarithms.max())
    width = np.exp(np.average(np.log([window.width for window in WINDOWS]), weights=likelihoods))
    width = min(GUESSES, key=lambda guess: abs(math.log(guess / width)))
    return 5.0 * round((TISSUE_LEVEL + (0.5 - seen[0] / 255) * width) / 5), width


def level_and_spread(grey: NDArray[np.integer]) -> tuple[float, float] | None:
    """Return the median of a slice's tissue and the distance between its quartiles plus 1; None with too little of it.

    Tissue is what is neither black nor near the top within the middle of what is not black, half as high and wide.

    Parameters
    ----------
    grey
        Shape (rows, columns), 0 to 255.
    """
    bright = grey > NOT_BLACK * grey.max()
    middle = grey[_middle(bright.any(axis=1)), _middle(bright.any(axis=0))]
    tissue = middle[(middle > NEARLY_BLACK) & (middle < NEAR_TOP * grey.max())]
    if tissue.size < FEWEST_TISSUE:
        return None
    low, median, high = np.percentile(tissue, (25, 50, 75))
    return float(median), float(high - low + 1)


def _middle(line: NDArray[np.bool_]) -> slice:
    """Return the middle half of where a line has its first to its last true value; nothing if it has none."""
    found = np.flatnonzero(line)
    if found.size == 0:
        return slice(0)
    first, length = int(found[0]), int(found[-1] - found[0]) + 1
    return slice(first + length // 4, first + length - length // 4)


def _log_likelihood(window: Window, level: float, spread: float) -> float:
    far = (math.log(level / window.level) / window.level_sd) ** 2
    far += (math.log(spread / window.spread) / window.spread_sd) ** 2
    return math.log(window.share / (window.level_sd * window.spread_sd)) - far / 2


def to_hu(grey: NDArray[np.integer], depth: int, window: tuple[float, float]) -> NDArray[np.float32]:
    """Bring grey values back to HU.

    What is black lies at the window's lower end or below. Where that is above water, black is taken as 0 HU: around
    the head it is air, and a head that is found by its edge must have one. Likewise what is white lies at the upper end
    or above. Where that is below `BONE`, and above brain, white is taken as `BONE`: most of it is the skull.

    Parameters
    ----------
    grey
        Shape (rows, columns).
    depth
        Bits: 0 to 2 ** depth - 1 span the window.
    window
        Centre and width, HU.
    """
    centre, width = window
    top = 2**depth - 1
    hu = (grey.astype(np.float32) / np.float32(top) - np.float32(0.5)) * np.float32(width) + np.float32(centre)
    if centre - width / 2 > 0:
        hu[grey <= NEARLY_BLACK / 255 * top] = 0
    if TISSUE_LEVEL < centre + width / 2 < BONE:
        hu[grey >= NEARLY_WHITE / 255 * top] = BONE
    return hu


def is_coarse(depth: int, width: float) -> bool:
    """Tell whether a window, its width in HU, is too wide for blood to show in grey values of so many bits."""
    return bool(width / (2**depth - 1) >= COARSE)
