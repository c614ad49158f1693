"""A synthetic head CT in Hounsfield units, with or without a bleed, to try the scanner without patient data.

The head is drawn slice by slice from signed distances in millimetres (negative inside a structure), each structure
painted over the ones before it with an edge about as soft as that of a soft-tissue kernel. Head coordinates: x to the
patient's left, y to the back, z up from the skull base, the origin in the middle of the head. Most structures come in
pairs and are written once, for x > 0.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from hemoscan.preprocess import resize_bilinear

BLEEDS: tuple[str, ...] = ("none", "intraparenchymal", "subdural", "epidural", "subarachnoid", "intraventricular")

_Plane = NDArray[np.floating]  # float32 in memory
_Point = tuple[float, float, float]

_FIELD_OF_VIEW = 230.4  # mm, a usual head protocol; 0.45 mm pixels at 512
_COVERAGE = 120.0  # mm from the skull base to just below the vertex
_VISIBLE_AREA = 50.0  # mm2 of blood that a reader would call a bleed on one slice
_NOISE = 3.5  # HU
_HU_RANGE = (-1024, 3071)  # what a 12 bit scanner delivers
_INTERCEPT = -1024

# HU
_AIR, _FAT, _CSF, _OEDEMA, _WHITE = -1000.0, -85.0, 6.0, 20.0, 28.0
_GREY, _SKIN, _FALX, _MUSCLE = 37.0, 35.0, 48.0, 55.0

# The lateral ventricle, from the frontal to the occipital and the temporal horn: x, y, z, radius in mm.
_VENTRICLE: tuple[tuple[tuple[float, float, float, float], ...], ...] = (
    ((12, -37, 50, 2.2), (9, -27, 55, 5.2), (7, -9, 61, 4.8), (10, 4, 66, 6.0), (16, 20, 66, 6.4), (25, 35, 57, 7.4)),
    ((25, 35, 57, 7.4), (23, 58, 51, 3.0)),
    ((25, 35, 57, 7.4), (33, 22, 40, 2.4), (30, 2, 31, 1.2)),
)
# Deep grey matter: centre, radii in mm.
_NUCLEI: tuple[tuple[_Point, _Point], ...] = (
    ((16, -23, 53), (4.5, 9, 9)),  # caudate head
    ((26, -3, 50), (6.5, 17, 12)),  # lentiform
    ((11, 11, 52), (8, 13, 11)),  # thalamus
)


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


@dataclass(frozen=True)
class _Waves:
    """A smooth random field of unit variance: a sum of plane waves, so that it is the same at every resolution."""

    vectors: NDArray[np.float64]  # (waves, 3), radians per mm
    phases: NDArray[np.float64]  # (waves,)

    def at(self, x: _Plane, y: _Plane, z: _Plane | float) -> _Plane:
        """Return the field at points in mm."""
        total = np.zeros_like(x)
        for (kx, ky, kz), phase in zip(self.vectors.tolist(), self.phases.tolist(), strict=True):
            total += np.cos(kx * x + ky * y + (kz * z + phase))
        return total * math.sqrt(2 / len(self.phases))


@dataclass(frozen=True)
class _Head:
    """What differs from head to head; all of it comes from the seed."""

    turn: float  # radians, in the plane
    shift: tuple[float, float]  # mm
    bow: float  # mm by which the midline bends
    folds: _Waves  # sulci lie where this field is zero
    reach: _Waves  # how deep sulci go
    lumps: _Waves  # irregular outlines
    grain: _Waves  # diploe, air cells, folia, clots


@dataclass(frozen=True)
class _Slice:
    """One plane of a head, with the distances that several structures share. Lengths in mm, planes (rows, columns)."""

    head: _Head
    pixel: float
    z: float
    x: _Plane
    y: _Plane
    side: _Plane  # |x| from the bowed midline: one formula for both halves
    skull: _Plane  # from the outer table, positive outside
    depth: _Plane  # from the inner table, positive inside

    def read(self, waves: _Waves, scale: float = 1.0) -> _Plane:
        """Return a field on this plane, its waves shorter by `scale`."""
        return waves.at(scale * self.x, scale * self.y, scale * self.z)


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
    head, thickness = _make_head(seed), _COVERAGE / slices
    hu = np.empty((slices, size, size), np.float32)
    bleeding = np.zeros(slices, np.bool_)
    for index in range(slices):
        plane = _make_slice(head, (index + 0.5) * thickness, size)
        hu[index], csf, ventricles = _draw_head(plane)
        blood = _blood(bleed, plane, csf, ventricles, left=seed % 2 == 0)
        if blood is not None:
            bleeding[index] = _draw_blood(hu[index], plane, blood, oedema=bleed == "intraparenchymal")
        hu[index] += _noise(np.random.default_rng((seed, 1, index)), size)
    np.clip(hu, *_HU_RANGE, out=hu)
    return Phantom(hu, bleeding, (thickness, _FIELD_OF_VIEW / size, _FIELD_OF_VIEW / size))


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


# --- The geometry of a head -------------------------------------------------------------------------------------------


def _make_waves(rng: np.random.Generator, length: float, count: int) -> _Waves:
    """Draw waves of about `length` mm in directions spread evenly over the sphere."""
    vectors = rng.normal(size=(count, 3))
    vectors *= 2 * math.pi / length * rng.uniform(0.8, 1.2, (count, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return _Waves(vectors, rng.uniform(0, 2 * math.pi, count))


def _make_head(seed: int) -> _Head:
    rng = np.random.default_rng((seed, 0))
    return _Head(
        turn=math.radians(rng.uniform(-4, 4)),
        shift=(rng.uniform(-4, 4), rng.uniform(-3, 1)),
        bow=rng.uniform(-1, 1),
        folds=_make_waves(rng, 25, 20),
        reach=_make_waves(rng, 50, 6),
        lumps=_make_waves(rng, 32, 10),
        grain=_make_waves(rng, 5, 12),
    )


def _make_slice(head: _Head, z: float, size: int) -> _Slice:
    pixel = _FIELD_OF_VIEW / size
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) * pixel
    column, row = axis[None, :] - head.shift[0], axis[:, None] - head.shift[1]
    x = math.cos(head.turn) * column + math.sin(head.turn) * row
    y = math.cos(head.turn) * row - math.sin(head.turn) * column
    skull = _skull_distance(head, x, y, z)
    side = np.abs(x - head.bow * (1 - (y / 85) ** 2))
    # Thin at the temples, thick at the front and the back.
    thickness = 5.2 + 2.2 * np.minimum((y / 80) ** 2, 1) + 0.5 * head.lumps.at(x, y, z)
    return _Slice(head, pixel, z, x, y, side, skull, -(skull + thickness))


def _skull_distance(head: _Head, x: _Plane, y: _Plane, z: float) -> _Plane:
    """Return the distance from an egg, widest behind the ears, closing towards the vertex."""
    across, along, height = x / (1 + 0.09 * y / 90), y, z - 55
    a, b, c = 74.5, 91.0, 70.0 if height > 0 else 130.0
    radius = np.sqrt((across / a) ** 2 + (along / b) ** 2 + (height / c) ** 2) + 1e-6
    slope = np.sqrt((across / a**2) ** 2 + (along / b**2) ** 2 + (height / c**2) ** 2) / radius + 1e-6
    return np.asarray((radius - 1) / slope + 0.5 * head.reach.at(x, y, z), np.float32)


def _ball(plane: _Slice, centre: _Point, radii: _Point) -> _Plane:
    """Return about the distance from a pair of ellipsoids, exact near their surface."""
    u, v, w = plane.side - centre[0], plane.y - centre[1], plane.z - centre[2]
    radius = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2) + 1e-6
    slope = np.sqrt((u / radii[0] ** 2) ** 2 + (v / radii[1] ** 2) ** 2 + (w / radii[2] ** 2) ** 2) / radius + 1e-6
    return np.asarray((radius - 1) / slope, np.float32)


def _rod(plane: _Slice, start: _Point, end: _Point, radii: tuple[float, float]) -> _Plane:
    """Return the distance from a pair of rods whose radius goes from one value to the other."""
    axis = np.subtract(end, start)
    u, v, w = plane.side - start[0], plane.y - start[1], plane.z - start[2]
    ax, ay, az = axis.tolist()
    t = np.clip((u * ax + v * ay + w * az) / float(axis @ axis), 0, 1)
    distance = np.sqrt((u - t * ax) ** 2 + (v - t * ay) ** 2 + (w - t * az) ** 2)
    return np.asarray(distance - radii[0] - t * (radii[1] - radii[0]), np.float32)


def _paint(hu: _Plane, plane: _Slice, distance: _Plane, value: float | _Plane) -> None:
    """Mix `value` in where `distance` is negative, with an edge of 1 mm or a pixel, whichever is wider."""
    hu += (value - hu) * np.clip(0.5 - distance / max(plane.pixel, 1.0), 0, 1)


def _both(*distances: _Plane | float) -> _Plane:
    """Return the distance from what all shapes have in common."""
    result = distances[0]
    for distance in distances[1:]:
        result = np.maximum(result, distance)
    return np.asarray(result, np.float32)


def _any(*distances: _Plane) -> _Plane:
    """Return the distance from the union of the shapes."""
    result = distances[0]
    for distance in distances[1:]:
        result = np.minimum(result, distance)
    return result


# --- The anatomy ------------------------------------------------------------------------------------------------------


def _draw_head(plane: _Slice) -> tuple[_Plane, _Plane, _Plane]:
    """Return HU without noise, and the distances from the subarachnoid space and from the ventricles."""
    hu = np.full_like(plane.x, _AIR)
    _draw_head_rest(hu, plane)
    _draw_scalp(hu, plane)
    folds, grey = _cortex(plane)
    _paint(hu, plane, -plane.depth, _WHITE)
    _paint(hu, plane, _both(grey, -plane.depth), _GREY)
    for centre, radii in _NUCLEI:
        _paint(hu, plane, _ball(plane, centre, radii), _GREY - 1)
    csf = _both(_any(folds, _cisterns(plane)), -plane.depth, -_cerebellum(plane), -_brain_stem(plane))
    _paint(hu, plane, csf, _CSF)
    _draw_posterior_fossa(hu, plane)
    ventricles = _ventricles(plane)
    _paint(hu, plane, ventricles, _CSF)
    _draw_falx(hu, plane)
    _draw_calcifications(hu, plane)
    _draw_skull(hu, plane)
    if plane.z < 30:
        _draw_skull_base(hu, plane)
    return hu, csf, ventricles


def _draw_head_rest(hu: _Plane, plane: _Slice) -> None:
    """Draw a carbon shell with a foam core, fixed to the table: it does not turn with the head."""
    axis = np.linspace(-1, 1, len(hu), dtype=np.float32) * (_FIELD_OF_VIEW / 2)
    column, row = axis[None, :], axis[:, None]
    arc = np.abs(np.hypot(column, row + 18) - 124)
    within = np.maximum(np.abs(column) - 88, 40 - row)
    _paint(hu, plane, _both(arc - 3, within), 60.0)
    _paint(hu, plane, _both(arc - 1.8, within), -900.0)


def _draw_scalp(hu: _Plane, plane: _Slice) -> None:
    skull = plane.skull
    _paint(hu, plane, skull - 6.5, _SKIN)
    _paint(hu, plane, skull - 4.6, _FAT)
    # The temporal muscles, and those of the neck, fill the lower part.
    temporal = _both(skull - 4.2, _ball(plane, (76, -30, 15), (16, 34, 38)))
    neck = _both(skull - 4.2, _ball(plane, (30, 92, -6), (42, 26, 24)))
    _paint(hu, plane, _any(temporal, neck, skull - 1), _MUSCLE)


def _cortex(plane: _Slice) -> tuple[_Plane, _Plane]:
    """Return the distances from the sulci (with the fluid under the skull and in the midline) and from the grey matter.

    The zero set of a random field of one wavelength is a labyrinth much like gyri. It is read on a sphere, nearly the
    same at every depth, so that sulci run inwards from the surface.
    """
    depth, height = plane.depth, plane.z - 40
    scale = 75 / np.sqrt(plane.x**2 + plane.y**2 + height**2 + 25) + 0.25
    at = (plane.x * scale, plane.y * scale, height * scale)
    wall = np.abs(plane.head.folds.at(*at)) * (25 / (2 * math.pi * 1.15))
    reach = 18 + 5 * plane.head.reach.at(*at)
    fissure = _both(plane.side - 1.1, _cut_out(plane))
    sulci = np.maximum(wall - 1.0 * (1.1 - depth / reach), depth - reach)
    ribbon = _any(_both(wall - 3.8, depth - reach - 3.5), depth - 4.6, _both(plane.side - 4.2, _cut_out(plane)))
    insula = _insula(plane)
    return _any(sulci, depth - 0.9, fissure, insula), _any(ribbon, insula - 3.2)


def _cut_out(plane: _Slice) -> _Plane:
    """Return what is negative where a fissure parts the hemispheres: not around the ventricles."""
    return -_ball(plane, (0, 12, 40), (40, 50, 40))


def _insula(plane: _Slice) -> _Plane:
    """Return the distance from the Sylvian fissure, in from the temple and then along the insula."""
    trunk = _rod(plane, (38, -14, 46), (72, -22, 42), (1.8, 3.2))
    cistern = _rod(plane, (37, -22, 44), (41, 12, 54), (2.4, 1.6))
    return _both(_any(trunk, cistern), abs(plane.z - 46) - 14)


def _cisterns(plane: _Slice) -> _Plane:
    """Return the distance from the fluid at the base: the suprasellar star, around the midbrain, before the pons."""
    u, v = plane.x, plane.y + 13
    star = np.hypot(u, v) - 10.5 - 2.7 * np.cos(5 * np.arctan2(u, -v))
    suprasellar = _both(star, abs(plane.z - 29) - 6)
    ambient = _both(np.abs(_ball(plane, (0, 11, 34), (17, 15, 200))) - 1.6, abs(plane.z - 35) - 7, 6 - plane.y)
    smile = _both(_ball(plane, (0, 29, 37), (10, 3, 8)), abs(plane.z - 37) - 6)
    prepontine = _both(_ball(plane, (0, 5, 18), (21, 14, 200)), abs(plane.z - 16) - 8, plane.y - 8)
    return _any(suprasellar, ambient, smile, prepontine)


def _brain_stem(plane: _Slice) -> _Plane:
    """Return the distance from the pons, and from the midbrain above it."""
    stem = _ball(plane, (0, 10, 12), (15, 13, 60)) if plane.z < 26 else _ball(plane, (0, 11, 34), (15.5, 12.5, 40))
    return _both(stem, plane.z - 40)


def _cerebellum(plane: _Slice) -> _Plane:
    return _ball(plane, (0, 46, 0), (56, 40, 40)) + 1.5 * plane.read(plane.head.lumps)


def _ventricles(plane: _Slice) -> _Plane:
    """Return the distance from the ventricles, the lateral ones not quite alike."""
    rods = [
        _rod(plane, start[:3], end[:3], (start[3], end[3])) for chain in _VENTRICLE for start, end in pairwise(chain)
    ]
    wider = math.copysign(0.5, plane.head.bow) * np.sign(plane.x)
    lateral = _both(_any(*rods) + wider, 0.9 - plane.side)  # the septum between them
    third = _both(plane.side - 1.9, np.abs(plane.y - 4) - 12, abs(plane.z - 45) - 9)
    return _any(lateral, third, _ball(plane, (0, 31, 17), (8, 5, 10)))


def _draw_posterior_fossa(hu: _Plane, plane: _Slice) -> None:
    """Draw the cerebellum under its tentorium, and the brain stem."""
    if plane.z < 42:
        cerebellum = _cerebellum(plane)
        folia = np.sin(1.3 * np.hypot(plane.side, 1.3 * (plane.y - 20)) + 1.5 * plane.read(plane.head.reach))
        _paint(hu, plane, _both(cerebellum, 1.5 - plane.depth), 34 + 1.5 * folia)
        _paint(hu, plane, _both(np.abs(cerebellum - 0.6) - 0.6, -plane.depth, abs(plane.z - 28) - 14), _FALX - 4)
    _paint(hu, plane, _brain_stem(plane), 32.0)


def _draw_falx(hu: _Plane, plane: _Slice) -> None:
    """Draw the falx, and the superior sagittal sinus at its two ends."""
    falx = _both(plane.side - 0.7, _cut_out(plane), 22 - plane.z, -plane.depth)
    sinus = _both(plane.side - 5 + 0.9 * plane.depth, plane.depth - 6, -plane.depth, 30 - plane.z, -plane.y)
    _paint(hu, plane, _any(falx, sinus), _FALX)


def _draw_calcifications(hu: _Plane, plane: _Slice) -> None:
    """Draw the pineal gland and the choroid plexus, as in most adults."""
    _paint(hu, plane, _ball(plane, (0, 23, 45), (2.2, 2.8, 3)), 130.0)
    _paint(hu, plane, _ball(plane, (25, 37, 55), (2.4, 4.2, 3.5)), 110.0)


def _draw_skull(hu: _Plane, plane: _Slice) -> None:
    """Draw two dense tables and the diploe between them."""
    bone = _both(plane.skull, plane.depth)
    spongy = 520 + 130 * plane.read(plane.head.grain)
    _paint(hu, plane, bone, 1350.0)
    _paint(hu, plane, _both(plane.skull + 1.9, plane.depth + 1.7), np.clip(spongy, 300, 700))


def _draw_skull_base(hu: _Plane, plane: _Slice) -> None:
    """Draw the face, floor of the anterior fossa, wings of the sphenoid, petrous ridges, and the air in them."""
    lumps, grain = plane.read(plane.head.lumps), plane.read(plane.head.grain)
    bone = np.asarray(900 + 250 * grain, np.float32)
    inside = plane.skull
    roof = 11 + 1.5 * lumps - 0.05 * (plane.side - 20)
    before = np.maximum(plane.y + 38 + 0.25 * plane.side, inside)
    _paint(hu, plane, _both(before, plane.z - roof), bone)
    _draw_orbits(hu, plane, _both(before + 3, plane.z - roof + 2, inside + 3))
    wings = _rod(plane, (12, -25, 16), (66, -37, 14), (4.5, 3.5))
    petrous = _rod(plane, (66, 24, 6), (13, -1, 9), (12.0, 6.0)) + 1.5 * lumps
    clivus = _ball(plane, (0, -8, 4), (15, 9, 17))
    _paint(hu, plane, _both(_any(wings, petrous, clivus), inside), bone)
    _draw_air(hu, plane, grain, lumps)


def _draw_orbits(hu: _Plane, plane: _Slice, within: _Plane) -> None:
    """Draw the fat, globe, lens, optic nerve and the muscles beside it."""
    cone = _rod(plane, (29, -58, 1), (14, -38, 5), (13.0, 4.0))
    orbit = _both(_any(_ball(plane, (31, -66, 0), (19, 22, 15)), cone), within)
    _paint(hu, plane, orbit, _FAT)
    muscles = _any(
        _rod(plane, (40, -66, 0), (16, -40, 4), (2.4, 2.0)),
        _rod(plane, (20, -66, 0), (14, -40, 4), (2.4, 2.0)),
        _rod(plane, (31, -62, 0), (14, -38, 5), (2.4, 2.0)),
    )
    _paint(hu, plane, _both(muscles, within), _SKIN)
    globe = _ball(plane, (31, -72, 0), (12, 12, 12))
    _paint(hu, plane, _both(globe, within), 42.0)
    _paint(hu, plane, _both(globe + 1.3, within), 12.0)
    _paint(hu, plane, _both(_ball(plane, (31, -81, 0), (4.5, 2, 4.5)), within), 75.0)


def _draw_air(hu: _Plane, plane: _Slice, grain: _Plane, lumps: _Plane) -> None:
    """Draw ethmoid, sphenoid and frontal sinuses, mastoid cells."""
    septa = 0.9 - 3.0 * np.abs(grain)
    ethmoid = _both(_ball(plane, (0, -58, 0), (11, 23, 12)), septa)
    sphenoid = _both(_ball(plane, (6, -25, 2), (8, 9, 8)), 0.6 - plane.side)
    frontal = _both(_ball(plane, (9, -86, 16), (14, 5.5, 11)) + lumps, plane.skull + 2, 0.5 - plane.side)
    mastoid = _both(_ball(plane, (58, 25, 2), (14, 13, 11)), septa, plane.skull + 2)
    shell = _both(_any(_ball(plane, (9, -84, 16), (16, 8, 13)), _ball(plane, (0, -58, 0), (12.5, 25, 11))), plane.skull)
    _paint(hu, plane, _both(shell, plane.z - 27), 1000.0)
    _paint(hu, plane, _any(ethmoid, sphenoid, frontal, mastoid), _AIR)


# --- The blood --------------------------------------------------------------------------------------------------------


def _blood(bleed: str, plane: _Slice, csf: _Plane, ventricles: _Plane, *, left: bool) -> _Plane | None:
    """Return the distance from the blood of one kind, None without any; `left` is the side of those that have one."""
    x = plane.x if left else -plane.x
    if bleed == "intraparenchymal":
        return _deep(plane, x)
    if bleed == "subdural":
        return _crescent(plane, x)
    if bleed == "epidural":
        return _lens(plane, x)
    if bleed == "subarachnoid":
        return _between_gyri(plane, x, csf)
    if bleed == "intraventricular":
        return _layered(plane, x, ventricles)
    return None


def _deep(plane: _Slice, x: _Plane) -> _Plane:
    """Return the distance from a lobulated clot in the putamen and beside it, with room for oedema around."""
    u, v, w = (x - 28) / 13, (plane.y - 2) / 21, (plane.z - 52) / 17
    radius = np.sqrt(u**2 + v**2 + w**2) + 0.13 * plane.read(plane.head.lumps, 1.2)
    return _both((radius - 1) * 14, 3 - plane.depth)


def _crescent(plane: _Slice, x: _Plane) -> _Plane:
    """Return the distance from a layer along the convexity, which follows the skull and which no suture stops."""
    angle = np.arctan2(plane.y - 5, x) / math.radians(74)
    height = (plane.z - 68) / 42
    thickness = 11 * np.sqrt(np.clip(1 - angle**2, 0, 1)) * math.sqrt(max(1 - height**2, 0))
    thickness += 0.7 * plane.read(plane.head.lumps) - 1
    return _both(plane.depth - thickness, -plane.depth)


def _lens(plane: _Slice, x: _Plane) -> _Plane:
    """Return the distance from a collection at the temple, bounded by the skull outside and bulging inwards."""
    u, v, w = (x - 67) / 21, (plane.y + 4) / 35, (plane.z - 50) / 25
    return _both((np.sqrt(u**2 + v**2 + w**2) - 1) * 21, -plane.depth)


def _between_gyri(plane: _Slice, x: _Plane, csf: _Plane) -> _Plane:
    """Return the distance from blood in basal cisterns, Sylvian fissures and nearby sulci, more on one side."""
    far = np.sqrt((x - 12) ** 2 + (plane.y + 16) ** 2 + (1.3 * (plane.z - 36)) ** 2)
    patchy = 8 * plane.read(plane.head.reach)
    return _both(csf - 0.5, (far + patchy - 55) / 4, -plane.depth, abs(plane.z - 42) - 24)


def _layered(plane: _Slice, x: _Plane, ventricles: _Plane) -> _Plane:
    """Return the distance from blood that sank to the back of the ventricles, higher on one side and in the midline."""
    midline = 9 if plane.z < 30 else 3  # half the width of the fourth ventricle, and more than that of the third
    level = np.where(x > -midline, 8.0, 34.0) + 0.5 * plane.read(plane.head.lumps)
    return _both(ventricles, level - plane.y)


def _draw_blood(hu: _Plane, plane: _Slice, blood: _Plane, *, oedema: bool) -> bool:
    """Paint the blood wherever there is no bone or air, and tell whether enough of it is to be seen."""
    blood = np.where((hu > 90) | (hu < -20), np.float32(99), blood)
    if oedema:
        rim = blood - 6 - 1.5 * plane.read(plane.head.reach)
        _paint(hu, plane, np.where(hu > 15, rim, np.float32(99)), _OEDEMA)
    clot = 66 + 2.5 * plane.read(plane.head.grain)
    before = hu.copy()
    _paint(hu, plane, blood, np.clip(clot, 60, 75))
    np.maximum(hu, before, out=hu)  # at its edge with bone, blood takes nothing from the bone
    return bool(np.count_nonzero(blood < 0) * plane.pixel**2 >= _VISIBLE_AREA)


def _noise(rng: np.random.Generator, size: int) -> _Plane:
    """Return noise as a soft-tissue kernel leaves it, neighbours correlated: shape (size, size), HU."""
    noise = rng.standard_normal((size + 4, size + 4), np.float32)
    for axis in (0, 1):
        parts = [np.take(noise, range(step, step + size), axis) for step in range(5)]
        noise = parts[0] + 4 * parts[1] + 6 * parts[2] + 4 * parts[3] + parts[4]
    return np.asarray(noise * (_NOISE / 70), np.float32)  # 70 = 1 + 16 + 36 + 16 + 1: the taps' squares, on either axis


# --- The files --------------------------------------------------------------------------------------------------------


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
