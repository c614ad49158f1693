"""Calibrations and operating points: on cards, in a site's file, and applied."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hemoscan.card import BRAIN, Card, read_card
from hemoscan.errors import CardError, OptionError
from hemoscan.operating import Calibration, Operating, OperatingPoint, StudyPoint, read_site, site_json

CARD = Card("densenet-bias", "densenet121", BRAIN, 0.5, "none.safetensors", "0" * 64)
POINTS = {
    name: OperatingPoint(threshold, 0.8, 0.9, "validation")
    for name, threshold in (("balanced", 0.5), ("sensitive", 0.1), ("specific", 0.9))
}
STUDY = StudyPoint(0.7, 0.9, 0.9, 0.18, 0.1, "made up")
OPERATING = Operating(Calibration(1.5, -0.5, 0.01, "validation"), POINTS, STUDY)


def site(tmp_path: Path, **changes: object) -> Path:
    content = {**json.loads(site_json(OPERATING, "densenet-bias", "0" * 64, {"slices": 200})), **changes}
    path = tmp_path / "site.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_card_keeps_them(tmp_path: Path):
    card = replace(CARD, calibration=OPERATING.calibration, operating_points=POINTS, study=STUDY)
    path = tmp_path / "card.json"
    path.write_text(card.to_json(), encoding="utf-8")
    assert read_card(path) == card
    assert read_card(path).operating == OPERATING


def test_a_card_from_before_has_none(tmp_path: Path):
    content = json.loads(CARD.to_json())
    for key in ("calibration", "operating_points", "study"):
        del content[key]
    path = tmp_path / "card.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_card(path) == CARD
    assert read_card(path).operating == Operating()


def test_the_calibration_is_a_line_on_logits():
    assert Calibration(2.0, -1.0).apply(3.0) == 5.0


@pytest.mark.parametrize("slope", [0.0, -1.0, float("nan"), float("inf"), 10**400, "1", True, None])
def test_a_slope_that_is_not_above_0_is_refused(slope: float):
    with pytest.raises(CardError, match="calibration slope"):
        Calibration(slope, 0.0)


@pytest.mark.parametrize("name", ["threshold", "sensitivity", "specificity"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5"])
def test_shares_out_of_range_are_refused(name: str, value: float):
    with pytest.raises(CardError, match=f"{name}.*legal: 0 to 1"):
        OperatingPoint(**{"threshold": 0.5, "sensitivity": 0.5, "specificity": 0.5, name: value})


def test_some_operating_points_are_not_enough():
    with pytest.raises(CardError, match="operating points balanced; legal: balanced, sensitive, specific"):
        Operating(operating_points={"balanced": POINTS["balanced"]})


def test_a_point_that_there_is_not_is_named():
    assert OPERATING.threshold_of("specific") == 0.9
    with pytest.raises(OptionError, match=r"none on this model's card.*hemoscan calibrate"):
        Operating().threshold_of("specific")


def test_a_site_file_comes_back(tmp_path: Path):
    assert read_site(site(tmp_path), "densenet-bias", "0" * 64) == OPERATING


def test_a_file_of_another_model_is_refused(tmp_path: Path):
    with pytest.raises(CardError, match=r"site\.json: made for densenet-bias with weights of SHA-256 000"):
        read_site(site(tmp_path), "densenet-base", "1" * 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "x"},
        {"format": 2},
        {"calibration": {"slope": -1, "intercept": 0}},
        {"calibration": {"incline": 1}},
        {"calibration": 7},
        {"operating_points": {"balanced": 0.5}},
        {"study": [1]},
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, changes: dict[str, object]):
    with pytest.raises(CardError, match=r"site\.json: not a calibration"):
        read_site(site(tmp_path, **changes), "densenet-bias", "0" * 64)


@pytest.mark.parametrize(
    "content", ["", "[]", "7", '{"kind": 1}', asdict(CARD)["name"], pytest.param("[" * 200_000, id="deep")]
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "site.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CardError, match=r"site\.json: not a calibration"):
        read_site(path, "densenet-bias", "0" * 64)
    with pytest.raises(CardError, match="cannot be read"):
        read_site(tmp_path / "missing.json", "densenet-bias", "0" * 64)
