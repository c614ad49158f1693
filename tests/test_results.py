"""The three output files: columns, formats, wholeness, and nothing that identifies a patient."""

from __future__ import annotations

import csv
import gc
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from hemoscan.card import BRAIN, Card, Model
from hemoscan.decode import DecodeOptions
from hemoscan.errors import OptionError, OutputError
from hemoscan.logs import logging_to
from hemoscan.outputs import restore
from hemoscan.phantom import make_phantom, write_dicom
from hemoscan.results import Results
from hemoscan.scan import Job, ScanOptions, scan
from hemoscan.slices import Decoded, Identity, Row
from hemoscan.state import State

SLICES_HEADER = (
    "path,frame,study_uid,series_uid,sop_uid,instance_number,z_mm,probability,flag,status,reason,model,notes"
)
STUDIES_HEADER = "rank,study_uid,n_slices,n_flagged,n_skipped,n_errors,score,flag,top_slices,newest_file,notes"
IDENTITY = Identity("1.2", "1.2.3", "1.2.3.4", 7, -12.5)


def ok_row(probability: float = 0.25, *, flag: bool = False, path: str = "/study/1.dcm", **fields: Any) -> Row:
    decoded = Decoded(path, "/study", 1_500_000_000.0, **{"frame": 1, "identity": IDENTITY, **fields})
    return Row(decoded, probability, flag, "densenet-bias")


def bad_row(status: str, path: str = "/study/2.dcm", reason: str = "why") -> Row:
    return Row(Decoded(path, "/study", None, status=status, reason=reason), None, None, "densenet-bias")


def write(output: Path, rows: Sequence[Row]) -> Results:
    results = Results(output)
    results.publish(rows, lambda: {"state": "done"})
    return results


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_headers_are_those_of_the_product(tmp_path: Path):
    results = write(tmp_path / "out.csv", [])
    assert results.slices_path.read_text(encoding="utf-8") == SLICES_HEADER + "\n"
    assert results.studies_path.read_text(encoding="utf-8") == STUDIES_HEADER + "\n"


@pytest.mark.parametrize(
    ("name", "studies", "record"),
    [
        ("flags.csv", "flags.studies.csv", "flags.run.json"),
        ("flags", "flags.studies.csv", "flags.run.json"),
        ("2024.05.csv", "2024.05.studies.csv", "2024.05.run.json"),
    ],
)
def test_names_of_the_three_files(tmp_path: Path, name: str, studies: str, record: str):
    write(tmp_path / "new" / "folder" / name, [])
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {name, studies, record}


def test_a_scored_slice(tmp_path: Path):
    write(tmp_path / "out.csv", [ok_row(0.1234565001, flag=True, notes=("one", "two"))])
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[1] == (
        "/study/1.dcm,1,1.2,1.2.3,1.2.3.4,7,-12.500,0.123457,1,ok,,densenet-bias,one; two"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.000000"), (1.0, "1.000000"), (1e-9, "0.000000"), (1 / 3, "0.333333")]
)
def test_probabilities_have_six_decimals(tmp_path: Path, value: float, text: str):
    write(tmp_path / "out.csv", [ok_row(value)])
    (row,) = cells(tmp_path / "out.csv")
    assert (row["probability"], row["flag"]) == (text, "0")


@pytest.mark.parametrize("status", ["skipped", "error"])
def test_what_was_not_scored_has_neither_probability_nor_flag(tmp_path: Path, status: str):
    write(tmp_path / "out.csv", [bad_row(status)])
    (row,) = cells(tmp_path / "out.csv")
    assert (row["probability"], row["flag"], row["status"], row["reason"]) == ("", "", status, "why")
    assert (row["study_uid"], row["instance_number"], row["z_mm"], row["frame"]) == ("", "", "", "")


@pytest.mark.parametrize("name", ["a,b", 'say "x"', "new\nline", "car\rriage", "é漢", " edge ", "a | b"])
def test_odd_names_come_back_from_the_csv(tmp_path: Path, name: str):
    write(tmp_path / "out.csv", [ok_row(path=f"/study/{name}"), bad_row("error", reason=name)])
    scored, failed = cells(tmp_path / "out.csv")
    assert scored["path"] == f"/study/{name}"
    assert failed["reason"] == name
    (study, _) = cells(tmp_path / "out.studies.csv")
    assert study["top_slices"] == f"/study/{name}"


def test_a_name_that_is_not_utf8_leaves_the_csv_utf8(tmp_path: Path):
    write(tmp_path / "out.csv", [ok_row(path=os.fsdecode(b"/study/caf\xe9.dcm"))])
    (row,) = cells(tmp_path / "out.csv")
    assert row["path"] == "/study/caf\\udce9.dcm"


def test_the_worklist(tmp_path: Path):
    other = Identity("9.9")
    write(
        tmp_path / "out.csv",
        [
            ok_row(0.2),
            ok_row(0.7, flag=True, path="/study/2.dcm", identity=Identity("1.2", "1.2.4", "1.2.4.1", 7, -12.5)),
            ok_row(0.9, flag=True, path="/study/3.dcm", identity=other),
            bad_row("error"),
            bad_row("skipped"),
        ],
    )
    assert (tmp_path / "out.studies.csv").read_text(encoding="utf-8").splitlines()[1:] == [
        "1,9.9,1,1,0,0,0.900000,1,/study/3.dcm,2017-07-14T02:40:00+00:00,",
        "2,1.2,2,1,0,0,0.700000,1,/study/2.dcm | /study/1.dcm,2017-07-14T02:40:00+00:00,",
        "3,/study,0,0,1,1,,,,,",
    ]


def test_an_unflagged_study_has_flag_0(tmp_path: Path):
    write(tmp_path / "out.csv", [ok_row(0.2)])
    (study,) = cells(tmp_path / "out.studies.csv")
    assert (study["flag"], study["score"]) == ("0", "0.200000")


def test_publishing_again_replaces_what_was_there(tmp_path: Path):
    results = Results(tmp_path / "out.csv")
    for number in range(1, 8):
        rows = [
            ok_row(path=f"/study/{known}.dcm", identity=Identity("1.2", "1.2.3", f"1.2.3.{known}", known))
            for known in range(1, number + 1)
        ]
        results.publish(iter(rows), lambda: {"number": number})  # noqa: B023 - called at once
        assert [row["path"] for row in cells(tmp_path / "out.csv")] == [row.decoded.path for row in rows]
        assert json.loads((tmp_path / "out.run.json").read_text(encoding="utf-8")) == {"number": number}
        assert [study.n_slices for study in results.studies] == [number]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.run.json", "out.studies.csv"]


def test_the_record_is_asked_for_after_the_rows(tmp_path: Path):
    seen: list[str] = []

    def rows() -> Iterator[Row]:
        seen.append("row")
        yield ok_row()

    Results(tmp_path / "out.csv").publish(rows(), lambda: {"seen": list(seen)})
    assert json.loads((tmp_path / "out.run.json").read_text(encoding="utf-8")) == {"seen": ["row"]}


def test_a_new_run_replaces_the_files_of_the_one_before(tmp_path: Path):
    write(tmp_path / "out.csv", [ok_row(), ok_row(), ok_row()])
    write(tmp_path / "out.csv", [ok_row()])
    assert len(cells(tmp_path / "out.csv")) == 1


def test_nothing_is_written_before_the_first_publication(tmp_path: Path):
    Results(tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path):
    for name in (".out.csv.abcd1234.tmp", ".out.run.json.a_cd1234.tmp"):
        (tmp_path / name).touch()
    kept = {".out.csv.backup.tmp", "out.csv.abcd1234.tmp", ".other.csv.abcd1234.tmp"}
    for name in kept:
        (tmp_path / name).touch()
    Results(tmp_path / "out.csv")
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("place", ["file/out.csv", "file/deeper/out.csv"])
def test_an_unwritable_output_is_told_before_the_work(tmp_path: Path, place: str):
    (tmp_path / "file").write_bytes(b"a file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written") as caught:
        Results(tmp_path / place)
    assert str(tmp_path / place) in str(caught.value)
    del caught
    gc.collect()  # a file that was left open warns here, not in a later test


class ZeroEngine:
    """Scores 0."""

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.zeros(len(images))

    def describe(self) -> dict[str, str]:
        return {}


IDENTIFYING = {
    "PatientName": "Phantom^Hemoscan",
    "PatientID": "PHANTOM",
    "PatientBirthDate": "19420713",
    "StudyDate": "20191224",
    "AccessionNumber": "ACC7731",
    "InstitutionName": "Sanct Nosocomium",
    "ReferringPhysicianName": "Medicus^Maximus",
    "OtherPatientIDs": "OTHER4711",
}
DEFECTS: dict[str, dict[str, Any]] = {
    "sound": {},
    "other modality": {"Modality": "MR"},
    "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "no pixels": {"PixelData": None},
    "short pixels": {"PixelData": b"\0" * 100},
    "no rows": {"Rows": 0},
    "syntax": {"BitsAllocated": 24},
    "slope": {"RescaleSlope": "0"},
}


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_written_holds_what_identifies_a_patient(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], form: str
):
    (first, *_) = write_dicom(make_phantom(size=64, slices=8), tmp_path / "made")
    folder = tmp_path / "in"
    folder.mkdir()
    for name, changes in DEFECTS.items():
        header = pydicom.dcmread(first)
        for keyword, value in {**IDENTIFYING, **changes}.items():
            if value is None:
                delattr(header, keyword)
            else:
                setattr(header, keyword, value)
        header.save_as(folder / name)
    whole = (folder / "sound").read_bytes()
    for share in (0.1, 0.3, 0.5, 0.9):
        (folder / f"cut at {share}").write_bytes(whole[: int(share * len(whole))])
    model = Model(Card("densenet-bias", "densenet121", BRAIN, 0.5, "none.safetensors", "0" * 64), tmp_path)
    with logging_to(tmp_path / "out.log", form, 2), State(tmp_path / "out.sqlite") as state:
        job = Job([folder], model, ZeroEngine(), ScanOptions(DecodeOptions(BRAIN), 0.5, 4, 2), {})
        scan(job, Results(tmp_path / "out.csv"), state)
        beside = b"".join(path.read_bytes() for path in tmp_path.glob("out.sqlite*"))
    logged = (tmp_path / "out.log").read_text(encoding="utf-8")
    unreadable = [row for row in cells(tmp_path / "out.csv") if row["status"] == "error"]
    assert logged.count("error: ") == len(unreadable) > 0, "every unreadable file is logged"
    statuses = {row["status"] for row in cells(tmp_path / "out.csv")}
    assert statuses == {"ok", "skipped", "error"}
    written = beside + b"".join(path.read_bytes() for path in tmp_path.glob("out.*"))
    shown = "".join(capsys.readouterr()) + caplog.text
    values = (*IDENTIFYING.values(), "Phantom", "Medicus", "Nosocomium")
    assert [value for value in values if value.encode() in written or value in shown] == []


def test_identifiers_stand_in_the_worklist_alone_if_asked_for(tmp_path: Path):
    (first, *_) = write_dicom(make_phantom(size=64, slices=8), tmp_path / "made")
    header = pydicom.dcmread(first)
    for keyword, value in {**IDENTIFYING, "PatientID": "=PHANTOM"}.items():
        setattr(header, keyword, value)
    header.save_as(first)
    for path in (tmp_path / "made").iterdir():
        if path != first:
            path.unlink()
    model = Model(Card("densenet-bias", "densenet121", BRAIN, 0.5, "none.safetensors", "0" * 64), tmp_path)
    with logging_to(tmp_path / "out.log", "json", 2), State(tmp_path / "out.sqlite") as state:
        job = Job([first], model, ZeroEngine(), ScanOptions(DecodeOptions(BRAIN), 0.5, 4, 2), {})
        scan(job, Results(tmp_path / "out.csv", identifiers=True), state)
    (study,) = cells(tmp_path / "out.studies.csv")
    assert list(study)[-3:] == ["patient_id", "accession_number", "study_date"]
    assert list(study.values())[-3:] == ["'=PHANTOM", "ACC7731", "20191224"]
    others = [path for path in tmp_path.glob("out.*") if path.name != "out.studies.csv"]
    assert len(others) >= 4
    for value in (b"PHANTOM", b"ACC7731", b"20191224"):
        assert [path.name for path in others if value in path.read_bytes()] == []
    assert "Maximus" not in (tmp_path / "out.studies.csv").read_text()


def test_no_cell_of_text_begins_like_a_formula(tmp_path: Path):
    odd = Identity("=1", "@2", "-3", -4, -5.5)
    row = ok_row(path="+6", identity=odd, notes=("\t7",))
    write(tmp_path / "out.csv", [row, bad_row("error", path="/study/8", reason="=cmd|' /C calc'!A0")])
    scored, failed = cells(tmp_path / "out.csv")
    texts = ("path", "study_uid", "series_uid", "sop_uid", "reason", "model", "notes")
    assert [scored[name] for name in texts] == ["'+6", "'=1", "'@2", "'-3", "", "densenet-bias", "'\t7"]
    assert (scored["instance_number"], scored["z_mm"]) == ("-4", "-5.500"), "numbers stay numbers"
    assert failed["reason"] == "'=cmd|' /C calc'!A0"
    assert [restore(scored[name]) for name in ("path", "study_uid", "notes")] == ["+6", "=1", "\t7"]
    (study, _) = cells(tmp_path / "out.studies.csv")
    assert (study["study_uid"], study["top_slices"]) == ("'=1", "'+6")


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n", bytes(128) + b"DICM", b"PK\x03\x04"],
    ids=["PNG", "DICOM", "zip"],
)
@pytest.mark.parametrize("name", ["out.csv", "out.studies.csv", "out.run.json"])
def test_an_image_is_never_overwritten(tmp_path: Path, content: bytes, name: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OptionError, match="never overwritten"):
        Results(tmp_path / "out.csv")
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("output", [Path("/dev/null"), Path()], ids=str)
def test_an_output_is_a_regular_file(output: Path):
    with pytest.raises(OptionError):
        Results(output)


@pytest.mark.parametrize("mtime", [1e18, -1e18, 2.6e11])
def test_a_time_that_no_calendar_has_is_left_out(tmp_path: Path, mtime: float):
    write(tmp_path / "out.csv", [Row(Decoded("/a", "/", mtime, 1), 0.5, True, "m")])
    with (tmp_path / "out.studies.csv").open(newline="") as file:
        (study,) = csv.DictReader(file)
    assert study["newest_file"] == ""
