"""Damaged files without end, each told by its number: what transmission, disks and ill will make of sound ones."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from factories import LOSSLESS, UNCOMPRESSED, hu_ramp, make_ct, make_enhanced_ct, to_bytes, transcode, without_preamble
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

SEED = 20_240_229
# Lengths, counts and numbers that readers are known to stumble over.
EXTREMES = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x01\x00\x00\x00")
Random: TypeAlias = np.random.Generator


def make_bases() -> dict[str, bytes]:
    """Return sound files by name: DICOM in every transfer syntax that is read, PNG and JPEG of all kinds, zips."""
    bases = {f"{uid.name}.dcm".replace(" ", "-"): to_bytes(transcode(make_ct(hu_ramp()), uid)) for uid in UNCOMPRESSED}
    bases |= {f"{uid.name}.dcm".replace(" ", "-"): to_bytes(transcode(make_ct(hu_ramp()), uid)) for uid in LOSSLESS}
    frames = np.stack([hu_ramp() + 1024] * 3).astype(np.uint16)
    bases["enhanced.dcm"] = to_bytes(
        make_enhanced_ct(frames, intercepts=[-1024] * 3, positions=[(0, 0, z) for z in range(3)])
    )
    bases["bare.dcm"] = without_preamble(to_bytes(make_ct(hu_ramp())))
    grey = (hu_ramp() % 256).astype(np.uint8)
    bases["grey.png"] = _encode(Image.fromarray(grey), "PNG")
    bases["palette.png"] = _encode(Image.fromarray(grey).convert("P"), "PNG")
    bases["colour.png"] = _encode(Image.fromarray(grey).convert("RGBA"), "PNG")
    bases["deep.png"] = _encode(Image.fromarray((hu_ramp() + 1024).astype(np.uint16)), "PNG")
    bases["grey.jpg"] = _encode(Image.fromarray(grey), "JPEG")
    bases["progressive.jpg"] = _encode(Image.fromarray(grey).convert("RGB"), "JPEG", progressive=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("Explicit-VR-Little-Endian.dcm", "grey.png", "JPEG-2000-Image-Compression-(Lossless-Only).dcm"):
            archive.writestr(f"study/{name}", bases[name])
    bases["study.zip"] = packed.getvalue()
    bases["DICOMDIR"] = _dicomdir()
    return bases


def _encode(image: Image.Image, kind: str, **options: bool) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _dicomdir() -> bytes:
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.DirectoryRecordSequence = []
    for name in ("A", "B"):
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = ["IMAGES", name]
        directory.DirectoryRecordSequence.append(record)
    return to_bytes(directory)


def flip(content: bytes, random: Random, others: list[bytes]) -> bytes:
    """Flip one bit to eight."""
    changed = bytearray(content)
    for at in random.integers(len(changed), size=random.integers(1, 9)):
        changed[at] ^= 1 << random.integers(8)
    return bytes(changed)


def scribble(content: bytes, random: Random, others: list[bytes]) -> bytes:
    """Overwrite a few bytes by any."""
    at = random.integers(len(content))
    return content[:at] + random.bytes(random.integers(1, 16)) + content[at + 8 :]


def exaggerate(content: bytes, random: Random, others: list[bytes]) -> bytes:
    """Overwrite four bytes, near the beginning or the end rather than not, by an extreme number."""
    at = random.integers(min(len(content), 1200)) if random.random() < 0.8 else random.integers(len(content))
    return content[:at] + EXTREMES[random.integers(len(EXTREMES))] + content[at + 4 :]


def truncate(content: bytes, random: Random, others: list[bytes]) -> bytes:
    """Leave out the end."""
    return content[: random.integers(len(content))]


def splice(content: bytes, random: Random, others: list[bytes]) -> bytes:
    """Insert a piece of another file, such as a tag or a chunk."""
    other = others[random.integers(len(others))]
    start, length = random.integers(len(other)), random.integers(4, 200)
    at = random.integers(len(content))
    return content[:at] + other[start : start + length] + content[at:]


def repeat(content: bytes, random: Random, others: list[bytes]) -> bytes:
    """Say a piece twice, or up to fifty times."""
    start, length = random.integers(len(content)), random.integers(1, 200)
    piece = content[start : start + length]
    return content[:start] + piece * int(random.integers(2, 50)) + content[start:]


def blank(content: bytes, random: Random, others: list[bytes]) -> bytes:
    """Zero a piece, as a disk does."""
    start, length = random.integers(len(content)), random.integers(1, 512)
    return content[:start] + bytes(min(length, len(content) - start)) + content[start + length :]


KINDS: tuple[Callable[[bytes, Random, list[bytes]], bytes], ...] = (
    flip,
    scribble,
    exaggerate,
    truncate,
    splice,
    repeat,
    blank,
)


def write_mutant(bases: dict[str, bytes], number: int, folder: Path, seed: int = SEED) -> Path:
    """Write the file of a number: a sound one that was damaged once to three times."""
    random = np.random.default_rng([seed, number])
    names = sorted(bases)
    name = names[random.integers(len(names))]
    content = bases[name]
    for _ in range(random.integers(1, 4)):
        if content:
            content = KINDS[random.integers(len(KINDS))](content, random, list(bases.values()))
    # A file is a DICOMDIR by its name, so that one needs a folder.
    path = folder / f"{number:06d}" / name if name == "DICOMDIR" else folder / f"{number:06d}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
