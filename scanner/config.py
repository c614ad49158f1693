"""Options from a TOML file: for a timer's command line that stays short. What the command line says itself, wins."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hemoscan.errors import OptionError


def read_config(path: Path, legal: Collection[str]) -> dict[str, Any]:
    """Read options from a file.

    Parameters
    ----------
    path
        A TOML file of `option = value` lines, without tables.
    legal
        The options' long names, without the leading dashes.

    Returns
    -------
    dict
        By name, with underscores in place of dashes; values as TOML gives them.

    Raises
    ------
    OptionError
        If the file cannot be read, or has an option that there is not; the text names those that are legal.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"config {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOML, or UTF-8
        raise OptionError(f"config {path}: not TOML: {error}") from error
    unknown = [name for name, value in content.items() if name not in legal or isinstance(value, dict)]
    if unknown:
        raise OptionError(f"config {path}: {', '.join(unknown)}: no such option; legal: {', '.join(sorted(legal))}")
    return {name.replace("-", "_"): value for name, value in content.items()}
