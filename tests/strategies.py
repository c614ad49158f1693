"""Hypothesis strategies: what a scanner may write, and what a model's card may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from hemoscan.card import InputSpec


@dataclass(frozen=True)
class Stored:
    """Stored values with all that is needed to know their HU."""

    values: NDArray[np.int64]
    """Shape (rows, columns)."""
    bits: int
    signed: bool
    slope: str
    """As it stands in the header."""
    intercept: str


def shapes(largest: int = 40) -> st.SearchStrategy[tuple[int, ...]]:
    """Rows and columns, 1x1 among them."""
    return npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=largest)


@st.composite
def stored_slices(draw: st.DrawFn) -> Stored:
    """Stored values of any depth and sign that CT uses, with a rescale."""
    bits = draw(st.sampled_from([8, 10, 12, 15, 16]))
    signed = draw(st.booleans())
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values = draw(npst.arrays(np.int64, draw(shapes(9)), elements=st.integers(low, high)))
    thousandths = draw(st.integers(1, 4000))
    intercept = draw(st.one_of(st.sampled_from([0, -1024, -1000]), st.integers(-9000, 9000)))
    return Stored(values, bits, signed, f"{thousandths / 1000:.3f}", str(intercept))


def hu_slices(largest: int = 40) -> st.SearchStrategy[NDArray[Any]]:
    """HU of shape (rows, columns), float32, well beyond what a scanner measures."""
    return npst.arrays(
        np.float32, shapes(largest), elements=st.floats(-5000, 5000, width=32, allow_nan=False, allow_infinity=False)
    )


@st.composite
def input_specs(draw: st.DrawFn, largest: int = 48) -> InputSpec:
    """What a card may ask for: a window within 0 to 255 HU and a size."""
    low = draw(st.integers(0, 254))
    high = draw(st.integers(low + 1, 255))
    return InputSpec(window=((low + high) / 2, high - low), size=draw(st.integers(1, largest)))
