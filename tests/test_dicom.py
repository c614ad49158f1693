"""DICOM to HU. What is expected is computed from the HU that a file was made of, never by hemoscan."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import (
    LOSSLESS,
    UNCOMPRESSED,
    hu_ramp,
    make_ct,
    make_enhanced_ct,
    make_stored,
    replace_once,
    to_bytes,
    transcode,
    with_frames,
    without_meta,
    without_preamble,
)
from hypothesis import given, settings
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from strategies import Stored, stored_slices

from hemoscan import dicom
from hemoscan.dicom import check_eligible, count_frames, identify, read_frame, read_header, referenced_files
from hemoscan.errors import ImageError, NotForModelError
from hemoscan.slices import HUFrame

pytestmark = pytest.mark.filterwarnings("ignore:::pydicom")  # a scan ignores them too: they quote values

AIR = -1024


def read(content: bytes | Dataset, **options: bool) -> list[HUFrame]:
    header = read_header(content if isinstance(content, bytes) else to_bytes(content))
    check_eligible(header)
    return [read_frame(header, index, **options) for index in range(count_frames(header))]


def read_one(content: bytes | Dataset, **options: bool) -> HUFrame:
    (frame,) = read(content, **options)
    return frame


def soft_tissue(rows: int = 16, columns: int = 12) -> NDArray[np.int64]:
    return hu_ramp(rows, columns) % 60


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, *LOSSLESS], ids=lambda syntax: syntax.keyword)
def test_lossless_transfer_syntaxes_give_the_same_hu(syntax: UID, signed: bool):
    intercept = 0 if signed else -1024
    dataset = make_ct(hu_ramp(), PixelRepresentation=int(signed), RescaleIntercept=intercept)
    frame = read_one(transcode(dataset, syntax))
    assert np.array_equal(frame.hu, hu_ramp())
    assert frame.hu.dtype == np.float32
    assert frame.notes == ()


@pytest.mark.parametrize(
    ("syntax", "options", "tolerance"),
    [(JPEGLSNearLossless, {"jls_error": 3}, 3), (JPEG2000, {"j2k_cr": [2]}, 12)],
    ids=["JPEGLSNearLossless", "JPEG2000"],
)
def test_lossy_transfer_syntaxes_stay_close(syntax: UID, options: dict[str, Any], tolerance: int):
    hu = np.add.outer(np.arange(32), np.arange(32)) * 3 - 60
    frame = read_one(transcode(make_ct(hu), syntax, **options))
    assert 0 <= np.abs(frame.hu - hu).max() <= tolerance


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=lambda syntax: syntax.keyword)
def test_bits_above_bits_stored_are_not_part_of_a_value(syntax: UID, signed: bool):
    hu = hu_ramp() // 2
    stored = (hu if signed else hu + 1024) & 0xFFF
    dataset = make_stored(
        (stored | 0x5000).astype("<u2"),
        BitsStored=12,
        PixelRepresentation=int(signed),
        RescaleIntercept=0 if signed else -1024,
    )
    assert np.array_equal(read_one(transcode(dataset, syntax)).hu, hu)


@given(stored_slices())
@settings(max_examples=50, deadline=None)
def test_hu_are_stored_times_slope_plus_intercept(stored: Stored):
    kind = f"<{'i' if stored.signed else 'u'}{1 if stored.bits == 8 else 2}"
    dataset = make_stored(
        stored.values.astype(kind),
        BitsStored=stored.bits,
        RescaleSlope=stored.slope,
        RescaleIntercept=stored.intercept,
    )
    if stored.bits == 8 and stored.values.size % 2:
        dataset.PixelData += b"\0"
    frame = read_one(dataset, repair_12_bit=False)
    expected = stored.values * float(stored.slope) + float(stored.intercept)
    assert np.allclose(frame.hu, expected, rtol=1e-5, atol=0.01)


class TestRescale:
    def test_absent_slope_is_one(self):
        frame = read_one(make_ct(soft_tissue(), RescaleSlope=None))
        assert np.array_equal(frame.hu, soft_tissue())
        (note,) = frame.notes
        assert "RescaleSlope" in note
        assert "absent" in note

    def test_absent_intercept_of_values_that_are_hu(self):
        frame = read_one(make_ct(hu_ramp(), RescaleIntercept=None, PixelRepresentation=1))
        assert np.array_equal(frame.hu, hu_ramp())
        (note,) = frame.notes
        assert "RescaleIntercept (0028,1052) absent: 0 " in note

    def test_absent_intercept_of_values_that_are_hu_plus_1024(self):
        hu = np.full((20, 20), -1024)
        hu[5:15, 5:15] = 35
        frame = read_one(make_stored((hu + 1024).astype("<u2"), RescaleIntercept=None))
        assert np.array_equal(frame.hu, hu)
        (note,) = frame.notes
        assert "RescaleIntercept (0028,1052) absent: -1024 " in note

    @pytest.mark.parametrize("share", [0.05, 0.15])
    def test_absent_intercept_needs_a_tenth_of_soft_tissue(self, share: float):
        stored = np.zeros(400, "<u2")
        stored[: int(share * 400)] = 1060
        frame = read_one(make_stored(stored.reshape(20, 20), RescaleIntercept=None))
        assert frame.hu[19, 19] == (0 if share < 0.1 else -1024)

    @pytest.mark.parametrize(
        ("keyword", "tag", "raw"),
        [
            ("RescaleSlope", "0028,1053", b"0.0000"),
            ("RescaleSlope", "0028,1053", b"abcdef"),
            ("RescaleSlope", "0028,1053", b"nan   "),
            ("RescaleSlope", "0028,1053", b"inf   "),
            ("RescaleIntercept", "0028,1052", b"abcdef"),
            ("RescaleIntercept", "0028,1052", b"nan   "),
        ],
    )
    def test_what_is_no_rescale_is_an_error_that_names_tag_and_value(self, keyword: str, tag: str, raw: bytes):
        content = replace_once(to_bytes(make_ct(soft_tissue(), **{keyword: "1.2345"})), b"1.2345", raw)
        with pytest.raises(ImageError) as caught:
            read(content)
        assert keyword in str(caught.value)
        assert tag in str(caught.value)
        assert raw.decode().strip() in str(caught.value)
        assert "legal" in str(caught.value)

    def test_implausible_hu_are_noted(self):
        (note,) = read_one(make_stored(np.full((16, 16), 2000, "<i2"))).notes
        assert "implausible HU" in note
        assert "2000" in note


def test_monochrome1_leaves_hu_and_is_noted():
    plain, inverted = (
        read_one(make_ct(soft_tissue(), PhotometricInterpretation=kind)) for kind in ("MONOCHROME2", "MONOCHROME1")
    )
    assert np.array_equal(inverted.hu, plain.hu)
    assert plain.notes == ()
    assert any("MONOCHROME1" in note for note in inverted.notes)


class TestPadding:
    @pytest.mark.parametrize(
        ("kind", "written", "padding", "limit"),
        [
            ("<i2", [-2000], -2000, None),
            ("<i2", [-2000, -1990, -1980], -2000, -1980),
            ("<i2", [-2000, -1990, -1980], -1980, -2000),
            ("<u2", [63536], 63536, None),
            ("<u2", [0], 0, None),
            ("<u2", [4000, 4050, 4095], 4000, 4095),
        ],
        ids=["signed", "signed range", "signed range downwards", "unsigned", "unsigned zero", "unsigned range"],
    )
    def test_padding_is_air(self, kind: str, written: list[int], padding: int, limit: int | None):
        hu = soft_tissue() + 10
        intercept = 0 if kind == "<i2" else -1024
        stored = hu - intercept
        stored[0, : len(written)] = written
        expected = hu.copy()
        expected[0, : len(written)] = AIR
        frame = read_one(
            make_stored(
                stored.astype(kind),
                RescaleIntercept=intercept,
                PixelPaddingValue=padding,
                PixelPaddingRangeLimit=limit,
            )
        )
        assert np.array_equal(frame.hu, expected)

    @pytest.mark.parametrize(
        ("written", "padding", "limit"),
        [([-2000], 63536, None), ([-2000, -1990, -1980], 63536, 63556)],
        ids=["value", "range"],
    )
    def test_padding_written_unsigned_beside_signed_pixels_is_air(
        self, written: list[int], padding: int, limit: int | None
    ):
        hu = soft_tissue()
        stored = hu.astype("<i2")
        stored[0, : len(written)] = written
        expected = hu.copy()
        expected[0, : len(written)] = AIR
        dataset = make_stored(stored)
        dataset.add_new("PixelPaddingValue", "US", padding)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", "US", limit)
        assert np.array_equal(read_one(dataset).hu, expected)

    def test_values_beside_the_padding_are_kept(self):
        stored = np.array([[-2001, -2000, -1999]], "<i2")
        assert read_one(make_stored(stored, PixelPaddingValue=-2000)).hu.tolist() == [[-2001, AIR, -1999]]


class TestTwelveBitRepair:
    HU = np.array([[-1024, -999, -500, -1], [0, 1, 40, 80], [1000, 2000, 3000, 3071]])

    def wrapped(self, **attributes: object) -> Dataset:
        return make_stored((self.HU & 0xFFF).astype("<u2"), **{"BitsStored": 12, **attributes})

    def test_wrapped_values_are_restored_and_noted(self):
        frame = read_one(self.wrapped())
        assert np.array_equal(frame.hu, self.HU)
        assert "12-bit values unwrapped" in frame.notes

    def test_it_can_be_turned_off(self):
        frame = read_one(self.wrapped(), repair_12_bit=False)
        assert np.array_equal(frame.hu, self.HU & 0xFFF)
        assert not any("12-bit" in note for note in frame.notes)

    @pytest.mark.parametrize(
        ("attributes", "offset"),
        [
            ({"RescaleIntercept": -1024}, -1024),
            ({"RescaleIntercept": -100}, -100),
            ({"BitsStored": 16}, 0),
        ],
        ids=["intercept -1024", "intercept -100", "16 bits"],
    )
    def test_it_is_not_applied_elsewhere(self, attributes: dict[str, int], offset: int):
        frame = read_one(self.wrapped(**attributes))
        assert np.array_equal(frame.hu, (self.HU & 0xFFF) + offset)
        assert not any("12-bit" in note for note in frame.notes)

    def test_signed_values_are_not_wrapped(self):
        frame = read_one(make_stored((self.HU % 2048).astype("<i2"), BitsStored=12))
        assert np.array_equal(frame.hu, self.HU % 2048)

    def test_nothing_to_unwrap_is_not_noted(self):
        frame = read_one(make_stored(soft_tissue().astype("<u2"), BitsStored=12))
        assert np.array_equal(frame.hu, soft_tissue())
        assert frame.notes == ()

    def test_padding_is_found_among_the_stored_values(self):
        frame = read_one(self.wrapped(PixelPaddingValue=int(self.HU[0, 0]) & 0xFFF))
        assert frame.hu[0].tolist() == [AIR, -999, -500, -1]

    def test_an_intercept_moves_every_slice_of_a_series_alike(self):
        assert np.array_equal(read_one(self.wrapped(RescaleIntercept=24)).hu, self.HU + 24)
        unwrapped = make_stored(soft_tissue().astype("<u2"), BitsStored=12, RescaleIntercept=24)
        assert np.array_equal(read_one(unwrapped).hu, soft_tissue() + 24)


class TestWhatIsNoAxialSliceInHU:
    def test_padding_wider_than_the_stored_bits_is_found(self):
        stored = np.array([[0xF830 & 0xFFF, 1064]], "<u2")
        dataset = make_stored(stored, BitsStored=12, RescaleIntercept=-1024, PixelPaddingValue=0xF830)
        assert read_one(dataset).hu.tolist() == [[AIR, 40]]

    def test_padding_does_not_hide_an_offset(self):
        stored = np.full((8, 8), 1064, "<i2")
        stored[0, 0] = -2000
        dataset = make_stored(stored, RescaleIntercept=None, PixelPaddingValue=-2000)
        assert read_one(dataset).hu.tolist()[0][:2] == [AIR, 40]

    @pytest.mark.parametrize(
        "axes",
        [[1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0.7, 0.714]],
        ids=["coronal", "sagittal", "oblique by 46 degrees"],
    )
    def test_a_reformat_is_skipped(self, axes: list[float]):
        with pytest.raises(NotForModelError, match=r"ImageOrientationPatient \(0020,0037\) is not axial"):
            read(make_ct(soft_tissue(), ImageOrientationPatient=axes))

    def test_a_tilted_gantry_is_none(self):
        assert read_one(make_ct(soft_tissue(), ImageOrientationPatient=[1, 0, 0, 0, 0.866, -0.5])).notes == ()

    def test_values_of_another_unit_are_skipped(self):
        with pytest.raises(NotForModelError, match=r"RescaleType \(0028,1054\) is 'MGML'; legal: HU, US"):
            read(make_ct(soft_tissue(), RescaleType="MGML"))

    @pytest.mark.parametrize("unit", ["HU", "US", ""])
    def test_hounsfield_units_by_any_name_are_read(self, unit: str):
        assert np.array_equal(read_one(make_ct(soft_tissue(), RescaleType=unit)).hu, soft_tissue())

    def test_a_frame_may_be_a_localizer(self):
        dataset = make_enhanced_ct(np.zeros((2, 4, 4), "<i2"), intercepts=[0, 0], positions=[[0, 0, 0], [0, 0, 5]])
        kind = Dataset()
        kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
        dataset.PerFrameFunctionalGroupsSequence[1].CTImageFrameTypeSequence = [kind]
        header = read_header(to_bytes(dataset))
        check_eligible(header)
        assert read_frame(header, 0).frame == 1
        with pytest.raises(NotForModelError, match=r"FrameType \(0008,9007\) has LOCALIZER"):
            read_frame(header, 1)


class TestJPEG2000Sign:
    def test_a_stream_that_is_signed_beside_unsigned_pixels_is_corrected(self):
        stream = next(
            generate_frames(
                transcode(make_ct(hu_ramp(), PixelRepresentation=1, RescaleIntercept=0), JPEG2000Lossless).PixelData,
                number_of_frames=1,
            )
        )
        plain = with_frames(make_stored(hu_ramp().astype("<i2")), JPEG2000Lossless, [stream])
        assert np.array_equal(read_one(plain).hu, hu_ramp())
        plain.PixelRepresentation = 0
        (note,) = [note for note in read_one(plain).notes if "sign" in note]
        assert "JPEG 2000" in note

    def test_pydicoms_own_head_ct(self):
        path = get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False)
        frame = read_one(Path(str(path)).read_bytes())
        assert any("JPEG 2000 sign" in note for note in frame.notes)
        assert not any("implausible" in note for note in frame.notes)
        assert frame.hu.min() >= -3024
        assert frame.hu.max() <= 3071
        head = frame.hu[frame.hu > -500]
        assert 0 < np.median(head) < 100
        assert np.mean((head > 0) & (head < 80)) > 0.3


class TestMultiFrame:
    def test_each_frame_has_its_rescale_and_position(self):
        stored = np.stack([soft_tissue() + 100 * index for index in range(3)]).astype("<i2")
        slopes, intercepts, positions = [1.0, 2.0, 0.5], [0.0, -50.0, -7.0], [[0, 0, z] for z in (-10.0, 0.0, 7.25)]
        dataset = make_enhanced_ct(stored, slopes=slopes, intercepts=intercepts, positions=positions)
        frames = read(dataset)
        assert [frame.frame for frame in frames] == [1, 2, 3]
        assert [frame.identity.z_mm for frame in frames] == [-10.0, 0.0, 7.25]
        for frame, values, slope, intercept in zip(frames, stored, slopes, intercepts, strict=True):
            assert np.array_equal(frame.hu, values * slope + intercept)

    @pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda s: s.keyword)
    def test_compressed_frames(self, syntax: UID):
        stored = np.stack([hu_ramp(), hu_ramp()[::-1], hu_ramp() // 2]).astype("<i2")
        dataset = make_enhanced_ct(stored, intercepts=[0, 10, 20], positions=[[0, 0, z] for z in range(3)])
        frames = read(transcode(dataset, syntax))
        assert len(frames) == 3
        for index, frame in enumerate(frames):
            assert np.array_equal(frame.hu, stored[index] + 10 * index)

    def test_a_frame_keeps_its_files_identity(self):
        dataset = make_enhanced_ct(np.zeros((2, 4, 4), "<i2"), intercepts=[0, 0], positions=[[0, 0, 0], [0, 0, 5]])
        for frame in read(dataset):
            assert (frame.identity.study_uid, frame.identity.sop_uid) == ("1.2.3", "1.2.3.4.5")

    def test_shared_rescale_serves_frames_without_their_own(self):
        stored = np.stack([soft_tissue(), soft_tissue()]).astype("<i2")
        dataset = make_enhanced_ct(stored, intercepts=[0, -30], positions=[[0, 0, 0], [0, 0, 5]])
        shared = dataset.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence
        del dataset.PerFrameFunctionalGroupsSequence[0].PixelValueTransformationSequence
        dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = shared
        assert all(np.array_equal(frame.hu, soft_tissue() - 30) for frame in read(dataset))

    def test_one_frame_in_functional_groups(self):
        dataset = make_enhanced_ct(soft_tissue()[None].astype("<i2"), intercepts=[-5], positions=[[1, 2, 3.5]])
        frame = read_one(dataset)
        assert np.array_equal(frame.hu, soft_tissue() - 5)
        assert frame.identity.z_mm == 3.5

    @pytest.mark.parametrize("value", [None, 0, 1])
    def test_absent_or_empty_number_of_frames_is_one(self, value: int | None):
        assert len(read(make_ct(soft_tissue(), NumberOfFrames=value))) == 1


class TestPosition:
    @pytest.mark.parametrize("tilt", [0.0, 18.5, -12.0])
    @pytest.mark.parametrize("along", [-40.0, 0.0, 62.125])
    def test_z_lies_along_the_normal_of_a_tilted_gantry(self, tilt: float, along: float):
        sine, cosine = np.sin(np.radians(tilt)), np.cos(np.radians(tilt))
        row, column, normal = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
        origin = -120 * row - 95 * column + along * normal
        dataset = make_ct(
            soft_tissue(),
            ImagePositionPatient=[f"{value:.6f}" for value in origin],
            ImageOrientationPatient=[f"{value:.9f}" for value in (*row, *column)],
            SliceLocation=999,
        )
        assert identify(read_header(to_bytes(dataset))).z_mm == pytest.approx(along, abs=0.002)

    @pytest.mark.parametrize(
        ("attributes", "expected"),
        [
            ({"ImageOrientationPatient": None, "SliceLocation": "12.5"}, 12.5),
            ({"ImagePositionPatient": None, "SliceLocation": "-3.25"}, -3.25),
            ({"ImagePositionPatient": None}, None),
            ({"ImagePositionPatient": [1, 2], "SliceLocation": "8"}, 8.0),
        ],
    )
    def test_without_position_the_slice_location_serves(self, attributes: dict[str, Any], expected: float | None):
        assert identify(read_header(to_bytes(make_ct(soft_tissue(), **attributes)))).z_mm == expected


class TestHeaders:
    @pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=lambda syntax: syntax.keyword)
    def test_without_preamble(self, syntax: UID):
        content = without_preamble(to_bytes(transcode(make_ct(hu_ramp()), syntax)))
        assert np.array_equal(read_one(content).hu, hu_ramp())

    @pytest.mark.parametrize(
        "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda s: s.keyword
    )
    def test_without_meta_information(self, syntax: UID):
        content = without_meta(transcode(make_ct(hu_ramp()), syntax))
        assert np.array_equal(read_one(content).hu, hu_ramp())

    def test_invalid_uids_are_kept_as_they_are(self):
        uids = {
            "StudyInstanceUID": "ID_02033fb12e",
            "SeriesInstanceUID": "ID_c1ea0e2f1a",
            "SOPInstanceUID": "ID_0001f7f62x",
        }
        frame = read_one(make_ct(hu_ramp(), **uids))
        assert (frame.identity.study_uid, frame.identity.series_uid, frame.identity.sop_uid) == tuple(uids.values())
        assert np.array_equal(frame.hu, hu_ramp())

    def test_identity(self):
        found = identify(read_header(to_bytes(make_ct(hu_ramp()))))
        assert (found.study_uid, found.series_uid, found.sop_uid) == ("1.2.3", "1.2.3.4", "1.2.3.4.5")
        assert (found.instance_number, found.z_mm) == (7, 42.5)

    def test_an_empty_header_gives_an_empty_identity(self):
        found = identify(Dataset())
        assert (found.study_uid, found.series_uid, found.sop_uid) == ("", "", "")
        assert (found.instance_number, found.z_mm) == (None, None)

    def test_a_malformed_instance_number_is_left_out(self):
        content = replace_once(to_bytes(make_ct(hu_ramp(), InstanceNumber=987654)), b"987654", b"seven ")
        assert identify(read_header(content)).instance_number is None

    @pytest.mark.parametrize("content", [b"", b"\0" * 128 + b"DICM"], ids=["nothing", "preamble only"])
    def test_no_element_is_an_error(self, content: bytes):
        with pytest.raises(ImageError):
            read_header(content)


class TestNotForTheModel:
    @pytest.mark.parametrize(
        ("attributes", "expected"),
        [
            ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, ["ImageType (0008,0008)", "LOCALIZER"]),
            ({"ImageType": ["ORIGINAL", "PRIMARY", "SCOUT"]}, ["ImageType (0008,0008)", "SCOUT"]),
            ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, ["ImageType (0008,0008)", "SCREEN SAVE"]),
            ({"Modality": "MR", "SOPClassUID": MRImageStorage}, ["Modality (0008,0060)", "MR", "legal: 'CT'"]),
            ({"Modality": "PT"}, ["Modality (0008,0060)", "PT"]),
            ({"Modality": None, "SOPClassUID": MRImageStorage}, ["Modality (0008,0060)", "''"]),
            ({"SOPClassUID": SecondaryCaptureImageStorage}, ["SOPClassUID (0008,0016)", "Secondary Capture"]),
            (
                {"PixelData": None, "SOPClassUID": SecondaryCaptureImageStorage},
                ["no pixel data", "SOPClassUID (0008,0016)", "Secondary Capture"],
            ),
            (
                {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0},
                ["PhotometricInterpretation (0028,0004)", "RGB", "3 samples", "MONOCHROME2"],
            ),
            ({"PhotometricInterpretation": "PALETTE COLOR"}, ["PhotometricInterpretation (0028,0004)", "PALETTE"]),
            ({"SOPClassUID": MediaStorageDirectoryStorage, "PixelData": None}, ["DICOMDIR"]),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
    )
    def test_the_reason_names_tag_and_value(self, attributes: dict[str, Any], expected: list[str]):
        header = read_header(to_bytes(make_ct(soft_tissue(), **attributes)))
        with pytest.raises(NotForModelError) as caught:
            check_eligible(header)
        assert [text for text in expected if text not in str(caught.value)] == []

    @pytest.mark.parametrize("sop_class", [CTImageStorage, EnhancedCTImageStorage], ids=lambda uid: uid.keyword)
    def test_a_ct_image_without_pixels_is_an_error(self, sop_class: UID):
        with pytest.raises(ImageError, match=r"PixelData \(7FE0,0010\) is absent"):
            check_eligible(read_header(to_bytes(make_ct(soft_tissue(), PixelData=None, SOPClassUID=sop_class))))

    @pytest.mark.parametrize(
        "attributes",
        [
            {},
            {"ImageType": None},
            {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]},
            {"Modality": None},
            {"SOPClassUID": EnhancedCTImageStorage},
            {"PhotometricInterpretation": "MONOCHROME1"},
        ],
        ids=str,
    )
    def test_ct_slices_are_for_it(self, attributes: dict[str, Any]):
        check_eligible(read_header(to_bytes(make_ct(soft_tissue(), **attributes))))

    def test_a_ct_without_sop_class_is_for_it(self):
        header = read_header(without_meta(make_ct(soft_tissue(), SOPClassUID=None)))
        check_eligible(header)


IMPOSSIBLE_SIZES = (
    ({"Rows": 0}, "Rows (0028,0010) is 0", "1 to 4096"),
    ({"Columns": 0}, "Columns (0028,0011) is 0", "1 to 4096"),
    ({"Rows": None}, "Rows (0028,0010) is absent", "1 to 4096"),
    ({"Rows": 1, "Columns": 65535}, "Columns (0028,0011) is 65535", "1 to 4096"),
    ({"NumberOfFrames": 2**31 - 1}, "NumberOfFrames (0028,0008) is 2147483647", "1 to 4096"),
    ({"NumberOfFrames": -3}, "NumberOfFrames (0028,0008) is -3", "1 to 4096"),
)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless], ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize(("attributes", "tag", "legal"), IMPOSSIBLE_SIZES)
def test_sizes_are_checked_before_anything_is_allocated(
    attributes: dict[str, int | None], tag: str, legal: str, syntax: UID
):
    dataset = transcode(make_ct(soft_tissue()), syntax)
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    content = to_bytes(dataset)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError) as caught:
            read(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tag in str(caught.value)
    assert legal in str(caught.value)
    assert peak < 2**20


class TestDamage:
    @pytest.mark.parametrize("syntax", [*UNCOMPRESSED[:3], *LOSSLESS], ids=lambda syntax: syntax.keyword)
    def test_pixel_data_cut_short_is_an_error_that_names_the_syntax(self, syntax: UID):
        dataset = transcode(make_ct(hu_ramp()), syntax)
        if syntax in UNCOMPRESSED:
            dataset.PixelData = dataset.PixelData[:100]
        else:
            (stream,) = generate_frames(dataset.PixelData, number_of_frames=1)
            dataset = with_frames(dataset, syntax, [stream[:80]])
        with pytest.raises(ImageError) as caught:
            read(to_bytes(dataset))
        assert "TransferSyntaxUID (0002,0010)" in str(caught.value)
        assert syntax.name in str(caught.value)

    @pytest.mark.parametrize("syntax", [*UNCOMPRESSED[:3], *LOSSLESS], ids=lambda syntax: syntax.keyword)
    def test_a_file_that_ends_within_its_pixels_is_an_error_that_names_the_syntax(self, syntax: UID):
        content = to_bytes(transcode(make_ct(hu_ramp()), syntax))
        with pytest.raises(ImageError) as caught:
            read(content[:-150])
        assert syntax.name in str(caught.value)

    def test_a_deflated_file_that_ends_early_is_an_error(self):
        content = to_bytes(transcode(make_ct(hu_ramp()), DeflatedExplicitVRLittleEndian))
        with pytest.raises(ImageError, match="truncated"):
            read(content[:-150])

    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, *LOSSLESS], ids=lambda syntax: syntax.keyword)
    def test_noise_for_pixels_is_an_error_or_an_image_of_the_right_shape(self, syntax: UID):
        noise = np.random.default_rng(5).bytes(600)
        dataset = with_frames(make_ct(hu_ramp()), syntax, [noise])
        try:
            assert all(frame.hu.shape == (16, 12) for frame in read(to_bytes(dataset)))
        except ImageError as error:
            assert syntax.name in str(error)

    def test_an_unknown_transfer_syntax_is_an_error_that_names_it(self):
        content = replace_once(to_bytes(make_ct(hu_ramp())), b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0")
        with pytest.raises(ImageError) as caught:
            read(content)
        assert "1.2.840.99999.1.2.1" in str(caught.value)

    def test_a_stream_of_another_syntax_is_an_error_that_names_the_declared_one(self):
        dataset = transcode(make_ct(hu_ramp()), RLELossless)
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        with pytest.raises(ImageError, match="JPEG Baseline"):
            read(dataset)

    def test_a_missing_depth_is_an_error(self):
        header = read_header(to_bytes(make_ct(hu_ramp())))
        del header.BitsAllocated
        with pytest.raises(ImageError, match="Bits"):
            read_frame(header)


class TestDICOMDIR:
    def test_files_in_its_order(self):
        path = Path(str(get_testdata_file("DICOMDIR", download=False)))
        found = referenced_files(path)
        assert len(found) > 20
        assert all(path.parent.joinpath(*parts).is_file() for parts in found)

    def test_what_is_none_is_an_error(self, tmp_path: Path):
        path = tmp_path / "DICOMDIR"
        path.write_bytes(to_bytes(make_ct(hu_ramp())))
        with pytest.raises(ImageError, match=r"DirectoryRecordSequence \(0004,1220\)"):
            referenced_files(path)


def test_jpeg_2000_is_decoded_by_the_fastest_and_by_others_where_that_fails(monkeypatch: pytest.MonkeyPatch):
    header = transcode(make_ct(hu_ramp()), JPEG2000Lossless)
    asked: list[str] = []

    def watch(source: Dataset, *, index: int, decoding_plugin: str = "") -> np.ndarray[Any, Any]:
        asked.append(decoding_plugin)
        if decoding_plugin and len(asked) > 1:
            raise RuntimeError("cannot")
        return pixel_array(source, index=index, decoding_plugin=decoding_plugin)

    monkeypatch.setattr(dicom, "pixel_array", watch)
    first, second = (read_frame(header).hu for _ in range(2))
    assert asked == ["pylibjpeg", "pylibjpeg", ""]
    np.testing.assert_array_equal(first, hu_ramp())
    np.testing.assert_array_equal(second, hu_ramp())
