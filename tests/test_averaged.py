"""The moving average of weights: its values by arithmetic, BatchNorm's statistics among them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hemoscan.card import BRAIN
from hemoscan.networks import Classifier
from hemoscan.trainer.averaged import Averaged


def classifier_of(value: float) -> Classifier:
    """Return a network whose weight, and whose running mean, is one number."""
    found = Classifier(nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)), BRAIN)
    set_to(found, value)
    return found


def set_to(classifier: Classifier, value: float) -> None:
    linear, norm = classifier.network  # type: ignore[misc]
    nn.init.constant_(linear.weight, value)
    norm.running_mean.fill_(value)
    norm.num_batches_tracked.fill_(int(value))


def values_of(averaged: Averaged) -> tuple[float, float]:
    linear, norm = averaged.classifier.network  # type: ignore[misc]
    return linear.weight.item(), norm.running_mean.item()


def test_early_steps_count_less_than_the_decay_has_it():
    averaged, network = Averaged(classifier_of(0), 0.9), classifier_of(0)
    expected = 0.0
    for step in range(60):
        set_to(network, step + 5)
        averaged.update(network)
        kept = min(0.9, (1 + step) / (10 + step)) if step else 0.0
        expected = kept * expected + (1 - kept) * (step + 5)
        assert values_of(averaged) == pytest.approx((expected, expected), rel=1e-5)


def test_the_average_of_equal_weights_is_themselves():
    averaged, network = Averaged(classifier_of(3), 0.5), classifier_of(3)
    for _ in range(5):
        averaged.update(network)
    assert values_of(averaged) == (3, 3)
    assert torch.equal(averaged.classifier.mean, network.mean)


def test_a_saved_average_goes_on_as_if_it_had_not_stopped():
    one, network = Averaged(classifier_of(0), 0.9), classifier_of(0)
    for value in (2, 4, 8):
        set_to(network, value)
        one.update(network)
    other = Averaged(classifier_of(7), 0.9)
    other.load_state_dict(one.state_dict())
    set_to(network, 16)
    for averaged in (one, other):
        averaged.update(network)
    assert values_of(other) == values_of(one)
    assert values_of(other)[0] not in (16, 7)
