"""Calibration and operating points from held-out logits, each measured on slices that it was not chosen on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from hemoscan.errors import DataError
from hemoscan.operating import BALANCED, SENSITIVE, SPECIFIC, Calibration, Operating, OperatingPoint, StudyPoint
from hemoscan.series import smooth
from hemoscan.slices import PROBABILITY_DIGITS
from hemoscan.trainer.calibration import calibration
from hemoscan.trainer.metrics import best_f1_threshold

FOLDS = 5
SENSITIVITY = 0.95
SPECIFICITY = 0.99
# Of fewer slices, a share of 1 in 20, or of 1 in 100, cannot be told.
FEWEST_POSITIVES = 20
FEWEST_NEGATIVES = 100
STUDY_SPECIFICITY = 0.9
STUDY_SLICES = 30
STUDY_POSITIVES = 6
STUDIES = 1000
PREVALENCE = 0.1

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]
Rule = Callable[[Floats, Labels], float]


def enough(labels: Labels) -> bool:
    """Tell whether there are labels enough to choose operating points from."""
    return bool(labels.sum() >= FEWEST_POSITIVES and len(labels) - labels.sum() >= FEWEST_NEGATIVES)


def operating_fields(
    logits: NDArray[np.floating],
    labels: Labels,
    groups: NDArray[np.int64],
    on: str,
    clusters: NDArray[np.integer] | None = None,
) -> dict[str, Any]:
    """Return the card's fields that `fit_operating` fills, with the threshold.

    None if the labels are too few, or the scores do not rise with them: a training that taught nothing has a card, too.
    """
    if not enough(labels):
        return {}
    try:
        found = fit_operating(logits, labels, groups, on=on, clusters=clusters)
    except DataError:
        return {}
    return {
        "threshold": found.threshold_of(BALANCED),
        "calibration": found.calibration,
        "operating_points": found.operating_points,
        "study": found.study,
    }


def fit_operating(
    logits: NDArray[np.floating],
    labels: Labels,
    groups: NDArray[np.integer] | None = None,
    *,
    on: str,
    clusters: NDArray[np.integer] | None = None,
) -> Operating:
    """Fit calibration and operating points on all slices; measure them cross-fitted in five folds.

    Parameters
    ----------
    logits
        Shape (n,), of slices that the network was not trained on.
    labels
        Shape (n,), 1 for hemorrhage.
    groups
        Shape (n,): the site of each slice, for synthetic studies; None: all are of one.
    on
        What the slices are, for the card.
    clusters
        Shape (n,): what must not be torn apart by the folds, such as the patient; None: each slice stands alone.

    Returns
    -------
    Operating
        `balanced`: the highest F1; `sensitive`: the highest threshold of sensitivity 0.95; `specific`: the lowest of
        specificity 0.99; the study point as by `fit_study`.

    Raises
    ------
    DataError
        If there are fewer than 20 slices with or 100 without hemorrhage, too few patients, or scores that are all the
        same or do not rise with the labels.
    """
    if not enough(labels):
        positives = int(labels.sum())
        raise DataError(
            f"{positives} labelled slices with and {len(labels) - positives} without hemorrhage; "
            f"legal: at least {FEWEST_POSITIVES} with and {FEWEST_NEGATIVES} without"
        )
    raw = np.asarray(logits, np.float64)
    folds = list(_folds(labels, clusters))
    whole = fit_platt(raw, labels)
    fitted = np.empty(len(labels))
    flags = {name: np.zeros(len(labels), bool) for name in RULES}
    for rest, fold in folds:
        platt = fit_platt(raw[rest], labels[rest])
        fitted[fold] = to_probabilities(platt, raw[fold])
        for name, rule in RULES.items():
            threshold = rule(to_probabilities(platt, raw[rest]), labels[rest])
            flags[name][fold] = fitted[fold] >= threshold
    ece = float(calibration(fitted, labels, np.ones((1, len(labels))))["ece"][0])
    measured = f"{on}, {len(labels)} slices, cross-fitted in {FOLDS} folds"
    platt = replace(whole, ece=round(ece, PROBABILITY_DIGITS), on=measured)
    probabilities = to_probabilities(platt, raw)
    points = {
        name: OperatingPoint(rule(probabilities, labels), *_rates(flags[name], labels), on=measured)
        for name, rule in RULES.items()
    }
    return Operating(platt, points, fit_study(fitted, labels, groups, on=on, clusters=clusters))


def fit_platt(logits: Floats, labels: Labels) -> Calibration:
    """Fit Platt's sigmoid, its targets drawn in so that separable labels have a solution, too.

    Source: Platt, Advances in Large Margin Classifiers, 1999; Lin et al., Machine Learning 2007, 68:267.

    Raises
    ------
    DataError
        If all scores are the same, or probabilities would fall with rising scores.
    """
    if np.ptp(logits) == 0:  # the slope would be any, and of either sign
        raise DataError(f"all {len(logits)} scores are the logit {logits[0]:.6g}; legal: at least two different scores")
    positives, negatives = int(labels.sum()), int(len(labels) - labels.sum())
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    twice = np.concatenate((logits, logits))[:, None]
    found = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000).fit(
        twice, np.repeat([1, 0], len(logits)), np.concatenate((target, 1 - target))
    )
    slope = float(found.coef_[0, 0])
    if slope <= 0:
        raise DataError(f"scores do not rise with the labels (slope {slope:.3g}); legal: above 0; are 0 and 1 swapped?")
    return Calibration(slope, float(found.intercept_[0]))


def to_probabilities(platt: Calibration, logits: Floats) -> Floats:
    """Return probabilities of shape (n,), rounded as a scan writes them."""
    return np.round(0.5 * (1 + np.tanh(0.5 * (platt.slope * logits + platt.intercept))), PROBABILITY_DIGITS)


def _sensitive(probabilities: Floats, labels: Labels) -> float:
    positive = np.sort(probabilities[labels == 1])
    return float(positive[int((1 - SENSITIVITY) * len(positive) + 1e-9)])


def _specific(probabilities: Floats, labels: Labels) -> float:
    return threshold_for(probabilities[labels == 0], SPECIFICITY)


RULES: dict[str, Rule] = {BALANCED: best_f1_threshold, SENSITIVE: _sensitive, SPECIFIC: _specific}


def threshold_for(negatives: Floats, specificity: float) -> float:
    """Return the lowest threshold of six digits that leaves this share of `negatives` (of shape (n,)) below it."""
    below = np.sort(negatives)[int(np.ceil(specificity * len(negatives) - 1e-9)) - 1]
    return min(round(float(below) + 10.0**-PROBABILITY_DIGITS, PROBABILITY_DIGITS), 1.0)


def _rates(flags: NDArray[np.bool_], labels: Labels) -> tuple[float, float]:
    """Return sensitivity and specificity."""
    return (
        round(float(flags[labels == 1].mean()), PROBABILITY_DIGITS),
        round(float(1 - flags[labels == 0].mean()), PROBABILITY_DIGITS),
    )


def _folds(labels: Labels, clusters: NDArray[np.integer] | None) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield the rest and the fold, five times; no cluster is in both."""
    if clusters is None:
        yield from StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(labels[:, None], labels)
        return
    if min(len(np.unique(clusters[labels == label])) for label in (0, 1)) < FOLDS:
        raise DataError(f"fewer than {FOLDS} patients with or without hemorrhage; legal: at least {FOLDS} of each")
    yield from StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(labels[:, None], labels, clusters)


# Studies


def fit_study(
    probabilities: Floats,
    labels: Labels,
    groups: NDArray[np.integer] | None = None,
    *,
    on: str,
    clusters: NDArray[np.integer] | None = None,
    seed: int = 0,
) -> StudyPoint:
    """Choose a threshold for study scores that flags one in ten studies without hemorrhage, and say what it does.

    There are no labels of studies, so studies are made up: 30 slices of one group, drawn with replacement, in random
    order; with hemorrhage, six neighbours among them are positive. Neighbours in a real study are more alike than that,
    so the threshold is provisional. It is measured on studies of slices that it was not chosen on, by halves that no
    cluster is in both of.

    Parameters
    ----------
    probabilities
        Shape (n,), cross-fitted.
    labels, groups, on, clusters
        As for `fit_operating`.
    """
    rng = np.random.default_rng(seed)
    groups = np.zeros(len(labels), np.int64) if groups is None else groups
    half = _halves(labels, np.arange(len(labels)) if clusters is None else clusters, rng)
    rates = []
    for one in (0, 1):
        chosen = threshold_for(_study_scores(probabilities, labels, groups, half == one, rng)[0], STUDY_SPECIFICITY)
        without, with_ = _study_scores(probabilities, labels, groups, half != one, rng)
        rates.append((float((with_ >= chosen).mean()), float((without < chosen).mean())))
    sensitivity, specificity = np.mean(rates, axis=0).tolist()
    everything = np.ones(len(labels), bool)
    without, _ = _study_scores(probabilities, labels, groups, everything, rng)
    return StudyPoint(
        threshold=threshold_for(without, STUDY_SPECIFICITY),
        sensitivity=round(sensitivity, 4),
        specificity=round(specificity, 4),
        flagged=round(PREVALENCE * sensitivity + (1 - PREVALENCE) * (1 - specificity), 4),
        prevalence=PREVALENCE,
        on=f"provisional: {STUDIES} made-up studies each with and without hemorrhage, of {STUDY_SLICES} slices of one "
        f"group in random order from {on}, {STUDY_POSITIVES} neighbours positive; no labels of studies exist",
    )


def _halves(labels: Labels, clusters: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the half, 0 or 1, of each slice, of shape (n,): both labels in both, if five clusters have each."""
    names, cluster = np.unique(clusters, return_inverse=True)
    has = np.zeros((2, len(names)), bool)  # which clusters have slices without and with hemorrhage
    has[labels, cluster] = True
    half = np.empty(len(names), np.int64)
    for kind in (has[0] & ~has[1], has[1] & ~has[0], has[0] & has[1]):
        members = rng.permutation(np.flatnonzero(kind))
        half[members] = np.arange(len(members)) % 2
    return half[cluster]


def _study_scores(
    probabilities: Floats,
    labels: Labels,
    groups: NDArray[np.integer],
    usable: NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Return scores of made-up studies without and with hemorrhage, each of shape (STUDIES,)."""
    names, counts = np.unique(groups[usable], return_counts=True)
    pools = {int(name): _pools(probabilities, labels, usable & (groups == name)) for name in names}
    everyone = _pools(probabilities, labels, usable)
    without, with_ = np.empty(STUDIES), np.empty(STUDIES)
    for study, name in enumerate(rng.choice(names, STUDIES, p=counts / counts.sum()).tolist()):
        negative, positive = (
            own if len(own) >= STUDY_POSITIVES else common for own, common in zip(pools[name], everyone, strict=True)
        )
        slices = rng.choice(negative, STUDY_SLICES)
        without[study] = smooth(slices).max()
        start = int(rng.integers(STUDY_SLICES - STUDY_POSITIVES + 1))
        slices[start : start + STUDY_POSITIVES] = rng.choice(positive, STUDY_POSITIVES)
        with_[study] = smooth(slices).max()
    return without, with_


def _pools(probabilities: Floats, labels: Labels, usable: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    return probabilities[usable & (labels == 0)], probabilities[usable & (labels == 1)]
