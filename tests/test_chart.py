"""The scores of a series along z."""

from __future__ import annotations

import re

import pytest

from hemoscan.chart import HEIGHT, MAX_BARS, WIDTH, Points, draw_chart


def bars(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(rf"M([\d.]+) {HEIGHT}V([\d.]+)", path)]


def points(*slices: tuple[float | None, int | None, float]) -> Points:
    made = Points()
    for z, number, score in slices:
        made.add(z, number, score)
    return made


def test_slices_stand_in_the_order_of_z():
    chart = draw_chart(points((10, 1, 0.25), (-5, 2, 0.75), (0, 3, 0.5)), 0.6)
    assert bars(chart.flagged) == [(WIDTH / 6, HEIGHT * 0.25)]
    assert bars(chart.bars) == [(WIDTH / 2, HEIGHT * 0.5), (WIDTH * 5 / 6, HEIGHT * 0.75)]
    assert chart.span == "z -5 to 10 mm"
    assert chart.line == f"{HEIGHT * 0.4:.1f}"
    assert chart.n_slices == 3


def test_without_positions_by_number_and_without_numbers_in_order():
    by_number = draw_chart(points((None, 2, 0.5), (None, 1, 0.25)), 1)
    assert [y for _, y in bars(by_number.bars)] == [HEIGHT * 0.75, HEIGHT * 0.5]
    assert by_number.span == ""
    in_order = draw_chart(points((None, None, 0.5), (None, None, 0.25)), 1)
    assert [y for _, y in bars(in_order.bars)] == [HEIGHT * 0.5, HEIGHT * 0.75]


def test_a_score_at_the_threshold_is_flagged_as_in_the_csv():
    assert draw_chart(points((0, 1, 0.640705)), 0.640705).flagged
    assert draw_chart(points((0, 1, 0.6407)), 0.640705).bars


def test_thousands_of_slices_share_bars_and_lose_no_peak():
    many = Points()
    for number in range(5000):
        many.add(0.5 * number, number, 0.9 if number == 1234 else 0.1)
    chart = draw_chart(many, 0.5)
    assert len(bars(chart.flagged)) == 1
    assert len(bars(chart.bars)) == MAX_BARS - 1
    assert chart.n_slices == 5000


def test_what_is_said_of_the_scores():
    chart = draw_chart(points((5.0, 1, 0.2), (5.2, 2, 0.7), (5.4, 3, 0.5)), 0.5)
    assert (chart.n_flagged, chart.n_slices) == (2, 3)
    assert chart.highest == pytest.approx(0.7)
    assert chart.span == "z 5 mm", "not from 5 to 5"
