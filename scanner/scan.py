"""One scan: entries are decoded ahead by other processes, scored in batches, written in the order they were met."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hemoscan import NOTICE, __version__
from hemoscan.card import Model
from hemoscan.decode import DecodeOptions
from hemoscan.dicom import configure_pydicom
from hemoscan.errors import OutputError
from hemoscan.isolation import BYTES_PER_TASK, DEFAULT_FILE_TIMEOUT, FILES_PER_TASK, DecoderOptions, DecoderPool
from hemoscan.machine import describe_machine
from hemoscan.results import Results
from hemoscan.slices import ERROR, OK, PROBABILITY_DIGITS, SKIPPED, Decoded, Row
from hemoscan.sources import Entry, find_entries

PUBLISH_SECONDS = 30.0
# Rewriting takes at most one part in so many of the time, however long the files have become.
PUBLISH_SHARE = 20
FILES_AHEAD_PER_WORKER = 8
BYTES_AHEAD = 512 * 2**20


class Engine(Protocol):
    """What scores inputs."""

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return probabilities of shape (n,) for inputs of shape (n, size, size)."""

    def describe(self) -> dict[str, str]:
        """Return name, device and precision, for the run record."""


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
    file_timeout: float = DEFAULT_FILE_TIMEOUT
    """Seconds that decoding a file may take, and as many again for each 64 MiB of it."""


@dataclass
class Report:
    """What a scan did, so far."""

    counts: dict[str, int] = field(default_factory=lambda: {OK: 0, SKIPPED: 0, ERROR: 0})
    """Rows by status."""
    flagged: int = 0
    files: int = 0
    seconds: float = 0.0
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


def scan(job: Job, results: Results, progress: Callable[[Report], None] = lambda report: None) -> Report:
    """Scan and write the results: every 30 s, at the end, and when interrupted.

    Parameters
    ----------
    job
        What to scan, with what.
    results
        Takes the rows.
    progress
        Called after every row.

    Returns
    -------
    Report
        What was done.

    Raises
    ------
    OutputError
        If the results cannot be written.
    """
    configure_pydicom()
    report = Report()
    machine = describe_machine()
    clock = time.monotonic()

    def publish(state: str) -> None:
        report.seconds = time.monotonic() - clock
        results.publish(run_record(report, job, machine, state=state))

    due = clock + PUBLISH_SECONDS
    try:
        with contextlib.closing(_rows(job, report, results.paths)) as rows:
            for row in rows:
                results.add(row)
                report.add(row)
                progress(report)
                if time.monotonic() > due:
                    due = _publish_meanwhile(publish)
    except BaseException:
        with contextlib.suppress(OutputError):  # which would hide the cause
            publish("interrupted")
        raise
    publish("done")
    return report


def _publish_meanwhile(publish: Callable[[str], None]) -> float:
    """Publish during a scan; return when to do so again.

    A failure is not the end: a spreadsheet that has the file open will close it, a share will come back.
    """
    started = time.monotonic()
    with contextlib.suppress(OutputError):
        publish("running")
    ended = time.monotonic()
    return ended + max(PUBLISH_SECONDS, PUBLISH_SHARE * (ended - started))


def _rows(job: Job, report: Report, own: frozenset[str]) -> Generator[Row, None, None]:
    """Yield the rows of what is found, but for the scan's own outputs, which may lie in a scanned folder."""
    options = job.options
    found = (entry for entry in find_entries(job.paths) if entry.path not in own)
    entries = itertools.islice(_counted(found, report), options.limit)
    with contextlib.closing(_decoded(entries, options)) as decoded:
        for batch in _batches(decoded, options.batch_size):
            yield from _score(batch, job)


def _counted(entries: Iterable[Entry], report: Report) -> Iterator[Entry]:
    for entry in entries:
        report.files += 1
        yield entry


def _chunks(entries: Iterable[Entry], files: int) -> Iterator[list[Entry]]:
    """Yield what a worker is given at a time: several small files, since each task has a cost of its own."""
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        if chunk and (len(chunk) == files or size + entry.size > BYTES_PER_TASK):
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += entry.size
    if chunk:
        yield chunk


def _bytes_held(tasks: Iterable[tuple[list[Entry], Future[list[Decoded]]]]) -> int:
    """Return the bytes that tasks take: their files', or when they are done their images'."""
    held = 0
    for entries, future in tasks:
        if future.done() and not future.exception():
            held += sum(decoded.image.nbytes for decoded in future.result() if decoded.image is not None)
        else:
            held += sum(entry.size for entry in entries)
    return held


def _decoded(entries: Iterator[Entry], options: ScanOptions) -> Generator[Decoded, None, None]:
    """Decode in worker processes, a bounded number of files and bytes ahead, and yield in the entries' order."""
    files_ahead = max(options.workers * FILES_AHEAD_PER_WORKER, 2 * options.batch_size)
    waiting: deque[tuple[list[Entry], Future[list[Decoded]]]] = deque()
    decoders = DecoderOptions(options.decoding, options.workers, options.file_timeout)
    with DecoderPool(decoders) as pool:
        for chunk in _chunks(entries, FILES_PER_TASK if options.workers else 1):
            waiting.append((chunk, pool.submit(chunk)))
            while sum(len(chunk) for chunk, _ in waiting) >= files_ahead or _bytes_held(waiting) > BYTES_AHEAD:
                yield from waiting.popleft()[1].result()
        while waiting:
            yield from waiting.popleft()[1].result()


def _batches(decoded: Iterable[Decoded], size: int) -> Iterator[list[Decoded]]:
    """Yield lists with `size` images each (the last with fewer), and whatever rows without image stand between them."""
    batch: list[Decoded] = []
    images = 0
    for item in decoded:
        batch.append(item)
        images += item.image is not None
        if images == size or len(batch) >= 64 * size:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _score(batch: list[Decoded], job: Job) -> Iterator[Row]:
    model = job.model.card.name
    images = [item.image for item in batch if item.image is not None]
    probabilities = iter(job.engine.probabilities(np.stack(images)).tolist() if images else ())
    for item in batch:
        if item.image is None:
            yield Row(item, None, None, model)
            continue
        probability = next(probabilities)
        if math.isfinite(probability):
            # As written, so that the flag is what a reader of the CSV would compute.
            probability = round(probability, PROBABILITY_DIGITS)
            yield Row(item, probability, probability >= job.options.threshold, model)
        else:
            yield Row(
                replace(item, image=None, status=ERROR, reason=f"the network returned {probability}"), None, None, model
            )


def run_record(report: Report, job: Job, machine: dict[str, object], *, state: str) -> dict[str, Any]:
    """Return the run record: what ran, with what, on what, and how far it came."""
    return {
        "hemoscan": __version__,
        "notice": NOTICE,
        "model": job.model.card.name,
        "sha256": job.model.card.sha256,
        "threshold": job.options.threshold,
        "arguments": job.arguments,
        "engine": {**job.engine.describe(), "batch_size": job.options.batch_size},
        "machine": machine,
        "counts": {"files": report.files, **report.counts, "flagged": report.flagged},
        "started": report.started.isoformat(timespec="seconds"),
        "finished": None if state == "running" else datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(report.seconds, 3),
        "state": state,
    }
