"""Which row of a file of scores belongs to which label: by path, SOPInstanceUID or id."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from hemoscan.errors import DataError
from hemoscan.trainer.labels import Labels
from hemoscan.trainer.scores import Scores

SHOWN = 3
ROOT = ""
SAME_PATH, END_OF_PATH, FILE_NAME, UID, ID = "path", "end of the path", "file name alone", "SOPInstanceUID", "id"

Backwards = tuple[str, ...]


@dataclass(frozen=True)
class Joined:
    """Pairs of a scored row and a label."""

    rows: NDArray[np.intp]
    """Shape (n,): places in the scores."""
    labels: NDArray[np.intp]
    """Shape (n,): places in the labels, rising."""
    ways: dict[str, int]
    """How many pairs were found by what."""
    copies: tuple[int, ...] = ()
    """Places in the scores: left for another copy of the same slice."""


def join(scores: Scores, labels: Labels) -> Joined:
    """Find the scored row of each label; what has no partner is left out.

    Paths belong together if they are the same, or else by the longest common end: a relative path has to be the whole
    end of the other, of two absolute ones at least the file's name is the same. `archive.zip!member` counts as a
    path through the archive. Where no row has a path, labels with paths are joined by their UIDs, if they have them,
    else by file names. UIDs are compared with `sop_uid`, ids also with file names; a UID is compared with
    file names where a row has no `sop_uid`. Rows with the SOPInstanceUID and frame of a label are copies of one slice:
    as in the worklist the highest score counts, of equal ones the first.

    Raises
    ------
    DataError
        If a row or a label has several equally good partners (the text names them), or nothing belongs together.
    """
    by_path = labels.kind == "path" and any(scores.paths)
    pairs, ways, copies = (*_join_paths(scores, labels), []) if by_path else _join_uids_or_names(scores, labels)
    if not pairs:
        raise DataError(
            f"{scores.source} and {labels.source}: no slice is in both; scores are of slices such as "
            f"{scores.name_of(0)}, labels of slices such as {labels.keys[0]}"
        )
    found = np.array(sorted(pairs.items()), np.intp)
    return Joined(found[:, 1], found[:, 0], dict(ways), tuple(copies))


def _frame_of(labels: Labels, place: int) -> int | None:
    return None if labels.frames is None else int(labels.frames[place])


# By names


def _join_uids_or_names(scores: Scores, labels: Labels) -> tuple[dict[int, int], Counter[str], list[int]]:
    if labels.uids is not None:
        found = _join_names(scores, replace(labels, keys=labels.uids, kind="uid"))
        if found[0]:
            return found
    return _join_names(scores, labels)


def _join_names(scores: Scores, labels: Labels) -> tuple[dict[int, int], Counter[str], list[int]]:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, (path, uid) in enumerate(zip(scores.paths, scores.uids, strict=True)):
        for name in {uid} if uid and labels.kind == "uid" else {uid, *_names(path)} - {""}:
            rows[name].append(row)
    pairs: dict[int, int] = {}
    copies: list[int] = []
    for place, key in enumerate(labels.keys):
        frame = _frame_of(labels, place)
        names = _names(key) if labels.kind == "path" else {key}
        found = sorted({row for name in names for row in rows.get(name, ()) if frame in (None, scores.frames[row])})
        if len(found) > 1 and not (labels.kind == "uid" and _are_copies(scores, key, found)):
            raise _ambiguous(scores, labels, place, found)
        if found:
            pairs[place] = max(found, key=lambda row: scores.scores[row])
            copies += [row for row in found if row != pairs[place]]
    _check_one_label_a_row(scores, labels, pairs)
    return pairs, Counter({UID if labels.kind == "uid" else ID: len(pairs)}), copies


def _are_copies(scores: Scores, uid: str, rows: Sequence[int]) -> bool:
    return {scores.uids[row] for row in rows} == {uid} and len({int(scores.frames[row]) for row in rows}) == 1


def _names(path: str) -> set[str]:
    """Return a file's name, and that without its suffix."""
    name = PurePosixPath(_slashes(path))
    return {name.name, name.stem} if path else set()


def _check_one_label_a_row(scores: Scores, labels: Labels, pairs: dict[int, int]) -> None:
    first: dict[int, int] = {}
    for place, row in pairs.items():
        other = first.setdefault(row, place)
        if other != place:
            keys = f"{labels.keys[other]}, {labels.keys[place]}"
            raise DataError(f"{labels.source}: labels {keys} are of one slice, {scores.name_of(row)}; legal: one label")


def _ambiguous(scores: Scores, labels: Labels, place: int, rows: Sequence[int]) -> DataError:
    shown = ", ".join(scores.name_of(row) for row in rows[:SHOWN]) + (", ..." if len(rows) > SHOWN else "")
    way_out = "distinct paths or UIDs" if labels.frames is not None else "distinct paths or UIDs, or a column frame"
    return DataError(
        f"label {labels.keys[place]} of {labels.source} fits {len(rows)} rows of {scores.source}: {shown}; "
        f"legal: one; {way_out} in the labels would tell"
    )


# By paths


def _slashes(path: str) -> str:
    return path.replace("\\", "/").replace("!", "/")


def _backwards(path: str, frame: int | None) -> Backwards:
    """Return the parts of a path, the file's name first, after the frame; `ROOT` ends an absolute path."""
    parts: list[str] = []
    for part in _slashes(path).split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    root = (ROOT,) if re.match(r"/|[A-Za-z]:/", _slashes(path)) else ()
    return (str(frame or 1), *reversed(parts), *root)


def _shared(one: Backwards, other: Backwards) -> int:
    """Return how many parts are the same, from the end of the paths on, the frame included."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _may_be_one(one: Backwards, other: Backwards, shared: int) -> bool:
    """Say whether two paths may be of one file: the name is the same, and so is all of a relative path."""
    relative = [path for path in (one, other) if path[-1] != ROOT]
    return shared > 1 and (not relative or any(shared == len(path) for path in relative))


def _join_paths(scores: Scores, labels: Labels) -> tuple[dict[int, int], Counter[str]]:
    framed = labels.frames is not None
    rows = [
        (_backwards(path, int(frame) if framed else None), row)
        for row, (path, frame) in enumerate(zip(scores.paths, scores.frames, strict=True))
        if path
    ]
    keys = {place: _backwards(key, _frame_of(labels, place)) for place, key in enumerate(labels.keys)}
    same, keys, rows = _same_paths(scores, labels, keys, rows)
    ends, alone = _longest_ends(scores, labels, keys, sorted(rows))
    ways = Counter({SAME_PATH: len(same), END_OF_PATH: len(ends) - alone, FILE_NAME: alone})
    return same | ends, +ways


def _same_paths(
    scores: Scores, labels: Labels, keys: dict[int, Backwards], rows: list[tuple[Backwards, int]]
) -> tuple[dict[int, int], dict[int, Backwards], list[tuple[Backwards, int]]]:
    """Return the pairs of the same path, and what is left of both sides."""
    by_path: defaultdict[Backwards, list[int]] = defaultdict(list)
    for path, row in rows:
        by_path[path].append(row)
    pairs: dict[int, int] = {}
    for place, key in keys.items():
        found = by_path.get(key, [])
        if len(found) > 1:
            raise _ambiguous(scores, labels, place, found)
        if found:
            pairs[place] = found[0]
    _check_one_label_a_row(scores, labels, pairs)
    taken = set(pairs.values())
    return (
        pairs,
        {place: key for place, key in keys.items() if place not in pairs},
        [(path, row) for path, row in rows if row not in taken],
    )


def _longest_ends(
    scores: Scores, labels: Labels, keys: dict[int, Backwards], rows: list[tuple[Backwards, int]]
) -> tuple[dict[int, int], int]:
    """Return the pairs with the longest common end, and how many share the file's name alone.

    `rows` are sorted, so that those with the longest common end stand beside where the label's path would.
    """
    claims: defaultdict[int, int] = defaultdict(int)  # the longest end that a label shares with a row
    fits: dict[int, tuple[int, list[int]]] = {}
    for place, key in keys.items():
        length, found = _best(key, rows)
        fits[place] = length, found
        for row in found:
            claims[row] = max(claims[row], length)
    pairs, alone = {}, 0
    for place, (length, found) in fits.items():
        mine = [row for row in found if claims[row] == length]
        if len(mine) > 1:
            raise _ambiguous(scores, labels, place, mine)
        if mine:
            pairs[place] = mine[0]
            alone += length == 2  # the frame and the name
    _check_one_label_a_row(scores, labels, pairs)
    return pairs, alone


def _best(key: Backwards, rows: list[tuple[Backwards, int]]) -> tuple[int, list[int]]:
    """Return the length of the longest common end, and the rows that share it."""
    start = end = bisect_left(rows, (key, -1))
    length = max((_shared(key, path) for path, _ in rows[max(start - 1, 0) : start + 1]), default=0)
    while start > 0 and _shared(key, rows[start - 1][0]) == length:
        start -= 1
    while end < len(rows) and _shared(key, rows[end][0]) == length:
        end += 1
    return length, [row for path, row in rows[start:end] if _may_be_one(key, path, length)]
