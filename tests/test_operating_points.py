"""Calibration and operating points from held-out logits: fitted, cross-fitted, with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemoscan.errors import DataError
from hemoscan.trainer import operating_points
from hemoscan.trainer.operating_points import (
    fit_operating,
    fit_platt,
    fit_study,
    operating_fields,
    threshold_for,
    to_probabilities,
)

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]


def drawn(n: int = 6000, slope: float = 1.0, intercept: float = 0.0, seed: int = 0) -> tuple[Floats, Labels]:
    """Return logits, and labels whose log odds are `slope` times them plus `intercept`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2, 2.5, n)
    labels = rng.random(n) < 1 / (1 + np.exp(-(slope * logits + intercept)))
    return logits, labels.astype(np.uint8)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 1.0), (2.0, -1.0)])
def test_platt_finds_the_line_that_labels_were_drawn_by(slope: float, intercept: float):
    found = fit_platt(*drawn(20000, slope, intercept))
    assert found.slope == pytest.approx(slope, abs=0.1)
    assert found.intercept == pytest.approx(intercept, abs=0.15)


def test_separable_labels_have_a_finite_fit():
    logits = np.r_[np.linspace(-5, -1, 120), np.linspace(1, 5, 40)]
    found = fit_platt(logits, (logits > 0).astype(np.uint8))
    assert 0 < found.slope < 100
    probabilities = to_probabilities(found, logits)
    assert (probabilities[:120] < 0.5).all()
    assert (probabilities[120:] > 0.5).all()


def test_scores_that_fall_with_the_labels_are_refused():
    logits, labels = drawn(500)
    with pytest.raises(DataError, match="swapped"):
        fit_platt(-logits, labels)


@pytest.mark.parametrize("logit", [-2.0, 0.0, 3.0])
def test_scores_that_are_all_the_same_are_refused_as_such(logit: float):
    _, labels = drawn(500)
    logits = np.full(500, logit)
    with pytest.raises(
        DataError, match=rf"all 500 scores are the logit {logit:g}; legal: at least two different scores"
    ):
        fit_operating(logits, labels, on="test")
    assert operating_fields(logits, labels, np.zeros(500, np.int64), "test") == {}
    logits[0] += 1  # the folds that lack this one are constant
    with pytest.raises(DataError):
        fit_operating(logits, labels, on="test")


def test_over_confident_logits_are_calibrated_out_of_fold():
    logits, labels = drawn(6000, 0.4, 0.5)
    found = fit_operating(logits, labels, on="test")
    assert found.calibration is not None
    assert found.calibration.ece is not None
    assert found.calibration.ece <= 0.02
    assert found.calibration.slope == pytest.approx(0.4, abs=0.05)


def test_the_points_reach_what_they_are_named_for():
    logits, labels = drawn(8000, 1.5)
    points = fit_operating(logits, labels, on="test").operating_points
    assert points["sensitive"].sensitivity == pytest.approx(0.95, abs=0.015)
    assert points["specific"].specificity == pytest.approx(0.99, abs=0.005)
    assert points["sensitive"].threshold < points["balanced"].threshold < points["specific"].threshold
    for point in points.values():
        assert point.threshold == round(point.threshold, 6)
        assert "8000 slices, cross-fitted" in point.on


def test_measured_figures_are_not_those_of_the_fit():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=200), (np.arange(200) < 50).astype(np.uint8)
    logits[labels == 1] += 0.1  # next to nothing to learn: what is fitted does not hold elsewhere
    found = fit_operating(logits, labels, on="noise")
    assert found.calibration is not None
    fitted = to_probabilities(found.calibration, logits)
    apparent = (fitted >= found.operating_points["specific"].threshold)[labels == 0].mean()
    assert apparent <= 0.01
    assert found.operating_points["specific"].specificity < 1 - apparent


def test_slices_of_a_patient_stay_together():
    logits, labels = drawn(2000)
    patients = np.repeat(np.arange(100), 20)
    assert fit_operating(logits, labels, on="test", clusters=patients).operating_points["balanced"].sensitivity > 0.3
    with pytest.raises(DataError, match="fewer than 5 patients"):
        fit_operating(logits, labels, on="test", clusters=np.repeat(np.arange(4), 500))


@pytest.mark.parametrize(("positives", "negatives"), [(19, 500), (20, 99), (0, 500)])
def test_too_few_labels_are_refused(positives: int, negatives: int):
    labels = np.r_[np.ones(positives), np.zeros(negatives)].astype(np.uint8)
    logits = labels.astype(np.float64)
    with pytest.raises(DataError, match="at least 20 with and 100 without"):
        fit_operating(logits, labels, on="test")
    assert operating_fields(logits, labels, np.zeros(len(labels), np.int64), "test") == {}


def test_a_training_that_taught_nothing_has_a_card_without_them():
    labels = np.array([0, 0, 0, 1] * 100, np.uint8)
    logits = -1.0 * labels + np.random.default_rng(0).normal(size=400)
    assert operating_fields(logits, labels, np.zeros(400, np.int64), "test") == {}


def test_a_card_gets_the_balanced_threshold():
    logits, labels = drawn(1000)
    fields = operating_fields(logits, labels, np.repeat([70, 80], 500), "test")
    assert fields["threshold"] == fields["operating_points"]["balanced"].threshold


@pytest.mark.parametrize(("specificity", "threshold"), [(0.9, 0.89 + 1e-6), (0.99, 0.98 + 1e-6), (1.0, 0.99 + 1e-6)])
def test_a_threshold_leaves_its_share_below(specificity: float, threshold: float):
    values = np.arange(100) / 100
    found = threshold_for(values, specificity)
    assert found == pytest.approx(threshold, abs=1e-9)
    assert (values < found).mean() == pytest.approx(specificity)


def test_a_threshold_is_never_above_1():
    assert threshold_for(np.ones(10), 0.9) == 1.0


def test_the_study_threshold_flags_one_in_ten_without_hemorrhage():
    logits, labels = drawn(6000, 1.5)
    probabilities = 1 / (1 + np.exp(-1.5 * logits))
    point = fit_study(probabilities, labels, np.repeat([70, 76, 80], 2000), on="test")
    assert point.specificity == pytest.approx(0.9, abs=0.04)
    assert point.sensitivity > 0.9
    assert point.flagged == pytest.approx(0.1 * point.sensitivity + 0.9 * (1 - point.specificity), abs=1e-3)
    assert "provisional" in point.on
    assert point == fit_study(probabilities, labels, np.repeat([70, 76, 80], 2000), on="test")


def test_studies_are_measured_on_other_patients(monkeypatch: pytest.MonkeyPatch):
    logits, labels = drawn(2000)
    patients = np.random.default_rng(1).permutation(np.repeat(np.arange(100), 20))
    used: list[NDArray[np.bool_]] = []

    def scores(*arguments: Any) -> tuple[Floats, Floats]:
        used.append(arguments[3])
        return study_scores(*arguments)

    study_scores = operating_points._study_scores
    monkeypatch.setattr(operating_points, "_study_scores", scores)
    fit_operating(logits, labels, on="test", clusters=patients)
    chosen, measured = used[0], used[1]
    assert np.array_equal(used[2], measured)
    assert np.array_equal(used[3], chosen)
    assert used[4].all()
    assert not (chosen & measured).any()
    assert (chosen | measured).all()
    assert set(patients[chosen]).isdisjoint(patients[measured])
    assert abs(len(set(patients[chosen])) - 50) <= 2


@pytest.mark.parametrize("both", range(6))
def test_both_halves_have_both_labels_however_few_the_patients(both: int):
    # Five patients with and five without hemorrhage, `both` of them with slices of either kind.
    positive = np.repeat(np.arange(5), 30)
    negative = np.repeat(np.arange(5 - both, 10 - both), 30)
    labels = np.repeat([1, 0], 150).astype(np.uint8)
    patients = np.r_[positive, negative]
    for seed in range(5):
        half = operating_points._halves(labels, patients, np.random.default_rng(seed))
        assert all(set(half[labels == label]) == {0, 1} for label in (0, 1))
        assert all(len(set(half[patients == patient])) == 1 for patient in patients)


def test_a_slice_threshold_would_flag_most_studies():
    logits, labels = drawn(6000, 1.5)
    probabilities = 1 / (1 + np.exp(-1.5 * logits))
    slices = threshold_for(probabilities[labels == 0], 0.95)
    assert fit_study(probabilities, labels, on="test").threshold > slices / 2
    rng = np.random.default_rng(0)
    flagged = [(rng.choice(probabilities[labels == 0], 30) >= slices).any() for _ in range(500)]
    assert np.mean(flagged) == pytest.approx(1 - 0.95**30, abs=0.06)  # four times out of five
