"""What heatmaps and thumbnails cost, beside the scan that they are made in.

usage: python tests/benchmarks/heatmaps.py [--model NAME] [--slices 200] [--share 0.1] [--rounds 3]
                                           [--write docs/performance.md]

Scans of the same slices, in one process whose engine is loaded: without pictures, with `--heatmaps`, with `--html`, by
turns. The threshold is such that the share of slices is flagged. What pictures cost is measured in the scans that make
them: the CPU and wall seconds that pass while they are made, writing to the disk included, over what the scan takes
without. Maps themselves come out of OpenVINO with every score, so they cost nothing more; PyTorch's part is told.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from performance import machine_line, table, write_section
from speed_slices import slices

from hemoscan.card import Model, find_model
from hemoscan.decode import DecodeOptions
from hemoscan.engines import choose_engine
from hemoscan.page import Page
from hemoscan.pictures import Pictures
from hemoscan.resilient import Engine
from hemoscan.results import Results
from hemoscan.scan import Job, ScanOptions, scan
from hemoscan.slices import Row
from hemoscan.state import State

WAYS = ("neither", "--heatmaps", "--html")


class Timed(Pictures):
    """Measures what making pictures takes, in the thread that makes them."""

    cpu = wall = 0.0
    made = 0

    def take(self, row: Row, image: NDArray[np.uint8], activation: NDArray[np.float32]) -> None:
        """Make the pictures of a slice."""
        cpu, wall = time.thread_time(), time.perf_counter()
        super().take(row, image, activation)
        self.cpu += time.thread_time() - cpu
        self.wall += time.perf_counter() - wall
        self.made += 1


@dataclass
class Ran:
    """A scan."""

    cpu: float
    """Seconds of the process and its decoders."""
    wall: float
    scores: list[float]
    pictures: Timed | None


def cpu_seconds() -> float:
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


def run(way: str, folder: Path, model: Model, engine: Engine, threshold: float) -> Ran:
    """Scan a folder from nothing, and make the pictures."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        work = Path(name)
        page_path = work / "page.html" if way == "--html" else None
        pictures: Timed | None = None
        if way != "neither":
            heatmaps = work / "maps" if way == "--heatmaps" else None
            pictures = Timed(model.card, model.card.input, heatmaps=heatmaps, page=page_path)
            stack.callback(pictures.close)
        page = None
        if page_path is not None and pictures is not None:
            page = Page(page_path, model.card, threshold, pictures, stale_after=1)
        options = ScanOptions(DecodeOptions(model.card.input), threshold, batch_size=16, workers=2)
        state = stack.enter_context(State(work / "state.sqlite"))
        results = Results(work / "out.csv", page=page)
        arguments: dict[str, Any] = {}
        cpu, wall = cpu_seconds(), time.perf_counter()
        scan(Job([folder], model, engine, options, arguments, pictures=pictures), results, state)
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
        scores = [line.split(",")[7] for line in (work / "out.csv").read_text(encoding="utf-8").splitlines()[1:]]
    return Ran(cpu, wall, [float(score) for score in scores], pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="densenet-bias")
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hemoscan-heatmaps-") as name:
        folder = slices(Path(name), "uncompressed", options.slices)
        text = measure(options, folder)
    print(text)
    if options.write:
        write_section(options.write, "heatmaps", text)


def measure(options: argparse.Namespace, folder: Path) -> str:
    """Measure all; return the section of docs/performance.md."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    model = find_model(options.model)
    choice = choose_engine(device="cpu")
    engine = choice.load(model, print)
    scores = sorted(run("neither", folder, model, engine, 1.0).scores, reverse=True)  # warms up, too
    threshold = scores[max(round(options.share * len(scores)) - 1, 0)]
    found: dict[str, list[Ran]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            found[way].append(run(way, folder, model, engine, threshold))
            print(way, found[way][-1].cpu, found[way][-1].wall, flush=True)
    plain = statistics.median(ran.cpu for ran in found["neither"])
    wall = statistics.median(ran.wall for ran in found["neither"])
    rows = []
    for way in WAYS:
        parts = [ran.pictures for ran in found[way] if ran.pictures is not None]
        rates = [statistics.median(getattr(ran, name) for ran in found[way]) for name in ("cpu", "wall")]
        row = [f"`{way}`" if way.startswith("--") else way, *(f"{1000 * rate / options.slices:.1f}" for rate in rates)]
        if parts:
            cpu, waited = (statistics.median(getattr(part, name) for part in parts) for name in ("cpu", "wall"))
            row += [f"{1000 * cpu / parts[0].made:.1f}", f"{100 * cpu / plain:.1f} %", f"{100 * waited / wall:.1f} %"]
        rows.append(row + [""] * (6 - len(row)))
    made = {part.made for ran in found["--heatmaps"] if (part := ran.pictures)}
    command = f"--model {options.model} --slices {options.slices} --share {options.share:g} --rounds {options.rounds}"
    header = [
        "pictures",
        "scan, CPU ms a slice",
        "wall ms a slice",
        "CPU ms a picture",
        "of the scan's CPU",
        "of its time",
    ]
    flagged = ", ".join(map(str, sorted(made)))
    return f"""## Heatmaps
`python tests/benchmarks/heatmaps.py {command} --write docs/performance.md`:
{machine_line()}; {choice.name} in {choice.precision}; load average {load:.1f} before the start.

{options.slices} slices of 512 x 512, of which {flagged} are flagged and have a picture; medians of {options.rounds}
rounds. The first two columns are of the whole scan, start-up left out. The last three are measured within the scan that
makes the pictures: the seconds in which they are made and written, over those of the scan without. Maps come out of the
inference that makes the score.

{table(header, rows)}
"""


if __name__ == "__main__":
    main()
