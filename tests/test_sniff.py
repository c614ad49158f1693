"""What a file is, told by its first bytes."""

from __future__ import annotations

import io
import zipfile

import pytest
from factories import hu_ramp, make_ct, to_bytes, transcode, without_meta, without_preamble
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from hemoscan.sniff import DICOM, HEAD_BYTES, RASTER, ZIP, sniff


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (9, 7), 40).save(buffer, kind)
    return buffer.getvalue()


def archive(*members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for member in members:
            file.writestr(member, "x")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_raster(kind: str):
    assert sniff(picture(kind)) == RASTER


@pytest.mark.parametrize("members", [(), ("a.dcm",)], ids=["empty", "one member"])
def test_zip(members: tuple[str, ...]):
    assert sniff(archive(*members)) == ZIP


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "an empty file"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
        (picture("GIF"), "a GIF image"),
        (picture("BMP"), "a BMP image"),
        (picture("TIFF"), "a TIFF image"),
        (b"MM\x00*\x00\x00\x00\x08", "a TIFF image"),
        (picture("WEBP"), "a WebP image"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07", "a RAR archive"),
        (b"SQLite format 3\x00", "an SQLite database"),
        (b"\x7fELF\x02", "a program"),
        (b"\x00", "of an unknown kind"),
        (b"\x93NUMPY\x01\x00", "of an unknown kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_neither_is_told_in_words(head: bytes, words: str):
    assert sniff(head) == words


@pytest.mark.parametrize(
    "text",
    ["id,class\r\n000001,0\r\n", "a", "Schädel-CT\tohne Befund\n", "\ufeffwith a byte order mark", "脑出血"],
    ids=ascii,
)
def test_text(text: str):
    assert sniff(text.encode()) == "a text file"


@pytest.mark.parametrize("character", ["ä", "血", "🧠"], ids=["two bytes", "three bytes", "four bytes"])
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_text_whose_last_character_is_cut(character: str, missing: int):
    encoded = character.encode()
    head = b"x" * (HEAD_BYTES - len(encoded) + missing) + encoded
    assert sniff(head[:HEAD_BYTES]) == "a text file"


@pytest.mark.parametrize(
    "head", [b"caf\xe9 au lait", b"one\x00two", b"bell \x07 inside"], ids=["latin-1", "zero", "control"]
)
def test_what_is_no_text(head: bytes):
    assert sniff(head) == "of an unknown kind"


def test_dicom():
    assert sniff(to_bytes(make_ct(hu_ramp()))[:HEAD_BYTES]) == DICOM


def test_a_preamble_that_looks_like_another_file_is_dicom_all_the_same():
    content = to_bytes(make_ct(hu_ramp()))
    assert sniff(b"II*\x00" + content[4:]) == DICOM


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda syntax: syntax.keyword,
)
def test_dicom_without_preamble(syntax: UID):
    assert sniff(without_preamble(to_bytes(transcode(make_ct(hu_ramp()), syntax)))) == DICOM


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda syntax: syntax.keyword)
def test_dicom_without_meta_information(syntax: UID):
    assert sniff(without_meta(transcode(make_ct(hu_ramp()), syntax))) == DICOM


@pytest.mark.parametrize(
    "head",
    [
        b"\x08\x00\x05",
        b"\x08\x00\x05\x00zz\x0a\x00",
        b"\x08\x00\x05\x00\x03\x00\x00\x00",
        b"\x00\x08\x00\x05zz\x00\x0a",
        b"\x08\x00\x00\x40CS\x0a\x00",
        b"\x09\x00\x05\x00CS\x0a\x00",
    ],
    ids=["too short", "no VR", "odd length", "big endian, no VR", "element too high", "private group"],
)
def test_what_only_resembles_dicom(head: bytes):
    assert sniff(head) != DICOM


@given(st.binary(max_size=300))
@example(b"\x00" * 132)
@example(b"\x00" * 128 + b"DIC")
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_no_dicom(head: bytes):
    kind = sniff(head)
    assert kind
    if head[128:132] != b"DICM" and head[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08"):
        assert kind != DICOM
