"""From a finished training to what ships: a safetensors file and its card."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from hemoscan import __version__
from hemoscan.card import Card
from hemoscan.machine import describe_machine
from hemoscan.networks import save_weights
from hemoscan.outputs import write_atomically
from hemoscan.trainer.data import Split
from hemoscan.trainer.experiments import Experiment, Recipe
from hemoscan.trainer.metrics import measure
from hemoscan.trainer.operating_points import operating_fields
from hemoscan.trainer.train import Trained

NOTICE = (
    "Research use only, not for diagnosis. Trained on slices derived from the RSNA 2019 Brain CT Hemorrhage data set: "
    "non-commercial use; cite Flanders et al., Radiology: Artificial Intelligence 2020, 2(3):e190211."
)


def publish(
    experiment: Experiment,
    recipe: Recipe,
    trained: Trained,
    splits: tuple[Split, Split],
    folder: Path,
    *,
    where: dict[str, str],
) -> Path:
    """Write `<experiment>.safetensors` (16-bit) and `<experiment>.json`; return the card's path.

    `where` says on which device and in which precision it was trained.

    The weights are written first: a card never names weights that are not there, and the pair that was there before is
    refused by its hash, not used by mistake, should the machine die between the two.
    """
    weights = save_weights(trained.classifier)
    held_out = splits[1]
    metrics: dict[str, Any] = {
        "split": "validation",
        **measure(trained.logits, held_out.labels, held_out.groups),
    }
    # Rounded down: the threshold is a positive slice's own score.
    threshold = math.floor(metrics["threshold"] * 1e6) / 1e6
    operating = operating_fields(trained.logits, held_out.labels, held_out.groups, "validation split")
    card = Card(
        name=experiment.name,
        architecture=experiment.architecture,
        input=recipe.spec,
        weights=f"{experiment.name}.safetensors",
        sha256=hashlib.sha256(weights).hexdigest(),
        training={
            "recipe": "report",
            "data": "Unibuc brain anomaly detection, a subset of RSNA 2019: training split",
            "slices": len(splits[0]),
            "positives": int(splits[0].labels.sum()),
            "init": recipe.init if recipe.init in ("imagenet", "scratch") else Path(recipe.init).name,
            "input": recipe.input,
            "class_weight": experiment.class_weight,
            "output_bias": experiment.output_bias,
            "reweigh_groups": recipe.reweigh_groups,
            "epochs": len(trained.history),
            "sizes": [[pixels, epochs] for pixels, epochs in recipe.sizes],
            "batch_size": recipe.batch_size,
            "optimizer": "Adam",
            "learning_rate": recipe.learning_rate,
            "seed": recipe.seed,
            **where,
            "seconds": round(sum(record["seconds"] for record in trained.history)),
            "machine": describe_machine(),
            "hemoscan": __version__,
        },
        metrics=metrics,
        notice=NOTICE,
        **{"threshold": threshold, **operating},
    )
    write_atomically(folder / card.weights, lambda file: file.write(weights))
    path = folder / f"{experiment.name}.json"
    write_atomically(path, lambda file: file.write(card.to_json().encode()))
    return path
