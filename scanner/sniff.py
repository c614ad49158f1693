"""What a file is, by its first bytes. Names and endings are never trusted."""

from __future__ import annotations

HEAD_BYTES = 4096
DICOM, RASTER, ZIP = "DICOM", "raster", "zip"

_KNOWN = (
    (b"\x89PNG\r\n\x1a\n", RASTER),
    (b"\xff\xd8\xff", RASTER),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
)
_NAMED = (
    (b"%PDF", "a PDF"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
# Tag groups that a data set without preamble begins with: file meta information, or identification.
_FIRST_GROUPS = (0x0002, 0x0008)
_VRS = b"AEASATCSDADSDTFDFLISLOLTOBODOFOLOVOWPNSHSLSQSSSTSVTMUCUIULUNURUSUTUV"


def sniff(head: bytes) -> str:
    """Tell a file's kind.

    Parameters
    ----------
    head
        Its first `HEAD_BYTES` bytes, or all of it.

    Returns
    -------
    str
        `DICOM`, `RASTER` (PNG or JPEG) or `ZIP`; else what it is, in words fit for "skipped: …".
    """
    if not head:
        return "an empty file"
    if head[128:132] == b"DICM":
        return DICOM
    for magic, kind in _KNOWN + _NAMED:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP image"
    if _begins_with_element(head):
        return DICOM
    return "a text file" if _is_text(head) else "of an unknown kind"


def _begins_with_element(head: bytes) -> bool:
    """Tell whether the bytes begin with a DICOM element of group 0002 or 0008, as a data set without preamble does.

    Source: DICOM PS3.5, 7.1 (explicit VR: two letters; implicit VR: a length of 32 bits, even).
    """
    if len(head) < 8:
        return False
    for order in ("little", "big"):
        group = int.from_bytes(head[:2], order)
        element = int.from_bytes(head[2:4], order)
        if group not in _FIRST_GROUPS or element > 0x1200:
            continue
        vr = head[4:6]
        if any(_VRS[i : i + 2] == vr for i in range(0, len(_VRS), 2)):
            return True
        length = int.from_bytes(head[4:8], "little")
        if order == "little" and length % 2 == 0 and length < 1024:
            return True
    return False


def _is_text(head: bytes) -> bool:
    """Tell whether the bytes are UTF-8 (but for a character cut off at the end) without control characters."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\r\n\t\f\ufeff" for character in text)
