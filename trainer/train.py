"""The training loop: one experiment on one device, in one sitting to read."""

from __future__ import annotations

import gc
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from hemoscan.devices import autocast
from hemoscan.errors import TrainingError
from hemoscan.networks import Classifier, load_saved, save_weights, start_classifier, top_unit
from hemoscan.trainer.augment import augment
from hemoscan.trainer.averaged import Averaged
from hemoscan.trainer.balance import class_weights, group_weights, output_bias
from hemoscan.trainer.captured import Captured, CudaGraphs, Learn
from hemoscan.trainer.checkpoint import load_checkpoint, save_checkpoint
from hemoscan.trainer.compiled import Forward
from hemoscan.trainer.experiments import Experiment, Recipe
from hemoscan.trainer.metrics import measure
from hemoscan.trainer.parallel import ALONE, Processes
from hemoscan.trainer.splits import VALIDATION, Slices, Split

# What the weights of a kernel are stored in: all eight files together are then small enough for a package.
BITS = {"densenet121": 16, "resnet101": 8}
MOST_AUC_LOST = 0.001
CHECKPOINT_SECONDS = 300.0
EPOCH_SECONDS = 30.0
"""An epoch that ends sooner after a checkpoint has none of its own: those of a ResNet are half a gigabyte."""
STEPS_AHEAD = 64


@dataclass
class Progress:
    """What a caller is told of: once a step, once an epoch. The default says nothing."""

    step: Callable[[int, int, int, float], None] = lambda epoch, step, steps, loss: None
    """Epoch (from 0), step (from 1), steps an epoch, loss of the step."""
    epoch: Callable[[dict[str, Any]], None] = lambda record: None
    """The record of the epoch: loss, seconds and validation metrics."""
    note: Callable[[str], None] = lambda text: None
    """What a user should know."""


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    classifier: Classifier
    """Its weights are rounded to those of `weights`."""
    logits: NDArray[np.float32]
    """Of the validation split, shape (n,), by the rounded weights."""
    history: list[dict[str, Any]]
    """A record an epoch."""
    weights: bytes
    """As they ship: see `hemoscan.networks.save_weights`."""
    rounding: dict[str, Any]
    """`bits` of a kernel's weight, `auc_before` on the validation split, and `auc_lost` by rounding."""
    captured: bool
    """Whether steps were captured: not so where that was asked for and failed."""


def train(
    experiment: Experiment,
    recipe: Recipe,
    splits: tuple[Split, Split],
    run_folder: Path,
    device: torch.device,
    *,
    name: str = VALIDATION,
    precision: str = "fp32",
    compiled: bool = False,
    captured: bool = False,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> Trained:
    """Train one experiment, or go on where its checkpoint in `run_folder` stands.

    Parameters
    ----------
    splits
        Training and validation slices.
    run_folder
        Holds `<experiment>.<name>.checkpoint.pt`, written every five minutes, after the last epoch, and after every
        other that ends half a minute or more after it was last written.
    name
        Of the division into the splits.
    precision
        fp32, or bf16 for autocast.
    compiled
        Whether to compile the network; where that fails it runs as it is.
    captured
        Whether to capture the steps in a CUDA graph, on a CUDA GPU; where that fails they run as they are.
    processes
        Those that train together. All but the first return no logits and write nothing.

    Raises
    ------
    StartError
        If the start that the recipe names cannot be had.
    TrainingError
        If the loss becomes non-finite (the text names the batch's ids), an epoch has no batches, or the checkpoint is
        of another training.
    """
    progress = progress or Progress()
    gc.collect()  # a training refers to itself: until then the one before holds its slices, and its graph's memory
    training = _Training(experiment, recipe, splits, device, precision, processes)
    training.forward = Forward(processes.wrap(training.classifier), compiled=compiled, note=progress.note)
    if captured:
        training.step = Captured(training.learn, CudaGraphs(device), progress.note)
    path = checkpoint_path(run_folder, experiment, name)
    training.restore(load_checkpoint(path, training.identity))
    while training.position.epoch < recipe.epochs:
        training.run_epoch(path, progress)
    if not processes.first:
        return Trained(training.result, np.empty(0, np.float32), training.history, b"", {}, training.captured)
    return round_weights(training, BITS[experiment.architecture], progress.note)


def checkpoint_path(run_folder: Path, experiment: Experiment, name: str) -> Path:
    """Return where the state of a training is kept."""
    return run_folder / f"{experiment.name}.{name}.checkpoint.pt"


def round_weights(training: _Training, bits: int, note: Callable[[str], None]) -> Trained:
    """Round the weights, in place, to those that ship, so that figures are of those: to 16 bits if 8 cost too much."""
    before = float(training.history[-1]["validation"]["auc"])
    exact = {name: value.clone() for name, value in training.result.network.state_dict().items()}
    weights = save_weights(training.result, bits)
    load_saved(training.result, weights)
    logits = training.predict()
    lost = before - float(measure(logits, training.validation.labels, training.validation.groups)["auc"])
    if bits == 8 and lost > MOST_AUC_LOST:
        note(f"weights of 8 bits lose {lost:.4f} of AUC, more than {MOST_AUC_LOST:g}: they are kept in 16")
        training.result.network.load_state_dict(exact)
        return round_weights(training, 16, note)
    rounding = {"bits": bits, "auc_before": before, "auc_lost": lost}
    return Trained(training.result, logits, training.history, weights, rounding, training.captured)


@dataclass
class Position:
    """How far a training is: finished epochs, and what is done of the next."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    """Sum over the epoch's steps so far."""
    seconds: float = 0.0
    """Spent in the epoch's steps so far."""


class _Training:
    """A training in memory: all that its loop changes."""

    def __init__(  # noqa: PLR0917 - as `train` has them
        self,
        experiment: Experiment,
        recipe: Recipe,
        splits: tuple[Split, Split],
        device: torch.device,
        precision: str,
        processes: Processes = ALONE,
    ) -> None:
        self.recipe, self.device, self.precision, self.processes = recipe, device, precision, processes
        self.training, self.validation = splits
        torch.manual_seed(recipe.seed)
        self.classifier = start_classifier(experiment.architecture, recipe.spec, recipe.init)
        if experiment.output_bias:
            unit = top_unit(self.classifier, experiment.architecture)
            nn.init.constant_(unit.bias, output_bias(self.training.labels))
        self.classifier.to(device)
        self.forward: Callable[[Tensor], Tensor] = self.classifier
        self.step: Learn = self.learn
        if not processes.first:  # each its own dropout
            torch.manual_seed(recipe.seed + 1_000_003 * processes.rank)
        # On a GPU the rate is a tensor that stays where it is: a captured step reads it anew.
        self.rate = torch.tensor(recipe.learning_rate, device=device) if device.type == "cuda" else None
        self.optimizer = make_optimizer(self.classifier, recipe, self.rate)
        self.averaged = Averaged(self.classifier, recipe.ema) if recipe.ema else None
        self.images = torch.from_numpy(self.training.images).to(device)  # (n, size, size), uint8
        self.labels = torch.from_numpy(self.training.labels).to(device).float()  # (n,)
        self.weights = torch.from_numpy(sample_weights(experiment, recipe, self.training)).to(device)  # (n,)
        self.position = Position()
        self.history: list[dict[str, Any]] = []
        self.saved = time.monotonic()
        self.identity = identify(experiment, recipe, splits, device, precision, processes)

    def run_epoch(self, path: Path, progress: Progress) -> None:
        """Train what is left of the epoch, measure on the validation split, save."""
        position = self.position
        size = self.recipe.size_of(position.epoch)
        found = epoch_batches(self.training.labels, self.recipe, position.epoch)
        fewest = 2 * self.processes.size
        batches = [batch for batch in found if len(batch) >= fewest]  # BatchNorm, as there
        if not batches:
            where = f"epoch {position.epoch + 1}: no batch has {fewest} of the {len(self.training)} training slices"
            raise TrainingError(f"{where}; legal: more slices, or a larger share of the negatives (--negatives)")
        moved = torch.split(torch.cat(batches).to(self.device), [len(batch) for batch in batches])
        losses: list[Tensor] = []
        started = time.monotonic()
        for step in range(position.step, len(batches)):
            self.set_rate(self.recipe.rate_at((position.epoch + step / len(batches)) / self.recipe.epochs))
            losses.append(self.take_step(moved[step], size, step))
            if len(losses) < steps_ahead(self.device) and step + 1 < len(batches):
                continue
            values = self.settle(losses, batches)
            losses.clear()
            position.seconds += time.monotonic() - started
            # The clocks of several processes would not agree on when to meet.
            if self.processes.size == 1 and time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                self.save(path)
            for number, value in enumerate(values, position.step - len(values) + 1):
                progress.step(position.epoch, number, len(batches), value)
            started = time.monotonic()
        record = {
            "epoch": position.epoch + 1,
            "size": size,
            "loss": position.loss / len(batches),
            "seconds": position.seconds,
            "validation": self.measure() if self.processes.first else {},
        }
        self.history.append(record)
        self.position = Position(epoch=position.epoch + 1)
        last = self.position.epoch == self.recipe.epochs
        if last or self.processes.size > 1 or time.monotonic() - self.saved > min(EPOCH_SECONDS, CHECKPOINT_SECONDS):
            self.save(path)
        progress.epoch(record)

    def take_step(self, batch: Tensor, size: int, step: int = 0) -> Tensor:
        """Train on the slices that `batch`, of shape (k,), names; return the loss, of shape (), on the device."""
        index = self.processes.share(batch)
        self.classifier.train()
        images = resized(self.images[index], size)  # (k, size, size)
        if self.recipe.augment:
            left_out = self.recipe.left_out
            images = augment(
                images,
                self.recipe.spec,
                self.generator(step),
                geometry="geometry" not in left_out,
                hu="hu" not in left_out,
            )
        # The gradient is the mean over the processes, whose parts of the batch may differ in length.
        scale = self.processes.size / len(batch)
        loss = self.step(images, self.labels[index], self.weights[index], scale)
        if self.averaged is not None:
            self.averaged.update(self.classifier)
        return self.processes.mean(loss)

    def learn(self, images: Tensor, labels: Tensor, weights: Tensor, scale: float) -> Tensor:
        """Change the weights by what a batch teaches; return the loss, see `hemoscan.trainer.captured.Learn`."""
        with autocast(self.device, self.precision):
            logits = self.forward(images)  # (k,)
        loss = binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum") * scale
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def set_rate(self, value: float) -> None:
        """Set the learning rate of the next step."""
        if self.rate is not None:
            self.rate.fill_(value)
        self.optimizer.param_groups[0]["lr"] = value if self.rate is None else self.rate

    def settle(self, losses: list[Tensor], batches: list[Tensor]) -> list[float]:
        """Wait for the steps taken, and count them as done; return their losses. Nothing non-finite is ever saved."""
        values: list[float] = torch.stack(losses).tolist()
        for value in values:
            if not math.isfinite(value):
                names = ", ".join(self.training.ids[i] for i in batches[self.position.step].tolist())
                where = f"epoch {self.position.epoch + 1}, step {self.position.step + 1}"
                raise TrainingError(f"loss {value} in {where}: slices {names}")
            self.position.step += 1
            self.position.loss += value
        return values

    def generator(self, step: int) -> torch.Generator:
        """Return a generator that this step alone draws from, so that a training that goes on draws the same."""
        number = (self.recipe.seed * 1_000_003 + self.position.epoch) * 1_000_003 + step
        # Seeds of generators have 64 bits.
        return torch.Generator(self.device).manual_seed((number * self.processes.size + self.processes.rank) % 2**63)

    @property
    def result(self) -> Classifier:
        """What is measured and shipped: the network that learns, or the average of its weights."""
        return self.classifier if self.averaged is None else self.averaged.classifier

    @property
    def captured(self) -> bool:
        """Whether steps are captured, and that has not failed."""
        return isinstance(self.step, Captured) and not self.step.failed

    def measure(self) -> dict[str, Any]:
        """Return the figures on the validation split."""
        return measure(self.predict(), self.validation.labels, self.validation.groups, self.validation.clusters)

    def predict(self) -> NDArray[np.float32]:
        """Return the validation split's logits, of shape (n,)."""
        logits = predict(self.result, self.validation, self.device, self.precision)
        if not np.isfinite(logits).all():
            raise TrainingError(f"epoch {self.position.epoch + 1}: non-finite logits on the validation split")
        return logits

    def save(self, path: Path) -> None:
        """Write all that `restore` needs; with several processes, all of them have to call this."""
        self.saved = time.monotonic()
        states = self.processes.gather(_rng_state(self.device))
        if not self.processes.first:
            return
        content = {
            "identity": self.identity,
            "position": asdict(self.position),
            "size": self.recipe.size_of(self.position.epoch) if self.position.step else None,
            "history": self.history,
            "network": self.classifier.network.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": states,
        }
        save_checkpoint(path, content)

    def restore(self, content: dict[str, Any] | None) -> None:
        """Go back to where a checkpoint was written; stay at the start if there is none.

        Epochs may be added to a training, and sizes with them, but not taken away or changed.
        """
        if content is None:
            return
        done = [record["size"] for record in content["history"]] + [content["size"]] * bool(content["size"])
        asked = [self.recipe.size_of(epoch) for epoch in range(self.recipe.epochs)]
        if done != asked[: len(done)]:
            text = f"checkpoint has epochs of {done} pixels, asked for are {asked}"
            raise TrainingError(f"{text}; remove it or name another --run-dir")
        self.position = Position(**content["position"])
        self.history = content["history"]
        self.classifier.network.load_state_dict(content["network"])
        if self.averaged is not None:
            self.averaged.load_state_dict(content["averaged"])
        self.optimizer.load_state_dict(content["optimizer"])
        _set_rng_state(self.device, content["rng"][self.processes.rank])


def make_optimizer(model: nn.Module, recipe: Recipe, rate: Tensor | None) -> torch.optim.Optimizer:
    """Return AdamW; with a rate on a CUDA GPU as one kernel a step, which can be captured."""
    if rate is None:
        return torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(model.parameters(), rate, weight_decay=recipe.weight_decay, fused=True, capturable=True)


def steps_ahead(device: torch.device) -> int:
    """Return how many steps may be under way before their losses are looked at: a GPU must not wait for each."""
    return 1 if device.type == "cpu" else STEPS_AHEAD


def _rng_state(device: torch.device) -> Tensor:
    """Return the state of the generator that dropout draws from."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def _set_rng_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)


def identify(  # noqa: PLR0917 - as `train` has them
    experiment: Experiment,
    recipe: Recipe,
    splits: tuple[Split, Split],
    device: torch.device,
    precision: str,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Return all that two runs must share for one to go on where the other stopped; JSON holds it."""
    return {
        **recipe.identity(),
        "experiment": experiment.name,
        "precision": precision,
        "device": device.type,
        "processes": processes.size,
        "samples": [fingerprint(split) for split in splits],
    }


def fingerprint(split: Split) -> str:
    """Return a hash of ids, labels, groups and pixels: a training goes on with the same samples only."""
    found = hashlib.sha256(repr(split.ids).encode() + split.labels.tobytes() + split.groups.tobytes())
    found.update(split.images.data)
    return found.hexdigest()


def sample_weights(experiment: Experiment, recipe: Recipe, split: Split) -> NDArray[np.float32]:
    """Return each slice's weight in the loss, of shape (n,)."""
    weights = np.ones(len(split), np.float32)
    if experiment.class_weight:
        weights *= class_weights(split.labels)
    if recipe.reweigh_groups:
        weights *= group_weights(split.labels, split.groups)
    weights[split.labels == 0] /= recipe.negatives
    return weights


def epoch_batches(labels: NDArray[np.uint8], recipe: Recipe, epoch: int) -> list[Tensor]:
    """Return the epoch's batches of indices: the same for every experiment with this seed, whatever happened before."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(labels), generator=generator)
    if recipe.negatives < 1:
        negative = torch.from_numpy(labels)[order] == 0
        order = order[~negative | (torch.rand(len(order), generator=generator) < recipe.negatives)]
    # BatchNorm has no variance to take from a batch of one.
    return [batch for batch in torch.split(order, recipe.batch_size) if len(batch) > 1]


def resized(images: Tensor, size: int) -> Tensor:
    """Return images of shape (n, rows, columns) at (n, size, size), as float32; smaller ones are antialiased."""
    images = images.float()
    if images.shape[-1] == size:
        return images
    return interpolate(images[:, None], (size, size), mode="bilinear", antialias=True)[:, 0]


@torch.inference_mode()
def predict(classifier: Classifier, slices: Slices, device: torch.device, precision: str) -> NDArray[np.float32]:
    """Return logits of shape (n,), at the input's full size."""
    classifier.eval()
    images = torch.from_numpy(slices.images)
    parts = []
    for batch in torch.split(images, 64 if device.type == "cpu" else 256):
        with autocast(device, precision):
            parts.append(classifier(batch.to(device)))
    return torch.cat(parts).cpu().numpy()
