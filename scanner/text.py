"""Any text as bytes and back: names of files that are not UTF-8 come as lone surrogates, which no encoding takes.

And errors' texts that are the same each time.
"""

from __future__ import annotations

import re


def to_bytes(text: str) -> bytes:
    r"""Return a text, lone surrogates included, as bytes.

    >>> to_text(to_bytes("caf\udce9")) == "caf\udce9"
    True
    """
    return text.encode("utf-8", "surrogatepass")


def to_text(content: bytes) -> str:
    """Return the text that `to_bytes` was given."""
    return content.decode("utf-8", "surrogatepass")


def without_addresses(text: str) -> str:
    """Return an error's text without the objects of Python in it, whose addresses differ each time.

    >>> without_addresses("cannot identify image file <_io.BytesIO object at 0x7f3a9d57c0e0>")
    'cannot identify image file'
    """
    return re.sub(r" ?<[^<>]* at 0x[0-9a-fA-F]+>", "", text)
