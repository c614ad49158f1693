"""Any text as bytes and back: names of files that are not UTF-8 come as lone surrogates, which no encoding takes."""

from __future__ import annotations


def to_bytes(text: str) -> bytes:
    r"""Return a text, lone surrogates included, as bytes.

    >>> to_text(to_bytes("caf\udce9")) == "caf\udce9"
    True
    """
    return text.encode("utf-8", "surrogatepass")


def to_text(content: bytes) -> str:
    """Return the text that `to_bytes` was given."""
    return content.decode("utf-8", "surrogatepass")
