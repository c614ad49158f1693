"""Slices per second of decoding alone, by compression: in threads of one process, and in isolated worker processes.

usage: python tests/benchmarks/decoding.py [--slices 200] [--workers 2]

Slices are 512 x 512, 16 bits, all different (a synthetic head and noise), and are read from files. Starting the workers
is not counted; each way decodes the same files three times and its fastest time counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

sys.path.insert(0, str(Path(__file__).parents[1]))
from factories import make_ct, to_bytes, transcode

from hemoscan.card import BRAIN
from hemoscan.decode import DecodeOptions, decode
from hemoscan.isolation import FILES_PER_TASK, DecoderOptions, DecoderPool
from hemoscan.phantom import make_phantom
from hemoscan.sources import Entry, Reader, find_entries

SYNTAXES: dict[str, UID] = {
    "uncompressed": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
OPTIONS = DecodeOptions(BRAIN)
REPEATS = 3


def write_slices(folder: Path, syntax: UID, count: int) -> list[Entry]:
    """Write slices that differ from each other."""
    heads = make_phantom(size=512, slices=8).hu
    random = np.random.default_rng(0)
    for number in range(count):
        noisy = heads[number % len(heads)] + random.normal(0, 8, heads.shape[1:])
        hu = np.clip(np.round(noisy), -1024, 3071).astype(np.int64)
        (folder / f"{number:04d}.dcm").write_bytes(to_bytes(transcode(make_ct(hu), syntax)))
    return list(find_entries([folder]))


def fastest(run: Callable[[], int], slices: int) -> float:
    """Return slices per second of the fastest of some runs."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        if run() != slices:
            raise SystemExit("not every slice was decoded")
        times.append(time.perf_counter() - started)
    return slices / min(times)


def in_threads(entries: list[Entry], workers: int) -> float:
    def run() -> int:
        with Reader() as reader, ThreadPoolExecutor(workers) as pool:
            return sum(
                found[0].status == "ok" for found in pool.map(lambda entry: decode(entry, reader, OPTIONS), entries)
            )

    return fastest(run, len(entries))


def in_workers(entries: list[Entry], workers: int, files: int) -> float:
    tasks = [entries[i : i + files] for i in range(0, len(entries), files)]
    with DecoderPool(DecoderOptions(OPTIONS, workers)) as pool:

        def run() -> int:
            futures = [pool.submit(task) for task in tasks]
            return sum(found.status == "ok" for future in futures for found in future.result())

        run()
        return fastest(run, len(entries))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    workers = options.workers
    ways = ("1 thread", f"{workers} threads", f"{workers} workers, 1 file a task", f"{workers} workers")
    print(f"slices/s, {options.slices} slices of 512 x 512, fastest of {REPEATS}; {FILES_PER_TASK} files a task\n")
    print("| |" + " | ".join(ways) + f" | workers / threads |\n|---|{'---|' * (len(ways) + 1)}")
    for name, syntax in SYNTAXES.items():
        with tempfile.TemporaryDirectory() as folder:
            entries = write_slices(Path(folder), syntax, options.slices)
            rates = (
                in_threads(entries, 1),
                in_threads(entries, workers),
                in_workers(entries, workers, 1),
                in_workers(entries, workers, FILES_PER_TASK),
            )
        figures = " | ".join(f"{rate:.0f}" for rate in rates)
        print(f"| {name} | {figures} | {rates[3] / rates[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
