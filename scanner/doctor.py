"""What support would ask for: versions, machine, engine, decoders, weights, folders, speed. Of no patient, no person.

Each finding says if something is broken, that is, if a scan would fail or be worse than it could be here.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hemoscan import __version__
from hemoscan.card import MODEL_NAMES, find_model, has_weights
from hemoscan.errors import HemoscanError
from hemoscan.machine import CPU_FEATURES, describe_machine, may_have_gpu, memory_bytes, version_of

if TYPE_CHECKING:
    from hemoscan.engines import EngineChoice

CODEC_PACKAGES = ("python-gdcm", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls")
SPEED_SECONDS = 3.0
SPEED_SLICES = 8
LEAST_FREE_BYTES = 2**28

Say = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """One line of what the doctor found."""

    topic: str
    name: str
    value: str
    broken: bool = False
    """Whether it needs mending."""


def examine(model: str, *, speed: bool = True, say: Say = lambda text: None) -> Iterator[Finding]:
    """Look at everything, in the order of what each depends on.

    Parameters
    ----------
    model
        Scores the phantom.
    speed
        Whether to measure the speed, which takes seconds, and a minute or two where the model was never converted.
    say
        Told what takes long.
    """
    yield from _versions()
    yield from _machine()
    choice, found = _engine()
    yield from found
    yield from _codecs()
    yield from _models(model)
    yield from _folders()
    if speed and choice is not None:
        yield from _speed(model, choice, say)


def _versions() -> Iterator[Finding]:
    yield Finding("software", "hemoscan", __version__)
    yield Finding("software", "python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Finding("software", "system", f"{platform.system()} {platform.release()} {platform.machine()}")
    packages = describe_machine()["packages"]
    for package in (*(packages if isinstance(packages, dict) else ()), *CODEC_PACKAGES):
        yield Finding("software", package, version_of(package))
    there = find_spec("ray") is not None
    yield Finding("software", "ray", version_of("ray") if there else "not installed, needed for --ray only")


def _machine() -> Iterator[Finding]:
    machine = describe_machine()
    sets = machine["instruction_sets"]
    found = ", ".join(sets) if isinstance(sets, list) and sets else f"none of {', '.join(CPU_FEATURES)} seen"
    yield Finding("machine", "processor", str(machine["processor"]))
    yield Finding("machine", "cores", str(machine["cores"]))
    yield Finding("machine", "instruction sets", found)
    size = memory_bytes()
    yield Finding("machine", "memory", "unknown" if size is None else _gib(size))


def _engine() -> tuple[EngineChoice | None, list[Finding]]:
    """Return what a scan would take, and why."""
    from hemoscan.engines import choose_engine  # noqa: PLC0415

    try:
        choice = choose_engine()
    except Exception as error:  # a broken PyTorch or OpenVINO raises what it likes
        return None, [Finding("engine", "engine", _told(error), broken=True)]
    values = {
        "device": f"{choice.device}: {_why_device(choice.device)}",
        "engine": f"{choice.name}: {_why_engine(choice)}",
        "precision": f"{choice.precision}: {_why_precision(choice)}",
    }
    return choice, [Finding("engine", name, value) for name, value in values.items()]


def _why_device(device: str) -> str:
    if device != "cpu":
        import torch  # noqa: PLC0415 - imported for the choice already

        return torch.cuda.get_device_name(device) if device.startswith("cuda") else "Apple's GPU"
    if may_have_gpu():
        return "there may be a GPU, but this PyTorch cannot use it"
    return "no driver of a GPU"


def _why_engine(choice: EngineChoice) -> str:
    if choice.name == "openvino":
        return "the faster one on a CPU"
    return "OpenVINO is not installed" if choice.device == "cpu" else "computes on GPUs"


def _why_precision(choice: EngineChoice) -> str:
    return "the device computes in bf16" if choice.precision == "bf16" else "the device does not compute in bf16"


def _codecs() -> Iterator[Finding]:
    try:
        from hemoscan.codecs import check_codecs  # noqa: PLC0415

        results = check_codecs()
    except Exception as error:  # a decoder that cannot even be imported
        yield Finding("decoding", "decoders", _told(error), broken=True)
        return
    for name, result in results.items():
        yield Finding("decoding", name, without_names(result), broken=result != "ok")


def _models(model: str) -> Iterator[Finding]:
    names = dict.fromkeys((*MODEL_NAMES, model))
    for name in names:
        if name != model and not has_weights(name):
            yield Finding("models", name, "no weights")
            continue
        try:
            found = find_model(name)
            found.read_weights()
        except HemoscanError as error:
            yield Finding("models", without_names(name), _told(error), broken=True)
        else:
            yield Finding("models", without_names(name), f"SHA-256 verified, {found.card.sha256[:16]}...")


def _folders() -> Iterator[Finding]:
    import platformdirs  # noqa: PLC0415

    yield _folder("state", platformdirs.user_state_path("hemoscan", appauthor=False))
    yield _folder("cache", platformdirs.user_cache_path("hemoscan", appauthor=False))
    yield _folder("temporary", Path(tempfile.gettempdir()))
    yield _folder("current", Path.cwd())
    yield Finding("folders", "log", "where --log-file says; none by default")


def _folder(name: str, path: Path) -> Finding:
    """Try to write a file there, or, where the folder is yet to be made, in the next one above that exists."""
    place = next(parent for parent in (path, *path.parents) if parent.exists())
    shown = without_names(str(path))
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"hemoscan")
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding("folders", name, f"{shown}: not writable: {error.strerror}", broken=True)
    room = f"writable, {_gib(free)} free"
    return Finding("folders", name, f"{shown}: {room}", broken=free < LEAST_FREE_BYTES)


def _speed(model: str, choice: EngineChoice, say: Say) -> Iterator[Finding]:
    """Measure the network alone, on slices of the phantom; a scan also reads and decodes."""
    import numpy as np  # noqa: PLC0415

    from hemoscan.phantom import make_phantom  # noqa: PLC0415
    from hemoscan.preprocess import preprocess  # noqa: PLC0415

    try:
        found = find_model(model)
        began = time.perf_counter()
        engine = choice.load(found, say)
        loaded = time.perf_counter() - began
        hu = make_phantom("epidural", slices=SPEED_SLICES, size=224).hu
        images = np.stack([preprocess(plane, found.card.input) for plane in hu])
        engine.logits(images)
        count, began = 0, time.perf_counter()
        while (seconds := time.perf_counter() - began) < SPEED_SECONDS:
            count += len(engine.logits(images))
    except Exception as error:  # an engine raises what it likes
        yield Finding("speed", "network", _told(error), broken=True)
        return
    name = without_names(model)
    yield Finding("speed", "load", f"{loaded:.1f} s ({name})")
    yield Finding("speed", "network", f"{count / seconds:.1f} slices/s ({choice.name}, {choice.precision})")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _told(error: Exception) -> str:
    return without_names(f"{type(error).__name__}: {error}" if not isinstance(error, HemoscanError) else str(error))


def without_names(text: str) -> str:
    """Return a text with the home folder as `~`, and neither the user's nor the machine's name.

    Those are blotted out as parts of paths only: a user may be called like a word.
    """
    home = str(Path.home())
    if Path(home).parent != Path(home):  # a user without home may have the root
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    for name in filter(None, (_user(), platform.node())):
        text = re.sub(rf"(?<=[/\\]){re.escape(name)}(?![\w.-])", "...", text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number without name, as in a container
        return os.environ.get("USER", "")
