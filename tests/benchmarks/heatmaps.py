"""What heatmaps cost: CPU time of maps and of pictures, beside that of scoring.

usage: python tests/benchmarks/heatmaps.py [MODEL]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hemoscan.card import find_model
from hemoscan.engine import TorchEngine
from hemoscan.phantom import make_phantom
from hemoscan.pictures import Pictures
from hemoscan.preprocess import preprocess
from hemoscan.slices import Decoded, Identity, Row

ROUNDS = 3


def fastest(work: Callable[[], object], count: int) -> float:
    """Return the least CPU time of some rounds, ms a slice."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1000 * min(times) / count


def main(name: str) -> None:
    torch.set_num_threads(1)
    model = find_model(name)
    engine = TorchEngine(model, torch.device("cpu"), "fp32")
    phantom = make_phantom("subdural", slices=8, size=256)
    images = np.stack([preprocess(hu, model.card.input) for hu in phantom.hu])
    score = fastest(lambda: engine.logits(images), len(images))
    mapped = fastest(lambda: engine.logits_and_maps(images), len(images))
    maps = engine.logits_and_maps(images)[1]
    rows = [
        Row(Decoded(f"/{n}", "/", None, 1, Identity(sop_uid=f"1.{n}")), 0.9, True, name) for n in range(len(images))
    ]
    with tempfile.TemporaryDirectory() as folder:
        for kind, options in (
            ("thumbnails", {"page": Path(folder, "page.html")}),
            ("overlays", {"heatmaps": Path(folder)}),
        ):
            pictures = Pictures(model.card, model.card.input, **options)

            def take(pictures: Pictures = pictures) -> None:
                for row, image, activation in zip(rows, images, maps, strict=True):
                    pictures.take(row, image, activation)

            print(f"{kind:<24}{fastest(take, len(images)):8.1f} ms a flagged slice")
    print(f"{'score':<24}{score:8.1f} ms a slice\n{'score and map':<24}{mapped:8.1f} ms a slice")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "densenet-bias")
