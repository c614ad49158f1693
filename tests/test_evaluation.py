"""Figures with intervals: scikit-learn's answers, answers by hand, and what the bootstrap owes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from hemoscan.trainer.balance import group_weights
from hemoscan.trainer.bootstrap import Bootstrap, Estimate, draw, estimate, p_value, resample
from hemoscan.trainer.calibration import brier, calibration, equal_mass_bins, log_odds
from hemoscan.trainer.evaluation import Sample, compare, evaluate
from hemoscan.trainer.figures import Ranking, balance, predictive_values, rates
from hemoscan.trainer.metrics import measure, merge_scarce

FEW = Bootstrap(resamples=200)


def make_sample(n: int = 300, seed: int = 0, share: float = 0.3, copies: int = 1) -> Sample:
    """Return scores that are calibrated probabilities of their labels, rounded so that some are equal."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.beta(2 * share, 2 * (1 - share), n), 2)
    labels = (rng.random(n) < scores).astype(np.uint8)
    sample = Sample(scores, labels, scores >= 0.5, np.arange(n))
    return sample.take(np.repeat(np.arange(n), copies))


def ones(n: int) -> NDArray[np.float64]:
    return np.ones((1, n))


def drawn_weights(n: int, blocks: int = 5) -> NDArray[np.float64]:
    return np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), blocks).astype(np.float64)


# Figures under weights, against scikit-learn


def test_areas_are_those_of_scikit_learn_on_every_resample():
    sample = make_sample(60)
    weights = drawn_weights(60)
    auc, average_precision = Ranking(sample.scores, sample.labels).areas(weights)
    for row, one, other in zip(weights, auc, average_precision, strict=True):
        again = sample.take(np.repeat(np.arange(60), row.astype(int)))
        assert one == pytest.approx(sk.roc_auc_score(again.labels, again.scores))
        assert other == pytest.approx(sk.average_precision_score(again.labels, again.scores))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 4)), min_size=2, max_size=12))
def test_areas_with_many_equal_scores(rows: list[tuple[int, bool, int]]):
    scores, labels, weights = (np.array(column) for column in zip(*rows, strict=True))
    if 0 < labels.sum() < len(labels):
        auc, average_precision = Ranking(scores / 3, labels.astype(np.uint8)).areas(weights[None].astype(float))
        assert auc[0] == pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=weights))
        assert average_precision[0] == pytest.approx(sk.average_precision_score(labels, scores, sample_weight=weights))


def test_rates_are_those_of_scikit_learn():
    sample = make_sample(80)
    weights = drawn_weights(80)
    found = rates(sample.flags, sample.labels, weights)
    for i, row in enumerate(weights):
        arguments = {"y_true": sample.labels, "y_pred": sample.flags, "sample_weight": row}
        assert found.sensitivity[i] == pytest.approx(sk.recall_score(**arguments))
        assert found.specificity[i] == pytest.approx(sk.recall_score(**arguments, pos_label=0))
        assert found.ppv[i] == pytest.approx(sk.precision_score(**arguments))
        assert found.npv[i] == pytest.approx(sk.precision_score(**arguments, pos_label=0))
        assert found.f1[i] == pytest.approx(sk.f1_score(**arguments))
        assert found.accuracy[i] == pytest.approx(sk.accuracy_score(**arguments))


def test_predictive_values_by_hand():
    flags, labels = np.array([1] * 9 + [0] + [1] * 2 + [0] * 8, bool), np.array([1] * 10 + [0] * 10, np.uint8)
    found = predictive_values(rates(flags, labels, ones(20)), (0.5, 0.01))
    assert found["ppv_at_0.5"][0] == pytest.approx(9 / 11)
    assert found["ppv_at_0.01"][0] == pytest.approx(0.009 / (0.009 + 0.198))
    assert found["npv_at_0.01"][0] == pytest.approx(0.792 / (0.792 + 0.001))


def test_prevalences_that_differ_in_a_late_digit_are_two():
    flags, labels = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], np.uint8)
    found = predictive_values(rates(flags, labels, ones(4)), (0.02, 0.0200000001))
    assert list(found) == ["ppv_at_0.02", "npv_at_0.02", "ppv_at_0.0200000001", "npv_at_0.0200000001"]


def test_balancing_is_that_of_the_training():
    sample = make_sample(90)
    groups = np.arange(90) % 3
    weights = drawn_weights(90)
    for row, found in zip(weights, balance(sample.labels, groups, weights), strict=True):
        index = np.repeat(np.arange(90), row.astype(int))
        expected = np.bincount(index, group_weights(sample.labels[index], groups[index]), minlength=90)
        assert found == pytest.approx(expected, rel=1e-5)


def test_balance_by_hand():
    labels, groups = np.array([1, 0, 0, 0, 1, 0], np.uint8), np.array([0, 0, 0, 0, 1, 1])
    # P(group) P(label) / P(group, label): 4/6 2/6 / (1/6), 4/6 4/6 / (3/6), 2/6 2/6 / (1/6), 2/6 4/6 / (1/6)
    expected = [4 / 3, 8 / 9, 8 / 9, 8 / 9, 2 / 3, 4 / 3]
    assert balance(labels, groups, ones(6))[0] == pytest.approx(expected)
    assert group_weights(labels, groups) == pytest.approx(expected)


# Calibration


def test_slope_and_intercept_are_those_of_logistic_regression():
    sample = make_sample(400)
    scores = np.clip(sample.scores, 0.02, 0.98)
    found = calibration(scores, sample.labels, drawn_weights(400, 3))
    x = log_odds(scores)
    for i, row in enumerate(drawn_weights(400, 3)):
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x[:, None], sample.labels, sample_weight=row)
        assert found["calibration_slope"][i] == pytest.approx(model.coef_[0, 0], rel=2e-4)
        moved = 1 / (1 + np.exp(-(x + found["calibration_intercept"][i])))
        assert row @ moved == pytest.approx(row @ sample.labels, rel=1e-3), "at a slope of 1 the mean has to be right"


def test_calibration_of_probabilities_that_are_too_extreme_and_too_high():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-truth))).astype(np.uint8)
    extreme = calibration(1 / (1 + np.exp(-2 * truth)), labels, ones(20_000))
    assert extreme["calibration_slope"][0] == pytest.approx(0.5, abs=0.03)
    high = calibration(1 / (1 + np.exp(-(truth + 1))), labels, ones(20_000))
    assert high["calibration_slope"][0] == pytest.approx(1, abs=0.05)
    assert high["calibration_intercept"][0] == pytest.approx(-1, abs=0.05)
    right = calibration(1 / (1 + np.exp(-truth)), labels, ones(20_000))
    assert right["ece"][0] < 0.015 < 0.1 < high["ece"][0]


def test_brier_and_error_by_hand():
    probabilities, labels = np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 1, 1, 1], np.uint8)
    assert brier(probabilities, labels, ones(4))[0] == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    assert brier(probabilities, labels, ones(4))[0] == pytest.approx(sk.brier_score_loss(labels, probabilities))
    found = calibration(probabilities, labels, ones(4))
    assert found["bin_predicted"][0] == pytest.approx([0.1, 0.9])
    assert found["bin_observed"][0] == pytest.approx([0.5, 1])
    assert found["ece"][0] == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)


def test_labels_that_the_score_separates_have_no_slope():
    found = calibration(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1], np.uint8), ones(4))
    assert np.isnan(found["calibration_slope"][0])
    assert found["calibration_intercept"][0] == pytest.approx(0, abs=1e-6)


def test_bins_hold_about_as_many_and_never_part_equal_probabilities():
    bins = equal_mass_bins(np.random.default_rng(0).random(1000))
    assert np.bincount(bins).tolist() == [100] * 10
    probabilities = np.repeat([0.1, 0.2, 0.7], [80, 15, 5])
    assert len({(p, b) for p, b in zip(probabilities, equal_mass_bins(probabilities), strict=True)}) == 3


# The bootstrap


def test_whole_clusters_are_drawn():
    clusters = np.array([7, 3, 7, 3, 5])
    weights = np.concatenate(list(resample(clusters, Bootstrap(500))))
    assert weights.shape == (500, 5)
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert np.array_equal(weights[:, 1], weights[:, 3])
    assert (weights[:, [0, 1, 4]].sum(1) == 3).all()
    assert weights.mean(0) == pytest.approx(np.ones(5), abs=0.15)


def test_draws_depend_on_the_seed_alone():
    one, again, other = (np.concatenate(list(resample(np.arange(9), Bootstrap(50, seed)))) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    sample = make_sample(50)
    whole = evaluate(sample, FEW)
    monkeypatch.setattr("hemoscan.trainer.bootstrap.BLOCK_VALUES", 350)
    assert evaluate(sample, FEW).estimates["auc"] == whole.estimates["auc"]


def test_the_interval_of_a_mean_is_the_known_one():
    values = np.random.default_rng(0).normal(0, 1, 400)
    found, drawn = draw(lambda weights: {"mean": weights @ values / weights.sum(1)}, np.arange(400), Bootstrap())
    interval = estimate(float(found["mean"]), drawn["mean"], 0.95)
    assert interval.low is not None
    assert interval.high is not None
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # Scores of positives are N(1, 1), of negatives N(0, 1): the AUC is Phi(1 / sqrt 2), the sensitivity at 1 is 1/2.
    truth = {"auc": 0.76025, "sensitivity": 0.5, "specificity": 0.84134}
    covered = dict.fromkeys(truth, 0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        labels = (np.arange(120) < 40).astype(np.uint8)
        scores = rng.normal(labels, 1)
        found = evaluate(Sample(scores, labels, scores >= 1, np.arange(120), probabilities=False), FEW)
        for name, value in truth.items():
            interval = found.estimates[name]
            assert interval.low is not None
            assert interval.high is not None
            covered[name] += interval.low <= value <= interval.high
    # 200 intervals of 95 %: 190 expected, standard deviation 3; the percentile interval is known to be a bit short.
    assert all(178 <= count <= 199 for count in covered.values()), covered


def width(found: Estimate) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_copies_of_slices_tell_nothing_new_if_the_patient_is_known():
    once, copied = make_sample(150), make_sample(150, copies=4)
    known = evaluate(copied, FEW).estimates
    unknown = evaluate(replace(copied, clusters=np.arange(600)), FEW).estimates
    single = evaluate(once, FEW).estimates
    for name in ("auc", "sensitivity", "brier"):
        assert known[name].value == pytest.approx(single[name].value)
        assert width(known[name]) == pytest.approx(width(single[name]))
        assert width(unknown[name]) == pytest.approx(width(known[name]) / 2, rel=0.25)


def test_undefined_draws_are_left_out_and_many_of_them_leave_no_interval():
    drawn = np.append(np.linspace(0, 1, 96), [np.nan] * 4)
    assert estimate(0.5, drawn, 0.9) == Estimate(0.5, pytest.approx(0.05), pytest.approx(0.95))
    assert estimate(0.5, np.append(drawn, [np.nan] * 4), 0.9) == Estimate(0.5)
    assert estimate(float("nan"), drawn, 0.9) == Estimate(None)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [([0.0] * 99, 1), ([1.0] * 99, 0.02), ([-1.0] * 90 + [1.0] * 9, 0.2), ([np.nan] * 99, None), ([], None)],
)
def test_p_values_by_hand(differences: list[float], expected: float | None):
    found = p_value(np.array(differences))
    assert found == (None if expected is None else pytest.approx(expected))


# Evaluations


def test_an_evaluation_agrees_with_the_training_s_own_figures():
    sample = make_sample(400)
    groups = np.where(np.arange(400) % 4 < 3, 70, 80)
    groups[:5] = 90
    merged = merge_scarce(sample.labels, groups)
    names, places = np.unique(groups, return_inverse=True)
    coded = np.where(merged < 0, -1, places)
    found = evaluate(replace(sample, groups=coded, group_names=tuple(map(str, names))), FEW)
    expected = measure(log_odds(sample.scores), sample.labels, groups)
    assert (found.n, found.positives, found.clusters) == (400, expected["positives"], 400)
    for name in ("auc", "average_precision", "auc_group_balanced"):
        assert found.estimates[name].value == pytest.approx(expected[name], rel=1e-6)
    within = {("-1" if name == "others" else name): part.estimates["auc"].value for name, part in found.groups.items()}
    assert within == pytest.approx(expected["auc_within_groups"] | {"-1": within["-1"]})
    assert found.confusion == expected["at_0.5"]
    assert found.estimates["cross_fitted_f1"].value == pytest.approx(expected["at_cross_fitted_threshold"]["f1"])
    assert len(found.bins) == 10


def test_every_value_lies_in_its_interval():
    found = evaluate(make_sample(300), Bootstrap(), prevalences=(0.1,))
    assert found.estimates.keys() >= {"auc", "ppv_at_0.1", "npv_at_0.1", "calibration_slope", "cross_fitted_f1"}
    for name, part in found.estimates.items():
        if name != "ece":
            assert part.low is not None, name
            assert part.low <= part.value <= part.high, name
    assert found.estimates["ece"].low is None


def test_studies_take_the_highest_slice():
    scores = np.array([0.1, 0.9, 0.2, 0.3, 0.8, 0.4])
    labels, flags = np.array([0, 1, 0, 0, 1, 0], np.uint8), scores >= 0.85
    sample = Sample(scores, labels, flags, np.array([5, 5, 6, 6, 7, 8]))
    found = sample.by_study(np.array([2, 2, 0, 0, 1, -1]), np.array([1, 2, 7]))
    assert found.scores.tolist() == [0.3, 0.8, 0.9]
    assert found.labels.tolist() == [0, 1, 1]
    assert found.flags.tolist() == [False, False, True]
    assert found.clusters.tolist() == [6, 7, 5]
    assert not found.probabilities


def test_a_share_without_a_miss_has_an_exact_interval_over_patients():
    labels = np.array([1] * 10 + [0] * 20, np.uint8)
    sample = Sample(labels * 0.8 + 0.1, labels, labels == 1, np.arange(30) // 2)
    found = evaluate(sample, FEW, (0.1,)).estimates
    # 5 patients without a miss: (1 - p)^5 = 0.025 at the lower end.
    assert found["sensitivity"] == Estimate(1, pytest.approx(0.025 ** (1 / 5)), 1)
    assert found["specificity"] == Estimate(1, pytest.approx(0.025 ** (1 / 10)), 1)
    assert found["auc"] == found["npv_at_0.1"] == Estimate(1), "no interval rather than one without width"
    bins = evaluate(sample, FEW).bins
    assert [observed.value for _, observed in bins] == [0, 1]
    assert bins[0][1] == Estimate(0, 0, pytest.approx(1 - 0.025 ** (1 / 10)))


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_alone_leaves_what_needs_both_open(label: int):
    sample = make_sample(20)
    found = evaluate(replace(sample, labels=np.full(20, label, np.uint8)), FEW).estimates
    assert found["auc"] == found["average_precision"] == Estimate(None)
    assert (found["sensitivity"].value is None) == (label == 0)
    assert (found["specificity"].value is None) == (label == 1)
    assert found["calibration_slope"].value is None


def test_a_single_cluster_leaves_no_interval():
    found = evaluate(replace(make_sample(50), clusters=np.zeros(50, np.int64)), FEW).estimates
    assert found["auc"].value is not None
    assert found["auc"].low is None
    assert "cross_fitted_f1" not in found, "there is no other half"


# Comparisons


def test_a_model_is_as_good_as_itself():
    sample = make_sample(200)
    for name, found in compare(sample, sample, FEW).items():
        assert found.first == found.second == evaluate(sample, FEW).estimates[name].value
        assert found.difference == Estimate(0, 0, 0)
        assert found.p == 1


def test_a_worse_model_is_worse_and_pairing_tells():
    sample = make_sample(400)
    noise = np.random.default_rng(5).normal(0, 0.05, 400)
    worse = replace(sample, scores=np.clip(sample.scores + 8 * noise, 0, 1))
    found = compare(sample, worse, Bootstrap())["auc"]
    assert found.difference.value == pytest.approx(
        sk.roc_auc_score(sample.labels, worse.scores) - sk.roc_auc_score(sample.labels, sample.scores)
    )
    assert found.difference.high < 0
    assert found.p == pytest.approx(2 / 2001)
    near = compare(sample, replace(sample, scores=np.clip(sample.scores + noise, 0, 1)), FEW)["auc"]
    assert width(near.difference) < 0.5 * width(evaluate(sample, FEW).estimates["auc"])


def test_p_values_of_equal_models_are_small_as_rarely_as_they_should_be():
    rng = np.random.default_rng(0)
    labels = (np.arange(100) < 40).astype(np.uint8)
    small = 0
    for _ in range(200):
        truth = rng.normal(labels, 1)
        models = [truth + rng.normal(0, 1, 100) for _ in range(2)]
        first, second = (Sample(s, labels, s >= 0.5, np.arange(100), probabilities=False) for s in models)
        p = compare(first, second, FEW)["auc"].p
        assert p is not None
        small += p <= 0.05
    assert 2 <= small <= 20  # 10 expected, standard deviation 3


def test_brier_scores_are_compared_between_probabilities_only():
    sample = make_sample(50)
    assert "brier" in compare(sample, sample, FEW)
    assert "brier" not in compare(sample, replace(sample, probabilities=False), FEW)
