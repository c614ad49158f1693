"""The head within a slice: found, cut out, and brought to a common level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hemoscan.card import HEAD
from hemoscan.head import FRAME, SMALLEST_SIDE, align_tissue, cut_out, head_box
from hemoscan.preprocess import preprocess

LIMITS = (0.0, 70.0)


def head(
    centre: tuple[int, int] = (112, 112), radius: int = 70, level: int = 30, bone: int = 70, size: int = FRAME
) -> NDArray[np.uint8]:
    """A disc of tissue within a ring of bone, in air."""
    rows, columns = np.ogrid[:size, :size]
    distance = np.hypot(rows - centre[0], columns - centre[1])
    return np.where(distance > radius, 0, np.where(distance > radius - 8, bone, level)).astype(np.uint8)


@pytest.mark.parametrize("centre", [(112, 112), (90, 130)], ids=str)
@pytest.mark.parametrize("radius", [65, 80])
def test_the_box_is_around_the_head(centre: tuple[int, int], radius: int):
    top, left, side = head_box(head(centre, radius))
    assert side == round(1.06 * (2 * radius + 1))
    assert (top + side / 2, left + side / 2) == pytest.approx((centre[0] + 0.5, centre[1] + 0.5), abs=1)


def test_a_head_rest_is_not_part_of_the_head():
    frame = head()
    alone = head_box(frame)
    frame[200:203, 20:204] = 60
    assert head_box(frame) == alone


def test_a_small_slice_of_the_head_keeps_its_scale():
    assert head_box(head(radius=30))[2] == SMALLEST_SIDE


@pytest.mark.parametrize("frame", [np.zeros((FRAME, FRAME), np.uint8), head(radius=10)], ids=["black", "a speck"])
def test_a_frame_without_a_head_is_taken_whole(frame: NDArray[np.uint8]):
    assert head_box(frame) == (0, 0, FRAME)


def test_a_head_larger_than_the_frame_is_taken_whole():
    assert head_box(np.full((FRAME, FRAME), 30, np.uint8)) == (0, 0, FRAME)


@pytest.mark.parametrize("box", [(-3, -2, 8), (4, 5, 8), (0, 0, 10), (2, 3, 4)], ids=str)
def test_cutting_out_is_padding_and_slicing(box: tuple[int, int, int]):
    frame = np.arange(1, 101, dtype=np.uint8).reshape(10, 10)
    top, left, side = box
    padded = np.pad(frame, 10, constant_values=7)
    assert np.array_equal(cut_out(frame, box, 7), padded[10 + top : 10 + top + side, 10 + left : 10 + left + side])


@given(st.integers(12, 48))
@settings(max_examples=20, deadline=None)
def test_any_level_of_the_brain_is_brought_to_one(level: int):
    assert np.array_equal(align_tissue(head(level=level), 30.0, LIMITS), head(level=30))


def test_a_shift_is_limited():
    frame = head(level=58)
    assert align_tissue(frame, 30.0, LIMITS)[112, 112] == 38


def test_air_and_bone_stay():
    aligned = align_tissue(head(level=40), 30.0, LIMITS)
    assert (aligned[0, 0], aligned[112, 45], aligned[112, 112]) == (0, 70, 30)


def test_a_bleed_stays_brighter_than_the_brain():
    frame = head(level=38)
    frame[100:120, 80:100] = 66
    aligned = align_tissue(frame, 30.0, LIMITS)
    assert (aligned[110, 90], aligned[150, 112]) == (58, 30)


def test_a_slice_without_tissue_is_left_alone():
    frame = np.zeros((FRAME, FRAME), np.uint8)
    frame[100:110, 100:110] = 45
    assert np.array_equal(align_tissue(frame, 30.0, LIMITS), frame)


@pytest.mark.parametrize("size", [224, 128])
def test_position_and_size_and_level_of_the_head_do_not_matter(size: int):
    spec = replace(HEAD, size=size)
    one = preprocess(head((112, 112), 80, 30).astype(np.float32), spec)
    other = preprocess(head((100, 95), 80, 36).astype(np.float32), spec)
    assert one.shape == (size, size)
    assert np.abs(one.astype(int) - other).mean() < 0.2


def test_full_size_dicom_and_png_of_it_become_nearly_the_same_input():
    rows, columns = np.ogrid[:512, :512]
    distance = np.hypot(rows - 250, columns - 260)
    hu = np.where(distance > 170, -1000.0, np.where(distance > 150, 900.0, 33.0)).astype(np.float32)
    png = preprocess(hu, replace(HEAD, window=(40.0, 80.0), tissue=None, crop=False))
    difference = np.abs(preprocess(hu, HEAD).astype(int) - preprocess(png, HEAD))
    assert difference.mean() < 0.5


def test_without_being_asked_nothing_is_aligned_or_cut():
    frame = head((90, 130), 60, 40)
    assert np.array_equal(preprocess(frame, replace(HEAD, tissue=None, crop=False)), frame)
