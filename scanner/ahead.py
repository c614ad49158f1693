"""Decoding ahead of inference: a bounded number of files, bytes, and frames of a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from hemoscan.isolation import BYTES_PER_TASK, FILES_PER_TASK, DecoderOptions, DecoderPool
from hemoscan.slices import Decoded
from hemoscan.sources import Entry

# Workers decode while the engine is loaded, which takes a second.
FILES_AHEAD_PER_WORKER = 64
BYTES_AHEAD = 512 * 2**20
# Of a file: a small one may unpack to thousands, all of which would wait in memory.
FRAMES_AHEAD = 64

Item = TypeVar("Item")


def chunks(
    items: Iterable[Item], files: int, entry_of: Callable[[Item], Entry], most: int = BYTES_PER_TASK
) -> Iterator[list[Item]]:
    """Yield what a worker is given at a time: several small files, since each task has a cost of its own."""
    chunk: list[Item] = []
    held = 0
    for item in items:
        size = entry_of(item).size
        if chunk and (len(chunk) == files or held + size > most):
            yield chunk
            chunk, held = [], 0
        chunk.append(item)
        held += size
    if chunk:
        yield chunk


def in_parts(options: DecoderOptions) -> DecoderOptions:
    """Return the options for a pool whose tasks leave the later frames of a file to others: see `whole`."""
    return replace(options, decoding=replace(options.decoding, most_frames=FRAMES_AHEAD))


def decode_ahead(entries: Iterator[Entry], options: DecoderOptions, batch_size: int) -> Generator[Decoded, None, None]:
    """Decode in worker processes, a bounded number of files and bytes ahead, and yield in the entries' order."""
    files_ahead = max(options.workers * FILES_AHEAD_PER_WORKER, 2 * batch_size)
    waiting: deque[tuple[list[Entry], Future[list[Decoded]]]] = deque()
    with DecoderPool(in_parts(options)) as pool:
        for chunk in chunks(entries, FILES_PER_TASK if options.workers else 1, lambda entry: entry):
            waiting.append((chunk, pool.submit(chunk)))
            while sum(len(chunk) for chunk, _ in waiting) >= files_ahead or _bytes_held(waiting) > BYTES_AHEAD:
                yield from whole(pool, *waiting.popleft())
        while waiting:
            yield from whole(pool, *waiting.popleft())


def whole(pool: DecoderPool, entries: Sequence[Entry], future: Future[list[Decoded]]) -> Iterator[Decoded]:
    """Yield what became of entries, with the frames that their task left for others.

    The next frames of a file are decoded while those before are scored: of a file, two parts are held at most.
    """
    parts = split_after(future.result(), lambda frame: frame.last or frame.more is not None)
    for entry, part in zip(entries, parts, strict=True):
        frames = part
        while frames:
            more = frames[-1].more
            following = None if more is None else pool.submit([replace(entry, frames_done=more)])
            yield from frames
            frames = [] if following is None else following.result()


def split_after(frames: Iterable[Decoded], ends: Callable[[Decoded], bool]) -> Iterator[list[Decoded]]:
    """Yield the frames in parts, each up to the frame that ends it."""
    part: list[Decoded] = []
    for frame in frames:
        part.append(frame)
        if ends(frame):
            yield part
            part = []
    if part:
        yield part


def _bytes_held(tasks: Iterable[tuple[list[Entry], Future[list[Decoded]]]]) -> int:
    """Return the bytes that tasks take: their files', or when they are done their images'."""
    held = 0
    for entries, future in tasks:
        if future.done() and not future.exception():
            held += sum(decoded.image.nbytes for decoded in future.result() if decoded.image is not None)
        else:
            held += sum(entry.size for entry in entries)
    return held
