"""A site's own calibration: from a scan and labels to a file that a scan uses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hemoscan
from hemoscan.errors import DataError, OptionError
from hemoscan.operating import read_site
from hemoscan.trainer.calibrate import default_path, run_calibration

SHA256 = "a" * 64


def write_csv(path: Path, header: str, rows: list[tuple[Any, ...]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


def site(tmp_path: Path, n: int = 600, calibration: dict[str, Any] | None = None) -> tuple[Path, Path]:
    """Return results and labels of a site whose log odds are half the logits; the scan may have been calibrated."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 3, n)
    labels = rng.random(n) < 1 / (1 + np.exp(-0.5 * logits))
    shown = logits if calibration is None else calibration["slope"] * logits + calibration["intercept"]
    probabilities = 1 / (1 + np.exp(-shown))
    rows = [(f"/s/{i}.dcm", 1, f"1.{i // 10}", f"{p:.6f}", "ok") for i, p in enumerate(probabilities)]
    results = write_csv(tmp_path / "flags.csv", "path,frame,study_uid,probability,status", rows)
    record = {"model": "densenet-bias", "sha256": SHA256, "calibration": calibration}
    (tmp_path / "flags.run.json").write_text(json.dumps(record), encoding="utf-8")
    marks = [(f"/s/{i}.dcm", int(label)) for i, label in enumerate(labels)]
    return results, write_csv(tmp_path / "labels.csv", "path,label", marks)


def test_a_site_is_fitted(tmp_path: Path):
    results, labels = site(tmp_path)
    found = run_calibration(results, labels, tmp_path / "site.json")
    operating = read_site(found.path, "densenet-bias", SHA256)
    assert operating == found.operating
    assert operating.calibration is not None
    assert operating.calibration.slope == pytest.approx(0.5, abs=0.1)
    assert operating.calibration.ece is not None
    assert operating.calibration.ece < found.ece_before


def test_a_calibration_that_the_scan_applied_is_undone(tmp_path: Path):
    plain = run_calibration(*site(tmp_path), tmp_path / "a.json").operating.calibration
    applied = {"slope": 0.8, "intercept": -0.3, "ece": None, "on": ""}
    again = run_calibration(*site(tmp_path, calibration=applied), tmp_path / "b.json").operating.calibration
    assert plain is not None
    assert again is not None
    assert (again.slope, again.intercept) == pytest.approx((plain.slope, plain.intercept), abs=1e-2)


def test_by_default_it_lies_in_the_state_folder(tmp_path: Path, state_home: Path):
    found = run_calibration(*site(tmp_path), None)
    assert found.path == default_path("densenet-bias")
    assert found.path.is_relative_to(state_home)


def test_never_within_the_package(tmp_path: Path):
    inside = Path(hemoscan.__file__).parent / "weights" / "site.json"
    with pytest.raises(OptionError, match="within the installed package"):
        run_calibration(*site(tmp_path), inside)
    assert not inside.exists()


def test_too_few_labels_name_the_least(tmp_path: Path):
    with pytest.raises(DataError, match="at least 20 with and 100 without"):
        run_calibration(*site(tmp_path, n=60), tmp_path / "site.json")
    assert not (tmp_path / "site.json").exists()


@pytest.mark.parametrize("text", [None, "{}", "[]", "no"])
def test_results_without_a_run_record_are_refused(tmp_path: Path, text: str | None):
    results, labels = site(tmp_path)
    record = tmp_path / "flags.run.json"
    record.unlink()
    if text is not None:
        record.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"flags\.run\.json"):
        run_calibration(results, labels, tmp_path / "site.json")
