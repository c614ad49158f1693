"""Reading elements of headers that may lack them, leave them empty, or hold what the standard forbids."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset


def values(header: Dataset, keyword: str) -> list[Any]:
    """Return the values of an element, [] if it is absent, empty or malformed."""
    try:
        value = header.get(keyword)
    except Exception:  # a malformed element, whatever pydicom makes of it
        return []
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | bytes | int | float) else list(value)


def string(header: Dataset, keyword: str) -> str:
    """Return the first value in upper case, "" if there is none."""
    found = values(header, keyword)
    return str(found[0]).strip().upper() if found else ""


def uid(header: Dataset, keyword: str) -> str:
    """Return the first value as it is, without padding, "" if there is none."""
    found = values(header, keyword)
    return str(found[0]).strip().strip("\0") if found else ""


def numbers(header: Dataset, keyword: str) -> list[float]:
    """Return the values, [] unless all of them are finite numbers."""
    try:
        found = [float(value) for value in values(header, keyword)]
    except (TypeError, ValueError):
        return []
    return found if all(map(math.isfinite, found)) else []


def number(header: Dataset, keyword: str) -> float | None:
    """Return the first value, None unless all of them are finite numbers."""
    found = numbers(header, keyword)
    return found[0] if found else None


def integer(header: Dataset, keyword: str) -> int | None:
    """Return the first value cut to an integer, None unless all of them are finite numbers."""
    found = number(header, keyword)
    return None if found is None else int(found)


def groups(header: Dataset, index: int, sequence: str) -> Iterator[Dataset]:
    """Yield where an attribute of frame `index` (from 0) may stand, the first that has it counts.

    That is its own functional group, the shared one, and the top level (DICOM PS3.3, C.7.6.16).
    """
    per_frame = values(header, "PerFrameFunctionalGroupsSequence")
    shared = values(header, "SharedFunctionalGroupsSequence")
    for item in [*per_frame[index : index + 1], *shared[:1]]:
        yield from values(item, sequence)[:1]
    yield header


def group_with(header: Dataset, index: int, sequence: str, keyword: str) -> Dataset:
    """Return the first of `groups` that has the keyword, else the header."""
    return next((group for group in groups(header, index, sequence) if values(group, keyword)), header)
