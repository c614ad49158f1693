"""How slices are divided: nothing that belongs together is parted, every slice is held out once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from trainer_data import make_split

from hemoscan.errors import DataError
from hemoscan.trainer.splits import DataSet, Split, stratified_parts

FOLDS = 4


def data_of(split: Split, held_out: NDArray[np.bool_] | None = None) -> DataSet:
    last_quarter = np.arange(len(split)) >= 3 * len(split) // 4
    return DataSet(split, last_quarter if held_out is None else held_out, None, "synthetic", "for tests")


def labelled(n: int = 80, cluster: int = 1) -> Split:
    """Return slices a quarter of which is positive, in clusters of so many."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(n) % 4 == 0).astype(int).tolist()
    return replace(make_split(labels, size=8), clusters=rng.permutation(np.arange(n) // cluster))


@pytest.mark.parametrize("cluster", [1, 2, 5])
def test_every_slice_is_held_out_once_and_trains_in_all_other_folds(cluster: int):
    split = labelled(cluster=cluster)
    divisions = list(data_of(split).folds(FOLDS, seed=0))
    assert [division.name for division in divisions] == [f"fold{k}of{FOLDS}" for k in range(1, FOLDS + 1)]
    held_out = [name for division in divisions for name in division.held_out.ids]
    assert sorted(held_out) == sorted(split.ids)
    for division in divisions:
        assert sorted(division.training.ids + division.held_out.ids) == sorted(split.ids)


@pytest.mark.parametrize("cluster", [2, 5])
def test_no_cluster_is_parted(cluster: int):
    for division in data_of(labelled(cluster=cluster)).folds(FOLDS, seed=0):
        assert not set(division.training.clusters.tolist()) & set(division.held_out.clusters.tolist())


def test_folds_have_about_the_same_size_and_share_of_positives():
    for division in data_of(labelled(cluster=2)).folds(FOLDS, seed=0):
        assert abs(len(division.held_out) - 20) <= 4
        assert abs(int(division.held_out.labels.sum()) - 5) <= 1


def test_folds_depend_on_the_seed_alone():
    split = labelled()
    parts = stratified_parts(split, FOLDS, seed=0)
    assert np.array_equal(stratified_parts(replace(split, images=split.images // 2), FOLDS, seed=0), parts)
    assert not np.array_equal(stratified_parts(split, FOLDS, seed=1), parts)


def test_the_data_sets_own_division_is_kept_without_training_slices_that_are_also_held_out():
    split = make_split([0, 1, 0, 1, 0, 1, 0, 1], size=8)
    split = replace(split, clusters=np.array([0, 1, 2, 3, 4, 5, 1, 7]))
    division = data_of(split).validation(seed=0)
    assert division.name == "validation"
    assert division.held_out.ids == split.ids[6:]
    assert division.training.ids == (split.ids[0], *split.ids[2:6])


def test_more_folds_than_positives_are_refused():
    with pytest.raises(DataError, match="4 parts of 3 positive and 20 negative"):
        list(data_of(make_split([1, 1, 1] + [0] * 20, size=8)).folds(FOLDS, seed=0))


def test_more_folds_than_clusters_are_refused():
    split = replace(make_split([0, 1] * 8, size=8), clusters=np.arange(16) // 6)
    with pytest.raises(DataError, match="of 3 patients or distinct images; legal: 4 or more"):
        list(data_of(split).folds(FOLDS, seed=0))


def test_data_without_a_validation_split_hold_out_an_eighth():
    split = labelled(cluster=2)
    data = DataSet(split, None, None, "synthetic", "for tests")
    division = data.validation(seed=0)
    assert division.name == "validation"
    assert len(division.held_out) == pytest.approx(10, abs=2)
    assert sorted(division.training.ids + division.held_out.ids) == sorted(split.ids)
    assert data.validation(seed=0).held_out.ids == division.held_out.ids
    assert data.validation(seed=1).held_out.ids != division.held_out.ids


def test_a_fold_without_positives_is_refused():
    split = make_split([1] * 4 + [0] * 20, size=8)
    together = replace(split, clusters=np.array([0] * 4 + list(range(1, 21))))
    with pytest.raises(DataError, match="both classes among them"):
        list(data_of(together).folds(2, seed=0))
