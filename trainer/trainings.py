"""Run folders as `hemoscan train` leaves them: a record, held-out logits and test logits for each training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemoscan.card import MODEL_NAMES
from hemoscan.errors import ResultsError
from hemoscan.trainer.experiments import Recipe, pixels_shown
from hemoscan.trainer.records import (
    CLUSTER,
    HELD_OUT_COLUMNS,
    TEST_COLUMNS,
    read_columns,
    read_integers,
    read_labels,
    read_numbers,
)
from hemoscan.trainer.splits import VALIDATION

RECORD_NAME = re.compile(rf"({'|'.join(MODEL_NAMES)})\.({VALIDATION}|fold\d+of\d+)\.json")
FOLD = re.compile(r"fold([1-9]\d*)of([1-9]\d*)")


@dataclass(frozen=True, order=True)
class Setting:
    """What makes two trainings two rows of a table; trainings that differ in their fold alone share a row."""

    recipe: str
    input: str
    experiment: str
    """One of `hemoscan.card.MODEL_NAMES`."""
    folds: int
    """Of the cross-validation; 0 where the data set's own validation split was held out."""
    init: str
    reweigh_groups: bool
    epochs: int
    sizes: tuple[tuple[int, int], ...]
    """Pairs (pixels, epochs) of a training with smaller images first; empty where all epochs were at full size."""
    size: int
    """Pixels of the last epoch."""
    limit: int
    """Slices taken of each split, for a trial; 0 where all were."""
    negatives: float
    """Share of the negatives that an epoch showed."""
    ema: float
    """Decay a step of the average of the weights; 0 where the last weights ship."""
    learning_rate: float
    batch_size: int
    weight_decay: float
    one_cycle: bool
    augment: bool
    left_out: tuple[str, ...]
    """Parts of the augmentation, or of the input, that were left out."""
    seed: int
    data: str
    """The data set, in words."""

    @property
    def budget(self) -> float:
        """See `hemoscan.trainer.experiments.pixels_shown`."""
        return pixels_shown(self.negatives, self.sizes or ((self.size, self.epochs),))


@dataclass(frozen=True)
class Run:
    """One training."""

    path: Path
    """Its record."""
    setting: Setting
    fold: int
    """Counted from 1; 0 where the validation split was held out."""
    record: Mapping[str, Any]
    ids: tuple[str, ...]
    """Of the held-out slices."""
    labels: NDArray[np.uint8]
    """Shape (n,)."""
    groups: NDArray[np.int64]
    """Shape (n,): the largest grey level, so the site; small groups merged into -1."""
    clusters: NDArray[np.int64] | None
    """Shape (n,): slices of one number belong together, such as a patient's; None where the run folder says nothing."""
    logits: NDArray[np.float64]
    """Shape (n,)."""
    test_ids: tuple[str, ...]
    """Of the unlabelled test images; empty where they were not scored."""
    test_logits: NDArray[np.float64]
    """Shape (number of test images,)."""


@dataclass(frozen=True)
class Result:
    """A row: the trainings of one setting, their held-out slices joined."""

    runs: tuple[Run, ...]
    """By fold."""

    @property
    def setting(self) -> Setting:
        """What the trainings share."""
        return self.runs[0].setting

    @property
    def ids(self) -> tuple[str, ...]:
        """Of all held-out slices."""
        return tuple(name for run in self.runs for name in run.ids)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Shape (n,)."""
        return np.concatenate([run.labels for run in self.runs])

    @property
    def groups(self) -> NDArray[np.int64]:
        """Shape (n,)."""
        return np.concatenate([run.groups for run in self.runs])

    @property
    def clusters(self) -> NDArray[np.int64]:
        """Shape (n,): slices of one number belong together. Each by itself where the run folder says nothing.

        None spans two folds: folds of two runs of the command may number different patients alike.
        """
        parts: list[NDArray[np.int64]] = []
        taken = 0
        for run in self.runs:
            known = np.arange(len(run.ids)) if run.clusters is None else run.clusters
            parts.append(taken + np.unique(known, return_inverse=True)[1])
            taken += len(known)
        return np.concatenate(parts)

    @property
    def knows_clusters(self) -> bool:
        """Whether all of its run folders say which slices belong together."""
        return all(run.clusters is not None for run in self.runs)

    @property
    def logits(self) -> NDArray[np.float64]:
        """Shape (n,), each by the training that did not see the slice."""
        return np.concatenate([run.logits for run in self.runs])

    @property
    def folds(self) -> NDArray[np.intp]:
        """Shape (n,): the fold that each slice was held out in."""
        return np.concatenate([np.full(len(run.ids), run.fold, np.intp) for run in self.runs])

    @property
    def split(self) -> str:
        """What was held out, in words."""
        if not self.setting.folds:
            return VALIDATION
        present = [str(run.fold) for run in self.runs]
        whole = len(present) == self.setting.folds
        return f"{self.setting.folds} folds" if whole else f"folds {', '.join(present)} of {self.setting.folds}"


def read_run_folders(folders: Sequence[Path]) -> list[Result]:
    """Read every training in some run folders, ordered by setting.

    Raises
    ------
    ResultsError
        If a folder holds no training, a file is missing or malformed, two folders hold the same training, or two folds
        the same slice; the text names the files.
    """
    runs: dict[tuple[Setting, int], Run] = {}
    for folder in folders:
        for run in _read_run_folder(folder):
            other = runs.setdefault((run.setting, run.fold), run)
            if other is not run:
                raise ResultsError(f"{run.path}: the same training as {other.path}; name one of the two folders")
    settings = sorted({setting for setting, _ in runs}, key=_order)
    rows = (tuple(runs[key] for key in sorted(runs, key=lambda key: key[1]) if key[0] == one) for one in settings)
    return [_checked(Result(row)) for row in rows]


def _order(setting: Setting) -> tuple[Any, ...]:
    """Order as in the report's table within a recipe and an input."""
    return setting.recipe, setting.input, MODEL_NAMES.index(setting.experiment), setting


def _checked(result: Result) -> Result:
    if len(set(result.ids)) < len(result.ids):
        paths = ", ".join(str(run.path) for run in result.runs)
        raise ResultsError(f"{paths}: a slice is held out more than once; legal: each slice in one fold")
    return result


def _read_run_folder(folder: Path) -> Iterable[Run]:
    found = sorted(path for path in folder.glob("*.json") if RECORD_NAME.fullmatch(path.name))
    if not found:
        raise ResultsError(
            f"{folder}: holds no finished training, such as {MODEL_NAMES[0]}.{VALIDATION}.json; "
            "name a folder that `hemoscan train --run-dir` wrote"
        )
    return map(_read_run, found)


def _read_run(path: Path) -> Run:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        setting, fold = _setting(record)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path}: not a training's record: {type(error).__name__}: {error}") from error
    scores = path.with_suffix(".csv")
    columns = read_columns(scores, HELD_OUT_COLUMNS, (CLUSTER,))
    labels = read_labels(scores, columns["label"])
    if set(labels.tolist()) != {0, 1} or len(labels) != record["n"] or labels.sum() != record["positives"]:
        raise ResultsError(
            f"{scores}: {len(labels)} slices, {labels.sum()} positive; legal: labels 0 and 1, both, and as in "
            f"{path.name}, {record['n']} slices, {record['positives']} positive"
        )
    clusters = read_integers(scores, CLUSTER, columns[CLUSTER]) if CLUSTER in columns else None
    test = path.with_suffix(".test.csv")
    tested = read_columns(test, TEST_COLUMNS) if test.exists() else {"id": [], "logit": []}
    return Run(
        path=path,
        setting=setting,
        fold=fold,
        record=record,
        ids=tuple(columns["id"]),
        labels=labels,
        groups=read_integers(scores, "group", columns["group"]),
        clusters=clusters,
        logits=read_numbers(scores, "logit", columns["logit"]),
        test_ids=tuple(tested["id"]),
        test_logits=read_numbers(test, "logit", tested["logit"]),
    )


def _setting(record: Mapping[str, Any]) -> tuple[Setting, int]:
    """Return setting and fold; what does not fit raises the builtin errors that `_read_run` wraps."""
    fold, folds = 0, 0
    if record["split"] != VALIDATION:
        match = FOLD.fullmatch(record["split"])
        if match is None:
            raise ValueError(f"split {record['split']!r}; legal: {VALIDATION}, fold1of5")
        fold, folds = int(match[1]), int(match[2])
    if record["experiment"] not in MODEL_NAMES:
        raise ValueError(f"experiment {record['experiment']!r}; legal: {', '.join(MODEL_NAMES)}")
    setting = Setting(
        recipe=str(record["recipe"]),
        input=str(record["input"]),
        experiment=record["experiment"],
        folds=folds,
        init=str(record["init"]),
        reweigh_groups=bool(record["reweigh_groups"]),
        epochs=int(record["epochs"]),
        sizes=tuple((int(pixels), int(epochs)) for pixels, epochs in record["sizes"]),
        size=int(record["history"][-1]["size"]),
        # Records of earlier versions lack some of these.
        limit=int(record.get("limit") or 0),
        negatives=float(record.get("negatives", 1)),
        ema=float(record.get("ema", 0)),
        learning_rate=float(record.get("learning_rate", Recipe.learning_rate)),
        batch_size=int(record.get("batch_size", Recipe.batch_size)),
        weight_decay=float(record.get("weight_decay", 0)),
        one_cycle=bool(record.get("one_cycle", False)),
        augment=bool(record.get("augment", False)),
        left_out=tuple(map(str, record.get("left_out", ()))),
        seed=int(record["seed"]),
        data=str(record["data"]),
    )
    for key in ("n", "positives", "seconds", "device", "precision", "machine", "history"):
        record[key]
    return setting, fold
