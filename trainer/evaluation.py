"""How well scores tell hemorrhage, with bootstrap intervals: of slices, of studies, and of two models side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hemoscan.trainer.bootstrap import Bootstrap, Estimate, Statistics, Weights, draw, estimate, estimate_share, p_value
from hemoscan.trainer.calibration import brier, calibration, equal_mass_bins
from hemoscan.trainer.figures import Ranking, Rates, balanced_auc, predictive_values, rates
from hemoscan.trainer.metrics import at_threshold, cross_fitted_flags

OTHERS = "others"
"""What groups with too few of either label are called together."""
COMPARED = ("auc", "average_precision", "sensitivity", "specificity", "ppv", "npv", "f1", "brier")


@dataclass(frozen=True)
class Sample:
    """Scored and labelled slices, or studies. All arrays are of shape (n,)."""

    scores: NDArray[np.float64]
    labels: NDArray[np.uint8]
    flags: NDArray[np.bool_]
    clusters: NDArray[np.int64]
    """What is drawn together: the patient, else the study, else the slice."""
    groups: NDArray[np.int64] | None = None
    """Places in `group_names`, -1 for `others`, as from `hemoscan.trainer.metrics.merge_scarce`."""
    group_names: tuple[str, ...] = ()
    probabilities: bool = True
    """Whether scores are meant as probabilities, so that their calibration can be measured."""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def positives(self) -> int:
        """How many hold hemorrhage."""
        return int(self.labels.sum())

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Sample:
        """Return the members that an index array names."""
        return replace(
            self,
            scores=self.scores[index],
            labels=self.labels[index],
            flags=self.flags[index],
            clusters=self.clusters[index],
            groups=None if self.groups is None else self.groups[index],
        )

    def by_study(self, studies: NDArray[np.int64], positive: NDArray[np.int64]) -> Sample:
        """Return the studies: the highest score of their slices, flagged if any slice is.

        Parameters
        ----------
        studies
            Shape (n,): which study a slice is of; -1: of none that is known.
        positive
            Shape (p,): the studies with hemorrhage, maybe on a slice that is not among these.
        """
        known = studies >= 0
        numbers, first, study = np.unique(studies[known], return_index=True, return_inverse=True)
        slices, n = self.take(known), len(first)
        scores, labels, flags = np.full(n, -np.inf), np.isin(numbers, positive).astype(np.uint8), np.zeros(n, bool)
        np.maximum.at(scores, study, slices.scores)
        np.logical_or.at(flags, study, slices.flags)
        # The highest of many probabilities is no probability of the study.
        return Sample(scores, labels, flags, slices.clusters[first], probabilities=False)


@dataclass(frozen=True)
class Evaluation:
    """The figures of one sample."""

    n: int
    positives: int
    clusters: int
    estimates: dict[str, Estimate]
    """By name; docs/evaluation.md says what each is."""
    confusion: dict[str, float | int]
    """At the flags, as from `hemoscan.trainer.metrics.at_threshold`."""
    groups: dict[str, Evaluation]
    """Within each group; empty without groups."""
    bins: tuple[tuple[Estimate, Estimate], ...]
    """Mean prediction and share of positives in bins of equal mass; empty unless scores are probabilities."""


@dataclass(frozen=True)
class Difference:
    """A figure of two models on the same slices."""

    first: float | None
    second: float | None
    difference: Estimate
    """Second less first, with its paired interval."""
    p: float | None
    """Two-sided, of no difference."""


def evaluate(sample: Sample, bootstrap: Bootstrap, prevalences: tuple[float, ...] = ()) -> Evaluation:
    """Measure a sample.

    Figures that are not defined, such as an AUC of positives alone, are None, and so are intervals that the sample
    leaves open.
    """
    values, drawn = draw(_Statistics(sample, prevalences), sample.clusters, bootstrap)
    units = _units(sample)
    estimates = {
        name: estimate_share(float(value), drawn[name], bootstrap, units.get(name, 0))
        for name, value in values.items()
        if not value.ndim
    }
    if "ece" in estimates:  # resampling adds noise to every bin, so that draws lie above the sample's own
        estimates["ece"] = Estimate(estimates["ece"].value)
    return Evaluation(
        n=len(sample),
        positives=sample.positives,
        clusters=len(np.unique(sample.clusters)),
        estimates=estimates,
        confusion=at_threshold(sample.flags, sample.labels),
        groups={
            name: evaluate(replace(sample.take(index), groups=None, probabilities=False), bootstrap)
            for name, index in _members(sample).items()
        },
        bins=_bins(sample, values, drawn, bootstrap),
    )


def _bins(
    sample: Sample, values: Statistics, drawn: Statistics, bootstrap: Bootstrap
) -> tuple[tuple[Estimate, Estimate], ...]:
    if not sample.probabilities:
        return ()
    bins = equal_mass_bins(sample.scores)
    return tuple(
        (
            estimate_share(float(values["bin_predicted"][k]), drawn["bin_predicted"][:, k], bootstrap),
            estimate_share(
                float(values["bin_observed"][k]), drawn["bin_observed"][:, k], bootstrap, _count(sample, bins == k)
            ),
        )
        for k in range(len(values["bin_predicted"]))
    )


def _units(sample: Sample) -> dict[str, int]:
    """Return how many clusters each share is taken over."""
    members = {
        "sensitivity": sample.labels == 1,
        "specificity": sample.labels == 0,
        "ppv": sample.flags,
        "npv": ~sample.flags,
        "accuracy": np.ones(len(sample), bool),
    }
    return {name: _count(sample, member) for name, member in members.items()}


def _count(sample: Sample, member: NDArray[np.bool_]) -> int:
    return len(np.unique(sample.clusters[member]))


def _members(sample: Sample) -> dict[str, NDArray[np.bool_]]:
    """Return which slices each group has, by its name."""
    if sample.groups is None:
        return {}
    names = [*sample.group_names, small_groups(sample.group_names)]  # which -1, the last, stands for
    return {names[group]: sample.groups == group for group in np.unique(sample.groups).tolist()}


def small_groups(names: Iterable[str]) -> str:
    """Return what small groups are called beside groups of these names, of which one may be `others` itself."""
    return f"{OTHERS} (small groups)" if OTHERS in names else OTHERS


class _Statistics:
    """Works out a sample's figures under weights; those of COMPARED only unless `full`."""

    def __init__(self, sample: Sample, prevalences: tuple[float, ...] = (), *, full: bool = True) -> None:
        self.sample, self.prevalences, self.full = sample, prevalences, full
        self.ranking = Ranking(sample.scores, sample.labels)
        self.cross_fitted = None
        if full and 0 < sample.positives < len(sample) and np.any(sample.clusters != sample.clusters[0]):
            # Chosen once: within a resample, copies of a slice would stand on both sides of the halves.
            self.cross_fitted = cross_fitted_flags(sample.scores, sample.labels, clusters=sample.clusters)

    def __call__(self, weights: Weights) -> Statistics:
        """Return figures of shape (b,), those of bins (b, bins), under weights of shape (b, n)."""
        sample = self.sample
        auc, average_precision = self.ranking.areas(weights)
        found = rates(sample.flags, sample.labels, weights)
        figures = {"auc": auc, "average_precision": average_precision, **vars(found)}
        if sample.probabilities:
            figures["brier"] = brier(sample.scores, sample.labels, weights)
        return figures | self.further(found, weights) if self.full else figures

    def further(self, found: Rates, weights: Weights) -> Statistics:
        """Return what is not compared."""
        sample, figures = self.sample, predictive_values(found, self.prevalences)
        if self.cross_fitted is not None:
            fitted = rates(self.cross_fitted, sample.labels, weights)
            figures |= {f"cross_fitted_{name}": value for name, value in vars(fitted).items()}
        if sample.groups is not None:
            figures["auc_group_balanced"] = balanced_auc(self.ranking, sample.labels, sample.groups, weights)
        if sample.probabilities:
            figures |= calibration(sample.scores, sample.labels, weights)
        return figures


def compare(first: Sample, second: Sample, bootstrap: Bootstrap) -> dict[str, Difference]:
    """Compare two models on the same slices, given in the same order.

    Every draw takes the same slices for both, so that what they share, such as difficult patients, cancels out.
    Brier scores are compared where both give probabilities.
    """
    names = [name for name in COMPARED if name != "brier" or (first.probabilities and second.probabilities)]
    pair = partial(_both, _Statistics(first, full=False), _Statistics(second, full=False))
    values, drawn = draw(pair, first.clusters, bootstrap)
    found = {}
    for name in names:
        one, other = values[f"first {name}"], values[f"second {name}"]
        differences = drawn[f"second {name}"] - drawn[f"first {name}"]
        found[name] = Difference(
            first=float(one) if np.isfinite(one) else None,
            second=float(other) if np.isfinite(other) else None,
            difference=estimate(float(other - one), differences, bootstrap.level),
            p=p_value(differences) if np.isfinite(other - one) else None,
        )
    return found


def _both(first: _Statistics, second: _Statistics, weights: Weights) -> Statistics:
    return {
        f"{which} {name}": value
        for which, statistics in (("first", first), ("second", second))
        for name, value in statistics(weights).items()
    }
