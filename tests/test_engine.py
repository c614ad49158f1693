"""The engine: inputs to logits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hemoscan.card import Model
from hemoscan.engine import TorchEngine
from hemoscan.errors import CardError
from hemoscan.graphs import Graphs
from hemoscan.networks import load_classifier
from hemoscan.phantom import make_phantom
from hemoscan.preprocess import preprocess

CPU = torch.device("cpu")


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
    return probabilities


@pytest.fixture(scope="module")
def images(untrained: Model) -> NDArray[np.uint8]:
    hu = make_phantom("epidural", size=64, slices=8).hu[3:6]
    return np.stack([preprocess(plane, untrained.card.input) for plane in hu])


@pytest.fixture(scope="module")
def engine(untrained: Model) -> TorchEngine:
    return TorchEngine(untrained, CPU, "fp32")


@pytest.fixture(scope="module")
def scores(engine: TorchEngine, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return engine.logits(images)


def test_logits_are_those_of_the_network(untrained: Model, scores: NDArray[np.float64], images: NDArray[np.uint8]):
    with torch.inference_mode():
        logits = load_classifier(untrained)(torch.from_numpy(images)).double().numpy()
    assert scores.shape == (3,)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, logits, rtol=0, atol=1e-5)
    assert len(set(scores.tolist())) == 3


def test_the_same_input_gives_the_same_bits(
    engine: TorchEngine, scores: NDArray[np.float64], images: NDArray[np.uint8]
):
    assert engine.logits(images).tobytes() == scores.tobytes()


def test_on_a_cpu_a_logit_does_not_depend_on_its_batch(
    engine: TorchEngine, scores: NDArray[np.float64], images: NDArray[np.uint8]
):
    """So that a scan that goes on after a kill, and batches otherwise, ends with the same CSV byte for byte."""
    for batch in ([2], [0, 1], [2, 1, 0, 2]):
        assert engine.logits(images[batch]).tobytes() == scores[batch].tobytes()


def test_bf16_agrees_within_its_precision(untrained: Model, scores: NDArray[np.float64], images: NDArray[np.uint8]):
    engine = TorchEngine(untrained, CPU, "bf16")
    np.testing.assert_allclose(sigmoid(engine.logits(images)), sigmoid(scores), rtol=0, atol=2e-2)
    assert engine.describe() == {"name": "torch", "device": "cpu", "precision": "bf16"}


def test_the_engine_says_what_it_runs_on(engine: TorchEngine):
    assert engine.describe() == {"name": "torch", "device": "cpu", "precision": "fp32"}


def test_doubles_are_made_on_the_host(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch):
    """Apple's GPUs have no float64."""

    class OnGpu(torch.Tensor):
        def double(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )

        def cpu(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return self.as_subclass(torch.Tensor)

    logits = torch.tensor([0.0, 2.0]).as_subclass(OnGpu)
    monkeypatch.setattr(engine, "_classifier", lambda grey: logits)
    scores = engine.logits(np.zeros((2, 8, 8), np.uint8))
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [0, 2, 0, 2])


def test_changed_weights_are_refused(untrained: Model, tmp_path: Path):
    content = bytearray(untrained.read_weights())
    content[-1] ^= 1
    (tmp_path / untrained.card.weights).write_bytes(content)
    assert hashlib.sha256(content).hexdigest() != untrained.card.sha256
    with pytest.raises(CardError, match="SHA-256"):
        TorchEngine(Model(untrained.card, tmp_path), CPU, "fp32")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_the_gpu_agrees_with_the_cpu(untrained: Model, scores: NDArray[np.float64], images: NDArray[np.uint8]):
    engine = TorchEngine(untrained, torch.device("cuda"), "fp32")
    np.testing.assert_allclose(sigmoid(engine.logits(images)), sigmoid(scores), rtol=0, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_a_cuda_graph_scores_as_single_calls_do(
    untrained: Model, scores: NDArray[np.float64], images: NDArray[np.uint8], precision: str, tolerance: float
):
    engine = TorchEngine(untrained, torch.device("cuda"), precision)
    found = [engine.logits_and_maps(images[batch]) for batch in ([0, 1, 2], [2, 1, 0], [1], [0, 1, 2, 0])]
    for batch, (logits, maps) in zip(([0, 1, 2], [2, 1, 0], [1], [0, 1, 2, 0]), found, strict=True):
        np.testing.assert_allclose(sigmoid(logits), sigmoid(scores[batch]), rtol=0, atol=tolerance)
        assert maps.shape == (len(batch), 7, 7)
        np.testing.assert_allclose(maps.mean((1, 2)), logits, rtol=2e-2, atol=2e-2)


class Fake:
    """Stands for a captured call: a logit is the input's mean."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.size = shape[0]

    def __call__(self, images: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(images).float().mean((1, 2)), torch.zeros(len(images), 2, 2)


def batch_of(count: int) -> NDArray[np.uint8]:
    return np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((4, 4), np.uint8)


def test_a_call_is_captured_once_its_batch_repeats():
    captured: list[tuple[int, ...]] = []

    def capture(shape: tuple[int, ...]) -> Fake:
        captured.append(shape)
        return Fake(shape)

    graphs = Graphs(capture)
    found = [graphs.run(batch_of(count)) for count in (3, 5, 5, 5, 2, 6, 6)]
    assert [None if one is None else one[0].tolist() for one in found] == [
        None,
        None,
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4],
        [0, 1],
        None,
        [0, 1, 2, 3, 4, 5],
    ]
    assert captured == [(5, 4, 4), (6, 4, 4)]


def test_a_call_that_cannot_be_captured_is_tried_once(caplog: pytest.LogCaptureFixture):
    tried: list[tuple[int, ...]] = []

    def capture(shape: tuple[int, ...]) -> Fake:
        tried.append(shape)
        raise RuntimeError("CUDA error: operation not permitted\nmore")

    graphs = Graphs(capture)
    assert [graphs.run(batch_of(2)) for _ in range(4)] == [None] * 4
    assert tried == [(2, 4, 4)]
    assert "CUDA error: operation not permitted" in caplog.text


def test_an_engine_takes_what_is_replayed(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch):
    graphs = Graphs(Fake)
    graphs.run(batch_of(3))
    monkeypatch.setattr(engine, "_graphs", graphs)
    logits, maps = engine.logits_and_maps(batch_of(3))
    assert engine.logits(batch_of(2)).tolist() == [0, 1]
    assert (logits.tolist(), logits.dtype, maps.shape) == ([0, 1, 2], np.float64, (3, 2, 2))


def test_what_is_captured_gives_logits_and_maps(
    engine: TorchEngine, scores: NDArray[np.float64], images: NDArray[np.uint8]
):
    with torch.inference_mode():
        logits, maps = engine._forward(torch.from_numpy(images))
    np.testing.assert_allclose(logits.numpy(), scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(maps.mean((1, 2)).numpy(), scores, rtol=1e-4, atol=1e-5)


def test_maps_come_with_the_same_bits_of_the_logits(
    engine: TorchEngine, scores: NDArray[np.float64], images: NDArray[np.uint8]
):
    logits, maps = engine.logits_and_maps(images)
    assert logits.tobytes() == scores.tobytes()
    assert maps.shape == (3, 7, 7)
    assert maps.dtype == np.float32
    assert engine.logits(images).tobytes() == scores.tobytes(), "the engine is as it was"
    np.testing.assert_allclose(maps.mean((1, 2)), logits, rtol=1e-4, atol=1e-5)
    assert maps.std() > 0
