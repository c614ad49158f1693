"""`hemoscan train`: what the user asked for, checked, and the data set that it is done with."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from filelock import FileLock, Timeout

from hemoscan.devices import pick_precision
from hemoscan.errors import OptionError, OutputError, TrainingError
from hemoscan.networks import start_classifier
from hemoscan.outputs import neutralise, refuse_inputs
from hemoscan.trainer.console import reading_bar
from hemoscan.trainer.data import default_folder, load_data_set
from hemoscan.trainer.experiments import RECIPES, Experiment, Recipe, parse_experiments, parse_sizes
from hemoscan.trainer.labelled import load_labelled
from hemoscan.trainer.parallel import Processes, join_processes
from hemoscan.trainer.records import HELD, write_csv
from hemoscan.trainer.session import Session
from hemoscan.trainer.splits import DataSet, Division

LEFT_OUT = "left-out.csv"
"""In the run folder: files and labels of which no slice came."""


def run_training(
    *,
    data: Path | None,
    labels: Path | None,
    png_window: tuple[float, float] | None,
    experiments: str,
    folds: int | None,
    run_folder: Path,
    weights_folder: Path | None,
    device: str,
    precision: str,
    compiled: bool,
    captured: bool | None,
    name: str,
    epochs: int | None,
    sizes: str | None,
    limit: int | None,
    test: bool,
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
            given.setdefault("epochs", sum(n for _, n in pairs))
        recipe = Recipe(**{"name": name, **RECIPES[name], "sizes": pairs, **given})
    except ValueError as error:
        raise OptionError(str(error)) from error
    if png_window is not None and labels is None:
        raise OptionError("--png-window is for --labels: the grey values of the report's data set are HU")
    if weights_folder is None:
        # What ships takes 0 to 70 HU, and is replaced by a whole training on the report's data only.
        whole = limit is None and folds is None and recipe.budget >= Recipe(name=name, **RECIPES[name]).budget
        ships = whole and labels is None and recipe.input != "raw"
        weights_folder = Path("weights") if ships else run_folder / "weights"
    refuse_inputs(run_folder / LEFT_OUT, filter(None, (labels,)))
    with contextlib.ExitStack() as stack:
        processes, where = stack.enter_context(join_processes(device))
        captures = _captures(captured, where, processes)
        if recipe.batch_size < 2 * processes.size:
            raise OptionError(f"--batch-size {recipe.batch_size} of {processes.size} processes; legal: 2 for each")
        stack.enter_context(_folders(processes, run_folder, weights_folder))
        say = click.echo if processes.first else _say_nothing
        silent = quiet or not processes.first
        found = _load(labels, data or default_folder(), recipe, png_window, limit=limit, test=test, quiet=silent)
        if processes.first:
            _note_left_out(found, run_folder)
        if (folds or labels) and recipe.init not in ("imagenet", "scratch"):
            say(
                f"--init {recipe.init}: if it learned from slices that are held out now, their figures are too good",
                err=True,
            )
        last = recipe.size_of(recipe.epochs - 1)
        if last != recipe.size:
            say(f"--sizes ends at {last} pixels; the model's input has {recipe.size} (--size)", err=True)
        session = Session(
            recipe,
            found,
            _divisions(found, folds, recipe.seed, say),
            run_folder,
            weights_folder,
            where,
            pick_precision(precision, where),
            compiled=compiled,
            captured=captures,
            processes=processes,
            limit=limit,
            quiet=silent,
            say=say,
        )
        _check_starts([one for one in chosen if not any(run_folder.glob(f"{one.name}.*.json"))], recipe)
        for experiment in chosen:
            session.run(experiment)


def _check_starts(chosen: Sequence[Experiment], recipe: Recipe) -> None:
    """Raise StartError before hours of work if a start does not fit the last of the networks."""
    networks = {experiment.architecture for experiment in chosen}
    if len(networks) > 1 and recipe.init != "scratch":
        for network in sorted(networks):
            start_classifier(network, recipe.spec, recipe.init)


def _captures(asked: bool | None, device: torch.device, processes: Processes) -> bool:
    """Return whether steps are captured; of several GPUs' graphs nothing is known here yet."""
    possible = device.type == "cuda" and processes.size == 1
    if asked and not possible:
        raise OptionError(f"--capture on {device} in {processes.size} processes; legal: on one CUDA GPU")
    return possible if asked is None else asked


def _say_nothing(*_: object, **__: object) -> None:
    """Stand in for click.echo: of several processes one speaks."""


@contextlib.contextmanager
def _folders(processes: Processes, run_folder: Path, weights_folder: Path) -> Iterator[None]:
    """Hold the run's folder: of several processes the first does."""
    if not processes.first:
        yield
        return
    _make_folder(run_folder)
    try:
        with FileLock(run_folder / "lock", timeout=0):
            _make_folder(weights_folder)
            _remove_leftovers(run_folder)
            yield
    except Timeout as error:
        raise TrainingError(f"{run_folder}: {HELD}; name another --run-dir") from error


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # before hours of work, not after
            pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _remove_leftovers(run_folder: Path) -> None:
    """Remove what runs that were killed while they wrote have left: checkpoints are large."""
    for path in run_folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _load(
    labels: Path | None,
    folder: Path,
    recipe: Recipe,
    png_window: tuple[float, float] | None,
    *,
    limit: int | None,
    test: bool,
    quiet: bool,
) -> DataSet:
    if labels is None:
        return load_data_set(folder, recipe.spec, limit=limit, progress=reading_bar(quiet, "slices"), test=test)
    bar = reading_bar(quiet, "files")
    found = load_labelled(labels, folder, recipe.spec, png_window=png_window, limit=limit, progress=bar)
    if recipe.reweigh_groups and not found.group_names:
        raise OptionError(f"--reweigh-groups: {labels} has no column group")
    return found


def _note_left_out(data: DataSet, run_folder: Path) -> None:
    """Tell what was assumed; list the files and labels of which no slice came (an earlier list is out of date)."""
    for note, count in data.notes:
        click.echo(f"{count} slices: {note}", err=True)
    path = run_folder / LEFT_OUT
    if not data.left_out:
        path.unlink(missing_ok=True)
        return
    rows = (map(neutralise, (one.name, one.status, one.reason)) for one in data.left_out)
    write_csv(path, ("name", "status", "reason"), rows)
    counts = Counter(one.status for one in data.left_out)
    text = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    click.echo(f"left out: {text}; listed in {path}", err=True)


def _divisions(
    data: DataSet, folds: int | None, seed: int, say: Callable[..., None]
) -> Callable[[], Iterator[Division]]:
    """Say how the slices are divided; return what makes the divisions."""
    if data.together:
        say(data.together, err=True)
    if folds is not None:
        positives = int(data.labelled.labels.sum())
        say(f"labelled: {len(data.labelled)} slices, {positives} positive, in {folds} folds", err=True)
        return lambda: data.folds(folds, seed)
    division = data.validation(seed)
    for name, split in (("training", division.training), ("validation", division.held_out)):
        say(f"{name}: {len(split)} slices, {int(split.labels.sum())} positive", err=True)
    return lambda: iter([division])
