"""The anatomy of the phantom: one slice of a synthetic head, drawn in HU.

Structures are drawn from signed distances in millimetres (negative inside a structure), each painted over the ones
before it with an edge about as soft as that of a soft-tissue kernel. Head coordinates: x to the patient's left, y to
the back, z up from the skull base, the origin in the middle of the head. Most structures come in pairs and are
written once, for x > 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating]  # float32 in memory
_Point = tuple[float, float, float]

FIELD_OF_VIEW = 230.4  # mm, a usual head protocol; 0.45 mm pixels at 512
COVERAGE = 120.0  # mm from the skull base to just below the vertex
_VISIBLE_AREA = 50.0  # mm2 of blood that a reader would call a bleed on one slice
_NOISE = 3.5  # HU

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
class Waves:
    """A smooth random field of unit variance: a sum of plane waves, so that it is the same at every resolution."""

    vectors: NDArray[np.float64]  # (waves, 3), radians per mm
    phases: NDArray[np.float64]  # (waves,)

    def at(self, x: Plane, y: Plane, z: Plane | float) -> Plane:
        """Return the field at points in mm."""
        total = np.zeros_like(x)
        for (kx, ky, kz), phase in zip(self.vectors.tolist(), self.phases.tolist(), strict=True):
            total += np.cos(kx * x + ky * y + (kz * z + phase))
        return total * math.sqrt(2 / len(self.phases))


@dataclass(frozen=True)
class Head:
    """What differs from head to head; all of it comes from the seed."""

    turn: float  # radians, in the plane
    shift: tuple[float, float]  # mm
    bow: float  # mm by which the midline bends
    folds: Waves  # sulci lie where this field is zero
    reach: Waves  # how deep sulci go
    lumps: Waves  # irregular outlines
    grain: Waves  # diploe, air cells, folia, clots


@dataclass(frozen=True)
class _Slice:
    """One plane of a head, with the distances that several structures share. Lengths in mm, planes (rows, columns)."""

    head: Head
    pixel: float
    z: float
    x: Plane
    y: Plane
    side: Plane  # |x| from the bowed midline: one formula for both halves
    skull: Plane  # from the outer table, positive outside
    depth: Plane  # from the inner table, positive inside

    def read(self, waves: Waves, scale: float = 1.0) -> Plane:
        """Return a field on this plane, its waves shorter by `scale`."""
        return waves.at(scale * self.x, scale * self.y, scale * self.z)


def draw_slice(head: Head, z: float, size: int, bleed: str, *, left: bool) -> tuple[Plane, bool]:
    """Draw one slice, without noise.

    Parameters
    ----------
    head
        As from `make_head`.
    z
        Height above the skull base, mm.
    size
        Rows and columns over `FIELD_OF_VIEW`.
    bleed
        Kind of blood, as in `hemoscan.phantom.BLEEDS`.
    left
        Whether a bleed that has a side is on the patient's left.

    Returns
    -------
    hu
        Shape (size, size), float32.
    bleeding
        Whether at least 50 mm2 of blood are to be seen.
    """
    plane = _make_slice(head, z, size)
    hu, csf, ventricles = _draw_head(plane)
    blood = _blood(bleed, plane, csf, ventricles, left=left)
    return hu, blood is not None and _draw_blood(hu, plane, blood, oedema=bleed == "intraparenchymal")


def _make_waves(rng: np.random.Generator, length: float, count: int) -> Waves:
    """Draw waves of about `length` mm in directions spread evenly over the sphere."""
    vectors = rng.normal(size=(count, 3))
    vectors *= 2 * math.pi / length * rng.uniform(0.8, 1.2, (count, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return Waves(vectors, rng.uniform(0, 2 * math.pi, count))


def make_head(seed: int) -> Head:
    """Return the head that a seed stands for."""
    rng = np.random.default_rng((seed, 0))
    return Head(
        turn=math.radians(rng.uniform(-4, 4)),
        shift=(rng.uniform(-4, 4), rng.uniform(-3, 1)),
        bow=rng.uniform(-1, 1),
        folds=_make_waves(rng, 25, 20),
        reach=_make_waves(rng, 50, 6),
        lumps=_make_waves(rng, 32, 10),
        grain=_make_waves(rng, 5, 12),
    )


def _make_slice(head: Head, z: float, size: int) -> _Slice:
    pixel = FIELD_OF_VIEW / size
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) * pixel
    column, row = axis[None, :] - head.shift[0], axis[:, None] - head.shift[1]
    x = math.cos(head.turn) * column + math.sin(head.turn) * row
    y = math.cos(head.turn) * row - math.sin(head.turn) * column
    skull = _skull_distance(head, x, y, z)
    side = np.abs(x - head.bow * (1 - (y / 85) ** 2))
    # Thin at the temples, thick at the front and the back.
    thickness = 5.2 + 2.2 * np.minimum((y / 80) ** 2, 1) + 0.5 * head.lumps.at(x, y, z)
    return _Slice(head, pixel, z, x, y, side, skull, -(skull + thickness))


def _skull_distance(head: Head, x: Plane, y: Plane, z: float) -> Plane:
    """Return the distance from an egg, widest behind the ears, closing towards the vertex."""
    across, along, height = x / (1 + 0.09 * y / 90), y, z - 55
    a, b, c = 74.5, 91.0, 70.0 if height > 0 else 130.0
    radius = np.sqrt((across / a) ** 2 + (along / b) ** 2 + (height / c) ** 2) + 1e-6
    slope = np.sqrt((across / a**2) ** 2 + (along / b**2) ** 2 + (height / c**2) ** 2) / radius + 1e-6
    return np.asarray((radius - 1) / slope + 0.5 * head.reach.at(x, y, z), np.float32)


def _ball(plane: _Slice, centre: _Point, radii: _Point) -> Plane:
    """Return about the distance from a pair of ellipsoids, exact near their surface."""
    u, v, w = plane.side - centre[0], plane.y - centre[1], plane.z - centre[2]
    radius = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2) + 1e-6
    slope = np.sqrt((u / radii[0] ** 2) ** 2 + (v / radii[1] ** 2) ** 2 + (w / radii[2] ** 2) ** 2) / radius + 1e-6
    return np.asarray((radius - 1) / slope, np.float32)


def _rod(plane: _Slice, start: _Point, end: _Point, radii: tuple[float, float]) -> Plane:
    """Return the distance from a pair of rods whose radius goes from one value to the other."""
    axis = np.subtract(end, start)
    u, v, w = plane.side - start[0], plane.y - start[1], plane.z - start[2]
    ax, ay, az = axis.tolist()
    t = np.clip((u * ax + v * ay + w * az) / float(axis @ axis), 0, 1)
    distance = np.sqrt((u - t * ax) ** 2 + (v - t * ay) ** 2 + (w - t * az) ** 2)
    return np.asarray(distance - radii[0] - t * (radii[1] - radii[0]), np.float32)


def _paint(hu: Plane, plane: _Slice, distance: Plane, value: float | Plane) -> None:
    """Mix `value` in where `distance` is negative, with an edge of 1 mm or a pixel, whichever is wider."""
    hu += (value - hu) * np.clip(0.5 - distance / max(plane.pixel, 1.0), 0, 1)


def _both(*distances: Plane | float) -> Plane:
    """Return the distance from what all shapes have in common."""
    result = distances[0]
    for distance in distances[1:]:
        result = np.maximum(result, distance)
    return np.asarray(result, np.float32)


def _any(*distances: Plane) -> Plane:
    """Return the distance from the union of the shapes."""
    result = distances[0]
    for distance in distances[1:]:
        result = np.minimum(result, distance)
    return result


def _draw_head(plane: _Slice) -> tuple[Plane, Plane, Plane]:
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


def _draw_head_rest(hu: Plane, plane: _Slice) -> None:
    """Draw a carbon shell with a foam core, fixed to the table: it does not turn with the head."""
    axis = np.linspace(-1, 1, len(hu), dtype=np.float32) * (FIELD_OF_VIEW / 2)
    column, row = axis[None, :], axis[:, None]
    arc = np.abs(np.hypot(column, row + 18) - 124)
    within = np.maximum(np.abs(column) - 88, 40 - row)
    _paint(hu, plane, _both(arc - 3, within), 60.0)
    _paint(hu, plane, _both(arc - 1.8, within), -900.0)


def _draw_scalp(hu: Plane, plane: _Slice) -> None:
    skull = plane.skull
    _paint(hu, plane, skull - 6.5, _SKIN)
    _paint(hu, plane, skull - 4.6, _FAT)
    # The temporal muscles, and those of the neck, fill the lower part.
    temporal = _both(skull - 4.2, _ball(plane, (76, -30, 15), (16, 34, 38)))
    neck = _both(skull - 4.2, _ball(plane, (30, 92, -6), (42, 26, 24)))
    _paint(hu, plane, _any(temporal, neck, skull - 1), _MUSCLE)


def _cortex(plane: _Slice) -> tuple[Plane, Plane]:
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


def _cut_out(plane: _Slice) -> Plane:
    """Return what is negative where a fissure parts the hemispheres: not around the ventricles."""
    return -_ball(plane, (0, 12, 40), (40, 50, 40))


def _insula(plane: _Slice) -> Plane:
    """Return the distance from the Sylvian fissure, in from the temple and then along the insula."""
    trunk = _rod(plane, (38, -14, 46), (72, -22, 42), (1.8, 3.2))
    cistern = _rod(plane, (37, -22, 44), (41, 12, 54), (2.4, 1.6))
    return _both(_any(trunk, cistern), abs(plane.z - 46) - 14)


def _cisterns(plane: _Slice) -> Plane:
    """Return the distance from the fluid at the base: the suprasellar star, around the midbrain, before the pons."""
    u, v = plane.x, plane.y + 13
    star = np.hypot(u, v) - 10.5 - 2.7 * np.cos(5 * np.arctan2(u, -v))
    suprasellar = _both(star, abs(plane.z - 29) - 6)
    ambient = _both(np.abs(_ball(plane, (0, 11, 34), (17, 15, 200))) - 1.6, abs(plane.z - 35) - 7, 6 - plane.y)
    smile = _both(_ball(plane, (0, 29, 37), (10, 3, 8)), abs(plane.z - 37) - 6)
    prepontine = _both(_ball(plane, (0, 5, 18), (21, 14, 200)), abs(plane.z - 16) - 8, plane.y - 8)
    return _any(suprasellar, ambient, smile, prepontine)


def _brain_stem(plane: _Slice) -> Plane:
    """Return the distance from the pons, and from the midbrain above it."""
    stem = _ball(plane, (0, 10, 12), (15, 13, 60)) if plane.z < 26 else _ball(plane, (0, 11, 34), (15.5, 12.5, 40))
    return _both(stem, plane.z - 40)


def _cerebellum(plane: _Slice) -> Plane:
    return _ball(plane, (0, 46, 0), (56, 40, 40)) + 1.5 * plane.read(plane.head.lumps)


def _ventricles(plane: _Slice) -> Plane:
    """Return the distance from the ventricles, the lateral ones not quite alike."""
    rods = [
        _rod(plane, start[:3], end[:3], (start[3], end[3])) for chain in _VENTRICLE for start, end in pairwise(chain)
    ]
    wider = math.copysign(0.5, plane.head.bow) * np.sign(plane.x)
    lateral = _both(_any(*rods) + wider, 0.9 - plane.side)  # the septum between them
    third = _both(plane.side - 1.9, np.abs(plane.y - 4) - 12, abs(plane.z - 45) - 9)
    return _any(lateral, third, _ball(plane, (0, 31, 17), (8, 5, 10)))


def _draw_posterior_fossa(hu: Plane, plane: _Slice) -> None:
    """Draw the cerebellum under its tentorium, and the brain stem."""
    if plane.z < 42:
        cerebellum = _cerebellum(plane)
        folia = np.sin(1.3 * np.hypot(plane.side, 1.3 * (plane.y - 20)) + 1.5 * plane.read(plane.head.reach))
        _paint(hu, plane, _both(cerebellum, 1.5 - plane.depth), 34 + 1.5 * folia)
        _paint(hu, plane, _both(np.abs(cerebellum - 0.6) - 0.6, -plane.depth, abs(plane.z - 28) - 14), _FALX - 4)
    _paint(hu, plane, _brain_stem(plane), 32.0)


def _draw_falx(hu: Plane, plane: _Slice) -> None:
    """Draw the falx, and the superior sagittal sinus at its two ends."""
    falx = _both(plane.side - 0.7, _cut_out(plane), 22 - plane.z, -plane.depth)
    sinus = _both(plane.side - 5 + 0.9 * plane.depth, plane.depth - 6, -plane.depth, 30 - plane.z, -plane.y)
    _paint(hu, plane, _any(falx, sinus), _FALX)


def _draw_calcifications(hu: Plane, plane: _Slice) -> None:
    """Draw the pineal gland and the choroid plexus, as in most adults."""
    _paint(hu, plane, _ball(plane, (0, 23, 45), (2.2, 2.8, 3)), 130.0)
    _paint(hu, plane, _ball(plane, (25, 37, 55), (2.4, 4.2, 3.5)), 110.0)


def _draw_skull(hu: Plane, plane: _Slice) -> None:
    """Draw two dense tables and the diploe between them."""
    bone = _both(plane.skull, plane.depth)
    spongy = 520 + 130 * plane.read(plane.head.grain)
    _paint(hu, plane, bone, 1350.0)
    _paint(hu, plane, _both(plane.skull + 1.9, plane.depth + 1.7), np.clip(spongy, 300, 700))


def _draw_skull_base(hu: Plane, plane: _Slice) -> None:
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


def _draw_orbits(hu: Plane, plane: _Slice, within: Plane) -> None:
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


def _draw_air(hu: Plane, plane: _Slice, grain: Plane, lumps: Plane) -> None:
    """Draw ethmoid, sphenoid and frontal sinuses, mastoid cells."""
    septa = 0.9 - 3.0 * np.abs(grain)
    ethmoid = _both(_ball(plane, (0, -58, 0), (11, 23, 12)), septa)
    sphenoid = _both(_ball(plane, (6, -25, 2), (8, 9, 8)), 0.6 - plane.side)
    frontal = _both(_ball(plane, (9, -86, 16), (14, 5.5, 11)) + lumps, plane.skull + 2, 0.5 - plane.side)
    mastoid = _both(_ball(plane, (58, 25, 2), (14, 13, 11)), septa, plane.skull + 2)
    shell = _both(_any(_ball(plane, (9, -84, 16), (16, 8, 13)), _ball(plane, (0, -58, 0), (12.5, 25, 11))), plane.skull)
    _paint(hu, plane, _both(shell, plane.z - 27), 1000.0)
    _paint(hu, plane, _any(ethmoid, sphenoid, frontal, mastoid), _AIR)


def _blood(bleed: str, plane: _Slice, csf: Plane, ventricles: Plane, *, left: bool) -> Plane | None:
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


def _deep(plane: _Slice, x: Plane) -> Plane:
    """Return the distance from a lobulated clot in the putamen and beside it, with room for oedema around."""
    u, v, w = (x - 28) / 13, (plane.y - 2) / 21, (plane.z - 52) / 17
    radius = np.sqrt(u**2 + v**2 + w**2) + 0.13 * plane.read(plane.head.lumps, 1.2)
    return _both((radius - 1) * 14, 3 - plane.depth)


def _crescent(plane: _Slice, x: Plane) -> Plane:
    """Return the distance from a layer along the convexity, which follows the skull and which no suture stops."""
    angle = np.arctan2(plane.y - 5, x) / math.radians(74)
    height = (plane.z - 68) / 42
    thickness = 11 * np.sqrt(np.clip(1 - angle**2, 0, 1)) * math.sqrt(max(1 - height**2, 0))
    thickness += 0.7 * plane.read(plane.head.lumps) - 1
    return _both(plane.depth - thickness, -plane.depth)


def _lens(plane: _Slice, x: Plane) -> Plane:
    """Return the distance from a collection at the temple, bounded by the skull outside and bulging inwards."""
    u, v, w = (x - 67) / 21, (plane.y + 4) / 35, (plane.z - 50) / 25
    return _both((np.sqrt(u**2 + v**2 + w**2) - 1) * 21, -plane.depth)


def _between_gyri(plane: _Slice, x: Plane, csf: Plane) -> Plane:
    """Return the distance from blood in basal cisterns, Sylvian fissures and nearby sulci, more on one side."""
    far = np.sqrt((x - 12) ** 2 + (plane.y + 16) ** 2 + (1.3 * (plane.z - 36)) ** 2)
    patchy = 8 * plane.read(plane.head.reach)
    return _both(csf - 0.5, (far + patchy - 55) / 4, -plane.depth, abs(plane.z - 42) - 24)


def _layered(plane: _Slice, x: Plane, ventricles: Plane) -> Plane:
    """Return the distance from blood that sank to the back of the ventricles, higher on one side and in the midline."""
    midline = 9 if plane.z < 30 else 3  # half the width of the fourth ventricle, and more than that of the third
    level = np.where(x > -midline, 8.0, 34.0) + 0.5 * plane.read(plane.head.lumps)
    return _both(ventricles, level - plane.y)


def _draw_blood(hu: Plane, plane: _Slice, blood: Plane, *, oedema: bool) -> bool:
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


def draw_noise(rng: np.random.Generator, size: int) -> Plane:
    """Return noise as a soft-tissue kernel leaves it, neighbours correlated: shape (size, size), HU."""
    noise = rng.standard_normal((size + 4, size + 4), np.float32)
    for axis in (0, 1):
        parts = [np.take(noise, range(step, step + size), axis) for step in range(5)]
        noise = parts[0] + 4 * parts[1] + 6 * parts[2] + 4 * parts[3] + parts[4]
    return np.asarray(noise * (_NOISE / 70), np.float32)  # 70 = 1 + 16 + 36 + 16 + 1: the taps' squares, on either axis
