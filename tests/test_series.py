"""The order of slices, what is there twice, what is missing, and smoothing: known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemoscan.series import Series, count_missing, natural_key, smooth
from hemoscan.slices import OUT_OF_DISTRIBUTION, Decoded, Identity, Row


def row(
    probability: float,
    *,
    path: str = "/study/1",
    z: float | None = None,
    number: int | None = None,
    sop: str = "",
    frame: int = 1,
    notes: tuple[str, ...] = (),
) -> Row:
    decoded = Decoded(path, "/study", None, frame, Identity("1", "1.1", sop, number, z), notes)
    return Row(decoded, probability, probability >= 0.5, "densenet-bias")


def series_of(*rows: Row) -> Series:
    series = Series()
    for item in rows:
        series.add(item)
    return series


def score(*rows: Row) -> float | None:
    return series_of(*rows).result(strange=False).score


def nan(count: int) -> np.ndarray:
    return np.full(count, np.nan)


def test_smoothing_weighs_as_said():
    weighed = smooth(np.array([0.0, 0.9, 0.3, 0.0]))
    expected = [(0.6 * 0.9) / 2.4, (1.8 * 0.9 + 0.6 * 0.3) / 3, (0.6 * 0.9 + 1.8 * 0.3) / 3, (0.6 * 0.3) / 2.4]
    np.testing.assert_allclose(weighed, expected, rtol=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_smoothing_stays_within_its_values(values: list[float]):
    weighed = smooth(np.array(values))
    assert weighed.shape == (len(values),)
    assert weighed.min() >= min(values) - 1e-12
    assert weighed.max() <= max(values) + 1e-12


def test_slices_are_neighbours_by_position_not_by_the_order_in_which_they_came():
    # Along the body: 0.9, 0.9, 0.0, 0.0; as they came, the two stand apart.
    assert score(row(0.9, z=0), row(0.0, z=10), row(0.9, z=5), row(0.0, z=15)) == pytest.approx(0.9)
    assert score(row(0.9, z=0), row(0.0, z=5), row(0.9, z=10), row(0.0, z=15)) == pytest.approx(1.8 * 0.9 / 2.4)


def test_position_goes_before_instance_number():
    rows = [row(0.9, z=0, number=1), row(0.0, z=10, number=2), row(0.9, z=5, number=3)]
    assert score(*rows) == pytest.approx(0.9)


def test_instance_number_orders_where_a_position_is_unknown():
    assert score(row(0.9, number=1), row(0.0, number=3), row(0.9, number=2)) == pytest.approx(0.9)


def test_paths_order_where_nothing_else_does():
    assert score(row(0.9, path="/s/2"), row(0.0, path="/s/10"), row(0.9, path="/s/1")) == pytest.approx(0.9)


def test_one_slice_is_its_own_score():
    assert score(row(0.123457)) == 0.123457


def test_a_copy_counts_once():
    result = series_of(row(0.9, sop="7", z=0), row(0.9, sop="7", z=0), row(0.0, sop="8", z=5)).result(strange=False)
    assert (result.n_slices, result.n_flagged, result.n_twice) == (2, 1, 1)
    assert result.score == pytest.approx(1.8 * 0.9 / 2.4)  # not 0.9, as if the copy were a neighbour


def test_slices_at_one_place_count_once_with_the_highest_probability():
    result = series_of(row(0.2, sop="7", z=0), row(0.8, sop="8", z=0)).result(strange=False)
    assert (result.n_slices, result.n_flagged, result.n_twice, result.score) == (1, 1, 1, 0.8)


def test_one_position_on_all_slices_is_no_position():
    rows = [row(0.9, sop="1", z=0, number=1), row(0.0, sop="2", z=0, number=3), row(0.9, sop="3", z=0, number=2)]
    result = series_of(*rows, row(0.9, sop="3", z=0, number=2)).result(strange=False)
    assert (result.n_slices, result.n_flagged, result.n_twice, result.n_missing) == (3, 2, 1, 0)
    assert result.score == pytest.approx(0.9)  # neighbours by InstanceNumber


@pytest.mark.parametrize("numbers", [(7, 7, 7), (None, None, None), (None, 7, None)])
def test_slices_at_one_place_that_no_number_tells_apart_are_copies(numbers: tuple[int | None, ...]):
    result = series_of(*(row(0.1, sop=str(at), z=0, number=number) for at, number in enumerate(numbers)))
    assert (len(result), result.result(strange=False).n_slices) == (3, 1)


def test_two_positions_are_positions():
    rows = [row(0.1, sop=str(at), z=at // 2, number=at) for at in range(4)]
    assert series_of(*rows).result(strange=False).n_slices == 2


def test_frames_of_one_file_are_no_copies():
    result = series_of(*(row(0.1, sop="7", frame=frame) for frame in (1, 2, 3))).result(strange=False)
    assert (result.n_slices, result.n_twice) == (3, 0)


def test_slices_without_uid_are_no_copies():
    assert series_of(row(0.1, path="/s/1"), row(0.1, path="/s/2")).result(strange=False).n_slices == 2


def test_strange_slices_do_not_count_unless_asked():
    series = series_of(row(0.4, z=0, notes=(OUT_OF_DISTRIBUTION,)), row(0.2, z=5), row(0.2, z=10))
    whole = pytest.approx((1.8 * 0.4 + 0.6 * 0.2) / 2.4)
    assert series.result(strange=False).score == 0.2
    assert series.result(strange=True).score == whole
    assert series.result(strange=False, threshold=0.35).score == whole
    assert series.result(strange=False, threshold=0.36).score == 0.2


def test_a_flagged_strange_slice_counts():
    series = series_of(row(0.9, z=0, notes=(OUT_OF_DISTRIBUTION,)), row(0.2, z=5), row(0.2, z=10))
    result = series.result(strange=False)
    assert (result.score, result.by_strange) == (pytest.approx((1.8 * 0.9 + 0.6 * 0.2) / 2.4), True)


def test_a_series_of_strange_slices_alone_has_no_score():
    assert series_of(row(0.4, notes=(OUT_OF_DISTRIBUTION,))).result(strange=False).score is None


def test_positions_that_are_written_alike_are_one_place():
    """So that a page made of the CSV says the same."""
    assert series_of(row(0.2, sop="7", z=5.0), row(0.8, sop="8", z=5.0 + 1e-9)).result(strange=False).n_slices == 1


def test_slices_of_one_number_stand_in_the_order_in_which_they_came():
    """Hashes of texts differ from run to run, results must not."""
    slices = [row(value, sop=f"1.{place}", number=1) for place, value in enumerate((0.1, 0.7, 0.3, 0.9, 0.2, 0.8))]
    smoothed = smooth(np.array([0.1, 0.7, 0.3, 0.9, 0.2, 0.8]))
    assert score(*slices) == pytest.approx(smoothed.max())


@pytest.mark.parametrize(
    ("z", "missing"),
    [
        ([0, 5, 10, 15, 20], 0),
        ([0, 5, 15, 20, 25], 1),
        ([0, 5, 10, 15, 20, 30, 40, 45, 50, 55, 60], 2),
        ([0, 5, 25, 30, 35], 1),
        ([0, 2.5, 5, 7.5, 10, 15, 20, 25, 30], 0),  # thin below, thick above
        ([0, 5, 10, 15, 17.5, 20, 22.5, 25], 0),
        ([0, 2.5, 5, 7.5, 10, 15, 20, 30, 35, 40, 45], 1),
        ([0, 5.001, 10, 14.999, 20], 0),
        ([0, 5], 0),
        ([0], 0),
    ],
)
def test_gaps_in_positions_are_counted(z: list[float], missing: int):
    assert count_missing(np.array(z, float), nan(len(z))) == missing


@pytest.mark.parametrize(
    ("numbers", "missing"), [([1, 2, 3, 4], 0), ([5, 6, 7], 0), ([1, 2, 4, 5, 7, 8, 9], 2), ([1, 3, 5, 7], 0), ([], 0)]
)
def test_missing_instance_numbers_are_counted_where_positions_are_unknown(numbers: list[float], missing: int):
    assert count_missing(nan(len(numbers)), np.array(numbers, float)) == missing


def test_paths_are_sorted_as_people_number_them():
    assert sorted(["s10", "s9", "a", "s1b2", "s1b10"], key=natural_key) == ["a", "s1b2", "s1b10", "s9", "s10"]


def test_many_slices_are_small_numbers():
    series = Series()
    for number in range(20_000):
        series.add(row(0.5 if number == 777 else 0.0, z=number / 10, number=number, sop=f"1.2.{number}"))
    assert not series._names
    result = series.result(strange=False)
    assert (result.n_slices, result.score, result.n_missing) == (20_000, pytest.approx(0.3), 0)
