"""What is taken from a slice's header for the objects that are made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories import make_enhanced_ct, make_stored, to_bytes
from pydicom.uid import UID

from hemoscan.card import BRAIN, Card
from hemoscan.errors import ObjectError
from hemoscan.origin import derive_uid, read_origin
from hemoscan.slices import Decoded, Identity, Row

STORED = np.zeros((2, 16, 16), np.int16)


def decoded(path: Path, frame: int, sop_uid: str = "1.2.3.4.5") -> Decoded:
    return Decoded(str(path), str(path.parent), None, frame, Identity("1.2.3", "1.2.3.4", sop_uid, 7))


def test_a_frame_of_a_multi_frame_image_is_referred_to(tmp_path: Path):
    pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")
    from hemoscan.finding import Finding, Slice

    image = make_enhanced_ct(STORED, intercepts=[0, 0], positions=[(0, 0, 0), (0, 0, 5)])
    image.PatientID = "4711"
    path = tmp_path / "enhanced.dcm"
    path.write_bytes(to_bytes(image))
    origin = read_origin(decoded(path, 2))
    assert (origin.frame, origin.orientation) == (2, ("L", "P"))

    card = Card("densenet-bias", "densenet121", BRAIN, 0.5, "none.safetensors", "0" * 64)
    found = Slice(Row(decoded(path, 2), 0.75, True, card.name), origin)
    finding = Finding(card, 0.5, (0, 70), 0.75, [found])
    groups = finding.make_report().ContentSequence[-2].ContentSequence
    images = [item for group in groups for item in group.ContentSequence if item.ValueType == "IMAGE"]
    assert [item.ReferencedSOPSequence[0].ReferencedFrameNumber for item in images] == [2, 2]
    capture = finding.make_capture(found, np.zeros((224, 224), np.uint8), np.zeros((7, 7), np.float32))
    assert capture.SourceImageSequence[0].ReferencedFrameNumber == 2
    assert capture.PatientID == "4711"


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ([1, 0, 0, 0, 1, 0], ("L", "P")),
        ([-1, 0, 0, 0, -0.95, 0.31], ("R", "A")),
        ([0.1, 0.9, 0, 0, 0.1, -0.9], ("P", "F")),
        (None, ()),
    ],
)
def test_directions_are_the_nearest_axes(tmp_path: Path, axes: list[float] | None, expected: tuple[str, ...]):
    path = tmp_path / "slice.dcm"
    path.write_bytes(to_bytes(make_stored(STORED[0], PatientID="4711", ImageOrientationPatient=axes)))
    origin = read_origin(decoded(path, 1))
    assert origin.orientation == expected
    assert origin.frame is None


def test_a_file_that_was_changed_is_refused(tmp_path: Path):
    path = tmp_path / "slice.dcm"
    path.write_bytes(to_bytes(make_stored(STORED[0], PatientID="4711")))
    with pytest.raises(ObjectError, match="the file was changed"):
        read_origin(decoded(path, 1, "1.2.3.4.6"))


def test_what_is_no_dicom_is_refused(tmp_path: Path):
    path = tmp_path / "slice.png"
    path.write_bytes(b"\x89PNG and so on")
    with pytest.raises(ObjectError):
        read_origin(decoded(path, 1))


def test_uids_follow_from_their_parts():
    assert derive_uid("a", 1) == derive_uid("a", 1)
    assert len({derive_uid("a", 1), derive_uid("a", 2), derive_uid("a1"), derive_uid("b", 1)}) == 4
    assert UID(derive_uid("a")).is_valid
