"""The synthetic head: what it shows, that it is reproducible, and that its files are valid."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from hemoscan.phantom import BLEEDS, Phantom, make_phantom, write_dicom, write_png

VISIBLE = BLEEDS[1:]


@lru_cache(maxsize=8)
def small(bleed: str = "none") -> Phantom:
    return make_phantom(bleed, size=128, seed=3)


def test_a_seed_is_one_phantom():
    again = make_phantom("none", size=128, seed=3)
    assert np.array_equal(small().hu, again.hu)
    assert not np.array_equal(small().hu, make_phantom("none", size=128, seed=4).hu)


def test_shape_type_and_spacing():
    phantom = make_phantom("epidural", slices=12, size=64)
    assert phantom.hu.shape == (12, 64, 64)
    assert phantom.hu.dtype == np.float32
    assert phantom.bleeding.shape == (12,)
    assert phantom.bleeding.dtype == np.bool_
    assert phantom.spacing == (10.0, 3.6, 3.6)


def test_no_bleed_no_bleeding_slice():
    assert not small("none").bleeding.any()


@pytest.mark.parametrize("bleed", VISIBLE)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_bleed_spans_five_slices_or_more_but_not_all(bleed: str, seed: int):
    bleeding = make_phantom(bleed, size=96, seed=seed).bleeding
    assert 5 <= bleeding.sum() <= 20


def test_hu_of_air_bone_and_brain():
    phantom = small()
    assert phantom.hu.min() >= -1024
    assert phantom.hu.max() <= 3071
    assert np.all(phantom.hu[:, :8, :8] < -950)
    middle = phantom.hu[14]
    assert 600 < np.percentile(middle[middle > 300], 95) < 1600
    brain = middle[54:74, 40:88]
    assert 25 <= np.median(brain) <= 40
    # The noise of a soft-tissue kernel, seen where there is nothing but air.
    assert 2.5 < phantom.hu[14, :12, :12].std() < 4.5


def test_head_fills_most_of_the_width():
    width = (small().hu[10] > -300).any(axis=0).mean()
    assert 0.62 < width < 0.8


@pytest.mark.parametrize("bleed", VISIBLE)
def test_blood_is_bright_and_the_rest_is_the_same_head(bleed: str):
    with_blood, without = small(bleed), small("none")
    changed = with_blood.hu != without.hu
    assert changed.mean() < 0.03
    brighter = with_blood.hu - without.hu > 15
    pixel = with_blood.spacing[1] * with_blood.spacing[2]
    for index in np.flatnonzero(with_blood.bleeding):
        oedema = with_blood.hu[index] < without.hu[index]
        assert with_blood.hu[index][~oedema].mean() > without.hu[index][~oedema].mean()
        assert brighter[index].sum() * pixel > 25
    assert 50 < np.median(with_blood.hu[brighter]) < 75
    # Slices that are not called bleeding show little more than the blood's edge.
    assert brighter[~with_blood.bleeding].sum(axis=(1, 2)).max() * pixel < 60


def test_oedema_darkens_only_around_a_bleed_in_the_brain():
    darker = {bleed: int((small(bleed).hu < small("none").hu).sum()) for bleed in VISIBLE}
    assert darker["intraparenchymal"] > 100
    assert all(count == 0 for bleed, count in darker.items() if bleed != "intraparenchymal")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bleed": "nosebleed"}, "'nosebleed'.*must be one of none, intraparenchymal"),
        ({"slices": 7}, "slices is 7, but must be from 8 to 240"),
        ({"size": 2048}, "size is 2048, but must be from 64 to 1024"),
        ({"seed": -1}, "seed is -1, but must be from 0 to 4294967295"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        make_phantom(**arguments)  # type: ignore[arg-type]


def test_dicom_reads_back_as_the_rounded_hu(tmp_path: Path):
    phantom = small("subdural")
    paths = write_dicom(phantom, tmp_path / "new" / "study", seed=3)
    assert len(paths) == len(phantom.hu)
    for index, path in enumerate(paths):
        image = pydicom.dcmread(path)
        hu = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
        assert np.array_equal(hu, np.rint(phantom.hu[index]))
        assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert (image.SOPClassUID, image.Modality, image.PatientID) == (CTImageStorage, "CT", "PHANTOM")
        assert (image.BitsStored, image.PixelRepresentation, image.InstanceNumber) == (16, 1, index + 1)
        assert (image.WindowCenter, image.WindowWidth) == (40, 80)


def test_dicom_slices_stand_one_above_the_other(tmp_path: Path):
    phantom = make_phantom("none", slices=9, size=64)
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in write_dicom(phantom, tmp_path)]
    positions = np.array([image.ImagePositionPatient for image in images], float)
    assert np.allclose(np.diff(positions, axis=0), [0, 0, phantom.spacing[0]], atol=1e-6)
    assert all(float(image.SliceThickness) == pytest.approx(phantom.spacing[0]) for image in images)
    assert all(tuple(image.PixelSpacing) == pytest.approx(phantom.spacing[1:]) for image in images)
    # The frame's middle is the isocentre.
    assert np.allclose(positions[:, :2], -(230.4 - 3.6) / 2)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({image[keyword].value for image in images}) == 1
    assert len({image.SOPInstanceUID for image in images}) == len(images)


def test_dicom_is_the_same_byte_for_byte(tmp_path: Path):
    phantom = make_phantom("epidural", slices=8, size=64)
    first, second = write_dicom(phantom, tmp_path / "a"), write_dicom(phantom, tmp_path / "b")
    assert [path.name for path in first] == [path.name for path in second]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_other_studies_have_other_uids(tmp_path: Path):
    studies = [("none", 0), ("epidural", 0), ("none", 1)]
    uids = set()
    for number, (bleed, seed) in enumerate(studies):
        phantom = make_phantom(bleed, slices=8, size=64, seed=seed)
        path = write_dicom(phantom, tmp_path / str(number), seed=seed)[0]
        uids.add(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)
    assert len(uids) == len(studies)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian: dicom3tools)")
def test_dicom_is_a_valid_ct_image(tmp_path: Path):
    for path in write_dicom(make_phantom("none", slices=8, size=64), tmp_path)[:2]:
        command = ["dciodvfy", str(path)]  # writes its findings to stderr
        run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        assert "CTImage" in run.stderr
        assert "Error" not in run.stderr, run.stderr


def test_png_is_windowed_hu(tmp_path: Path):
    paths = write_png(small("epidural"), tmp_path / "png")
    assert len(paths) == 24
    for path in paths:
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (224, 224))
            assert image.getextrema() == (0, 80)


def test_png_of_the_same_size_is_the_clipped_hu(tmp_path: Path):
    phantom = make_phantom("none", slices=8, size=64)
    for plane, path in zip(phantom.hu, write_png(phantom, tmp_path, size=64), strict=True):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), np.clip(np.rint(plane), 0, 80))


def test_png_is_not_antialiased(tmp_path: Path):
    phantom = make_phantom("none", slices=8, size=128)
    grey = np.clip(np.rint(phantom.hu[4]), 0, 80)
    with Image.open(write_png(phantom, tmp_path, size=32)[4]) as image:
        # Shrunk to a quarter, half-pixel centres fall between the second and the third of every four pixels.
        pairs = (grey[1::4] + grey[2::4]) / 2
        assert np.abs(np.asarray(image) - (pairs[:, 1::4] + pairs[:, 2::4]) / 2).max() <= 0.5


@pytest.mark.parametrize("size", [0, 5000])
def test_png_size_is_checked(tmp_path: Path, size: int):
    with pytest.raises(ValueError, match=f"size is {size}, but must be from 1 to 4096"):
        write_png(small(), tmp_path, size=size)
