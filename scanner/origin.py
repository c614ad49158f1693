"""Where a flagged slice comes from: what a DICOM object made of it must carry to be filed with its study.

The one place where patient data is taken from a header to be written elsewhere, and only because the user asked for
objects that a PACS can file. Texts of errors name attributes, never their values.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydicom
import pydicom.config
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import validate_value

from hemoscan.elements import group_with, integer, numbers, uid, values
from hemoscan.errors import ObjectError
from hemoscan.slices import Decoded
from hemoscan.sources import Reader, entry_at

# DICOM PS3.3, C.7.1.1 and C.7.2.1: which patient, which study. Type 2 is written without value where there is none.
TYPE_2 = {
    "PatientName": "PN",
    "PatientBirthDate": "DA",
    "PatientSex": "CS",
    "StudyDate": "DA",
    "StudyTime": "TM",
    "StudyID": "SH",
    "AccessionNumber": "SH",
    "ReferringPhysicianName": "PN",
}
TYPE_3 = {"IssuerOfPatientID": "LO", "StudyDescription": "LO"}
COPIED = ("PatientID", "StudyInstanceUID", *TYPE_2, *TYPE_3)
REFERRED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
GEOMETRY = (
    "NumberOfFrames",
    "ImageOrientationPatient",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
)


@dataclass(frozen=True)
class Origin:
    """What is taken from a slice's header."""

    copied: Mapping[str, str]
    """Values of the patient's and the study's attributes, by keyword."""
    sop_class_uid: str
    sop_uid: str
    series_uid: str
    frame: int | None
    """Number of the frame, from 1, in a multi-frame image; None in others."""
    orientation: tuple[str, ...]
    """PatientOrientation (0020,0020) of rows and columns, nearest axes; () if it is not known."""

    def copy_to(self, dataset: Dataset) -> None:
        """Write the patient's and the study's attributes into an object."""
        dataset.SpecificCharacterSet = "ISO_IR 192"
        for keyword, value in self.copied.items():
            setattr(dataset, keyword, value)


def read_origin(decoded: Decoded) -> Origin:
    """Read the header of a slice that was scanned.

    Raises
    ------
    ObjectError
        If the file is gone, is no DICOM, has an invalid UID or no valid PatientID: no object of it could be filed.
    """
    header = _read_header(decoded.path)
    copied = {keyword: _required_uid(header, keyword) for keyword in ("StudyInstanceUID",)}
    sop_class, sop, series = (_required_uid(header, keyword) for keyword in REFERRED)
    if sop != decoded.identity.sop_uid:
        raise ObjectError("SOPInstanceUID (0008,0018) is not the one that was scored: the file was changed")
    copied["PatientID"] = _valid(header, "PatientID", "LO")
    if not copied["PatientID"]:
        raise ObjectError("PatientID (0010,0020) is absent, empty or invalid; legal: 1 to 64 characters")
    copied |= {keyword: _valid(header, keyword, vr) for keyword, vr in TYPE_2.items()}
    if copied["PatientSex"] not in ("M", "F", "O"):
        copied["PatientSex"] = ""
    optional = {keyword: _valid(header, keyword, vr) for keyword, vr in TYPE_3.items()}
    copied |= {keyword: value for keyword, value in optional.items() if value}
    frame = decoded.frame if integer(header, "NumberOfFrames") is not None else None
    return Origin(copied, sop_class, sop, series, frame, _orientation(header, (decoded.frame or 1) - 1))


def derive_uid(*parts: object) -> str:
    """Return a UID (PS3.5, B.2) that is the same whenever it is derived from the same parts."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, repr(('hemoscan', *parts))).int}"


def _read_header(path: str) -> Dataset:
    entry = entry_at(path)
    if entry is None:
        raise ObjectError(f"{path} is gone")
    keywords: list[Any] = [*COPIED, *REFERRED, *GEOMETRY]
    try:
        with Reader() as reader, reader.open(entry) as file:
            return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=keywords)
    except Exception as error:  # pydicom raises whatever a damaged file leads it to
        raise ObjectError(f"{path} cannot be read as DICOM: {type(error).__name__}") from error


def _required_uid(header: Dataset, keyword: str) -> str:
    found = uid(header, keyword)
    if not UID(found).is_valid or not found:
        raise ObjectError(f"{keyword} is {'no valid UID' if found else 'absent'}; legal: a UID (PS3.5, 9.1)")
    return found


def _valid(header: Dataset, keyword: str, vr: str) -> str:
    """Return a value as text, "" if it is absent, one of several, or against its VR."""
    found = values(header, keyword)
    if len(found) != 1 and not isinstance(header.get(keyword), pydicom.valuerep.PersonName):
        return ""
    text = str(header[keyword].value).strip(" \0")
    try:
        validate_value(vr, text, pydicom.config.RAISE)
    except ValueError:
        return ""
    return text


def _orientation(header: Dataset, index: int) -> tuple[str, ...]:
    """Return where rows and columns point to, PS3.3 C.7.6.1.1.1."""
    plane = group_with(header, index, "PlaneOrientationSequence", "ImageOrientationPatient")
    axes = numbers(plane, "ImageOrientationPatient")
    if len(axes) != 6:
        return ()
    return tuple(_direction(axes[start : start + 3]) for start in (0, 3))


def _direction(axis: list[float]) -> str:
    largest = max(range(3), key=lambda index: abs(axis[index]))
    return ("RL", "AP", "FH")[largest][axis[largest] > 0]
