"""Slices that look like no head on its usual background are noted, heads are not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from hemoscan.card import BRAIN
from hemoscan.content import _filled, _middle, content_notes, flooded_by_metal
from hemoscan.phantom import make_phantom
from hemoscan.preprocess import preprocess
from hemoscan.slices import BLANK, OUT_OF_DISTRIBUTION

Frame = NDArray[np.uint8]


def disc(radius: float, value: int, frame: Frame | None = None, row: float = 112, column: float = 112) -> Frame:
    """Return a frame with a disc of this value in it."""
    frame = np.zeros((224, 224), np.uint8) if frame is None else frame.copy()
    rows, columns = np.mgrid[:224, :224]
    frame[np.hypot(rows - row, columns - column) <= radius] = value
    return frame


def head(tissue: int = 32) -> Frame:
    """Return skin, skull and brain."""
    return disc(60, tissue, disc(68, 70, disc(74, 40)))


def test_holes_are_filled_as_scipy_does():
    rng = np.random.default_rng(0)
    for share in (0.3, 0.5, 0.7):
        part = ndimage.uniform_filter(rng.random((64, 64)), 3) > share
        np.testing.assert_array_equal(_filled(part), ndimage.binary_fill_holes(part))


def test_the_middle_of_a_part_is_the_mean_of_its_places():
    part = np.random.default_rng(0).random((64, 64)) > 0.7
    rows, columns = np.nonzero(part)
    assert (_middle(part.sum(axis=1)), _middle(part.sum(axis=0))) == (rows.mean(), columns.mean())


def test_a_head_has_no_note():
    assert content_notes(head()) == ()


@pytest.mark.parametrize("bleed", ["none", "subdural", "intraparenchymal"])
def test_a_synthetic_study_has_no_strange_slice(bleed: str):
    notes = [content_notes(preprocess(hu, BRAIN)) for hu in make_phantom(bleed, size=128, slices=12).hu]
    assert (OUT_OF_DISTRIBUTION,) not in notes


@pytest.mark.parametrize("frame", [np.zeros((224, 224), np.uint8), disc(10, 50), np.full((224, 224), 9, np.uint8)])
def test_above_the_head_is_blank(frame: Frame):
    assert content_notes(frame) == (BLANK,)


def test_tissue_without_skull_is_strange():
    assert content_notes(disc(70, 40)) == (OUT_OF_DISTRIBUTION,)


def test_a_spine_within_a_body_is_strange():
    assert content_notes(disc(15, 70, disc(90, 45), row=170)) == (OUT_OF_DISTRIBUTION,)


def test_a_chest_is_strange():
    ribs = disc(85, 45, disc(90, 70, disc(100, 45)))
    lungs = disc(41, 0, disc(41, 0, ribs, column=70), column=154)
    assert content_notes(lungs) == (OUT_OF_DISTRIBUTION,)


def test_a_frame_filled_to_its_edge_is_strange():
    frame = head()
    frame[150:] = np.maximum(frame[150:], 20)
    assert content_notes(frame) == (OUT_OF_DISTRIBUTION,)


@pytest.mark.parametrize(("row", "column"), [(60, 112), (160, 112), (55, 55), (170, 60)])
def test_a_head_that_leaves_the_frame_at_one_side_or_two_has_no_note(row: int, column: int):
    frame = disc(
        60, 32, disc(68, 70, disc(74, 40, row=row, column=column), row=row, column=column), row=row, column=column
    )
    assert max(frame[0].any(), frame[-1].any(), frame[:, 0].any(), frame[:, -1].any())
    assert content_notes(frame) == ()


@pytest.mark.parametrize("level", [12, 24])
def test_a_lifted_background_is_no_body(level: int):
    assert content_notes(np.maximum(head(40), level).astype(np.uint8)) == ()


@pytest.mark.parametrize("frame", [disc(74, 70), disc(60, 69, disc(74, 70))])
def test_values_beyond_tissue_all_over_the_head_are_strange(frame: Frame):
    assert content_notes(frame) == (OUT_OF_DISTRIBUTION,)


def test_half_a_ring_is_enough():
    frame = head()
    frame[120:] = np.where(frame[120:] == 70, 40, frame[120:])
    assert content_notes(frame) == ()
    frame[80:] = np.where(frame[80:] == 70, 40, frame[80:])
    assert content_notes(frame) == (OUT_OF_DISTRIBUTION,)


def with_metal(radius_mm: float, value: float = 3071) -> NDArray[np.float32]:
    """Return a slice of a head, 0.9 mm a pixel, with a disc of metal in the brain."""
    hu = make_phantom("none", slices=8, size=256, seed=1).hu[4].copy()
    rows, columns = np.mgrid[:256, :256] * (230.4 / 256)
    hu[np.hypot(rows - 100, columns - 115) <= radius_mm] = value
    return hu


@pytest.mark.parametrize(
    ("radius_mm", "value", "flooded"),
    [(0, 3071, False), (2, 3071, False), (8, 3071, True), (8, 20_000, True), (8, 2_000, False)],
    ids=["none", "a clip", "a large coil", "extended HU", "bone"],
)
def test_metal_floods_a_slice_where_there_is_much_of_it(radius_mm: float, value: float, flooded: bool):
    hu = with_metal(radius_mm, value)
    assert flooded_by_metal(hu) is flooded
    hu[:3] = np.nan
    assert flooded_by_metal(hu) is flooded, "where nothing was measured there is no metal"


def test_a_slice_without_a_body_is_not_flooded():
    assert not flooded_by_metal(np.full((64, 64), -1000.0))
