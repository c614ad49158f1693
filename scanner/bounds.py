"""Limits on what a file claims, checked before a decoder believes it and allocates or loops."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from hemoscan.errors import ImageError

# As large as CT slices without any structure, such as black ones, may be compressed.
MAX_RATIO = 200
SMALL_BYTES = 2**20
# 64 x 64 of them cover the largest slice in tiles of 64 x 64 pixels.
MAX_TILES = 4096
MAX_COMPONENTS = 4
INFLATE_STEP = 2**18
DEFLATED = b"1.2.840.10008.1.2.1.99"
JP2_SIGNATURE = b"\x00\x00\x00\x0c\x6a\x50\x20\x20"
SOC_SIZ = b"\xff\x4f\xff\x51"
# Start-of-frame markers: ITU T.81, table B.1 (without DHT, JPG and DAC), and T.87, C.1.1.
START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}


def largest(packed: int) -> int:
    """Return the bytes that so many packed ones may grow to."""
    return max(SMALL_BYTES, MAX_RATIO * packed)


def check_inflated(parts: Iterable[bytes], limit: int, window_bits: int = zlib.MAX_WBITS) -> None:
    """Check that a deflated stream, in parts, grows to no more than `limit` bytes; what is damaged is left to readers.

    Raises
    ------
    ImageError
        If it grows to more.
    """
    inflater = zlib.decompressobj(window_bits)
    size = 0
    try:
        for part in parts:
            rest = part
            while rest and not inflater.eof:
                size += len(inflater.decompress(rest, INFLATE_STEP))
                rest = inflater.unconsumed_tail
                if size > limit:
                    raise ImageError(f"deflated content grows to more than {limit} bytes, the most that is legal")
    except zlib.error:
        return


def check_deflated_dicom(content: bytes) -> None:
    """Check the data set of a file in Deflated Explicit VR Little Endian (DICOM PS3.5, A.5; PS3.10, 7.1).

    Raises
    ------
    ImageError
        If it grows more than 200 times, or the group length that says where it begins is missing.
    """
    meta = 132 if content[128:132] == b"DICM" else 0
    if DEFLATED not in content[meta : meta + SMALL_BYTES]:
        return
    if content[meta : meta + 8] != b"\x02\x00\x00\x00UL\x04\x00":
        raise ImageError("FileMetaInformationGroupLength (0002,0000) is absent from a deflated file")
    start = meta + 12 + int.from_bytes(content[meta + 8 : meta + 12], "little")
    if DEFLATED in content[meta:start]:
        check_inflated([content[start:]], largest(len(content)), -zlib.MAX_WBITS)


def check_codestream(frame: bytes, rows: int, columns: int) -> None:
    """Check what an encoded frame of the JPEG family says of its own size; what is damaged is left to the decoder.

    Raises
    ------
    ImageError
        If it is not of Rows x Columns, to which some decoders fit it in silence, has more tiles or components than a CT
        slice has any use for, or boxes that some readers never get past.
    """
    if frame.startswith(JP2_SIGNATURE):
        frame = frame[_find_codestream(frame) :]
    if frame.startswith(SOC_SIZ):
        height, width, components = _read_siz(frame)
    else:
        height, width, components = _read_start_of_frame(frame)
    if height and width and (height, width) != (rows, columns):
        raise ImageError(f"codestream of {height} x {width} pixels; legal: Rows x Columns, {rows} x {columns}")
    if components > MAX_COMPONENTS:
        raise ImageError(f"codestream of {components} components; legal: up to {MAX_COMPONENTS}")


def _find_codestream(frame: bytes) -> int:
    """Return where the codestream begins in a JP2 file (ISO/IEC 15444-1, I.4)."""
    offset = 12
    while offset < len(frame):
        length = int.from_bytes(frame[offset : offset + 4], "big")
        if frame[offset + 4 : offset + 8] == b"jp2c":
            return offset + 8
        if length < 8:
            raise ImageError(f"JP2 box of {length} bytes; legal: 8 or more")
        offset += length
    return offset


def _read_siz(frame: bytes) -> tuple[int, int, int]:
    """Return height, width and components of a JPEG 2000 codestream (ISO/IEC 15444-1, A.5.1)."""
    if len(frame) < 42:
        return 0, 0, 0
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = (
        int.from_bytes(frame[at : at + 4], "big") for at in range(8, 40, 4)
    )
    if tile_width and tile_height:
        tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
        if tiles > MAX_TILES:
            raise ImageError(f"codestream of {tiles} tiles; legal: up to {MAX_TILES}")
    return max(bottom - top, 0), max(right - left, 0), int.from_bytes(frame[40:42], "big")


def _read_start_of_frame(frame: bytes) -> tuple[int, int, int]:
    """Return height, width and components of a JPEG or JPEG-LS stream, all 0 if it does not say (ITU T.81, B.2.2)."""
    at = 2
    while at + 9 < len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in START_OF_FRAME:
            height, width = (int.from_bytes(frame[at + i : at + i + 2], "big") for i in (5, 7))
            return height, width, frame[at + 9]
        if marker == 0xFF:  # fill byte
            at += 1
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return 0, 0, 0
