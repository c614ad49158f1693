"""The baselines against answers by hand, and on the real data where it is at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA_SET, need_shared
from sklearn.metrics import f1_score, roc_auc_score
from trainer_data import FIRST_TRAINING_ID, FIRST_VALIDATION_ID, make_rows, write_data_set

from hemoscan.card import RAW
from hemoscan.trainer.baselines import BASELINES, TOP, Features, baseline_logits, extract, load_features
from hemoscan.trainer.data import load_splits
from hemoscan.trainer.metrics import best_f1_threshold, probabilities


def features(levels: list[int], labels: list[int], seed: int = 0) -> Features:
    """Return features whose histograms are noise, but for a bin that positives fill more."""
    rng = np.random.default_rng(seed)
    histograms = rng.random((len(levels), TOP + 1))
    histograms[:, 60] += 2 * np.array(labels)
    histograms /= histograms.sum(axis=1, keepdims=True)
    ids = tuple(f"{seed}-{number}" for number in range(len(levels)))
    return Features(ids, np.array(labels, np.uint8), np.array(levels, np.intp), histograms)


def test_lookup_returns_the_share_of_positives_of_the_level():
    training = features([70, 70, 70, 70, 80, 80], [0, 0, 0, 1, 1, 0])
    found = probabilities(baseline_logits("lookup", training, features([80, 70, 115], [0, 0, 0])))
    assert found.tolist() == pytest.approx([1 / 2, 1 / 4, 2 / 6]), "an unknown level gets the share of all"


def test_lookup_has_finite_logits_for_shares_of_0_and_1():
    found = baseline_logits("lookup", features([70, 80], [0, 1]), features([70, 80], [0, 0]))
    assert np.isfinite(found).all()
    assert found[0] < -10 < 10 < found[1]


def test_histogram_finds_a_bin_that_tells_the_label():
    labels = [0, 1] * 60
    training, held_out = (features([70] * 120, labels, seed) for seed in (1, 2))
    found = baseline_logits("histogram", training, held_out)
    assert roc_auc_score(held_out.labels, found) > 0.95


def test_features_are_those_of_the_image_as_distributed(tmp_path: Path):
    folder = write_data_set(
        tmp_path,
        [*make_rows([0, 1], FIRST_TRAINING_ID, 224, top=115), *make_rows([0, 0], FIRST_TRAINING_ID + 2, 224, top=76)],
        make_rows([1, 0], FIRST_VALIDATION_ID, 224, top=80),
    )
    found = load_features(folder)
    training, validation = found.training, found.validation
    assert training.levels.tolist() == [115, 115, 76, 76]
    assert validation.levels.tolist() == [80, 80]
    assert training.labels.tolist() == [0, 1, 0, 0]
    raw, _ = load_splits(folder, RAW)
    above = (raw.images >= TOP).mean(axis=(1, 2))
    assert training.histograms[:, TOP].tolist() == pytest.approx(above.tolist())
    assert training.histograms.sum(axis=1) == pytest.approx(np.ones(4))


def test_a_duplicate_of_a_validation_image_is_left_out_of_the_training_split_only(tmp_path: Path):
    validation = make_rows([1, 0], FIRST_VALIDATION_ID)
    training = make_rows([0, 1], FIRST_TRAINING_ID)
    copy = replace(validation[0], id=f"{FIRST_TRAINING_ID + 2:06}")
    found = load_features(write_data_set(tmp_path, [*training, copy], validation))
    assert copy.id not in found.training.ids
    assert copy.id in found.labelled.ids, "folds hold it out"
    assert len(found.labelled.ids) == 5


def test_taking_takes_all_that_belongs_to_an_image():
    part = features([70, 80, 90], [0, 1, 1]).take(np.array([False, True, True]))
    assert (part.ids, part.levels.tolist(), part.labels.tolist()) == (("0-1", "0-2"), [80, 90], [1, 1])
    assert part.histograms.shape == (2, TOP + 1)


@pytest.mark.data
def test_the_site_alone_tells_much_on_the_real_data():
    found = load_features(need_shared(DATA_SET))
    training, validation = found.training, found.validation
    scores = {name: probabilities(baseline_logits(name, training, validation)) for name in BASELINES}
    auc = {name: roc_auc_score(validation.labels, values) for name, values in scores.items()}
    assert auc["lookup"] == pytest.approx(0.77, abs=0.01)
    assert auc["histogram"] == pytest.approx(0.83, abs=0.01)
    threshold = best_f1_threshold(scores["lookup"], validation.labels)
    assert f1_score(validation.labels, scores["lookup"] >= threshold) == pytest.approx(0.483, abs=0.005)


def test_extract_agrees_with_counting(tmp_path: Path):
    raw, _ = load_splits(
        write_data_set(tmp_path, make_rows([0, 1], FIRST_TRAINING_ID), make_rows([0, 1], FIRST_VALIDATION_ID)), RAW
    )
    found = extract(raw)
    for image, level, histogram in zip(raw.images, found.levels, found.histograms, strict=True):
        assert level == image.max()
        assert histogram[:TOP].tolist() == pytest.approx([(image == value).mean() for value in range(TOP)])
