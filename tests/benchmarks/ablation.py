"""What the ingredients of recipe `strong` are worth: the same training without each of them, or with more.

usage: python tests/benchmarks/ablation.py --data DIR --out FOLDER [--size N] [--limit N] [--epochs N] [--rows NAME,...]
       [--write docs/robustness.md]

Every row is `densenet-bias` from the same random weights, on the same first --limit training slices in the same order,
for as many epochs, measured on the same validation slices: as they are, brighter by 5 HU, and as a PNG exported at
40/120 whose window the scanner has to guess. FOLDER keeps what is done, so that a stopped run goes on, and --rows lets
several processes share the work; the table is of all rows that FOLDER has.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from performance import ROBUSTNESS_HEAD, ROBUSTNESS_SECTIONS, machine_line, table, write_section
from robustness import CHANGES, HU, chosen
from sklearn.metrics import roc_auc_score

from hemoscan.card import RAW, InputSpec
from hemoscan.devices import pick_precision
from hemoscan.preprocess import preprocess
from hemoscan.trainer.balance import group_weights
from hemoscan.trainer.bootstrap import Bootstrap, resample
from hemoscan.trainer.data import load_splits
from hemoscan.trainer.experiments import RECIPES, Experiment, Recipe
from hemoscan.trainer.metrics import merge_scarce
from hemoscan.trainer.splits import Split
from hemoscan.trainer.train import predict, train

ALL = "all"
ROWS: dict[str, tuple[str, dict[str, object]]] = {
    ALL: ("all of them", {}),
    "hu": ("no change of HU (offset, gain, noise, sharpness)", {"left_out": ("hu",)}),
    "geometry": ("no change of geometry", {"left_out": ("geometry",)}),
    "crop": ("heads not cut out", {"left_out": ("crop",)}),
    "alignment": ("tissue not brought to 30 HU", {"left_out": ("alignment",)}),
    "one-cycle": ("a rate of 5e-4 throughout", {"one_cycle": False, "learning_rate": 5e-4}),
    "reweighing": ("and groups reweighed", {"reweigh_groups": True}),
    "ema": ("and weights averaged, decay 0.99", {"ema": 0.99}),
    "negatives": ("a tenth of the negatives an epoch", {"negatives": 0.1}),
}
SHOWN = {
    "5 HU brighter": CHANGES["5 HU added to all but air"],
    "PNG at 40/120, guessed": CHANGES["PNG stretched at 40/120, guessed"],
}
DRAWS = Bootstrap(resamples=1000)


def seen(split: Split, spec: InputSpec) -> Split:
    """Return a split, of images as they are distributed, as inputs of the network."""
    return replace(split, images=np.ascontiguousarray([preprocess(image, spec) for image in split.images]))


def changed(split: Split, name: str) -> Split:
    """Return a split of changed images, as whole HU."""
    rng = np.random.default_rng(0)
    images: list[HU] = [SHOWN[name](image.astype(np.float32), rng) for image in split.images]
    return replace(split, images=np.stack(images).clip(0, 255).round().astype(np.uint8))


def run(name: str, arguments: argparse.Namespace, training: Split, validation: Split) -> None:
    """Train a row, and keep its logits of shape (1 + changes, n)."""
    values = {**RECIPES["strong"], "epochs": arguments.epochs, "size": arguments.size, "negatives": arguments.negatives}
    recipe = Recipe(**{"name": "strong", "init": "scratch", **values, **ROWS[name][1]})
    device, started = torch.device(arguments.device), time.monotonic()
    splits = seen(training, recipe.spec), seen(validation, recipe.spec)
    precision = pick_precision(arguments.precision, device)
    trained = train(Experiment("densenet-bias"), recipe, splits, arguments.out / name, device, precision=precision)
    others = (seen(changed(validation, change), recipe.spec) for change in SHOWN)
    logits = [trained.logits, *(predict(trained.classifier, other, device, precision) for other in others)]
    seconds = time.monotonic() - started
    np.savez(arguments.out / f"{name}.npz", logits=np.stack(logits), seconds=seconds, size=size_of(arguments))
    print(f"{name}: {seconds:.0f} s, AUC {roc_auc_score(validation.labels, trained.logits):.4f}", flush=True)


def kept(arguments: argparse.Namespace) -> dict[str, Mapping[str, NDArray[Any]]]:
    """Return the rows that are done, by their names."""
    paths = {name: arguments.out / f"{name}.npz" for name in ROWS}
    found = {name: np.load(path) for name, path in paths.items() if path.is_file()}
    others = {str(one["size"]) for one in found.values()} - {size_of(arguments)}
    if others:
        raise SystemExit(f"{arguments.out} has rows of {', '.join(others)}; legal: of {size_of(arguments)}")
    return found


def size_of(arguments: argparse.Namespace) -> str:
    """Return what all rows of a table must share."""
    precision = pick_precision(arguments.precision, torch.device(arguments.device))
    return (
        f"{arguments.size} pixels, the first {arguments.limit} training slices with {arguments.negatives:g} of their "
        f"negatives an epoch, {arguments.epochs} epochs in {precision}, {arguments.slices} validation slices"
    )


def figures(
    logits: NDArray[np.float32], labels: NDArray[np.uint8], balance: NDArray[np.float32], weights: NDArray[np.float64]
) -> list[float]:
    """Return the AUC, that balanced by `balance`, and that of each change, under weights of shape (n,)."""
    ways = [(logits[0], weights), (logits[0], weights * balance), *((one, weights) for one in logits[1:])]
    return [float(roc_auc_score(labels, one, sample_weight=weight)) for one, weight in ways]


def make_table(kept: dict[str, NDArray[np.float32]], validation: Split) -> str:
    """Return the table: figures, and what they are more than those of all ingredients, with the 95 % interval."""
    labels, ones = validation.labels, np.ones(len(validation))
    balance = group_weights(labels, merge_scarce(labels, validation.groups))
    draws = np.concatenate(list(resample(np.arange(len(validation)), DRAWS)))
    drawn = {
        name: np.array([figures(logits, labels, balance, draw) for draw in draws]) for name, logits in kept.items()
    }
    rows = []
    for name, logits in kept.items():
        cells = [f"{value:.3f}" for value in figures(logits, labels, balance, ones)]
        if name != ALL and ALL in kept:
            low, high = np.quantile(drawn[name] - drawn[ALL], (0.025, 0.975), axis=0)
            cells = [f"{cell} ({a:+.3f} to {b:+.3f})" for cell, a, b in zip(cells, low, high, strict=True)]
        rows.append([ROWS[name][0], *cells])
    return table(["ingredients", "AUC", "AUC, balanced", *(f"AUC, {name}" for name in SHOWN)], rows)


def main(arguments: argparse.Namespace) -> None:
    """Train the rows that lack, print the table, write its section if asked to."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    training, validation = load_splits(arguments.data, RAW, limit=arguments.limit)
    validation = validation.take(chosen(validation.labels, arguments.slices))
    for name in arguments.rows.split(","):
        if name not in kept(arguments):
            run(name, arguments, training, validation)
    found = kept(arguments)
    minutes = sum(float(one["seconds"]) for one in found.values()) / 60
    text = f"""## What the ingredients of the strong recipe are worth
`python tests/benchmarks/ablation.py --data DIR --out FOLDER --size {arguments.size} --limit {arguments.limit}
--epochs {arguments.epochs} --negatives {arguments.negatives:g} --slices {arguments.slices}`: {machine_line()};
{minutes:.0f} minutes in all.

A small stand-in for the whole training: {size_of(arguments)}
({int(validation.labels.sum())} with hemorrhage), from random weights, one seed. In brackets: by how much the figure is
above that of all ingredients, 95 % interval of {DRAWS.resamples} paired bootstrap draws of the slices. Only where that
leaves out 0 is a difference more than the choice of slices; another seed would move it, too. No patient ids come with
the data, so the intervals are too narrow.

{make_table({name: one["logits"] for name, one in found.items()}, validation)}
"""
    print(text)
    if arguments.write is not None:
        write_section(arguments.write, "ablation", text, ROBUSTNESS_SECTIONS, ROBUSTNESS_HEAD)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--limit", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--negatives", type=float, default=0.4)
    parser.add_argument("--slices", type=int, default=600, help="of the validation split, to measure on")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="as of `hemoscan train`")
    parser.add_argument("--write", type=Path)
    main(parser.parse_args())
