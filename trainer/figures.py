"""Figures of a classifier under many weightings at once, for the bootstrap; scikit-learn's definitions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemoscan.trainer.balance import cell_weights
from hemoscan.trainer.bootstrap import Statistics, Weights

FloatArray = NDArray[np.float64]


class Ranking:
    """The order of scores and labels (of shape (n,) each), from which areas under curves follow for any weights."""

    def __init__(self, scores: FloatArray, labels: NDArray[np.uint8]) -> None:
        order = np.argsort(scores, kind="stable")
        self.positives, self.negatives = order[labels[order] == 1], order[labels[order] == 0]
        positives, negatives = scores[self.positives], scores[self.negatives]
        self.below = np.searchsorted(negatives, positives, "left")  # negatives with lower scores
        self.up_to = np.searchsorted(negatives, positives, "right")  # and with equal ones
        self.first = np.searchsorted(positives, positives, "left")  # positives with lower scores

    def areas(self, weights: Weights) -> tuple[FloatArray, FloatArray]:
        """Return AUC and average precision, of shape (b,), under weights of shape (b, n); NaN without both labels."""
        positive = weights[:, self.positives]  # (b, n_pos), in the order of scores
        negative = _from_zero(weights[:, self.negatives])  # (b, n_neg + 1)
        all_positive, all_negative = positive.sum(1), negative[:, -1]
        below, up_to = negative[:, self.below], negative[:, self.up_to]
        auc = (positive * (below + up_to)).sum(1) / (2 * all_positive * all_negative)
        true = all_positive[:, None] - _from_zero(positive)[:, self.first]  # at the threshold of each positive
        false = all_negative[:, None] - below
        precision = np.divide(true, true + false, out=np.zeros_like(true), where=positive > 0)
        return auc, (positive * precision).sum(1) / np.where(all_negative > 0, all_positive, np.nan)


def _from_zero(weights: Weights) -> FloatArray:
    """Return running sums along the last axis, with 0 before the first."""
    return np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights, axis=1)], axis=1)


@dataclass(frozen=True)
class Rates:
    """What follows from confusion matrices, of shape (b,) each; NaN for 0/0."""

    sensitivity: FloatArray
    specificity: FloatArray
    ppv: FloatArray
    npv: FloatArray
    accuracy: FloatArray
    f1: FloatArray


def rates(flags: NDArray[np.bool_], labels: NDArray[np.uint8], weights: Weights) -> Rates:
    """Return the rates of flags (of shape (n,)) under weights of shape (b, n)."""
    cells = np.stack([flags & (labels == 1), flags & (labels == 0), ~flags & (labels == 1), ~flags & (labels == 0)])
    tp, fp, fn, tn = (weights @ cells.T.astype(np.float64)).T
    return Rates(
        sensitivity=tp / (tp + fn),
        specificity=tn / (tn + fp),
        ppv=tp / (tp + fp),
        npv=tn / (tn + fn),
        accuracy=(tp + tn) / (tp + fp + fn + tn),
        f1=2 * tp / (2 * tp + fp + fn),
    )


def predictive_values(found: Rates, prevalences: Iterable[float]) -> Statistics:
    """Return `ppv_at_P` and `npv_at_P`: the predictive values where the share of positives is P (Bayes' rule)."""
    values = {}
    for prevalence in prevalences:
        true, false = found.sensitivity * prevalence, (1 - found.specificity) * (1 - prevalence)
        missed, cleared = (1 - found.sensitivity) * prevalence, found.specificity * (1 - prevalence)
        values[f"ppv_at_{prevalence!r}"] = true / (true + false)
        values[f"npv_at_{prevalence!r}"] = cleared / (cleared + missed)
    return values


def balanced_auc(
    ranking: Ranking, labels: NDArray[np.uint8], groups: NDArray[np.integer], weights: Weights
) -> NDArray[np.float64]:
    """Return the AUC, of shape (b,), with every group reweighed to the same share of positives; NaN of one group."""
    if len(np.unique(groups)) < 2:
        return np.full(len(weights), np.nan)
    return ranking.areas(balance(labels, groups, weights))[0]


def balance(labels: NDArray[np.uint8], groups: NDArray[np.integer], weights: Weights) -> Weights:
    """Return weights of shape (b, n) under which each group (of shape (n,)) has the same share of positives.

    `hemoscan.trainer.balance.group_weights` of each resample.
    """
    values, group = np.unique(groups, return_inverse=True)
    cells = 2 * group + labels
    counts = weights @ np.eye(2 * len(values))[cells]  # (b, 2 groups)
    found = cell_weights(counts.reshape(len(weights), -1, 2)).reshape(len(weights), -1)
    return weights * found[:, cells]
