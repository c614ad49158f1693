"""What a file claims is checked before a decoder believes it."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from factories import LOSSLESS, hu_ramp, make_ct, to_bytes, transcode
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from hemoscan.bounds import DEFLATED, JP2_SIGNATURE, MAX_TILES, check_codestream, check_deflated_dicom, check_inflated
from hemoscan.card import BRAIN
from hemoscan.decode import DecodeOptions, decode
from hemoscan.dicom import read_header
from hemoscan.errors import ImageError
from hemoscan.raster import read_raster
from hemoscan.sources import Entry, Reader, find_entries

JPEG_FAMILY = [syntax for syntax in LOSSLESS if syntax != RLELossless]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *others: bytes) -> bytes:
    """Return a PNG with the given header and inflated content."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *others, chunk(b"IDAT", zlib.compress(data, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def decode_one(path: Path) -> tuple[str, str]:
    with Reader() as reader:
        (decoded,) = decode(Entry(str(path), size=path.stat().st_size), reader, DecodeOptions(BRAIN))
    return decoded.status, decoded.reason


# Deflate


@pytest.mark.parametrize("limit", [2**20, 2**20 - 1])
def test_a_stream_may_grow_to_its_limit(limit: int):
    packed = zlib.compress(bytes(2**20))
    if limit == 2**20:
        check_inflated([packed[:100], packed[100:]], limit)
    else:
        with pytest.raises(ImageError, match=f"more than {limit} bytes"):
            check_inflated([packed], limit)


@pytest.mark.parametrize("content", [b"", b"no deflate", zlib.compress(b"a")[:-2]])
def test_a_damaged_stream_is_left_to_its_reader(content: bytes):
    check_inflated([content], 10)


def test_a_deflated_slice_passes():
    content = to_bytes(transcode(make_ct(hu_ramp()), DeflatedExplicitVRLittleEndian))
    check_deflated_dicom(content)
    assert read_header(content).Rows == 16


def test_a_deflated_bomb_is_refused_before_it_grows(tmp_path: Path):
    content = to_bytes(transcode(make_ct(hu_ramp()), DeflatedExplicitVRLittleEndian))
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = content[:start] + packer.compress(bytes(2**28)) + packer.flush()
    (tmp_path / "bomb.dcm").write_bytes(bomb)
    status, reason = decode_one(tmp_path / "bomb.dcm")
    assert status == "error"
    assert "grows to more than" in reason


def test_a_deflated_file_needs_its_group_length():
    content = bytes(128) + b"DICM\x02\x00\x10\x00UI\x16\x00" + DEFLATED
    with pytest.raises(ImageError, match=r"\(0002,0000\) is absent"):
        check_deflated_dicom(content)


def test_the_uid_of_deflate_in_another_place_means_nothing():
    check_deflated_dicom(to_bytes(make_ct(hu_ramp(), SeriesDescription=DEFLATED.decode())))


# Codestreams


@pytest.fixture(params=JPEG_FAMILY, ids=lambda uid: uid.name)
def stream(request: pytest.FixtureRequest) -> bytes:
    encoded = transcode(make_ct(hu_ramp()), request.param)
    return next(generate_frames(encoded.PixelData, number_of_frames=1))


def test_a_codestream_of_its_own_size_passes(stream: bytes):
    check_codestream(stream, 16, 12)


@pytest.mark.parametrize(("rows", "columns"), [(15, 12), (16, 11), (1, 1), (12, 16), (17, 12), (8, 24)])
def test_a_codestream_of_another_size_than_the_header_says_is_refused(stream: bytes, rows: int, columns: int):
    with pytest.raises(ImageError, match=f"16 x 12 pixels; legal: Rows x Columns, {rows} x {columns}"):
        check_codestream(stream, rows, columns)


@pytest.mark.parametrize("length", range(60))
def test_a_codestream_that_ends_early_is_left_to_the_decoder(stream: bytes, length: int):
    check_codestream(stream[:length], 16, 12)


def siz(*, size: tuple[int, int] = (64, 64), tile: tuple[int, int] = (64, 64), components: int = 1) -> bytes:
    fields = struct.pack(">8I", *size, 0, 0, *tile, 0, 0)
    return b"\xff\x4f\xff\x51\x00\x29\x00\x00" + fields + struct.pack(">H", components) + bytes(3 * components)


def test_a_codestream_of_few_tiles_passes():
    check_codestream(siz(tile=(1, 1)), 64, 64)


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (siz(size=(65, 64), tile=(1, 1)), f"of 4160 tiles; legal: up to {MAX_TILES}"),
        (siz(components=16384), "of 16384 components; legal: up to 4"),
        (siz(size=(2**32 - 1, 2**32 - 1), tile=(2**32 - 1, 2**32 - 1)), "4294967295 x 4294967295 pixels"),
    ],
)
def test_a_codestream_that_is_no_slice_is_refused(stream: bytes, text: str):
    with pytest.raises(ImageError, match=text):
        check_codestream(stream, 64, 64)


def test_jp2_boxes_are_passed_over():
    boxes = JP2_SIGNATURE + b"\r\n\x87\n" + struct.pack(">I4s4x", 12, b"free") + struct.pack(">I4s", 0, b"jp2c")
    check_codestream(boxes + siz(), 64, 64)
    with pytest.raises(ImageError, match="64 x 64 pixels"):
        check_codestream(boxes + siz(), 63, 64)


def test_a_jp2_box_without_length_does_not_stop_the_reader(tmp_path: Path):
    """A reader that adds its length to its place stays there for ever."""
    encoded = transcode(make_ct(hu_ramp()), JPEG2000Lossless)
    frame = next(generate_frames(encoded.PixelData, number_of_frames=1))
    boxes = JP2_SIGNATURE + b"\r\n\x87\n" + struct.pack(">I4s", 0, b"free")
    content = to_bytes(encoded).replace(frame, (boxes + bytes(len(frame)))[: len(frame)])
    (tmp_path / "slice.dcm").write_bytes(content)
    status, reason = decode_one(tmp_path / "slice.dcm")
    assert status == "error"
    assert "JP2 box of 0 bytes; legal: 8 or more" in reason


# PNG


def test_a_16_bit_colour_png_that_inflates_to_more_than_its_image_is_refused():
    grey = b"".join(b"\x00" + bytes(6 * 8) for _ in range(8))
    assert read_raster(png(8, 8, 16, 2, grey))[0].shape == (8, 8)
    with pytest.raises(ImageError, match="grows to more than"):
        read_raster(png(8, 8, 16, 2, grey + bytes(2**26)))


def test_a_png_that_inflates_to_more_than_its_image_is_read_up_to_there():
    grey = b"".join(b"\x00" + bytes(8) for _ in range(8))
    assert read_raster(png(8, 8, 8, 0, grey + bytes(2**26)))[0].shape == (8, 8)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_png_with_a_bomb_beside_its_image_does_not_grow(kind: bytes):
    packed = zlib.compress(bytes(2**27), 9)
    head = {b"zTXt": b"Comment\0\0", b"iCCP": b"profile\0\0", b"iTXt": b"Comment\0\1\0\0\0"}[kind]
    content = png(8, 8, 8, 0, b"".join(b"\x00" + bytes(8) for _ in range(8)), chunk(kind, head + packed))
    tracemalloc.start()
    try:
        with contextlib.suppress(ImageError):
            read_raster(content)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("width", "height"), [(4097, 1), (1, 4097), (2**31 - 1, 2**31 - 1)])
def test_a_png_of_many_pixels_is_refused_by_its_header(width: int, height: int):
    with pytest.raises(ImageError):
        read_raster(png(width, height, 8, 0, b""))


def test_a_jpeg_of_many_pixels_is_refused_by_its_header():
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "JPEG")
    content = file.getvalue()
    at = content.index(b"\xff\xc0") + 5
    with pytest.raises(ImageError, match="legal: up to 4096 x 4096"):
        read_raster(content[:at] + b"\x10\x01\x10\x01" + content[at + 4 :])


# Zips


def test_a_zip_with_a_directory_beyond_bounds_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(300):
            member = zipfile.ZipInfo(f"{number}")
            member.comment = bytes(2**16 - 1)
            archive.writestr(member, b"")
    (entry,) = find_entries([tmp_path])
    assert "legal: up to 16777216" in (entry.error or "")


def test_a_zip_whose_directory_has_an_absurd_size_is_an_error(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"content")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[-10:-6] = b"\xf0\xff\xff\xff"  # its bytes, in the last record of 22 bytes
    (tmp_path / "a.zip").write_bytes(content)
    (entry,) = find_entries([tmp_path])
    assert "zip cannot be read" in (entry.error or "")


def test_an_archive_that_changes_meanwhile_is_an_error_not_another_file(tmp_path: Path):
    def write(*names: str) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in names:
                archive.writestr(name, b"text")

    write("a", "b")
    entries = list(find_entries([tmp_path]))
    write("b")
    with Reader() as reader:
        reasons = [decode(entry, reader, DecodeOptions(BRAIN))[0].reason for entry in entries]
    assert all("changed since it was found" in reason for reason in reasons)


# Decoders


def test_a_decoder_that_panics_is_an_error_of_its_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """pylibjpeg-rle is written in Rust, whose panics reach Python as exceptions that are no `Exception`."""

    class PanicException(BaseException):
        pass

    def panic(*args: object, **kwargs: object) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr("hemoscan.dicom.pixel_array", panic)
    (tmp_path / "slice.dcm").write_bytes(to_bytes(make_ct(hu_ramp())))
    status, reason = decode_one(tmp_path / "slice.dcm")
    assert status == "error"
    assert "index out of bounds" in reason
