"""What a user would write today instead of `hemoscan scan`, to be measured beside it: a script, and a MONAI pipeline.

usage: python tests/benchmarks/peer_pipelines.py {script,monai} FOLDER CARD OUTPUT

Both score every file of a folder by the network of a card in eager fp32, sixteen at a time, with a DataLoader of one
worker a core, and write a CSV of path and probability. They resize as is commonly done, not as the network was trained:
their scores are not hemoscan's, their work is the same.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch.utils.data import DataLoader, Dataset

from hemoscan.card import Model, read_card
from hemoscan.networks import load_classifier

BATCH = 16


def make_network(card_path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return the bare network, laid out in memory as torchvision makes it, and its card's input."""
    network = load_classifier(Model(read_card(card_path), card_path.parent)).network
    network.to(memory_format=torch.contiguous_format)
    return network.eval(), json.loads(card_path.read_text(encoding="utf-8"))["input"]


class Slices(Dataset):
    """The slices of a folder, by pydicom or Pillow, as three normalised channels."""

    def __init__(self, paths: list[Path], spec: dict[str, Any]) -> None:
        self.paths, self.spec = paths, spec

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        path, spec = self.paths[index], self.spec
        if path.suffix == ".png":
            from PIL import Image

            hu = np.asarray(Image.open(path).convert("L"), np.float32)
        else:
            import pydicom

            ds = pydicom.dcmread(path)
            hu = ds.pixel_array.astype(np.float32) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        centre, width = spec["window"]
        grey = torch.from_numpy(np.clip(hu, centre - width / 2, centre + width / 2) / spec["scale"])
        size = [spec["size"]] * 2
        image = torchvision.transforms.functional.resize(grey[None], size, antialias=True).expand(3, -1, -1)
        return torchvision.transforms.functional.normalize(image, spec["mean"], spec["std"])


def script_loader(paths: list[Path], spec: dict[str, Any]) -> DataLoader:
    return DataLoader(Slices(paths, spec), batch_size=BATCH, num_workers=os.cpu_count() or 1)


def monai_loader(paths: list[Path], spec: dict[str, Any]) -> DataLoader:
    from monai.data import DataLoader as MonaiLoader
    from monai.data import Dataset as MonaiDataset
    from monai.transforms import (
        Compose,
        LoadImage,
        NormalizeIntensity,
        RepeatChannel,
        Resize,
        ScaleIntensityRange,
    )

    centre, width = spec["window"]
    low, high = centre - width / 2, centre + width / 2
    reader = "PILReader" if paths[0].suffix == ".png" else "PydicomReader"
    steps = Compose(
        [
            LoadImage(reader=reader, image_only=True, ensure_channel_first=True),
            ScaleIntensityRange(low, high, low / spec["scale"], high / spec["scale"], clip=True),
            Resize([spec["size"]] * 2, mode="bilinear"),
            RepeatChannel(3),
            NormalizeIntensity(spec["mean"], spec["std"], channel_wise=True),
        ]
    )
    return MonaiLoader(MonaiDataset(paths, steps), batch_size=BATCH, num_workers=os.cpu_count() or 1)


@torch.inference_mode()
def main() -> None:
    kind, folder, card, output = sys.argv[1], *map(Path, sys.argv[2:])
    network, spec = make_network(card)
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    loader = {"script": script_loader, "monai": monai_loader}[kind](paths, spec)
    probabilities: list[float] = []
    for batch in loader:
        probabilities += torch.sigmoid(network(torch.as_tensor(batch))[:, 0]).tolist()
    with output.open("w", newline="") as file:
        csv.writer(file).writerows(zip(paths, probabilities, strict=True))


if __name__ == "__main__":
    main()
