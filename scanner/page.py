"""The worklist page: one HTML file that loads nothing, with the studies in order of urgency.

What it keeps of a run is bounded: a study's highest flagged slices, 20 bytes a scored slice, and one count a reason.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hemoscan import NOTICE, __version__
from hemoscan.aggregate import Study, study_of
from hemoscan.card import Card
from hemoscan.chart import HEIGHT, WIDTH, Chart, Points, draw_chart
from hemoscan.heatmap import SCALE, colour
from hemoscan.outputs import write_atomically
from hemoscan.pictures import Picture, Pictures
from hemoscan.slices import ERROR, OK, Row

MAX_STUDIES = 1000
THUMBNAILS = 8
MAX_CHARTS = 6
MAX_REASONS = 200
EXAMPLES = 3
OPENED = 3
OTHER_REASONS = "other reasons"
CARD_FIGURES = (
    "auc",
    "auc_group_balanced",
    "average_precision",
    "f1",
    "precision",
    "recall",
    "sensitivity",
    "specificity",
)
CARD_TRAINING = ("data", "slices", "positives", "init", "epochs", "seed")


@dataclass
class Reason:
    """Why files are not scored, and how many."""

    status: str
    text: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, path: str) -> None:
        """Count a file in."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(path)


@dataclass
class _Kept:
    """What is kept of a study, besides what the worklist has."""

    top: list[tuple[float, int, Row]] = field(default_factory=list)
    """The flagged slices with the highest probabilities, as a heap; of equals, those that came first."""
    series: dict[str, Points] = field(default_factory=dict)

    def add(self, row: Row, probability: float, order: int) -> None:
        identity = row.decoded.identity
        points = self.series.setdefault(identity.series_uid, Points())
        points.add(identity.z_mm, identity.instance_number, probability)
        if row.flag:
            push = heapq.heappush if len(self.top) < THUMBNAILS else heapq.heappushpop
            push(self.top, (probability, -order, row))

    @property
    def flagged(self) -> list[Row]:
        """The highest first."""
        return [row for _, _, row in sorted(self.top, key=lambda item: item[:2], reverse=True)]


@dataclass(frozen=True)
class SliceView:
    """A flagged slice as the template shows it."""

    row: Row
    key: str
    picture: Picture | None


@dataclass(frozen=True)
class StudyView:
    """A study as the template shows it."""

    rank: int
    study: Study
    folder: str
    """Where its highest slice lies."""
    newest: datetime | None
    slices: list[SliceView]
    charts: list[Chart]
    identifiers: tuple[str, ...]
    opened: bool


class Page:
    """Gathers rows, and writes the page: whole or not at all."""

    def __init__(
        self,
        path: Path,
        card: Card,
        threshold: float,
        pictures: Pictures,
        *,
        stale_after: float,
        study_threshold: float | None = None,
    ) -> None:
        """Take what is the same for the whole run.

        Parameters
        ----------
        path
            The file to write.
        card
            The model's.
        threshold
            Probability from which a slice is flagged.
        pictures
            Has the thumbnails.
        stale_after
            Hours after which the page raises an alarm.
        study_threshold
            Score from which a study is flagged; None: if any of its slices is.
        """
        self.path = path
        self._card, self._threshold, self._pictures, self._stale_after = card, threshold, pictures, stale_after
        self._study_threshold = study_threshold
        self.begin()

    def begin(self) -> None:
        """Forget the rows."""
        self._order = 0
        self._kept: dict[str, _Kept] = {}
        self._reasons: dict[tuple[str, str], Reason] = {}

    def add(self, row: Row) -> None:
        """Take a row in."""
        self._order += 1
        if row.probability is not None:
            self._kept.setdefault(study_of(row), _Kept()).add(row, row.probability, self._order)
        elif row.decoded.status != OK:
            key = (row.decoded.status, row.decoded.reason)
            if key not in self._reasons and len(self._reasons) >= MAX_REASONS:
                key = (row.decoded.status, OTHER_REASONS)
            self._reasons.setdefault(key, Reason(*key)).add(row.decoded.path)

    def lacking(self, studies: Iterable[Study]) -> Iterator[Row]:
        """Yield the slices that the page of these studies would show without a picture."""
        for study in list(studies)[:MAX_STUDIES]:
            kept = self._kept.get(study.uid)
            yield from (row for row in (kept.flagged if kept else ()) if self._pictures.lacks_thumbnail(row))

    def write(
        self,
        studies: list[Study],
        record: dict[str, Any],
        as_of: datetime,
        identifiers: Callable[[Study], tuple[str, ...]] = lambda study: (),
    ) -> None:
        """Write the page.

        Parameters
        ----------
        studies
            The most urgent first.
        record
            The run record.
        as_of
            When this was so.
        identifiers
            What else tells which study it is, if that is wanted.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        content = {
            "notice": NOTICE,
            "version": __version__,
            "studies": self._views(studies[:MAX_STUDIES], identifiers),
            "n_studies": len(studies),
            "n_flagged": sum(study.flag is True for study in studies),
            "n_slices": sum(study.n_slices for study in studies),
            "n_left_out": max(len(studies) - MAX_STUDIES, 0),
            "reasons": sorted(self._reasons.values(), key=lambda reason: (reason.status != ERROR, -reason.count)),
            "record": record,
            "card": self._card,
            "figures": {name: self._card.metrics[name] for name in CARD_FIGURES if name in self._card.metrics},
            "training": {name: self._card.training[name] for name in CARD_TRAINING if name in self._card.training},
            "threshold": self._threshold,
            "study_threshold": self._study_threshold,
            "as_of": as_of,
            "stale_after": self._stale_after,
            "scale": SCALE,
            "legend": _legend(),
            "chart": (WIDTH, HEIGHT),
            "thumbnails": THUMBNAILS,
        }
        stream = _template().stream(**content, **_assets())
        # Names of files that are not UTF-8 come as lone surrogates, as in the CSVs.
        write_atomically(self.path, lambda file: stream.dump(file, encoding="utf-8", errors="backslashreplace"))

    def _views(self, studies: list[Study], identifiers: Callable[[Study], tuple[str, ...]]) -> Iterator[StudyView]:
        opened = 0
        for rank, study in enumerate(studies, start=1):
            kept = self._kept.get(study.uid, _Kept())
            flagged = kept.flagged
            opened += bool(flagged)
            yield StudyView(
                rank=rank,
                study=study,
                folder=flagged[0].decoded.folder if flagged else os.path.dirname(study.example),  # noqa: PTH120
                newest=_utc(study.newest_mtime),
                slices=[SliceView(row, self._pictures.key(row), self._pictures.find(row)) for row in flagged],
                charts=[draw_chart(points, self._threshold) for points in _largest(kept.series)],
                identifiers=identifiers(study),
                opened=bool(flagged) and opened <= OPENED,
            )


def _largest(series: dict[str, Points]) -> list[Points]:
    return sorted(series.values(), key=lambda points: -len(points.z))[:MAX_CHARTS]


def _utc(mtime: float | None) -> datetime | None:
    try:
        return None if mtime is None else datetime.fromtimestamp(mtime, UTC)
    except (ValueError, OverflowError, OSError):  # times that no calendar has, which file systems do hold
        return None


def _legend() -> str:
    """Return the colours of the scale as base64 of a PNG."""
    content = io.BytesIO()
    values = np.linspace(*SCALE, 160, dtype=np.float32)
    colour(np.repeat(values[None], 8, axis=0)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode("ascii")


def _template() -> Any:
    import jinja2  # noqa: PLC0415 - only pages need it

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("worklist.html.j2")


def _assets() -> dict[str, Any]:
    """Return style and script, which are the package's own text, and the hashes by which the page lets them run."""
    import markupsafe  # noqa: PLC0415 - as above

    found: dict[str, Any] = {}
    for name, file in (("style", "worklist.css"), ("script", "worklist.js")):
        text = _read(file)
        found[name] = markupsafe.Markup(text)  # noqa: S704 - no text of any file that was scanned
        found[f"{name}_hash"] = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return found


def _read(name: str) -> str:
    return resources.files("hemoscan").joinpath(name).read_text(encoding="utf-8")
