"""A path as the results give it, back to the file: members of a zip are written as `archive.zip!member`."""

from __future__ import annotations

from pathlib import Path


def locate(path: str) -> tuple[str, str | None]:
    """Return the file and the member within it, None if it is a file itself: the archive is the first part that is one.

    Raises
    ------
    FileNotFoundError
        If neither is there.
    """
    if Path(path).is_file():
        return path, None
    at = path.find("!")
    while at >= 0:
        if Path(path[:at]).is_file():
            return path[:at], path[at + 1 :]
        at = path.find("!", at + 1)
    raise FileNotFoundError(path)
