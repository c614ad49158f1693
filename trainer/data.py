"""The report's data set (Unibuc "brain anomaly detection", a subset of RSNA 2019), in every layout that it comes in.

Images lie in `data/data/`, in `data/`, or in tars beside the label files; PNGs have one or three equal channels,
tars hold lossless WebP. Labels are `train_labels.txt` and `validation_labels.txt` (header `id,class`), or one merged
`train_labels.txt`.
"""

from __future__ import annotations

import csv
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemoscan.card import InputSpec
from hemoscan.errors import DataError
from hemoscan.machine import usable_cores
from hemoscan.preprocess import preprocess
from hemoscan.trainer.balance import merge_small_groups

IMAGE_SUFFIXES = (".png", ".webp")
VALIDATION_IDS = range(15_001, 17_001)
DECODE_AT_ONCE = 512

Label = tuple[str, int]
Reader = Callable[[], bytes]


@dataclass(frozen=True)
class Split:
    """Slices in memory, ready for the network."""

    ids: tuple[str, ...]
    """As in the label file."""
    images: NDArray[np.uint8]
    """Shape (n, size, size), the network's input."""
    labels: NDArray[np.uint8]
    """Shape (n,), 1 for hemorrhage."""
    groups: NDArray[np.int64]
    """Shape (n,): the largest grey level of the image as it is distributed, which tells the header's window, so the
    site; levels of few images are merged into -1."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Split:
        """Return the slices that an index array names."""
        numbers = np.arange(len(self))[index]
        ids = tuple(self.ids[number] for number in numbers)
        return Split(ids, self.images[index], self.labels[index], self.groups[index])


def default_folder() -> Path:
    """Return HEMOSCAN_DATA, else ./data."""
    return Path(os.environ.get("HEMOSCAN_DATA") or "data")


def load_splits(
    folder: Path,
    spec: InputSpec,
    *,
    limit: int | None = None,
    progress: Callable[[Iterable[Label]], Iterable[Label]] = iter,
) -> tuple[Split, Split]:
    """Load the training and the validation split.

    Parameters
    ----------
    folder
        Where the data set lies, or up to two folders above it.
    spec
        The network's input.
    limit
        Take only the first so many slices of each split, for a trial.
    progress
        Wraps the labels while their images are decoded, such as tqdm.

    Returns
    -------
    tuple of Split
        Training slices whose pixels also occur in the validation split are left out (but for black ones).

    Raises
    ------
    DataError
        If label files or images are missing or malformed; the text names them.
    """
    home = _label_file(folder).parent
    training, validation = _read_labels(home, limit)
    images = _find_images(home)
    labelled = training + validation
    missing = [name for name, _ in labelled if name not in images]
    if missing:
        raise DataError(
            f"{home}: {len(missing)} labelled images not found, such as {missing[0]} (.png, or .webp in a tar)"
        )
    both = _decode(labelled, images, spec, progress)
    numbers = np.arange(len(both))
    train, held_out = both.take(numbers < len(training)), both.take(numbers >= len(training))
    train = train.take(~_duplicates(train, held_out))
    _check_classes(home, "training", train.labels.tolist())
    return train, held_out


def _label_file(folder: Path) -> Path:
    for pattern in ("train_labels.txt", "*/train_labels.txt", "*/*/train_labels.txt"):
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    raise DataError(
        f"{folder}: no train_labels.txt there or up to two folders below; name the data set's folder with --data"
    )


def _read_labels(home: Path, limit: int | None) -> tuple[list[Label], list[Label]]:
    """Read both splits; of a merged label file, the ids 015001 to 017000 are the validation split, as distributed."""
    training = _read_label_file(home / "train_labels.txt")
    validation_file = home / "validation_labels.txt"
    if validation_file.is_file():
        validation = _read_label_file(validation_file)
    else:
        validation = [row for row in training if row[0].isdigit() and int(row[0]) in VALIDATION_IDS]
    held_out = {name for name, _ in validation}
    training = [row for row in training if row[0] not in held_out]
    for split, rows in (("training", training[:limit]), ("validation", validation[:limit])):
        _check_classes(home, split, [label for _, label in rows])
    return training[:limit], validation[:limit]


def _check_classes(home: Path, split: str, labels: Iterable[int]) -> None:
    found = list(labels)
    if set(found) != {0, 1}:
        raise DataError(f"{home}: the {split} split has {len(found)} slices; legal: both classes among them")


def _read_label_file(path: Path) -> list[Label]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"id", "class"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path}: header {reader.fieldnames}; legal: id,class")
            rows = [(reader.line_num, row["id"], row["class"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    for line, name, label in rows:
        if not name or label not in ("0", "1"):
            raise DataError(f"{path}, line {line}: id {name!r} has class {label!r}; legal: 0 or 1")
    return [(name, int(label)) for _, name, label in rows]


def _find_images(home: Path) -> dict[str, Reader]:
    """Return a reader for each image, by id."""
    readers: dict[str, Reader] = {}
    for tar in sorted(home.glob("*.tar")):
        readers |= _tar_readers(tar)
    for folder in (home, home / "data", home / "data" / "data"):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.suffix.lower() in IMAGE_SUFFIXES:
                readers[path.stem] = path.read_bytes
    return readers


def _tar_readers(path: Path) -> dict[str, Reader]:
    """Return readers of a tar's members. Members are not compressed, so that each is a range of the tar's bytes."""

    def reader(offset: int, size: int) -> Reader:
        def read() -> bytes:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(size)

        return read

    try:
        with tarfile.open(path, "r:") as tar:
            members = [member for member in tar if Path(member.name).suffix.lower() in IMAGE_SUFFIXES]
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{path}: cannot be read as a tar: {error}") from error
    return {Path(member.name).stem: reader(member.offset_data, member.size) for member in members}


def _decode(
    rows: list[Label],
    images: Mapping[str, Reader],
    spec: InputSpec,
    progress: Callable[[Iterable[Label]], Iterable[Label]],
) -> Split:
    pixels = np.empty((len(rows), spec.size, spec.size), np.uint8)
    levels = np.empty(len(rows), np.int64)

    def decode(task: tuple[int, str]) -> None:
        number, name = task
        try:
            with Image.open(io.BytesIO(images[name]()), formats=("PNG", "WEBP")) as image:
                grey = np.asarray(image.convert("RGB"))[:, :, 0]
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
            raise DataError(f"image {name}: cannot be decoded: {error}") from error
        pixels[number], levels[number] = preprocess(grey, spec), grey.max()

    shown = iter(progress(rows))
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(rows), DECODE_AT_ONCE):
            chunk = rows[start : start + DECODE_AT_ONCE]
            for _ in pool.map(decode, [(start + i, name) for i, (name, _) in enumerate(chunk)]):
                next(shown, None)
    ids, labels = tuple(name for name, _ in rows), np.array([label for _, label in rows], np.uint8)
    return Split(ids, pixels, labels, merge_small_groups(levels))


def _duplicates(split: Split, other: Split) -> NDArray[np.bool_]:
    """Return, of shape (n,), which slices of `split` are pixel for pixel in `other`, black ones not counted."""
    known = {image.tobytes() for image in other.images}
    return np.array([bool(image.any()) and image.tobytes() in known for image in split.images])
