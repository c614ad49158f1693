"""From an entry to inputs of the network: one `Decoded` a frame, or one that says why there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hemoscan.card import InputSpec
from hemoscan.dicom import check_eligible, identify, read_frames, read_header
from hemoscan.errors import ImageError, NotForModelError
from hemoscan.preprocess import preprocess
from hemoscan.raster import read_raster
from hemoscan.slices import ERROR, SKIPPED, Decoded
from hemoscan.sniff import DICOM, RASTER, ZIP, sniff
from hemoscan.sources import Entry, Reader


@dataclass(frozen=True)
class DecodeOptions:
    """How files are read."""

    spec: InputSpec
    """The network's input."""
    png_window: tuple[float, float] | None = None
    """Centre and width, HU, that a stretched PNG or JPEG spans; None: told by the values."""
    repair_12_bit: bool = True
    """Whether wrapped 12-bit values are unwrapped."""


def decode(entry: Entry, reader: Reader, options: DecodeOptions) -> list[Decoded]:
    """Decode a file, whatever it is. Never raises for a bad file: the reason is in what it returns."""
    blank = Decoded(entry.path, entry.folder, entry.mtime)
    if entry.error is not None:
        return [replace(blank, status=ERROR, reason=entry.error)]
    if entry.skipped is not None:
        return [replace(blank, status=SKIPPED, reason=entry.skipped)]
    try:
        kind = sniff(reader.head(entry))
        if kind == ZIP:
            return [replace(blank, status=SKIPPED, reason="an archive within an archive")]
        if kind not in (DICOM, RASTER):
            return [replace(blank, status=SKIPPED, reason=f"{kind}, no image that the model takes")]
        content = reader.read(entry)
    except Exception as error:  # damaged archives raise zlib.error, BadZipFile, NotImplementedError, OSError and more
        return [replace(blank, status=ERROR, reason=f"cannot be read: {error}")]
    return _decode_dicom(content, blank, options) if kind == DICOM else _decode_raster(content, blank, options)


def _decode_raster(content: bytes, blank: Decoded, options: DecodeOptions) -> list[Decoded]:
    try:
        hu, notes = read_raster(content, options.png_window)
    except NotForModelError as error:
        return [replace(blank, status=SKIPPED, reason=str(error))]
    except ImageError as error:
        return [replace(blank, status=ERROR, reason=str(error))]
    return [replace(blank, frame=1, notes=notes, image=preprocess(hu, options.spec))]


def _decode_dicom(content: bytes, blank: Decoded, options: DecodeOptions) -> list[Decoded]:
    """Decode every frame; what was decoded before a damaged frame is kept, and the damage has a row of its own."""
    done: list[Decoded] = []
    try:
        header = read_header(content)
        blank = replace(blank, identity=identify(header))
        check_eligible(header)
        for frame in read_frames(header, repair_12_bit=options.repair_12_bit):
            image = preprocess(frame.hu, options.spec)
            done.append(replace(blank, frame=frame.frame, identity=frame.identity, notes=frame.notes, image=image))
    except NotForModelError as error:
        done.append(replace(blank, status=SKIPPED, reason=str(error)))
    except ImageError as error:
        done.append(replace(blank, frame=len(done) + 1 if done else None, status=ERROR, reason=str(error)))
    except Exception as error:  # a file must never end the run, whatever a header holds
        done.append(replace(blank, status=ERROR, reason=f"cannot be read: {type(error).__name__}"))
    return done
