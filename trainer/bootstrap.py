"""Intervals by the bootstrap: whole clusters are drawn again, and every figure is worked out on each draw at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

# Weights of one block of resamples, 8 MB: larger ones were slower.
BLOCK_VALUES = 2**20
ROUNDING = 1e-12  # areas under weights differ by as much, though no draw does
MOST_UNDEFINED = 0.05

Weights = NDArray[np.float64]
Statistics = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made."""

    resamples: int = 2000
    seed: int = 0
    level: float = 0.95
    """Share of the draws between the ends of an interval."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


def resample(clusters: NDArray[np.integer], bootstrap: Bootstrap) -> Iterator[Weights]:
    """Draw as many clusters as there are, with replacement, and yield how often each sample was drawn.

    Parameters
    ----------
    clusters
        Shape (n,): the cluster of each sample, such as its patient. Samples of a patient are no independent
        observations, so that they are drawn together.

    Yields
    ------
    numpy.ndarray
        Shape (resamples of the block, n), whole numbers.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    k = int(cluster.max()) + 1
    rng = np.random.default_rng(bootstrap.seed)
    block = max(BLOCK_VALUES // len(clusters), 1)
    for start in range(0, bootstrap.resamples, block):
        draws = (rng.integers(0, k, k) for _ in range(min(block, bootstrap.resamples - start)))
        counts = np.stack([np.bincount(draw, minlength=k) for draw in draws]).astype(np.float64)  # (b, k)
        yield counts[:, cluster]


def draw(
    statistics: Callable[[Weights], Statistics], clusters: NDArray[np.integer], bootstrap: Bootstrap
) -> tuple[Statistics, Statistics]:
    """Work out figures on the sample and on each resample.

    Parameters
    ----------
    statistics
        Takes weights of shape (b, n), returns figures of shape (b, ...).

    Returns
    -------
    tuple of dict
        Figures of shape (...), and of shape (resamples, ...); of no resamples where a single cluster leaves nothing
        to draw.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # 0/0 is NaN: not defined
        found = statistics(np.ones((1, len(clusters))))
        several = bool(np.any(clusters != clusters[0]))
        blocks = [statistics(weights) for weights in resample(clusters, bootstrap)] if several else []
    drawn = {name: np.concatenate([value[:0], *(block[name] for block in blocks)]) for name, value in found.items()}
    return {name: value[0] for name, value in found.items()}, drawn


def estimate(value: float, drawn: NDArray[np.float64], level: float) -> Estimate:
    """Return a figure with its percentile interval, none if more than 5 % of the draws (of shape (b,)) leave it open.

    Source: Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13.
    """
    if not np.isfinite(value):
        return Estimate(None)
    defined = drawn[np.isfinite(drawn)]
    if not len(defined) or len(defined) < (1 - MOST_UNDEFINED) * len(drawn):
        return Estimate(float(value))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high))


def estimate_share(value: float, drawn: NDArray[np.float64], bootstrap: Bootstrap, units: int = 0) -> Estimate:
    """Return a figure with its interval; `units` is the number of clusters behind a share, 0 if it is none.

    Where no draw differs, a share of 0 or 1 has its exact interval, other figures have none.
    """
    found = estimate(value, drawn, bootstrap.level)
    if found.low is None or found.high is None or found.high - found.low > ROUNDING:
        return found
    return exact(value, units, bootstrap.level) if units and value in (0, 1) else Estimate(found.value)


def exact(value: float, n: int, level: float) -> Estimate:
    """Return a share of 0 or 1 among n clusters with its exact interval (Clopper and Pearson 1934).

    No draw of a sample without a miss has one: the percentile interval would have no width.
    """
    found = binomtest(round(value * n), n).proportion_ci(level, "exact")
    return Estimate(value, float(found.low), float(found.high))


def p_value(differences: NDArray[np.float64]) -> float | None:
    """Return the two-sided p of no difference, from drawn differences of shape (b,); at least 2 / (b + 1).

    Source: Davison and Hinkley, Bootstrap methods and their application, 1997, section 4.4: the draws on the other
    side of 0, with one added so that no p is 0.
    """
    defined = differences[np.isfinite(differences)]
    if not len(defined) or len(defined) < (1 - MOST_UNDEFINED) * len(differences):
        return None
    tail = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return float(min(1.0, 2 * (tail + 1) / (len(defined) + 1)))
