"""The training loop: one experiment on one device, in one sitting to read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from hemoscan.errors import TrainingError
from hemoscan.networks import Classifier, start_classifier, top_unit
from hemoscan.trainer.balance import class_weights, group_weights, output_bias
from hemoscan.trainer.checkpoint import load_checkpoint, save_checkpoint
from hemoscan.trainer.data import Split
from hemoscan.trainer.experiments import Experiment, Recipe
from hemoscan.trainer.metrics import measure

CHECKPOINT_SECONDS = 300.0
EVALUATION_BATCH = 64


@dataclass
class Progress:
    """What a caller is told of: once a step, once an epoch. The default says nothing."""

    step: Callable[[int, int, int, float], None] = lambda epoch, step, steps, loss: None
    """Epoch (from 0), step (from 1), steps an epoch, loss of the step."""
    epoch: Callable[[dict[str, Any]], None] = lambda record: None
    """The record of the epoch: loss, seconds and validation metrics."""


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    classifier: Classifier
    logits: NDArray[np.float32]
    """Of the validation split, shape (n,)."""
    history: list[dict[str, Any]]
    """A record an epoch."""


def train(
    experiment: Experiment,
    recipe: Recipe,
    splits: tuple[Split, Split],
    run_folder: Path,
    device: torch.device,
    *,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> Trained:
    """Train one experiment, or go on where its checkpoint in `run_folder` stands.

    Parameters
    ----------
    splits
        Training and validation slices.
    run_folder
        Holds `<experiment>.checkpoint.pt`, written after every epoch and every five minutes.
    precision
        fp32, or bf16 for autocast.

    Raises
    ------
    StartError
        If the start that the recipe names cannot be had.
    TrainingError
        If the loss becomes non-finite (the text names the batch's ids), or the checkpoint is of another training.
    """
    progress = progress or Progress()
    training, validation = splits
    torch.manual_seed(recipe.seed)
    classifier = start_classifier(experiment.architecture, recipe.spec, recipe.init)
    if experiment.output_bias:
        nn.init.constant_(top_unit(classifier, experiment.architecture).bias, output_bias(training.labels))
    classifier.to(device)
    optimizer = torch.optim.Adam(classifier.parameters(), recipe.learning_rate)

    images = torch.from_numpy(training.images).to(device)  # (n, size, size), uint8
    labels = torch.from_numpy(training.labels).to(device).float()  # (n,)
    weights = torch.from_numpy(sample_weights(experiment, recipe, training)).to(device)  # (n,)

    path = run_folder / f"{experiment.name}.checkpoint.pt"
    identity = {**recipe.identity(), "experiment": experiment.name, "precision": precision, "slices": len(training)}
    state = load_checkpoint(path, identity) or {"epoch": 0, "step": 0, "loss": 0.0, "seconds": 0.0, "history": []}
    if "network" in state:
        classifier.network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
    history: list[dict[str, Any]] = state["history"]
    position = {key: state[key] for key in ("epoch", "step", "loss", "seconds")}

    def save() -> None:
        content = {"network": classifier.network.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(
            path, {**content, **position, "history": history, "identity": identity, "rng": torch.get_rng_state()}
        )

    saved = time.monotonic()
    while position["epoch"] < recipe.epochs:
        epoch, size = position["epoch"], recipe.size_of(position["epoch"])
        batches = epoch_batches(len(training), recipe, epoch)
        classifier.train()
        for step in range(position["step"], len(batches)):
            started = time.monotonic()
            batch = batches[step].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = classifier(resized(images[batch], size))
            loss = binary_cross_entropy_with_logits(logits.float(), labels[batch], weights[batch])
            value = loss.item()
            if not math.isfinite(value):
                names = ", ".join(training.ids[i] for i in batches[step].tolist())
                raise TrainingError(
                    f"{experiment.name}: loss {value} in epoch {epoch + 1}, step {step + 1}, slices {names}"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            position["step"] = step + 1
            position["loss"] += value
            position["seconds"] += time.monotonic() - started
            progress.step(epoch, step + 1, len(batches), value)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                save()
                saved = time.monotonic()
        logits_now = predict(classifier, validation, device, precision)
        history.append(
            {
                "epoch": epoch + 1,
                "size": size,
                "loss": position["loss"] / len(batches),
                "seconds": position["seconds"],
                "validation": measure(logits_now, validation.labels, validation.groups),
            }
        )
        position |= {"epoch": epoch + 1, "step": 0, "loss": 0.0, "seconds": 0.0}
        save()
        saved = time.monotonic()
        progress.epoch(history[-1])
    return Trained(classifier, predict(classifier, validation, device, precision), history)


def sample_weights(experiment: Experiment, recipe: Recipe, split: Split) -> NDArray[np.float32]:
    """Return each slice's weight in the loss, of shape (n,)."""
    weights = np.ones(len(split), np.float32)
    if experiment.class_weight:
        weights *= class_weights(split.labels)
    if recipe.reweigh_groups:
        weights *= group_weights(split.labels, split.groups)
    return weights


def epoch_batches(n: int, recipe: Recipe, epoch: int) -> list[Tensor]:
    """Return the epoch's batches of indices: the same for every experiment with this seed, whatever happened before."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch))
    # BatchNorm has no variance to take from a batch of one.
    return [batch for batch in order.split(recipe.batch_size) if len(batch) > 1]


def resized(images: Tensor, size: int) -> Tensor:
    """Return images of shape (n, rows, columns) at (n, size, size), as float32; smaller ones are antialiased."""
    images = images.float()
    if images.shape[-1] == size:
        return images
    return interpolate(images[:, None], (size, size), mode="bilinear", antialias=True)[:, 0]


@torch.inference_mode()
def predict(classifier: Classifier, split: Split, device: torch.device, precision: str) -> NDArray[np.float32]:
    """Return logits of shape (n,), at the input's full size."""
    classifier.eval()
    images = torch.from_numpy(split.images)
    parts = []
    for batch in images.split(EVALUATION_BATCH):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            parts.append(classifier(batch.to(device)).float().cpu())
    return torch.cat(parts).numpy()
