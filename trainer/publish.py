"""From a finished training to what ships: a safetensors file and its card."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from hemoscan import __version__
from hemoscan.card import Card
from hemoscan.machine import describe_machine
from hemoscan.outputs import write_atomically
from hemoscan.trainer.experiments import Experiment, Recipe
from hemoscan.trainer.operating_points import operating_fields
from hemoscan.trainer.splits import VALIDATION, DataSet, Division
from hemoscan.trainer.train import Trained


def describe_training(
    experiment: Experiment, recipe: Recipe, trained: Trained, data: DataSet, where: dict[str, Any]
) -> dict[str, Any]:
    """Return how a model was made, for card and record; no path, no user.

    `where` says on which device, in which precision and so on it was trained.
    """
    return {
        "recipe": recipe.name,
        "data": data.description,
        "init": recipe.init if recipe.init in ("imagenet", "scratch") else Path(recipe.init).name,
        "input": recipe.input,
        "class_weight": experiment.class_weight,
        "output_bias": experiment.output_bias,
        "reweigh_groups": recipe.reweigh_groups,
        "epochs": len(trained.history),
        "sizes": [[pixels, epochs] for pixels, epochs in recipe.sizes],
        "batch_size": recipe.batch_size,
        "optimizer": "AdamW" if recipe.weight_decay else "Adam",
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "one_cycle": recipe.one_cycle,
        "augment": recipe.augment,
        "left_out": list(recipe.left_out),
        "ema": recipe.ema,
        "negatives": recipe.negatives,
        "seed": recipe.seed,
        **where,
        "seconds": round(sum(record["seconds"] for record in trained.history)),
        "machine": describe_machine(),
        "hemoscan": __version__,
    }


def weights_stem(experiment: Experiment, division: Division) -> str:
    """Return the name of a model's files: those of a fold never take the place of the model's own."""
    return experiment.name if division.name == VALIDATION else f"{experiment.name}.{division.name}"


def publish(
    experiment: Experiment,
    recipe: Recipe,
    trained: Trained,
    division: Division,
    folder: Path,
    *,
    training: dict[str, Any],
    metrics: dict[str, Any],
    notice: str,
) -> Path:
    """Write `<stem>.safetensors` and `<stem>.json`, see `weights_stem`; return the card's path.

    Parameters
    ----------
    training
        From `describe_training`.
    metrics
        Of the division's held-out slices, from `hemoscan.trainer.metrics.measure`.
    notice
        Licence and limits of the weights.

    The weights are written first: a card never names weights that are not there, and the pair that was there before is
    refused by its hash, not used by mistake, should the machine die between the two.
    """
    stem = weights_stem(experiment, division)
    # Rounded down: the threshold is a positive slice's own score.
    threshold = math.floor(metrics["threshold"] * 1e6) / 1e6
    held_out = division.held_out
    operating = operating_fields(
        trained.logits, held_out.labels, held_out.groups, f"held-out slices ({division.name})", held_out.clusters
    )
    learned = {"slices": len(division.training), "positives": int(division.training.labels.sum())}
    card = Card(
        name=experiment.name,
        architecture=experiment.architecture,
        input=recipe.spec,
        weights=f"{stem}.safetensors",
        sha256=hashlib.sha256(trained.weights).hexdigest(),
        training={**training, **learned},
        metrics={"split": division.name, **metrics, "rounding": trained.rounding},
        notice=notice,
        **{"threshold": threshold, **operating},
    )
    write_atomically(folder / card.weights, lambda file: file.write(trained.weights))
    path = folder / f"{stem}.json"
    write_atomically(path, lambda file: file.write(card.to_json().encode()))
    return path
