"""A synthetic head CT in Hounsfield units, with or without a bleed, to try the scanner without patient data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from hemoscan.anatomy import COVERAGE, FIELD_OF_VIEW, draw_noise, draw_slice, make_head
from hemoscan.preprocess import resize_bilinear

BLEEDS: tuple[str, ...] = ("none", "intraparenchymal", "subdural", "epidural", "subarachnoid", "intraventricular")

_HU_RANGE = (-1024, 3071)  # what a 12 bit scanner delivers
_INTERCEPT = -1024


@dataclass(frozen=True)
class Phantom:
    """A synthetic study.

    Attributes
    ----------
    hu : ndarray of float32, shape (slices, rows, columns)
        Hounsfield units, the lowest slice first, seen from the feet (the patient's left is on the right).
    bleeding : ndarray of bool, shape (slices,)
        True where the slice shows at least 50 mm2 of blood.
    spacing : tuple of float
        Distance between slices, rows and columns, in mm.
    """

    hu: NDArray[np.float32]
    bleeding: NDArray[np.bool_]
    spacing: tuple[float, float, float]


def make_phantom(bleed: str = "none", *, slices: int = 24, size: int = 512, seed: int = 0) -> Phantom:
    """Draw a head CT of 120 mm from the skull base upwards.

    Parameters
    ----------
    bleed
        One of `BLEEDS`.
    slices
        Number of slices, 8 to 240; they share the 120 mm, so 24 make the usual 5 mm.
    size
        Rows and columns, 64 to 1024, over a field of 230.4 mm.
    seed
        Which head, 0 to 2**32 - 1. One seed is one head with one noise, whatever the bleed: away from the blood (and
        its oedema) the voxels are equal.

    Returns
    -------
    Phantom
        The study in HU.

    Raises
    ------
    ValueError
        If an argument is not among the legal values; the message names both.
    """
    if bleed not in BLEEDS:
        raise ValueError(f"bleed is {bleed!r}, but must be one of {', '.join(BLEEDS)}")
    _check("slices", slices, 8, 240)
    _check("size", size, 64, 1024)
    _check("seed", seed, 0, 2**32 - 1)
    head, thickness = make_head(seed), COVERAGE / slices
    hu = np.empty((slices, size, size), np.float32)
    bleeding = np.zeros(slices, np.bool_)
    for index in range(slices):
        z = (index + 0.5) * thickness
        hu[index], bleeding[index] = draw_slice(head, z, size, bleed, left=seed % 2 == 0)
        hu[index] += draw_noise(np.random.default_rng((seed, 1, index)), size)
    np.clip(hu, *_HU_RANGE, out=hu)
    return Phantom(hu, bleeding, (thickness, FIELD_OF_VIEW / size, FIELD_OF_VIEW / size))


def write_phantom(folder: Path, bleed: str = "none", *, slices: int = 24, seed: int = 0) -> int:
    """Make a study and write it as `folder/dicom/*.dcm`, `folder/png/*.png` and `folder/labels.csv` (`id,class`).

    Returns
    -------
    int
        The number of slices that show blood.
    """
    phantom = make_phantom(bleed, slices=slices, seed=seed)
    paths = write_dicom(phantom, folder / "dicom", seed=seed)
    write_png(phantom, folder / "png")
    rows = [f"{path.stem},{int(label)}\n" for path, label in zip(paths, phantom.bleeding, strict=True)]
    (folder / "labels.csv").write_text("id,class\n" + "".join(rows), encoding="utf-8")
    return int(phantom.bleeding.sum())


def write_dicom(phantom: Phantom, folder: Path, *, seed: int = 0) -> list[Path]:
    """Write a study as CT Image Storage, Explicit VR Little Endian, a file per slice.

    There is no clock and no chance in the files: the same arguments give the same bytes, UIDs included.

    Parameters
    ----------
    phantom
        The study; HU are rounded to integers and stored as 16 bit signed with intercept -1024.
    folder
        Made where missing; `phantom-001.dcm` and following are overwritten.
    seed
        Goes into the UIDs, beside the pixels.

    Returns
    -------
    list[Path]
        The files, the lowest slice first.

    Raises
    ------
    OSError
        If a file cannot be written.

    Notes
    -----
    Source: DICOM PS3.3 A.3 (CT Image IOD), C.8.2.1 (CT Image Module), C.7.6.2 (Image Plane Module).
    """
    stored = (_integer_hu(phantom) - _INTERCEPT).astype("<i2")
    entropy = [str(seed), hashlib.sha256(stored.tobytes()).hexdigest()]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, pixels in enumerate(stored):
        image = _common_attributes(phantom, entropy)
        _add_image_attributes(image, phantom, index, entropy)
        _add_pixels(image, pixels)
        paths.append(folder / f"phantom-{index + 1:03d}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_png(phantom: Phantom, folder: Path, *, size: int = 224) -> list[Path]:
    """Write a study as 8 bit grey PNG whose grey value is the HU, clipped to 0 to 80 (window 40/80).

    Parameters
    ----------
    phantom
        The study; HU are rounded to integers first, as in the DICOM files.
    folder
        Made where missing; `phantom-001.png` and following are overwritten.
    size
        Rows and columns of the PNG, 1 to 4096. Plain bilinear interpolation, no antialiasing.

    Returns
    -------
    list[Path]
        The files, the lowest slice first.

    Raises
    ------
    ValueError
        If `size` is out of range.
    OSError
        If a file cannot be written.
    """
    _check("size", size, 1, 4096)
    grey = np.clip(_integer_hu(phantom), 0, 80).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"phantom-{index + 1:03d}.png" for index in range(len(grey))]
    for path, plane in zip(paths, grey, strict=True):
        Image.fromarray(resize_bilinear(plane, size)).save(path)
    return paths


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, but must be from {low} to {high}")


def _integer_hu(phantom: Phantom) -> NDArray[np.int32]:
    return np.clip(np.rint(phantom.hu), *_HU_RANGE).astype(np.int32)


def _common_attributes(phantom: Phantom, entropy: list[str]) -> Dataset:
    """Return what all slices share, from the patient to the equipment; type 2 without a value is empty."""
    image = Dataset()
    image.PatientName, image.PatientID = "Phantom^Hemoscan", "PHANTOM"
    image.PatientBirthDate = image.PatientSex = ""
    image.StudyInstanceUID = generate_uid(entropy_srcs=["study", *entropy])
    image.SeriesInstanceUID = generate_uid(entropy_srcs=["series", *entropy])
    image.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", *entropy])
    # Fixed rather than empty: a DICOMDIR cannot be built without them.
    image.StudyDate, image.StudyTime, image.StudyID = "20000101", "000000", "1"
    image.AccessionNumber = image.ReferringPhysicianName = ""
    image.StudyDescription, image.SeriesDescription = "Synthetic head CT", "Synthetic, axial, soft tissue"
    image.Modality, image.SeriesNumber, image.AcquisitionNumber = "CT", 1, 1
    image.BodyPartExamined, image.PatientPosition, image.PositionReferenceIndicator = "HEAD", "HFS", ""
    image.Manufacturer, image.ManufacturerModelName = "hemoscan", "phantom"
    image.SOPClassUID, image.ImageType = CTImageStorage, ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.KVP, image.ConvolutionKernel = "120", "SOFT"
    image.PixelSpacing = [f"{step:.9g}" for step in phantom.spacing[1:]]
    image.SliceThickness = f"{phantom.spacing[0]:.9g}"
    return image


def _add_image_attributes(image: Dataset, phantom: Phantom, index: int, entropy: list[str]) -> None:
    """Add what one slice has of its own; its position is that of its first pixel's centre, PS3.3 C.7.6.2.1.1."""
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPInstanceUID = generate_uid(entropy_srcs=["slice", str(index), *entropy])
    image.InstanceNumber = index + 1
    between, down, across = phantom.spacing
    _, rows, columns = phantom.hu.shape
    corner = (-across * (columns - 1) / 2, -down * (rows - 1) / 2, between * index)
    image.ImagePositionPatient = [f"{value:.9g}" for value in corner]
    image.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    image.ContentDate = image.ContentTime = ""


def _add_pixels(image: Dataset, pixels: NDArray[np.int16]) -> None:
    """Add pixels of shape (rows, columns) as 16 bit signed, and the way from them to HU."""
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = str(_INTERCEPT), "1", "HU"
    image.WindowCenter, image.WindowWidth = "40", "80"
    image.PixelData = pixels.tobytes()
