"""The figures of one row of the tables: each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemoscan.trainer.bootstrap import Bootstrap, Estimate, Statistics, Weights, draw, estimate_share
from hemoscan.trainer.figures import Ranking, balanced_auc, rates
from hemoscan.trainer.metrics import (
    at_threshold,
    auc_within,
    best_f1_threshold,
    cross_fitted_flags,
    merge_scarce,
    probabilities,
)

AT_HALF, AT_CHOSEN = "at_0.5", "at_chosen_threshold"
MEASURES = ("accuracy", "precision", "recall", "f1")
"""Of either threshold."""
BOOTSTRAP = Bootstrap()


@dataclass(frozen=True)
class Figures:
    """What a model reaches on held-out slices."""

    n: int
    positives: int
    clusters: int
    """Of slices that belong together, such as a patient's: those are drawn again together."""
    confusion: dict[str, dict[str, Any]]
    """For `AT_HALF`, and `AT_CHOSEN` where one can be chosen, what `hemoscan.trainer.metrics.at_threshold` returns."""
    estimates: dict[str, Estimate]
    """`auc`, `auc_group_balanced`, `average_precision`, and for either threshold `<threshold>.accuracy`,
    `<threshold>.precision`, `<threshold>.recall` and `<threshold>.f1`."""
    within: dict[int, Within]
    """By group, -1 for the small ones together."""


@dataclass(frozen=True)
class Within:
    """A group by itself."""

    n: int
    positives: int
    auc: float | None
    """None where it has one label only."""


def figures_of(
    logits: NDArray[np.float64],
    labels: NDArray[np.uint8],
    groups: NDArray[np.int64],
    folds: NDArray[np.intp],
    clusters: NDArray[np.integer],
) -> Figures:
    """Measure held-out logits.

    The chosen threshold has the best F1: for each fold on the slices of the other folds, and where there is one fold,
    for each half of it on the other half, so that neither a slice nor its cluster helps to choose its own threshold.

    Parameters
    ----------
    logits, labels, groups
        Shape (n,) each.
    folds
        Shape (n,): which fold held out each slice.
    clusters
        Shape (n,): slices of one number belong together, such as a patient's; none spans two folds.
    """
    scores = probabilities(logits)
    flags = {AT_HALF: scores >= 0.5}
    chosen = out_of_fold_flags(scores, labels, folds, clusters)
    if chosen is not None:
        flags[AT_CHOSEN] = chosen
    merged = merge_scarce(labels, groups)
    aucs = auc_within(scores, labels, merged)
    statistics = _Statistics(scores, labels, merged, flags)
    units = {"accuracy": _count(clusters), "recall": _count(clusters[labels == 1])}
    shares = {f"{point}.{name}": count for point in flags for name, count in units.items()}
    shares |= {f"{point}.precision": _count(clusters[flag]) for point, flag in flags.items()}
    values, drawn = draw(statistics, clusters, BOOTSTRAP)
    unchosen = () if chosen is not None else MEASURES
    return Figures(
        n=len(labels),
        positives=int(labels.sum()),
        clusters=_count(clusters),
        confusion={name: at_threshold(flag, labels) for name, flag in flags.items()},
        estimates={
            name: estimate_share(float(value), drawn[name], BOOTSTRAP, shares.get(name, 0))
            for name, value in values.items()
        }
        | {f"{AT_CHOSEN}.{name}": Estimate(None) for name in unchosen},
        within={
            int(group): Within(int((merged == group).sum()), int(labels[merged == group].sum()), aucs.get(int(group)))
            for group in np.unique(merged)
        },
    )


def _count(clusters: NDArray[np.integer]) -> int:
    return len(np.unique(clusters))


class _Statistics:
    """All figures of a row under many weightings at once."""

    def __init__(
        self,
        scores: NDArray[np.float64],
        labels: NDArray[np.uint8],
        groups: NDArray[np.int64],
        flags: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        self.ranking, self.labels, self.groups, self.flags = Ranking(scores, labels), labels, groups, flags

    def __call__(self, weights: Weights) -> Statistics:
        auc, average_precision = self.ranking.areas(weights)
        balanced = balanced_auc(self.ranking, self.labels, self.groups, weights)
        found = {"auc": auc, "auc_group_balanced": balanced, "average_precision": average_precision}
        for name, flag in self.flags.items():
            rate = rates(flag, self.labels, weights)
            found |= {
                f"{name}.accuracy": rate.accuracy,
                f"{name}.precision": rate.ppv,
                f"{name}.recall": rate.sensitivity,
                f"{name}.f1": rate.f1,
            }
        return found


def out_of_fold_flags(
    scores: NDArray[np.float64], labels: NDArray[np.uint8], folds: NDArray[np.intp], clusters: NDArray[np.integer]
) -> NDArray[np.bool_] | None:
    """Flag each fold at the threshold chosen on the others; of a single fold, each half at that of the other.

    A cluster lies in one half, as it does in one fold. None where `hemoscan.trainer.metrics.cross_fitted_flags` is.
    """
    present = np.unique(folds)
    if len(present) == 1:
        return cross_fitted_flags(scores, labels, clusters=clusters)
    flags = np.zeros(len(scores), bool)
    for fold in present:
        held_out = folds == fold
        flags[held_out] = scores[held_out] >= best_f1_threshold(scores[~held_out], labels[~held_out])
    return flags
