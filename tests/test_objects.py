"""DICOM objects of flagged studies, read back: what they say, what they refer to, and that they are made once."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from click.testing import Result
from command_line import MappingEngine, invoke
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import UID, ComprehensiveSRStorage, CTImageStorage, SecondaryCaptureImageStorage

from hemoscan import NOTICE

pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")
pytestmark = pytest.mark.usefixtures("mapping_engine")

NAME, ID = "Doe^Jané", "4711"
PATIENT = {"PatientName": NAME, "PatientID": ID, "PatientBirthDate": "19500101", "PatientSex": "F"}
STUDY = {"AccessionNumber": "A1", "StudyID": "7", "StudyDate": "20240102", "StudyTime": "0304"}
SECRETS = {"PatientAddress": "Elm Street", "InstitutionName": "Elsewhere", "OtherPatientIDs": "0815"}
TEXT = "FOR RESEARCH USE ONLY, NOT FOR DIAGNOSIS"


@pytest.fixture
def study(epidural: Path, tmp_path: Path) -> Path:
    """A study of a named patient."""
    folder = tmp_path / "study"
    shutil.copytree(epidural, folder)
    change(folder, SpecificCharacterSet="ISO_IR 100", **PATIENT, **STUDY, **SECRETS)
    return folder


def change(folder: Path, **attributes: Any) -> None:
    for path in sorted(folder.glob("*.dcm")):
        image = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            for keyword, value in attributes.items():
                if value is None:
                    image.pop(keyword, None)
                else:
                    setattr(image, keyword, value)
            image.save_as(path)


def make(study: Path, card: Path, out: Path, threshold: str = "0.4") -> Result:
    """Scan a study and make its objects."""
    csv = out.with_name("flags.csv")
    scanned = invoke("scan", study, "-o", csv, "-m", card, "-d", "cpu", "--threshold", threshold, "-j", "0")
    assert scanned.exit_code == 0, scanned.output
    return invoke("objects", csv, "-o", out)


def read(out: Path, pattern: str) -> list[Dataset]:
    found = [pydicom.dcmread(path) for path in sorted(out.glob(f"*/{pattern}"))]
    return sorted(found, key=lambda each: int(each.InstanceNumber))


def items(content: Dataset) -> list[Dataset]:
    """Return all content items of a tree."""
    children = list(content.get("ContentSequence", ()))
    return children + [item for child in children for item in items(child)]


def named(content: Dataset, code: str) -> list[Dataset]:
    return [item for item in items(content) if item.ConceptNameCodeSequence[0].CodeValue == code]


def test_a_report_says_what_was_found_by_what_and_where(study: Path, card_path: Path, tmp_path: Path):
    assert make(study, card_path, tmp_path / "out").exit_code == 0
    (report,) = read(tmp_path / "out", "SR.*.dcm")
    rows = [line.split(",") for line in (tmp_path / "flags.csv").read_text(encoding="utf-8").splitlines()]
    flagged = [dict(zip(rows[0], row, strict=True)) for row in rows[1:] if row[8] == "1"]
    assert 1 < len(flagged) < 8
    assert report.SOPClassUID == ComprehensiveSRStorage
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert "VerifyingObserverSequence" not in report

    findings = named(report, "121071")
    codes = {(f.ConceptCodeSequence[0].CodeValue, f.ConceptCodeSequence[0].CodingSchemeDesignator) for f in findings}
    assert codes == {("1386000", "SCT")}
    assert len(findings) == 1 + len(flagged)
    values = [item.MeasuredValueSequence[0] for item in named(report, "111012")]
    assert {value.MeasurementUnitsCodeSequence[0].CodeValue for value in values} == {"%"}
    probabilities = [float(row["probability"]) for row in flagged]
    found = [float(value.NumericValue) / 100 for value in values]
    (study_row,) = csv.DictReader((tmp_path / "flags.studies.csv").read_text(encoding="utf-8").splitlines())
    assert found == pytest.approx([float(study_row["score"]), *probabilities], abs=1e-6)

    images = [item for item in items(report) if item.ValueType == "IMAGE"]
    referred = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in images]
    uids = [row["sop_uid"] for row in flagged]
    assert referred == uids + uids
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == flagged[0]["study_uid"]
    series = evidence.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == flagged[0]["series_uid"]
    listed = {(each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID) for each in series.ReferencedSOPSequence}
    assert listed == {(CTImageStorage, uid) for uid in uids}

    card = json.loads(card_path.read_text(encoding="utf-8"))
    texts = [str(item.TextValue) for item in items(report) if item.ValueType == "TEXT"]
    assert {card["name"], f"SHA-256 of the weights: {card['sha256']}"} <= set(texts)
    assert "Slices are flagged from a probability of 0.400000" in texts
    assert NOTICE in texts


def test_captures_are_of_the_flagged_slices(
    study: Path, card_path: Path, tmp_path: Path, mapping_engine: MappingEngine
):
    make(study, card_path, tmp_path / "out")
    captures = read(tmp_path / "out", "SC.*.dcm")
    (report,) = read(tmp_path / "out", "SR.*.dcm")
    images = [item for item in items(report) if item.ValueType == "IMAGE"]
    sources = [each.SourceImageSequence[0].ReferencedSOPInstanceUID for each in captures]
    assert sources == [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in images[: len(captures)]]
    assert sum(mapping_engine.mapped) == len(captures)
    for capture in captures:
        assert capture.SOPClassUID == SecondaryCaptureImageStorage
        assert list(capture.PatientOrientation) == ["L", "P"]
        assert capture.BurnedInAnnotation == "NO"
        pixels = capture.pixel_array
        assert pixels.shape == (capture.Rows, capture.Columns, 3)
        assert np.ptp(pixels[460:, :, :]) > 200, "text below the slice"
    assert (captures[0].pixel_array != captures[-1].pixel_array).any()


def test_objects_of_a_state_are_those_of_the_scan(study: Path, card_path: Path, tmp_path: Path):
    state, csv_path = tmp_path / "state.sqlite", tmp_path / "flags.csv"
    options = ("-m", card_path, "-d", "cpu", "--threshold", "0.4")
    assert invoke("scan", study, "-o", csv_path, "--state", state, "-j", "0", *options).exit_code == 0
    result = invoke("objects", "--state", state, "-o", tmp_path / "of_state", *options)
    assert result.exit_code == 0, result.output
    assert invoke("objects", csv_path, "-o", tmp_path / "of_csv").exit_code == 0
    made = [sorted(path.name for path in (tmp_path / name).glob("*/*.dcm")) for name in ("of_csv", "of_state")]
    assert made[0] == made[1]
    assert len(made[0]) > 2
    assert invoke("objects", "--state", state, "-o", tmp_path / "none", *options[:-1], "1").exit_code == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.csv", "--state", "b"), "legal: one of them"),
        (("a.csv", "--threshold", "0.5"), "legal: with --state"),
        (("--state", "none.sqlite"), "none.sqlite: cannot be read: No such file"),
    ],
)
def test_wrong_usage_says_what_is_legal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
):
    monkeypatch.chdir(tmp_path)
    result = invoke("objects", *arguments, "-o", "out")
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_every_object_says_that_it_is_for_research(study: Path, card_path: Path, tmp_path: Path):
    make(study, card_path, tmp_path / "out")
    found = read(tmp_path / "out", "*.dcm")
    assert len(found) > 2
    assert {each.SeriesDescription for each in found} == {f"hemoscan: {TEXT}"}
    picture = Image.new("RGB", (500, 40))
    ImageDraw.Draw(picture).text((6, 3), TEXT, fill="white", font=ImageFont.load_default(14))
    words = np.asarray(picture)[3:20, 6:400]
    for capture in read(tmp_path / "out", "SC.*.dcm"):
        assert (capture.pixel_array[451:468, 6:400] == words).all(), "in the pixels"


def test_objects_are_filed_with_their_study_in_series_of_their_own(study: Path, card_path: Path, tmp_path: Path):
    make(study, card_path, tmp_path / "out")
    sources = [pydicom.dcmread(path) for path in study.glob("*.dcm")]
    found = read(tmp_path / "out", "*.dcm")
    assert {each.StudyInstanceUID for each in found} == {sources[0].StudyInstanceUID}
    for keyword, value in {**PATIENT, **STUDY}.items():
        assert {str(each[keyword].value) for each in found} == {value}, keyword
    series = {each.SeriesInstanceUID for each in found}
    assert len(series) == 2
    taken = {uid for each in sources for uid in (each.SeriesInstanceUID, each.SOPInstanceUID)}
    made = series | {each.SOPInstanceUID for each in found}
    assert not made & taken
    assert all(UID(uid).is_valid for uid in made)
    content = b"".join(path.read_bytes() for path in (tmp_path / "out").glob("*/*.dcm"))
    for secret in SECRETS.values():
        assert secret.encode() not in content


def test_what_was_made_or_sent_is_not_made_again(
    study: Path, card_path: Path, tmp_path: Path, mapping_engine: MappingEngine
):
    out = tmp_path / "out"
    make(study, card_path, out)
    before = {path: path.read_bytes() for path in out.glob("*/*.dcm")}
    sent = min(before)
    sent.rename(f"{sent}.done")
    mapping_engine.mapped.clear()
    again = invoke("objects", tmp_path / "flags.csv", "-o", out)
    assert again.exit_code == 0
    assert "1 flagged studies" in again.output
    assert "0 new reports, 0 new captures" in " ".join(again.output.split())
    assert mapping_engine.mapped == []
    assert {path: path.read_bytes() for path in out.glob("*/*.dcm")} == {
        path: content for path, content in before.items() if path != sent
    }


def test_what_could_not_be_sent_is_made_again_by_the_same_uid(study: Path, card_path: Path, tmp_path: Path):
    out = tmp_path / "out"
    make(study, card_path, out)
    names = sorted(path.name for path in out.glob("*/*.dcm"))
    for path in out.glob("*/*.dcm"):
        path.rename(f"{path}.bad")
    assert invoke("objects", tmp_path / "flags.csv", "-o", out).exit_code == 0
    assert sorted(path.name for path in out.glob("*/*.dcm")) == names


def test_another_threshold_makes_another_report_of_the_same_captures(study: Path, card_path: Path, tmp_path: Path):
    out = tmp_path / "out"
    make(study, card_path, out, threshold="0.4")
    captures = {path.name for path in out.glob("*/SC.*")}
    make(study, card_path, out, threshold="0.3")
    reports = read(out, "SR.*.dcm")
    assert len(reports) == 2
    assert len({each.SeriesInstanceUID for each in reports}) == 1
    assert captures < {path.name for path in out.glob("*/SC.*")}


def test_a_study_that_is_not_flagged_has_no_objects(study: Path, card_path: Path, tmp_path: Path):
    assert make(study, card_path, tmp_path / "out", threshold="1").exit_code == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "case",
    [
        ("StudyInstanceUID", "ID_02033fb12e", "StudyInstanceUID is no valid UID"),
        ("SeriesInstanceUID", "ID_02033fb12e", "SeriesInstanceUID is no valid UID"),
        ("StudyInstanceUID", None, "StudyInstanceUID is absent"),
        ("PatientID", None, "PatientID (0010,0020) is absent"),
        ("PatientID", "", "PatientID (0010,0020) is absent, empty"),
        ("PatientID", "secret" * 20, "absent, empty or invalid"),
    ],
)
def test_a_study_that_no_pacs_could_file_has_no_objects(
    study: Path,
    card_path: Path,
    tmp_path: Path,
    case: tuple[str, str | None, str],
    caplog: pytest.LogCaptureFixture,
):
    keyword, value, words = case
    change(study, **{keyword: value})
    result = make(study, card_path, tmp_path / "out")
    assert result.exit_code == 4
    assert "1 flagged studies without objects" in result.output
    assert words in caplog.text
    assert "secret" not in caplog.text
    assert not (tmp_path / "out").exists()


def test_two_patients_in_one_study_have_no_objects(
    study: Path, card_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for number, path in enumerate(sorted(study.glob("*.dcm"))):
        image = pydicom.dcmread(path)
        image.PatientID = f"secret {number % 2}"
        image.save_as(path)
    result = make(study, card_path, tmp_path / "out")
    assert result.exit_code == 4
    assert "PatientID (0010,0020) differs" in caplog.text
    assert "secret" not in caplog.text + result.output


def test_absent_and_malformed_attributes_are_left_empty(study: Path, card_path: Path, tmp_path: Path):
    change(study, PatientName=None, StudyDate="yesterday", PatientSex="X", AccessionNumber="1" * 17, StudyTime=None)
    assert make(study, card_path, tmp_path / "out").exit_code == 0
    for made in read(tmp_path / "out", "*.dcm"):
        for keyword in ("PatientName", "StudyDate", "PatientSex", "AccessionNumber", "StudyTime"):
            assert not made[keyword].value, keyword
        assert made.PatientID == ID


def test_files_that_are_gone_are_told(study: Path, card_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make(study, card_path, tmp_path / "first")
    shutil.rmtree(study)
    result = invoke("objects", tmp_path / "flags.csv", "-o", tmp_path / "out")
    assert result.exit_code == 4
    assert "is gone" in caplog.text


def test_slices_of_a_zip_have_objects(study: Path, card_path: Path, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in study.glob("*.dcm"):
            archive.write(path, path.name)
    assert make(tmp_path / "study.zip", card_path, tmp_path / "out").exit_code == 0
    assert len(read(tmp_path / "out", "SR.*.dcm")) == 1


def test_a_scan_skips_what_was_made(study: Path, card_path: Path, tmp_path: Path):
    make(study, card_path, tmp_path / "out")
    made = len(list((tmp_path / "out").glob("*/*.dcm")))
    result = invoke("scan", tmp_path / "out", "-o", tmp_path / "again.csv", "-m", card_path, "-d", "cpu", "-j", "0")
    assert result.exit_code == 3
    assert f"{made} skipped, 0 unreadable" in result.output


def test_without_highdicom_the_way_to_it_is_named(
    study: Path, card_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = invoke("objects", tmp_path / "flags.csv", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "pip install 'hemoscan[dicom]'" in str(result.exception)


def test_an_output_that_cannot_be_written_is_told(study: Path, card_path: Path, tmp_path: Path):
    out = tmp_path / "out"
    make(study, card_path, tmp_path / "first")
    (place,) = (tmp_path / "first").iterdir()
    out.mkdir()
    (out / place.name).write_text("in the way", encoding="utf-8")
    result = invoke("objects", tmp_path / "flags.csv", "-o", out)
    assert "cannot be written" in str(result.exception)
