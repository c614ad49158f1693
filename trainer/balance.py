"""What is done about unequal shares: of the classes (the report's variants), and of positives between sites."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hemoscan.errors import DataError

SMALLEST_GROUP = 100


def output_bias(labels: NDArray[np.uint8]) -> float:
    """Return the log odds of a positive, log(pos / neg): the logit's start in the `bias` variants.

    Source: TensorFlow's tutorial on imbalanced data, as used by the report.
    """
    positive, negative = _counts(labels)
    return math.log(positive / negative)


def class_weights(labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return each sample's weight, total / (2 n_class), of shape (n,): the `weight` variants.

    BCEWithLogitsLoss' `pos_weight` has the same ratio but another scale, which with Adam is another experiment.
    """
    positive, negative = _counts(labels)
    total = len(labels)
    return np.where(labels == 1, total / (2 * positive), total / (2 * negative)).astype(np.float32)


def _counts(labels: NDArray[np.uint8]) -> tuple[int, int]:
    positive = int(np.count_nonzero(labels))
    negative = len(labels) - positive
    if not positive or not negative:
        raise DataError(f"{positive} positive and {negative} negative slices; legal: at least one of each")
    return positive, negative


def merge_small_groups(groups: NDArray[np.integer], smallest: int = SMALLEST_GROUP) -> NDArray[np.int64]:
    """Return group labels of shape (n,), those of fewer than `smallest` members merged into one, -1."""
    values, inverse, counts = np.unique(groups.astype(np.int64), return_inverse=True, return_counts=True)
    return np.where(counts[inverse] >= smallest, values[inverse], -1).astype(np.int64)


def group_weights(labels: NDArray[np.uint8], groups: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return each sample's weight P(group) P(label) / P(group, label), of shape (n,).

    Under these weights every group has the same share of positives, so that a model gains nothing from telling the
    site. Source: Kamiran and Calders, Data preprocessing techniques for classification without discrimination, 2012.
    """
    _, group = np.unique(groups, return_inverse=True)
    cells = 2 * group + (labels == 1)
    counts = np.bincount(cells, minlength=2 * (group.max(initial=-1) + 1))
    return np.asarray(cell_weights(counts.reshape(-1, 2)).ravel()[cells], np.float32)


def cell_weights(counts: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the weights of `group_weights` for each group and label, 1 where there is none.

    Parameters
    ----------
    counts
        Shape (..., groups, 2): how many negatives and positives each group has.
    """
    total, of_group, of_label = (counts.sum(axis, keepdims=True) for axis in ((-2, -1), -1, -2))
    return np.asarray(np.divide(of_group * of_label, total * counts, out=np.ones(counts.shape), where=counts > 0))
