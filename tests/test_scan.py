"""A scan from files to CSV: order, completeness, return codes, interruption, bounds on memory, reproducibility."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

import decoders
import numpy as np
import pydicom
import pytest
import torch
from factories import make_enhanced_ct, to_bytes
from numpy.typing import NDArray
from PIL import Image

from hemoscan import NOTICE, __version__, ahead, decode, scan, sources
from hemoscan.card import BRAIN, Card, Model
from hemoscan.engine import TorchEngine
from hemoscan.errors import EngineError, OutputError, StateError
from hemoscan.isolation import DecoderPool
from hemoscan.operating import Calibration
from hemoscan.phantom import make_phantom, write_dicom, write_png
from hemoscan.resilient import Engine, ResilientEngine
from hemoscan.results import SLICE_COLUMNS, Results
from hemoscan.scan import Job, Report, ScanOptions
from hemoscan.selection import UNSETTLED
from hemoscan.slices import Decoded, Row
from hemoscan.sources import Entry, Reader
from hemoscan.state import State, default_path
from hemoscan.stopping import Stop

MODEL = Model(Card("densenet-bias", "densenet121", BRAIN, 0.5, "none.safetensors", "0" * 64), Path("nowhere"))


def logit(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(probabilities, 1e-9, 1 - 1e-9)
    logits: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return logits


class MeanEngine:
    """Scores a slice by its mean, so that a score given to the wrong slice shows; calls `hook` before each batch."""

    def __init__(self, hook: Callable[[int], None] = lambda batch: None) -> None:
        self.hook = hook
        self.batches: list[int] = []

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        self.batches.append(len(images))
        self.hook(len(self.batches))
        return logit(images.mean(axis=(1, 2)) / 255)

    def describe(self) -> dict[str, str]:
        return {"name": "mean", "device": "none", "precision": "exact"}


def run(
    paths: Iterable[Path], output: Path, engine: Engine | None = None, model: Model = MODEL, **options: Any
) -> Report:
    settings = {"threshold": 0.05, "batch_size": 3, "workers": 0, **options}
    job = Job(list(paths), model, engine or MeanEngine(), ScanOptions(decode.DecodeOptions(BRAIN), **settings), {})
    with State(default_path(output)) as state:
        return scan.scan(job, Results(output), state)


def rows_of(output: Path) -> list[dict[str, str]]:
    with output.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def record_of(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(output.with_suffix(".run.json").read_text(encoding="utf-8"))
    return record


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight DICOM and eight PNG slices, no two alike, and a text file between them."""
    folder = tmp_path_factory.mktemp("study")
    phantom = make_phantom("epidural", size=64, slices=8)
    write_dicom(phantom, folder / "dicom")
    write_png(phantom, folder / "png", size=64)
    (folder / "notes.txt").write_text("a note", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def reference(study: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The CSV of the study, one image at a time, decoded by one process."""
    output = tmp_path_factory.mktemp("reference") / "out.csv"
    run([study], output, batch_size=1, workers=1)
    return output.read_bytes()


def test_rows_stand_in_the_order_of_the_entries(study: Path, reference: bytes):
    rows = list(csv.DictReader(io.StringIO(reference.decode())))
    assert [row["path"] for row in rows] == [entry.path for entry in sources.find_entries([study])]
    assert len({row["probability"] for row in rows if row["status"] == "ok"}) >= 8


@pytest.mark.parametrize(
    "options",
    [{"workers": workers, "batch_size": batch_size} for workers in (0, 1, 2, 5) for batch_size in (1, 3, 100)],
    ids=str,
)
def test_rows_and_scores_do_not_depend_on_workers_and_batches(
    study: Path, reference: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, int]
):
    monkeypatch.setattr(ahead, "DecoderPool", partial(DecoderPool, decode=decoders.late))
    run([study], tmp_path / "out.csv", **options)
    assert (tmp_path / "out.csv").read_bytes() == reference


@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1] * 16), (5, [5, 5, 5, 1]), (16, [16]), (50, [16])])
def test_the_engine_is_given_full_batches(study: Path, tmp_path: Path, batch_size: int, batches: list[int]):
    engine = MeanEngine()
    run([study], tmp_path / "out.csv", engine, batch_size=batch_size)
    assert engine.batches == batches


def test_slices_at_the_threshold_are_flagged(study: Path, tmp_path: Path):
    run([study / "dicom"], tmp_path / "first.csv")
    scores = sorted(float(row["probability"]) for row in rows_of(tmp_path / "first.csv"))
    report = run([study / "dicom"], tmp_path / "out.csv", MeanEngine(), threshold=scores[3])
    flags = {float(row["probability"]): row["flag"] for row in rows_of(tmp_path / "out.csv")}
    assert flags == {score: str(int(score >= scores[3])) for score in scores}
    assert report.flagged == sum(score >= scores[3] for score in scores)


# Every file has a row

DICOM_SLICE, PNG_SLICE, COLOUR, TRUNCATED, CUT_PNG = "dicom slice", "png slice", "colour", "truncated", "cut png"
JUNK: dict[str, tuple[bytes | str, str, str]] = {
    "empty": (b"", "skipped", "empty file"),
    "text.dcm": (b"I am not a slice\n", "skipped", "text file"),
    "report.pdf": (b"%PDF-1.7 \x00\xff", "skipped", "PDF"),
    "noise.bin": (b"\x00\x01\x02\xff" * 100, "skipped", "unknown kind"),
    "picture.png": (COLOUR, "skipped", "colour"),
    "preamble.dcm": (bytes(128) + b"DICM", "error", ""),
    "truncated.dcm": (TRUNCATED, "error", ""),
    "truncated.png": (CUT_PNG, "error", "decoded"),
    "damaged.zip": (b"PK\x03\x04 and no more", "error", "zip"),
    "slice.dcm": (DICOM_SLICE, "ok", ""),
    "slice.png": (PNG_SLICE, "ok", ""),
}


def make_file(path: Path, content: bytes | str, study: Path) -> Path:
    dicom = (study / "dicom" / "phantom-004.dcm").read_bytes()
    png = (study / "png" / "phantom-004.png").read_bytes()
    colour = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(colour, "PNG")
    known = {
        DICOM_SLICE: dicom,
        PNG_SLICE: png,
        COLOUR: colour.getvalue(),
        TRUNCATED: dicom[:-1000],
        CUT_PNG: png[: len(png) // 2],
    }
    path.write_bytes(known[content] if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", JUNK)
def test_a_file_of_any_kind_has_one_row(study: Path, tmp_path: Path, name: str):
    content, status, reason = JUNK[name]
    path = make_file(tmp_path / name, content, study)
    run([path], tmp_path / "out" / "out.csv")
    (row,) = rows_of(tmp_path / "out" / "out.csv")
    assert (row["path"], row["status"]) == (str(path), status)
    assert reason in row["reason"]
    assert bool(row["reason"]) == (status != "ok")
    assert bool(row["probability"]) == bool(row["flag"]) == (status == "ok")


def test_a_folder_of_all_kinds_is_scanned_to_its_end(study: Path, tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, (content, *_) in JUNK.items():
        make_file(folder / name, content, study)
    report = run([folder, tmp_path / "absent"], tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert [row["path"] for row in rows] == [*(str(folder / name) for name in sorted(JUNK)), str(tmp_path / "absent")]
    assert {Path(row["path"]).name: row["status"] for row in rows[:-1]} == {name: JUNK[name][1] for name in JUNK}
    assert report.counts == {"ok": 2, "skipped": 5, "error": 5}
    assert report.files == 12
    counts = record_of(tmp_path / "out.csv")["counts"]
    assert counts == {"files": 12, "ok": 2, "skipped": 5, "error": 5, "flagged": report.flagged}


def test_a_damaged_header_never_ends_the_scan(study: Path, tmp_path: Path):
    """Bytes of the header are overwritten at random: each such file has a row, whatever its reader met."""
    whole = (study / "dicom" / "phantom-004.dcm").read_bytes()
    header = len(whole) - 64 * 64 * 2
    random = np.random.default_rng(0)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(150):
        damaged = bytearray(whole)
        for position in random.integers(132, header, 1 + number % 4):
            damaged[position] = random.integers(256)
        (folder / f"{number:03d}.dcm").write_bytes(damaged)
    report = run([folder], tmp_path / "out.csv", batch_size=50)
    assert [Path(row["path"]).stem for row in rows_of(tmp_path / "out.csv")] == [f"{n:03d}" for n in range(150)]
    assert min(report.counts.values()) > 0


@pytest.mark.parametrize(
    "keyword", ["SamplesPerPixel", "NumberOfFrames", "ImageType", "Modality", "SOPClassUID", "Rows"]
)
@pytest.mark.parametrize("value", [b"\xff", b"\xff\xff\xff\xff\xff\xff", b"a\\b\\c", b""])
def test_a_malformed_element_never_ends_the_scan(study: Path, tmp_path: Path, keyword: str, value: bytes):
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    header = pydicom.dcmread(study / "dicom" / "phantom-004.dcm")
    if keyword in header:
        del header[keyword]
    vr = pydicom.datadict.dictionary_VR(tag)
    element = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value
    content = io.BytesIO()
    header.save_as(content)
    later = min(element.tag for element in header if element.tag > tag)
    start = struct.pack("<HH", later >> 16, later & 0xFFFF) + header[later].VR.encode()
    at = content.getvalue().index(start)
    (tmp_path / "slice.dcm").write_bytes(content.getvalue()[:at] + element + content.getvalue()[at:])
    run([tmp_path / "slice.dcm", study / "png"], tmp_path / "out" / "out.csv")
    rows = rows_of(tmp_path / "out" / "out.csv")
    assert len(rows) == 9
    assert rows[0]["path"] == str(tmp_path / "slice.dcm")


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ((), 3),
        (("text.dcm",), 3),
        (("slice.png",), 0),
        (("slice.dcm", "text.dcm"), 0),
        (("truncated.dcm",), 4),
        (("truncated.dcm", "text.dcm"), 4),
        (("slice.dcm", "truncated.png", "text.dcm"), 4),
    ],
)
def test_return_codes(study: Path, tmp_path: Path, names: tuple[str, ...], code: int):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in names:
        make_file(folder / name, JUNK[name][0], study)
    assert run([folder], tmp_path / "out.csv").return_code == code
    assert record_of(tmp_path / "out.csv")["state"] == "done"
    assert len(rows_of(tmp_path / "out.csv")) == len(names)


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_the_limit_is_one_of_files(study: Path, tmp_path: Path, limit: int):
    report = run([study], tmp_path / "out.csv", limit=limit)
    expected = [entry.path for entry in sources.find_entries([study])][:limit]
    assert [row["path"] for row in rows_of(tmp_path / "out.csv")] == expected
    assert report.files == len(expected)


def test_the_run_record_says_what_ran(study: Path, tmp_path: Path):
    job = Job(
        [study], MODEL, MeanEngine(), ScanOptions(decode.DecodeOptions(BRAIN), 0.05, 4, 2), {"paths": ["caf\udce9"]}
    )
    with State(tmp_path / "state") as state:
        scan.scan(job, Results(tmp_path / "out.csv"), state)
    record = record_of(tmp_path / "out.csv")
    assert record["notice"] == NOTICE
    assert record["hemoscan"] == __version__
    assert (record["model"], record["sha256"]) == ("densenet-bias", "0" * 64)
    assert record["threshold"] == 0.05
    assert record["engine"] == {
        "name": "mean",
        "device": "none",
        "precision": "exact",
        "batch_size": 4,
        "notes": [],
    }
    assert record["arguments"] == {"paths": ["caf\udce9"]}
    assert record["seconds"] >= 0
    assert record["state"] == "done"
    assert record["machine"]["cores"] >= 1


# Interruption


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, MemoryError])
def test_an_interrupted_scan_keeps_what_was_done(
    study: Path, reference: bytes, tmp_path: Path, error: type[BaseException]
):
    def stop(batch: int) -> None:
        if batch == 3:
            raise error

    with pytest.raises(error):
        run([study / "dicom"], tmp_path / "out.csv", MeanEngine(stop), batch_size=2)
    assert (tmp_path / "out.csv").read_bytes() == b"".join(reference.splitlines(keepends=True)[:5])
    record = record_of(tmp_path / "out.csv")
    assert record["state"] == "interrupted"
    assert record["counts"]["ok"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.run.json", "out.studies.csv"]


def test_progress_is_told_of_every_row(study: Path, tmp_path: Path):
    seen: list[int] = []
    job = Job([study], MODEL, MeanEngine(), ScanOptions(decode.DecodeOptions(BRAIN), 0.05, 4, 2), {})
    with State(tmp_path / "state") as state:
        results = Results(tmp_path / "out.csv")
        scan.scan(job, results, state, lambda report: seen.append(sum(report.counts.values())))
    assert seen == list(range(1, 18))


def test_results_are_published_on_the_way_and_always_whole(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scan, "PUBLISH_SECONDS", -1.0)
    monkeypatch.setattr(scan, "PUBLISH_SHARE", 0)
    lengths: list[int] = []

    def look(batch: int) -> None:
        if batch <= 2:  # two batches are with the engine, or wait by it
            return
        content = (tmp_path / "out.csv").read_text(encoding="utf-8")
        assert content.endswith("\n")
        header, *rows = csv.reader(io.StringIO(content))
        assert tuple(header) == SLICE_COLUMNS
        assert {len(row) for row in rows} == {len(SLICE_COLUMNS)}
        record = record_of(tmp_path / "out.csv")
        assert record["state"] == "running"
        assert sum(record["counts"][status] for status in ("ok", "skipped", "error")) == len(rows)
        lengths.append(len(rows) - 2 * (batch - 2))

    run([study / "dicom"], tmp_path / "out.csv", MeanEngine(look), batch_size=2)
    assert len(lengths) == 2
    assert set(lengths) <= {0, 2}
    assert record_of(tmp_path / "out.csv")["state"] == "done"


def test_nothing_is_published_before_its_time(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scan, "FIRST_PUBLISH_SECONDS", 1000.0)
    monkeypatch.setattr(scan, "PUBLISH_SECONDS", 1000.0)
    published = []
    run([study], tmp_path / "out.csv", MeanEngine(lambda _: published.append((tmp_path / "out.csv").exists())))
    assert not any(published)
    assert (tmp_path / "out.csv").exists()


def test_the_first_results_come_sooner_than_the_next(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scan, "FIRST_PUBLISH_SECONDS", 0.0)
    monkeypatch.setattr(scan, "PUBLISH_SECONDS", 1000.0)
    published: list[int] = []

    def look(report: Report) -> None:
        output = tmp_path / "out.csv"
        published.append(len(rows_of(output)) if output.exists() else 0)

    job = Job([study / "dicom"], MODEL, MeanEngine(), ScanOptions(decode.DecodeOptions(BRAIN), 0.05, 2, 0), {})
    with State(tmp_path / "state") as state:
        scan.scan(job, Results(tmp_path / "out.csv"), state, look)
    assert published[:2] == [0, 0]
    assert set(published[2:]) == {2}


def test_results_that_cannot_be_written_on_the_way_end_the_scan(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scan, "PUBLISH_SECONDS", -1.0)
    monkeypatch.setattr(scan, "PUBLISH_SHARE", 0)

    def block(report: Report) -> None:
        if report.scored == 4:
            (tmp_path / "out.studies.csv").unlink()
            (tmp_path / "out.studies.csv").mkdir()

    job = Job([study], MODEL, MeanEngine(), ScanOptions(decode.DecodeOptions(BRAIN), 0.05, 3, 0), {})
    with State(tmp_path / "state") as state, pytest.raises(OutputError, match=r"out\.studies\.csv"):
        scan.scan(job, Results(tmp_path / "out.csv"), state, block)


# Memory


def test_files_are_decoded_ahead_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workers, batch_size, files = 2, 4, 100
    monkeypatch.setattr(ahead, "FILES_AHEAD_PER_WORKER", 8)
    bound = workers * ahead.FILES_AHEAD_PER_WORKER + (1 + scan.BATCHES_AHEAD) * batch_size
    taken = 0

    def many(paths: Sequence[Path]) -> Iterator[Entry]:
        nonlocal taken
        for taken in range(1, files + 1):
            yield Entry(f"/slice-{taken}")

    monkeypatch.setattr(scan, "find_entries", many)
    monkeypatch.setattr(ahead, "DecoderPool", partial(DecoderPool, decode=decoders.blank))
    waiting: list[int] = []
    engine = MeanEngine(lambda batch: waiting.append(taken - (batch - 1) * batch_size))
    report = run([], tmp_path / "out.csv", engine, workers=workers, batch_size=batch_size)
    assert report.counts["ok"] == files
    assert batch_size < max(waiting) <= bound


def test_a_scan_begins_before_all_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files, taken, first = 100_000, 0, 0

    def many(paths: Sequence[Path]) -> Iterator[Entry]:
        nonlocal taken
        for taken in range(1, files + 1):
            yield Entry(f"/slice-{taken}")

    def look(report: Report) -> None:
        nonlocal first
        first = first or taken
        if report.scored == 64:
            stop.signal = 15

    monkeypatch.setattr(scan, "find_entries", many)
    monkeypatch.setattr(ahead, "DecoderPool", partial(DecoderPool, decode=decoders.blank))
    stop = Stop()
    job = Job([], MODEL, MeanEngine(), ScanOptions(decode.DecodeOptions(BRAIN), 0.05, 16, 2), {})
    with State(tmp_path / "state") as state:
        scan.scan(job, Results(tmp_path / "out.csv"), state, look, stop)
    assert 16 <= first < 1000
    assert len(rows_of(tmp_path / "out.csv")) < 1000


def test_rows_without_image_do_not_wait_for_a_batch_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ahead, "FILES_AHEAD_PER_WORKER", 8)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03d}.txt").write_text("text", encoding="utf-8")
    waiting: list[int] = []
    job = Job([folder], MODEL, MeanEngine(), ScanOptions(decode.DecodeOptions(BRAIN), 0.05, 1, 1), {})
    with State(tmp_path / "state") as state:
        results = Results(tmp_path / "out.csv")
        scan.scan(job, results, state, lambda report: waiting.append(report.files - report.counts["skipped"]))
    assert max(waiting) <= (1 + scan.BATCHES_AHEAD) * 64 + ahead.FILES_AHEAD_PER_WORKER


# With a real network


@pytest.fixture(scope="module")
def engine(untrained: Model) -> TorchEngine:
    return TorchEngine(untrained, torch.device("cpu"), "fp32")


@pytest.fixture(scope="module")
def one_by_one(untrained: Model, engine: TorchEngine, study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("one-by-one") / "out.csv"
    run([study / "dicom"], output, engine, untrained, batch_size=1, limit=4)
    return output


def test_the_same_scan_gives_the_same_csv_byte_for_byte(
    untrained: Model, engine: TorchEngine, study: Path, one_by_one: Path, tmp_path: Path
):
    run([study / "dicom"], tmp_path / "out.csv", engine, untrained, batch_size=1, limit=4, workers=5)
    assert (tmp_path / "out.csv").read_bytes() == one_by_one.read_bytes()
    studies = (tmp_path / "out.studies.csv").read_bytes()
    assert studies == one_by_one.with_suffix(".studies.csv").read_bytes()


def test_batch_sizes_agree(untrained: Model, engine: TorchEngine, study: Path, one_by_one: Path, tmp_path: Path):
    run([study / "dicom"], tmp_path / "out.csv", engine, untrained, batch_size=3, limit=4)
    single, batched = (
        np.array([float(row["probability"]) for row in rows_of(path)]) for path in (one_by_one, tmp_path / "out.csv")
    )
    np.testing.assert_allclose(single, batched, rtol=0, atol=1e-4)


def test_a_score_that_is_no_number_is_an_error(study: Path, tmp_path: Path):
    class Broken(MeanEngine):
        def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
            return np.where(np.arange(len(images)) == 0, np.nan, super().logits(images))

    report = run([study / "png"], tmp_path / "out.csv", Broken(), batch_size=4)
    rows = rows_of(tmp_path / "out.csv")
    assert [row["status"] for row in rows] == ["error", "ok", "ok", "ok"] * 2
    assert {(row["probability"], row["flag"], row["reason"]) for row in rows[::4]} == {
        ("", "", "the network returned nan")
    }
    assert report.return_code == 4


def test_a_refresh_that_fails_does_not_end_the_scan(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scan, "PUBLISH_SECONDS", -1.0)
    monkeypatch.setattr(scan, "PUBLISH_SHARE", 0)
    publish, failures = Results.publish, []

    def fail_at_first(self: Results, rows: Iterable[Row], record: Callable[[], dict[str, Any]]) -> None:
        if record()["state"] == "running" and len(failures) < 2:
            failures.append(record())
            raise OutputError("a spreadsheet has it open")
        publish(self, rows, record)

    monkeypatch.setattr(Results, "publish", fail_at_first)
    run([study], tmp_path / "out.csv")
    assert len(failures) == 2
    assert record_of(tmp_path / "out.csv")["state"] == "done"


def test_the_flag_is_that_of_the_written_probability(study: Path, tmp_path: Path):
    class JustBelow(MeanEngine):
        def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
            return np.full(len(images), -4e-9)

    run([study / "png"], tmp_path / "out.csv", JustBelow(), threshold=0.5)
    assert {(row["probability"], row["flag"]) for row in rows_of(tmp_path / "out.csv")} == {("0.500000", "1")}


def test_frames_of_a_large_file_are_decoded_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "in"
    folder.mkdir()
    stored = np.stack([np.full((16, 16), 1024 + 10 * number, "<u2") for number in range(7)])
    positions = [(0.0, 0.0, 5.0 * number) for number in range(7)]
    for name in ("a", "b", "d"):
        file = make_enhanced_ct(stored, intercepts=[-1024.0] * 7, positions=positions)
        (folder / f"{name}.dcm").write_bytes(to_bytes(file))
    (folder / "c.txt").write_text("text", encoding="utf-8")
    run([folder], tmp_path / "whole.csv", workers=2, batch_size=4)
    monkeypatch.setattr(ahead, "FRAMES_AHEAD", 3)
    lengths: list[int] = []
    submit = DecoderPool.submit

    def watch(pool: DecoderPool, entries: Sequence[Entry]) -> Future[list[Decoded]]:
        future = submit(pool, entries)
        future.add_done_callback(lambda done: lengths.append(len(done.result())))
        return future

    monkeypatch.setattr(DecoderPool, "submit", watch)
    run([folder], tmp_path / "parts.csv", workers=2, batch_size=4)
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len(rows_of(tmp_path / "parts.csv")) == 3 * 7 + 1
    assert sorted(lengths) == [1, 1, 1, 3, 3, 3, 3 * 3 + 1]


def test_few_bytes_are_decoded_ahead(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ahead, "BYTES_AHEAD", 1)
    output = tmp_path / "out.csv"
    run([study], output, batch_size=1, workers=5)
    assert len(rows_of(output)) == 17


# What is known


def paths_scored(study: Path, output: Path, **options: Any) -> int:
    engine = MeanEngine()
    run([study], output, engine, **options)
    return sum(engine.batches)


def test_a_later_run_scores_nothing_and_writes_the_same(study: Path, tmp_path: Path, reference: bytes):
    assert paths_scored(study, tmp_path / "out.csv") == 16
    assert paths_scored(study, tmp_path / "out.csv") == 0
    assert (tmp_path / "out.csv").read_bytes() == reference
    record = record_of(tmp_path / "out.csv")
    assert record["of_these"] == {"files_known": 17, "slices_scored": 0, "files_pruned": 0}
    assert record["counts"]["ok"] == 16


def test_another_threshold_needs_no_new_scan(study: Path, tmp_path: Path):
    run([study], tmp_path / "out.csv", threshold=0.0)
    assert {row["flag"] for row in rows_of(tmp_path / "out.csv")} == {"1", ""}
    assert paths_scored(study, tmp_path / "out.csv", threshold=1.0) == 0
    assert {row["flag"] for row in rows_of(tmp_path / "out.csv")} == {"0", ""}


def test_all_is_scored_again_if_asked(study: Path, tmp_path: Path):
    run([study], tmp_path / "out.csv")
    assert paths_scored(study, tmp_path / "out.csv", rescan=True) == 16


@pytest.fixture
def copied(study: Path, tmp_path: Path) -> Path:
    """The DICOM slices, to change."""
    return Path(shutil.copytree(study / "dicom", tmp_path / "in"))


def test_what_is_new_or_changed_is_scored(copied: Path, tmp_path: Path):
    first, second, third, *_ = sorted(copied.iterdir())
    kept = third.read_bytes()
    third.unlink()
    run([copied], tmp_path / "out.csv")
    second.write_bytes(first.read_bytes())
    third.write_bytes(kept)
    assert paths_scored(copied, tmp_path / "out.csv") == 2
    rows = rows_of(tmp_path / "out.csv")
    assert [row["path"] for row in rows] == sorted(map(str, copied.iterdir()))
    assert rows[0]["probability"] == rows[1]["probability"]


class OtherEngine(MeanEngine):
    def __init__(self, **description: str) -> None:
        super().__init__()
        self.description = description

    def describe(self) -> dict[str, str]:
        return {**super().describe(), **self.description}


@pytest.mark.parametrize(
    ("description", "again"), [({"name": "b"}, 16), ({"precision": "b"}, 16), ({"device": "b"}, 0)]
)
def test_another_engine_or_precision_scores_again(study: Path, tmp_path: Path, description: dict[str, str], again: int):
    run([study], tmp_path / "out.csv")
    engine = OtherEngine(**description)
    run([study], tmp_path / "out.csv", engine)
    assert sum(engine.batches) == again


def test_other_weights_or_another_input_score_again(study: Path, tmp_path: Path):
    run([study], tmp_path / "out.csv")
    other = replace(MODEL, card=replace(MODEL.card, sha256="1" * 64))
    assert paths_scored(study, tmp_path / "out.csv", model=other) == 16
    assert paths_scored(study, tmp_path / "out.csv", model=MODEL) == 0
    decoding = decode.DecodeOptions(BRAIN, png_window=(40, 80))
    job = Job([study], MODEL, MeanEngine(), ScanOptions(decoding, 0.05, 4, 2), {})
    with State(default_path(tmp_path / "out.csv")) as state:
        assert scan.scan(job, Results(tmp_path / "out.csv"), state).scored == 16


def test_the_csv_covers_what_the_paths_hold(study: Path, tmp_path: Path):
    run([study], tmp_path / "out.csv")
    run([study / "png"], tmp_path / "out.csv")
    assert len(rows_of(tmp_path / "out.csv")) == 8


def test_a_scan_that_stops_still_shows_what_was_known(study: Path, tmp_path: Path):
    run([study / "png"], tmp_path / "out.csv")

    def stop(batch: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([study], tmp_path / "out.csv", MeanEngine(stop))
    assert {Path(row["path"]).parent.name for row in rows_of(tmp_path / "out.csv")} == {"png"}
    run([study], tmp_path / "out.csv")
    assert len(rows_of(tmp_path / "out.csv")) == 17


def test_a_scan_that_is_asked_to_stop_finishes_its_batch(study: Path, tmp_path: Path, reference: bytes):
    stop = Stop()

    def ask(batch: int) -> None:
        if batch == 2:
            stop.signal = 15

    job = Job([study / "dicom"], MODEL, MeanEngine(ask), ScanOptions(decode.DecodeOptions(BRAIN), 0.05, 3, 2), {})
    with State(tmp_path / "state") as state:
        report = scan.scan(job, Results(tmp_path / "out.csv"), state, stop=stop)
    assert (report.scored, report.state) == (6, "interrupted")
    assert (tmp_path / "out.csv").read_bytes() == b"".join(reference.splitlines(keepends=True)[:7])


def test_no_batch_is_begun_when_time_is_up(study: Path, tmp_path: Path):
    assert paths_scored(study / "dicom", tmp_path / "out.csv", time_budget=0.0) == 0
    assert record_of(tmp_path / "out.csv")["state"] == "out of time"
    engine = MeanEngine(lambda batch: time.sleep(1.0))
    run([study / "dicom"], tmp_path / "out.csv", engine, time_budget=0.9)
    assert engine.batches == [3]
    assert paths_scored(study / "dicom", tmp_path / "out.csv", time_budget=1e9) == 5
    assert record_of(tmp_path / "out.csv")["state"] == "done"


def test_the_newest_files_come_first(copied: Path, tmp_path: Path):
    files = sorted(copied.iterdir())
    for age, path in enumerate(files[4:] + files[:4]):
        os.utime(path, (1_500_000_000 - age,) * 2)
    run([copied], tmp_path / "out.csv", newest_first=True, limit=6)
    assert [row["path"] for row in rows_of(tmp_path / "out.csv")] == [str(p) for p in files[4:] + files[:2]]


def test_a_study_that_is_still_arriving_is_left(study: Path, copied: Path, tmp_path: Path):
    for path in copied.iterdir():
        os.utime(path, (1_500_000_000,) * 2)
    late = copied / "late.dcm"
    shutil.copy(study / "dicom" / "phantom-004.dcm", late)
    assert paths_scored(copied, tmp_path / "out.csv", settle=1000.0) == 0
    rows = rows_of(tmp_path / "out.csv")
    assert {(row["status"], row["reason"]) for row in rows} == {("skipped", UNSETTLED)}
    assert len(rows) == 9
    os.utime(late, (1_500_000_000,) * 2)
    assert paths_scored(copied, tmp_path / "out.csv", settle=1000.0) == 9


def test_what_is_gone_is_forgotten_if_asked(copied: Path, tmp_path: Path):
    run([copied], tmp_path / "out.csv")
    next(copied.iterdir()).unlink()
    assert run([copied], tmp_path / "out.csv").pruned == 0
    assert len(rows_of(tmp_path / "out.csv")) == 7
    assert run([copied], tmp_path / "out.csv", prune=True).pruned == 1
    assert run([copied], tmp_path / "out.csv", prune=True).pruned == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_tried_again(copied: Path, tmp_path: Path):
    first = min(copied.iterdir())
    first.chmod(0)
    assert run([copied], tmp_path / "out.csv").counts["error"] == 1
    first.chmod(0o600)
    assert paths_scored(copied, tmp_path / "out.csv") == 1


def test_a_file_that_cannot_be_read_for_now_is_tried_again_a_broken_one_is_not(
    study: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (copied / "broken.dcm").write_bytes((study / "dicom" / "phantom-004.dcm").read_bytes()[:-1000])
    real = Reader.open

    def fail(self: Reader, entry: Entry) -> IO[bytes]:
        if entry.path.endswith("phantom-002.dcm"):
            raise OSError(5, "Input/output error")
        return real(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "open", fail)
        assert run([copied], tmp_path / "out.csv").counts["error"] == 2
    report = run([copied], tmp_path / "out.csv")
    assert (report.counts["error"], report.scored, report.known) == (1, 1, 8)


@pytest.mark.parametrize("place", ["csv", "state"])
def test_a_full_disk_ends_the_scan_and_loses_nothing(
    study: Path, tmp_path: Path, reference: bytes, monkeypatch: pytest.MonkeyPatch, place: str
):
    run([study / "png"], tmp_path / "out.csv")
    before = (tmp_path / "out.csv").read_bytes()

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if place == "csv":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(State, "add", lambda *_: (_ for _ in ()).throw(StateError("database or disk is full")))
        with pytest.raises(OutputError, match=r"No space left on device|disk is full"):
            run([study], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []
    run([study], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == reference


def test_the_engine_is_prepared_once_and_only_if_a_file_has_to_be_read(study: Path, tmp_path: Path):
    prepared: list[int] = []
    settings = ScanOptions(decode.DecodeOptions(BRAIN), 0.05, 3, 0)
    job = Job([study], MODEL, MeanEngine(), settings, {}, prepare=lambda: prepared.append(1))
    for known in (0, 17):
        with State(tmp_path / "state") as state:
            assert scan.scan(job, Results(tmp_path / "out.csv"), state).known == known
        assert prepared == [1]


def test_an_engine_that_cannot_be_had_ends_the_scan(study: Path, tmp_path: Path):
    def fail() -> NoReturn:
        raise EngineError("it cannot be had")

    engine = MeanEngine()
    settings = ScanOptions(decode.DecodeOptions(BRAIN), 0.05, 3, 0)
    job = Job([study], MODEL, engine, settings, {}, prepare=fail)
    with State(tmp_path / "state") as state, pytest.raises(EngineError, match="it cannot be had"):
        scan.scan(job, Results(tmp_path / "out.csv"), state)
    assert engine.batches == []
    assert record_of(tmp_path / "out.csv")["state"] == "interrupted"


def test_a_device_lost_on_the_way_is_noted(study: Path, tmp_path: Path):
    def lose(batch: int) -> None:
        if batch == 2:
            raise RuntimeError("CUDA error: the launch timed out")

    lost = MeanEngine(lose)
    engine = ResilientEngine(lost, lambda: OtherEngine(device="cpu", precision="fp32"))
    report = run([study / "dicom"], tmp_path / "out.csv", engine)
    assert report.scored == 8
    record = record_of(tmp_path / "out.csv")["engine"]
    assert record["device"] == "cpu"
    assert record["notes"] == ["none failed (RuntimeError): going on with cpu in fp32"]
    with State(default_path(tmp_path / "out.csv")) as state:
        query = "SELECT text, count(*) FROM files JOIN settings ON settings = settings.id GROUP BY 1"
        found = state._connection.execute(query)
        by_precision = {json.loads(text)["precision"]: number for text, number in found}
    assert by_precision == {"exact": 3, "fp32": 5}, "each slice is kept with what scored it"


def test_a_file_of_many_frames_is_kept_once_all_are_scored(tmp_path: Path):
    positions = [(0.0, 0.0, float(z)) for z in range(7)]
    planes = np.random.default_rng(0).integers(1024, 1084, (7, 16, 16), np.uint16)
    enhanced = make_enhanced_ct(planes, intercepts=[-1024.0] * 7, positions=positions)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / name).write_bytes(to_bytes(enhanced))

    def stop(batch: int) -> None:
        if batch == 4:  # of three slices: two files have been begun, one is complete
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([tmp_path / "in"], tmp_path / "out.csv", MeanEngine(stop))
    assert [row["frame"] for row in rows_of(tmp_path / "out.csv")] == [str(n) for n in range(1, 8)]
    report = run([tmp_path / "in"], tmp_path / "out.csv")
    assert (report.known, report.scored) == (1, 7)
    assert [(Path(row["path"]).name, row["frame"]) for row in rows_of(tmp_path / "out.csv")] == [
        (name, str(n)) for name in "ab" for n in range(1, 8)
    ]


def test_a_calibration_moves_probabilities_without_new_scoring(study: Path, tmp_path: Path):
    output = tmp_path / "out.csv"
    run([study], output)
    before = [float(row["probability"]) for row in rows_of(output) if row["status"] == "ok"]
    report = run([study], output, calibration=Calibration(2.0, 1.0))
    assert report.scored == 0
    after = [float(row["probability"]) for row in rows_of(output) if row["status"] == "ok"]
    expected = 1 / (1 + np.exp(-(2 * logit(np.array(before)) + 1)))
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert record_of(output)["calibration"] == {"slope": 2.0, "intercept": 1.0, "ece": None, "on": ""}
