"""Which slices belong together: exact duplicates, and slices of one patient, never lie on both sides of a division."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def digest(image: NDArray[np.uint8]) -> bytes | None:
    """Return what equal images share; None for a black one, of which there are many that have nothing in common."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest() if image.any() else None


def clusters(*keys: Sequence[Hashable | None]) -> NDArray[np.int64]:
    """Return numbers of shape (n,): slices that share a value of any key, directly or through others, share a number.

    Parameters
    ----------
    keys
        Sequences of n values each, such as digests and patients; None is shared with nobody.
    """
    n = len(keys[0])
    nodes: dict[tuple[int, Hashable], int] = {}
    edges = [
        (row, n + nodes.setdefault((which, value), len(nodes)))
        for which, values in enumerate(keys)
        for row, value in enumerate(values)
        if value is not None
    ]
    rows, columns = np.array(edges, np.int64).reshape(-1, 2).T
    size = n + len(nodes)
    graph = coo_array((np.ones(len(edges), np.int8), (rows, columns)), (size, size))
    return np.asarray(connected_components(graph, directed=False)[1][:n], np.int64)


def tell_apart(studies: Sequence[str | None], patients: Sequence[str | None]) -> list[tuple[str, ...] | None]:
    """Return what no two studies share: the study's name, and its patient where several patients have such a study."""
    owners: defaultdict[str | None, set[str]] = defaultdict(set)
    for study, patient in zip(studies, patients, strict=True):
        owners[study] |= {patient} if patient else set()
    return [
        None if not study else (study, patient or "") if len(owners[study]) > 1 else (study,)
        for study, patient in zip(studies, patients, strict=True)
    ]


def number(keys: Sequence[tuple[Any, ...] | None]) -> NDArray[np.int64]:
    """Return numbers of shape (n,) from 0, in the order of the keys; -1 for None."""
    numbers = {key: place for place, key in enumerate(sorted({key for key in keys if key is not None}))}
    return np.array([-1 if key is None else numbers[key] for key in keys], np.int64)
