"""Slices in memory, and how they are divided into those that train and those that are held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from hemoscan.errors import DataError

VALIDATION = "validation"
# Without a validation split of its own, a data set holds out one part in so many.
PARTS = 8


@dataclass(frozen=True)
class Slices:
    """Slices in memory, ready for the network."""

    ids: tuple[str, ...]
    """As in the label file, each once: of a file's frames after the first with their number."""
    images: NDArray[np.uint8]
    """Shape (n, size, size), the network's input."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Split(Slices):
    """Labelled slices."""

    labels: NDArray[np.uint8]
    """Shape (n,), 1 for hemorrhage."""
    groups: NDArray[np.int64]
    """Shape (n,): the site, as far as it can be told; -1 holds those of few slices. In the report's data the largest
    grey level of the image as it is distributed, which tells the header's window."""
    clusters: NDArray[np.int64]
    """Shape (n,): slices of one number, exact duplicates or one patient's, are held out together."""

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Split:
        """Return the slices that an index array names."""
        numbers = np.arange(len(self))[index]
        return Split(
            tuple(self.ids[number] for number in numbers),
            self.images[index],
            self.labels[index],
            self.groups[index],
            self.clusters[index],
        )


@dataclass(frozen=True)
class Division:
    """What one training learns from, and what it is measured on."""

    name: str
    """validation, or such as fold1of5."""
    training: Split
    held_out: Split


@dataclass(frozen=True)
class LeftOut:
    """A file or a label that no slice came of."""

    name: str
    """The file's path, or the label's key."""
    status: str
    """error, skipped, or not found."""
    reason: str


@dataclass(frozen=True)
class DataSet:
    """All that was read for a training."""

    labelled: Split
    held_out: NDArray[np.bool_] | None
    """Shape (n,): which of the labelled slices are the validation split; None if the data have none of their own."""
    test: Slices | None
    """Slices without labels, to be scored."""
    description: str
    """For the card: no path."""
    notice: str
    """For the card: licence and limits of weights that learned from it."""
    left_out: tuple[LeftOut, ...] = ()
    """What of the labels or files is not among the slices."""
    group_names: tuple[str, ...] = ()
    """Of the groups 0, 1, ..., where they have names."""
    together: str = ""
    """What keeps slices of one patient on one side of a division, in words for the user; empty for the report's data,
    whose documents say that nothing does."""
    notes: tuple[tuple[str, int], ...] = ()
    """What was assumed when images were read, such as the window of a stretched export, and of how many slices."""

    def validation(self, seed: int) -> Division:
        """Return the division into training and validation split.

        It is the data set's own, without the training slices that have a duplicate in validation; else an eighth is
        held out as `folds` would.
        """
        which = stratified_parts(self.labelled, PARTS, seed) == 0 if self.held_out is None else self.held_out
        held_out = self.labelled.take(which)
        apart = ~which & ~np.isin(self.labelled.clusters, held_out.clusters)
        return _checked(Division(VALIDATION, self.labelled.take(apart), held_out))

    def folds(self, count: int, seed: int) -> Iterator[Division]:
        """Yield the divisions of a stratified cross-validation; every labelled slice is held out once."""
        parts = stratified_parts(self.labelled, count, seed)
        for number in range(count):
            training, held_out = self.labelled.take(parts != number), self.labelled.take(parts == number)
            yield _checked(Division(f"fold{number + 1}of{count}", training, held_out))


def stratified_parts(split: Split, count: int, seed: int) -> NDArray[np.int64]:
    """Return, of shape (n,), the part (from 0) that each slice falls into: clusters whole, shares of positives alike.

    Raises
    ------
    DataError
        If there are fewer positives, negatives or clusters than parts.
    """
    negatives, positives = np.bincount(split.labels, minlength=2).tolist()
    apart = len(np.unique(split.clusters))
    if min(positives, negatives, apart) < count:
        raise DataError(
            f"{count} parts of {positives} positive and {negatives} negative slices of {apart} patients or distinct "
            f"images; legal: {count} or more of each, or fewer --folds"
        )
    parts = np.zeros(len(split), np.int64)
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(folds.split(split.labels, split.labels, split.clusters)):
        parts[held_out] = number
    return parts


def _checked(division: Division) -> Division:
    for title, split in (("training", division.training), (division.name, division.held_out)):
        found = np.bincount(split.labels, minlength=2)
        if not found.all():
            raise DataError(
                f"the {title} split has {len(split)} slices, {found[1]} positive; legal: both classes among them"
            )
    return division
