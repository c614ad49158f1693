"""The OpenVINO engine: PyTorch's logits, in order, the same bits whatever the batch, no torch and no network."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hemoscan import openvino_engine
from hemoscan.card import Model
from hemoscan.engine import TorchEngine
from hemoscan.errors import CardError, EngineError
from hemoscan.networks import MappedClassifier, load_classifier
from hemoscan.openvino_engine import OpenVinoEngine
from hemoscan.phantom import make_phantom, write_phantom
from hemoscan.preprocess import preprocess

# What the product promises between engines in fp32.
TOLERANCE = 1e-4


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits))


@pytest.fixture(scope="module")
def images(untrained: Model) -> NDArray[np.uint8]:
    hu = make_phantom("epidural", size=64, slices=8).hu
    return np.stack([preprocess(plane, untrained.card.input) for plane in hu])


@pytest.fixture(scope="module")
def engine(untrained: Model) -> OpenVinoEngine:
    """Converts the model into the tests' cache: about a minute, once."""
    return OpenVinoEngine(untrained, "fp32", threads=1)


@pytest.fixture(scope="module")
def logits(engine: OpenVinoEngine, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return engine.logits(images)


def test_it_agrees_with_torch(untrained: Model, logits: NDArray[np.float64], images: NDArray[np.uint8]):
    expected = TorchEngine(untrained, torch.device("cpu"), "fp32").logits(images)
    assert logits.shape == (len(images),)
    assert logits.dtype == np.float64
    assert len(set(logits.tolist())) == len(images), "an engine that mixes up images must show"
    assert np.ptp(expected) > 10 * TOLERANCE
    np.testing.assert_allclose(sigmoid(logits), sigmoid(expected), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)


def test_maps_are_torchs(untrained: Model, engine: OpenVinoEngine, images: NDArray[np.uint8]):
    found, maps = engine.logits_and_maps(images[:3])
    mapped = MappedClassifier(load_classifier(untrained), untrained.card.architecture).eval()
    with torch.inference_mode():
        expected = mapped(torch.from_numpy(images[:3]))[1].numpy()
    assert maps.shape == (3, 7, 7)
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(maps.mean((1, 2)), found, rtol=0, atol=1e-5)


def test_the_bits_do_not_depend_on_the_order(
    engine: OpenVinoEngine, logits: NDArray[np.float64], images: NDArray[np.uint8]
):
    order = np.random.default_rng(0).permutation(len(images))
    assert engine.logits(images[order]).tobytes() == logits[order].tobytes()


@pytest.mark.parametrize("size", [1, 3])
def test_the_bits_do_not_depend_on_the_batch(
    engine: OpenVinoEngine, logits: NDArray[np.float64], images: NDArray[np.uint8], size: int
):
    parts = [engine.logits(images[at : at + size]) for at in range(0, len(images), size)]
    assert np.concatenate(parts).tobytes() == logits.tobytes()


def test_no_images_have_no_logits(engine: OpenVinoEngine, images: NDArray[np.uint8]):
    assert engine.logits(images[:0]).shape == (0,)


def test_the_engine_says_what_it_runs_on(engine: OpenVinoEngine):
    assert engine.describe() == {"name": "openvino", "device": "cpu", "precision": "fp32"}


@pytest.mark.usefixtures("engine")
def test_changed_weights_are_refused_though_the_cache_is_warm(untrained: Model, tmp_path: Path):
    (tmp_path / untrained.card.weights).write_bytes(b"changed")
    with pytest.raises(CardError, match="SHA-256"):
        OpenVinoEngine(Model(untrained.card, tmp_path), "fp32")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
def test_no_thread_is_bound_to_a_core_so_that_processes_share_all(untrained: Model):
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:
        pytest.skip("one core")
    engine = OpenVinoEngine(untrained, "fp32", threads=1)
    size = untrained.card.input.size
    seen: set[frozenset[int]] = set()
    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(engine.logits, np.zeros((16, size, size), np.uint8))
        while not computing.done():  # threads are bound for as long as they compute
            seen |= {frozenset(os.sched_getaffinity(int(task.name))) for task in Path("/proc/self/task").iterdir()}
            time.sleep(0.02)
    assert seen == {frozenset(allowed)}


def test_a_graph_that_openvino_cannot_read_is_an_error(untrained: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openvino_engine, "cached_ir", lambda *_: (b"no graph", b""))
    with pytest.raises(EngineError, match="densenet-bias cannot be run in OpenVINO"):
        OpenVinoEngine(untrained, "fp32")


def test_an_inference_that_fails_is_an_error_in_words(engine: OpenVinoEngine, images: NDArray[np.uint8]):
    with pytest.raises(EngineError, match=r"densenet-bias cannot be run in OpenVINO .*--engine torch"):
        engine.logits(images[:2, :-1])
    assert engine.logits(images[:2]).shape == (2,), "it can be used again"


WATCHED_SCAN = """
import sys

from hemoscan.cli import cli
try:
    cli.main(sys.argv[1:], standalone_mode=False)
except SystemExit as end:
    print("exit", end.code)
print("imported", sorted({"torch", "torchvision", "sklearn", "matplotlib"} & set(sys.modules)))
print("telemetry", sys.modules.get("openvino_telemetry"))
print("engine and readers", sorted({"openvino", "pydicom", "scipy"} & set(sys.modules)))
"""


def watched(*arguments: str | Path) -> list[str]:
    """Run the command line in a process of its own, which fails if it reaches for the network (`tests/blocked`)."""
    command = [sys.executable, "-c", WATCHED_SCAN, *(str(argument) for argument in arguments)]
    environment = {**os.environ, "CI": ""}  # OpenVINO's telemetry is off by itself in CI
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)  # noqa: S603
    return done.stdout.splitlines()


@pytest.mark.usefixtures("engine")
def test_a_warm_scan_imports_no_torch_and_reaches_for_no_network(untrained: Model, tmp_path: Path):
    write_phantom(tmp_path / "study", slices=8)
    card = untrained.folder / "untrained.json"
    arguments = ("scan", tmp_path / "study" / "dicom", "-m", card, "-o", tmp_path / "out.csv", "--limit", "2")
    quiet = ["exit 0", "imported []", "telemetry None"]
    assert watched(*arguments, "--device", "cpu") == [*quiet, "engine and readers ['openvino']"]
    assert watched(*arguments, "--device", "cpu") == [*quiet, "engine and readers []"], "nothing is new"
