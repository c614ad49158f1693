"""Decoding in worker processes: a file that crashes, hangs or bloats a decoder costs its own row, and the run goes on.

Decoders are native code that reads what anybody may have written. Each worker process belongs to a pool of its own
(`pebble.ProcessPool`), which has one task at a time: whatever becomes of the process, its own files alone are to blame.
Small files travel several to a task. Those of a task that is lost are decoded again, each alone in a fresh process, so
that only the one at fault is reported.

Workers read the files themselves and import nothing but the reading side: no torch, which must not be forked either,
hence a fork server that is started apart (Windows has none and spawns each worker).
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hemoscan.decode import DecodeOptions, decode, fail
from hemoscan.errors import DecoderError
from hemoscan.slices import Decoded
from hemoscan.sources import Entry, Reader

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

DEFAULT_FILE_TIMEOUT = 60.0
# A long multi-frame file is given as much time again for each so many bytes.
TIMEOUT_BYTES = 64 * 2**20
# What a worker may allocate beyond what it started with: a file of 2 GiB and its frames fit.
WORKER_BYTES = 4 * 2**30
FILES_PER_TASK = 4
BYTES_PER_TASK = 8 * 2**20
# Native decoders may leak: a worker is replaced after so many tasks.
TASKS_PER_WORKER = 1000
START_SECONDS = 60.0
START_ATTEMPTS = 3
# What a worker is given beyond the limit before it is taken for lost with its pool, or ends itself.
GRACE_SECONDS = 15.0
# What `decode` imports when it needs it: workers are forked with it.
READERS = ("hemoscan.dicom", "hemoscan.raster", "hemoscan.preprocess", "hemoscan.content", "hemoscan.intended")

Decode = Callable[[Entry, Reader, DecodeOptions], list[Decoded]]


@dataclass(frozen=True)
class DecoderOptions:
    """How files are decoded, and within which bounds."""

    decoding: DecodeOptions
    """How files are read."""
    workers: int
    """Worker processes; 0: the calling process itself decodes, and no bound but those of the files' sizes holds."""
    file_timeout: float = DEFAULT_FILE_TIMEOUT
    """Seconds that a file may take, and as many again for each 64 MiB of it."""
    worker_bytes: int = WORKER_BYTES
    """Memory that decoding may take in a worker. Enforced on Linux."""

    def seconds_for(self, entries: Sequence[Entry]) -> float:
        """Return how long a task of these entries may take: as long as one of them may, alone."""
        return self.file_timeout * (1 + max(entry.size for entry in entries) // TIMEOUT_BYTES)


class _LostError(Exception):
    """A task ended without result; the text says why."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class DecoderPool:
    """Decodes files in worker processes. A context manager: leaving it ends the workers, whatever they do."""

    def __init__(self, options: DecoderOptions, decode: Decode = decode) -> None:
        self._options = options
        self._decode = decode
        self._threads = ThreadPoolExecutor(max(options.workers, 1), thread_name_prefix="decoder")
        self._local = threading.local()
        self._slots: list[_Slot] = []
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for slot in self._slots:
            slot.stop()
        self._threads.shutdown(cancel_futures=True)
        for slot in self._slots:
            slot.join()

    def submit(self, entries: Sequence[Entry]) -> Future[list[Decoded]]:
        """Decode some entries, in their order. What cannot be decoded, for whatever reason, is in the result.

        The future raises DecoderError if no worker can be started.
        """
        return self._threads.submit(self._run, entries)

    def _run(self, entries: Sequence[Entry]) -> list[Decoded]:
        if self._options.workers == 0:
            from hemoscan.dicom import configure_pydicom  # noqa: PLC0415

            configure_pydicom()
            return decode_all(self._decode, entries, self._options.decoding)
        if not hasattr(self._local, "slot"):
            self._local.slot = _Slot(self._options, self._decode, self._closed)
            self._slots.append(self._local.slot)
        slot: _Slot = self._local.slot
        return slot.decode(entries)


class _Slot:
    """One worker process at a time with one task at a time, used by one thread."""

    def __init__(self, options: DecoderOptions, decode: Decode, closed: threading.Event) -> None:
        self._options = options
        self._decode = decode
        self._closed = closed
        self._pool: ProcessPool | None = None
        self._future: ProcessFuture[list[Decoded]] | None = None

    def decode(self, entries: Sequence[Entry]) -> list[Decoded]:
        """Decode entries; if the task is lost, each alone. A crash is believed when it happens twice."""
        try:
            return self._attempt(entries)
        except _LostError as lost:
            if len(entries) == 1 and lost.timed_out:
                return [fail(entries[0], str(lost), passing=True)]
        return [decoded for entry in entries for decoded in self._alone(entry)]

    def _alone(self, entry: Entry) -> list[Decoded]:
        try:
            return self._attempt([entry])
        except _LostError as lost:
            return [fail(entry, str(lost), passing=lost.timed_out)]

    def _attempt(self, entries: Sequence[Entry]) -> list[Decoded]:
        pool = self._started()
        seconds = self._options.seconds_for(entries)
        task = (self._decode, entries, self._options.decoding, seconds)
        try:
            self._future = pool.schedule(decode_all, args=task, timeout=seconds)
            if self._closed.is_set():  # before the future was there to be cancelled
                self._future.cancel()
            return self._future.result(seconds + GRACE_SECONDS)
        except CancelledError:
            raise
        except Exception as error:
            self.stop()
            self._discard()
            raise _lost(error, seconds) from error

    def _started(self) -> ProcessPool:
        """Return the pool, with a worker that is known to run: what happens from then on is the files' doing."""
        for attempt in range(START_ATTEMPTS):
            if self._closed.is_set():
                raise CancelledError
            if self._pool is not None:
                return self._pool
            time.sleep(attempt)
            try:
                self._pool = _start_pool(self._options)
                self._pool.schedule(os.getpid, timeout=START_SECONDS).result(START_SECONDS + GRACE_SECONDS)
            except (OSError, RuntimeError, EOFError) as error:
                cause = error
                self._discard()
        raise DecoderError(f"no decoder process can be started: {cause}") from cause

    def _discard(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            pool.join()

    def stop(self) -> None:
        """Have the task in progress, if any, end without result."""
        if self._future is not None:
            self._future.cancel()
        if self._pool is not None:
            self._pool.stop()

    def join(self) -> None:
        """Wait until the worker has ended."""
        self._discard()


def _start_pool(options: DecoderOptions) -> ProcessPool:
    from pebble import ProcessPool  # noqa: PLC0415 - workers have no use for it before they run

    context = _context(READERS)
    confined = (options.worker_bytes,)
    return ProcessPool(
        max_workers=1, max_tasks=TASKS_PER_WORKER, initializer=_confine, initargs=confined, context=context
    )


def _context(modules: Sequence[str]) -> multiprocessing.context.BaseContext:
    """Return how workers are started: where they can be forked, with these modules."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *modules])
    return context


def _lost(error: Exception, seconds: float) -> _LostError:
    """Say in words what became of a worker."""
    code = getattr(error, "exitcode", None)
    if isinstance(error, TimeoutError) or (code is not None and code == -getattr(signal, "SIGALRM", 0)):
        return _LostError(f"took longer than {seconds:g} s to decode; --file-timeout allows more", timed_out=True)
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return _LostError(f"crashed its decoder ({signal.Signals(-code).name})")
    return _LostError("crashed its decoder")


# What follows runs in the workers.


def decode_all(decode: Decode, entries: Sequence[Entry], options: DecodeOptions, seconds: float = 0) -> list[Decoded]:
    """Decode entries one after the other; what a decoder raises is the row of its file."""
    # Should the parent be gone by then, nobody else ends a decoder that hangs.
    alarm = getattr(signal, "alarm", lambda seconds: None) if seconds else lambda seconds: None
    alarm(int(seconds + GRACE_SECONDS) + 1)
    try:
        return [decoded for entry in entries for decoded in _decode_one(decode, entry, options)]
    finally:
        alarm(0)


def _decode_one(decode: Decode, entry: Entry, options: DecodeOptions) -> list[Decoded]:
    try:
        return decode(entry, _reader(), options)
    except Exception as error:  # such as MemoryError; never a text that may quote a header
        return [fail(entry, f"cannot be read: {type(error).__name__}")]


@functools.cache
def _reader() -> Reader:
    """Return this process's reader, which keeps an archive open from task to task."""
    return Reader()


def _confine(worker_bytes: int) -> None:
    """Bound what this worker may take, and keep it silent: what decoders print may quote a header, so a patient."""
    from hemoscan.dicom import configure_pydicom  # noqa: PLC0415 - the scan itself has no use for it

    configure_pydicom()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the scan ends its workers itself
    if not os.environ.get("HEMOSCAN_DEBUG"):
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(null, descriptor)
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - POSIX only

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the image
        if sys.platform == "linux":  # macOS takes the limit and does not heed it
            _, highest = resource.getrlimit(resource.RLIMIT_AS)
            limit = _address_space() + worker_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit if highest < 0 else min(limit, highest), highest))


def _address_space() -> int:
    """Return the bytes of address space that this process has, on Linux."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGESIZE")
