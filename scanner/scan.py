"""One scan: what is new is decoded ahead elsewhere, scored in batches and kept; CSVs are written from what is kept."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hemoscan import NOTICE, __version__
from hemoscan.ahead import decode_ahead
from hemoscan.card import Model
from hemoscan.decode import DecodeOptions
from hemoscan.errors import OutputError
from hemoscan.isolation import DEFAULT_FILE_TIMEOUT, DecoderOptions
from hemoscan.machine import describe_machine
from hemoscan.operating import Calibration
from hemoscan.pictures import Pictures
from hemoscan.redraw import redraw
from hemoscan.resilient import Engine
from hemoscan.results import Results
from hemoscan.selection import Settling, newest_first
from hemoscan.slices import ERROR, OK, SKIPPED, Decoded, Row, to_probability
from hemoscan.sources import Entry, find_entries
from hemoscan.state import Scored, State
from hemoscan.stopping import Stop

PUBLISH_SECONDS = 30.0
# Of a large folder, too, something is to be read soon.
FIRST_PUBLISH_SECONDS = 5.0
# Rewriting takes at most one part in so many of the time, however long the files have become.
PUBLISH_SHARE = 20
# Batches that wait by the engine, beside the one that it is given.
BATCHES_AHEAD = 1
# Of the rules from file to input: raised when they change, so that what was scored by others is scored again.
PREPROCESSING_VERSION = 6
RUNNING, DONE, STOPPED, INTERRUPTED = "running", "done", "out of time", "interrupted"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanOptions:
    """How a scan is done."""

    decoding: DecodeOptions
    """How files are read."""
    threshold: float
    """Probability at or above which a slice is flagged."""
    batch_size: int
    """Slices that the network is given at a time."""
    workers: int
    """Processes that read and decode; 0: none but the scan's own."""
    limit: int | None = None
    """Files after which to stop; None for all."""
    rescan: bool = False
    """Whether files that are known and unchanged are scored again."""
    settle: float = 0.0
    """Seconds for which the files of a study must be unchanged before it is scored."""
    newest_first: bool = False
    """Whether files are taken by falling time of change, not by name."""
    time_budget: float | None = None
    """Seconds after which no batch is begun; None for no end."""
    prune: bool = False
    """Whether to forget files that are gone."""
    file_timeout: float = DEFAULT_FILE_TIMEOUT
    """Seconds that decoding a file may take, and as many again for each 64 MiB of it."""
    calibration: Calibration | None = None
    """What brings logits to probabilities; None: nothing does."""
    study_threshold: float | None = None
    """Score from which a study is flagged; None: if any of its slices is."""


@dataclass
class Report:
    """What a scan did, so far."""

    counts: dict[str, int] = field(default_factory=lambda: {OK: 0, SKIPPED: 0, ERROR: 0})
    """Rows by status: those made, and once published, all in the CSV."""
    flagged: int = 0
    files: int = 0
    """Files met."""
    known: int = 0
    """Of these, not looked into, since they are known from an earlier run."""
    scored: int = 0
    """Slices that this run scored."""
    pruned: int = 0
    """Files that were forgotten."""
    seconds: float = 0.0
    state: str = RUNNING
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def return_code(self) -> int:
        """0 done; 3 nothing to score was found; 4 done, with at least one `error` row."""
        if self.counts[ERROR]:
            return 4
        return 0 if self.counts[OK] else 3

    def add(self, row: Row) -> None:
        """Count a row in."""
        self.counts[row.decoded.status] += 1
        self.flagged += bool(row.flag)


@dataclass
class Pending:
    """A file that is being scored: it is kept once all of its frames are."""

    position: int
    entry: Entry
    scored: list[Scored] = field(default_factory=list)


Batch = list[tuple[Pending, Decoded]]


@dataclass(frozen=True)
class Inferred:
    """What an engine made of a batch."""

    logits: Sequence[float | None]
    """One for each of the batch; None for what has no image."""
    maps: Sequence[NDArray[np.float32] | None]
    """Class activation maps of shape (h, w), one for each of the batch; None where no picture is made of it."""
    engine: Mapping[str, str]
    """What scored them, as it describes itself."""


class Elsewhere(Protocol):
    """Decodes and infers on other machines, or in other processes."""

    def engines(self) -> Sequence[Mapping[str, str]]:
        """Return what its engines say of themselves, as far as they are known: name, device and precision."""

    def describe(self) -> dict[str, object]:
        """Return what the run record says of it."""

    def score(
        self, files: Iterator[Pending], going: Callable[[], bool]
    ) -> Generator[tuple[Batch, Inferred], None, None]:
        """Yield whole files with their logits, in any order, a bounded number ahead.

        Images are left out but of slices that may need a picture. Takes no more files once `going` says no.
        """


@dataclass(frozen=True)
class Job:
    """What a scan is made of."""

    paths: Sequence[Path]
    """Files, folders, zips, DICOMDIRs."""
    model: Model
    engine: Engine
    options: ScanOptions
    arguments: dict[str, Any]
    """What the user asked for, for the run record."""
    own: frozenset[str] = frozenset()
    """Absolute paths of files of the run's own, such as its log, beyond its results and its state."""
    pictures: Pictures | None = None
    """Takes the pictures of flagged slices; None: none are made."""
    prepare: Callable[[], object] = lambda: None
    """Called in the thread that infers as soon as a file has to be read, while it is read: loads the engine."""
    elsewhere: Elsewhere | None = None
    """Decodes and infers in place of this process; None: this process does."""


def scan(
    job: Job,
    results: Results,
    state: State,
    progress: Callable[[Report], None] = lambda report: None,
    stop: Stop | None = None,
) -> Report:
    """Score what the state does not know; write the results after 5 s, every 30 s, at the end, and when interrupted.

    Parameters
    ----------
    job
        What to scan, with what.
    results
        Writes the rows.
    state
        Knows what was scanned before, and keeps what is scored: after every batch.
    progress
        Called after every row that is made.
    stop
        Asks to end after the batch that is being scored.

    Returns
    -------
    Report
        What was done.

    Raises
    ------
    OutputError
        If the results or the state cannot be written.
    """
    run = _Run(job, results, state, Stop() if stop is None else stop)
    try:
        run.go(progress)
    except BaseException:
        with contextlib.suppress(OutputError):  # which would hide the cause
            run.publish(INTERRUPTED)
        raise
    if job.options.prune and run.ending() == DONE:
        run.report.pruned = state.prune(map(str, job.paths))
    run.publish(run.ending())
    run.redraw()
    return run.report


class _Run:
    """A scan that is going on."""

    def __init__(self, job: Job, results: Results, state: State, stop: Stop) -> None:
        self.report = Report()
        self._job, self._results, self._state, self._stop = job, results, state, stop
        self._machine = describe_machine()
        self._clock = time.monotonic()
        self._own = results.paths | state.paths | job.own
        self._waiting: deque[Pending] = deque()
        self._settling: Settling | None = None
        self._lacking_overlays: list[Row] = []
        self._prepared: Future[object] | None = None

    def ending(self) -> str:
        """Return how the run would end now."""
        if self._stop:
            return INTERRUPTED
        budget = self._job.options.time_budget
        return DONE if budget is None or time.monotonic() - self._clock < budget else STOPPED

    def go(self, progress: Callable[[Report], None]) -> None:
        """Score what is new, batch after batch."""
        options = self._job.options
        self._use()
        if options.settle:
            self._settling = Settling(self._job.paths, options.settle)
        due = self._clock + min(FIRST_PUBLISH_SECONDS, PUBLISH_SECONDS)
        with contextlib.closing(self._here() if self._job.elsewhere is None else self._elsewhere()) as batches:
            for batch, inferred in batches:
                for row in self._score(batch, inferred):
                    self.report.add(row)
                    self.report.scored += row.decoded.status == OK
                    progress(self.report)
                self._state.commit()
                if time.monotonic() > due:
                    due = self._publish_meanwhile()
        self._state.commit()

    def _here(self) -> Generator[tuple[Batch, Inferred], None, None]:
        """Yield batches with their logits: decoded ahead in worker processes, inferred in a thread."""
        options = self._job.options
        decoders = DecoderOptions(options.decoding, options.workers, options.file_timeout)
        with (
            ThreadPoolExecutor(1, thread_name_prefix="inference") as thread,
            contextlib.closing(decode_ahead(self._new_entries(thread), decoders, options.batch_size)) as decoded,
        ):
            yield from self._inferred(_batches(self._frames(decoded), options.batch_size), thread)

    def _elsewhere(self) -> Generator[tuple[Batch, Inferred], None, None]:
        """Yield whole files with their logits, as they come back."""
        elsewhere = self._job.elsewhere
        if elsewhere is None:
            return
        with contextlib.closing(elsewhere.score(self._new_files(), lambda: self.ending() == DONE)) as answers:
            for batch, inferred in answers:
                yield [(file, self._settled(frame)) for file, frame in batch], inferred

    def _use(self, engine: Mapping[str, str] | None = None) -> None:
        """Tell the state by what is scored: by this engine, or the first there is; by others, too, elsewhere."""
        elsewhere = self._job.elsewhere
        engines = [self._job.engine.describe()] if elsewhere is None else elsewhere.engines()
        if engine is not None:
            engines = [engine, *(engines if elsewhere is not None else ())]
        self._state.use(*(settings_key(self._job, each) for each in engines))

    def _inferred(self, batches: Iterable[Batch], thread: ThreadPoolExecutor) -> Iterator[tuple[Batch, Inferred]]:
        """Yield batches with their logits, in order; the next batch waits by the engine, so that it never idles."""
        waiting: deque[tuple[Batch, Future[Inferred | None]]] = deque()
        try:
            for batch in batches:
                waiting.append((batch, thread.submit(self._infer, batch)))
                if len(waiting) > BATCHES_AHEAD:
                    yield from _in_time(*waiting.popleft())
                if self.ending() != DONE:
                    break
            while waiting:
                yield from _in_time(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()

    def _infer(self, batch: Batch) -> Inferred | None:
        """Infer a batch, in the thread of inference; None if the scan is to begin no more."""
        if self.ending() != DONE:
            return None
        if self._prepared is not None:
            self._prepared.result()  # raises what went wrong
        engine = self._job.engine
        logits, maps = infer(engine, [decoded for _, decoded in batch], with_maps=self._job.pictures is not None)
        return Inferred(logits, maps, engine.describe())  # which may have lost its device

    def publish(self, state: str) -> None:
        """Write the three files: of what was met, and before the end also of what is known and was not met yet."""
        self._state.checkpoint()
        self.report.seconds = time.monotonic() - self._clock
        self.report.state = state
        self._results.publish(
            self._rows(unmet=state != DONE), lambda: run_record(self.report, self._job, self._machine)
        )
        _log.debug("results written: %s", state)

    def redraw(self) -> None:
        """Make the pictures that are lacking, of slices that were scored by an earlier run."""
        job, page = self._job, self._results.page
        if job.pictures is None or self.ending() != DONE:
            return
        lacking = self._lacking_overlays + list(page.lacking(self._results.studies) if page else ())
        if lacking:
            options = job.options
            redraw(
                lacking,
                job.pictures,
                job.engine,
                options.decoding,
                calibration=options.calibration,
                batch_size=options.batch_size,
                go_on=lambda: self.ending() == DONE,
            )
            self._results.write_page()

    def _publish_meanwhile(self) -> float:
        """Publish during a scan; return when to do so again.

        A failure is not the end: a spreadsheet that has the file open will close it, a share will come back.
        """
        started = time.monotonic()
        try:
            self.publish(RUNNING)
        except OutputError as error:
            _log.warning("results not refreshed: %s", error)
        ended = time.monotonic()
        return ended + max(PUBLISH_SECONDS, PUBLISH_SHARE * (ended - started))

    def _rows(self, *, unmet: bool) -> Iterator[Row]:
        """Yield all rows of the CSV, and count them."""
        report = self.report
        report.counts, report.flagged = {OK: 0, SKIPPED: 0, ERROR: 0}, 0
        self._lacking_overlays = []
        scored = self._state.rows()
        if unmet:
            scored = itertools.chain(scored, self._state.rows_not_met(map(str, self._job.paths)))
        for item in scored:
            row = _row(*item, self._job)
            report.add(row)
            if self._job.pictures is not None and self._job.pictures.lacks_overlay(row):
                self._lacking_overlays.append(row)
            yield row

    def _new_entries(self, thread: ThreadPoolExecutor) -> Iterator[Entry]:
        """Yield what is new, and note the order. The first that has to be read has the engine loaded."""
        for file in self._new_files():
            if self._prepared is None and not (file.entry.error or file.entry.skipped):
                self._prepared = thread.submit(self._job.prepare)
            self._waiting.append(file)
            yield file.entry

    def _new_files(self) -> Iterator[Pending]:
        """Yield what is found and not known, but for the run's own files, which may lie in a scanned folder."""
        options = self._job.options
        found = (entry for entry in find_entries(self._job.paths) if entry.path not in self._own)
        entries: Iterable[Entry] = newest_first(found) if options.newest_first else found
        for position, entry in enumerate(itertools.islice(entries, options.limit)):
            if self.ending() != DONE:
                return
            self.report.files += 1
            file = None if options.rescan or entry.error or entry.skipped else self._state.find(entry)
            if file is not None:
                self._state.meet(position, file)
                self.report.known += 1
                continue
            yield Pending(position, entry if self._settling is None else self._settling.hold(entry))

    def _frames(self, decoded: Iterable[Decoded]) -> Iterator[tuple[Pending, Decoded]]:
        """Yield the frames of each file with the file: they come in the order in which the files were given."""
        for frame in decoded:
            file = self._waiting.popleft() if frame.last else self._waiting[0]
            yield file, self._settled(frame)

    def _settled(self, frame: Decoded) -> Decoded:
        """Return a slice of a study that is still arriving as one that is skipped, others as they are."""
        return frame if self._settling is None else self._settling.hold_back(frame)

    def _score(self, batch: Batch, inferred: Inferred) -> Iterator[Row]:
        """Score a batch, and give the state the files that are thereby complete."""
        pictures = self._job.pictures
        self._use(inferred.engine)
        for (file, decoded), logit, activation in zip(batch, inferred.logits, inferred.maps, strict=True):
            scored = _with_logit(decoded, logit if decoded.status == OK else None)
            file.scored.append(scored)
            if decoded.last:
                self._state.add(file.position, file.entry, file.scored)
            if scored[0].status == ERROR:
                _log.info("error: %s: %s", decoded.path, scored[0].reason)
            row = _row(*scored, self._job)
            if row.flag and pictures is not None and decoded.image is not None and activation is not None:
                pictures.take(row, decoded.image, activation)
            yield row


def infer(
    engine: Engine, frames: Sequence[Decoded], *, with_maps: bool
) -> tuple[list[float | None], list[NDArray[np.float32] | None]]:
    """Return logits, and class activation maps of shape (h, w) if asked for; None for frames without image."""
    images = [frame.image for frame in frames if frame.image is not None]
    logits: Iterator[float] = iter(())
    maps: Iterator[NDArray[np.float32]] = iter(())
    if images and with_maps:
        scores, stacked = engine.logits_and_maps(np.stack(images))
        logits, maps = iter(scores.tolist()), iter(stacked)
    elif images:
        logits = iter(engine.logits(np.stack(images)).tolist())
    there = [frame.image is not None for frame in frames]
    return (
        [next(logits) if image else None for image in there],
        [next(maps) if image and with_maps else None for image in there],
    )


def _in_time(batch: Batch, future: Future[Inferred | None]) -> Iterator[tuple[Batch, Inferred]]:
    """Yield a batch with its logits, unless it was not begun."""
    inferred = future.result()
    if inferred is not None:
        yield batch, inferred


def _batches(frames: Iterable[tuple[Pending, Decoded]], size: int) -> Iterator[Batch]:
    """Yield lists with `size` images each (the last with fewer), and the frames without image that stand between."""
    batch: Batch = []
    images = 0
    for item in frames:
        batch.append(item)
        images += item[1].image is not None
        if images == size or len(batch) >= 64 * size:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _with_logit(decoded: Decoded, logit: float | None) -> Scored:
    """Let go of the image; a logit that is no number makes the slice an error."""
    if logit is None or math.isfinite(logit):
        return replace(decoded, image=None), logit
    reason = f"the network returned {logit}"
    return replace(decoded, image=None, status=ERROR, reason=reason, passing=True), None


def _row(decoded: Decoded, logit: float | None, job: Job) -> Row:
    model = job.model.card.name
    if logit is None:
        return Row(decoded, None, None, model)
    probability = to_probability(logit, job.options.calibration)
    return Row(decoded, probability, probability >= job.options.threshold, model)


def settings_key(job: Job, engine: Mapping[str, str]) -> str:
    """Return all that a logit depends on, besides the file: what was scored by another key is scored again."""
    decoding = job.options.decoding
    key = {
        "weights": job.model.card.sha256,
        "preprocessing": PREPROCESSING_VERSION,
        "input": asdict(decoding.spec),
        "png_window": decoding.png_window,
        "repair_12_bit": decoding.repair_12_bit,
        "engine": engine.get("name"),
        "precision": engine.get("precision"),
    }
    return json.dumps(key, sort_keys=True)


def run_record(report: Report, job: Job, machine: dict[str, object]) -> dict[str, Any]:
    """Return the run record: what ran, with what, on what, and how far it came."""
    elsewhere = job.elsewhere
    # Nodes have batch sizes of their own, which they tell themselves.
    here = {**job.engine.describe(), "batch_size": job.options.batch_size}
    return {
        "hemoscan": __version__,
        "notice": NOTICE,
        "model": job.model.card.name,
        "sha256": job.model.card.sha256,
        "threshold": job.options.threshold,
        "calibration": None if job.options.calibration is None else asdict(job.options.calibration),
        "study_threshold": job.options.study_threshold,
        "arguments": job.arguments,
        "engine": {
            **(here if elsewhere is None else elsewhere.engines()[0]),
            "notes": getattr(job.engine, "notes", []),
        },
        **({} if elsewhere is None else {"ray": elsewhere.describe()}),
        "machine": machine,
        "counts": {"files": report.files, **report.counts, "flagged": report.flagged},
        "of_these": {"files_known": report.known, "slices_scored": report.scored, "files_pruned": report.pruned},
        "started": report.started.isoformat(timespec="seconds"),
        "finished": None if report.state == RUNNING else datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(report.seconds, 3),
        "state": report.state,
    }
