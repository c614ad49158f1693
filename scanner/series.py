"""The slices of one series: their order along the body, what is there twice, what is missing, and the series' score.

Kept in arrays, 40 bytes a slice (and the path of slices whose header gives no place), since a study may have 100,000.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hemoscan.slices import BONE_KERNEL, CONTRAST, OUT_OF_DISTRIBUTION, PROBABILITY_DIGITS, Z_DIGITS, Row

NEIGHBOURS = (0.2, 0.6, 0.2)
"""Weights of a slice and its two neighbours: [0.6, 1.8, 0.6] / 3, as the second place of RSNA 2019 weighed them."""
GAP = 1.5
GAPS_AROUND = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SeriesResult:
    """What the slices of one series say together."""

    score: float | None
    """Highest smoothed probability; None without a slice to go by."""
    n_slices: int
    """Scored slices, each counted once."""
    n_flagged: int
    n_twice: int
    """Slices that are copies of others, or lie where another lies."""
    n_missing: int
    """Places where slices seem to be missing."""
    by_strange: bool
    """Whether slices out of distribution count in the score."""


class Series:
    """The scored slices of one series, in any order."""

    def __init__(self) -> None:
        self.contrast = False
        self.bone_kernel = False
        self.n_strange = 0
        """Slices noted as out of distribution."""
        self._z, self._number, self._probability = array("d"), array("d"), array("d")
        self._key, self._bits = array("q"), array("b")
        self._names: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._z)

    def add(self, row: Row) -> None:
        """Take in a scored slice."""
        decoded, identity = row.decoded, row.decoded.identity
        self.contrast |= CONTRAST in decoded.notes
        self.bone_kernel |= BONE_KERNEL in decoded.notes
        strange = OUT_OF_DISTRIBUTION in decoded.notes
        self.n_strange += strange
        if identity.z_mm is None and identity.instance_number is None:
            self._names[len(self)] = decoded.path
        self._z.append(np.nan if identity.z_mm is None else round(identity.z_mm, Z_DIGITS))
        self._number.append(np.nan if identity.instance_number is None else identity.instance_number)
        self._probability.append(np.nan if row.probability is None else row.probability)
        # Frames of one file share its SOPInstanceUID. 0: nothing tells whether this is a copy.
        self._key.append(hash((identity.sop_uid, decoded.frame)) if identity.sop_uid else 0)
        self._bits.append(bool(row.flag) | strange << 1)

    def result(self, *, strange: bool, threshold: float | None = None) -> SeriesResult:
        """Return what the slices say, those out of distribution left out of the score where that hides nothing.

        They count if `strange`, if one of them is flagged, or if the series reaches `threshold` with them.
        """
        bits = np.array(self._bits)
        slices = _Slices(np.array(self._z), np.array(self._number), np.array(self._probability), bits & 1, bits & 2)
        slices, rows = _ordered(slices, np.array(self._key), self._names)
        usual, whole = _highest(slices.probability[slices.strange == 0]), _highest(slices.probability)
        likely = bool((slices.flag * slices.strange).any()) or (threshold is not None and whole >= threshold)
        score = whole if strange else max(usual, whole) if likely else usual
        return SeriesResult(
            score=None if score < 0 else score,
            n_slices=rows,
            n_flagged=int(slices.flag.sum()),
            n_twice=len(self) - rows,
            n_missing=count_missing(slices.z, slices.number),
            by_strange=score > usual,
        )


def _highest(probabilities: Floats) -> float:
    """Return the highest smoothed probability as it is written, -1 without any."""
    return round(float(smooth(probabilities).max()), PROBABILITY_DIGITS) if probabilities.size else -1.0


@dataclass(frozen=True)
class _Slices:
    z: Floats
    number: Floats
    probability: Floats
    flag: NDArray[np.int8]
    strange: NDArray[np.int8]

    def taken(self, rows: NDArray[np.intp]) -> _Slices:
        return _Slices(self.z[rows], self.number[rows], self.probability[rows], self.flag[rows], self.strange[rows])


def _ordered(slices: _Slices, key: NDArray[np.int64], names: dict[int, str]) -> tuple[_Slices, int]:
    """Return the slices along the body, copies merged, and how many they are."""
    first, copy_of = _groups(np.where(key == 0, np.nan, key.astype(np.float64)), key)
    slices = _without_constant_z(_merged(slices, first, copy_of))
    place, same_place = _groups(slices.z, slices.z)
    slices = _merged(slices, place, same_place)
    kept = first[place]
    if np.isfinite(slices.z).all():
        order = np.argsort(slices.z, kind="stable")
    elif np.isfinite(slices.number).all():
        order = np.argsort(slices.number, kind="stable")
    else:
        paths = [natural_key(names.get(int(row), "")) for row in kept]
        order = np.array(sorted(range(len(paths)), key=paths.__getitem__), np.intp)
    return slices.taken(order), len(order)


def _without_constant_z(slices: _Slices) -> _Slices:
    """Return the slices without positions where all have one, though InstanceNumbers tell them apart.

    That is an element that was filled in for all alike, as de-identification does, and no stack of copies.
    """
    known = np.isfinite(slices.z)
    numbers = slices.number[known & np.isfinite(slices.number)]
    constant = len(np.unique(slices.z[known])) == 1 and len(np.unique(numbers)) > 1
    return replace(slices, z=np.full(len(slices.z), np.nan)) if constant else slices


def _groups(known: Floats, values: NDArray[np.generic]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first row of each group of equal values, and each row's group, in the order of these first rows.

    NaN in `known` equals nothing.
    """
    group = np.empty(len(values), np.intp)
    there = np.isfinite(known)
    distinct, group[there] = np.unique(values[there], return_inverse=True)
    group[~there] = len(distinct) + np.arange(np.count_nonzero(~there))
    first = np.unique(group, return_index=True)[1]
    order = np.argsort(first)
    rank = np.empty(len(first), np.intp)
    rank[order] = np.arange(len(first))
    return first[order], rank[group]


def _merged(slices: _Slices, first: NDArray[np.intp], group: NDArray[np.intp]) -> _Slices:
    """Return one slice a group: with the highest probability, flagged if any is, strange if all are."""
    probability = np.full(len(first), -np.inf)
    np.maximum.at(probability, group, slices.probability)
    flag = np.zeros(len(first), np.int8)
    np.maximum.at(flag, group, slices.flag)
    strange = np.full(len(first), 2, np.int8)
    np.minimum.at(strange, group, slices.strange)
    return _Slices(slices.z[first], slices.number[first], probability, flag, strange)


def smooth(probabilities: Floats) -> Floats:
    """Return each slice's probability weighed with its two neighbours', shape (n,); at the ends with the one there is.

    Source: 2nd place of the RSNA 2019 challenge (weights [0.6, 1.8, 0.6] / 3).
    """
    before, own, after = NEIGHBOURS

    def weighed(values: Floats) -> Floats:
        padded = np.pad(values, 1)
        return np.asarray(before * padded[:-2] + own * values + after * padded[2:])

    return weighed(probabilities) / weighed(np.ones(len(probabilities)))


def count_missing(z: Floats, number: Floats) -> int:
    """Return in how many places slices seem to be missing from a series in its order.

    That is where two slices lie more than 1.5 times as far apart as is usual in the series, and around them: than the
    median of all spacings, and that of the four spacings on the side where they are wider. Many head protocols have
    thinner slices in the posterior fossa. Without positions, where InstanceNumbers are left out.

    Parameters
    ----------
    z
        Shape (n,), mm, rising; NaN where unknown.
    number
        Shape (n,), InstanceNumbers; NaN where unknown.
    """
    if len(z) > 2 and np.isfinite(z).all():
        spacings = np.diff(z)
        wide = np.flatnonzero(spacings > GAP * np.median(spacings))
        return sum(bool(spacings[place] > GAP * _usual_around(spacings, place)) for place in wide.tolist())
    if len(number) > 2 and np.isfinite(number).all():
        steps = np.diff(np.unique(number))
        return int(np.count_nonzero(steps > 1)) if steps.size and np.median(steps) == 1 else 0
    return 0


def _usual_around(spacings: Floats, place: int) -> float:
    """Return the median of the four spacings on the side of `place` where they are wider."""
    sides = (spacings[max(place - GAPS_AROUND, 0) : place], spacings[place + 1 : place + 1 + GAPS_AROUND])
    return max(float(np.median(side)) for side in sides if side.size)


def natural_key(path: str) -> list[tuple[int, str]]:
    """Return a key that sorts paths as people number them: `slice 2` before `slice 10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]
