"""Slices per second of decoding alone: by compression, in threads and in workers; and JPEG 2000 by decoder.

usage: python tests/benchmarks/decoding.py [--slices 200] [--workers 2] [--parts syntaxes,decoders]
                                           [--write docs/performance.md]

Slices are 512 x 512, 16 bits, all different (a synthetic head and noise). The first table reads them from files and
brings them to the model's input; starting the workers is not counted. Each way decodes the same slices three times and
its fastest time counts. The second table decodes frames in memory, with what pydicom offers and with imagecodecs where
that is installed, by CPU time: in a scan no core is free for a decoder's further threads.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from performance import machine_line, table, write_section
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEG2000Lossless
from speed_slices import FORMATS, make_ct, make_slice, slices, transcode

from hemoscan.card import find_model
from hemoscan.decode import DecodeOptions, decode
from hemoscan.dicom import configure_pydicom
from hemoscan.isolation import FILES_PER_TASK, DecoderOptions, DecoderPool
from hemoscan.machine import version_of
from hemoscan.sources import Entry, Reader, find_entries

REPEATS = 3
DECODED_SLICES = 8
# pydicom's names of its plugins, and the packages behind them.
PLUGINS = {"pylibjpeg": "pylibjpeg-openjpeg", "gdcm": "python-gdcm", "pillow": "pillow"}
Decoder = Callable[[Dataset, bytes], NDArray[np.number]]


@dataclass(frozen=True)
class Slice:
    """A slice in JPEG 2000."""

    stored: NDArray[np.int64]
    dataset: Dataset
    frame: bytes


def fastest(run: Callable[[], int], count: int) -> float:
    """Return slices per second of the fastest of some runs."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        if run() != count:
            raise SystemExit("not every slice was decoded")
        times.append(time.perf_counter() - started)
    return count / min(times)


def in_threads(entries: list[Entry], options: DecodeOptions, workers: int) -> float:
    def run() -> int:
        with Reader() as reader, ThreadPoolExecutor(workers) as pool:
            return sum(
                found[0].status == "ok" for found in pool.map(lambda entry: decode(entry, reader, options), entries)
            )

    return fastest(run, len(entries))


def in_workers(entries: list[Entry], options: DecodeOptions, workers: int, files: int) -> float:
    tasks = [entries[i : i + files] for i in range(0, len(entries), files)]
    with DecoderPool(DecoderOptions(options, workers)) as pool:

        def run() -> int:
            futures = [pool.submit(task) for task in tasks]
            return sum(found.status == "ok" for future in futures for found in future.result())

        run()
        return fastest(run, len(entries))


def by_syntax(model: str, count: int, workers: int) -> str:
    options, rows = DecodeOptions(find_model(model).card.input), []
    for name in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            entries = list(find_entries([slices(Path(folder), name, count)]))
            rates = [
                in_threads(entries, options, 1),
                in_threads(entries, options, workers),
                in_workers(entries, options, workers, 1),
                in_workers(entries, options, workers, FILES_PER_TASK),
            ]
        rows.append([name, *(f"{rate:.0f}" for rate in rates), f"{rates[3] / rates[1]:.2f}"])
        print(rows[-1], flush=True)
    ways = ["1 thread", f"{workers} threads", f"{workers} workers, 1 file a task", f"{workers} workers"]
    return f"""Slices/s from file to the input of {model}, {count} slices, the fastest of {REPEATS} runs. A scan decodes
as in the last column but one: in workers, since a decoder that crashes would end the whole scan in a thread;
{FILES_PER_TASK} files a task, since each task has a cost of its own.

{table(["format", *ways, "workers / threads"], rows)}
"""


def jpeg_2000(signed: int) -> list[Slice]:
    found = []
    for number in range(0, 3 * DECODED_SLICES, 3):
        hu = make_slice(number)
        intercept = 0 if signed else -1024
        dataset = transcode(make_ct(hu, PixelRepresentation=signed, RescaleIntercept=intercept), JPEG2000Lossless)
        found.append(Slice(hu - intercept, dataset, get_frame(dataset.PixelData, 0, number_of_frames=1)))
    return found


def decoders() -> dict[str, Decoder]:
    """Return what decodes JPEG 2000, by its name for the table."""

    def plugin(name: str) -> Decoder:
        return lambda dataset, frame: pixel_array(dataset, decoding_plugin=name)

    found = {f"{package} {version_of(package)}": plugin(name) for name, package in PLUGINS.items()}
    if find_spec("imagecodecs"):
        import imagecodecs

        for threads in (1, 2):
            found[f"imagecodecs {imagecodecs.__version__}, {threads} threads of its own"] = (
                lambda dataset, frame, threads=threads: imagecodecs.jpeg2k_decode(frame, numthreads=threads)
            )
    return found


def measure_decoder(decoder: Decoder, found: list[Slice]) -> tuple[float, bool]:
    """Return CPU ms a slice, the mean of each slice's fastest decoding, and whether all values are right."""
    times, exact = [], True
    for slice_ in found:
        seconds = []
        for _ in range(REPEATS):
            started = time.process_time()
            decoded = decoder(slice_.dataset, slice_.frame)
            seconds.append(time.process_time() - started)
        times.append(min(seconds))
        exact = exact and bool(np.array_equal(decoded.astype(np.int64), slice_.stored))
    return 1000 * float(np.mean(times)), exact


def by_decoder() -> str:
    samples = {"unsigned": jpeg_2000(0), "signed": jpeg_2000(1)}
    size = np.mean([len(slice_.frame) for slice_ in samples["unsigned"]]) / 1024
    rows = []
    for name, decoder in decoders().items():
        figures = []
        for found in samples.values():
            try:
                milliseconds, exact = measure_decoder(decoder, found)
                figures += [f"{milliseconds:.1f}", "yes" if exact else "no"]
            except Exception as error:  # what a decoder cannot do is a result, too
                figures += [type(error).__name__, "no"]
        rows.append([name, *figures])
        print(rows[-1], flush=True)
    header = ["decoder", "unsigned, CPU ms", "exact", "signed, CPU ms", "exact"]
    return f"""JPEG 2000 lossless, 512 x 512 in 16 bits, {size:.0f} KiB a slice on average: CPU time, the mean over
{DECODED_SLICES} slices of the fastest of {REPEATS} decodings. All are OpenJPEG underneath. A scan takes the first.

{table(header, rows)}
"""


PARTS = ("syntaxes", "decoders")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="densenet-bias")
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    configure_pydicom()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    parts = []
    if "decoders" in options.parts:
        parts.append(by_decoder())
    if "syntaxes" in options.parts:
        parts.append(by_syntax(options.model, options.slices, options.workers))
    command = f"--slices {options.slices} --workers {options.workers} --parts {options.parts}"
    text = f"""## Decoding
`python tests/benchmarks/decoding.py {command} --write docs/performance.md`: {machine_line()};
load average {load:.1f} before the start: so many other processes wanted the cores.

{chr(10).join(parts)}"""
    print(text)
    if options.write:
        write_section(options.write, "decoding", text)


if __name__ == "__main__":
    main()
