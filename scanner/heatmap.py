"""Class activation maps as pictures: translucent colour over the slice as the network saw it."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from typing import IO

import numpy as np
import png
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Colours of the upper half of matplotlib's plasma at equal steps: their lightness rises, also for the colour-blind. The
# lower half is darker than brain: laid over it, it would look like a hypodensity.
PLASMA = ((204, 71, 120), (230, 108, 92), (248, 149, 64), (253, 197, 39), (240, 249, 33))
# Fixed, not each slice's own: colours of two slices can be compared. Logits, from the bottom of the scale to its top,
# whose colour is also that of all above.
SCALE = (0.0, 16.0)
# Of the colour: rises from none at the bottom of the scale to this at a quarter of it, and stays.
OPACITY = 0.4
OVERLAY_NOTICE = "FOR RESEARCH USE ONLY, NOT FOR DIAGNOSIS"

_SIDE = 448
_BAR = 76
_LINE = 22
# PNG, 9.2: filter type; 11.2.2: colour type.
_UP, _RGB = 2, 2


def colour(activation: NDArray[np.float32], size: tuple[int, int] | None = None) -> Image.Image:
    """Return a map of shape (h, w), in logits, as a picture in RGBA: nothing at the bottom of `SCALE` and below.

    `size` is the picture's (width, height), to which the map is brought bilinearly, with half-pixel centres; None:
    the map's own.

    >>> np.asarray(colour(np.float32([[-3.0, 99.0]])))[0].tolist()
    [[204, 71, 120, 0], [240, 249, 33, 102]]
    """
    low, high = SCALE
    values = np.clip(np.nan_to_num(activation, nan=low), -1e6, 1e6)  # what lies between neighbours stays finite
    # Pillow cuts off what is behind the point, hence the half, and what is below 0 or above 255.
    image = Image.fromarray((255 * (values - low) / (high - low) + 0.5).astype(np.float32))
    if size is not None:
        image = image.resize(size, Image.Resampling.BILINEAR)
    found = image.convert("L")
    found.putpalette(_palette(), "RGBA")
    return found.convert("RGBA")


@lru_cache(maxsize=1)
def _palette() -> bytes:
    """Return the scale in 256 steps, RGBA."""
    share = np.linspace(0, 1, 256)
    steps = np.linspace(0, 1, len(PLASMA))
    channels = [np.interp(share, steps, [stop[channel] for stop in PLASMA]) for channel in range(3)]
    return np.stack([*channels, 255 * OPACITY * np.minimum(4 * share, 1)], axis=-1).astype(np.uint8).tobytes()


def grey(image: NDArray[np.uint8], limits: tuple[float, float]) -> Image.Image:
    """Return an input of the network, HU between the limits, as a picture from black to white."""
    low, high = limits
    share = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)
    return Image.fromarray((255 * share + 0.5).astype(np.uint8))


def draw_overlay(
    image: NDArray[np.uint8], activation: NDArray[np.float32], limits: tuple[float, float], caption: str
) -> Image.Image:
    """Draw a slice with its map, a scale and the notice.

    Parameters
    ----------
    image
        Shape (size, size), HU: the network's input.
    activation
        Shape (h, w), logits: the class activation map.
    limits
        Lowest and highest value of the input, HU.
    caption
        What stands below, besides the notice; nothing that identifies a patient.

    Returns
    -------
    PIL.Image.Image
        RGB, without metadata.
    """
    picture = _frame().copy()
    picture.paste(grey(image, limits).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    heat = colour(activation, (_SIDE, _SIDE))
    picture.paste(heat, mask=heat)
    low, high = limits
    text = f"{caption} · {low:g} to {high:g} HU"
    ImageDraw.Draw(picture).text((6, _SIDE + _LINE), text, fill="white", font=_font(14))
    return picture


def write_png(picture: Image.Image, file: IO[bytes]) -> None:
    """Write an RGB picture as PNG (W3C, Portable Network Graphics), each row as its difference from the one above.

    Pillow tries all filters on every row, which takes twice as long for files no smaller.
    """
    pixels = np.asarray(picture).reshape(picture.height, -1)
    rows = np.full((picture.height, 1 + pixels.shape[1]), _UP, np.uint8)
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    header = struct.pack(">2I5B", picture.width, picture.height, 8, _RGB, 0, 0, 0)
    png.write_chunks(file, [(b"IHDR", header), (b"IDAT", zlib.compress(rows.data, 1)), (b"IEND", b"")])


@lru_cache(maxsize=1)
def _frame() -> Image.Image:
    """Return what all overlays share: the scale and the notice."""
    picture = Image.new("RGB", (_SIDE + _BAR, _SIDE + 2 * _LINE))
    draw = ImageDraw.Draw(picture)
    _draw_scale(picture, draw)
    draw.text((6, _SIDE + 3), OVERLAY_NOTICE, fill="white", font=_font(14))
    return picture


@lru_cache(maxsize=2)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_scale(picture: Image.Image, draw: ImageDraw.ImageDraw) -> None:
    """Draw the colours as they look over grey, with their values."""
    low, high = SCALE
    top, bottom = 56, _SIDE - 24
    values = np.linspace(high, low, bottom - top, dtype=np.float32)
    bar = colour(np.repeat(values[:, None], 14, axis=1))
    ground = Image.new("RGB", bar.size, (96, 96, 96))
    ground.paste(bar, mask=bar)
    picture.paste(ground, (_SIDE + 8, top))
    font = _font(12)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - share * (bottom - top)
        more = "+" if share == 1 else ""
        draw.text((_SIDE + 27, y), f"{low + share * (high - low):g}{more}", fill="white", font=font, anchor="lm")
    draw.text((_SIDE + 8, 8), "activation,\nlogits", fill="white", font=font)
