"""What this machine is, for the run record and the cards: no host name, no user, no path."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from ctypes.util import find_library
from importlib import metadata
from pathlib import Path

CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PACKAGES = ("torch", "torchvision", "openvino", "pydicom", "numpy", "pillow")
# NVIDIA's driver; the same under WSL; AMD's, which PyTorch also calls CUDA.
GPU_DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def describe_machine() -> dict[str, object]:
    """Return processor, usable cores, instruction sets, system and versions of the packages that decide a score."""
    name, flags = _cpu()
    return {
        "processor": name,
        "cores": usable_cores(),
        "instruction_sets": [feature for feature in CPU_FEATURES if feature in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {package: version_of(package) for package in PACKAGES},
    }


def version_of(package: str) -> str:
    """Return the version of an installed package, `unknown` if pip knows of none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # installed by other means than pip
        return "unknown"


def usable_cores() -> int:
    """Return the cores that this process may use, which in a container are fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Return the machine's memory, or what a container (Linux, cgroup v2) leaves of it; None where unknown."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    with contextlib.suppress(OSError, ValueError):  # no such limit, or `max`
        size = min(size, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return size


def cpu_computes_bf16() -> bool:
    """Return whether the processor has bf16 arithmetic; without it bf16 is many times slower than fp32."""
    return bool(told_of_bf16())


def told_of_bf16() -> bool | None:
    """Return whether the processor has bf16 arithmetic, None where the system does not tell."""
    flags = _cpu()[1]
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags) if flags else None


def may_have_gpu() -> bool:
    """Return whether PyTorch may find a GPU here, without the seconds of importing it; never a wrong no."""
    if sys.platform == "darwin":
        return True
    if sys.platform == "win32":
        return find_library("nvcuda") is not None
    return any(Path(driver).exists() for driver in GPU_DRIVERS)


def _cpu() -> tuple[str, frozenset[str]]:
    """Return the processor's name and its feature flags, as far as the system tells."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return name, flags
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() == "flags":
            flags = frozenset(value.split())
    return name, flags
