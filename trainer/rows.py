"""What the document and its pictures are made from: sections of rows, and the baselines on the same splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemoscan.trainer.baselines import BASELINES, Features, SplitFeatures, baseline_logits
from hemoscan.trainer.data import DATA_SET
from hemoscan.trainer.experiments import Recipe, describe_sizes
from hemoscan.trainer.metrics import probabilities
from hemoscan.trainer.plots import Curve
from hemoscan.trainer.row_figures import Figures, figures_of
from hemoscan.trainer.trainings import Result, Setting

REPORT_RECIPE = "report"
REPORT_INPUTS = ("raw", "brain")
REPORT_PIXELS = 224
VARIED = {
    "init": "start",
    "epochs": "epochs",
    "size": "pixels",
    "sizes": "sizes",
    "reweigh_groups": "groups",
    "negatives": "share of the negatives",
    "learning_rate": "rate",
    "batch_size": "batch size",
    "ema": "averaging",
    "left_out": "augmentation",
    "limit": "slices",
    "folds": "held-out slices",
    "data": "data",
}
"""What makes rows of one recipe and input no comparison of their experiments, in words."""


@dataclass(frozen=True)
class Row:
    """A row of the tables and its curves."""

    label: str
    how: str
    """How it was trained and on what it was measured."""
    split: str
    """What was held out, in words."""
    logits: NDArray[np.float64]
    """Shape (n,)."""
    labels: NDArray[np.uint8]
    """Shape (n,)."""
    groups: NDArray[np.int64]
    """Shape (n,)."""
    folds: NDArray[np.intp]
    """Shape (n,)."""
    clusters: NDArray[np.int64]
    """Shape (n,)."""
    result: Result | None
    """None for a baseline."""

    @cached_property
    def figures(self) -> Figures:
        """With intervals."""
        return figures_of(self.logits, self.labels, self.groups, self.folds, self.clusters)

    @property
    def curve(self) -> Curve:
        """For `hemoscan.trainer.plots.curves_figure`."""
        return Curve(self.label, probabilities(self.logits), self.labels)


@dataclass(frozen=True)
class Section:
    """The rows of one recipe and input."""

    recipe: str
    input: str
    rows: tuple[Row, ...]
    """As in the report's table, what was not run left out."""
    baselines: tuple[Row, ...]
    """Two for each way that the slices were split."""
    reduced: bool = False
    """Whether its rows are trials, see `is_reduced`."""

    @property
    def name(self) -> str:
        """For the names of pictures."""
        return f"{self.recipe}-{self.input}" + "-reduced" * self.reduced

    @property
    def title(self) -> str:
        """For headings and captions."""
        return "reduced runs: " * self.reduced + f"recipe `{self.recipe}`, input `{self.input}`"

    @property
    def settings(self) -> list[Setting]:
        """Of its rows."""
        return [row.result.setting for row in self.rows if row.result is not None]

    @property
    def experiments(self) -> set[str]:
        """Those that were run."""
        return {one.experiment for one in self.settings}


def make_sections(results: Sequence[Result], features: SplitFeatures | None) -> list[Section]:
    """Return the sections, the report's recipe with either input first, run or not; baselines only with features.

    Reduced runs have sections of their own, after that of their recipe and input.
    """
    keys = [(REPORT_RECIPE, name) for name in REPORT_INPUTS]
    keys += sorted({(one.setting.recipe, one.setting.input) for one in results} - set(keys))
    measured: dict[Any, tuple[Row, ...]] = {}
    sections = []
    for recipe, name in keys:
        found = [one for one in results if (one.setting.recipe, one.setting.input) == (recipe, name)]
        for reduced in (False, True):
            members = [one for one in found if is_reduced(one.setting, found) == reduced]
            baselines: dict[Any, tuple[Row, ...]] = {}
            for one in members:
                key = frozenset(zip(one.ids, one.folds.tolist(), strict=True))
                if features and key not in measured:
                    measured[key] = _baselines(one, features)
                baselines[key] = measured.get(key, ())
            rows = tuple(_row(one, label) for one, label in zip(members, _labels(members), strict=True))
            if rows or not reduced:
                sections.append(Section(recipe, name, rows, _told_apart(list(baselines.values())), reduced))
    return sections


def is_reduced(setting: Setting, others: Sequence[Result]) -> bool:
    """Return whether a training is a trial, not the row that stands for its experiment.

    So it is with fewer slices, with fewer pixels than the report's in the report's recipe, or with a smaller budget
    than that of another of the same recipe, input, experiment and data; never if its recipe is just the report's.
    """
    if _is_unchanged(setting):
        return False
    here = (setting.experiment, other_data(setting))
    same = [one.setting for one in others if (one.setting.experiment, other_data(one.setting)) == here]
    return _is_small(setting) or any(setting.budget < one.budget for one in same if not _is_small(one))


def is_comparable(setting: Setting) -> bool:
    """Return whether a training can be set beside the report: its recipe, maybe shorter or longer, on its data."""
    return setting.recipe == REPORT_RECIPE and not other_data(setting)


def is_in_full(setting: Setting) -> bool:
    """Return whether a training has the report's recipe unchanged, but for held-out slices and lack of ImageNet."""
    return is_comparable(setting) and _is_unchanged(setting) and not has_own_start(setting)


def has_own_start(setting: Setting) -> bool:
    """Return whether a training went on from a file of weights, which may have learned from slices held out here."""
    return setting.init not in ("scratch", "imagenet")


def unlike(settings: Sequence[Setting]) -> tuple[str, ...]:
    """Return in which of `VARIED` the trainings of different experiments differ, besides the experiment."""
    return tuple(words for name, words in VARIED.items() if len({getattr(one, name) for one in settings}) > 1)


def _is_unchanged(setting: Setting) -> bool:
    report = Recipe()
    names = (
        *("reweigh_groups", "epochs", "size", "sizes", "negatives", "ema", "learning_rate", "batch_size"),
        *("weight_decay", "one_cycle", "augment", "left_out"),
    )
    unchanged = all(getattr(setting, name) == getattr(report, name) for name in names)
    return setting.recipe == report.name and not setting.limit and unchanged


def other_data(setting: Setting) -> str:
    """Return the data set, in words, unless it is the report's."""
    return "" if setting.data.startswith(DATA_SET) else setting.data


def _is_small(setting: Setting) -> bool:
    return bool(setting.limit) or (setting.recipe == REPORT_RECIPE and setting.size < REPORT_PIXELS)


def describe_init(init: str) -> str:
    """Return the start in words; of a file its name, since its folder is nobody's business."""
    words = {"scratch": "from scratch", "imagenet": "from ImageNet"}
    return words.get(init) or f"from {Path(init).name}"


def _row(result: Result, label: str) -> Row:
    setting = result.setting
    devices = sorted({str(run.record["device"]) for run in result.runs})
    how = [f"{describe_epochs(setting)} {describe_init(setting.init)}"]
    how += [f"first {setting.limit:,} slices"] * bool(setting.limit) + [result.split, *devices]
    how += ["groups reweighed"] * setting.reweigh_groups
    how += filter(None, (describe_negatives(setting), describe_average(setting), other_data(setting)))
    return Row(
        label=label,
        how=", ".join(how),
        split=result.split,
        logits=result.logits,
        labels=result.labels,
        groups=result.groups,
        folds=result.folds,
        clusters=result.clusters,
        result=result,
    )


def _labels(results: Sequence[Result]) -> list[str]:
    """Return each row's name: the experiment, and what tells rows of the same experiment apart."""
    labels = []
    for _, same in groupby(results, key=lambda one: one.setting.experiment):
        rows = list(same)
        differing = [
            field.name for field in fields(Setting) if len({getattr(one.setting, field.name) for one in rows}) > 1
        ]
        for one in rows:
            words = ", ".join(filter(None, (_word(one, name) for name in differing)))
            labels.append(one.setting.experiment + (f" ({words})" if words else ""))
    return labels


def _word(result: Result, field: str) -> str:
    setting = result.setting
    return {
        "folds": result.split,
        "init": describe_init(setting.init),
        "reweigh_groups": "groups reweighed" if setting.reweigh_groups else "",
        "epochs": f"{setting.epochs} epoch{'s' * (setting.epochs != 1)}",
        "sizes": describe_sizes(setting.sizes) if setting.sizes else "",
        "size": f"{setting.size} pixels",
        "limit": f"first {setting.limit:,} slices" if setting.limit else "",
        "negatives": describe_negatives(setting),
        "ema": describe_average(setting),
        "learning_rate": f"rate {setting.learning_rate:g}",
        "batch_size": f"batches of {setting.batch_size}",
        "weight_decay": f"weight decay {setting.weight_decay:g}" if setting.weight_decay else "",
        "one_cycle": "one cycle" if setting.one_cycle else "",
        "augment": "augmented" if setting.augment else "",
        "left_out": f"without {' and '.join(setting.left_out)}" if setting.left_out else "",
        "seed": f"seed {setting.seed}",
        "data": setting.data,
    }[field]


def describe_epochs(setting: Setting) -> str:
    """Return the number of epochs, and their pixels where these are not the report's."""
    text = f"{setting.epochs} epoch{'s' * (setting.epochs != 1)}"
    if setting.sizes:
        return f"{text} ({describe_sizes(setting.sizes)})"
    return text + f" at {setting.size} pixels" * (setting.size != REPORT_PIXELS)


def describe_limit(setting: Setting) -> str:
    """Return how many slices were taken."""
    return f"the first {setting.limit:,} slices of each split" if setting.limit else "all slices"


def describe_negatives(setting: Setting) -> str:
    """Return which share of the negatives an epoch showed; nothing where it showed all."""
    return f"{100 * setting.negatives:g} % of the negatives an epoch" if setting.negatives < 1 else ""


def describe_average(setting: Setting) -> str:
    """Return that the weights are averages; nothing where they are not."""
    return f"weights averaged, decay {setting.ema:g}" if setting.ema else ""


def _baselines(result: Result, features: SplitFeatures) -> tuple[Row, ...]:
    """Fit the baselines on what each fold trains on, and score its held-out slices, as far as the data set has them."""
    everything = features.labelled
    place = {name: number for number, name in enumerate(everything.ids)}
    known = np.array([name in place for name in result.ids])
    if other_data(result.setting) or not known.any():  # files of other data may bear the same names
        return ()
    labels, groups, folds, clusters = (
        values[known] for values in (result.labels, result.groups, result.folds, result.clusters)
    )
    held_out = everything.take(np.array([place[name] for name in result.ids if name in place], np.intp))
    logits = {name: np.empty(len(labels)) for name in BASELINES}
    for fold in np.unique(folds):
        inside = held_out.take(folds == fold)
        fitted = _without(everything if result.setting.folds else features.training, inside)
        for name in BASELINES:
            logits[name][folds == fold] = baseline_logits(name, fitted, inside)
    how = f"fitted on {'all' if result.setting.limit else 'the'} training slices, {result.split}"
    if not known.all():
        how += f", {len(labels):,} of {len(known):,} slices"
    return tuple(
        Row(f"baseline: {name}", how, result.split, logits[name], labels, groups, folds, clusters, None)
        for name in BASELINES
    )


def _told_apart(pairs: Sequence[tuple[Row, ...]]) -> tuple[Row, ...]:
    """Return the baselines of all splits, named by their split where there are several."""
    several = len(pairs) > 1
    return tuple(replace(row, label=f"{row.label} ({row.split})") if several else row for pair in pairs for row in pair)


def _without(features: Features, held_out: Features) -> Features:
    return features.take(~np.isin(np.array(features.ids), np.array(held_out.ids)))
