"""A site's own calibration: from a scan and labels to a file that a scan uses."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import hemoscan
from hemoscan.card import BRAIN, Card, find_model
from hemoscan.cli import cli
from hemoscan.errors import DataError, OptionError
from hemoscan.operating import read_site
from hemoscan.phantom import make_phantom, write_dicom
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


def test_slices_without_patient_stand_in_folds_by_themselves(tmp_path: Path):
    results, labels = site(tmp_path)
    marks = [line.split(",") for line in labels.read_text(encoding="utf-8").split()[1:]]
    rows = [(path, label, "P" if i < 10 else "", "") for i, (path, label) in enumerate(marks)]
    write_csv(labels, "path,label,patient,study", rows)
    assert run_calibration(results, labels, tmp_path / "site.json").slices == 600, "not all of one patient"


def test_by_default_it_lies_in_the_state_folder(tmp_path: Path, state_home: Path):
    found = run_calibration(*site(tmp_path), None)
    assert found.path == default_path("densenet-bias")
    assert found.path.is_relative_to(state_home)


def test_never_within_the_package(tmp_path: Path):
    inside = Path(hemoscan.__file__).parent / "weights" / "site.json"
    with pytest.raises(OptionError, match="within the installed package"):
        run_calibration(*site(tmp_path), inside)
    assert not inside.exists()


@pytest.mark.parametrize("status", [True, False])
@pytest.mark.parametrize("score", ["7", "-2.5", "98.1"])
def test_scores_that_are_no_probabilities_are_refused(tmp_path: Path, score: str, status: bool):
    results, labels = site(tmp_path)
    lines = results.read_text(encoding="utf-8").splitlines()
    lines[2] = f"/s/1.dcm,1,1.0,{score},ok"
    if not status:
        lines = [line.rpartition(",")[0] for line in lines]
    results.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=rf"flags\.csv, line 3: probability is '{score}'; legal: 0 to 1"):
        run_calibration(results, labels, tmp_path / "site.json")
    assert not (tmp_path / "site.json").exists()


@pytest.mark.parametrize("name", ["labels.csv", "flags.csv", "flags.run.json", "flags.studies.csv", "link.csv"])
def test_what_is_read_is_never_overwritten(tmp_path: Path, name: str):
    results, labels = site(tmp_path)
    (tmp_path / "link.csv").symlink_to(labels)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OptionError, match=rf"output .*{name}: is read, too; legal: the path of a new file"):
        run_calibration(results, labels, tmp_path / name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_too_few_labels_name_the_least(tmp_path: Path):
    with pytest.raises(DataError, match="at least 20 with and 100 without"):
        run_calibration(*site(tmp_path, n=60), tmp_path / "site.json")
    assert not (tmp_path / "site.json").exists()


@pytest.mark.parametrize("text", [None, "{}", "[]", "no", pytest.param("[" * 200_000, id="deep")])
def test_results_without_a_run_record_are_refused(tmp_path: Path, text: str | None):
    results, labels = site(tmp_path)
    record = tmp_path / "flags.run.json"
    record.unlink()
    if text is not None:
        record.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"flags\.run\.json"):
        run_calibration(results, labels, tmp_path / "site.json")


@pytest.mark.parametrize(
    ("calibration", "named"),
    [
        ({"slope": 1.0, "intercept": 0.0, "offset": 1.0}, "offset"),
        ({"slope": 1.0}, "intercept"),
        ({"slope": "steep", "intercept": 0.0}, "calibration slope 'steep'; legal: 1e-06 to 1e"),
        ({"slope": 0, "intercept": 0.0}, "calibration slope 0; legal: 1e-06 to 1e"),
        ({"slope": 10**400, "intercept": 0.0}, "calibration slope 10+; legal: 1e-06 to 1e"),
        ([1.0, 0.0], "mapping"),
        (True, "mapping"),
    ],
)
def test_a_run_record_with_another_kind_of_calibration_is_refused(tmp_path: Path, calibration: object, named: str):
    results, labels = site(tmp_path)
    record = tmp_path / "flags.run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "calibration": calibration}), encoding="utf-8")
    with pytest.raises(DataError, match=rf"flags\.run\.json: .*{named}"):
        run_calibration(results, labels, tmp_path / "site.json")


@pytest.mark.parametrize("key", ["model", "sha256"])
@pytest.mark.parametrize("value", ["/x/abs", "../../x", "a\0b", "\udc80", "", None, 7, ["a"], "a" * 63 + "\n"])
def test_a_run_record_whose_model_is_no_name_is_refused(tmp_path: Path, state_home: Path, key: str, value: object):
    results, labels = site(tmp_path)
    record = tmp_path / "flags.run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), key: value}), encoding="utf-8")
    with pytest.raises(DataError, match=rf"flags\.run\.json: .*{key} is .*; legal: ") as caught:
        run_calibration(results, labels, None)
    str(caught.value).encode()
    assert not list(state_home.rglob("*.site.json"))


# From the command line: a scan, its labels, the site's file, a scan with it


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The card of a network with random weights that looks at 32 pixels: its scores differ, and mean nothing."""
    import torch

    from hemoscan.networks import build_classifier, save_weights

    folder, spec = tmp_path_factory.mktemp("small"), replace(BRAIN, size=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = save_weights(build_classifier("densenet121", spec))
    (folder / "small.safetensors").write_bytes(weights)
    card = Card("densenet-bias", "densenet121", spec, 0.5, "small.safetensors", hashlib.sha256(weights).hexdigest())
    (folder / "small.json").write_text(card.to_json(), encoding="utf-8")
    return folder / "small.json"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    for seed in range(5):
        write_dicom(make_phantom("subdural", slices=40, size=64, seed=seed), folder / str(seed), seed=seed)
    return folder


def invoke(*arguments: object) -> Result:
    found = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert found.exit_code == 0, found.output
    return found


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_from_a_scan_through_labels_to_a_scan_with_the_sites_thresholds(
    small_model: Path, studies: Path, tmp_path: Path, state_home: Path
):
    flags = tmp_path / "flags.csv"
    scan = ("scan", studies, "-m", small_model, "-o", flags, "--engine", "torch", "-d", "cpu", "-j", 0, "-q")
    invoke(*scan)
    rows = read(flags)
    before = np.array([float(row["probability"]) for row in rows])
    # Labels that the scores foretell, but not surely, and on another scale.
    logits = np.log(before / (1 - before))
    odds = 3 * (logits - np.quantile(logits, 0.7)) / logits.std()
    labels = np.random.default_rng(0).random(len(rows)) < 1 / (1 + np.exp(-odds))
    marks = [(row["path"], int(label)) for row, label in zip(rows, labels, strict=True)]
    calibrated = invoke("calibrate", flags, "--labels", write_csv(tmp_path / "labels.csv", "path,label", marks))
    (site,) = state_home.rglob("*.site.json")
    assert f"{len(rows)} labelled slices, {labels.sum()} with hemorrhage" in calibrated.stdout
    assert str(site) in calibrated.stderr
    assert list(Path(hemoscan.__file__).parent.rglob("*.site.json")) == []

    model = find_model(str(small_model)).card
    operating = read_site(site, model.name, model.sha256)
    assert operating.calibration is not None
    assert operating.study is not None
    expected = 1 / (1 + np.exp(-(operating.calibration.slope * logits + operating.calibration.intercept)))
    flagged = {}
    for point in ("balanced", "sensitive", "specific"):
        invoke(*scan, "--calibration", site, "--operating-point", point)
        after = read(flags)
        record = json.loads((tmp_path / "flags.run.json").read_text(encoding="utf-8"))
        assert record["of_these"]["slices_scored"] == 0, "logits are kept: nothing is scored anew"
        shown = np.array([float(row["probability"]) for row in after])
        np.testing.assert_allclose(shown, expected, atol=1e-4)
        flagged[point] = np.array([row["flag"] == "1" for row in after])
        assert np.array_equal(flagged[point], shown >= operating.threshold_of(point))
        for study in read(tmp_path / "flags.studies.csv"):
            assert (study["flag"] == "1") == (float(study["score"]) >= operating.study.threshold)
    assert (flagged["balanced"] != (before >= 0.5)).any()
    assert flagged["specific"].sum() < flagged["balanced"].sum() < flagged["sensitive"].sum()
    # Of probabilities so alike as here, their six digits may leave a slice on the other side of a threshold.
    assert flagged["sensitive"][labels].mean() >= 0.95 - 1 / labels.sum()
    assert flagged["specific"][~labels].mean() <= 0.01 + 1 / (~labels).sum()
