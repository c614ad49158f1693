"""Trainings in processes of their own, to be killed or to train together. usage: training_process.py ACTION FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from trainer_data import FIRST_VALIDATION_ID, make_split

from hemoscan.networks import save_weights
from hemoscan.trainer import train as loop
from hemoscan.trainer.experiments import Experiment, Recipe
from hemoscan.trainer.parallel import ALONE, Processes, join_processes
from hemoscan.trainer.train import Progress, train

SPLITS = (
    make_split([0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0], size=32),
    make_split([1, 0] * 4, FIRST_VALIDATION_ID, size=32),
)
EXPERIMENT = Experiment("densenet-weight-bias")
EPOCHS, STEPS = 2, 3
UNEVEN = 7


def recipe_of(**values: Any) -> Recipe:
    return Recipe(**{"epochs": EPOCHS, "batch_size": 4, "init": "scratch", "sizes": ((32, EPOCHS),), **values})


def train_slowly(folder: Path) -> bytes:
    """Train with a checkpoint after every step, telling of each; return the weights."""

    def tell(epoch: int, step: int, _steps: int, _loss: float) -> None:
        print(epoch * STEPS + step, flush=True)

    threads, loop.CHECKPOINT_SECONDS = torch.get_num_threads(), 0.0
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        trained = train(EXPERIMENT, recipe_of(), SPLITS, folder, torch.device("cpu"), progress=Progress(step=tell))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
        loop.CHECKPOINT_SECONDS = 300.0
    return save_weights(trained.classifier)


def gradients(processes: Processes = ALONE) -> dict[str, Tensor]:
    """Return the gradients of one step on a batch of `UNEVEN` slices, BatchNorm frozen, nothing dropped."""
    device = torch.device("cpu")
    training = loop._Training(EXPERIMENT, recipe_of(), SPLITS, device, "fp32", processes)
    for module in training.classifier.modules():
        if isinstance(module, nn.BatchNorm2d | nn.Dropout):
            module.eval()
            module.train = lambda _mode=True, module=module: module  # type: ignore[method-assign]
    training.forward = processes.wrap(training.classifier)
    training.take_step(torch.arange(UNEVEN), 32)
    named = training.classifier.named_parameters()
    return {name: value.grad for name, value in named if value.grad is not None}


def main(action: str, folder: Path) -> None:
    if action == "train":
        (folder / "weights").write_bytes(train_slowly(folder))
        return
    with join_processes("cpu") as (processes, _):
        found = gradients(processes)
        if processes.first:
            torch.save(found, folder / "gradients.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
