"""An engine whose device runs out of memory, or is lost."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hemoscan.resilient import ResilientEngine

IMAGES = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)


class Device:
    """Scores by the mean; fails for more than `room` images at a time, or from the `breaks`th call on."""

    def __init__(self, name: str, room: int = 100, breaks: int = 100, error: str = "CUDA error: unspecified") -> None:
        self.name, self.room, self.breaks, self.error = name, room, breaks, error
        self.sizes: list[int] = []

    def describe(self) -> dict[str, str]:
        return {"name": "torch", "device": self.name, "precision": "fp32"}

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        self.sizes.append(len(images))
        if len(self.sizes) >= self.breaks:
            raise RuntimeError(self.error)
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        means: NDArray[np.float64] = images.mean(axis=(1, 2))
        return means


def test_out_of_memory_halves_the_batch_and_goes_on(caplog: pytest.LogCaptureFixture):
    device = Device("cuda", room=3)
    engine = ResilientEngine(device, lambda: Device("cpu"))
    with caplog.at_level(logging.WARNING, "hemoscan"):
        np.testing.assert_array_equal(engine.logits(IMAGES), np.arange(10))
    assert device.sizes == [10, 5, 2, 2, 2, 2, 2]
    np.testing.assert_array_equal(engine.logits(IMAGES), np.arange(10))
    assert device.sizes[7:] == [2] * 5, "what did not fit is not tried again"
    assert engine.notes == [
        "out of memory with 10 slices at a time: going on with 5",
        "out of memory with 5 slices at a time: going on with 2",
    ]
    assert caplog.messages == engine.notes
    assert engine.describe()["device"] == "cuda"


@pytest.mark.parametrize(
    "error", ["CUDA error: device-side assert", "cuDNN error: X", "MPS backend failed", "HIP error"]
)
def test_a_lost_device_hands_the_batch_over(error: str, caplog: pytest.LogCaptureFixture):
    lost, spare = Device("cuda", room=5, breaks=3, error=error), Device("cpu")
    engine = ResilientEngine(lost, lambda: spare)
    with caplog.at_level(logging.WARNING, "hemoscan"):
        np.testing.assert_array_equal(engine.logits(IMAGES), np.arange(10))
    assert (lost.sizes, spare.sizes) == ([10, 5, 5], [10]), "all of a batch is scored by one engine"
    assert engine.notes[-1] == "cuda failed (RuntimeError): going on with cpu in fp32"
    assert caplog.messages == engine.notes
    assert engine.describe()["device"] == "cpu"


def test_no_room_for_one_slice_is_a_lost_device():
    engine = ResilientEngine(Device("cuda", room=0), lambda: Device("cpu"))
    np.testing.assert_array_equal(engine.logits(IMAGES[:3]), np.arange(3))
    assert len(engine.notes) == 2


def test_without_a_spare_the_error_is_raised():
    with pytest.raises(torch.OutOfMemoryError):
        ResilientEngine(Device("cpu", room=0)).logits(IMAGES)
    with pytest.raises(RuntimeError, match="CUDA"):
        ResilientEngine(Device("cuda", breaks=1)).logits(IMAGES)


def test_the_spare_is_used_once():
    engine = ResilientEngine(Device("cuda", breaks=1), lambda: Device("cpu", breaks=1))
    with pytest.raises(RuntimeError, match="CUDA"):
        engine.logits(IMAGES)


def test_a_fault_of_ours_is_not_hidden():
    engine = ResilientEngine(Device("cuda", breaks=1, error="shapes do not match"), lambda: Device("cpu"))
    with pytest.raises(RuntimeError, match="shapes"):
        engine.logits(IMAGES)
