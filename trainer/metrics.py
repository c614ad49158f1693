"""Figures of a classifier from its logits; scikit-learn's definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_curve, roc_auc_score

from hemoscan.trainer.balance import group_weights

FEWEST_IN_GROUP = 10

Logits = NDArray[np.float32] | NDArray[np.float64]


def probabilities(logits: Logits) -> NDArray[np.float64]:
    """Return the sigmoid of logits, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))


def best_f1_threshold(scores: NDArray[np.float64], labels: NDArray[np.uint8]) -> float:
    """Return the probability at which F1 is highest on these scores (of shape (n,))."""
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[np.argmax(f1[:-1])])


def at_threshold(flags: NDArray[np.bool_], labels: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the confusion matrix and what follows from it; None for 0/0, such as the precision of no flags."""
    tn, fp, fn, tp = (int(count) for count in confusion_matrix(labels, flags, labels=[0, 1]).ravel())
    return {
        "true_positives": tp,
        "false_positives": fp,
        "false_negatives": fn,
        "true_negatives": tn,
        "accuracy": _ratio(tp + tn, len(labels)),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def cross_fitted_flags(
    scores: NDArray[np.float64],
    labels: NDArray[np.uint8],
    seed: int = 0,
    clusters: NDArray[np.integer] | None = None,
) -> NDArray[np.bool_] | None:
    """Flag each half at the threshold chosen on the other, so that no slice helps to choose its own threshold.

    Slices of one cluster (of shape (n,), such as the patient) lie in one half. None if fewer than two clusters have
    positives: then there is a half on which no threshold can be chosen.
    """
    unit = np.arange(len(labels)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    positive = np.zeros(unit.max() + 1, bool)
    positive[unit[labels == 1]] = True
    if np.count_nonzero(positive) < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(positive))
    if len(np.unique(order[positive] % 2)) < 2:  # one half has them all: share them out
        order[positive] = np.arange(np.count_nonzero(positive))
    halves = (order % 2)[unit]
    flags = np.zeros(len(labels), bool)
    for half in (0, 1):
        other = halves != half
        flags[~other] = scores[~other] >= best_f1_threshold(scores[other], labels[other])
    return flags


def merge_scarce(labels: NDArray[np.uint8], groups: NDArray[np.integer]) -> NDArray[np.int64]:
    """Merge groups with too few of either label on this split into -1: an AUC of a handful says nothing."""
    counts = {group: np.bincount(labels[groups == group], minlength=2).min() for group in np.unique(groups).tolist()}
    return np.array([group if counts[group] >= FEWEST_IN_GROUP else -1 for group in groups.tolist()], np.int64)


def auc_within(scores: NDArray[np.float64], labels: NDArray[np.uint8], groups: NDArray[np.integer]) -> dict[int, float]:
    """Return the AUC of each group by itself, of those that have both labels."""
    members = {int(group): groups == group for group in np.unique(groups)}
    return {
        group: float(roc_auc_score(labels[inside], scores[inside]))
        for group, inside in members.items()
        if 0 < labels[inside].mean() < 1
    }


def measure(
    logits: Logits,
    labels: NDArray[np.uint8],
    groups: NDArray[np.integer],
    clusters: NDArray[np.integer] | None = None,
) -> dict[str, Any]:
    """Measure a model on one split.

    Parameters
    ----------
    logits, labels, groups
        Shape (n,) each; groups as from `hemoscan.trainer.balance.merge_small_groups`.
    clusters
        Shape (n,): what must not be torn apart by halves, such as the patient; None: each slice stands alone.

    Returns
    -------
    dict
        `auc` and `average_precision`; `auc_group_balanced`, with every group reweighed to the same share of positives,
        None where there is but one; `auc_within_groups`; `at_0.5`; `threshold`, the best by F1 on this very split; and
        `at_cross_fitted_threshold`, the honest figures at such a threshold, None where none can be chosen. Groups are
        those with at least ten of either label, the others merged into -1.
    """
    scores = probabilities(logits)
    groups = merge_scarce(labels, groups)
    balanced = None
    if len(np.unique(groups)) > 1:
        balanced = float(roc_auc_score(labels, scores, sample_weight=group_weights(labels, groups)))
    fitted = cross_fitted_flags(scores, labels, clusters=clusters)
    return {
        "n": len(labels),
        "positives": int(labels.sum()),
        "auc": float(roc_auc_score(labels, scores)),
        "average_precision": float(average_precision_score(labels, scores)),
        "auc_group_balanced": balanced,
        "auc_within_groups": {str(group): auc for group, auc in auc_within(scores, labels, groups).items()},
        "at_0.5": at_threshold(scores >= 0.5, labels),
        "threshold": best_f1_threshold(scores, labels),
        "at_cross_fitted_threshold": None if fitted is None else at_threshold(fitted, labels),
    }
