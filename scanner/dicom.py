"""DICOM files to frames in HU: which are CT slices, and whose. docs/reading.md has the rules in prose."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import gdcm
import numpy as np
import pydicom
import pydicom.config
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_partial
from pydicom.pixels.utils import pixel_array
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from hemoscan.bounds import DEFLATED, SMALL_BYTES, check_codestream, check_deflated_dicom
from hemoscan.elements import group_with, integer, number, numbers, string, uid, values
from hemoscan.errors import ImageError, NotForModelError
from hemoscan.hounsfield import to_hu
from hemoscan.slices import MAX_SIDE, HUFrame, Identity

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
NOT_SLICES = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SCREEN SAVE"})
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
JPEG_FAMILY = frozenset({*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes})
MAX_FRAMES = 4096
MAX_DICOMDIR_BYTES = 64 * 2**20
# Of a slice's normal along the body; a gantry tilted by the most that scanners can, 30 degrees, leaves 0.87.
LEAST_AXIAL = 0.8


def configure_pydicom() -> None:
    """Have pydicom read headers as they are.

    Real headers hold UIDs such as `ID_02033fb12e`. pydicom's warnings about such values quote them, and values of
    headers must not reach a log: they may name a patient. Global to the process, so called by the scan's entry, not
    on import.
    """
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    # GDCM prints what it thinks of a damaged stream; the row's reason says it.
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    gdcm.Trace.DebugOff()


def read_header(content: bytes) -> Dataset:
    """Parse a DICOM file, with or without preamble; pixels stay encoded.

    Raises
    ------
    ImageError
        If it is no DICOM data set, one that ends early, or a deflated one that grows beyond bounds.
    """
    check_deflated_dicom(content)
    try:
        header = pydicom.dcmread(io.BytesIO(content), force=True)
        if not header:
            # A file that ends within compressed pixels loses all its elements; those before the pixels say whose it is.
            header = pydicom.dcmread(io.BytesIO(content), force=True, stop_before_pixels=True)
            header.pop("PixelData", None)
    except Exception as error:  # pydicom raises whatever a damaged file leads it to
        raise ImageError(f"DICOM header cannot be parsed: {_text(error)}") from error
    if not header:
        raise ImageError("holds no DICOM element")
    return header


def read_before_pixels(file: BinaryIO) -> Dataset | None:
    """Parse a DICOM file's header; empty PixelData stand for its pixels, of which no more than the first MiB is read.

    None if no pixels follow, or only the whole file tells: it is deflated. Raises whatever pydicom does.
    """
    if DEFLATED in file.read(SMALL_BYTES):
        return None
    file.seek(0)
    header = pydicom.dcmread(file, force=True, stop_before_pixels=True)
    if file.read(2) not in (b"\xe0\x7f", b"\x7f\xe0"):  # group 7FE0, of either byte order
        return None
    header.PixelData = b""
    return header


def identify(header: Dataset) -> Identity:
    """Return the identity that a header gives; what is malformed is left out."""
    return Identity(
        study_uid=uid(header, "StudyInstanceUID"),
        series_uid=uid(header, "SeriesInstanceUID"),
        sop_uid=uid(header, "SOPInstanceUID"),
        instance_number=integer(header, "InstanceNumber"),
        z_mm=_position(header, header),
    )


def read_first_values(file: BinaryIO, keywords: Sequence[str]) -> list[str]:
    """Return the first value of each keyword, "" for those that are absent, reading no further than the last of them.

    For what stands before the pixels of a file whose header was read before, or is cut short: "" for all if it cannot
    be parsed.
    """
    tags: list[BaseTag | int] = [Tag(keyword) for keyword in keywords]
    try:
        header = read_partial(file, stop_when=lambda tag, vr, length: tag > max(tags), force=True, specific_tags=tags)
    except Exception:  # pydicom raises whatever a damaged file leads it to
        return [""] * len(tags)
    return [uid(header, keyword) for keyword in keywords]


def check_eligible(header: Dataset) -> None:
    """Check that a header is of a CT slice with pixels.

    Raises
    ------
    NotForModelError
        If not; the text names tag, value and legal values.
    ImageError
        If it is of a CT image whose pixels are missing.
    """
    sop_class = uid(header, "SOPClassUID") or str(
        getattr(header, "file_meta", Dataset()).get("MediaStorageSOPClassUID", "")
    )
    modality = string(header, "Modality")
    if sop_class == MediaStorageDirectoryStorage:
        raise NotForModelError("a DICOMDIR: it holds no image itself")
    if not any(keyword in header for keyword in PIXEL_KEYWORDS):
        if sop_class in CT_CLASSES or (modality == "" and _class_name(sop_class) == sop_class):  # or cut short
            raise ImageError(f"PixelData (7FE0,0010) is absent or incomplete ({_syntax_name(header)})")
        raise NotForModelError(f"no pixel data (SOPClassUID (0008,0016) is {_class_name(sop_class)})")
    if modality != "CT" and not (modality == "" and sop_class in CT_CLASSES):
        raise NotForModelError(f"Modality (0008,0060) is {modality!r}; legal: 'CT'")
    if sop_class and sop_class not in CT_CLASSES:
        raise NotForModelError(f"SOPClassUID (0008,0016) is {_class_name(sop_class)}; legal: CT image storage")
    _check_kind(header, "ImageType", "0008,0008")
    _check_grey(header)


def _check_kind(header: Dataset, keyword: str, tag: str) -> None:
    found = NOT_SLICES.intersection(str(value).strip().upper() for value in values(header, keyword))
    if found:
        raise NotForModelError(f"{keyword} ({tag}) has {sorted(found)[0]}: not an axial slice")


def _check_grey(header: Dataset) -> None:
    samples, photometric = integer(header, "SamplesPerPixel"), string(header, "PhotometricInterpretation")
    if samples not in (1, None) or photometric not in ("MONOCHROME1", "MONOCHROME2", ""):
        raise NotForModelError(
            f"PhotometricInterpretation (0028,0004) is {photometric!r} with {samples} samples; "
            "legal: MONOCHROME1, MONOCHROME2"
        )


def count_frames(header: Dataset) -> int:
    """Check a data set's sizes before anything is allocated, and return its number of frames.

    Raises
    ------
    ImageError
        If a size is absent or out of its legal range; the text names the tag.
    """
    _check_size(header, "Rows", "0028,0010")
    _check_size(header, "Columns", "0028,0011")
    frames = integer(header, "NumberOfFrames") or 1  # PS3.5 7.4: an empty value says nothing
    if not 1 <= frames <= MAX_FRAMES:
        raise ImageError(f"NumberOfFrames (0028,0008) is {frames}; legal: 1 to {MAX_FRAMES}")
    return frames


def _check_size(header: Dataset, keyword: str, tag: str) -> None:
    found = values(header, keyword)
    if len(found) != 1 or not isinstance(found[0], int) or not 1 <= found[0] <= MAX_SIDE:
        text = "\\".join(str(value) for value in found) or "absent"
        raise ImageError(f"{keyword} ({tag}) is {text}; legal: 1 to {MAX_SIDE}")


def read_frame(
    header: Dataset, index: int = 0, identity: Identity | None = None, *, repair_12_bit: bool = True
) -> HUFrame:
    """Decode one frame of an eligible data set.

    Parameters
    ----------
    header
        As from `read_header`, its sizes checked by `count_frames`.
    index
        Of the frame, from 0.
    identity
        The file's, as from `identify`; None: not known yet.
    repair_12_bit
        Whether wrapped 12-bit values are unwrapped, see `unwrap_12_bit`.

    Raises
    ------
    NotForModelError
        If the frame is no axial slice in HU.
    ImageError
        If the pixels cannot be read; the text names tag, value and legal range, or the transfer syntax.
    """
    _check_frame(header, index)
    stored = _decode(header, index)
    if stored.ndim != 2:
        raise ImageError(f"frame {index + 1} decodes to shape {stored.shape}; legal: (Rows, Columns)")
    hu, notes = to_hu(stored, header, index, repair_12_bit=repair_12_bit)
    return HUFrame(hu, index + 1, _frame_identity(header, index, identity or identify(header)), notes)


def _decode(header: Dataset, index: int) -> NDArray[np.number[Any]]:
    try:
        syntax = header.file_meta.TransferSyntaxUID
    except AttributeError:
        # PS3.10 wants it. Without meta information, it is one of the three that the header was just parsed by.
        implicit, little_endian = header.original_encoding
        explicit = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
        syntax = ImplicitVRLittleEndian if implicit else explicit
        header.ensure_file_meta()
        header.file_meta.TransferSyntaxUID = syntax
    try:
        if syntax in JPEG_FAMILY and "PixelData" in header:
            frames = integer(header, "NumberOfFrames") or 1
            check_codestream(get_frame(header.PixelData, index, number_of_frames=frames), header.Rows, header.Columns)
        if syntax in JPEG2000TransferSyntaxes:
            # The fastest (docs/performance.md); for what it cannot decode, pydicom asks the others, GDCM first.
            with contextlib.suppress(Exception):
                return pixel_array(header, index=index, decoding_plugin="pylibjpeg")
        return pixel_array(header, index=index)
    except (KeyboardInterrupt, SystemExit):
        raise
    except (
        BaseException
    ) as error:  # whatever a damaged stream leads to: a decoder in Rust that panics raises no Exception
        raise ImageError(f"frame {index + 1} cannot be decoded ({_syntax_name(header)}): {_text(error)}") from error


def _frame_identity(header: Dataset, index: int, identity: Identity) -> Identity:
    if "PerFrameFunctionalGroupsSequence" not in header:
        return identity
    position = group_with(header, index, "PlanePositionSequence", "ImagePositionPatient")
    return replace(identity, z_mm=_position(position, _plane(header, index)))


def _plane(header: Dataset, index: int) -> Dataset:
    return group_with(header, index, "PlaneOrientationSequence", "ImageOrientationPatient")


def _check_frame(header: Dataset, index: int) -> None:
    """Check that a frame is an axial slice; raise NotForModelError if not."""
    _check_kind(group_with(header, index, "CTImageFrameTypeSequence", "FrameType"), "FrameType", "0008,9007")
    axes = numbers(_plane(header, index), "ImageOrientationPatient")
    if len(axes) == 6 and abs(_normal(axes)[2]) < LEAST_AXIAL:
        raise NotForModelError("ImageOrientationPatient (0020,0037) is not axial: a reformat")


def _position(position: Dataset, plane: Dataset) -> float | None:
    """Return the slice's position along its normal, mm (PS3.3, C.7.6.2.1.1), else SliceLocation, else None."""
    origin, axes = numbers(position, "ImagePositionPatient"), numbers(plane, "ImageOrientationPatient")
    if len(origin) == 3 and len(axes) == 6:
        return round(float(np.dot(origin, _normal(axes))), 3)
    location = number(position, "SliceLocation")
    return None if location is None else round(location, 3)


def _normal(axes: Sequence[float]) -> tuple[float, float, float]:
    """Return the cross product of the two axes of ImageOrientationPatient; numpy takes ten times as long for it."""
    (a, b, c), (d, e, f) = axes[:3], axes[3:]
    return b * f - c * e, c * d - a * f, a * e - b * d


def referenced_files(path: Path) -> list[list[str]]:
    """Return the files that a DICOMDIR refers to, each as its parts relative to the DICOMDIR's folder, in its order.

    Raises
    ------
    ImageError
        If it cannot be parsed, or is no DICOMDIR.
    """
    size = path.stat().st_size
    if size > MAX_DICOMDIR_BYTES:
        raise ImageError(f"DICOMDIR of {size} bytes; legal: up to {MAX_DICOMDIR_BYTES}")
    header = read_header(path.read_bytes())
    try:
        records = list(header.DirectoryRecordSequence)
    except Exception as error:  # absent, or damaged in whatever way
        raise ImageError("DICOMDIR without a readable DirectoryRecordSequence (0004,1220)") from error
    found = (values(record, "ReferencedFileID") for record in records)
    return [[str(part) for part in parts] for parts in found if parts]


def _syntax_name(header: Dataset) -> str:
    syntax = getattr(header, "file_meta", Dataset()).get("TransferSyntaxUID", "")
    return f"TransferSyntaxUID (0002,0010) is {UID(str(syntax)).name or 'absent'}"


def _class_name(sop_class: str) -> str:
    return UID(sop_class).name if sop_class else "absent"


def _text(error: BaseException) -> str:
    """Return an exception as one line."""
    return " ".join(f"{error}".split())[:300] or type(error).__name__
