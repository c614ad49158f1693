"""Which device and number format is picked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hemoscan import devices, machine
from hemoscan.devices import pick_device, pick_precision
from hemoscan.errors import DeviceError, HemoscanError, OptionError


def pretend(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("gpus", "mps", "expected"), [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda"), (2, True, "cuda")]
)
def test_auto_is_the_best_there_is(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool, expected: str):
    pretend(monkeypatch, gpus=gpus, mps=mps)
    assert pick_device("auto").type == expected


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1", "mps"])
def test_a_device_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch, name: str):
    pretend(monkeypatch, gpus=2, mps=True)
    assert str(pick_device(name)) == name


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "cpu:1", "meta", "xpu", "toaster", "", "cuda:x", "cuda:-1"])
def test_a_device_that_is_not_there_is_an_error_that_names_the_legal_ones(monkeypatch: pytest.MonkeyPatch, name: str):
    pretend(monkeypatch)
    with pytest.raises((DeviceError, OptionError), match="legal: auto, cpu, cuda, cuda:N, mps") as caught:
        pick_device(name)
    assert repr(name) in str(caught.value)
    assert isinstance(caught.value, HemoscanError)


def test_a_gpu_beyond_the_last_is_an_error(monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, gpus=2)
    with pytest.raises(DeviceError, match="'cuda:2': this machine has 2"):
        pick_device("cuda:2")


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_named_precision_is_taken(device: str, precision: str):
    assert pick_precision(precision, torch.device(device)) == precision


@pytest.mark.parametrize(
    ("device", "has_bf16", "expected"),
    [
        ("cpu", True, "bf16"),
        ("cpu", False, "fp32"),
        ("cuda", True, "bf16"),
        ("cuda", False, "fp32"),
        ("mps", True, "fp32"),
    ],
)
def test_auto_is_bf16_where_the_device_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, device: str, has_bf16: bool, expected: str
):
    monkeypatch.setattr(devices, "cpu_computes_bf16", lambda: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0) if has_bf16 else (7, 5))
    assert pick_precision("auto", torch.device(device)) == expected


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx2 avx512_bf16", True), ("amx_bf16", True), ("avx2 avx512f", False)]
)
def test_bf16_is_told_by_the_flags_of_the_processor(monkeypatch: pytest.MonkeyPatch, flags: str, expected: bool):
    cpuinfo = f"processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu {flags}\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo)
    assert machine.cpu_computes_bf16() is expected


def test_a_machine_without_cpuinfo_is_described(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert machine.cpu_computes_bf16() is False


def test_the_machine_is_described_without_names():
    import getpass
    import platform

    described = machine.describe_machine()
    assert described["cores"] == machine.usable_cores()
    assert isinstance(described["packages"], dict)
    assert described["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    values = [str(value) for value in described.values()]
    assert platform.node() not in values
    assert getpass.getuser() not in values
