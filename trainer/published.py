"""The table of the report whose eight experiments are run again here, and what follows from it by arithmetic.

Source: the report's results on the Unibuc "brain anomaly detection" challenge, copied digit by digit, in percent.
Accuracy, precision, recall and F1 are from its cross-validation over the 17,000 labelled slices; the private and the
public score are those of the challenge's server, which holds the labels of the 5,149 test slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LABELLED, POSITIVES = 17_000, 2_514
"""Labelled slices of the data set, and those of them with a hemorrhage."""
TOLERANCE = 1.0
"""Percentage points. Figures averaged over folds, or rounded, may miss each other by less."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of the report, in percent."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    private: float
    public: float

    @property
    def implied_accuracy(self) -> float:
        """The accuracy, in percent, that precision and recall leave at the data set's share of positives."""
        return 100 * implied_accuracy(self.precision / 100, self.recall / 100, POSITIVES / LABELLED)

    @property
    def possible(self) -> bool:
        """Whether the accuracy is the one that precision and recall imply."""
        return abs(self.accuracy - self.implied_accuracy) <= TOLERANCE


def implied_accuracy(precision: float, recall: float, prevalence: float) -> float:
    """Return the accuracy that follows from precision, recall and the share of positives (fractions all).

    Examples
    --------
    Of 10 slices 4 are positive; 2 are found, with one false alarm: 7 slices are right.

    >>> round(implied_accuracy(precision=2 / 3, recall=0.5, prevalence=0.4), 12)
    0.7
    """
    missed = prevalence * (1 - recall)
    false_alarms = prevalence * recall * (1 / precision - 1)
    return 1 - missed - false_alarms


PUBLISHED: Mapping[str, PublishedRow] = {
    "densenet-base": PublishedRow(91.64, 85.47, 53.30, 65.66, 69.43, 68.09),
    "densenet-weight": PublishedRow(87.09, 54.65, 74.78, 63.15, 62.84, 66.67),
    "densenet-bias": PublishedRow(89.81, 71.07, 61.30, 65.82, 68.29, 72.95),
    "densenet-weight-bias": PublishedRow(86.69, 55.20, 76.65, 64.18, 67.23, 68.35),
    "resnet-base": PublishedRow(89.48, 87.26, 37.11, 52.08, 51.04, 55.38),
    "resnet-weight": PublishedRow(82.25, 59.78, 62.65, 61.18, 61.15, 67.17),
    "resnet-bias": PublishedRow(88.63, 75.84, 41.65, 53.77, 60.00, 65.49),
    "resnet-weight-bias": PublishedRow(73.21, 53.91, 58.27, 56.01, 55.99, 58.48),
}
