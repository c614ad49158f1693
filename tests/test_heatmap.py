"""Class activation maps as pictures: scale, place, and nothing but the slice in them."""

from __future__ import annotations

import numpy as np
import pytest

from hemoscan import heatmap
from hemoscan.heatmap import OPACITY, PLASMA, SCALE, colour, draw_overlay, grey, upsample

LOW, HIGH = SCALE


def test_the_scale_goes_from_nothing_to_the_last_colour():
    ends = colour(np.float32([LOW - 5, LOW, HIGH, HIGH + 5, np.nan]))
    assert ends[:, 3].tolist() == [0, 0, int(255 * OPACITY), int(255 * OPACITY), 0]
    assert tuple(ends[3, :3]) == PLASMA[-1]


def test_more_is_lighter_and_never_more_transparent():
    colours = colour(np.linspace(LOW, HIGH, 200, dtype=np.float32)).astype(int)
    lightness = colours[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -1.5).all()  # whole numbers of three channels
    assert lightness[-1] > lightness[0] + 150
    assert (np.diff(colours[:, 3]) >= 0).all()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (6, 6)])
def test_a_cell_of_the_map_lies_over_its_part_of_the_slice(row: int, column: int):
    activation = np.zeros((7, 7), np.float32)
    activation[row, column] = 7
    large = upsample(activation, 224)
    assert np.unravel_index(large.argmax(), large.shape)[0] // 32 == row
    assert np.unravel_index(large.argmax(), large.shape)[1] // 32 == column
    assert large[row * 32 + 16, column * 32 + 16] == pytest.approx(7, abs=0.5)


def test_a_flat_map_stays_flat():
    assert upsample(np.full((7, 7), 3, np.float32), 56) == pytest.approx(np.full((56, 56), 3.0))


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
