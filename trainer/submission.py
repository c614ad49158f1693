"""Predictions of the unlabelled test images in the form of the challenge: `id,class`, 0 or 1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hemoscan.errors import ResultsError
from hemoscan.outputs import write_atomically
from hemoscan.trainer.data import TEST_IDS
from hemoscan.trainer.metrics import best_f1_threshold, probabilities
from hemoscan.trainer.trainings import Result

TEST_IMAGES = len(TEST_IDS)


@dataclass(frozen=True)
class Submission:
    """A written file."""

    path: Path
    threshold: float
    """Probability, the one with the best F1 on all held-out slices."""
    n: int
    """Test images scored: those that were in the data set's folder, of `TEST_IMAGES`."""
    flagged: int
    """Those of class 1."""


def write_submission(result: Result) -> Submission | None:
    """Write a row's test predictions into its run folder; None where no fold, or a trial alone, scored test images.

    The file is `submission-<model>.csv`, and of a cross-validation, whose folds' logits are averaged,
    `submission-<model>.<k>folds.csv`.

    Raises
    ------
    ResultsError
        If some folds scored other test images than the rest.
    """
    if result.setting.limit or not any(run.test_ids for run in result.runs):
        return None
    first = result.runs[0]
    for run in result.runs:
        if set(run.test_ids) != set(first.test_ids) or len(set(run.test_ids)) < len(run.test_ids):
            raise ResultsError(f"{run.path}: other test images than {first.path}, or one twice; score all anew")
    order = [dict(zip(run.test_ids, run.test_logits, strict=True)) for run in result.runs]
    ids = sorted(first.test_ids)
    scores = probabilities(np.array([[logits[name] for name in ids] for logits in order]).mean(axis=0))
    threshold = best_f1_threshold(probabilities(result.logits), result.labels)
    flags = scores >= threshold
    text = "id,class\n" + "".join(f"{name},{flag:d}\n" for name, flag in zip(ids, flags, strict=True))
    folds = f".{result.setting.folds}folds" if result.setting.folds else ""
    path = first.path.parent / f"submission-{result.setting.experiment}{folds}.csv"
    write_atomically(path, lambda file: file.write(text.encode()))
    return Submission(path, threshold, len(ids), int(flags.sum()))
