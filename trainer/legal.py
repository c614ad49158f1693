"""What JSON of a run folder may hold: a schema in plain data, and errors that name key, value and legal range."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Legal:
    """What a value may be, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Maybe:
    """A key that may be missing, null or `{}`."""

    schema: Schema


Schema: TypeAlias = "Legal | Maybe | Mapping[str, Schema] | list[Schema]"
"""A mapping is an object with these keys, among others; a list of one schema, one or more that fit it."""


def check(value: Any, schema: Schema, at: str = "") -> None:
    """Check a value of parsed JSON, down to what the schema names.

    Raises
    ------
    ValueError
        If something is missing or not legal; the text names key, value and legal range.
    """
    if isinstance(schema, Maybe):
        if value is not None and value != {}:
            check(value, schema.schema, at)
    elif isinstance(schema, Legal):
        _fit(value, schema, at)
    elif isinstance(schema, list):
        _fit(value, A_LIST, at)
        for place, part in enumerate(value):
            check(part, schema[0], f"{at}[{place}]")
    else:
        _fit(value, AN_OBJECT, at)
        for key, part in schema.items():
            name = f"{at}.{key}" if at else key
            if key not in value and not isinstance(part, Maybe):
                raise ValueError(f"{name} is missing")
            check(value.get(key), part, name)


def _fit(value: Any, legal: Legal, at: str) -> None:
    if not legal.fits(value):
        raise ValueError(f"{at} {reprlib.repr(value)}; legal: {legal.words}".lstrip())


def whole(low: int, high: int) -> Legal:
    """Return that a value is a whole number from `low` up to `high`."""
    return Legal(f"a whole number, {low:,} to {high:,}", lambda value: type(value) is int and low <= value <= high)


def number(words: str, fits: Callable[[float], bool]) -> Legal:
    """Return that a value is a number, and what else."""

    def test(value: Any) -> bool:
        try:
            return type(value) in (int, float) and fits(float(value))
        except OverflowError:  # an integer that no float holds
            return False

    return Legal(words, test)


def is_text(value: object) -> bool:
    """Return whether a value is a text that UTF-8 takes, so that it can be written."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


A_LIST = Legal("a list of one or more", lambda value: isinstance(value, list) and bool(value))
AN_OBJECT = Legal("an object", lambda value: isinstance(value, dict))
FLAG = Legal("true or false", lambda value: type(value) is bool)
SHARE = number("0 to 1", lambda value: 0 <= value <= 1)
TEXT = Legal("a text without lone surrogates", is_text)
