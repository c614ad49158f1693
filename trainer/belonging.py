"""Which study and which patient the labelled slices of a file of scores are of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemoscan.trainer.clusters import number, tell_apart
from hemoscan.trainer.join import Joined
from hemoscan.trainer.labels import Labels
from hemoscan.trainer.scores import Scores


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


def belonging(scores: Scores, labels: Labels, joined: Joined) -> Belonging:
    """Find the patient in the labels, the study there, else (if they have none at all) in the scores."""

    def column(values: tuple[str, ...] | None) -> list[str]:
        return ["" if values is None else values[place] for place in joined.labels]

    patients, named = column(labels.patients), column(labels.studies)
    if any(named):
        studies = tell_apart(named, patients)
    else:
        studies = [(scores.studies[row],) if scores.studies[row] else None for row in joined.rows]
    # A slice without patient is of its study's, where that has one.
    owners = {study: patient for study, patient in zip(studies, patients, strict=True) if study and patient}
    keys: list[tuple[Any, ...]] = []
    for place, (study, patient) in enumerate(zip(studies, patients, strict=True)):
        owner = patient or (owners.get(study) if study else None)
        keys.append((0, owner) if owner else (1, study) if study else (2, place))
    return Belonging(
        studies=number(studies),
        clusters=number(keys),
        clustered_by="patient" if any(patients) else "study" if any(studies) else "slice",
        without_patient=patients.count("") if any(patients) else 0,
    )
