"""What a logit means: the probability that it stands for, and from which probability on a slice or a study is flagged.

On a model's card, measured on held-out slices; or in a site's own file, made by `hemoscan calibrate`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hemoscan.errors import CardError, OptionError

BALANCED, SENSITIVE, SPECIFIC = "balanced", "sensitive", "specific"
OPERATING_POINTS = (BALANCED, SENSITIVE, SPECIFIC)
SITE_FORMAT = 1
SITE_KIND = "hemoscan site calibration"


def _check(name: str, value: object, low: float, high: float) -> None:
    """Check a number after reading JSON; raise CardError if it is none, or out of its legal range."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise CardError(f"{name} {value!r:.50}; legal: {low:g} to {high:g}")


@dataclass(frozen=True)
class Calibration:
    """Platt scaling: the logit of the probability is `slope` times the network's logit plus `intercept`.

    Source: Platt, Advances in Large Margin Classifiers, 1999.
    """

    slope: float
    """Above 0: a higher score never becomes a lower probability."""
    intercept: float
    ece: float | None = None
    """Expected calibration error, cross-fitted, ten bins of equal mass."""
    on: str = ""
    """What it was fitted on."""

    def __post_init__(self) -> None:
        _check("calibration slope", self.slope, 1e-6, 1e6)
        _check("calibration intercept", self.intercept, -1e6, 1e6)

    def apply(self, logit: float) -> float:
        """Return the calibrated logit."""
        return self.slope * logit + self.intercept


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold for slices, and what it did to slices that it was not chosen on."""

    threshold: float
    """Probability, calibrated where there is a calibration, at or above which a slice is flagged."""
    sensitivity: float
    specificity: float
    on: str = ""
    """What the two were measured on."""

    def __post_init__(self) -> None:
        for name in ("threshold", "sensitivity", "specificity"):
            _check(f"operating point's {name}", getattr(self, name), 0, 1)


@dataclass(frozen=True)
class StudyPoint:
    """The threshold for a study's score. Provisional: `on` says from what it was chosen."""

    threshold: float
    """Score at or above which a study is flagged."""
    sensitivity: float
    """Share of studies with hemorrhage that are flagged."""
    specificity: float
    """Share of studies without that are not."""
    flagged: float
    """Expected share of all studies that are flagged."""
    prevalence: float
    """Share of studies with hemorrhage that `flagged` supposes."""
    on: str = ""

    def __post_init__(self) -> None:
        for name in ("threshold", "sensitivity", "specificity", "flagged", "prevalence"):
            _check(f"study's {name}", getattr(self, name), 0, 1)


@dataclass(frozen=True)
class Operating:
    """How a model's logits are read."""

    calibration: Calibration | None = None
    """None: the network's own probabilities."""
    operating_points: dict[str, OperatingPoint] = field(default_factory=dict)
    """By name; empty, or all of `OPERATING_POINTS`."""
    study: StudyPoint | None = None
    """None: a study is flagged if any slice is."""

    def __post_init__(self) -> None:
        if self.operating_points and set(self.operating_points) != set(OPERATING_POINTS):
            found = ", ".join(sorted(self.operating_points))
            raise CardError(f"operating points {found}; legal: {', '.join(OPERATING_POINTS)}, or none")

    @property
    def study_threshold(self) -> float | None:
        """Score from which a study is flagged; None: it is if any slice is."""
        return None if self.study is None else self.study.threshold

    def threshold_of(self, name: str) -> float:
        """Return an operating point's threshold; raise OptionError if there is none of this name."""
        if name not in self.operating_points:
            found = ", ".join(self.operating_points) or "none on this model's card; make some with `hemoscan calibrate`"
            raise OptionError(f"operating point {name!r}; legal: {found}")
        return self.operating_points[name].threshold


def parse_operating(values: dict[str, Any]) -> Operating:
    """Take calibration, operating points and study point out of parsed JSON, which may lack any of them.

    Raises
    ------
    CardError, TypeError, AttributeError
        If a value is out of its legal range, or something else than there should be.
    """
    calibration, points, study = (values.pop(key, None) for key in ("calibration", "operating_points", "study"))
    return Operating(
        Calibration(**calibration) if calibration else None,
        {name: OperatingPoint(**point) for name, point in (points or {}).items()},
        StudyPoint(**study) if study else None,
    )


def site_json(operating: Operating, model: str, sha256: str, about: dict[str, Any]) -> str:
    """Return the text of a site's file: for the model of this name and the SHA-256 of its weights alone."""
    head = {"format": SITE_FORMAT, "kind": SITE_KIND, "model": model, "sha256": sha256, "about": about}
    return json.dumps({**head, **asdict(operating)}, indent=2, ensure_ascii=False) + "\n"


def read_site(path: Path, model: str, sha256: str) -> Operating:
    """Read a site's file.

    Raises
    ------
    CardError
        If it cannot be read, is no such file, or was made for another model; the text names file and value.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] != SITE_KIND or content["format"] != SITE_FORMAT:
            raise ValueError(f"kind {content['kind']!r}, format {content['format']!r}")
        found = str(content["model"]), str(content["sha256"])
        operating = parse_operating(content)
    except OSError as error:
        raise CardError(f"{path}: calibration cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CardError(f"{path}: not a calibration by `hemoscan calibrate`: {error}") from error
    if found[1] != sha256:
        raise CardError(
            f"{path}: made for {found[0]} with weights of SHA-256 {found[1]}; this is {model} with {sha256}: "
            "scan with that model, or calibrate this one"
        )
    return operating
