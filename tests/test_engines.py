"""Which engine scores: what goes together, what is refused, and what is found out without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hemoscan import devices, engines, machine, openvino_engine
from hemoscan.card import Model
from hemoscan.engine import TorchEngine
from hemoscan.engines import BATCH_SIZES, EngineChoice, choose_engine
from hemoscan.errors import DeviceError, EngineError, OptionError

Pretend = Callable[..., None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Pretend a machine: its GPUs, whether its processor has bf16, whether OpenVINO is installed."""

    def set_up(*, gpus: int = 0, bf16: bool = False, openvino: bool = True, told: bool = True) -> None:
        core = SimpleNamespace(get_property=lambda *_: ["FP32", "BF16"] if bf16 else ["FP32", "INT8"])
        monkeypatch.setattr(openvino_engine, "import_openvino", lambda: SimpleNamespace(Core=lambda: core))
        monkeypatch.setattr(engines, "find_spec", lambda name: object() if openvino else None)
        monkeypatch.setattr(engines, "may_have_gpu", lambda: gpus > 0)
        monkeypatch.setattr(devices, "cpu_computes_bf16", lambda: bf16)
        monkeypatch.setattr(engines, "told_of_bf16", lambda: bf16 if told else None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return set_up


@pytest.mark.parametrize(
    ("machine_has", "asked", "expected"),
    [
        ({}, {}, ("openvino", "cpu", "fp32")),
        ({"bf16": True}, {}, ("openvino", "cpu", "bf16")),
        ({"told": False}, {}, ("openvino", "cpu", "fp32")),
        ({"told": False, "bf16": True}, {}, ("openvino", "cpu", "bf16")),
        ({"bf16": True}, {"precision": "fp32"}, ("openvino", "cpu", "fp32")),
        ({"bf16": True}, {"precision": "bf16"}, ("openvino", "cpu", "bf16")),
        ({"openvino": False}, {}, ("torch", "cpu", "fp32")),
        ({"openvino": False, "bf16": True}, {}, ("torch", "cpu", "bf16")),
        ({}, {"engine": "torch"}, ("torch", "cpu", "fp32")),
        ({}, {"engine": "torch", "precision": "bf16"}, ("torch", "cpu", "bf16")),
        ({"gpus": 1}, {}, ("torch", "cuda", "bf16")),
        ({"gpus": 2}, {"device": "cuda:1", "precision": "fp32"}, ("torch", "cuda:1", "fp32")),
        ({"gpus": 1}, {"device": "cpu"}, ("openvino", "cpu", "fp32")),
        ({"gpus": 1}, {"engine": "openvino"}, ("openvino", "cpu", "fp32")),
        ({}, {"device": "cpu:0", "engine": "openvino"}, None),
        ({"gpus": 1}, {"device": "cuda", "engine": "openvino"}, None),
        ({}, {"precision": "bf16"}, None),
        ({}, {"precision": "int8"}, None),
        ({}, {"engine": "onnx"}, None),
        ({}, {"device": "gpu"}, None),
    ],
)
def test_the_engine_follows_from_the_machine_and_what_is_asked(
    pretend: Pretend, machine_has: dict[str, object], asked: dict[str, str], expected: tuple[str, str, str] | None
):
    pretend(**machine_has)
    if expected is None:
        with pytest.raises(OptionError, match="legal: "):
            choose_engine(**asked)
    else:
        assert choose_engine(**asked) == EngineChoice(*expected)


def test_a_gpu_that_torch_does_not_see_leaves_the_cpu(pretend: Pretend, monkeypatch: pytest.MonkeyPatch):
    """A driver without a usable GPU, or a CPU build of torch."""
    pretend()
    monkeypatch.setattr(engines, "may_have_gpu", lambda: True)
    assert choose_engine() == EngineChoice("openvino", "cpu", "fp32")


def test_a_gpu_that_is_asked_for_and_lacks_is_an_error(pretend: Pretend):
    pretend()
    with pytest.raises(DeviceError, match="'cuda': this machine has 0"):
        choose_engine(device="cuda")


def test_openvino_that_is_asked_for_and_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match="--engine torch"):
        choose_engine("openvino", "cpu")


def test_threads_are_handed_on(pretend: Pretend):
    pretend()
    assert choose_engine(threads=3).threads == 3


@pytest.mark.parametrize(
    ("machine_has", "asked", "expected"),
    [
        ({}, {}, ("openvino", "cpu", "fp32")),
        ({"bf16": True}, {}, ("openvino", "cpu", "bf16")),
        ({"bf16": True}, {"precision": "fp32", "threads": 3}, ("openvino", "cpu", "fp32", 3)),
        ({}, {"precision": "bf16", "threads": 1}, ("openvino", "cpu", "fp32", 1)),
        ({"bf16": True}, {"engine": "torch", "threads": 2}, ("torch", "cpu", "bf16", 2)),
        ({}, {"engine": "torch", "precision": "bf16"}, ("torch", "cpu", "fp32")),
        ({"openvino": False}, {"precision": "fp32"}, ("torch", "cpu", "fp32")),
    ],
)
def test_a_lost_gpus_spare_keeps_what_was_asked(
    pretend: Pretend, machine_has: dict[str, bool], asked: dict[str, object], expected: tuple[str, str, str]
):
    pretend(gpus=1, **machine_has)
    choice = choose_engine(**asked)
    assert (choice.name, choice.device) == ("torch", "cuda")
    assert choice.spare() == EngineChoice(*expected)


class Lost:
    """A GPU that fails at once."""

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        raise RuntimeError("CUDA error: unspecified launch failure")

    def describe(self) -> dict[str, str]:
        return {"name": "torch", "device": "cuda", "precision": "fp32"}


def test_a_lost_gpu_hands_over_to_the_cpu(pretend: Pretend, untrained: Model, monkeypatch: pytest.MonkeyPatch):
    pretend(gpus=1, bf16=True)
    load, threads = EngineChoice.load, torch.get_num_threads()
    monkeypatch.setattr(
        EngineChoice, "load", lambda self, *rest: Lost() if self.device == "cuda" else load(self, *rest)
    )
    first, engine = choose_engine("torch", precision="fp32", threads=1).make_resilient(untrained)
    assert first.describe() == {"name": "torch", "device": "cuda", "precision": "fp32"}
    images = np.random.default_rng(0).integers(0, 71, (2, 224, 224)).astype(np.uint8)
    try:
        found = engine.logits(images)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(found, TorchEngine(untrained, torch.device("cpu"), "fp32").logits(images))
    assert engine.describe() == {"name": "torch", "device": "cpu", "precision": "fp32"}
    assert engine.notes == ["cuda failed (RuntimeError): going on with cpu in fp32"]


@pytest.mark.parametrize(("device", "kind"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda:3", "cuda"), ("mps", "mps")])
def test_every_device_has_a_batch_size(device: str, kind: str):
    assert EngineChoice("torch", device, "fp32").batch_size == BATCH_SIZES[kind] >= 1


@pytest.mark.parametrize("driver", machine.GPU_DRIVERS)
def test_a_driver_means_that_torch_is_asked(driver: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == driver)
    assert machine.may_have_gpu()


def test_without_a_driver_it_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert not machine.may_have_gpu()


@pytest.mark.parametrize(("library", "expected"), [("nvcuda.dll", True), (None, False)])
def test_windows_is_asked_for_nvidias_library(library: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(machine, "find_library", lambda name: library)
    assert machine.may_have_gpu() is expected


def test_choosing_openvino_imports_no_torch():
    """Nor does it where the machine has no GPU driver and nothing is asked for; or OpenVINO, where the system tells."""
    asked = [{"engine": "openvino"}, {"device": "cpu"}, *([] if machine.may_have_gpu() else [{}])]
    code = f"""
import sys
from hemoscan.engines import choose_engine
from hemoscan.machine import told_of_bf16
for asked in {asked}:
    assert choose_engine(**asked).name == "openvino"
assert "torch" not in sys.modules
assert sys.platform != "linux" or told_of_bf16() is None or "openvino" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, "")
