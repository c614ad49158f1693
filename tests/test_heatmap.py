"""Class activation maps as pictures: scale, place, and nothing but the slice in them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hemoscan import heatmap
from hemoscan.heatmap import OPACITY, PLASMA, SCALE, colour, draw_overlay, grey, write_png

LOW, HIGH = SCALE


def rgba(activation: Any, size: tuple[int, int] | None = None) -> NDArray[np.int64]:
    return np.asarray(colour(np.asarray(activation, np.float32), size)).astype(int)


def test_the_scale_goes_from_nothing_to_the_last_colour():
    ends = rgba([[LOW - 5, LOW, HIGH, HIGH + 5, np.nan, np.inf, -np.inf]])[0]
    assert ends[:, 3].tolist() == [0, 0, int(255 * OPACITY), int(255 * OPACITY), 0, int(255 * OPACITY), 0]
    assert tuple(ends[3, :3]) == PLASMA[-1]


def test_more_is_lighter_and_never_more_transparent():
    colours = rgba(np.linspace(LOW, HIGH, 200)[None])[0]
    lightness = colours[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -1.5).all()  # whole numbers of three channels
    assert lightness[-1] > lightness[0] + 100
    assert (np.diff(colours[:, 3]) >= 0).all()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (6, 6)])
def test_a_cell_of_the_map_lies_over_its_part_of_the_slice(row: int, column: int):
    activation = np.zeros((7, 7))
    activation[row, column] = HIGH / 4
    alpha = rgba(activation, (224, 224))[..., 3]
    assert np.unravel_index(alpha.argmax(), alpha.shape)[0] // 32 == row
    assert np.unravel_index(alpha.argmax(), alpha.shape)[1] // 32 == column
    assert alpha[row * 32 + 16, column * 32 + 16] == pytest.approx(255 * OPACITY, rel=0.07)
    rows, columns = np.nonzero(alpha)
    assert max(abs(rows - (32 * row + 15.5)).max(), abs(columns - (32 * column + 15.5)).max()) < 32


def test_a_flat_map_stays_flat():
    large = rgba(np.full((7, 7), 9.7), (56, 40))
    assert large.shape == (40, 56, 4)
    assert (large == rgba([[9.7]])).all()


@pytest.mark.parametrize("shape", [(492, 524), (1, 1), (3, 2)])
def test_a_png_holds_the_picture_bit_by_bit_and_nothing_else(shape: tuple[int, int]):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    file = io.BytesIO()
    write_png(Image.fromarray(pixels), file)
    with Image.open(file) as read:
        assert (read.format, read.mode, read.info) == ("PNG", "RGB", {})
        assert (np.asarray(read) == pixels).all()


def test_grey_spans_the_window():
    picture = np.asarray(grey(np.array([[0, 35, 70, 80]], np.uint8), (0, 70)))
    assert picture.tolist() == [[0, 128, 255, 255]]


def test_an_overlay_colours_only_where_the_map_is_above_the_scale_s_bottom():
    image = np.full((224, 224), 35, np.uint8)
    activation = np.full((7, 7), LOW - 1, np.float32)
    plain = np.asarray(draw_overlay(image, activation, (0, 70), "x")).astype(int)
    activation[1, 2] = HIGH
    drawn = np.asarray(draw_overlay(image, activation, (0, 70), "x")).astype(int)
    changed = np.abs(drawn - plain).sum(axis=2) > 0
    assert (plain[:448, :448] == 128).all()
    assert changed[1 * 64 + 32, 2 * 64 + 32]
    assert not changed[4 * 64 :, :].any()
    assert not changed[:, 5 * 64 :].any()


def test_the_notice_is_in_the_pixels(monkeypatch: pytest.MonkeyPatch):
    image, activation = np.zeros((224, 224), np.uint8), np.zeros((7, 7), np.float32)
    with_notice = np.asarray(draw_overlay(image, activation, (0, 70), "x"))
    monkeypatch.setattr("hemoscan.heatmap.OVERLAY_NOTICE", "")
    monkeypatch.setattr("hemoscan.heatmap._frame", heatmap._frame.__wrapped__)
    without = np.asarray(draw_overlay(image, activation, (0, 70), "x"))
    written = np.abs(with_notice.astype(int) - without).sum(axis=2) > 0
    assert np.count_nonzero(written) > 500
    assert not written[:448].any(), "it hides nothing of the slice"
    assert draw_overlay(image, activation, (0, 70), "x").info == {}
