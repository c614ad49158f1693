"""The report's table: every accuracy against the one that its precision and recall imply."""

from __future__ import annotations

import numpy as np
import pytest

from hemoscan.card import MODEL_NAMES
from hemoscan.trainer.metrics import at_threshold
from hemoscan.trainer.published import LABELLED, POSITIVES, PUBLISHED, TOLERANCE, implied_accuracy


def test_the_table_has_the_eight_experiments_in_their_order():
    assert tuple(PUBLISHED) == MODEL_NAMES


def test_shares_of_the_data_set():
    assert pytest.approx(0.1479, abs=5e-5) == POSITIVES / LABELLED


@pytest.mark.parametrize("seed", range(5))
def test_implied_accuracy_is_that_of_a_confusion_matrix(seed: int):
    rng = np.random.default_rng(seed)
    labels, flags = (rng.integers(0, 2, 50).astype(np.uint8) for _ in range(2))
    found = at_threshold(flags.astype(bool), labels)
    accuracy = implied_accuracy(float(found["precision"]), float(found["recall"]), float(labels.mean()))
    assert accuracy == pytest.approx(found["accuracy"])


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_f1_is_that_of_precision_and_recall(name: str):
    row = PUBLISHED[name]
    assert 2 * row.precision * row.recall / (row.precision + row.recall) == pytest.approx(row.f1, abs=0.011)


def test_two_accuracies_cannot_be_right():
    impossible = {name: row for name, row in PUBLISHED.items() if not row.possible}
    assert {name: round(row.implied_accuracy, 1) for name, row in impossible.items()} == {
        "resnet-weight": 88.2,
        "resnet-weight-bias": 86.5,
    }
    for name, row in PUBLISHED.items():
        assert (abs(row.accuracy - row.implied_accuracy) <= TOLERANCE) == (name not in impossible)
