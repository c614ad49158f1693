"""The rule for stretched PNG and JPEG exports: how many slices it mistakes for one, and what it takes exports for.

usage: python tests/benchmarks/png_rule.py DATA [--slices N]

All labelled slices of the data set, whose grey values are HU, are shown to the rule. Of the training slices N are
exported at each of `hemoscan.stretched.WINDOWS`; their level and spread are the constants there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from robustness import export_grey

from hemoscan.card import RAW
from hemoscan.stretched import WINDOWS, guess_window, level_and_spread
from hemoscan.trainer.data import load_splits
from hemoscan.trainer.splits import Split


def seen(split: Split, window: tuple[float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return level and spread of the slices' exports, of shape (n, 2), and the widths guessed, of shape (n,)."""
    exports = [export_grey(image.astype(np.float32), window) for image in split.images]
    told = [(found, guess_window(grey)) for grey in exports if (found := level_and_spread(grey)) is not None]
    return np.array([found for found, _ in told]), np.array([guess[1] for _, guess in told if guess is not None])


def main(arguments: argparse.Namespace) -> None:
    """Print both."""
    splits = load_splits(arguments.data, RAW)
    labels = [label for split in splits for label in split.labels.tolist()]
    images = (image for split in splits for image in split.images)
    mistaken = [label for image, label in zip(images, labels, strict=True) if guess_window(image) is not None]
    print(f"{len(mistaken)} of {len(labels)} slices taken for stretched exports")
    print(f"{sum(mistaken)} of these among the {sum(labels)} with hemorrhage")
    training = splits[0].take(np.linspace(0, len(splits[0]) - 1, arguments.slices).astype(np.intp))
    print("centre/width: level, its log's deviation; spread, the same; widths guessed: 5, 50, 95 %; not told")
    for window in WINDOWS:
        found, widths = seen(training, (window.centre, window.width))
        level, spread = np.median(found, axis=0)
        low, high = np.quantile(np.log(found), (0.16, 0.84), axis=0)
        deviations = (high - low) / 2
        guessed = ", ".join(f"{width:.0f}" for width in np.quantile(widths, (0.05, 0.5, 0.95)))
        print(
            f"{window.centre:g}/{window.width:g}: {level:.0f}, {deviations[0]:.2f}; {spread:.0f}, {deviations[1]:.2f}; "
            f"{guessed}; {len(found) - len(widths)} of {len(found)}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--slices", type=int, default=1000)
    main(parser.parse_args())
