"""How much of a model's AUC survives what differs from hospital to hospital: a table in Markdown.

usage: python tests/benchmarks/robustness.py MODEL --data DIR [--limit N] [--device DEVICE]

MODEL is a name from `hemoscan models` or the path of a card; DIR is the data set's folder. The validation slices, whose
grey values are HU, are changed before anything else is done with them, and then go the scanner's own way: raster,
preprocessing, network. Geometry is bilinear about the frame's centre, what comes in from outside is air.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from hemoscan.card import RAW, Model, find_model
from hemoscan.devices import pick_device
from hemoscan.engine import TorchEngine
from hemoscan.preprocess import preprocess
from hemoscan.raster import read_raster
from hemoscan.trainer.data import load_splits
from hemoscan.trainer.metrics import probabilities

HU = NDArray[np.float32]
Change = Callable[[HU, np.random.Generator], HU]
BATCH = 64
TRIAL_STEP = 10


def moved(hu: HU, matrix: NDArray[np.float64], shift: tuple[float, float] = (0, 0)) -> HU:
    """Return a slice whose place x shows what was at `matrix` x, about the centre, less `shift` pixels."""
    centre = (np.array(hu.shape) - 1) / 2
    offset = centre - matrix @ (centre + np.array(shift))
    return np.asarray(ndimage.affine_transform(hu, matrix, offset, order=1, mode="constant", cval=0.0), np.float32)


def rotated(hu: HU, degrees: float) -> HU:
    """Rotate about the centre."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return moved(hu, np.array([[c, -s], [s, c]]))


def zoomed(hu: HU, factor: float) -> HU:
    """Enlarge about the centre."""
    return moved(hu, np.eye(2) / factor)


def encoded(grey: HU, form: str, **options: int) -> bytes:
    """Return an 8-bit file of grey values."""
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8)).save(buffer, form, **options)
    return buffer.getvalue()


def through_jpeg(hu: HU) -> HU:
    """Save as JPEG of quality 50, values being HU, and read as the scanner does."""
    return read_raster(encoded(hu, "JPEG", quality=50))[0]


def exported(window: tuple[float, float], *, declared: bool) -> Change:
    """Return what exports a PNG whose 0 to 255 span a window, and reads it as the scanner does."""
    centre, width = window

    def change(hu: HU, _: np.random.Generator) -> HU:
        grey = (hu - (centre - width / 2)) / width * 255
        return read_raster(encoded(grey, "PNG"), window if declared else None)[0]

    return change


CHANGES: dict[str, Change] = {
    "rotated by 30 degrees": lambda hu, _: rotated(hu, 30),
    "rotated by -30 degrees": lambda hu, _: rotated(hu, -30),
    "flipped left to right": lambda hu, _: hu[:, ::-1],
    "zoomed to 0.7": lambda hu, _: zoomed(hu, 0.7),
    "zoomed to 1.4": lambda hu, _: zoomed(hu, 1.4),
    "shifted by 10 % of the frame": lambda hu, _: moved(hu, np.eye(2), (0.1 * hu.shape[0], 0.1 * hu.shape[1])),
    "5 HU added to all but air": lambda hu, _: np.where(hu > 0, hu + 5, hu).astype(np.float32),
    "5 HU taken from all": lambda hu, _: np.maximum(hu - 5, 0).astype(np.float32),
    "Gaussian noise of 5 HU": lambda hu, rng: (hu + rng.normal(0, 5, hu.shape)).astype(np.float32),
    "Gaussian blur of 1 pixel": lambda hu, _: np.asarray(ndimage.gaussian_filter(hu, 1), np.float32),
    "JPEG of quality 50": lambda hu, _: through_jpeg(hu),
    "PNG stretched at 40/80, declared": exported((40, 80), declared=True),
    "PNG stretched at 40/80, guessed": exported((40, 80), declared=False),
    "PNG stretched at 40/120, declared": exported((40, 120), declared=True),
    "PNG stretched at 40/120, guessed": exported((40, 120), declared=False),
    "header window with its top at 70": lambda hu, _: np.minimum(hu, 70),
}


def scores(engine: TorchEngine, model: Model, slices: list[HU]) -> NDArray[np.float64]:
    """Return the card's probabilities of shape (n,)."""
    spec, platt = model.card.input, model.card.calibration
    parts = []
    for start in range(0, len(slices), BATCH):
        images = np.stack([preprocess(hu, spec) for hu in slices[start : start + BATCH]])
        parts.append(engine.logits(images))
    logits = np.concatenate(parts)
    return probabilities(logits if platt is None else platt.slope * logits + platt.intercept)


def main(arguments: argparse.Namespace) -> None:
    """Print the table."""
    model = find_model(arguments.model)
    engine = TorchEngine(model, pick_device(arguments.device), "fp32")
    # A trial is of every tenth, so that it, too, has slices of all sorts, and loads no more than those.
    split = load_splits(arguments.data, RAW, limit=arguments.limit and TRIAL_STEP * arguments.limit)[1]
    chosen = np.arange(len(split))[:: TRIAL_STEP if arguments.limit else 1][: arguments.limit]
    slices, labels = [split.images[i].astype(np.float32) for i in chosen], split.labels[chosen]
    plain = scores(engine, model, slices)
    auc = roc_auc_score(labels, plain)
    print(f"{model.card.name}, {len(labels)} validation slices, {labels.sum()} with hemorrhage, AUC {auc:.4f}\n")
    print("| changed | AUC | AUC lost | mean abs. change of p |\n|---|---|---|---|")
    for name, change in CHANGES.items():
        rng = np.random.default_rng(0)
        found = scores(engine, model, [change(hu, rng) for hu in slices])
        changed = roc_auc_score(labels, found)
        print(f"| {name} | {changed:.4f} | {auc - changed:+.4f} | {np.abs(found - plain).mean():.4f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", default="cpu")
    main(parser.parse_args())
