"""Which engine scores, where, and in which number format; torch is imported only if it may be the one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hemoscan.errors import OptionError
from hemoscan.lazy import LazyEngine
from hemoscan.machine import may_have_gpu, told_of_bf16
from hemoscan.resilient import ResilientEngine

if TYPE_CHECKING:
    from hemoscan.card import Model
    from hemoscan.engine import TorchEngine
    from hemoscan.openvino_engine import OpenVinoEngine

ENGINES = ("auto", "torch", "openvino")
PRECISIONS = ("auto", "fp32", "bf16")
BATCH_SIZES = {"cpu": 16, "cuda": 128, "mps": 32}


@dataclass(frozen=True)
class EngineChoice:
    """An engine that can be had on this machine."""

    name: str
    """torch or openvino."""
    device: str
    """cpu, cuda, cuda:N or mps."""
    precision: str
    """fp32 or bf16."""
    threads: int | None = None
    """Threads that the network computes in on a CPU; None for the engine's own choice."""
    asked: str = field(default="auto", compare=False)
    """The engine that was asked for, which a GPU's spare on the CPU is bound to as well: auto, torch or openvino."""

    @property
    def batch_size(self) -> int:
        """Slices to pass at a time, unless the user says otherwise."""
        return BATCH_SIZES[self.device.partition(":")[0]]

    def describe(self) -> dict[str, str]:
        """Return name, device and precision, as the engine itself will say them."""
        return {"name": self.name, "device": self.device, "precision": self.precision}

    def make_resilient(
        self, model: Model, say: Callable[[str], None] = lambda text: None
    ) -> tuple[LazyEngine, ResilientEngine]:
        """Return the engine, loaded when it is needed, and the same made safe: should a GPU fail, the CPU goes on."""
        fall_back = None if self.device == "cpu" else lambda: self.spare().load(model, say)
        first = LazyEngine(lambda: self.load(model, say), self.describe())
        return first, ResilientEngine(first, fall_back)

    def spare(self) -> EngineChoice:
        """Return the choice for when the device is lost: on the CPU, and as far as it goes what was asked for.

        bf16 there only where the CPU computes in it: OpenVINO refuses it elsewhere, and PyTorch's is slow.
        """
        return choose_engine(self.asked, "cpu", "fp32" if self.precision == "fp32" else "auto", self.threads)

    def load(self, model: Model, say: Callable[[str], None] = lambda text: None) -> TorchEngine | OpenVinoEngine:
        """Load a model; `say` is told what takes long or goes another way than usual.

        Raises
        ------
        CardError
            If the model's weights are missing or changed.
        EngineError
            If OpenVINO cannot take the model.
        """
        if self.name == "openvino":
            from hemoscan.openvino_engine import OpenVinoEngine  # noqa: PLC0415

            return OpenVinoEngine(model, self.precision, self.threads, say)
        import torch  # noqa: PLC0415

        from hemoscan.engine import TorchEngine  # noqa: PLC0415

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return TorchEngine(model, torch.device(self.device), self.precision)


def choose_engine(
    engine: str = "auto", device: str = "auto", precision: str = "auto", threads: int | None = None
) -> EngineChoice:
    """Return the engine for what was asked: OpenVINO on a CPU where it is installed, else PyTorch.

    Parameters
    ----------
    engine
        auto, torch or openvino.
    device
        auto, cpu, cuda, cuda:N or mps; `auto` is the first CUDA GPU, else Apple's, else the CPU.
    precision
        auto, fp32 or bf16; `auto` is bf16 where the device computes in it.
    threads
        Threads that the network computes in on a CPU.

    Raises
    ------
    OptionError
        If a value is not legal, or these do not go together.
    DeviceError
        If this machine lacks the device.
    EngineError
        If OpenVINO is asked for and not installed.
    """
    for option, value, legal in (("--engine", engine, ENGINES), ("--precision", precision, PRECISIONS)):
        if value not in legal:
            raise OptionError(f"{option} {value!r}; legal: {', '.join(legal)}")
    if engine == "openvino" and device not in ("auto", "cpu"):
        raise OptionError(f"--engine openvino computes on the CPU, not on device {device!r}; legal: auto, cpu")
    device = _resolve("cpu" if engine == "openvino" else device)
    if device == "cpu" and (engine == "openvino" or (engine == "auto" and find_spec("openvino") is not None)):
        return EngineChoice("openvino", device, _openvino_precision(precision), threads, engine)
    import torch  # noqa: PLC0415

    from hemoscan import devices  # noqa: PLC0415

    found = devices.pick_precision(precision, torch.device(device))
    return EngineChoice("torch", device, found, threads, engine)


def _openvino_precision(name: str) -> str:
    """Return fp32 or bf16, asking OpenVINO (tenths of a second to import) only where the system does not tell."""
    from hemoscan import openvino_engine  # noqa: PLC0415
    from hemoscan.openvino_runtime import import_openvino  # noqa: PLC0415

    if find_spec("openvino") is None:
        import_openvino()  # raises, with what to do
    native = told_of_bf16()
    if name == "auto" and native is not None:
        return "bf16" if native else "fp32"
    return name if name == "fp32" else openvino_engine.pick_precision(name)


def _resolve(device: str) -> str:
    """Return the device's name, asking torch (seconds to import) only if this machine may have a GPU."""
    if device == "cpu" or (device == "auto" and not may_have_gpu()):
        return "cpu"
    from hemoscan.devices import pick_device  # noqa: PLC0415

    found = pick_device(device)
    return "cpu" if found.type == "cpu" else str(found)
