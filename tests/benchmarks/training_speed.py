"""Slices per second of training, beside the bound of the device and beside what a plain script does, in one run.

usage: python tests/benchmarks/training_speed.py [--network densenet|resnet] [--size 224] [--batch-size 32]
       [--steps 50] [--device auto] [--precision auto] [--compile/--no-compile] [--capture/--no-capture]
       [--recipe report|strong] [--data DIR]

- bound: forward, backward and optimizer step of the same network on one batch that lies on the device already, in the
  same precision, compiled and captured as in training: nothing can feed it faster;
- training: `hemoscan train`'s own step, on slices that lie on the device as uint8, picked at random;
- plain: a DataLoader that decodes PNGs in worker processes, eager fp32, as a script does.

Slices are noise unless --data names PNGs: what they show makes no difference to a step, and noise PNGs take a little
longer to decode. The three take turns, so that other load on the machine meets all alike; the median round counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hemoscan.card import BRAIN
from hemoscan.devices import pick_device, pick_precision
from hemoscan.machine import usable_cores
from hemoscan.trainer.captured import Captured, CudaGraphs
from hemoscan.trainer.compiled import Forward
from hemoscan.trainer.experiments import RECIPES, Experiment, Recipe
from hemoscan.trainer.splits import Split
from hemoscan.trainer.train import _Training, steps_ahead

ROUNDS = 3
WARM_UP = 8
SLICES = 256


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    experiment: Experiment
    size: int
    batch_size: int
    device: torch.device
    precision: str
    compiled: bool
    captured: bool
    recipe: Recipe


def noise() -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 71, (SLICES, BRAIN.size, BRAIN.size), np.uint8)
    labels = (np.arange(SLICES) % 4 == 0).astype(np.uint8)
    ids = tuple(str(i) for i in range(SLICES))
    return Split(ids, images, labels, np.zeros(SLICES, np.int64), np.arange(SLICES))


def start(setting: Setting, split: Split, *, plain: bool = False) -> _Training:
    """Return a training; a plain one is neither captured nor compiled, and in fp32."""
    precision = "fp32" if plain else setting.precision
    training = _Training(setting.experiment, setting.recipe, (split, split), setting.device, precision)
    training.forward = Forward(training.classifier, compiled=setting.compiled and not plain, note=print)
    if setting.captured and not plain:
        training.step = Captured(training.learn, CudaGraphs(setting.device), print)
    training.classifier.train()
    return training


def training_step(setting: Setting, split: Split) -> Callable[[], object]:
    """Return a step that looks at its loss as often as `hemoscan train` does."""
    training = start(setting, split)
    generator = torch.Generator().manual_seed(0)
    orders = (torch.randperm(len(split), generator=generator).to(setting.device) for _ in count())
    # Full batches only.
    batches = (part for order in orders for part in order.split(setting.batch_size) if len(part) == setting.batch_size)
    losses: list[Tensor] = []

    def step() -> object:
        losses.append(training.take_step(next(batches), setting.size, len(losses)))
        if len(losses) >= steps_ahead(setting.device):
            torch.stack(losses).tolist()
            losses.clear()
        return losses

    return step


def bound_step(setting: Setting, split: Split) -> Callable[[], object]:
    training, n = start(setting, split), setting.batch_size
    images = torch.randint(0, 71, (n, setting.size, setting.size), device=setting.device).float()
    labels, weights = (torch.arange(n, device=setting.device) % 4 == 0).float(), torch.ones(n, device=setting.device)
    return lambda: training.step(images, labels, weights, 1 / n)


class PNGs(Dataset[tuple[Tensor, float]]):
    """PNG files, decoded when asked for."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        with Image.open(self.paths[index]) as image:
            grey = image.convert("L").resize((self.size, self.size))
            return torch.from_numpy(np.asarray(grey, np.float32)), float(index % 4 == 0)


def plain_step(setting: Setting, split: Split, paths: list[Path]) -> Callable[[], object]:
    loader = DataLoader(
        PNGs(paths, setting.size),
        setting.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=usable_cores(),
        persistent_workers=True,
        pin_memory=setting.device.type == "cuda",
    )
    training = start(setting, split, plain=True)
    batches = (batch for epoch in iter(lambda: loader, None) for batch in epoch)

    def step() -> object:
        images, labels = (value.to(setting.device, torch.float32, non_blocking=True) for value in next(batches))
        return training.step(images, labels, torch.ones_like(labels), 1 / setting.batch_size)

    return step


def rate(step: Callable[[], object], steps: int, setting: Setting) -> float:
    """Return slices per second over some steps."""

    def wait() -> None:
        if setting.device.type == "cuda":
            torch.cuda.synchronize(setting.device)

    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return steps * setting.batch_size / (time.perf_counter() - started)


@click.command()
@click.option("--network", type=click.Choice(["densenet", "resnet"]), default="densenet")
@click.option("--size", type=click.IntRange(32), default=224)
@click.option("--batch-size", type=click.IntRange(2, SLICES), default=32)
@click.option("--steps", type=click.IntRange(1), default=50)
@click.option("--device", default="auto")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto")
@click.option("--compile/--no-compile", "compiled", default=False)
@click.option("--capture/--no-capture", "captured", default=None)
@click.option("--recipe", "name", type=click.Choice(["report", "strong"]), default="report")
@click.option("--data", type=click.Path(exists=True, path_type=Path))
def main(network: str, size: int, batch_size: int, steps: int, data: Path | None, **options: str | bool | None) -> None:
    """Measure training, its bound and a plain script."""
    device = pick_device(str(options["device"]))
    precision = pick_precision(str(options["precision"]), device)
    compiled = bool(options["compiled"])
    captured = device.type == "cuda" if options["captured"] is None else bool(options["captured"])
    name = str(options["name"])
    recipe = Recipe(name, **{**RECIPES[name], "init": "scratch", "batch_size": batch_size, "input": "brain"})
    setting = Setting(Experiment(f"{network}-base"), size, batch_size, device, precision, compiled, captured, recipe)
    split = noise()
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            for name, image in zip(split.ids, split.images, strict=True):
                Image.fromarray(image).convert("RGB").save(Path(folder, f"{name}.png"))
        paths = list(islice((data or Path(folder)).rglob("*.png"), 20_000))
        if len(paths) < batch_size:
            raise click.UsageError(f"--data: {len(paths)} PNGs; legal: {batch_size} or more")
        runs = {
            "bound": bound_step(setting, split),
            "training": training_step(setting, split),
            "plain": plain_step(setting, split, paths),
        }
        for step in runs.values():
            rate(step, WARM_UP, setting)
        rounds = [{name: rate(step, steps, setting) for name, step in runs.items()} for _ in range(ROUNDS)]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{usable_cores()} cores"
    print(
        f"{network} at {size} pixels, batches of {batch_size}, {ROUNDS} x {steps} steps on {device} ({where}), "
        f"{precision}, recipe {recipe.name}{', captured' * captured}{', compiled' * compiled}"
    )
    found = {name: statistics.median(each[name] for each in rounds) for name in runs}
    for name, value in found.items():
        print(f"{name:<9}{value:9.1f} slices/s  {value / found['bound']:6.2f} of the bound")
    print(f"training is {found['training'] / found['plain']:.2f} times as fast as plain")


if __name__ == "__main__":
    main()
