"""Slices to measure speed on: 512 x 512, no two alike, the same in every format; made once and kept."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

sys.path.insert(0, str(Path(__file__).parents[1]))
from factories import make_ct, to_bytes, transcode

from hemoscan.phantom import make_phantom

FORMATS: dict[str, UID | None] = {
    "uncompressed": ExplicitVRLittleEndian,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "RLE": RLELossless,
    "PNG": None,
}
SIDE = 512
SLICES_A_STUDY = 24
NOISE_HU = 8
# Slices that a process makes at a time.
SHARE = 50


@cache
def heads() -> NDArray[np.float32]:
    return make_phantom("epidural", size=SIDE, slices=SLICES_A_STUDY).hu


def make_slice(number: int) -> NDArray[np.int64]:
    """Return a slice of shape (512, 512), HU: a synthetic head and noise of its own."""
    noise = np.random.default_rng(number).standard_normal((SIDE, SIDE), np.float32) * NOISE_HU
    found = np.clip(np.rint(heads()[number % SLICES_A_STUDY] + noise), -1024, 3071)
    return found.astype(np.int64)


def suffix(format_: str) -> str:
    return ".png" if FORMATS[format_] is None else ".dcm"


def encode(format_: str, number: int) -> bytes:
    """Return the file of a slice."""
    syntax, hu = FORMATS[format_], make_slice(number)
    if syntax is None:
        file = io.BytesIO()
        Image.fromarray(np.clip(hu, 0, 80).astype(np.uint8)).save(file, "PNG")
        return file.getvalue()
    uid = f"1.2.826.0.1.3680043.8.498.{number // SLICES_A_STUDY + 1}"
    slice_ = make_ct(hu, StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1", SOPInstanceUID=f"{uid}.1.{number}")
    return to_bytes(transcode(slice_, syntax))


def write_share(folder: Path, format_: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        part = folder / f"{number:05d}.part"
        part.write_bytes(encode(format_, number))
        part.rename(part.with_suffix(suffix(format_)))


def slices(work: Path, format_: str, count: int) -> Path:
    """Return the folder of so many slices of a format, made unless it is there; larger ones lend theirs (hard links).

    The folder appears whole or not at all; making it goes on where a killed run left it.
    """
    name = format_.replace(" ", "-")
    folder = work / f"{name}-{count}"
    if folder.is_dir():
        return folder
    making = work / f"making-{folder.name}"
    making.mkdir(parents=True, exist_ok=True)
    larger = [other for other in work.glob(f"{name}-*") if int(other.name.rpartition("-")[2]) > count]
    if larger:
        for path in sorted(larger[0].iterdir())[:count]:
            os.link(path, making / path.name)
    else:
        lacking = [number for number in range(count) if not (making / f"{number:05d}{suffix(format_)}").exists()]
        shares = [lacking[at : at + SHARE] for at in range(0, len(lacking), SHARE)]
        with ProcessPoolExecutor() as pool:
            for done in [pool.submit(write_share, making, format_, share) for share in shares]:
                done.result()
    making.rename(folder)
    return folder
