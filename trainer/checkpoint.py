"""The state of a training, from which it goes on: whole on the disk or not there."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import torch

from hemoscan.errors import TrainingError
from hemoscan.outputs import write_atomically


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the one that was there stays until the new one is whole on the disk.

    Raises
    ------
    OutputError
        If it cannot be written, such as on a full disk.
    """
    write_atomically(path, lambda file: _save(state, file))


def _save(state: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch closes its archive while a failed write passes, and complains of that instead
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def load_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Load a checkpoint, None if there is none.

    Raises
    ------
    TrainingError
        If it cannot be read, or is of another training than `identity` says: going on from it would mix two
        experiments.
    """
    if not path.is_file():
        return None
    advice = "remove it or name another --run-dir"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        known: dict[str, Any] = dict(state["identity"])
    except Exception as error:  # torch.load raises whatever the unpickler met
        raise TrainingError(f"{path}: checkpoint cannot be read ({type(error).__name__}); {advice}") from error
    # An identity lacks what the training goes without, such as the average of the weights.
    differing = sorted(key for key in identity | known if known.get(key) != identity.get(key))
    if differing:
        now = ", ".join(f"{key} {known.get(key)!r}, now {identity.get(key)!r}" for key in differing)
        raise TrainingError(f"{path}: is of another training ({now}); {advice}")
    return state
