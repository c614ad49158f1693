"""Commands called as users do, with an engine that needs no network: for tests of the way, not of the scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from hemoscan.cli import cli


def invoke(*arguments: str | Path) -> Result:
    """Call a command."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@dataclass
class MappingEngine:
    """Scores a slice by its mean, and says how often it was asked for maps."""

    mapped: list[int] = field(default_factory=list)
    shift: float = 0.0

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        shares = images.mean(axis=(1, 2)) / 30
        found: NDArray[np.float64] = np.log(shares / (1 - shares)) + self.shift
        return found

    def logits_and_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        self.mapped.append(len(images))
        return self.logits(images), images[:, ::32, ::32].astype(np.float32)

    def describe(self) -> dict[str, str]:
        return {"name": "mean", "device": "none", "precision": "exact"}
