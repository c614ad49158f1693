"""Figures against scikit-learn, by hand, and by trying every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from hemoscan.trainer.console import format_metrics
from hemoscan.trainer.metrics import at_threshold, best_f1_threshold, cross_fitted_flags, measure, probabilities


def sample(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.int64]]:
    """Draw logits that tell something about the labels, labels, and groups of unequal shares."""
    rng = np.random.default_rng(seed)
    groups = rng.choice([70, 80], n)
    labels = (rng.random(n) < np.where(groups == 80, 0.5, 0.2)).astype(np.uint8)
    return rng.normal(labels * 1.5 - 1, 1.2), labels, groups


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_are_sigmoids_without_overflow(dtype: type):
    with np.errstate(all="raise"):
        found = probabilities(np.array([-1000, -2, 0, 2, 1000], dtype))
    assert found.tolist() == pytest.approx([0, 0.11920292, 0.5, 0.88079708, 1])
    assert found.dtype == np.float64
    assert ((found >= 0) & (found <= 1)).all()


def f1_at(threshold: float, scores: NDArray[np.float64], labels: NDArray[np.uint8]) -> float:
    flags = scores >= threshold
    hits = np.count_nonzero(flags & (labels == 1))
    return 2 * hits / (np.count_nonzero(flags) + np.count_nonzero(labels))


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), min_size=1, max_size=25).filter(
        lambda rows: any(label for _, label in rows)
    )
)
def test_no_threshold_has_a_higher_f1_than_the_best(rows: list[tuple[int, int]]):
    scores = np.array([score / 8 for score, _ in rows])
    labels = np.array([label for _, label in rows], np.uint8)
    best = best_f1_threshold(scores, labels)
    everywhere = max(f1_at(threshold, scores, labels) for threshold in np.unique(scores))
    assert f1_at(best, scores, labels) == pytest.approx(everywhere)


@pytest.mark.parametrize(
    ("flags", "labels", "expected"),
    [
        pytest.param(
            [1, 1, 1, 0, 0, 0, 0, 0],
            [1, 1, 0, 1, 0, 0, 0, 0],
            {
                "true_positives": 2,
                "false_positives": 1,
                "false_negatives": 1,
                "true_negatives": 4,
                "accuracy": 0.75,
                "precision": 2 / 3,
                "recall": 2 / 3,
                "specificity": 0.8,
                "f1": 2 / 3,
            },
            id="by hand",
        ),
        pytest.param([0, 0], [1, 0], {"precision": None, "recall": 0, "f1": 0, "specificity": 1}, id="nothing flagged"),
        pytest.param([1, 0], [0, 0], {"precision": 0, "recall": None, "f1": 0, "specificity": 0.5}, id="no positives"),
        pytest.param([1, 1], [1, 1], {"precision": 1, "recall": 1, "f1": 1, "specificity": None}, id="no negatives"),
        pytest.param([0, 0], [0, 0], {"precision": None, "recall": None, "f1": None, "accuracy": 1}, id="neither"),
    ],
)
def test_confusion_and_what_follows(flags: list[int], labels: list[int], expected: dict[str, float]):
    found = at_threshold(np.array(flags, bool), np.array(labels, np.uint8))
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_the_precision_of_no_flags_is_printed_as_none_at_all():
    labels, logits = np.array([1, 0, 1, 0], np.uint8), np.array([-1.0, -2, -3, -4])
    printed = format_metrics("densenet-bias", "validation", measure(logits, labels, np.full(4, -1)))
    assert "at 0.5       accuracy 0.5000  precision -  recall 0.0000  F1 0.0000" in printed


def test_own_label_never_changes_own_flag():
    logits, labels, _ = sample(60)
    scores = probabilities(logits)
    flags = cross_fitted_flags(scores, labels)
    without_cross_fitting = 0
    for i in range(len(labels)):
        flipped = labels.copy()
        flipped[i] = 1 - flipped[i]
        assert cross_fitted_flags(scores, flipped)[i] == flags[i]
        in_sample = (scores >= best_f1_threshold(scores, labels))[i]
        without_cross_fitting += (scores >= best_f1_threshold(scores, flipped))[i] != in_sample
    assert without_cross_fitting > 0, "the sample shows no difference to choosing and judging on the same slices"


def test_labels_of_one_half_move_the_threshold_of_the_other_only():
    labels = np.array([1, 0] * 20, np.uint8)
    scores = np.linspace(0.9, 0.1, 40)
    flags = cross_fitted_flags(scores, labels)
    changed = np.zeros((40, 40), bool)
    for i in range(40):
        flipped = labels.copy()
        flipped[i] = 1 - flipped[i]
        changed[i] = cross_fitted_flags(scores, flipped) != flags
    assert changed.any()
    # Halves are two sides: what a label moves directly, it cannot also move by way of a third slice.
    by_way_of_a_third = (changed.astype(int) @ changed.astype(int)) > 0
    assert not (changed & by_way_of_a_third).any()


def test_cross_fitted_flags_of_a_clear_case_are_the_labels():
    labels = np.array([1, 0, 0] * 20, np.uint8)
    scores = np.where(labels == 1, 0.9, 0.1)
    assert np.array_equal(cross_fitted_flags(scores, labels), labels == 1)


def test_cross_fitted_flags_are_the_same_each_time_and_depend_on_the_seed():
    logits, labels, _ = sample(60)
    scores = probabilities(logits)
    assert np.array_equal(cross_fitted_flags(scores, labels), cross_fitted_flags(scores, labels))
    others = [cross_fitted_flags(scores, labels, seed) for seed in range(1, 6)]
    assert any(not np.array_equal(other, others[0]) for other in others)


@pytest.mark.parametrize("bleeding", [2, 3, 5])
def test_both_halves_have_patients_with_positives_to_choose_a_threshold_on(bleeding: int):
    patients = np.repeat(np.arange(40), 10)
    labels = (patients < bleeding).astype(np.uint8)
    scores = np.where(labels == 1, 0.4, 0.3)  # a threshold of 0.5 that nobody chose would flag nothing
    for seed in range(20):
        assert np.array_equal(cross_fitted_flags(scores, labels, seed, clusters=patients), labels == 1)


def test_positives_of_one_patient_leave_no_threshold_to_be_chosen_elsewhere():
    patients = np.repeat(np.arange(40), 10)
    labels = (patients == 7).astype(np.uint8)
    assert cross_fitted_flags(labels.astype(float), labels, clusters=patients) is None
    assert measure(8.0 * labels - 4, labels, np.full(400, 70), patients)["at_cross_fitted_threshold"] is None


def test_a_single_group_is_balanced_with_nobody():
    logits, labels, _ = sample(60)
    assert measure(logits, labels, np.full(60, -1))["auc_group_balanced"] is None
    groups = np.arange(60) % 12  # each too small to tell from the others
    assert measure(logits, labels, groups)["auc_group_balanced"] is None


def test_measure_agrees_with_scikit_learn():
    logits, labels, groups = sample(400)
    scores = probabilities(logits)
    found = measure(logits, labels, groups)
    assert (found["n"], found["positives"]) == (400, labels.sum())
    assert found["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, logits))
    assert found["average_precision"] == pytest.approx(sklearn_metrics.average_precision_score(labels, logits))
    assert found["auc_within_groups"] == pytest.approx(
        {
            str(group): sklearn_metrics.roc_auc_score(labels[groups == group], logits[groups == group])
            for group in (70, 80)
        }
    )
    fixed = found["at_0.5"]
    assert fixed["f1"] == pytest.approx(sklearn_metrics.f1_score(labels, logits >= 0))
    assert fixed["precision"] == pytest.approx(sklearn_metrics.precision_score(labels, logits >= 0))
    assert fixed["recall"] == pytest.approx(sklearn_metrics.recall_score(labels, logits >= 0))
    assert fixed["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, logits >= 0))
    assert found["threshold"] == best_f1_threshold(scores, labels)
    assert found["at_cross_fitted_threshold"] == at_threshold(cross_fitted_flags(scores, labels), labels)


def test_measure_keeps_patients_in_one_half():
    logits, labels, groups = sample(400)
    patients, scores = np.repeat(np.arange(20), 20), probabilities(logits)
    found = measure(logits, labels, groups, patients)
    flags = cross_fitted_flags(scores, labels, clusters=patients)
    assert not np.array_equal(flags, cross_fitted_flags(scores, labels))
    assert found["at_cross_fitted_threshold"] == at_threshold(flags, labels)
    assert {**found, "at_cross_fitted_threshold": 0} == {
        **measure(logits, labels, groups),
        "at_cross_fitted_threshold": 0,
    }


def test_cross_fitted_f1_is_not_above_the_best_of_the_split():
    for seed in range(5):
        logits, labels, groups = sample(80, seed)
        found = measure(logits, labels, groups)
        best = at_threshold(probabilities(logits) >= found["threshold"], labels)["f1"]
        assert found["at_cross_fitted_threshold"]["f1"] <= best + 0.05


def test_a_score_that_tells_the_group_only_gains_nothing_with_groups_balanced():
    groups = np.repeat([70, 80], [200, 100])
    labels = np.concatenate([np.arange(200) < 12, np.arange(100) < 40]).astype(np.uint8)
    found = measure(np.where(groups == 80, 1.0, -1.0), labels, groups)
    assert found["auc"] > 0.75
    assert found["auc_group_balanced"] == pytest.approx(0.5)
    assert found["auc_within_groups"] == {"70": 0.5, "80": 0.5}


def test_groups_of_one_class_have_no_auc_of_their_own():
    logits, labels, groups = sample(100)
    labels[groups == 70] = 0
    assert set(measure(logits, labels, groups)["auc_within_groups"]) == {"80"}


@pytest.mark.parametrize("positives", [1, 2])
def test_few_positives_are_measured_without_warnings(positives: int):
    labels = np.zeros(20, np.uint8)
    labels[:positives] = 1
    logits = np.linspace(2, -2, 20)
    found = measure(logits, labels, np.full(20, -1))
    assert found["auc"] == 1
    assert found["positives"] == positives
