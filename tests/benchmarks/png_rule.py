"""How many labelled slices of the data set, whose grey values are HU, the rule for stretched exports mistakes.

usage: python tests/benchmarks/png_rule.py DATA
"""

from __future__ import annotations

import sys
from pathlib import Path

from hemoscan.card import RAW
from hemoscan.raster import guess_window
from hemoscan.trainer.data import load_splits


def main(folder: Path) -> None:
    splits = load_splits(folder, RAW)
    labels = [label for split in splits for label in split.labels.tolist()]
    images = (image for split in splits for image in split.images)
    mistaken = [label for image, label in zip(images, labels, strict=True) if guess_window(image) is not None]
    print(f"{len(mistaken)} of {len(labels)} slices taken for stretched exports")
    print(f"{sum(mistaken)} of these among the {sum(labels)} with hemorrhage")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
