"""From slices to studies: the worklist."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from hemoscan.series import Series, SeriesResult
from hemoscan.slices import ERROR, OK, OUT_OF_DISTRIBUTION, SKIPPED, Row

TOP_SLICES = 3
# A head has some 28 slices of 5 mm; the few of a bolus tracking or a trial shot stand for no head.
FEWEST_SLICES = 10


@dataclass
class Study:
    """What is known of one study: first its slices are added, then `finish` judges them."""

    uid: str
    n_slices: int = 0
    """Scored slices; those that are there twice count once, as from `finish` on."""
    n_flagged: int = 0
    n_skipped: int = 0
    n_errors: int = 0
    newest_mtime: float | None = None
    example: str = ""
    """Path of one of its slices, for what only a header tells."""
    score: float | None = None
    """Of its best eligible series, see `finish`; None if no slice was scored."""
    flag: bool | None = None
    """Whether it is flagged; None if no slice was scored."""
    notes: tuple[str, ...] = ()
    """What to keep in mind."""
    top: list[tuple[bool, float, str, tuple[str, int | None]]] = field(default_factory=list)
    """The slices with the highest probabilities, as a heap; those out of distribution and not flagged come last."""
    series: dict[str, Series] = field(default_factory=dict)
    """By SeriesInstanceUID, until `finish`."""

    @property
    def top_slices(self) -> list[str]:
        """Names of the slices with the highest probabilities, highest first."""
        return [name for _, _, name, _ in sorted(self.top, key=lambda item: (not item[0], -item[1], item[2]))]

    def add(self, row: Row) -> None:
        """Count a row in."""
        decoded = row.decoded
        self.n_slices += decoded.status == OK
        self.n_skipped += decoded.status == SKIPPED
        self.n_errors += decoded.status == ERROR
        if decoded.mtime is not None:
            self.newest_mtime = max(self.newest_mtime or decoded.mtime, decoded.mtime)
        if row.probability is not None:
            self.example = self.example or decoded.path
            self._add_to_top(row, row.probability)
            self.series.setdefault(decoded.identity.series_uid, Series()).add(row)

    def _add_to_top(self, row: Row, probability: float) -> None:
        decoded = row.decoded
        name = decoded.path if decoded.frame in (None, 1) else f"{decoded.path}#{decoded.frame}"
        key = (decoded.identity.sop_uid or decoded.path, decoded.frame)
        usual = bool(row.flag) or OUT_OF_DISTRIBUTION not in decoded.notes
        if any(key == other for _, _, _, other in self.top):
            return  # a copy
        push = heapq.heappush if len(self.top) < TOP_SLICES else heapq.heappushpop
        push(self.top, (usual, probability, name, key))

    def finish(self, threshold: float | None) -> None:
        """Judge the study by its slices, and let go of them.

        The score is that of the best eligible series. Slices out of distribution do not count, unless the study has no
        others, one of the series' is flagged, or the study is flagged with them: what looks strange may bleed.
        Series by a bone kernel or with contrast are eligible only if no other series has ten slices or more.

        Parameters
        ----------
        threshold
            Score from which the study is flagged; None: if any slice is.
        """
        strange = all(series.n_strange == len(series) for series in self.series.values())
        judged = [(series, series.result(strange=strange, threshold=threshold)) for series in self.series.values()]
        self.n_slices = sum(result.n_slices for _, result in judged)
        self.n_flagged = sum(result.n_flagged for _, result in judged)
        eligible = _eligible(judged)
        self.score = max((result.score for _, result in eligible if result.score is not None), default=None)
        if self.score is not None:
            self.flag = self.n_flagged > 0 if threshold is None else self.score >= threshold
        self.notes = tuple(_notes(judged, eligible, strange=strange))
        self.series = {}


Judged = list[tuple[Series, SeriesResult]]


def _eligible(judged: Judged) -> Judged:
    """Return the series that a study is scored by."""
    scored = [(series, result) for series, result in judged if result.score is not None]
    plain = [(series, result) for series, result in scored if not (series.contrast or series.bone_kernel)]
    return plain if any(result.n_slices >= FEWEST_SLICES for _, result in plain) else scored


def _notes(judged: Judged, eligible: Judged, *, strange: bool) -> Iterator[str]:
    if strange and judged:
        yield OUT_OF_DISTRIBUTION
    elif any(result.by_strange for _, result in eligible):
        yield "scored by slices out-of-distribution"
    if any(series.contrast for series, _ in eligible):
        yield "scored by a series with contrast"
    if any(series.bone_kernel for series, _ in eligible):
        yield "scored by a series of a bone kernel"
    left_out = len(judged) - len(eligible)
    if left_out:
        yield f"{left_out} of {len(judged)} series not used for the score"
    twice = sum(result.n_twice for _, result in judged)
    if twice:
        yield f"{twice} slices there twice, counted once"
    missing = sum(result.n_missing for _, result in eligible)
    if missing:
        yield f"incomplete series: slices missing in {missing} {'place' if missing == 1 else 'places'}"


def study_of(row: Row) -> str:
    """Return what a row's study is known by: StudyInstanceUID, or the folder of what has none."""
    return row.decoded.identity.study_uid or row.decoded.folder


class Worklist:
    """Studies, the most urgent first.

    Slices belong together by StudyInstanceUID; files without one (PNG, unreadable DICOM) by their folder, whose path
    then stands for the UID.
    """

    def __init__(self, threshold: float | None = None) -> None:
        """Take the score from which a study is flagged; None: it is if any slice is."""
        self._threshold = threshold
        self._studies: dict[str, Study] = {}

    def add(self, row: Row) -> None:
        """Count a row in."""
        uid = study_of(row)
        if uid not in self._studies:
            self._studies[uid] = Study(uid)
        self._studies[uid].add(row)

    def ranked(self) -> Iterator[Study]:
        """Judge and yield the studies by falling score, then those with unreadable files only; no row may follow.

        Folders of nothing but skipped files are no studies.
        """
        studies = [study for study in self._studies.values() if study.n_slices or study.n_errors]
        for study in studies:
            study.finish(self._threshold)
        yield from sorted(studies, key=lambda study: (-(study.score if study.score is not None else -1), study.uid))
