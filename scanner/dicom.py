"""DICOM to HU: which files are CT slices, and how stored values become HU. docs/reading.md has the rules in prose."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.config
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import get_j2k_parameters, pixel_array
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from hemoscan.errors import ImageError, NotForModelError
from hemoscan.slices import HUFrame, Identity

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
NOT_SLICES = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SCREEN SAVE"})
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
RESCALE_TAGS = {"RescaleSlope": "0028,1053", "RescaleIntercept": "0028,1052"}
MAX_PIXELS = 8192 * 8192
MAX_FRAMES = 4096
AIR_HU = -1024.0
PLAUSIBLE_MEDIAN_HU = (-200.0, 900.0)


def configure_pydicom() -> None:
    """Have pydicom read headers as they are.

    Real headers hold UIDs such as `ID_02033fb12e`. pydicom's warnings about such values quote them, and values of
    headers must not reach a log: they may name a patient. Global to the process, so called by the scan's entry, not
    on import.
    """
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def read_header(content: bytes) -> Dataset:
    """Parse a DICOM file, with or without preamble; pixels stay encoded.

    Raises
    ------
    ImageError
        If it is no DICOM data set, or one that ends early.
    """
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


def identify(header: Dataset) -> Identity:
    """Return the identity that a header gives; what is malformed is left out."""
    return Identity(
        study_uid=_uid(header, "StudyInstanceUID"),
        series_uid=_uid(header, "SeriesInstanceUID"),
        sop_uid=_uid(header, "SOPInstanceUID"),
        instance_number=_integer(header, "InstanceNumber"),
        z_mm=_position(header, header),
    )


def check_eligible(header: Dataset) -> None:
    """Check that a header is of a CT slice with pixels.

    Raises
    ------
    NotForModelError
        If not; the text names tag, value and legal values.
    ImageError
        If it is of a CT image whose pixels are missing.
    """
    sop_class = _uid(header, "SOPClassUID") or str(
        getattr(header, "file_meta", Dataset()).get("MediaStorageSOPClassUID", "")
    )
    modality = _string(header, "Modality")
    if sop_class == MediaStorageDirectoryStorage:
        raise NotForModelError("a DICOMDIR: its files have their own rows")
    if not any(keyword in header for keyword in PIXEL_KEYWORDS):
        if sop_class in CT_CLASSES:
            raise ImageError(f"PixelData (7FE0,0010) is absent or incomplete ({_syntax_name(header)})")
        raise NotForModelError(f"no pixel data (SOPClassUID (0008,0016) is {_class_name(sop_class)})")
    if modality != "CT" and not (modality == "" and sop_class in CT_CLASSES):
        raise NotForModelError(f"Modality (0008,0060) is {modality!r}; legal: 'CT'")
    if sop_class and sop_class not in CT_CLASSES:
        raise NotForModelError(f"SOPClassUID (0008,0016) is {_class_name(sop_class)}; legal: CT image storage")
    _check_is_slice(header)


def _check_is_slice(header: Dataset) -> None:
    kinds = [str(value).strip().upper() for value in _values(header, "ImageType")]
    found = NOT_SLICES.intersection(kinds)
    if found:
        raise NotForModelError(f"ImageType (0008,0008) has {sorted(found)[0]}: not an axial slice")
    samples, photometric = _integer(header, "SamplesPerPixel"), _string(header, "PhotometricInterpretation")
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
    rows, columns = _size(header, "Rows", "0028,0010"), _size(header, "Columns", "0028,0011")
    if rows * columns > MAX_PIXELS:
        raise ImageError(f"{rows} x {columns} pixels; legal: up to {MAX_PIXELS} in all")
    frames = _integer(header, "NumberOfFrames") or 1  # PS3.5 7.4: an empty value says nothing
    if not 1 <= frames <= MAX_FRAMES:
        raise ImageError(f"NumberOfFrames (0028,0008) is {frames}; legal: 1 to {MAX_FRAMES}")
    return frames


def _size(header: Dataset, keyword: str, tag: str) -> int:
    values = _values(header, keyword)
    if len(values) != 1 or not isinstance(values[0], int) or not 1 <= values[0] <= 65535:
        found = "\\".join(str(value) for value in values) or "absent"
        raise ImageError(f"{keyword} ({tag}) is {found}; legal: 1 to 65535")
    return values[0]


def read_frame(header: Dataset, index: int = 0, *, repair_12_bit: bool = True) -> HUFrame:
    """Decode one frame of an eligible data set.

    Parameters
    ----------
    header
        As from `read_header`, its sizes checked by `count_frames`.
    index
        Of the frame, from 0.
    repair_12_bit
        Whether wrapped 12-bit values are unwrapped, see `unwrap_12_bit`.

    Raises
    ------
    ImageError
        If the pixels cannot be read; the text names tag, value and legal range, or the transfer syntax.
    """
    stored = _decode(header, index)
    if stored.ndim != 2:
        raise ImageError(f"frame {index + 1} decodes to shape {stored.shape}; legal: (Rows, Columns)")
    hu, notes = to_hu(stored, header, index, repair_12_bit=repair_12_bit)
    return HUFrame(hu, index + 1, _frame_identity(header, index), notes)


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
        return pixel_array(header, index=index)
    except Exception as error:  # decoders raise whatever a damaged stream leads them to
        raise ImageError(f"frame {index + 1} cannot be decoded ({_syntax_name(header)}): {_text(error)}") from error


def to_hu(
    stored: NDArray[np.number[Any]], header: Dataset, index: int = 0, *, repair_12_bit: bool = True
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Turn stored values into HU: `stored * RescaleSlope + RescaleIntercept` (DICOM PS3.3, C.11.1).

    Parameters
    ----------
    stored
        Shape (rows, columns), as decoded.
    header
        The data set; a frame's own functional groups come before the shared ones and the top level.
    index
        Of the frame, from 0.

    Returns
    -------
    hu
        Shape (rows, columns), HU; padding is air.
    notes
        The rules that were applied beyond that.
    """
    notes: list[str] = []
    values = stored.astype(np.float32)
    slope = _rescale(header, index, "RescaleSlope", 1.0, notes)
    intercept = _rescale(header, index, "RescaleIntercept", None, notes)
    if intercept is None:
        intercept = guess_intercept(stored)
        notes.append(f"RescaleIntercept (0028,1052) absent: {intercept:g} taken from the values")
    padding = _padding(stored, header)
    if repair_12_bit and header.get("BitsStored") == 12 and header.get("PixelRepresentation") == 0 and intercept > -100:
        values, intercept, changed = unwrap_12_bit(values, intercept)
        if changed:
            notes.append("12-bit values unwrapped")
    hu = values * np.float32(slope) + np.float32(intercept)
    hu[padding] = AIR_HU
    if _string(header, "PhotometricInterpretation") == "MONOCHROME1":
        notes.append("MONOCHROME1: display only, HU unchanged")
    if _sign_differs(header, index):
        notes.append("JPEG 2000 sign corrected")
    notes += implausible(hu)
    return hu, tuple(notes)


def unwrap_12_bit(values: NDArray[np.float32], intercept: float) -> tuple[NDArray[np.float32], float, bool]:
    """Undo a defect of some RSNA files: HU below zero, stored in 12 unsigned bits without an offset, wrapped by 4096.

    Values of 3096 or more become negative HU; the others stay what they were. A heuristic: HU of 3096 or more
    (metal) in such a file would be taken for air. It can be turned off, and a note says where it changed anything.

    Returns
    -------
    tuple
        Values and intercept to use, and whether any HU is another than before.
    """
    wrapped = values + 1000 >= 4096
    if not wrapped.any():
        return values, intercept, False
    return np.where(wrapped, values + 1000 - 4096, values + 1000).astype(np.float32), -1000.0, True


def guess_intercept(stored: NDArray[np.number[Any]]) -> float:
    """Return -1024 if the values look like HU + 1024 (none below 0, a tenth in 1024 to 1124: soft tissue), else 0."""
    tissue = np.count_nonzero((stored >= 1024) & (stored <= 1124))
    return -1024.0 if stored.min() >= 0 and tissue >= 0.1 * stored.size else 0.0


def implausible(hu: NDArray[np.float32]) -> list[str]:
    """Return a note if what is not air has a median that no head has, such as values that were never rescaled."""
    body = hu[hu > -500]
    if body.size < 0.02 * hu.size:
        return []
    low, high = PLAUSIBLE_MEDIAN_HU
    median = float(np.median(body))
    return (
        []
        if low <= median <= high
        else [f"implausible HU: median outside air {median:.0f}; expected {low:g} to {high:g}"]
    )


def _rescale(header: Dataset, index: int, keyword: str, default: float | None, notes: list[str]) -> float | None:
    """Return a frame's slope or intercept; `default`, with a note, if it is absent or empty."""
    name = f"{keyword} ({RESCALE_TAGS[keyword]})"
    for group in _groups(header, index, "PixelValueTransformationSequence"):
        if _values(group, keyword):
            value = _number(group, keyword)
            if value is None or (keyword == "RescaleSlope" and value == 0):
                raise ImageError(f"{name} is {str(group.get(keyword))!r}; legal: a number other than 0 for the slope")
            return value
    if default is not None:
        notes.append(f"{name} absent: {default:g} taken")
    return default


def _padding(stored: NDArray[np.number[Any]], header: Dataset) -> NDArray[np.bool_]:
    """Return, of shape (rows, columns), what is padding (PS3.3, C.7.5.1.1.2: one stored value, or a range of them)."""
    first = _integer(header, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, bool)
    last = _integer(header, "PixelPaddingRangeLimit")
    limits = [first, first if last is None else last]
    if stored.dtype.kind == "i":  # written as US beside signed pixels
        limits = [value - 2**16 if value >= 2 ** (8 * stored.itemsize - 1) else value for value in limits]
    inside: NDArray[np.bool_] = (stored >= min(limits)) & (stored <= max(limits))
    return inside


def _sign_differs(header: Dataset, index: int) -> bool:
    """Tell whether a JPEG 2000 codestream has another sign than PixelRepresentation (0028,0103); pydicom mends it."""
    if header.file_meta.TransferSyntaxUID not in JPEG2000TransferSyntaxes or "PixelData" not in header:
        return False
    try:
        stream = get_frame(header.PixelData, index, number_of_frames=_integer(header, "NumberOfFrames") or 1)
    except ValueError:
        return False
    signed = get_j2k_parameters(stream).get("is_signed")
    return signed is not None and bool(signed) != bool(header.get("PixelRepresentation"))


def _groups(header: Dataset, index: int, sequence: str) -> Iterator[Dataset]:
    """Yield where a frame's attribute may stand: its own functional group, the shared, the top (PS3.3, C.7.6.16)."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for item in [*per_frame[index : index + 1], *shared[:1]]:
        yield from (item.get(sequence) or [])[:1]
    yield header


def _frame_identity(header: Dataset, index: int) -> Identity:
    identity = identify(header)
    if "PerFrameFunctionalGroupsSequence" not in header:
        return identity
    groups = list(_groups(header, index, "PlanePositionSequence"))
    position = next((group for group in groups if "ImagePositionPatient" in group), header)
    groups = list(_groups(header, index, "PlaneOrientationSequence"))
    plane = next((group for group in groups if "ImageOrientationPatient" in group), header)
    return replace(identity, z_mm=_position(position, plane))


def _position(position: Dataset, plane: Dataset) -> float | None:
    """Return the slice's position along its normal, mm (PS3.3, C.7.6.2.1.1), else SliceLocation, else None."""
    origin, axes = _numbers(position, "ImagePositionPatient"), _numbers(plane, "ImageOrientationPatient")
    if len(origin) == 3 and len(axes) == 6:
        return round(float(np.dot(origin, np.cross(axes[:3], axes[3:]))), 3)
    location = _number(position, "SliceLocation")
    return None if location is None else round(location, 3)


def referenced_files(path: Path) -> list[list[str]]:
    """Return the files that a DICOMDIR refers to, each as its parts relative to the DICOMDIR's folder, in its order.

    Raises
    ------
    ImageError
        If it cannot be parsed, or is no DICOMDIR.
    """
    header = read_header(path.read_bytes())
    if "DirectoryRecordSequence" not in header:
        raise ImageError("DICOMDIR without DirectoryRecordSequence (0004,1220)")
    found = (_values(record, "ReferencedFileID") for record in header.DirectoryRecordSequence)
    return [[str(part) for part in parts] for parts in found if parts]


def _values(header: Dataset, keyword: str) -> list[Any]:
    """Return the values of an element, [] if it is absent, empty or malformed."""
    try:
        value = header.get(keyword)
    except Exception:  # a malformed element, whatever pydicom makes of it
        return []
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | bytes | int | float) else list(value)


def _string(header: Dataset, keyword: str) -> str:
    values = _values(header, keyword)
    return str(values[0]).strip().upper() if values else ""


def _uid(header: Dataset, keyword: str) -> str:
    values = _values(header, keyword)
    return str(values[0]).strip().strip("\0") if values else ""


def _numbers(header: Dataset, keyword: str) -> list[float]:
    try:
        values = [float(value) for value in _values(header, keyword)]
    except (TypeError, ValueError):
        return []
    return values if np.isfinite(values).all() else []


def _number(header: Dataset, keyword: str) -> float | None:
    values = _numbers(header, keyword)
    return values[0] if values else None


def _integer(header: Dataset, keyword: str) -> int | None:
    value = _number(header, keyword)
    return None if value is None else int(value)


def _syntax_name(header: Dataset) -> str:
    syntax = getattr(header, "file_meta", Dataset()).get("TransferSyntaxUID", "")
    return f"TransferSyntaxUID (0002,0010) is {UID(str(syntax)).name or 'absent'}"


def _class_name(sop_class: str) -> str:
    return UID(sop_class).name if sop_class else "absent"


def _text(error: Exception) -> str:
    """Return an exception as one line."""
    return " ".join(f"{error}".split())[:300] or type(error).__name__
