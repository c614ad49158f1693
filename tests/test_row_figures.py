"""A row's figures against those of `measure`, and its thresholds by hand."""

from __future__ import annotations

import numpy as np
import pytest
from run_folders import draw

from hemoscan.trainer.metrics import at_threshold, best_f1_threshold, cross_fitted_flags, measure, probabilities
from hemoscan.trainer.row_figures import AT_CHOSEN, AT_HALF, figures_of, out_of_fold_flags


def test_figures_are_those_of_measure():
    labels, groups, logits = draw(300)
    found = figures_of(logits, labels, groups, np.zeros(300, np.intp), np.arange(300))
    expected = measure(logits, labels, groups)
    assert (found.n, found.positives) == (300, int(labels.sum()))
    for key in ("auc", "average_precision", "auc_group_balanced"):
        assert found.estimates[key].value == pytest.approx(expected[key])
    for point, key in ((AT_HALF, "at_0.5"), (AT_CHOSEN, "at_cross_fitted_threshold")):
        assert found.confusion[point] == expected[key]
        for measured in ("accuracy", "precision", "recall", "f1"):
            assert found.estimates[f"{point}.{measured}"].value == pytest.approx(expected[key][measured])


def test_every_figure_lies_in_its_interval_and_more_slices_narrow_it():
    widths = []
    for n in (100, 2000):
        found = figures_of(*(draw(n)[place] for place in (2, 0, 1)), np.zeros(n, np.intp), np.arange(n))
        ends = [(one.low, one.value, one.high) for one in found.estimates.values()]
        assert len(ends) == 11
        for low, value, high in ends:
            assert low is not None and value is not None and high is not None
            assert 0 <= low <= value <= high <= 1
        widths.append(np.array([high - low for low, _, high in ends]))
    assert (widths[1] < widths[0]).all()


def test_a_perfect_model_is_as_certain_as_its_slices_allow():
    labels = np.array([0, 1] * 20, np.uint8)
    groups = np.repeat([70, 80], 20)
    found = figures_of(10.0 * labels - 5, labels, groups, np.zeros(40, np.intp), np.arange(40))
    for name, one in found.estimates.items():
        assert one.value == 1
        share = name.rpartition(".")[2] in {"accuracy", "precision", "recall"}
        assert (one.low is None) != share  # no draw has a miss, yet a share of so few slices is not certain
        assert not share or (0.8 < one.low < 1 and one.high == 1)


def test_what_one_group_or_one_bleeding_patient_leaves_open_is_not_defined():
    patients = np.repeat(np.arange(20), 5)
    labels = (patients == 3).astype(np.uint8)
    found = figures_of(8.0 * labels - 4, labels, np.full(100, 70), np.zeros(100, np.intp), patients)
    assert found.estimates["auc"].value == 1
    assert found.estimates["auc_group_balanced"].value is None
    assert [found.estimates[f"{AT_CHOSEN}.{name}"].value for name in ("accuracy", "precision", "recall", "f1")] == [
        None
    ] * 4
    assert AT_CHOSEN not in found.confusion


def test_groups_are_measured_by_themselves():
    labels, groups, logits = draw(300)
    found = figures_of(logits, labels, groups, np.zeros(300, np.intp), np.arange(300)).within
    assert set(found) == {70, 80}
    for group, one in found.items():
        inside = groups == group
        assert (one.n, one.positives) == (int(inside.sum()), int(labels[inside].sum()))
        assert one.auc == pytest.approx(measure(logits[inside], labels[inside], groups[inside])["auc"])


def test_precision_of_nothing_flagged_is_not_defined():
    labels = np.array([0, 1] * 20, np.uint8)
    found = figures_of(np.linspace(-3, -1, 40), labels, np.full(40, 70), np.zeros(40, np.intp), np.arange(40))
    assert found.estimates[f"{AT_HALF}.precision"].value is None
    assert found.estimates[f"{AT_HALF}.recall"].value == 0


def test_each_fold_is_flagged_at_the_threshold_of_the_others():
    labels, _, logits = draw(300)
    scores, folds = probabilities(logits), np.arange(300) % 3 + 1
    found = out_of_fold_flags(scores, labels, folds, np.arange(300))
    for fold in (1, 2, 3):
        inside = folds == fold
        threshold = best_f1_threshold(scores[~inside], labels[~inside])
        assert found[inside].tolist() == (scores[inside] >= threshold).tolist()
        changed = labels.copy()
        changed[inside] = 1 - changed[inside]
        assert out_of_fold_flags(scores, changed, folds, np.arange(300))[inside].tolist() == found[inside].tolist(), (
            "a fold's own labels change nothing"
        )


def test_a_single_split_is_flagged_by_halves():
    labels, _, logits = draw(200)
    scores = probabilities(logits)
    for fold in (0, 4):
        found = out_of_fold_flags(scores, labels, np.full(200, fold), np.arange(200))
        assert found.tolist() == cross_fitted_flags(scores, labels).tolist()
    assert at_threshold(found, labels)["f1"] > 0.5


def test_slices_of_one_patient_are_drawn_together_and_flagged_at_one_threshold():
    labels, groups, logits = draw(100)
    twelve = [np.tile(values, 12) for values in (logits, labels, groups)]
    patients, nobody = np.tile(np.arange(100), 12), np.arange(1200)
    found = figures_of(*twelve, np.zeros(1200, np.intp), patients)
    once = figures_of(logits, labels, groups, np.zeros(100, np.intp), np.arange(100))
    alone = figures_of(*twelve, np.zeros(1200, np.intp), nobody)
    assert (found.n, found.clusters, once.clusters, alone.clusters) == (1200, 100, 100, 1200)
    for name, one in once.estimates.items():
        copies = found.estimates[name]
        assert (copies.value, copies.low, copies.high) == pytest.approx((one.value, one.low, one.high)), (
            "copies of a patient's slice tell nothing new"
        )
    for name in ("auc", "average_precision", f"{AT_HALF}.accuracy", f"{AT_HALF}.f1"):
        low, high = alone.estimates[name].low, alone.estimates[name].high
        assert found.estimates[name].low < low < high < found.estimates[name].high
    flags = out_of_fold_flags(probabilities(twelve[0]), twelve[1], np.zeros(1200, np.intp), patients)
    assert flags.tolist() == np.tile(cross_fitted_flags(probabilities(logits), labels), 12).tolist()


def test_a_share_without_a_miss_is_as_certain_as_its_patients_allow():
    labels = np.array([0, 1] * 20, np.uint8)
    found, few = (
        figures_of(10.0 * labels - 5, labels, np.full(40, 70), np.zeros(40, np.intp), clusters).estimates
        for clusters in (np.arange(40), np.arange(40) // 8)
    )
    for name in ("accuracy", "precision", "recall"):
        assert few[f"{AT_HALF}.{name}"].low < found[f"{AT_HALF}.{name}"].low
