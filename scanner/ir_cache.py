"""OpenVINO IR of the models, converted once and kept in the user's cache folder.

An entry is a folder with the IR and a manifest of its files' SHA-256: weights that a disk or a full quota damaged
would otherwise score wrongly without a word. An entry appears whole or not at all, by renaming a finished folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import filelock
import platformdirs

from hemoscan.card import Model
from hemoscan.errors import EngineError

# Raised whenever what `hemoscan.exporting` writes, or checks before it is kept, changes.
IR_FORMAT = 2
FILES = ("model.xml", "model.bin")
MANIFEST = "manifest.json"
CONVERSION_SECONDS = 1800

IR = tuple[bytes, bytes]
"""Graph (XML) and weights."""


def cached_ir(model: Model, say: Callable[[str], None]) -> IR:
    """Return the IR of a model, converting it if the cache lacks a sound one.

    Parameters
    ----------
    model
        The model; its weights are read only for a conversion.
    say
        Told that a conversion takes place, here or elsewhere, and that the cache cannot be used.

    Raises
    ------
    CardError
        If a conversion is needed and the weights are missing or changed.
    EngineError
        If the model cannot be converted, or would score otherwise than in PyTorch.
    """
    entry = entry_folder(model)
    found = read_entry(entry)
    if found is not None:
        return found
    lock = _lock(entry, say)
    try:
        found = read_entry(entry)  # another process may have made it meanwhile
        if found is None:
            found = convert(model, say)
            if lock is not None:
                _keep(found, entry, say)
    finally:
        if lock is not None:
            lock.release()
    return found


def entry_folder(model: Model) -> Path:
    """Return where a model's IR is kept: by its weights, network, input, and the form of the IR."""
    card = model.card
    key = json.dumps([card.sha256, card.architecture, asdict(card.input), IR_FORMAT])
    name = f"{card.architecture}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return platformdirs.user_cache_path("hemoscan", appauthor=False) / "openvino" / name


def read_entry(entry: Path) -> IR | None:
    """Return the IR of an entry; None if it lacks, or is not what was written."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        graph, weights = ((entry / name).read_bytes() for name in FILES)
    except (OSError, ValueError):
        return None
    return (graph, weights) if manifest == _manifest((graph, weights)) else None


def _manifest(ir: IR) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in zip(FILES, ir, strict=True)}


def _lock(entry: Path, say: Callable[[str], None]) -> filelock.BaseFileLock | None:
    """Return the entry's lock, held; None if this cache cannot be written to."""
    lock = filelock.FileLock(f"{entry}.lock")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"another process converts the model for OpenVINO: waiting, up to {CONVERSION_SECONDS / 60:g} minutes")
            lock.acquire(timeout=CONVERSION_SECONDS)
    except (OSError, NotImplementedError) as error:  # a lock that is not had in time is an OSError
        say(_unusable(entry, error))
        return None
    return lock


def _keep(ir: IR, entry: Path, say: Callable[[str], None]) -> None:
    """Write a folder beside the entry and move it into the entry's place; the lock is held."""
    made = entry.with_name(f".making-{entry.name}")  # another's only if it died: the lock is held
    try:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for name, content in zip(FILES, ir, strict=True):
            (made / name).write_bytes(content)
        (made / MANIFEST).write_text(json.dumps(_manifest(ir), indent=2) + "\n", encoding="utf-8")
        if entry.exists():  # broken, as was just seen
            shutil.rmtree(entry)
        made.replace(entry)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        say(_unusable(entry, error))


def _unusable(entry: Path, error: Exception) -> str:
    cause = (isinstance(error, OSError) and error.strerror) or error
    return f"{entry.parent}: the converted model cannot be kept ({cause}): every scan will convert it anew"


def convert(model: Model, say: Callable[[str], None]) -> IR:
    """Convert in a process of its own, so that this one never holds torch in memory.

    Raises
    ------
    CardError
        If the weights are missing or changed.
    EngineError
        If the model cannot be converted, or would score otherwise than in PyTorch.
    """
    model.read_weights()  # its error is clearer than that of another process
    say(f"converting {model.card.name} for OpenVINO, once: about a minute")
    with tempfile.TemporaryDirectory(prefix="hemoscan-") as name:
        folder = Path(name)
        card = folder / "card.json"
        card.write_text(model.card.to_json(), encoding="utf-8")
        # -P: the folder that the user is in holds no modules of ours.
        command: list[str | Path] = [
            sys.executable,
            "-P",
            "-m",
            "hemoscan.exporting",
            card,
            model.folder.absolute(),
            folder / FILES[0],
        ]
        try:
            subprocess.run(  # noqa: S603 - our own module
                command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=CONVERSION_SECONDS
            )
            graph, weights = ((folder / name).read_bytes() for name in FILES)
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {error.returncode}"]
            raise _failure(model, lines[-1]) from error
        except (subprocess.TimeoutExpired, OSError) as error:
            raise _failure(model, str(error)) from error
    return graph, weights


def _failure(model: Model, cause: str) -> EngineError:
    return EngineError(f"{model.card.name} cannot be converted for OpenVINO ({cause}); legal: --engine torch")
