"""`hemoscan evaluate`: from files of scores and labels to figures, a table and pictures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemoscan import __version__
from hemoscan.errors import DataError, OptionError
from hemoscan.outputs import write_atomically
from hemoscan.trainer.belonging import Belonging, belonging
from hemoscan.trainer.bootstrap import Bootstrap
from hemoscan.trainer.evaluation import Difference, Evaluation, Sample, compare, evaluate
from hemoscan.trainer.join import Joined, join
from hemoscan.trainer.labels import Labels, read_labels
from hemoscan.trainer.metrics import merge_scarce
from hemoscan.trainer.scores import PROBABILITY, Scores, read_scores
from hemoscan.trainer.worklist import as_in_worklist

FLAGS_OF_FILE = "flags of the file"
AS_IN_WORKLIST = "as in the worklist"
HIGHEST_SLICE = "highest slice, flagged if any slice is"


@dataclass(frozen=True)
class Source:
    """A file of scores, and how to read it."""

    path: Path
    score_column: str | None = None
    """None: the first of the usual names."""
    threshold: float | None = None
    """Score from which a slice counts as flagged; None: the file's own flags, else 0.5 of probabilities."""


@dataclass(frozen=True)
class Loaded:
    """A file of scores, joined with labels."""

    scores: Scores
    joined: Joined
    slices: Sample
    flagged_by: str
    belongs: Belonging
    """To which studies and patients."""
    unlabelled: tuple[str, ...]
    """Scored slices without label; copies of others are not among them."""
    unscored: tuple[str, ...]
    """Labelled slices without score."""

    @property
    def has_studies(self) -> bool:
        """Whether there is more than one study."""
        studies = self.belongs.studies
        return len(np.unique(studies[studies >= 0])) > 1


@dataclass(frozen=True)
class Outcome:
    """All that an evaluation found."""

    labels: Labels
    first: Loaded
    bootstrap: Bootstrap
    prevalences: tuple[float, ...]
    slices: Evaluation
    studies: Evaluation | None
    study_sample: Sample | None
    """The studies; None if there is but one, or none is known."""
    studies_by: str | None
    """What their scores and flags are: AS_IN_WORKLIST or HIGHEST_SLICE."""
    not_as_in_worklist: str | None = None
    """Why not; None if they are, or nobody wanted it."""
    second: Loaded | None = None
    compared: Compared | None = None

    def to_json(self) -> str:
        """Return the figures as JSON; what is not defined is null."""
        found: dict[str, Any] = {
            "hemoscan": __version__,
            "labels": {"path": str(self.labels.source), "n": len(self.labels)},
            "results": _describe(self.first),
            "bootstrap": {**asdict(self.bootstrap), "clusters": self.first.belongs.clustered_by},
            "slices": asdict(self.slices),
            "studies": None if self.studies is None else asdict(self.studies),
            "studies_by": self.studies_by,
            "not_as_in_worklist": self.not_as_in_worklist,
        }
        if self.second is not None and self.compared is not None:
            found["compared_with"] = _describe(self.second)
            found["comparison"] = {
                "n_slices": len(self.compared.pair[0]),
                "slices": _as_dicts(self.compared.slices),
                "studies": _as_dicts(self.compared.studies),
                "studies_by": HIGHEST_SLICE if self.compared.studies else None,
            }
        return json.dumps(found, indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Compared:
    """Two models on the slices that both have scored."""

    pair: tuple[Sample, Sample]
    """The slices of both, in the same order."""
    slices: dict[str, Difference]
    n_studies: int
    studies: dict[str, Difference]
    """By HIGHEST_SLICE for both; empty where studies are not known."""


def _as_dicts(differences: dict[str, Difference]) -> dict[str, Any]:
    return {name: asdict(difference) for name, difference in differences.items()}


def _describe(loaded: Loaded) -> dict[str, Any]:
    scores = loaded.scores
    return {
        "path": str(scores.source),
        "scored": len(scores),
        "left_out": scores.left_out,
        "matched": len(loaded.slices),
        "matched_by": loaded.joined.ways,
        "copies": len(loaded.joined.copies),
        "without_patient": loaded.belongs.without_patient,
        "positive_studies_without_score": loaded.belongs.positive_unscored,
        "positives_without_score_or_study": loaded.belongs.positives_astray,
        "without_label": len(loaded.unlabelled),
        "labels_without_score": len(loaded.unscored),
        "flagged_by": loaded.flagged_by,
    }


def run_evaluation(
    results: Source,
    labels_path: Path,
    bootstrap: Bootstrap,
    prevalences: tuple[float, ...] = (),
    other: Source | None = None,
) -> Outcome:
    """Read, join and measure.

    Raises
    ------
    DataError
        If a file cannot be read, or its slices cannot be told apart.
    OptionError
        If scores are no probabilities, and neither flags nor a threshold say what counts as flagged.
    """
    labels = read_labels(labels_path)
    first = load(results, labels)
    studies, studies_by, why = _by_study(results, first)
    outcome = Outcome(
        labels=labels,
        first=first,
        bootstrap=bootstrap,
        prevalences=prevalences,
        slices=evaluate(first.slices, bootstrap, prevalences),
        studies=None if studies is None else evaluate(studies, bootstrap, prevalences),
        study_sample=studies,
        studies_by=studies_by,
        not_as_in_worklist=why,
    )
    if other is None:
        return outcome
    second = load(other, labels)
    return replace(outcome, second=second, compared=_compare(first, second, bootstrap))


def write_outcome(outcome: Outcome, path: Path) -> None:
    """Write all figures as JSON, whole or not at all."""
    write_atomically(path, lambda file: file.write(outcome.to_json().encode()))


def load(source: Source, labels: Labels) -> Loaded:
    """Read a file of scores and join it with labels."""
    scores = read_scores(source.path, source.score_column)
    joined = join(scores, labels)
    flags, flagged_by = _flags(source, scores)
    truth = labels.labels[joined.labels]
    found = belonging(scores, labels, joined)
    groups, names = _groups(labels, joined, truth)
    matched_rows, matched_labels = {*joined.rows.tolist(), *joined.copies}, set(joined.labels.tolist())
    return Loaded(
        scores=scores,
        joined=joined,
        slices=Sample(
            scores=scores.scores[joined.rows],
            labels=truth,
            flags=flags[joined.rows],
            clusters=found.clusters,
            groups=groups,
            group_names=names,
            probabilities=scores.are_probabilities,
        ),
        flagged_by=flagged_by,
        belongs=found,
        unlabelled=tuple(scores.name_of(row) for row in range(len(scores)) if row not in matched_rows),
        unscored=tuple(labels.name_of(place) for place in range(len(labels)) if place not in matched_labels),
    )


def _by_study(source: Source, loaded: Loaded) -> tuple[Sample | None, str | None, str | None]:
    """Return the studies, what their scores and flags are, and why these are not the worklist's."""
    if not loaded.has_studies:
        return None, None, None
    belongs = loaded.belongs
    studies = loaded.slices.by_study(belongs.studies, belongs.positive)
    judged = None
    if source.threshold is None and source.score_column in (None, PROBABILITY):  # which the worklist is made of
        judged = as_in_worklist(studies, belongs.studies, loaded.scores, loaded.joined)
    return (judged, AS_IN_WORKLIST, None) if isinstance(judged, Sample) else (studies, HIGHEST_SLICE, judged)


def _flags(source: Source, scores: Scores) -> tuple[NDArray[np.bool_], str]:
    if source.threshold is not None:
        return scores.scores >= source.threshold, f"score >= {source.threshold:g}"
    if scores.flags is not None:
        return scores.flags, FLAGS_OF_FILE
    if not scores.are_probabilities:
        raise OptionError(
            f"{source.path}: scores go from {scores.scores.min():g} to {scores.scores.max():g} and there is no column "
            "flag; --threshold (--compare-threshold) says from which score on a slice is flagged"
        )
    return scores.scores >= 0.5, "score >= 0.5"


def _groups(
    labels: Labels, joined: Joined, truth: NDArray[np.uint8]
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    if labels.groups is None:
        return None, ()
    group_of = np.array([labels.groups[place] for place in joined.labels])
    names, groups = np.unique(group_of, return_inverse=True)
    return np.where(group_of == "", -1, merge_scarce(truth, groups)), tuple(names.tolist())


def _compare(first: Loaded, second: Loaded, bootstrap: Bootstrap) -> Compared:
    """Compare on the slices that both have scored; studies are those slices', too."""
    _, mine, theirs = np.intersect1d(first.joined.labels, second.joined.labels, return_indices=True)
    if not len(mine):
        raise DataError(f"{first.scores.source} and {second.scores.source}: no labelled slice is in both")
    one, studies, positive = first.slices.take(mine), first.belongs.studies[mine], first.belongs.positive
    # Who is drawn together, and what is a study, is the first file's word for both.
    other = replace(second.slices.take(theirs), clusters=one.clusters)
    n_studies = len(np.unique(studies[studies >= 0]))
    return Compared(
        pair=(one, other),
        slices=compare(one, other, bootstrap),
        n_studies=n_studies,
        studies=compare(one.by_study(studies, positive), other.by_study(studies, positive), bootstrap)
        if n_studies > 1
        else {},
    )
