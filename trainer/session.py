"""One run of the trainer: each experiment on each division, to weights, records and printed figures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hemoscan.card import find_model
from hemoscan.errors import CardError, TrainingError
from hemoscan.trainer.checkpoint import load_checkpoint
from hemoscan.trainer.console import Bars, format_metrics
from hemoscan.trainer.experiments import Experiment, Recipe
from hemoscan.trainer.metrics import measure
from hemoscan.trainer.parallel import Processes
from hemoscan.trainer.publish import describe_training, publish, weights_stem
from hemoscan.trainer.records import RunFiles, key_of
from hemoscan.trainer.splits import DataSet, Division, Split
from hemoscan.trainer.train import Progress, Trained, checkpoint_path, identify, predict, train


@dataclass(frozen=True)
class Session:
    """What the experiments of one run share."""

    recipe: Recipe
    data: DataSet
    divisions: Callable[[], Iterator[Division]]
    """Makes them anew for each experiment: all folds at once would need their number times the memory."""
    run_folder: Path
    weights_folder: Path
    device: torch.device
    precision: str
    compiled: bool
    captured: bool
    processes: Processes
    limit: int | None
    """Slices taken of each split, for a trial; None for all."""
    quiet: bool
    say: Callable[..., None]
    """click.echo, or what says nothing."""

    def run(self, experiment: Experiment) -> None:
        """Train an experiment on every division; print its figures, for folds those of all together, too."""
        done, held_out = [], []
        for division in self.divisions():
            done.append(self.run_division(experiment, division))
            held_out.append(division.held_out.clusters)
        if len(done) > 1 and self.processes.first:
            columns = zip(*(files.read_held_out() for files in done), strict=True)
            labels, groups, logits = (np.concatenate(parts) for parts in columns)
            metrics = measure(logits, labels, groups, np.concatenate(held_out))
            self.say(format_metrics(experiment.name, "out-of-fold", metrics))

    def run_division(self, experiment: Experiment, division: Division) -> RunFiles:
        """Train on one division, unless that is done; write weights, card, record and logits; print the figures."""
        files = RunFiles(self.run_folder, f"{experiment.name}.{division.name}")
        splits = (division.training, division.held_out)
        identity = identify(experiment, self.recipe, splits, self.device, self.precision, self.processes)
        record = self.finished(files, experiment, division, identity)
        if record is None:
            trained = self.train(experiment, division)
            if not self.processes.first:
                return files
            record = self.write(files, experiment, division, trained, key_of(identity))
        else:
            self.say(f"{files.stem}: already done", err=True)
        self.say(format_metrics(experiment.name, division.name, record["metrics"]))
        return files

    def finished(
        self, files: RunFiles, experiment: Experiment, division: Division, identity: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Return the record of a training that is done, None of one that must start or may go on."""
        record = files.read()
        if record is None:
            return None
        if record["key"] != key_of(identity):
            load_checkpoint(checkpoint_path(self.run_folder, experiment, division.name), identity)  # names what differs
            raise TrainingError(f"{files.record}: is of another training; remove it or name another --run-dir")
        sizes = [epoch["size"] for epoch in record["history"]]
        asked = [self.recipe.size_of(epoch) for epoch in range(self.recipe.epochs)]
        if sizes != asked[: len(sizes)]:
            text = f"{files.record}: has epochs of {sizes} pixels, asked for are {asked}"
            raise TrainingError(f"{text}; remove it or name another --run-dir")
        if sizes != asked:
            return None
        lost, replaced = self.lost(files, weights_stem(experiment, division), record, division.held_out)
        if not lost + replaced:
            return record
        known = checkpoint_path(self.run_folder, experiment, division.name).is_file()
        if replaced and not known:  # nobody wants hours of training to end in the loss of another's weights
            raise TrainingError(f"{replaced[0]}: another training's; name another --weights-dir")
        again = "written again from the checkpoint" if known else "trained again, since its checkpoint is gone, too"
        told = [f"{name} lost or damaged" for name in lost] + [f"{name} another training's" for name in replaced]
        self.say(f"{files.stem}: {', '.join(told)}; {again}", err=True)
        return None

    def lost(self, files: RunFiles, stem: str, record: dict[str, Any], held_out: Split) -> tuple[list[str], list[str]]:
        """Return a finished training's files that are not there or damaged, and its weights if they are another's."""
        names = files.damaged(held_out, self.data.test)
        card = self.weights_folder / f"{stem}.json"
        try:
            model = find_model(str(card))
            model.read_weights()
        except CardError:
            return [*names, f"{stem}.json or its weights"], []
        return names, [str(card)] * (model.card.sha256 != record.get("sha256"))

    def train(self, experiment: Experiment, division: Division) -> Trained:
        """Train, or go on with a training, showing its progress."""
        title = f"{experiment.name} {division.name}"
        start = f"{self.recipe.epochs} epochs on {self.device} in {self.precision}, start: {self.recipe.init}"
        self.say(f"{title}: {start}", err=True)
        with Bars(title, self.quiet) as bars:
            return train(
                experiment,
                self.recipe,
                (division.training, division.held_out),
                self.run_folder,
                self.device,
                name=division.name,
                precision=self.precision,
                compiled=self.compiled,
                captured=self.captured,
                processes=self.processes,
                progress=Progress(bars.step, bars.epoch, self.note) if self.processes.first else None,
            )

    def note(self, text: str) -> None:
        """Tell the user."""
        self.say(text, err=True)

    def write(
        self, files: RunFiles, experiment: Experiment, division: Division, trained: Trained, key: str
    ) -> dict[str, Any]:
        """Write what a training leaves; return its record."""
        held_out, test = division.held_out, self.data.test
        metrics = measure(trained.logits, held_out.labels, held_out.groups, held_out.clusters)
        where = {
            "device": str(self.device),
            "precision": self.precision,
            "compiled": self.compiled,
            "captured": trained.captured,
            "processes": self.processes.size,
            "limit": self.limit,
        }
        if self.device.type == "cuda":
            where["gpu"] = torch.cuda.get_device_name(self.device)
        training = describe_training(experiment, self.recipe, trained, self.data, where)
        card = publish(
            experiment,
            self.recipe,
            trained,
            division,
            self.weights_folder,
            training=training,
            metrics=metrics,
            notice=self.data.notice,
        )
        self.say(f"weights and card: {card.with_suffix('.safetensors')}, {card}", err=True)
        record = {
            "experiment": experiment.name,
            "split": division.name,
            "n": len(held_out),
            "positives": int(held_out.labels.sum()),
            **training,
            "trained_on": {"slices": len(division.training), "positives": int(division.training.labels.sum())},
            "groups": {str(number): name for number, name in enumerate(self.data.group_names)},
            "history": trained.history,
            "metrics": metrics,
            "sha256": hashlib.sha256(trained.weights).hexdigest(),
            "key": key,
        }
        scored = None if test is None else (test, predict(trained.classifier, test, self.device, self.precision))
        files.write(record, (held_out, trained.logits), scored)
        return record
