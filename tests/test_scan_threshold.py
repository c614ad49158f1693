"""Which threshold and which calibration the options of a scan choose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_operating import CARD, OPERATING, site

from hemoscan.card import Model
from hemoscan.cli import _operating, _threshold
from hemoscan.errors import OptionError
from hemoscan.operating import Operating

CALIBRATED = Model(
    replace(CARD, calibration=OPERATING.calibration, operating_points=OPERATING.operating_points), Path("nowhere")
)
PLAIN = Model(CARD, Path("nowhere"))


def chosen(model: Model, **options: Any) -> float:
    given = {"threshold": None, "operating_point": None, "calibration": None, **options}
    return _threshold(model, _operating(model, given), given)


def test_the_options_choose():
    assert chosen(PLAIN) == CARD.threshold
    assert chosen(CALIBRATED, operating_point="specific") == 0.9
    assert chosen(CALIBRATED, threshold=0.25) == 0.25


def test_a_site_file_goes_before_the_card(tmp_path: Path):
    path = site(tmp_path)
    assert _operating(PLAIN, {"calibration": path}) == OPERATING
    assert _operating(PLAIN, {"calibration": None}) == Operating()
    assert chosen(PLAIN, calibration=path, operating_point="sensitive") == 0.1


def test_wrong_choices_are_refused():
    with pytest.raises(OptionError, match="one of them"):
        chosen(CALIBRATED, threshold=0.2, operating_point="balanced")
    with pytest.raises(OptionError, match="hemoscan calibrate"):
        chosen(PLAIN, operating_point="balanced")
