"""Slices per second of training, beside the bound of the device and beside what a plain script does, in one run.

usage: python tests/benchmarks/training_speed.py [--network densenet|resnet] [--size 224] [--batch-size 32]
       [--steps 50] [--device auto] [--precision auto] [--compile/--no-compile] [--data DIR]

- bound: forward, backward and optimizer step of the same network on one batch that lies on the device already, in the
  same precision, compiled or not as in training: nothing can feed it faster;
- training: `hemoscan train`'s own step, on slices that lie on the device as uint8, picked at random;
- plain: a DataLoader that decodes PNGs in worker processes, eager fp32, as a script does.

Slices are noise unless --data names PNGs: what they show makes no difference to a step, and noise PNGs take a little
longer to decode. The three take turns, so that other load on the machine meets all alike; the median round counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset

from hemoscan.card import BRAIN
from hemoscan.devices import autocast, pick_device, pick_precision
from hemoscan.machine import usable_cores
from hemoscan.networks import start_classifier
from hemoscan.trainer.compiled import Forward
from hemoscan.trainer.experiments import Experiment, Recipe
from hemoscan.trainer.splits import Split
from hemoscan.trainer.train import _Training

ROUNDS = 3
WARM_UP = 3
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


def noise() -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 71, (SLICES, BRAIN.size, BRAIN.size), np.uint8)
    labels = (np.arange(SLICES) % 4 == 0).astype(np.uint8)
    ids = tuple(str(i) for i in range(SLICES))
    return Split(ids, images, labels, np.zeros(SLICES, np.int64), np.arange(SLICES))


def training_step(setting: Setting, split: Split) -> Callable[[], object]:
    recipe = Recipe(init="scratch", batch_size=setting.batch_size)
    training = _Training(setting.experiment, recipe, (split, split), setting.device, setting.precision)
    training.forward = Forward(training.classifier, compiled=setting.compiled, note=print)
    generator = torch.Generator().manual_seed(0)

    def step() -> object:
        return training.take_step(torch.randint(len(split), (setting.batch_size,), generator=generator), setting.size)

    return step


def step_of(setting: Setting, batches: Iterator[tuple[Tensor, Tensor]], precision: str) -> Callable[[], object]:
    """Return a step of a plain loop over batches."""
    classifier = start_classifier(setting.experiment.architecture, BRAIN, "scratch").to(setting.device).train()
    forward = Forward(classifier, compiled=setting.compiled and precision == setting.precision, note=print)
    optimizer = torch.optim.Adam(classifier.parameters(), 5e-4)

    def step() -> object:
        images, labels = next(batches)
        with autocast(setting.device, precision):
            logits = forward(images.to(setting.device))
        loss = binary_cross_entropy_with_logits(logits, labels.to(setting.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    return step


def bound_step(setting: Setting) -> Callable[[], object]:
    images = torch.randint(0, 71, (setting.batch_size, setting.size, setting.size), device=setting.device).float()
    labels = (torch.arange(setting.batch_size, device=setting.device) % 4 == 0).float()
    return step_of(setting, cycle([(images, labels)]), setting.precision)


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


def plain_step(setting: Setting, paths: list[Path]) -> Callable[[], object]:
    loader = DataLoader(
        PNGs(paths, setting.size),
        setting.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=usable_cores(),
        persistent_workers=True,
        pin_memory=setting.device.type == "cuda",
    )
    batches = (batch for epoch in iter(lambda: loader, None) for batch in epoch)
    return step_of(setting, ((images, labels.float()) for images, labels in batches), "fp32")


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
@click.option("--compile/--no-compile", "compiled", default=None)
@click.option("--data", type=click.Path(exists=True, path_type=Path))
def main(network: str, size: int, batch_size: int, steps: int, data: Path | None, **options: str | bool | None) -> None:
    """Measure training, its bound and a plain script."""
    device = pick_device(str(options["device"]))
    precision = pick_precision(str(options["precision"]), device)
    compiled = device.type == "cuda" if options["compiled"] is None else bool(options["compiled"])
    setting = Setting(Experiment(f"{network}-base"), size, batch_size, device, precision, compiled)
    split = noise()
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            for name, image in zip(split.ids, split.images, strict=True):
                Image.fromarray(image).convert("RGB").save(Path(folder, f"{name}.png"))
        paths = list(islice((data or Path(folder)).rglob("*.png"), 20_000))
        if len(paths) < batch_size:
            raise click.UsageError(f"--data: {len(paths)} PNGs; legal: {batch_size} or more")
        runs = {
            "bound": bound_step(setting),
            "training": training_step(setting, split),
            "plain": plain_step(setting, paths),
        }
        for step in runs.values():
            rate(step, WARM_UP, setting)
        rounds = [{name: rate(step, steps, setting) for name, step in runs.items()} for _ in range(ROUNDS)]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{usable_cores()} cores"
    print(
        f"{network} at {size} pixels, batches of {batch_size}, {ROUNDS} x {steps} steps on {device} ({where}), "
        f"{precision}, {'compiled' if compiled else 'not compiled'}"
    )
    found = {name: statistics.median(each[name] for each in rounds) for name in runs}
    for name, value in found.items():
        print(f"{name:<9}{value:9.1f} slices/s  {value / found['bound']:6.2f} of the bound")
    print(f"training is {found['training'] / found['plain']:.2f} times as fast as plain")


if __name__ == "__main__":
    main()
