"""An engine that is loaded once there is something to score: a scan of a known folder loads none."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hemoscan.resilient import Engine


class LazyEngine:
    """Stands for an engine that is not loaded yet."""

    def __init__(self, load: Callable[[], Engine], description: dict[str, str]) -> None:
        """Take what loads the engine, and what the engine will say of itself: name, device and precision."""
        self._load = load
        self._description = description
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    def load(self) -> Engine:
        """Load the engine, unless it is; return it. Raises what loading it raises."""
        with self._lock:
            if self._engine is None:
                self._engine = self._load()
            return self._engine

    def describe(self) -> dict[str, str]:
        """Return name, device and precision, for the run record: once loaded, what the engine itself says."""
        return self._description if self._engine is None else self._engine.describe()

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return logits of shape (n,) for inputs of shape (n, size, size)."""
        return self.load().logits(images)

    def logits_and_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return the same logits, and class activation maps of shape (n, h, w), in logits."""
        return self.load().logits_and_maps(images)
