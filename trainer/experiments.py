"""The report's eight experiments, and how one of them is trained."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hemoscan.card import ARCHITECTURES, INPUTS, MODEL_NAMES, InputSpec
from hemoscan.trainer.legal import number

WARM_UP = 0.15
MOST = 1_000_000
"""Epochs of a training, and slices of a batch."""
LEGAL = {
    "learning_rate": number("above 0, finite", lambda value: 0 < value < math.inf),
    "weight_decay": number("0 or more, finite", lambda value: 0 <= value < math.inf),
    "negatives": number("above 0 up to 1", lambda value: 0 < value <= 1),
    "ema": number("0 or more, below 1", lambda value: 0 <= value < 1),
}
"""Of a recipe, and of the record of a training by it."""
PAIR = re.compile(r"\s*(\d{1,9})\s*:\s*(\d{1,9})\s*")
PARTS = ("geometry", "hu", "crop", "alignment")
"""What a recipe can leave out: the two halves of the augmentation, the two steps beyond the window of input `head`."""


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


RECIPES: dict[str, dict[str, Any]] = {
    "report": {},
    "strong": {
        "epochs": 9,
        "learning_rate": 1.5e-3,
        "input": "head",
        "weight_decay": 0.02,
        "one_cycle": True,
        "augment": True,
    },
}
"""Where a named recipe departs from the defaults of `Recipe`."""


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
    """Adam's; of a one-cycle schedule, the highest."""
    weight_decay: float = 0.0
    """AdamW's, decoupled; at 0 AdamW is Adam."""
    one_cycle: bool = False
    """Whether the rate rises over the first steps and then falls to nothing (`rate_at`), instead of staying."""
    augment: bool = False
    """Whether slices are changed at random: `trainer.augment`."""
    left_out: tuple[str, ...] = ()
    """Those of `PARTS` that the training goes without, to see what they are worth."""
    ema: float = 0.0
    """Decay a step of the exponential moving average of the weights, which is what is measured and shipped; 0: none."""
    negatives: float = 1.0
    """Share of the negatives that an epoch shows, drawn anew each time; they weigh the more."""
    seed: int = 0
    """Of initialisation, order of samples and dropout."""
    init: str = "imagenet"
    """imagenet, scratch, or a file: see `hemoscan.networks.start_classifier`."""
    input: str = "brain"
    """brain: 0 to 70 HU; raw: the report's own grey values; head: 0 to 70 HU of the head alone, its level aligned."""
    size: int = 224
    """Rows and columns of the network's input."""
    reweigh_groups: bool = False
    """Whether every group (header's window, so site) counts with the same share of positives: `trainer.balance`."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Pairs (pixels, epochs): the first epochs at fewer pixels. Empty: all at the input's full size."""

    def __post_init__(self) -> None:
        ranges = {
            "epochs": (1 <= self.epochs <= MOST, f"1 to {MOST:,}"),
            "batch_size": (2 <= self.batch_size <= MOST, f"2 to {MOST:,}"),
            **{name: (legal.fits(getattr(self, name)), legal.words) for name, legal in LEGAL.items()},
            "size": (32 <= self.size <= 1024, "32 to 1024 pixels"),
        }
        for name, (fits, legal) in ranges.items():
            if not fits:
                raise ValueError(f"{name.replace('_', ' ')} {getattr(self, name)}; legal: {legal}")
        if self.name not in RECIPES:
            raise ValueError(f"recipe {self.name!r}; legal: {', '.join(RECIPES)}")
        if not set(self.left_out) <= set(PARTS):
            raise ValueError(f"left out {self.left_out}; legal: {', '.join(PARTS)}")
        if self.input not in INPUTS:
            raise ValueError(f"input {self.input!r}; legal: {', '.join(INPUTS)}")
        if self.sizes and sum(epochs for _, epochs in self.sizes) != self.epochs:
            raise ValueError(f"sizes {describe_sizes(self.sizes)} do not add up to {self.epochs} epochs")
        if any(pixels > self.size for pixels, _ in self.sizes):
            text = f"sizes {describe_sizes(self.sizes)}; legal: up to the input's {self.size} pixels (--size)"
            raise ValueError(text)

    @property
    def spec(self) -> InputSpec:
        """The network's input."""
        spec = replace(INPUTS[self.input], size=self.size)
        if "crop" in self.left_out:
            spec = replace(spec, crop=False)
        return replace(spec, tissue=None) if "alignment" in self.left_out else spec

    @property
    def budget(self) -> float:
        """See `pixels_shown`."""
        return pixels_shown(self.negatives, self.sizes or ((self.size, self.epochs),))

    def size_of(self, epoch: int) -> int:
        """Return the rows and columns at which an epoch (counted from 0) is trained."""
        for pixels, epochs in self.sizes:
            if epoch < epochs:
                return pixels
            epoch -= epochs
        return self.spec.size

    def identity(self) -> dict[str, Any]:
        """Return all that a run must share with a checkpoint to go on from it: everything but the number of epochs.

        That too where the rate depends on it.
        """
        values = asdict(self)
        del values["sizes"]
        for key in ("left_out", "ema"):  # checkpoints from before know neither
            if not values[key]:
                del values[key]
        if not self.one_cycle:
            del values["epochs"]
        return values

    def rate_at(self, part: float) -> float:
        """Return the learning rate when `part` (0 to 1) of the training is done.

        One cycle: a linear rise from a 25th over the first 15 %, then a cosine down to a thousandth. Source: Smith and
        Topin, Super-convergence, 2018.
        """
        if not self.one_cycle:
            return self.learning_rate
        if part < WARM_UP:
            return self.learning_rate * (1 / 25 + (1 - 1 / 25) * part / WARM_UP)
        cosine = 0.5 * (1 + math.cos(math.pi * min((part - WARM_UP) / (1 - WARM_UP), 1)))
        return self.learning_rate * (1e-3 + (1 - 1e-3) * cosine)


def pixels_shown(negatives: float, sizes: Iterable[tuple[int, int]]) -> float:
    """Return the pixels shown of a negative in all epochs, on average: what makes one training longer than another.

    Parameters
    ----------
    negatives
        Share of the negatives that an epoch shows.
    sizes
        Pairs (pixels, epochs).
    """
    return negatives * sum(pixels**2 * epochs for pixels, epochs in sizes)


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Read `PIXELS:EPOCHS,…`, such as `128:4,224:1`.

    Raises
    ------
    ValueError
        If the text has another form, or a number is out of its legal range.
    """
    matches = [PAIR.fullmatch(part) for part in text.split(",")]
    pairs = tuple((int(match[1]), int(match[2])) for match in matches if match)
    if len(pairs) < len(matches):
        raise ValueError(f"sizes {text!r}; legal: PIXELS:EPOCHS,… such as 128:4,224:1")
    if any(not 32 <= pixels <= 1024 or not 1 <= epochs <= MOST for pixels, epochs in pairs):
        raise ValueError(f"sizes {text!r}; legal: 32 to 1024 pixels, 1 to {MOST:,} epochs")
    return pairs


def describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Return pairs of pixels and epochs as `parse_sizes` reads them."""
    return ",".join(f"{pixels}:{epochs}" for pixels, epochs in sizes)
