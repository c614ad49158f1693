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
