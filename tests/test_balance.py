"""Weights and biases against unequal shares: numbers by hand, and what must hold for all data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hemoscan.errors import DataError
from hemoscan.trainer.balance import class_weights, group_weights, merge_small_groups, output_bias

counts = st.integers(1, 40)


def labels_of(positive: int, negative: int) -> NDArray[np.uint8]:
    return np.array([1] * positive + [0] * negative, np.uint8)


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [(1, 1, 0.0), (1, 3, -1.0986123), (3, 1, 1.0986123), (2238, 12762, -1.7408894)],
)
def test_output_bias_by_hand(positive: int, negative: int, expected: float):
    assert output_bias(labels_of(positive, negative)) == pytest.approx(expected, abs=1e-6)


@given(counts, counts)
def test_the_sigmoid_of_the_output_bias_is_the_share_of_positives(positive: int, negative: int):
    bias = output_bias(labels_of(positive, negative))
    assert 1 / (1 + math.exp(-bias)) == pytest.approx(positive / (positive + negative))


def test_class_weights_by_hand():
    weights = class_weights(np.array([0, 1, 0, 0, 0], np.uint8))
    assert weights.dtype == np.float32
    assert weights.tolist() == [0.625, 2.5, 0.625, 0.625, 0.625]


@given(counts, counts)
def test_class_weights_give_both_classes_the_same_total(positive: int, negative: int):
    labels = labels_of(positive, negative)
    weights = class_weights(labels)
    half = len(labels) / 2
    assert weights[labels == 1].sum() == pytest.approx(half, rel=1e-5)
    assert weights[labels == 0].sum() == pytest.approx(half, rel=1e-5)


@pytest.mark.parametrize("function", [output_bias, class_weights])
@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([0, 0], "0 positive and 2 negative"),
        ([1, 1, 1], "3 positive and 0 negative"),
        ([], "0 positive and 0 negative"),
    ],
)
def test_one_class_only_is_refused(function, labels: list[int], named: str):  # noqa: ANN001
    with pytest.raises(DataError, match=named):
        function(np.array(labels, np.uint8))


def test_small_groups_are_merged_by_hand():
    groups = np.array([70, 70, 70, 80, 80, 115])
    assert merge_small_groups(groups, 2).tolist() == [70, 70, 70, 80, 80, -1]
    assert merge_small_groups(groups, 3).tolist() == [70, 70, 70, -1, -1, -1]
    assert merge_small_groups(groups, 1).tolist() == groups.tolist()


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
@pytest.mark.parametrize(("members", "group"), [(99, -1), (100, 76)])
def test_a_group_stands_alone_from_100_members(members: int, group: int, dtype: type):
    assert set(merge_small_groups(np.full(members, 76, dtype)).tolist()) == {group}


def test_group_weights_by_hand():
    labels = np.array([1, 0, 0, 0, 1, 1, 1, 0], np.uint8)
    groups = np.array([70, 70, 70, 70, 80, 80, 80, 80])
    weights = group_weights(labels, groups)
    assert weights.dtype == np.float32
    assert weights.tolist() == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2])


def test_groups_that_are_balanced_already_keep_weight_1():
    labels = np.array([1, 0, 0, 1, 0, 0, 1, 0, 0], np.uint8)
    groups = np.repeat([70, 76, 115], 3)
    assert group_weights(labels, groups).tolist() == pytest.approx([1.0] * 9)


def test_a_group_of_one_class_keeps_finite_weights():
    labels = np.array([1, 0, 0, 0], np.uint8)
    weights = group_weights(labels, np.array([70, 70, 80, 80]))
    assert weights.tolist() == pytest.approx([0.5, 1.5, 0.75, 0.75])


@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_under_group_weights_every_group_has_the_same_share_of_positives(groups_of, random):  # noqa: ANN001
    members = [
        (label, group)
        for group, (positive, negative) in enumerate(groups_of)
        for label in labels_of(positive, negative).tolist()
    ]
    random.shuffle(members)
    labels = np.array([label for label, _ in members], np.uint8)
    groups = np.array([group for _, group in members])
    weights = group_weights(labels, groups)
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(len(labels), rel=1e-5)
    for group in np.unique(groups):
        inside = groups == group
        assert weights[inside].sum() == pytest.approx(inside.sum(), rel=1e-5)
        share = np.average(labels[inside], weights=weights[inside])
        assert share == pytest.approx(labels.mean(), rel=1e-5)
