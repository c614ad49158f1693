"""From HU to what the network takes, built from the model's card.

The steps are those that made the data set's PNGs from DICOM: clip to a window, truncate to whole HU, resize by plain
bilinear interpolation with half-pixel centres and without antialiasing. Clipping comes first: the other order
differs by up to the window's width at the skull. A card may ask for two steps more, after these: the brain's level
aligned, and the head cut out.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hemoscan.card import InputSpec
from hemoscan.head import FRAME, align_tissue, cut_out, head_box

Taps = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]


def preprocess(hu: NDArray[np.floating] | NDArray[np.integer], spec: InputSpec) -> NDArray[np.uint8]:
    """Bring one slice to the network's input.

    Parameters
    ----------
    hu
        Shape (rows, columns), HU. Any size; a slice that is not square is padded on its shorter side, equally before
        and after (one more after), with the window's lower end: air, as outside the patient. It is never stretched.
    spec
        The input of the model's card.

    Returns
    -------
    numpy.ndarray
        Shape (size, size), uint8: whole HU within the card's window.
    """
    return focus(whole_field(hu, spec), spec)


def whole_field(hu: NDArray[np.floating] | NDArray[np.integer], spec: InputSpec) -> NDArray[np.uint8]:
    """Do the first part of `preprocess`: the whole field of view, clipped and resized, level and head as they are.

    A larger slice is brought to the size of the data set's images also where the card asks for less, which is made of
    that: so a DICOM slice has the noise and edges that the PNGs had in training.
    """
    low, high = spec.limits
    # NaN marks no measurement; it is padding, as fmax has it.
    clipped = np.fmin(np.fmax(hu, low), high).astype(np.uint8)
    square = pad_square(clipped, int(low))
    return resize_bilinear(square, FRAME if spec.crop else max(spec.size, min(len(square), FRAME)))


def focus(frame: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Do the second part of `preprocess`, with what the first one returned."""
    if spec.tissue is not None:
        frame = align_tissue(frame, spec.tissue, spec.limits)
    if spec.crop:
        frame = cut_out(frame, head_box(frame), int(spec.limits[0]))
    return resize_bilinear(frame, spec.size)


def pad_square(image: NDArray[np.uint8], value: int) -> NDArray[np.uint8]:
    """Pad the shorter side of an image of shape (rows, columns) with `value`, equally before and after."""
    rows, columns = image.shape
    missing = (max(rows - columns, 0), max(columns - rows, 0))
    if not any(missing):
        return image
    down, across = missing[1], missing[0]
    return np.pad(image, ((down // 2, down - down // 2), (across // 2, across - across // 2)), constant_values=value)


def resize_bilinear(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize an image of shape (rows, columns) to (size, size): plain bilinear, half-pixel centres, rounded to nearest.

    Pillow and torchvision's `antialias=True` blur when they shrink; the data set was made without.
    """
    if image.shape == (size, size):
        return image
    row_low, row_high, row_part = _taps(image.shape[0], size)
    low, high, part = _taps(image.shape[1], size)
    upper = _blend(image.take(row_low, 0), low, high, part)
    lower = _blend(image.take(row_high, 0), low, high, part)
    resized = upper + (lower - upper) * row_part[:, None]
    return (resized + np.float32(0.5)).astype(np.uint8)


def _blend(
    rows: NDArray[np.uint8], low: NDArray[np.intp], high: NDArray[np.intp], part: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Interpolate along the columns of an image of shape (size, columns)."""
    left = rows.take(low, 1).astype(np.float32)
    return left + (rows.take(high, 1).astype(np.float32) - left) * part


@lru_cache(maxsize=64)
def _taps(length: int, size: int) -> Taps:
    """Return, for each of `size` outputs, the two neighbours among `length` inputs and the weight of the second."""
    centres = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    low = np.floor(centres).astype(np.intp)
    return low, np.minimum(low + 1, length - 1), (centres - low).astype(np.float32)
