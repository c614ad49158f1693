"""Pictures of a scan: of flagged slices alone, made again only where they lack, and never a change of the CSV."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import MappingEngine
from numpy.typing import NDArray
from PIL import Image

from hemoscan.card import BRAIN, Card, Model
from hemoscan.decode import DecodeOptions
from hemoscan.errors import OptionError, StateError
from hemoscan.operating import Calibration, Operating, StudyPoint
from hemoscan.page import Page
from hemoscan.phantom import make_phantom, write_dicom, write_png
from hemoscan.pictures import Pictures
from hemoscan.report import write_report
from hemoscan.reread import Reread, read_record, read_results, read_state, time_of
from hemoscan.resilient import Engine, ResilientEngine
from hemoscan.results import SLICE_COLUMNS, Results
from hemoscan.scan import Job, Report, ScanOptions, scan
from hemoscan.state import State

MODEL = Model(Card("densenet-bias", "densenet121", BRAIN, 0.5, "none.safetensors", "0" * 64), Path("nowhere"))
THRESHOLD = 0.42


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    phantom = make_phantom("epidural", size=64, slices=8)
    write_dicom(phantom, folder / "dicom")
    write_png(phantom, folder / "png", size=64)
    (folder / "notes.txt").write_text("a note", encoding="utf-8")
    return folder


@pytest.fixture
def run(study: Path, tmp_path: Path) -> Callable[..., Report]:
    """Scan the study; returns the report."""

    def run(
        engine: Engine,
        *,
        html: bool = False,
        maps: bool = False,
        jsonl: bool = False,
        calibration: Calibration | None = None,
        study_threshold: float | None = None,
    ) -> Report:
        options = ScanOptions(
            DecodeOptions(BRAIN),
            threshold=THRESHOLD,
            batch_size=3,
            workers=2,
            calibration=calibration,
            study_threshold=study_threshold,
        )
        with contextlib.ExitStack() as stack:
            pictures, page = None, None
            if html or maps:
                wanted: dict[str, Any] = {
                    "heatmaps": tmp_path / "maps" if maps else None,
                    "page": tmp_path / "out.html" if html else None,
                }
                pictures = stack.enter_context(contextlib.closing(Pictures(MODEL.card, BRAIN, **wanted)))
            if html and pictures is not None:
                page = Page(
                    tmp_path / "out.html",
                    MODEL.card,
                    THRESHOLD,
                    pictures,
                    stale_after=1,
                    study_threshold=study_threshold,
                )
            results = Results(
                tmp_path / "out.csv",
                study_threshold=study_threshold,
                jsonl=tmp_path / "out.jsonl" if jsonl else None,
                page=page,
            )
            state = stack.enter_context(State(tmp_path / "state.sqlite"))
            arguments = {"model": "densenet-bias", "window": None, "png_window": None, "repair_12bit": True}
            return scan(Job([study], MODEL, engine, options, arguments, pictures=pictures), results, state)

    return run


def shown(page: Path) -> int:
    return page.read_text(encoding="utf-8").count("data-picture=")


def test_only_flagged_slices_have_overlays(run: Callable[..., Report], tmp_path: Path):
    report = run(MappingEngine(), maps=True)
    overlays = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert 0 < report.flagged < report.counts["ok"]
    lines = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(SLICE_COLUMNS, line.split(","), strict=False)) for line in lines[1:]]
    flagged = [row for row in rows if row["flag"] == "1"]
    assert len(overlays) == len(flagged) == report.flagged
    assert {f"{row['sop_uid']}.png" for row in flagged if row["sop_uid"]} <= set(overlays)
    assert any(not row["sop_uid"] for row in flagged), "a PNG, too"
    with Image.open(tmp_path / "maps" / overlays[0]) as image:
        assert image.size[0] > 448


def test_maps_are_made_only_if_asked_for(run: Callable[..., Report]):
    engine = MappingEngine()
    run(engine)
    assert engine.mapped == []


def test_the_csv_is_the_same_with_and_without_pictures(run: Callable[..., Report], tmp_path: Path):
    run(MappingEngine())
    plain = (tmp_path / "out.csv").read_bytes()
    (tmp_path / "state.sqlite").unlink()
    run(MappingEngine(), html=True, maps=True, jsonl=True)
    assert (tmp_path / "out.csv").read_bytes() == plain


def test_pictures_of_known_slices_are_made_once(run: Callable[..., Report], tmp_path: Path):
    """The state keeps no pixels; the folder and the page before do."""
    first = run(MappingEngine())
    engine = MappingEngine()
    again = run(engine, html=True, maps=True)
    assert again.scored == 0
    assert sum(engine.mapped) == first.flagged, "flagged slices alone, each once"
    assert len(list((tmp_path / "maps").iterdir())) == shown(tmp_path / "out.html") == first.flagged
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    engine = MappingEngine()
    run(engine, html=True, maps=True)
    assert engine.mapped == []
    assert (tmp_path / "out.html").read_text(encoding="utf-8").count("image/webp") == page.count("image/webp") > 0
    next((tmp_path / "maps").iterdir()).unlink()
    run(engine, html=True, maps=True)
    assert engine.mapped == [1]
    assert len(list((tmp_path / "maps").iterdir())) == first.flagged


def test_a_slice_that_scores_otherwise_gets_no_picture(run: Callable[..., Report], tmp_path: Path):
    run(MappingEngine())
    run(MappingEngine(shift=0.5), html=True)
    assert shown(tmp_path / "out.html") == 0
    assert "no picture" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_json_lines_are_the_rows_of_the_csv(run: Callable[..., Report], tmp_path: Path):
    report = run(MappingEngine(), jsonl=True)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == sum(report.counts.values())
    assert all(tuple(line) == SLICE_COLUMNS for line in lines)
    (skipped,) = [line for line in lines if line["status"] == "skipped"]
    assert (skipped["probability"], skipped["flag"], skipped["frame"]) == (None, None, None)
    cells = [line.split(",") for line in (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[1:]]
    for line, cell in zip(lines, cells, strict=True):
        assert line["path"] == cell[0]
        if line["status"] == "ok":
            assert f"{line['probability']:.6f}" == cell[7]
            assert str(line["flag"]) == cell[8]


def test_pictures_survive_a_batch_that_is_too_large(run: Callable[..., Report], tmp_path: Path):
    class Small(MappingEngine):
        def logits_and_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
            if len(images) > 1:
                raise RuntimeError("CUDA out of memory")
            return super().logits_and_maps(images)

    report = run(MappingEngine(), maps=True)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "maps").iterdir()}
    (tmp_path / "state.sqlite").unlink()
    for path in (tmp_path / "maps").iterdir():
        path.unlink()
    engine = ResilientEngine(Small())
    assert run(engine, maps=True).flagged == report.flagged
    assert {path.name: path.read_bytes() for path in (tmp_path / "maps").iterdir()} == whole
    assert engine.notes


def report_of(found: Reread, page: Path, engine: MappingEngine | None) -> int:
    write_report(found, MODEL, page, stale_after=1, load=None if engine is None else lambda model: engine)
    return shown(page)


def test_a_report_is_the_page_of_the_scan(run: Callable[..., Report], tmp_path: Path):
    report = run(MappingEngine(), html=True)
    record = read_record(tmp_path / "out.csv")
    found = read_results(tmp_path / "out.csv", record, MODEL)
    engine = MappingEngine()
    assert report_of(found, tmp_path / "report.html", engine) == report.flagged
    assert sum(engine.mapped) == report.flagged
    made, again = (
        (tmp_path / name).read_text(encoding="utf-8").split("<main>")[1] for name in ("out.html", "report.html")
    )
    assert [line for line in again.splitlines() if "src=" not in line] == [
        line for line in made.splitlines() if "src=" not in line
    ]


def test_a_report_of_the_state_applies_a_threshold_of_its_own(run: Callable[..., Report], tmp_path: Path):
    report = run(MappingEngine())
    with State(tmp_path / "state.sqlite") as state:
        found = read_state(state, time_of(state.path), MODEL, Operating(), THRESHOLD)
        assert report_of(found, tmp_path / "same.html", None) == 0
        assert "no picture" in (tmp_path / "same.html").read_text(encoding="utf-8")
        found = read_state(state, time_of(state.path), MODEL, Operating(), 0.0)
        assert report_of(found, tmp_path / "all.html", MappingEngine()) == 16 == report.counts["ok"]
        other = Model(Card("densenet-bias", "densenet121", BRAIN, 0.5, "none.safetensors", "1" * 64), Path("nowhere"))
        with pytest.raises(StateError, match="nothing scored by densenet-bias"):
            read_state(state, time_of(state.path), other, Operating(), THRESHOLD)


CALIBRATION = Calibration(1.5, -0.2)
STUDY_POINT = StudyPoint(0.6, 0.9, 0.9, 0.2, 0.1)


def main_of(page: Path) -> list[str]:
    """Return the lines of the worklist, the pictures left out."""
    return [line for line in page.read_text(encoding="utf-8").split("<main>")[1].splitlines() if "src=" not in line]


def test_reports_are_calibrated_like_the_scan(run: Callable[..., Report], tmp_path: Path):
    report = run(MappingEngine(), html=True, calibration=CALIBRATION, study_threshold=STUDY_POINT.threshold)
    with (tmp_path / "out.studies.csv").open(encoding="utf-8", newline="") as file:
        written = [(float(study["score"]), study["flag"] == "1") for study in csv.DictReader(file)]
    assert {flag for _, flag in written} == {False}, "below the studies' threshold, though slices are flagged"
    assert report.flagged
    csv_found = read_results(tmp_path / "out.csv", read_record(tmp_path / "out.csv"), MODEL)
    assert report_of(csv_found, tmp_path / "csv.html", MappingEngine()) == report.flagged, "scored alike"
    with State(tmp_path / "state.sqlite") as state:
        operating = Operating(CALIBRATION, study=STUDY_POINT)
        found = read_state(state, time_of(state.path), MODEL, operating, THRESHOLD)
        studies = write_report(found, MODEL, tmp_path / "state.html", stale_after=1, load=lambda model: MappingEngine())
    assert [(study.score, study.flag) for study in studies] == written
    assert main_of(tmp_path / "out.html") == main_of(tmp_path / "csv.html") == main_of(tmp_path / "state.html")
    assert "from a score of 0.6" in (tmp_path / "csv.html").read_text(encoding="utf-8")


def test_results_that_are_none_are_wrong_usage(run: Callable[..., Report], tmp_path: Path):
    with pytest.raises(OptionError, match=r"out\.run\.json: the run record of .* cannot be read: No such file"):
        read_record(tmp_path / "out.csv")
    with pytest.raises(OptionError, match=r"state .*: cannot be read: No such file"):
        time_of(tmp_path / "state.sqlite")
    run(MappingEngine())
    record = read_record(tmp_path / "out.csv")
    text = (tmp_path / "out.csv").read_text(encoding="utf-8")
    (tmp_path / "out.csv").write_text(text.replace(",ok,", ",fine,", 1), encoding="utf-8")
    with pytest.raises(OptionError, match=r"out\.csv, row 2: .*status 'fine'; legal: ok, skipped, error"):
        list(read_results(tmp_path / "out.csv", record, MODEL).rows)
    (tmp_path / "out.csv").write_text("a,b\n", encoding="utf-8")
    with pytest.raises(OptionError, match=r"row 1: .*columns 'a,b'; legal: path,frame"):
        list(read_results(tmp_path / "out.csv", record, MODEL).rows)
    for changed in ({"threshold": float("nan")}, {"threshold": 10**400}, {"seconds": 1e300, "finished": None}):
        with pytest.raises(OptionError, match=r"out\.run\.json: no run record of hemoscan: "):
            read_results(tmp_path / "out.csv", {**record, **changed}, MODEL)
    (tmp_path / "out.csv").write_text(re.sub(r",0\.\d{6},", ",7,", text, count=1), encoding="utf-8")
    with pytest.raises(OptionError, match=r"row \d+: .*probability is 7\.0; legal: 0 to 1"):
        list(read_results(tmp_path / "out.csv", record, MODEL).rows)
    (tmp_path / "out.run.json").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(OptionError, match=r"out\.run\.json: no run record of hemoscan: "):
        read_record(tmp_path / "out.csv")
    (tmp_path / "out.run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(OptionError, match=r"no run record of hemoscan: lacks arguments"):
        read_record(tmp_path / "out.csv")
