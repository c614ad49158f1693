"""Tiny data sets in every layout that the trainer takes: discs with a rim, positives with a bright blob."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemoscan.trainer.splits import Split

LAYOUTS = ("data/data", "data", "single-channel", "merged labels", "tars")
FIRST_TRAINING_ID = 1
FIRST_VALIDATION_ID = 15_001
FIRST_TEST_ID = 17_001


@dataclass(frozen=True)
class Row:
    """One labelled image as it is distributed."""

    id: str
    label: int
    image: NDArray[np.uint8]


def slice_image(label: int, seed: int, size: int = 40, top: int = 76) -> NDArray[np.uint8]:
    """Draw a disc of 26 to 34 in a rim of `top` (its largest value), with a blob of 62 if the label is 1."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:size, :size] / size - 0.5
    radius = np.hypot(down, across)
    image = np.where(radius < 0.4, rng.integers(26, 35, (size, size)), 0)
    image[(radius >= 0.4) & (radius < 0.47)] = top
    if label:
        angle = rng.uniform(0, 2 * np.pi)
        image[np.hypot(down - 0.18 * np.sin(angle), across - 0.18 * np.cos(angle)) < 0.13] = 62
    return image.astype(np.uint8)


def black_image(size: int = 40) -> NDArray[np.uint8]:
    return np.zeros((size, size), np.uint8)


def make_rows(labels: Sequence[int], first_id: int, size: int = 40, top: int = 76) -> list[Row]:
    return [
        Row(f"{first_id + i:06}", label, slice_image(label, first_id + i, size, top)) for i, label in enumerate(labels)
    ]


def make_split(labels: Sequence[int], first_id: int = FIRST_TRAINING_ID, size: int = 64) -> Split:
    """Return a split in memory whose images are as large as asked; two groups alternate in pairs."""
    rows = make_rows(labels, first_id, size)
    groups = np.where(np.arange(len(rows)) % 4 < 2, 70, 76)
    images = np.stack([np.minimum(row.image, 70) for row in rows])
    return Split(
        tuple(row.id for row in rows), images, np.array(labels, np.uint8), groups.astype(np.int64), np.arange(len(rows))
    )


def write_data_set(
    out: Path, training: Sequence[Row], validation: Sequence[Row], layout: str = "data/data", test: Sequence[Row] = ()
) -> Path:
    """Write a data set below `out` in one of `LAYOUTS`; return the folder that holds its label files."""
    home = out / "data"
    home.mkdir(parents=True)
    if layout == "merged labels":
        write_labels(home / "train_labels.txt", [*training, *validation])
    else:
        write_labels(home / "train_labels.txt", training)
        write_labels(home / "validation_labels.txt", validation)
    if layout == "tars":
        middle = len(training) // 2
        write_tar(home / "labelled-1.tar", training[:middle])
        write_tar(home / "labelled-2.tar", [*training[middle:], *validation])
        write_tar(home / "test.tar", test)
        return home
    images = home if layout == "data" else home / "data"
    images.mkdir(exist_ok=True)
    for row in [*training, *validation, *test]:
        picture(row, "L" if layout == "single-channel" else "RGB").save(images / f"{row.id}.png")
    return home


def write_labels(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("id,class\n" + "".join(f"{row.id},{row.label}\n" for row in rows), encoding="utf-8")


def write_tar(path: Path, rows: Sequence[Row]) -> None:
    with tarfile.open(path, "w") as tar:
        for row in rows:
            content = io.BytesIO()
            picture(row, "RGB").save(content, "WEBP", lossless=True)
            member = tarfile.TarInfo(f"data/{row.id}.webp")
            member.size = content.tell()
            content.seek(0)
            tar.addfile(member, content)


def picture(row: Row, mode: str) -> Image.Image:
    return Image.fromarray(row.image).convert(mode)
