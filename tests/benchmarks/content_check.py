"""How many labelled slices of the data set the content check sets aside, and which of pydicom's CT files.

usage: python tests/benchmarks/content_check.py DATA [--every N]

DATA is the data set's folder; fully black slices are left out of the count. Of pydicom's own test files, all that are
CT images with pixels are shown with what a scan would make of them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import pydicom

from hemoscan.card import BRAIN, RAW
from hemoscan.content import content_notes
from hemoscan.decode import DecodeOptions, decode
from hemoscan.dicom import configure_pydicom
from hemoscan.preprocess import preprocess
from hemoscan.slices import BLANK, OUT_OF_DISTRIBUTION
from hemoscan.sniff import DICOM, sniff
from hemoscan.sources import Reader, find_entries
from hemoscan.trainer.data import load_splits


def check_data_set(folder: Path, every: int) -> None:
    """Print how many slices get which note."""
    counts: Counter[tuple[str, int]] = Counter()
    for split in load_splits(folder, RAW):
        for image, label in list(zip(split.images, split.labels.tolist(), strict=True))[::every]:
            if image.any():
                notes = content_notes(preprocess(image, BRAIN))
                counts.update((note, label) for note in ("all", *notes))
    for note in ("all", BLANK, OUT_OF_DISTRIBUTION):
        slices = counts[note, 0] + counts[note, 1]
        share = 100 * slices / (counts["all", 0] + counts["all", 1])
        print(f"{note}: {slices} slices ({share:.2f} %), of these {counts[note, 1]} with hemorrhage")


def check_pydicom() -> None:
    """Print what becomes of each CT image among pydicom's test files."""
    configure_pydicom()
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    with Reader() as reader:
        for entry in find_entries([folder]):
            if sniff(Path(entry.file).read_bytes()[:4096]) != DICOM:
                continue
            frame = decode(entry, reader, DecodeOptions(BRAIN))[0]
            if frame.image is not None:
                print(f"{Path(entry.path).relative_to(folder)}: {'; '.join(frame.notes) or 'no note'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    check_data_set(arguments.data, arguments.every)
    check_pydicom()
