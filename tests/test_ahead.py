"""Frames of a large file, decoded in parts: in order, one part ahead of the one that is used, and no further."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

import pytest

from hemoscan.ahead import whole
from hemoscan.slices import Decoded
from hemoscan.sources import Entry

PART = 3


class Pool:
    """Decodes files of so many frames at once, and keeps what was asked for."""

    def __init__(self, frames: dict[str, int]) -> None:
        self.frames = frames
        self.asked: list[tuple[str, int]] = []

    def submit(self, entries: Sequence[Entry]) -> Future[list[Decoded]]:
        future: Future[list[Decoded]] = Future()
        self.asked += [(entry.path, entry.frames_done) for entry in entries]
        future.set_result([decoded for entry in entries for decoded in self.decode(entry)])
        return future

    def decode(self, entry: Entry) -> list[Decoded]:
        count = self.frames[entry.path]
        end = min(entry.frames_done + PART, count)
        blank = Decoded(entry.path, "", None, last=False)
        found = [replace(blank, frame=index + 1) for index in range(entry.frames_done, end)]
        found[-1] = replace(found[-1], last=True) if end == count else replace(found[-1], more=end)
        return found


FILES = {"a": 1, "b": 8, "c": 3, "d": 7}


@pytest.fixture
def pool() -> Pool:
    return Pool(FILES)


def test_frames_come_in_the_order_of_files_and_frames(pool: Pool):
    entries = [Entry(path) for path in FILES]
    found = [(decoded.path, decoded.frame) for decoded in whole(pool, entries, pool.submit(entries))]
    assert found == [(path, frame + 1) for path, count in FILES.items() for frame in range(count)]


def test_the_next_part_is_asked_for_before_the_first_frame_of_this_one_is_used(pool: Pool):
    entries = [Entry("b")]
    frames = whole(pool, entries, pool.submit(entries))
    seen = []
    for decoded in frames:
        seen.append((decoded.frame, pool.asked[-1][1]))
    assert seen == [(1, 3), (2, 3), (3, 3), (4, 6), (5, 6), (6, 6), (7, 6), (8, 6)]


def test_parts_of_a_file_wait_for_those_of_the_files_before(pool: Pool):
    entries = [Entry("b"), Entry("d")]
    frames = whole(pool, entries, pool.submit(entries))
    for _ in range(FILES["b"]):
        next(frames)
    assert pool.asked == [("b", 0), ("d", 0), ("b", 3), ("b", 6)]
