"""HU to the network's input, against torch's own bilinear interpolation and against real pairs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image
from strategies import hu_slices, input_specs, shapes

from hemoscan.card import BRAIN, RAW, InputSpec
from hemoscan.dicom import read_frame, read_header
from hemoscan.preprocess import pad_square, preprocess, resize_bilinear


def reference(hu: NDArray[Any], spec: InputSpec) -> NDArray[np.float64]:
    """Return the input without any rounding, in double precision, by other code than hemoscan's."""
    low, high = spec.limits
    rows, columns = hu.shape
    side = max(rows, columns)
    square = torch.full((side, side), float(int(low)), dtype=torch.float64)
    top, left = (side - rows) // 2, (side - columns) // 2
    values = torch.tensor(np.where(np.isnan(hu), low, hu), dtype=torch.float64)
    square[top : top + rows, left : left + columns] = values.clamp(low, high).trunc()
    resized = square[None, None]
    for size in (max(spec.size, min(side, 224)), spec.size):
        resized = torch.nn.functional.interpolate(
            resized, size=(size, size), mode="bilinear", align_corners=False, antialias=False
        )
    return resized[0, 0].numpy()


def noise(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(rows * 10007 + columns).uniform(-200, 300, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("spec", [BRAIN, RAW], ids=["brain", "raw"])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 9), (7, 3), (101, 101), (223, 225), (224, 224), (300, 200), (512, 512), (513, 512)], ids=str
)
def test_it_is_torchs_bilinear_rounded(shape: tuple[int, int], spec: InputSpec):
    hu = noise(*shape)
    image = preprocess(hu, spec)
    assert image.shape == (224, 224)
    assert image.dtype == np.uint8
    assert np.abs(image - reference(hu, spec)).max() <= 0.501


def test_1024_pixels():
    hu = noise(1024, 1024)
    assert np.abs(preprocess(hu, BRAIN) - reference(hu, BRAIN)).max() <= 0.501


@given(hu_slices(), input_specs())
@settings(max_examples=50, deadline=None)
def test_any_slice_and_card_follow_the_reference(hu: NDArray[Any], spec: InputSpec):
    image = preprocess(hu, spec)
    low, high = spec.limits
    assert image.shape == (spec.size, spec.size)
    assert image.min() >= low
    assert image.max() <= high
    twice = spec.size < 224 < max(hu.shape)  # rounded at an intermediate size, too
    assert np.abs(image - reference(hu, spec)).max() <= (1.002 if twice else 0.501)


@pytest.mark.parametrize("size", [64, 112, 223, 300])
def test_a_small_input_is_made_of_the_data_sets_size_so_that_dicom_and_its_png_give_the_same(size: int):
    spec = InputSpec(window=BRAIN.window, size=size)
    hu = noise(512, 512)
    found = preprocess(preprocess(hu, BRAIN), spec)
    assert np.array_equal(preprocess(hu, spec), found) == (size < 224), "a larger one is made of the slice itself"


@given(st.data(), shapes(24), input_specs(32))
@settings(max_examples=50, deadline=None)
def test_more_hu_never_make_a_darker_input(data: st.DataObject, shape: tuple[int, int], spec: InputSpec):
    hu = data.draw(npst.arrays(np.int16, shape, elements=st.integers(-1100, 3071)))
    more = data.draw(npst.arrays(np.int16, shape, elements=st.integers(0, 300)))
    assert np.all(preprocess(hu + more, spec) >= preprocess(hu, spec))


@given(st.floats(-3000, 3000, width=32), shapes(12), input_specs())
@settings(max_examples=50, deadline=None)
def test_an_even_square_stays_even(value: float, shape: tuple[int, int], spec: InputSpec):
    low, high = spec.limits
    expected = int(min(max(value, low), high))
    assert np.unique(preprocess(np.full((shape[0], shape[0]), value, np.float32), spec)).tolist() == [expected]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16, np.int32])
def test_every_kind_of_number_is_taken(kind: type[np.generic]):
    hu = noise(40, 40).astype(np.int16)
    assert np.array_equal(preprocess(hu.astype(kind), BRAIN), preprocess(hu, BRAIN))


def test_224_pixels_within_the_window_are_left_as_they_are():
    hu = np.random.default_rng(2).integers(0, 71, (224, 224))
    assert np.array_equal(preprocess(hu, BRAIN), hu)


@pytest.mark.parametrize(
    ("hu", "expected"),
    [(-1024, 0), (-0.5, 0), (0.99, 0), (1, 1), (34.999, 34), (69.99, 69), (70, 70), (3071, 70), (np.inf, 70)],
)
def test_values_are_clipped_and_truncated(hu: float, expected: int):
    assert preprocess(np.full((224, 224), hu), BRAIN)[100, 100] == expected


def test_negative_infinity_is_the_lower_end():
    assert preprocess(np.full((5, 5), -np.inf), BRAIN).max() == 0


@pytest.mark.parametrize("spec", [BRAIN, InputSpec(window=(60.0, 80.0))], ids=["from 0", "from 20"])
def test_nan_is_the_windows_lower_end(spec: InputSpec):
    hu = np.full((224, 224), 50.0, np.float32)
    hu[10:20, 30:40] = np.nan
    image = preprocess(hu, spec)
    assert np.all(image[10:20, 30:40] == spec.limits[0])
    image[10:20, 30:40] = 50
    assert np.all(image == 50)


def test_the_slice_given_is_not_changed():
    hu = noise(30, 50)
    hu[3, 3] = np.nan
    before = hu.copy()
    preprocess(hu, BRAIN)
    assert np.array_equal(hu, before, equal_nan=True)


def test_clipping_comes_before_resizing():
    """Halving averages two columns: air and bone give 35, not the 70 of bone averaged first and clipped afterwards."""
    hu = np.zeros((448, 448), np.float32)
    hu[:, 1::2] = 1000
    assert np.all(preprocess(hu, BRAIN) == 35)


def test_shrinking_does_not_blur():
    """Four columns become one from the middle two alone; antialiasing would bring the outer two in."""
    hu = np.zeros((896, 896), np.float32)
    hu[:, 0::4] = hu[:, 3::4] = 70
    assert preprocess(hu, BRAIN).max() == 0


@pytest.mark.parametrize(
    ("shape", "top", "left"),
    [((224, 150), 0, 37), ((150, 224), 37, 0), ((224, 151), 0, 36), ((151, 224), 36, 0), ((223, 224), 0, 0)],
    ids=str,
)
def test_a_slice_that_is_not_square_is_padded_not_stretched(shape: tuple[int, int], top: int, left: int):
    hu = np.full(shape, 30.0)
    hu[60:90, 40:70] = 65
    expected = np.zeros((224, 224))
    expected[top : top + shape[0], left : left + shape[1]] = 30
    expected[top + 60 : top + 90, left + 40 : left + 70] = 65
    assert np.array_equal(preprocess(hu, BRAIN), expected)


def test_a_square_within_a_wide_slice_stays_square():
    hu = np.zeros((224, 448))
    hu[100:140, 300:340] = 60
    rows, columns = np.nonzero(preprocess(hu, BRAIN))
    assert (rows.min(), rows.max()) == ((100 + 112) // 2, (140 + 112) // 2 - 1)
    assert (columns.min(), columns.max()) == (150, 169)


def test_padding_is_the_windows_lower_end():
    image = preprocess(np.full((224, 100), 80.0), InputSpec(window=(60.0, 80.0)))
    assert np.unique(image[:, :62]).tolist() == [20]
    assert np.unique(image[:, 62:162]).tolist() == [80]


def test_a_square_needs_no_padding():
    image = np.zeros((6, 6), np.uint8)
    assert pad_square(image, 9) is image


@pytest.mark.parametrize("shape", [(6, 6), (1, 6), (4, 4)], ids=str)
def test_resizing_leaves_its_input_alone(shape: tuple[int, int]):
    image = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
    before = image.copy()
    resize_bilinear(image, 6)
    assert np.array_equal(image, before)


@pytest.mark.data
def test_real_pairs_are_reproduced(golden: Path):
    """The data set's PNGs from their DICOM files: within 0.76 HU before rounding, so within 1 as whole HU."""
    pairs = list(csv.DictReader((golden / "pairs.csv").read_text(encoding="utf-8").splitlines()))
    assert len(pairs) == 3
    for pair in pairs:
        header = read_header((golden / pair["dicom"]).read_bytes())
        frame = read_frame(header)
        centre, width = (float(np.atleast_1d(header[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
        low, high = max(0.0, centre - width / 2), centre + width / 2
        spec = InputSpec(window=((low + high) / 2, high - low))
        png = np.asarray(Image.open(golden / f"{pair['png_id']}.png").convert("L")).astype(float)
        exact = reference(frame.hu, spec)
        assert np.abs(exact - png).max() <= 0.76
        image = preprocess(frame.hu, spec)
        assert np.abs(image - exact).max() <= 0.501
        assert np.abs(image - png).max() <= 1
        assert image.max() == png.max()
