"""Which study and which patient the labelled slices of a file of scores are of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemoscan.errors import DataError
from hemoscan.trainer.clusters import number, tell_apart
from hemoscan.trainer.join import Joined, join
from hemoscan.trainer.labels import Labels
from hemoscan.trainer.scores import Scores

Studies = list[tuple[str, ...] | None]


@dataclass(frozen=True)
class Belonging:
    """What joined slices belong to; arrays are of shape (n,)."""

    studies: NDArray[np.int64]
    """-1 where none is known."""
    clusters: NDArray[np.int64]
    """What is drawn together, or never torn apart: the patient, else the study, else the slice."""
    clustered_by: str
    """patient, study or slice: the first of these that any slice has."""
    without_patient: int
    """How many slices have none, where others have."""
    positive: NDArray[np.int64]
    """Shape (p,): the studies of `studies` with hemorrhage, on whichever labelled slice."""
    positive_unscored: int
    """How many further studies with hemorrhage have labels, but not one scored slice among them."""
    positives_astray: int
    """How many positive slices without score are of no known study."""


def belonging(scores: Scores, labels: Labels, joined: Joined) -> Belonging:
    """Find the patient in the labels, the study there, else (if they have none at all) in the scores."""
    everyone = labels.patients or ("",) * len(labels)
    patients = [everyone[place] for place in joined.labels]
    unscored = np.setdiff1d(np.flatnonzero(labels.labels), joined.labels).tolist()
    if labels.studies is not None and any(labels.studies[place] for place in joined.labels):
        named = tell_apart(labels.studies, everyone)
        studies, elsewhere = [named[place] for place in joined.labels], [named[place] for place in unscored]
    else:
        studies, elsewhere = _studies_of(scores, joined.rows), _studies_unscored(scores, labels.take(unscored))
    numbers = number(studies)
    number_of = dict(zip(studies, numbers.tolist(), strict=True))
    bleeding = {study for study, label in zip(studies, labels.labels[joined.labels], strict=True) if label and study}
    beyond = set(elsewhere) - {None}
    # A slice without patient is of its study's, where that has one.
    owners = {study: patient for study, patient in zip(studies, patients, strict=True) if study and patient}
    keys: list[tuple[Any, ...]] = []
    for place, (study, patient) in enumerate(zip(studies, patients, strict=True)):
        owner = patient or (owners.get(study) if study else None)
        keys.append((0, owner) if owner else (1, study) if study else (2, place))
    return Belonging(
        studies=numbers,
        positive=np.array(sorted(number_of[study] for study in bleeding | beyond & set(studies)), np.int64),
        positive_unscored=len(beyond - set(studies)),
        positives_astray=elsewhere.count(None),
        clusters=number(keys),
        clustered_by="patient" if any(patients) else "study" if any(studies) else "slice",
        without_patient=patients.count("") if any(patients) else 0,
    )


def _studies_of(scores: Scores, rows: NDArray[np.intp]) -> Studies:
    return [(scores.studies[row],) if scores.studies[row] else None for row in rows]


def _studies_unscored(scores: Scores, labels: Labels) -> Studies:
    """Return the study of each label, of which none has a score, as far as rows without score tell."""
    found: Studies = [None] * len(labels)
    if scores.without is None or not len(labels):
        return found
    try:
        joined = join(scores.without, labels)
    except DataError:  # they fit none, or not only one
        return found
    for place, study in zip(joined.labels.tolist(), _studies_of(scores.without, joined.rows), strict=True):
        found[place] = study
    return found
