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
    images = [image for split in splits for image in split.images]
    mistaken = sum(guess_window(image) is not None for image in images)
    print(f"{mistaken} of {len(images)} slices taken for stretched exports")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
