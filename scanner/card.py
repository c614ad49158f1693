"""Model cards: what a model takes in, how it was made, how well it did, and which weights are its own.

A card is a JSON file beside its safetensors file. Preprocessing, network, threshold and notes are built from the
card, never from constants, and the weights are loaded only if their SHA-256 is the card's.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from hemoscan.errors import CardError, OptionError
from hemoscan.operating import Calibration, Operating, OperatingPoint, StudyPoint, parse_operating

CARD_FORMAT = 1
ARCHITECTURES = {"densenet": "densenet121", "resnet": "resnet101"}
VARIANTS = ("base", "weight", "bias", "weight-bias")
MODEL_NAMES = tuple(f"{family}-{variant}" for family in ARCHITECTURES for variant in VARIANTS)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _numbers(values: object, count: int) -> bool:
    """Tell whether these are `count` finite numbers, as they should be after reading JSON."""
    return (
        isinstance(values, tuple)
        and len(values) == count
        and all(isinstance(value, int | float) and abs(value) <= sys.float_info.max for value in values)
    )


@dataclass(frozen=True)
class InputSpec:
    """What the network is shown: grey values of one slice, brought to a fixed size.

    Values are clipped to the window in HU, truncated to whole HU, and resized by plain bilinear interpolation. The
    network then divides by `scale` and normalises with `mean` and `std`.
    """

    window: tuple[float, float]
    """Centre and width in HU. The lower end is 0 or more, since values are kept as uint8."""
    size: int = 224
    """Rows and columns of the square that the network takes."""
    scale: float = 255.0
    """Grey value that becomes 1."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted, per channel, after scaling (torchvision's ImageNet figures)."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Divided by, per channel."""
    tissue: float | None = None
    """HU to which the median of the slice's central tissue is brought; None: values are left as they are."""
    crop: bool = False
    """Whether the head is cut out of the frame, once that has the data set's size, and resized to `size`."""

    def __post_init__(self) -> None:
        if not _numbers(self.window, 2):
            raise CardError(f"input window {self.window!r}; legal: within 0 to 255, as centre and width in HU")
        low, high = self.limits
        if not 0 <= low < high <= 255:
            raise CardError(
                f"input window {self.window} spans {low:g} to {high:g} HU; legal: within 0 to 255, not empty"
            )
        if not isinstance(self.size, int) or not 1 <= self.size <= 4096:
            raise CardError(f"input size {self.size!r}; legal: 1 to 4096")
        if not _numbers((self.scale,), 1) or self.scale <= 0:
            raise CardError(f"input scale {self.scale!r}; legal: above 0")
        if not _numbers(self.std, 3) or min(self.std) <= 0:
            raise CardError(f"input std {self.std!r}; legal: above 0, three of them")
        if not _numbers(self.mean, 3):
            raise CardError(f"input mean {self.mean!r}; legal: three numbers")
        if self.tissue is not None and (not _numbers((self.tissue,), 1) or not low < self.tissue < high):
            raise CardError(f"input tissue {self.tissue!r}; legal: null, or HU within the window")
        if not isinstance(self.crop, bool):
            raise CardError(f"input crop {self.crop!r}; legal: true or false")

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value, HU."""
        centre, width = self.window
        return centre - width / 2, centre + width / 2


BRAIN = InputSpec(window=(35.0, 70.0), scale=70.0)
"""0 to 70 HU: hides the header's window, so the site (see docs/training.md)."""
RAW = InputSpec(window=(127.5, 255.0), scale=255.0)
"""The report's own grey values: whatever the header's window left of the HU."""
HEAD = InputSpec(window=(35.0, 70.0), scale=70.0, tissue=30.0, crop=True)
"""0 to 70 HU of the head alone, its tissue at a common level."""
INPUTS = {"brain": BRAIN, "raw": RAW, "head": HEAD}


@dataclass(frozen=True)
class Card:
    """A model's card. `training` and `metrics` are for people; the rest steers the scanner."""

    name: str
    """One of `MODEL_NAMES`."""
    architecture: str
    """torchvision's name of the network: densenet121 or resnet101."""
    input: InputSpec
    """What the network takes."""
    threshold: float
    """Probability at or above which a slice is flagged, 0 to 1."""
    weights: str
    """File name of the safetensors file, in the card's folder."""
    sha256: str
    """SHA-256 of that file, hexadecimal."""
    training: dict[str, Any] = field(default_factory=dict)
    """Data, seed, epochs, options, where it ran and how long."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Measured figures, with the split they were measured on."""
    notice: str = ""
    """Licence and limits of the weights."""
    calibration: Calibration | None = None
    """What brings the network's logits to probabilities; None: nothing does."""
    operating_points: dict[str, OperatingPoint] = field(default_factory=dict)
    """Thresholds for slices by name, `threshold` is that of `balanced`; empty on cards without."""
    study: StudyPoint | None = None
    """The threshold for studies; None: a study is flagged if any slice is."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES.values():
            raise CardError(f"architecture {self.architecture!r}; legal: {', '.join(ARCHITECTURES.values())}")
        if not _numbers((self.threshold,), 1) or not 0 <= self.threshold <= 1:
            raise CardError(f"threshold {self.threshold!r}; legal: 0 to 1")
        if not isinstance(self.weights, str) or Path(self.weights).name != self.weights or self.weights in ("", ".."):
            raise CardError(f"weights {self.weights!r}; legal: a file name without folders")
        _ = self.operating  # checks its names

    @property
    def operating(self) -> Operating:
        """How the model's logits are read."""
        return Operating(self.calibration, self.operating_points, self.study)

    def to_json(self) -> str:
        """Return the card as JSON text, keys in a fixed order."""
        return json.dumps({"format": CARD_FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Model:
    """A card together with the folder that it and its weights lie in."""

    card: Card
    folder: Path

    @property
    def weights_path(self) -> Path:
        """The safetensors file."""
        return self.folder / self.card.weights

    def read_weights(self) -> bytes:
        """Return the content of the safetensors file, its hash checked.

        Raises
        ------
        CardError
            If the file is missing or is not the one that the card names.
        """
        try:
            content = self.weights_path.read_bytes()
        except OSError as error:
            raise CardError(
                f"{self.weights_path}: weights of {self.card.name} cannot be read: {error.strerror}"
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.card.sha256:
            raise CardError(
                f"{self.weights_path}: SHA-256 is {found}, the card of {self.card.name} says {self.card.sha256}: "
                "the file or the card was changed or damaged; install hemoscan again or train anew"
            )
        return content


def read_card(path: Path) -> Card:
    """Read a card.

    Raises
    ------
    CardError
        If the file cannot be read, is no JSON, or holds a value out of its legal range; the text names the file.
    """
    try:
        return _card(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise CardError(f"{path}: card cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CardError(f"{path}: not a model card: {error}") from error


def _card(content: dict[str, Any]) -> Card:
    """Build a card from parsed JSON; wrong keys and types raise the builtin errors that `read_card` wraps."""
    values = dict(content)
    found = values.pop("format", None)
    if found != CARD_FORMAT:
        raise CardError(f"format {found}; this hemoscan reads format {CARD_FORMAT}")
    spec: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.pop("input").items()
    }
    operating = parse_operating(values)
    return Card(
        input=InputSpec(**spec),
        calibration=operating.calibration,
        operating_points=operating.operating_points,
        study=operating.study,
        **values,
    )


def builtin_folder() -> Path:
    """Return the folder of the weights that are installed with hemoscan."""
    return Path(str(resources.files("hemoscan.weights")))


def has_weights(name: str) -> bool:
    """Return whether a model of this name is installed with hemoscan."""
    return (builtin_folder() / f"{name}.json").is_file()


def find_model(name: str, folder: Path | None = None) -> Model:
    """Find a model by name, or by the path of its card.

    Parameters
    ----------
    name
        One of `MODEL_NAMES`, or a path that ends in `.json`.
    folder
        Where to look for a name; the installed weights if None.

    Raises
    ------
    OptionError
        If the name is none of them.
    CardError
        If the model has no weights; the text says how to come by them.
    """
    if name.endswith(".json"):
        path = Path(name)
        return Model(read_card(path), path.parent)
    if name not in MODEL_NAMES:
        raise OptionError(f"model {name!r}; legal: {', '.join(MODEL_NAMES)}, or the path of a card (.json)")
    folder = folder or builtin_folder()
    path = folder / f"{name}.json"
    if not path.is_file():
        raise CardError(
            f"model {name!r} has no weights in {folder}: make them with "
            f"`hemoscan train --experiments {name}`, then pass the card with --model FILE.json"
        )
    return Model(read_card(path), folder)
