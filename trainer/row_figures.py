"""The figures of one row of the tables: each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemoscan.trainer.bootstrap import Bootstrap, Estimate, Statistics, Weights, draw, estimate_share
from hemoscan.trainer.figures import Ranking, balance, rates
from hemoscan.trainer.metrics import (
    at_threshold,
    auc_within,
    best_f1_threshold,
    cross_fitted_flags,
    merge_scarce,
    probabilities,
)

AT_HALF, AT_CHOSEN = "at_0.5", "at_chosen_threshold"
BOOTSTRAP = Bootstrap()


@dataclass(frozen=True)
class Figures:
    """What a model reaches on held-out slices."""

    n: int
    positives: int
    confusion: dict[str, dict[str, Any]]
    """For `AT_HALF` and `AT_CHOSEN` what `hemoscan.trainer.metrics.at_threshold` returns."""
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
    logits: NDArray[np.float64], labels: NDArray[np.uint8], groups: NDArray[np.int64], folds: NDArray[np.intp]
) -> Figures:
    """Measure held-out logits of shape (n,); `folds` says which fold held out each slice.

    The chosen threshold has the best F1: for each fold on the slices of the other folds, and where there is one fold,
    for each half of it on the other half, so that no slice helps to choose its own threshold.
    """
    scores = probabilities(logits)
    flags = {AT_HALF: scores >= 0.5, AT_CHOSEN: out_of_fold_flags(scores, labels, folds)}
    merged = merge_scarce(labels, groups)
    aucs = auc_within(scores, labels, merged)
    statistics = _Statistics(scores, labels, merged, flags)
    units = {"accuracy": len(labels), "recall": int(labels.sum())}
    shares = {f"{point}.{name}": count for point in flags for name, count in units.items()}
    shares |= {f"{point}.precision": int(flag.sum()) for point, flag in flags.items()}
    values, drawn = draw(statistics, np.arange(len(labels)), BOOTSTRAP)
    return Figures(
        n=len(labels),
        positives=int(labels.sum()),
        confusion={name: at_threshold(flag, labels) for name, flag in flags.items()},
        estimates={
            name: estimate_share(float(value), drawn[name], BOOTSTRAP, shares.get(name, 0))
            for name, value in values.items()
        },
        within={
            int(group): Within(int((merged == group).sum()), int(labels[merged == group].sum()), aucs.get(int(group)))
            for group in np.unique(merged)
        },
    )


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
        balanced, _ = self.ranking.areas(balance(self.labels, self.groups, weights))
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
    scores: NDArray[np.float64], labels: NDArray[np.uint8], folds: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Flag each fold at the threshold chosen on the others; of a single fold, each half at that of the other."""
    present = np.unique(folds)
    if len(present) == 1:
        return cross_fitted_flags(scores, labels)
    flags = np.zeros(len(scores), bool)
    for fold in present:
        held_out = folds == fold
        flags[held_out] = scores[held_out] >= best_f1_threshold(scores[~held_out], labels[~held_out])
    return flags
