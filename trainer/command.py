"""`hemoscan train`: what the user asked for, to trainings, weights and printed figures."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from hemoscan.card import read_card
from hemoscan.devices import pick_device, pick_precision
from hemoscan.errors import OptionError, OutputError, TrainingError
from hemoscan.outputs import write_atomically
from hemoscan.trainer.data import Split, default_folder, load_splits
from hemoscan.trainer.experiments import RECIPES, Experiment, Recipe, parse_experiments, parse_sizes
from hemoscan.trainer.publish import publish
from hemoscan.trainer.train import Progress, train


def run_training(
    *,
    data: Path | None,
    experiments: str,
    run_folder: Path,
    weights_folder: Path | None,
    device: str,
    precision: str,
    name: str,
    epochs: int | None,
    sizes: str | None,
    limit: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Train each experiment in turn; every argument is an option of the command, `options` those of `Recipe`.

    Raises
    ------
    OptionError
        If an option's value is out of its legal range.
    HemoscanError
        If data, start, training or outputs fail.
    """
    try:
        chosen = parse_experiments(experiments)
        pairs = parse_sizes(sizes) if sizes else ()
        given = {key: value for key, value in {"epochs": epochs, **options}.items() if value is not None}
        if pairs:
            given["epochs"] = sum(n for _, n in pairs)
        recipe = Recipe(**{"name": name, **RECIPES[name], "sizes": pairs, **given})
    except ValueError as error:
        raise OptionError(str(error)) from error
    where = pick_device(device)
    number_format = pick_precision(precision, where)
    if weights_folder is None:  # a trial must not replace the weights that ship
        weights_folder = Path("weights") if limit is None else run_folder
    _make_folder(run_folder)
    try:
        with FileLock(run_folder / "lock", timeout=0):
            _make_folder(weights_folder)
            splits = load_splits(
                data or default_folder(), recipe.spec, limit=limit, progress=_bar("reading", "slice", quiet)
            )
            for split, name in zip(splits, ("training", "validation"), strict=True):
                click.echo(f"{name}: {len(split)} slices, {int(split.labels.sum())} positive", err=True)
            session = _Session(recipe, splits, run_folder, weights_folder, where, number_format, quiet)
            for experiment in chosen:
                session.run(experiment)
    except Timeout as error:
        raise TrainingError(f"{run_folder}: another training is running there; name another --run-dir") from error


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # before hours of work, not after
            pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Session:
    """What the experiments of one run share."""

    recipe: Recipe
    splits: tuple[Split, Split]
    run_folder: Path
    weights_folder: Path
    device: torch.device
    precision: str
    quiet: bool

    def run(self, experiment: Experiment) -> None:
        """Train one experiment; write its history, weights and card; print its figures."""
        recipe, device, precision = self.recipe, self.device, self.precision
        start = f"{recipe.epochs} epochs on {device} in {precision}, start: {recipe.init}"
        click.echo(f"{experiment.name}: {start}", err=True)
        with _Bars(experiment.name, self.quiet) as bars:
            progress = Progress(step=bars.step, epoch=bars.epoch)
            trained = train(
                experiment, recipe, self.splits, self.run_folder, device, precision=precision, progress=progress
            )
        history = json.dumps({"experiment": experiment.name, "history": trained.history}, indent=1)
        write_atomically(self.run_folder / f"{experiment.name}.history.json", lambda file: file.write(history.encode()))
        where = {"device": str(device), "precision": precision}
        card = publish(experiment, recipe, trained, self.splits, self.weights_folder, where=where)
        click.echo(format_metrics(experiment.name, read_card(card).metrics))
        click.echo(f"weights and card: {card.with_suffix('.safetensors')}, {card}", err=True)


def format_metrics(name: str, metrics: dict[str, Any]) -> str:
    """Return the figures of one model as a table of at most 80 columns."""
    lines = [
        f"{name} on {metrics['n']} validation slices, {metrics['positives']} positive",
        f"  AUC {metrics['auc']:.4f}   AP {metrics['average_precision']:.4f}   "
        f"AUC with groups balanced {metrics['auc_group_balanced']:.4f}",
    ]
    for title, key in (("at 0.5", "at_0.5"), ("cross-fitted", "at_cross_fitted_threshold")):
        found = metrics[key]
        lines.append(
            f"  {title:<13}accuracy {found['accuracy']:.4f}  precision {found['precision']:.4f}  "
            f"recall {found['recall']:.4f}  F1 {found['f1']:.4f}"
        )
        lines.append(
            f"  {'':<13}TP {found['true_positives']}  FP {found['false_positives']}  "
            f"FN {found['false_negatives']}  TN {found['true_negatives']}"
        )
    within = [f"{group}: {auc:.3f}" for group, auc in metrics["auc_within_groups"].items()]
    lines.append("  AUC within groups (-1: the small ones)")
    lines += [f"  {'':<13}{'  '.join(within[i : i + 6])}" for i in range(0, len(within), 6)]
    return "\n".join([*lines, f"  threshold on the card (best F1 on this split): {metrics['threshold']:.4f}"])


def hide_progress(quiet: bool) -> bool | None:
    """Return tqdm's `disable`: None leaves it to whether stderr is a terminal, which cron's is not."""
    return True if quiet or sys.stderr is None else None


def _bar(title: str, unit: str, quiet: bool) -> Any:
    return lambda rows: tqdm(rows, desc=title, unit=unit, disable=hide_progress(quiet))


class _Bars:
    """A progress bar an epoch, and a line on stderr at its end."""

    def __init__(self, name: str, quiet: bool) -> None:
        self.name, self.quiet = name, quiet
        self.bar: Any = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        if self.bar is None:
            self.bar = tqdm(total=steps, desc=f"{self.name} epoch {epoch + 1}", disable=hide_progress(self.quiet))
        self.bar.n = step
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self.bar.update(0)

    def epoch(self, record: dict[str, Any]) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None
        found = record["validation"]
        click.echo(
            f"{self.name} epoch {record['epoch']}: loss {record['loss']:.4f}, validation AUC {found['auc']:.4f}, "
            f"AP {found['average_precision']:.4f}, F1 {found['at_cross_fitted_threshold']['f1']:.4f}, "
            f"{record['seconds']:.0f} s",
            err=True,
        )
