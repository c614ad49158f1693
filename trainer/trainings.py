"""Run folders as `hemoscan train` leaves them: a record, held-out logits and test logits for each training."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemoscan.card import MODEL_NAMES
from hemoscan.errors import ResultsError
from hemoscan.trainer.experiments import LEGAL, MOST, Recipe, pixels_shown
from hemoscan.trainer.legal import FLAG, SHARE, TEXT, Legal, Maybe, Schema, check, is_text, number, whole
from hemoscan.trainer.records import (
    CLUSTER,
    FORMAT,
    HELD_OUT_COLUMNS,
    TEST_COLUMNS,
    read_columns,
    read_integers,
    read_labels,
    read_numbers,
)
from hemoscan.trainer.splits import VALIDATION

RECORD_NAME = re.compile(rf"({'|'.join(MODEL_NAMES)})\.({VALIDATION}|fold\d+of\d+)\.json")
FOLD = re.compile(r"fold([1-9][0-9]*)of([1-9][0-9]*)")

PIXELS, EPOCHS = whole(32, 1024), whole(1, MOST)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and PIXELS.fits(pair[0]) and EPOCHS.fits(pair[1]) for pair in value
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value))


NAME = Legal("1 to 64 of A-Z a-z 0-9 _ . -", _is_name)  # recipe and input are parts of the names of pictures
RECORD: Schema = {
    "format": FORMAT,
    "experiment": TEXT,
    "split": TEXT,
    "n": whole(2, 10**9),
    "positives": whole(1, 10**9),
    "recipe": NAME,
    "input": NAME,
    "data": TEXT,
    "init": TEXT,
    "reweigh_groups": FLAG,
    "epochs": EPOCHS,
    "sizes": Legal("pairs of pixels, 32 to 1,024, and epochs, 1 to 1,000,000", _are_sizes),
    "seed": whole(0, 2**31 - 1),
    "device": TEXT,
    "precision": TEXT,
    "machine": {"accelerator": Maybe(TEXT), "processor": Maybe(TEXT), "cores": Maybe(whole(1, MOST))},
    "seconds": number("0 to 1,000,000,000", lambda value: 0 <= value <= 1e9),
    "history": [
        {
            "epoch": EPOCHS,
            "size": PIXELS,
            # Of weights that were scored anew no loss is known.
            "loss": number("a finite number, or NaN", lambda value: math.isnan(value) or abs(value) < math.inf),
            "validation": Maybe({"auc": SHARE}),
        }
    ],
    # Records of earlier versions lack some of these.
    "limit": Maybe(whole(1, 10**9)),
    **{name: Maybe(legal) for name, legal in LEGAL.items()},
    "batch_size": Maybe(whole(2, MOST)),
    "one_cycle": Maybe(FLAG),
    "augment": Maybe(FLAG),
    "left_out": Maybe(Legal("a list of texts", lambda value: isinstance(value, list) and all(map(is_text, value)))),
    "trained_on": Maybe({"slices": whole(1, 10**9)}),
    "groups": Maybe(
        Legal("an object of texts", lambda value: isinstance(value, dict) and all(map(is_text, value.values())))
    ),
}
"""What of a record is used here."""


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
        check(record, RECORD)
        setting, fold = _setting(record, path.name)
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path}: not a training's record: {error}") from error
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


def _setting(record: Mapping[str, Any], name: str) -> tuple[Setting, int]:
    """Return setting and fold of a checked record in a file of this name, which fits `RECORD_NAME`."""
    experiment, split, _ = name.split(".")
    for key, expected in (("experiment", experiment), ("split", split)):
        if record[key] != expected:
            raise ValueError(f"{key} {reprlib.repr(record[key])}; legal: {expected}, as in the file's name")
    fold, folds = 0, 0
    if split != VALIDATION:
        match = FOLD.fullmatch(split)
        fold, folds = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= fold <= folds:
            raise ValueError(f"split {split}; legal: {VALIDATION}, or fold1ofK to foldKofK")
    setting = Setting(
        recipe=record["recipe"],
        input=record["input"],
        experiment=experiment,
        folds=folds,
        init=record["init"],
        reweigh_groups=record["reweigh_groups"],
        epochs=record["epochs"],
        sizes=tuple((pixels, epochs) for pixels, epochs in record["sizes"]),
        size=record["history"][-1]["size"],
        # What an earlier version did not write is as if it was null.
        limit=record.get("limit") or 0,
        negatives=float(record.get("negatives") or 1),
        ema=float(record.get("ema") or 0),
        learning_rate=float(record.get("learning_rate") or Recipe.learning_rate),
        batch_size=record.get("batch_size") or Recipe.batch_size,
        weight_decay=float(record.get("weight_decay") or 0),
        one_cycle=record.get("one_cycle") or False,
        augment=record.get("augment") or False,
        left_out=tuple(record.get("left_out") or ()),
        seed=record["seed"],
        data=record["data"],
    )
    return setting, fold
