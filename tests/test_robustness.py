"""The changes of the robustness table: each does what its row says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from robustness import CHANGES, EXPORT_WINDOWS, HEADER_WINDOWS, batched, chosen

from hemoscan.card import BRAIN
from hemoscan.phantom import make_phantom
from hemoscan.preprocess import preprocess

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """A slice as the data set has them: whole HU from 0 to the top of a header's window."""
    return np.clip(make_phantom("subdural", slices=8, size=224, seed=0).hu[4], 0, 80).round().astype(np.float32)


def test_all_positives_are_taken_and_negatives_at_even_steps():
    labels = np.zeros(100, np.uint8)
    labels[[3, 50, 99]] = 1
    found = chosen(labels, 13)
    assert {3, 50, 99} <= set(found.tolist())
    assert len(found) == 13
    assert np.all(np.diff(found) > 0)
    negatives = found[labels[found] == 0]
    assert negatives[0] == 0
    assert negatives[-1] == 98
    assert set(np.diff(negatives)) <= {10, 11, 12}


def test_more_than_there_are_is_all():
    assert chosen(np.array([0, 1, 0], np.uint8), 600).tolist() == [0, 1, 2]


def test_batches_keep_all_in_order():
    assert list(batched((np.float32([i]) for i in range(5)), 2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(("centre", "width"), HEADER_WINDOWS)
def test_another_header_window_changes_nothing_that_the_network_sees(head: np.ndarray, centre: int, width: int):
    changed = CHANGES[f"DICOM whose header window is {centre}/{width}"](head, RNG(0))
    assert np.array_equal(changed, head)
    windowed = np.clip(head, centre - width / 2, centre + width / 2)
    seen = preprocess(((windowed - centre) / width + 0.5) * 255, BRAIN)
    assert not np.array_equal(seen, preprocess(head, BRAIN)), "a window that is applied would be seen"


@pytest.mark.parametrize(("centre", "width"), EXPORT_WINDOWS)
def test_an_export_that_is_declared_comes_back_as_hu(head: np.ndarray, centre: int, width: int):
    found = CHANGES[f"PNG stretched at {centre}/{width}, declared"](head, RNG(0))
    bottom, top = centre - width / 2, centre + width / 2
    # What is nearly black, or nearly white, is air or bone where the window starts above it, or ends below it.
    lowest = bottom + (6 * width / 255 if bottom > 0 else 0)
    highest = top - (11 * width / 255 if top < 80 else 0)
    inside = (head > 0) & (head < 80) & (head >= lowest) & (head <= highest)
    assert np.abs(found - head)[inside].max() <= width / 255
    assert (found[head >= 80] >= 79).all()
    assert (found[head == 0] <= max(bottom, 0)).all()


@pytest.mark.parametrize(("centre", "width"), EXPORT_WINDOWS)
def test_an_export_that_is_not_declared_has_its_tissue_where_brain_is(head: np.ndarray, centre: int, width: int):
    found = CHANGES[f"PNG stretched at {centre}/{width}, guessed"](head, RNG(0))
    bottom, top = centre - width / 2, centre + width / 2
    inside = (head > max(bottom, 0)) & (head < min(top, 80))
    assert np.median(found[inside]) == pytest.approx(np.median(head[inside]), abs=10)
    assert np.corrcoef(found[inside], head[inside])[0, 1] > 0.9


def test_geometry_is_about_the_centre(head: np.ndarray):
    assert np.array_equal(CHANGES["flipped left to right"](head, RNG(0))[:, ::-1], head)
    part = (head > 10).mean()
    assert (CHANGES["zoomed to 0.7"](head, RNG(0)) > 10).mean() == pytest.approx(0.49 * part, rel=0.05)
    assert (CHANGES["rotated by 30 degrees"](head, RNG(0)) > 10).mean() == pytest.approx(part, rel=0.05)
    shifted = CHANGES["shifted by 10 % of the frame"](head, RNG(0))
    before, after = (np.mean(np.nonzero(image > 10), axis=1) for image in (head, shifted))
    assert np.abs(after - before) == pytest.approx([22.4, 22.4], abs=2)


def test_hu_are_moved_as_said(head: np.ndarray):
    tissue = head > 5
    assert np.all((CHANGES["5 HU added to all but air"](head, RNG(0)) - head)[tissue] == 5)
    assert np.all((CHANGES["5 HU taken from all"](head, RNG(0)) - head)[tissue] == -5)
    noise = CHANGES["Gaussian noise of 5 HU"](head, RNG(0)) - head
    assert noise.std() == pytest.approx(5, rel=0.05)
