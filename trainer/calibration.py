"""Whether a probability of 0.3 means three in ten: Brier score, calibration error, slope and intercept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hemoscan.slices import PROBABILITY_DIGITS
from hemoscan.trainer.bootstrap import Statistics, Weights

BINS = 10
# 0 and 1 have no log odds: they stand for what rounding to six digits may have hidden.
SMALLEST = 0.5 * 10.0**-PROBABILITY_DIGITS
# Log odds within this of each other stand at their mean, so that a regression runs over some hundred values, not over
# every slice. What the slope loses is in the order of GRID squared / 12, 2e-5.
GRID = 1 / 64
STEPS = 40
LONGEST_STEP = 2.0
TOLERANCE = 1e-6
# A mean of p (1 - p) below this is that of a fit on its way to infinity.
LEAST_CURVATURE = 1e-9

FloatArray = NDArray[np.float64]


def log_odds(probabilities: FloatArray) -> FloatArray:
    """Return log(p / (1 - p)), 0 and 1 moved inwards by half of the sixth digit."""
    p = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(p) - np.log1p(-p))


def equal_mass_bins(probabilities: FloatArray, bins: int = BINS) -> NDArray[np.intp]:
    """Return the bin of each probability, from 0: about as many in each, equal probabilities in one."""
    edges = np.quantile(probabilities, np.linspace(0, 1, bins + 1)[1:-1])
    return np.unique(np.searchsorted(edges, probabilities, "right"), return_inverse=True)[1]


def brier(probabilities: FloatArray, labels: NDArray[np.uint8], weights: Weights) -> FloatArray:
    """Return the mean squared error of probabilities, of shape (b,), under weights of shape (b, n)."""
    return np.asarray(weights @ (probabilities - labels) ** 2 / weights.sum(1))


def calibration(probabilities: FloatArray, labels: NDArray[np.uint8], weights: Weights) -> Statistics:
    """Return figures of calibration under weights of shape (b, n).

    Returns
    -------
    dict
        Of shape (b,): `ece`, the expected calibration error in ten bins of equal
        mass; `calibration_slope` of the labels' log odds on the predicted ones (1 is right, below 1 too extreme); and
        `calibration_intercept`, at a slope of 1 (0 is right, below 0 too high). Of shape (b, bins): `bin_predicted`
        and `bin_observed`, means in each bin.

    Notes
    -----
    Sources: Naeini et al., AAAI 2015 (ECE); Van Calster et al., BMC Medicine 2019, 17:230 (slope, intercept). The bins
    stay those of the sample in every resample.
    """
    bins = np.eye(BINS)[equal_mass_bins(probabilities)]
    bins = bins[:, bins.any(0)]  # (n, bins)
    count = weights @ bins
    predicted, observed = (weights @ (bins * value[:, None]) / count for value in (probabilities, labels))
    total = weights.sum(1)
    x = log_odds(probabilities)
    return {
        "ece": np.nansum(count * np.abs(predicted - observed), axis=1) / total,
        "calibration_slope": _fit(x, labels, weights, slope=True)[:, 1],
        "calibration_intercept": _fit(x, labels, weights, slope=False)[:, 0],
        "bin_predicted": predicted,
        "bin_observed": observed,
    }


def _fit(x: FloatArray, labels: NDArray[np.uint8], weights: Weights, *, slope: bool) -> FloatArray:
    """Return intercept and slope, of shape (b, 2), of weighted logistic regressions on x, by Newton's method.

    Without `slope` the slope stays 1. NaN where there is no finite solution, as of labels that x separates.
    """
    found = np.tile([0.0, 1.0], (len(weights), 1))
    free = 2 if slope else 1
    _, cell = np.unique(np.round(x / GRID), return_inverse=True)
    x = np.bincount(cell, x) / np.bincount(cell)  # (m,)
    powers = np.stack([x**k for k in range(2 * free - 1)], axis=1)  # (m, 2 free - 1)
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], np.arange(len(x)))
    total, positive = (np.add.reduceat(w[:, order], starts, axis=1) for w in (weights, weights * labels))  # (b, m)
    target = positive @ powers[:, :free]
    for _ in range(STEPS):
        p = 0.5 + 0.5 * np.tanh(0.5 * (found[:, :1] + found[:, 1:] * x))  # (b, m)
        gradient = target - (total * p) @ powers[:, :free]
        moments = (total * p * (1 - p)) @ powers
        with np.errstate(divide="ignore", invalid="ignore"):  # of labels that x separates
            step = _solve(moments, gradient)
        found[:, :free] += np.clip(step, -LONGEST_STEP, LONGEST_STEP)
        if not (np.abs(step) > TOLERANCE).any():
            break
    settled = np.all(np.abs(step) <= TOLERANCE, axis=1) & (moments[:, 0] > LEAST_CURVATURE * total.sum(1))
    return np.where(settled[:, None], found, np.nan)


def _solve(moments: FloatArray, gradient: FloatArray) -> FloatArray:
    """Return Newton's step, of shape (b, 1 or 2), from the curvature's moments, of shape (b, 1 or 3)."""
    if gradient.shape[1] == 1:
        return gradient / moments
    a, b, c = moments.T
    determinant = a * c - b * b
    g, h = gradient.T
    return np.asarray(np.stack([c * g - b * h, a * h - b * g], axis=1) / determinant[:, None])
