"""From slices to studies: the worklist."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from hemoscan.slices import ERROR, OK, SKIPPED, Row

TOP_SLICES = 3


@dataclass
class Study:
    """What is known of one study. Its size does not grow with its slices."""

    uid: str
    n_slices: int = 0
    n_flagged: int = 0
    n_skipped: int = 0
    n_errors: int = 0
    newest_mtime: float | None = None
    example: str = ""
    """Path of one of its slices, for what only a header tells."""
    top: list[tuple[float, str]] = field(default_factory=list)
    """The highest probabilities and the names of their slices, as a heap."""

    @property
    def score(self) -> float | None:
        """The highest probability of a slice; None if no slice was scored."""
        return max(self.top)[0] if self.top else None

    @property
    def flag(self) -> bool | None:
        """Whether any slice is flagged; None if no slice was scored."""
        return None if self.score is None else self.n_flagged > 0

    @property
    def top_slices(self) -> list[str]:
        """Names of the slices with the highest probabilities, highest first."""
        return [name for _, name in sorted(self.top, key=lambda item: (-item[0], item[1]))]

    def add(self, row: Row) -> None:
        """Count a row in."""
        decoded = row.decoded
        self.n_slices += decoded.status == OK
        self.n_skipped += decoded.status == SKIPPED
        self.n_errors += decoded.status == ERROR
        self.n_flagged += bool(row.flag)
        if decoded.mtime is not None:
            self.newest_mtime = max(self.newest_mtime or decoded.mtime, decoded.mtime)
        if row.probability is not None:
            self.example = self.example or decoded.path
            name = decoded.path if decoded.frame in (None, 1) else f"{decoded.path}#{decoded.frame}"
            push = heapq.heappush if len(self.top) < TOP_SLICES else heapq.heappushpop
            push(self.top, (row.probability, name))


def study_of(row: Row) -> str:
    """Return what a row's study is known by: StudyInstanceUID, or the folder of what has none."""
    return row.decoded.identity.study_uid or row.decoded.folder


class Worklist:
    """Studies, the most urgent first.

    Slices belong together by StudyInstanceUID; files without one (PNG, unreadable DICOM) by their folder, whose path
    then stands for the UID. A study's score is the highest probability of its slices; it is flagged if any slice is.
    """

    def __init__(self) -> None:
        self._studies: dict[str, Study] = {}

    def add(self, row: Row) -> None:
        """Count a row in."""
        uid = study_of(row)
        if uid not in self._studies:
            self._studies[uid] = Study(uid)
        self._studies[uid].add(row)

    def ranked(self) -> Iterator[Study]:
        """Yield studies by falling score, then those with unreadable files only.

        Folders of nothing but skipped files are no studies.
        """
        studies = [study for study in self._studies.values() if study.n_slices or study.n_errors]
        yield from sorted(studies, key=lambda study: (-(study.score if study.score is not None else -1), study.uid))
