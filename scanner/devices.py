"""Which device and number format the network runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from hemoscan.errors import DeviceError, OptionError
from hemoscan.machine import cpu_computes_bf16


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the first CUDA GPU, else Apple's, else the CPU.

    Raises
    ------
    OptionError
        If the name is none of auto, cpu, cuda, cuda:N, mps.
    DeviceError
        If this machine lacks the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"device {name!r}; legal: auto, cpu, cuda, cuda:N, mps") from error
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type, 0)
    if (device.index or 0) >= available:
        raise DeviceError(
            f"device {name!r}: this machine has {available} of that type; legal: auto, cpu, cuda, cuda:N, mps"
        )
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """Return fp32 or bf16; `auto` is bf16 where the device computes in it, fp32 elsewhere."""
    if name != "auto":
        return name
    if device.type == "cuda":
        # Older GPUs only emulate bf16: Ampere, 8.0, was the first to compute in it.
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return "bf16" if device.type == "cpu" and cpu_computes_bf16() else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which a network runs in that precision: bf16 for what bears it, fp32 for the rest."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
