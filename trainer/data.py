"""The report's data set (Unibuc "brain anomaly detection", a subset of RSNA 2019), in every layout that it comes in.

Images lie in `data/data/`, in `data/`, or in tars beside the label files; PNGs have one or three equal channels,
tars hold lossless WebP. Labels are `train_labels.txt` and `validation_labels.txt` (header `id,class`), or one merged
`train_labels.txt`. The test images, 017001 to 022149, have no labels, and may be absent.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemoscan.card import BRAIN, InputSpec
from hemoscan.errors import DataError
from hemoscan.machine import usable_cores
from hemoscan.preprocess import preprocess
from hemoscan.text import without_addresses
from hemoscan.trainer.balance import merge_small_groups
from hemoscan.trainer.clusters import clusters, digest
from hemoscan.trainer.labels import read_labels
from hemoscan.trainer.splits import DataSet, Slices, Split

IMAGE_SUFFIXES = (".png", ".webp")
VALIDATION_IDS = range(15_001, 17_001)
TEST_IDS = range(17_001, 22_150)
DATA_SET = "Unibuc brain anomaly detection"
"""How descriptions of the data set begin, those of records of earlier versions among them."""
DESCRIPTION = f"{DATA_SET}, a subset of RSNA 2019"
NOTICE = (
    "Research use only, not for diagnosis. Trained on slices derived from the RSNA 2019 Brain CT Hemorrhage data set: "
    "non-commercial use; cite Flanders et al., Radiology: Artificial Intelligence 2020, 2(3):e190211."
)
DECODE_AT_ONCE = 512

Label = tuple[str, int]
Reader = Callable[[], bytes]


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
    """Load the training and the validation split: see `load_data_set`."""
    division = load_data_set(folder, spec, limit=limit, progress=progress, test=False).validation(seed=0)
    return division.training, division.held_out


def load_data_set(
    folder: Path,
    spec: InputSpec,
    *,
    limit: int | None = None,
    progress: Callable[[Iterable[Label]], Iterable[Label]] = iter,
    test: bool = True,
) -> DataSet:
    """Load the labelled slices, and those of the test.

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
    test
        Whether to load the test images, too, as far as they are there.

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
    held_out = np.arange(len(labelled)) >= len(training)
    return DataSet(
        _decode_labelled(labelled, images, spec, progress),
        held_out,
        _decode_test(images, {name for name, _ in labelled}, spec, limit) if test else None,
        DESCRIPTION,
        NOTICE,
    )


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
        if {label for _, label in rows} != {0, 1}:  # before minutes of decoding, not after
            raise DataError(f"{home}: the {split} split has {len(rows)} slices; legal: both classes among them")
    return training[:limit], validation[:limit]


def _read_label_file(path: Path) -> list[Label]:
    found = read_labels(path)
    if found.kind != "id":
        raise DataError(f"{path}: has no column id; legal: id,class, or name the file with --labels")
    return list(zip(found.keys, found.labels.tolist(), strict=True))


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


def _decode_labelled(
    rows: list[Label],
    images: Mapping[str, Reader],
    spec: InputSpec,
    progress: Callable[[Iterable[Label]], Iterable[Label]],
) -> Split:
    pixels, levels, digests = _decode([name for name, _ in rows], images, spec, iter(progress(rows)))
    ids, labels = tuple(name for name, _ in rows), np.array([label for _, label in rows], np.uint8)
    return Split(ids, pixels, labels, merge_small_groups(levels), clusters(digests))


def _decode_test(images: Mapping[str, Reader], labelled: set[str], spec: InputSpec, limit: int | None) -> Slices | None:
    found = (name for name in images if name.isdigit() and int(name) in TEST_IDS and name not in labelled)
    names = sorted(found)[:limit]
    return Slices(tuple(names), _decode(names, images, spec, iter(()))[0]) if names else None


def _decode(
    names: list[str], images: Mapping[str, Reader], spec: InputSpec, shown: Iterator[Label]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[bytes | None]]:
    """Return inputs of shape (n, size, size), the largest grey level of each image, and its digest."""
    pixels = np.empty((len(names), spec.size, spec.size), np.uint8)
    levels = np.empty(len(names), np.int64)
    digests: list[bytes | None] = [None] * len(names)

    def decode(task: tuple[int, str]) -> None:
        number, name = task
        try:
            with Image.open(io.BytesIO(images[name]()), formats=("PNG", "WEBP")) as image:
                grey = np.asarray(image.convert("RGB"))[:, :, 0]
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
            raise DataError(f"image {name}: cannot be decoded: {without_addresses(str(error))}") from error
        pixels[number], levels[number] = preprocess(grey, spec), grey.max()
        # Of one input whatever the run's, so that all runs divide the slices alike; what two images show above 70 HU
        # is not shown to most networks, and does not make them two.
        digests[number] = digest(preprocess(grey, BRAIN))

    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(names), DECODE_AT_ONCE):
            chunk = names[start : start + DECODE_AT_ONCE]
            for _ in pool.map(decode, [(start + i, name) for i, name in enumerate(chunk)]):
                next(shown, None)
    return pixels, levels, digests
