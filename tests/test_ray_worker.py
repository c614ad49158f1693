"""What a node says of itself, and what a worker returns: rows and logits, pixels of flagged slices only."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from factories import make_enhanced_ct, to_bytes
from numpy.typing import NDArray

from hemoscan import __version__, ahead, ray_worker
from hemoscan.card import BRAIN, Model
from hemoscan.decode import DecodeOptions
from hemoscan.engines import EngineChoice
from hemoscan.isolation import DecoderPool
from hemoscan.phantom import make_phantom, write_dicom
from hemoscan.ray_worker import Wish, Work, Worker, examine
from hemoscan.slices import OK, Decoded, to_probability
from hemoscan.sources import Entry, find_entries

WISH = ("openvino", "cpu", "fp32")


def asked(found: Model, /, **changed: object) -> dict[str, object]:
    path = found.folder / "untrained.json"
    values = {"version": __version__, "model": str(path), "card": found.card.to_json(), "roots": ["/"], "wish": WISH}
    return examine(**{**values, **changed})  # type: ignore[arg-type]


def test_a_node_says_by_what_it_would_score(untrained: Model):
    engine = {"name": "openvino", "device": "cpu", "precision": "fp32"}
    assert asked(untrained) == {"engine": engine, "batch_size": 16}


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"version": "0.0.1"}, f"hemoscan {__version__}; legal: 0.0.1"),
        ({"roots": ["/", "/not/there"]}, "/not/there is not there"),
        ({"model": "/not/there.json"}, "card cannot be read"),
        ({"card": "{}"}, "is another one"),
        ({"wish": ("openvino", "cuda", "fp32")}, "legal"),
    ],
)
def test_a_node_that_cannot_says_why(untrained: Model, changed: dict[str, object], text: str):
    assert text in str(asked(untrained, **changed)["refusal"])


def test_other_weights_are_refused(untrained: Model, tmp_path: Path):
    (tmp_path / "untrained.json").write_text(untrained.card.to_json(), encoding="utf-8")
    (tmp_path / "untrained.safetensors").write_bytes(b"others")
    refusal = asked(untrained, model=str(tmp_path / "untrained.json"))["refusal"]
    assert "SHA-256" in str(refusal)


class MeanEngine:
    def describe(self) -> dict[str, str]:
        return {"name": "mean", "device": "cpu", "precision": "fp32"}

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        assert len(images) <= 3
        means: NDArray[np.float64] = images.mean(axis=(1, 2)) / 15 - 1
        return means

    def logits_and_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        return self.logits(images), images[:, ::32, ::32].astype(np.float32)


@pytest.fixture
def entries(tmp_path: Path) -> list[Entry]:
    write_dicom(make_phantom("epidural", size=64, slices=10), tmp_path)
    return [*find_entries([tmp_path]), Entry("/not/there")]


def make_worker(model: Model, monkeypatch: pytest.MonkeyPatch, *, pictures: bool) -> Worker:
    monkeypatch.setattr(ray_worker, "_be_still", lambda: None)
    monkeypatch.setattr(ray_worker, "choose_engine", lambda *_: EngineChoice("mean", "cpu", "fp32"))
    monkeypatch.setattr(EngineChoice, "load", lambda *_: MeanEngine())
    name = str(model.folder / "untrained.json")
    options = DecodeOptions(BRAIN)
    return Worker(Work(name, model.card, Wish(*WISH), options, 3, 0, 60.0, 0.5, None, pictures=pictures), 1)


@pytest.mark.parametrize("pictures", [False, True])
def test_files_come_back_whole_with_pixels_of_flagged_slices_only(
    untrained: Model, entries: list[Entry], monkeypatch: pytest.MonkeyPatch, pictures: bool
):
    answer = make_worker(untrained, monkeypatch, pictures=pictures).score(entries)
    assert [frames[0].path for frames in answer.frames] == [entry.path for entry in entries]
    frames = [frame for file in answer.frames for frame in file]
    flagged = [logit is not None and to_probability(logit) >= 0.5 for logit in answer.logits]
    assert 0 < sum(flagged) < len(entries) - 1
    shown = [frame.image is not None for frame in frames]
    assert shown == (flagged if pictures else [False] * len(frames))
    assert [one is not None for one in answer.maps] == shown
    assert [frame.status == OK for frame in frames] == [logit is not None for logit in answer.logits]


def test_few_frames_of_a_long_file_wait_in_memory(untrained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stored = np.stack([np.full((16, 16), 1024 + 10 * number, "<u2") for number in range(7)])
    positions = [(0.0, 0.0, 5.0 * number) for number in range(7)]
    file = make_enhanced_ct(stored, intercepts=[-1024.0] * 7, positions=positions)
    (tmp_path / "long.dcm").write_bytes(to_bytes(file))
    entries = [*find_entries([tmp_path]), Entry("/not/there")]
    reference = make_worker(untrained, monkeypatch, pictures=True).score(entries)
    monkeypatch.setattr(ahead, "FRAMES_AHEAD", 3)
    worker = make_worker(untrained, monkeypatch, pictures=True)
    lengths: list[int] = []
    submit = DecoderPool.submit

    def watch(pool: DecoderPool, entries: Sequence[Entry]) -> Future[list[Decoded]]:
        future = submit(pool, entries)
        lengths.append(len(future.result()))
        return future

    monkeypatch.setattr(DecoderPool, "submit", watch)
    answer = worker.score(entries)
    assert lengths == [3 + 1, 3, 1]
    assert answer.logits == reference.logits
    assert [len(file) for file in answer.frames] == [7, 1]


def test_a_file_that_the_node_does_not_see_is_an_error_that_may_pass(
    untrained: Model, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
):
    lost = make_worker(untrained, monkeypatch, pictures=False).score(entries).frames[-1][0]
    assert (lost.status, lost.passing) == ("error", True)
    assert "cannot be read" in lost.reason


def test_a_worker_prints_nothing_and_its_decoders_import_no_main_module(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__="some.py"))
    loggers = [logging.getLogger(name) for name in ("hemoscan", "pydicom", "PIL")]
    for logger in loggers:
        monkeypatch.setattr(logger, "propagate", True)
        monkeypatch.setattr(logger, "handlers", [])
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        ray_worker._be_still()
        warnings.warn("Invalid value for VR PN: DOE^JOHN", stacklevel=1)
    assert heard == []
    assert not hasattr(sys.modules["__main__"], "__file__")
    assert not any(logger.propagate for logger in loggers)
    assert all(logger.handlers for logger in loggers)
