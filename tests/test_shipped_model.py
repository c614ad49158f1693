"""The weights that are installed with hemoscan: they load, and a DICOM and a PNG of the same slice score alike."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hemoscan.card import MODEL_NAMES, builtin_folder, find_model, has_weights
from hemoscan.decode import DecodeOptions, decode
from hemoscan.engine import TorchEngine
from hemoscan.phantom import make_phantom, write_dicom, write_png
from hemoscan.slices import OK, to_probability
from hemoscan.sources import Reader, find_entries

MODEL = "densenet-bias"
ALIKE = 0.05
INSTALLED = [name for name in MODEL_NAMES if has_weights(name)]
MOST_BYTES = 235e6


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
    assert card.training["reweigh_groups"] is False
    assert card.input.limits == (0, 70)
    assert 0.5 < card.metrics["auc"] < 1
    assert "non-commercial" in card.notice


@pytest.mark.parametrize("name", INSTALLED)
def test_every_card_says_recipe_figures_and_what_flags(name: str):
    card = find_model(name).card
    assert card.training["recipe"] in ("strong", "report")
    assert 0.5 < card.metrics["auc"] < 1
    assert card.calibration is not None
    assert card.threshold == card.operating.threshold_of("balanced")
    assert card.study is not None
    assert "provisional" in card.study.on


@pytest.mark.parametrize("name", [name for name in INSTALLED if name.startswith("resnet")])
def test_resnets_are_stored_in_8_bits(name: str):
    content = find_model(name).read_weights()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    kernels = [entry for entry in header.values() if len(entry.get("shape", ())) == 4]
    assert kernels
    assert {entry["dtype"] for entry in kernels} == {"I8"}
    rounding = find_model(name).card.metrics["rounding"]
    assert rounding["bits"] == 8
    assert rounding["auc_lost"] <= 0.001


def test_the_folder_of_weights_is_small_enough_and_holds_no_others():
    files = {path.name: path.stat().st_size for path in builtin_folder().iterdir() if path.is_file()}
    assert sum(files.values()) < MOST_BYTES
    weights = {find_model(name).card.weights for name in INSTALLED}
    assert {name for name in files if name.endswith(".safetensors")} == weights


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
