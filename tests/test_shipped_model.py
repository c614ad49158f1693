"""The weights that are installed with hemoscan: they load, and a DICOM and a PNG of the same slice score alike."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from hemoscan.card import find_model, has_weights
from hemoscan.decode import DecodeOptions, decode
from hemoscan.engine import TorchEngine
from hemoscan.phantom import make_phantom, write_dicom, write_png
from hemoscan.slices import OK, to_probability
from hemoscan.sources import Reader, find_entries

MODEL = "densenet-bias"
ALIKE = 0.05


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    import torch

    assert has_weights(MODEL)
    return TorchEngine(find_model(MODEL), torch.device("cpu"), "fp32")


def score(engine: TorchEngine, paths: list[Path]) -> np.ndarray:
    options = DecodeOptions(find_model(MODEL).card.input)
    with Reader() as reader:
        decoded = [item for entry in find_entries(paths) for item in decode(entry, reader, options)]
    assert {item.status for item in decoded} == {OK}
    logits = engine.logits(np.stack([item.image for item in decoded if item.image is not None]))
    return np.array([to_probability(logit) for logit in logits])


def test_card_says_what_was_trained_and_measured():
    card = find_model(MODEL).card
    assert card.training["epochs"] >= 1
    assert card.training["slices"] == 14_999
    assert card.training["reweigh_groups"] is True
    assert card.input.limits == (0, 70)
    assert 0.5 < card.metrics["auc"] < 1
    assert "non-commercial" in card.notice


def test_phantom_dicom_and_png_score_alike(engine: TorchEngine, tmp_path: Path):
    phantom = make_phantom("intraparenchymal", slices=8, size=512, seed=0)
    dicom = score(engine, write_dicom(phantom, tmp_path / "dicom"))
    png = score(engine, write_png(phantom, tmp_path / "png"))
    np.testing.assert_allclose(dicom, png, atol=ALIKE)


def test_golden_dicom_and_png_score_alike(engine: TorchEngine, golden: Path):
    with (golden / "pairs.csv").open(newline="") as file:
        pairs = [(golden / row["dicom"], golden / f"{row['png_id']}.png") for row in csv.DictReader(file)]
    assert len(pairs) == 3
    for dicom, png in pairs:
        difference = abs(float(score(engine, [dicom])[0] - score(engine, [png])[0]))
        assert difference < ALIKE, f"{dicom.name} and {png.name} differ by {difference:.4f}"


@pytest.mark.data
def test_card_figures_are_those_of_the_weights(engine: TorchEngine):
    """On the first 200 validation slices the installed weights separate the classes about as well as the card says."""
    from conftest import need_shared
    from sklearn.metrics import roc_auc_score

    from hemoscan.trainer.data import load_splits

    card = find_model(MODEL).card
    _, validation = load_splits(need_shared("unibuc-brain-ad"), card.input, limit=200)
    auc = roc_auc_score(validation.labels, engine.logits(validation.images))
    assert auc == pytest.approx(card.metrics["auc"], abs=0.1)
