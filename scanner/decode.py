"""From an entry to inputs of the network: one `Decoded` a frame, or one that says why there is none.

Readers are imported when a file needs them: a scan that finds nothing new imports neither pydicom nor SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, cast

from hemoscan.card import BRAIN, InputSpec
from hemoscan.errors import ImageError, NotForModelError
from hemoscan.slices import ERROR, OUT_OF_DISTRIBUTION, SKIPPED, Decoded, HUFrame
from hemoscan.sniff import DICOM, HEAD_BYTES, RASTER, ZIP, sniff
from hemoscan.sources import Entry, Reader

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_IMAGE_BYTES = 2 * 2**30
PART_BYTES = 2**20
# Below, reading a file whole takes less time than parsing its header twice.
HEADER_FIRST_BYTES = 8 * 2**20


@dataclass(frozen=True)
class DecodeOptions:
    """How files are read."""

    spec: InputSpec
    """The network's input."""
    png_window: tuple[float, float] | None = None
    """Centre and width, HU, that a stretched PNG or JPEG spans; None: told by the values."""
    repair_12_bit: bool = True
    """Whether wrapped 12-bit values are unwrapped."""
    most_frames: int | None = None
    """Frames of a file to decode at a time, see `Decoded.more`; None: all, however much memory they take."""
    keep_field: bool = False
    """Whether to return `Decoded.field`, too."""


def decode(entry: Entry, reader: Reader, options: DecodeOptions) -> list[Decoded]:
    """Decode a file, whatever it is. Never raises for a bad file: the reason is in what it returns."""
    blank = Decoded(entry.path, entry.folder, entry.mtime)
    if entry.error or entry.skipped:
        status, reason = (ERROR, entry.error) if entry.error else (SKIPPED, entry.skipped)
        return [replace(blank, status=status, reason=reason or "")]
    passed_over = _passed_over(entry, reader, blank)
    if passed_over is not None:
        return [passed_over]
    try:
        kind, content = _read(entry, reader)
    except Exception as error:  # damaged archives raise zlib.error, BadZipFile, NotImplementedError, OSError and more
        passing = isinstance(error, OSError | MemoryError)
        reason = f"cannot be read: {str(error) or type(error).__name__}"
        return [replace(blank, status=ERROR, reason=reason, passing=passing)]
    if kind == DICOM:
        return _decode_dicom(content, blank, options, entry.frames_done)
    if kind == RASTER:
        return _decode_raster(content, blank, options)
    reason = "an archive within an archive" if kind == ZIP else f"{kind}, no image that the model takes"
    return [replace(blank, status=SKIPPED, reason=reason)]


def fail(entry: Entry, reason: str, *, passing: bool = False) -> Decoded:
    """Return the row of a file that cannot be read; `passing` if it may be at another time."""
    return Decoded(entry.path, entry.folder, entry.mtime, status=ERROR, reason=reason, passing=passing)


def _passed_over(entry: Entry, reader: Reader, blank: Decoded) -> Decoded | None:
    """Return the row of a large DICOM file whose header says that it is not for the model: its pixels are not read.

    None for all others, members of archives among them, in which nothing can be passed over.
    """
    if entry.member is not None or entry.frames_done or not HEADER_FIRST_BYTES < entry.size <= MAX_IMAGE_BYTES:
        return None
    from hemoscan.dicom import check_eligible, identify, read_before_pixels  # noqa: PLC0415
    from hemoscan.intended import check_body_part  # noqa: PLC0415

    try:
        with reader.open(entry) as file:
            if sniff(file.read(HEAD_BYTES)) != DICOM:
                return None
            file.seek(0)
            header = read_before_pixels(cast("BinaryIO", file))
        if header is not None:
            blank = replace(blank, identity=identify(header))
            check_eligible(header)
            check_body_part(header)
    except NotForModelError as error:
        return replace(blank, status=SKIPPED, reason=str(error))
    except Exception:  # the file is read whole next, and what is wrong with it is told then
        return None
    return None


def _read(entry: Entry, reader: Reader) -> tuple[str, bytes]:
    """Return a file's kind, and its content if it is an image: others, which may be films, are not read further."""
    with reader.open(entry) as file:
        head = file.read(HEAD_BYTES)
        kind = sniff(head)
        if kind not in (DICOM, RASTER):
            return kind, b""
        if entry.size > MAX_IMAGE_BYTES:
            raise ImageError(f"{entry.size} bytes; legal: up to {MAX_IMAGE_BYTES}")
        parts, size = [head], len(head)
        while part := file.read(PART_BYTES):
            parts.append(part)
            size += len(part)
            if size > MAX_IMAGE_BYTES:  # it may grow, or be none of a size
                raise ImageError(f"over {MAX_IMAGE_BYTES} bytes")
        return kind, b"".join(parts)


def _decode_raster(content: bytes, blank: Decoded, options: DecodeOptions) -> list[Decoded]:
    from hemoscan.raster import read_raster  # noqa: PLC0415

    try:
        hu, notes = read_raster(content, options.png_window)
        return [_ready(blank, HUFrame(hu, 1, blank.identity, notes), options)]
    except NotForModelError as error:
        return [replace(blank, status=SKIPPED, reason=str(error))]
    except ImageError as error:
        return [replace(blank, status=ERROR, reason=str(error))]
    except Exception as error:  # such as MemoryError: a file must never end the run
        return [replace(blank, status=ERROR, reason=f"cannot be read: {type(error).__name__}")]


def _ready(blank: Decoded, frame: HUFrame, options: DecodeOptions) -> Decoded:
    from hemoscan.content import content_notes, flooded_by_metal  # noqa: PLC0415
    from hemoscan.preprocess import focus, whole_field  # noqa: PLC0415

    spec = options.spec
    rows, columns = frame.hu.shape
    notes = frame.notes if rows == columns else (*frame.notes, f"padded to a square from {rows} x {columns}")
    field = whole_field(frame.hu, spec)
    # The content is judged on the whole field of view, through which most cards, such as BRAIN's, look at it anyway.
    same = field.shape == (BRAIN.size, BRAIN.size) and spec.limits == BRAIN.limits
    brain = field if same else whole_field(frame.hu, BRAIN)
    found = content_notes(brain)
    if OUT_OF_DISTRIBUTION not in notes + found and flooded_by_metal(frame.hu):
        found += (OUT_OF_DISTRIBUTION,)
    notes += tuple(note for note in found if note not in notes)
    kept = brain if options.keep_field else None
    return replace(blank, frame=frame.frame, identity=frame.identity, notes=notes, image=focus(field, spec), field=kept)


def _decode_dicom(content: bytes, blank: Decoded, options: DecodeOptions, first: int) -> list[Decoded]:
    from hemoscan.dicom import check_eligible, count_frames, identify, read_header  # noqa: PLC0415
    from hemoscan.intended import check_body_part  # noqa: PLC0415

    try:
        header = read_header(content)
        blank = replace(blank, identity=identify(header))
        check_eligible(header)
        check_body_part(header)
        frames = count_frames(header)
    except NotForModelError as error:
        return [replace(blank, status=SKIPPED, reason=str(error))]
    except ImageError as error:
        return [replace(blank, status=ERROR, reason=str(error))]
    except Exception as error:  # a file must never end the run, whatever a header holds
        return [replace(blank, status=ERROR, reason=f"header cannot be read: {type(error).__name__}")]
    end = frames if options.most_frames is None else min(first + options.most_frames, frames)
    found = [replace(_decode_frame(header, index, blank, options), last=False) for index in range(first, end)]
    if not found:
        return [replace(blank, status=ERROR, reason=f"the file was changed: it has {frames} frames now")]
    found[-1] = replace(found[-1], last=True) if end == frames else replace(found[-1], more=end)
    return found


def _decode_frame(header: Dataset, index: int, blank: Decoded, options: DecodeOptions) -> Decoded:
    from hemoscan.dicom import read_frame  # noqa: PLC0415
    from hemoscan.intended import header_notes  # noqa: PLC0415

    try:
        frame = read_frame(header, index, blank.identity, repair_12_bit=options.repair_12_bit)
        frame = replace(frame, notes=(*header_notes(header, index), *frame.notes))
        return _ready(blank, frame, options)
    except NotForModelError as error:
        return replace(blank, frame=index + 1, status=SKIPPED, reason=str(error))
    except ImageError as error:
        return replace(blank, frame=index + 1, status=ERROR, reason=str(error))
    except Exception as error:  # as above
        return replace(blank, frame=index + 1, status=ERROR, reason=f"cannot be read: {type(error).__name__}")
