"""PNG and JPEG to HU.

A grey value is not a HU by itself. Three kinds are met, and `notes` says which rule was applied:

- the data set's kind: the value is the HU (RSNA slices clipped to a soft-tissue window that starts at 0 HU, not
  stretched);
- a viewer's export: 0 to 255 spans a window, such as 40/80 or 40/120, and has to be brought back to HU;
- 16-bit grey, as written by converters: the value is the HU plus 1024.

`--png-window C,W` declares the second kind, of 8 or 16 bits. Undeclared, the values themselves tell (see
`hemoscan.stretched`).
"""

from __future__ import annotations

import io

import numpy as np
import png
from numpy.typing import NDArray
from PIL import Image

from hemoscan.bounds import check_inflated
from hemoscan.errors import ImageError, NotForModelError
from hemoscan.slices import MAX_SIDE, OUT_OF_DISTRIBUTION
from hemoscan.stretched import guess_window, is_coarse, to_hu
from hemoscan.text import without_addresses

COLOUR_TOLERANCE = 16
HU_OFFSET_16_BIT = 1024


def read_raster(
    content: bytes, png_window: tuple[float, float] | None = None
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Read a PNG or JPEG.

    Parameters
    ----------
    content
        The file.
    png_window
        Centre and width in HU that 0 to the largest value of the file's depth span; None to have it told by the values.

    Returns
    -------
    hu
        Shape (rows, columns), HU.
    notes
        How grey values became HU; `out-of-distribution` if they are of a window too wide to show blood.

    Raises
    ------
    ImageError
        If the file cannot be decoded, or is larger than `MAX_SIDE`.
    NotForModelError
        If it is a colour picture.
    """
    grey, depth = _grey(content)
    window = png_window or guess_window(grey >> (depth - 8))
    if window is not None:
        name = f"{window[0]:g},{window[1]:g}"
        note = f"png-window {name} declared" if png_window else f"stretched export: window {name} guessed"
        return to_hu(grey, depth, window), (note, OUT_OF_DISTRIBUTION) if is_coarse(depth, window[1]) else (note,)
    if depth == 16:
        return grey.astype(np.float32) - HU_OFFSET_16_BIT, ("16-bit grey taken as HU + 1024",)
    return grey.astype(np.float32), ("grey taken as HU",)


def _grey(content: bytes) -> tuple[NDArray[np.integer], int]:
    """Decode to one channel of shape (rows, columns) and its depth in bits, 8 or 16."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if max(image.width, image.height) > MAX_SIDE:
                raise ImageError(f"{image.width} x {image.height} pixels; legal: up to {MAX_SIDE} x {MAX_SIDE}")
            if _is_16_bit_colour(content):
                return _decode_16_bit(content), 16
            return _one_channel(image)
    except (ImageError, NotForModelError):
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ValueError and more
        raise ImageError(f"cannot be decoded: {without_addresses(str(error))}") from error


def _one_channel(image: Image.Image) -> tuple[NDArray[np.integer], int]:
    if image.mode.startswith("I"):  # Pillow's modes for 16-bit grey PNG
        return np.asarray(image).astype(np.int32), 16
    if image.mode in ("L", "1", "LA"):
        return np.asarray(image.convert("L")), 8
    if image.mode == "P":  # a palette may have a transparent colour, which goes before the others
        image = image.convert("RGBA")
    rgb = image.convert("RGB")
    pixels = np.asarray(rgb)
    _check_grey(pixels, COLOUR_TOLERANCE)
    equal = np.array_equal(pixels[:, :, 0], pixels[:, :, 1]) and np.array_equal(pixels[:, :, 1], pixels[:, :, 2])
    return pixels[:, :, 0] if equal else np.asarray(rgb.convert("L")), 8


def _check_grey(pixels: NDArray[np.integer], tolerance: int) -> None:
    """Check that the channels, the last axis, are about equal: JPEG rounds them apart, colours differ by far more."""
    spread = pixels.max(axis=2).astype(np.int32) - pixels.min(axis=2)
    if np.count_nonzero(spread > tolerance) > 0.001 * spread.size:
        raise NotForModelError("a colour picture, not a CT slice")


def _is_16_bit_colour(content: bytes) -> bool:
    """Tell a PNG of 16 bits with more than one channel (PNG specification, 11.2.1): Pillow keeps 8 of its bits only."""
    return content.startswith(b"\x89PNG") and content[24] == 16 and content[25] != 0


def _decode_16_bit(content: bytes) -> NDArray[np.integer]:
    """Decode with pypng, slower than Pillow, which keeps all 16 bits; of shape (rows, columns).

    It inflates whatever there is, so what is more than the image is refused first.
    """
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    # Four channels of 16 bits; a filter byte a row, in each of seven passes if interlaced (PNG, 8.1 and 9.1).
    limit = height * width * 8 + 7 * (height + 7)
    check_inflated((data for kind, data in png.Reader(bytes=content).chunks() if kind == b"IDAT"), limit)
    _, _, rows, info = png.Reader(bytes=content).read()
    pixels = np.stack([np.asarray(row, np.int32) for row in rows])
    pixels = pixels.reshape(len(pixels), -1, info["planes"])  # (rows, columns, channels)
    colours = pixels[:, :, : 1 if info["greyscale"] else 3]
    _check_grey(colours, COLOUR_TOLERANCE * 256)
    return np.asarray(colours[:, :, 0])
