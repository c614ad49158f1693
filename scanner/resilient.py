"""An engine that outlives its device: out of memory halves the batch, a lost GPU hands over to the CPU."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

# What PyTorch says when the device, not the model or the input, has failed.
LOST = ("CUDA error", "CUDA driver", "cuDNN", "CUDNN", "CUBLAS", "cuBLAS", "HIP error", "MPS backend", "device-side")

Scores = TypeVar("Scores")

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """What scores inputs."""

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return logits of shape (n,) for inputs of shape (n, size, size)."""

    def logits_and_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return the same logits, and class activation maps of shape (n, h, w), in logits."""

    def describe(self) -> dict[str, str]:
        """Return name, device and precision, for the run record."""


class ResilientEngine:
    """Scores by an engine for as long as it works, then by another."""

    def __init__(self, engine: Engine, fall_back: Callable[[], Engine] | None = None) -> None:
        """Take the engine, and what makes the one for when its device is lost; None: then the scan fails."""
        self._engine = engine
        self._fall_back = fall_back
        self._most: int | None = None
        self.notes: list[str] = []
        """What happened, for the run record."""

    def describe(self) -> dict[str, str]:
        """Return what the engine in use says of itself."""
        return self._engine.describe()

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return logits of shape (n,) for inputs of shape (n, size, size), all by one engine."""
        return np.concatenate(self._run(images, lambda engine, part: engine.logits(part)))

    def logits_and_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return logits and class activation maps of shape (n, h, w), all by one engine."""
        logits, maps = zip(*self._run(images, lambda engine, part: engine.logits_and_maps(part)), strict=True)
        return np.concatenate(logits), np.concatenate(maps)

    def _run(self, images: NDArray[np.uint8], score: Callable[[Engine, NDArray[np.uint8]], Scores]) -> list[Scores]:
        """Score in parts as large as the engine takes; start over should another take its place."""
        parts: list[Scores] = []
        done = 0
        while done < len(images):
            part = images[done : done + (self._most or len(images))]
            try:
                parts.append(score(self._engine, part))
            except RuntimeError as error:
                if not self._halve(error, len(part)):
                    self._hand_over(error)
                    parts, done = [], 0
                continue
            done += len(part)
        return parts

    def _halve(self, error: RuntimeError, size: int) -> bool:
        """Go on with half the batch, if that was too large."""
        if not _is_out_of_memory(error) or size == 1:
            return False
        self._most = size // 2
        self._note(f"out of memory with {size} slices at a time: going on with {self._most}")
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    def _hand_over(self, error: RuntimeError) -> None:
        """Go on with the other engine, if the device is lost; raise what was caught if not."""
        if self._fall_back is None or not (_is_out_of_memory(error) or any(text in str(error) for text in LOST)):
            raise error
        lost = self._engine.describe()
        self._engine, self._fall_back, self._most = self._fall_back(), None, None
        now = self._engine.describe()
        self._note(
            f"{lost['device']} failed ({type(error).__name__}): going on with {now['device']} in {now['precision']}"
        )

    def _note(self, text: str) -> None:
        self.notes.append(text)
        _log.warning("%s", text)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error)
