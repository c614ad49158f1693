"""Two models that never look for a hemorrhage: what the site alone tells. A network has to beat them.

`lookup` knows the largest grey level of an image, which is the top of its header's window, so the site; `histogram` is
a logistic regression on how often each grey level from 0 to 70 occurs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hemoscan.card import BRAIN, RAW
from hemoscan.trainer.data import Label, load_data_set
from hemoscan.trainer.splits import Split

BASELINES = ("lookup", "histogram")
TOP = int(BRAIN.limits[1])
SMALLEST_SHARE = 1e-6
"""Keeps the logit of a share of 0 or 1 finite."""


@dataclass(frozen=True)
class Features:
    """What the baselines see of labelled images."""

    ids: tuple[str, ...]
    labels: NDArray[np.uint8]
    """Shape (n,)."""
    levels: NDArray[np.intp]
    """Shape (n,): the largest grey level, 0 to 255."""
    histograms: NDArray[np.float64]
    """Shape (n, 71): share of the image's pixels at each grey level, those above 70 counted as 70."""

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Features:
        """Return the images that an index array names."""
        ids = tuple(np.array(self.ids, object)[index])
        return Features(ids, self.labels[index], self.levels[index], self.histograms[index])


def extract(split: Split) -> Features:
    """Return the features of images as they are distributed (the input `raw`)."""
    levels = split.images.max(axis=(1, 2)).astype(np.intp)
    histograms = [np.bincount(np.minimum(image, TOP).ravel(), minlength=TOP + 1) for image in split.images]
    return Features(split.ids, split.labels, levels, np.array(histograms) / split.images[0].size)


@dataclass(frozen=True)
class SplitFeatures:
    """The features of a data set's labelled images, and how they are divided."""

    labelled: Features
    training: Features
    """Of the division into training and validation split, which leaves out duplicates of validation images."""
    validation: Features


def load_features(folder: Path, *, progress: Callable[[Iterable[Label]], Iterable[Label]] = iter) -> SplitFeatures:
    """Return the features of the labelled images in a folder; see `hemoscan.trainer.data.load_data_set`."""
    data = load_data_set(folder, RAW, progress=progress, test=False)
    labelled, division = extract(data.labelled), data.validation(seed=0)
    place = {name: number for number, name in enumerate(labelled.ids)}
    training, validation = (
        labelled.take(np.array([place[name] for name in split.ids], np.intp))
        for split in (division.training, division.held_out)
    )
    return SplitFeatures(labelled, training, validation)


def baseline_logits(name: str, training: Features, held_out: Features) -> NDArray[np.float64]:
    """Fit one of `BASELINES` on training images and return the logits of held-out ones, of shape (n,)."""
    predict = {"lookup": _lookup, "histogram": _histogram}[name]
    shares = predict(training, held_out).clip(SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    found: NDArray[np.float64] = np.log(shares / (1 - shares))
    return found


def _lookup(training: Features, held_out: Features) -> NDArray[np.float64]:
    """Return the share of positives among the training images of the same level; of all, where there are none."""
    positives = np.bincount(training.levels, training.labels, minlength=256)
    counts = np.bincount(training.levels, minlength=256)
    shares = np.where(counts, positives / np.maximum(counts, 1), training.labels.mean())
    found: NDArray[np.float64] = shares[held_out.levels]
    return found


def _histogram(training: Features, held_out: Features) -> NDArray[np.float64]:
    """Return the probabilities of a logistic regression with scikit-learn's defaults.

    Square roots, as in the Hellinger distance: bins of few pixels tell as much as the full ones.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(np.sqrt(training.histograms), training.labels)
    found: NDArray[np.float64] = model.predict_proba(np.sqrt(held_out.histograms))[:, 1]
    return found
