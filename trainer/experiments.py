"""The report's eight experiments, and how one of them is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from hemoscan.card import ARCHITECTURES, INPUTS, MODEL_NAMES, InputSpec

RECIPES = ("report",)


@dataclass(frozen=True)
class Experiment:
    """One of the eight: a network and a way to meet the imbalance of the classes."""

    name: str
    """One of `hemoscan.card.MODEL_NAMES`, such as densenet-weight-bias."""

    def __post_init__(self) -> None:
        if self.name not in MODEL_NAMES:
            raise ValueError(f"experiment {self.name!r}; legal: {', '.join(MODEL_NAMES)}, all")

    @property
    def architecture(self) -> str:
        """Torchvision's name of the network."""
        return ARCHITECTURES[self.name.split("-")[0]]

    @property
    def class_weight(self) -> bool:
        """Whether each class counts the same in the loss."""
        return "weight" in self.name.split("-")

    @property
    def output_bias(self) -> bool:
        """Whether the logit starts at the log odds of the training set."""
        return "bias" in self.name.split("-")


def parse_experiments(text: str) -> tuple[Experiment, ...]:
    """Read a comma-separated list of experiments, or `all`.

    Raises
    ------
    ValueError
        If a name is none of the eight.
    """
    names: Iterable[str] = MODEL_NAMES if text == "all" else dict.fromkeys(part.strip() for part in text.split(","))
    return tuple(Experiment(name) for name in names)


@dataclass(frozen=True)
class Recipe:
    """How an experiment is trained. The defaults are the report's, but for `input`, `init` and what is said below."""

    name: str = "report"
    """One of `RECIPES`."""
    epochs: int = 7
    """Times that every training slice is shown."""
    batch_size: int = 32
    """Slices per step (Keras' default: the report names none)."""
    learning_rate: float = 5e-4
    """Adam's, constant."""
    seed: int = 0
    """Of initialisation, order of samples and dropout."""
    init: str = "imagenet"
    """imagenet, scratch, or a file: see `hemoscan.networks.start_classifier`."""
    input: str = "brain"
    """brain: 0 to 70 HU; raw: the report's own grey values."""
    reweigh_groups: bool = False
    """Whether every group (header's window, so site) counts with the same share of positives: `trainer.balance`."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Pairs (pixels, epochs): the first epochs at fewer pixels. Empty: all at the input's full size."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or not 0 < self.learning_rate < math.inf:
            raise ValueError("legal: 1 epoch or more, batch size of 2 or more, learning rate above 0, finite")
        if self.name not in RECIPES:
            raise ValueError(f"recipe {self.name!r}; legal: {', '.join(RECIPES)}")
        if self.input not in INPUTS:
            raise ValueError(f"input {self.input!r}; legal: {', '.join(INPUTS)}")
        if self.sizes and sum(epochs for _, epochs in self.sizes) != self.epochs:
            raise ValueError(f"sizes {self.sizes} do not add up to {self.epochs} epochs")

    @property
    def spec(self) -> InputSpec:
        """The network's input."""
        return INPUTS[self.input]

    def size_of(self, epoch: int) -> int:
        """Return the rows and columns at which an epoch (counted from 0) is trained."""
        for pixels, epochs in self.sizes:
            if epoch < epochs:
                return pixels
            epoch -= epochs
        return self.spec.size

    def identity(self) -> dict[str, Any]:
        """Return all that a run must share with a checkpoint to go on from it: everything but the number of epochs."""
        values = asdict(self)
        del values["epochs"], values["sizes"]
        return values


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Read `PIXELS:EPOCHS,…`, such as `128:4,224:1`.

    Raises
    ------
    ValueError
        If the text has another form, or a size is out of 32 to 1024 pixels.
    """
    pairs = []
    for part in text.split(","):
        pixels, colon, epochs = part.partition(":")
        if not (colon and pixels.strip().isdecimal() and epochs.strip().isdecimal()):
            raise ValueError(f"sizes {text!r}; legal: PIXELS:EPOCHS,… such as 128:4,224:1")
        pairs.append((int(pixels), int(epochs)))
    if any(not 32 <= pixels <= 1024 or epochs < 1 for pixels, epochs in pairs):
        raise ValueError(f"sizes {text!r}; legal: 32 to 1024 pixels, 1 epoch or more")
    return tuple(pairs)
