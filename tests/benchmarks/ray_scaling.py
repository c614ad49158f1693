"""What Ray costs and brings on one machine, and what that means for an archive.

    python tests/benchmarks/ray_scaling.py --slices 2000 --rounds 3 --listed 1000000 --write docs/scale.md

Whole processes are timed, in turns. One worker has one thread, and a process that decodes for it. A scan without Ray
and one with a single worker are held to one core, two workers to two, beside a scan without Ray on both. The listing
is synthetic, and workers answer it without reading: what is measured is the scan that lists, hands out, keeps, writes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from performance import machine_line, table
from scan_speed import scored
from speed_processes import POLL_SECONDS, holds_a_slice, scan_command
from speed_slices import slices

ARCHIVE_SLICES = 3e8
ARCHIVE_STUDIES = 1e6
# Assumptions of the plan that nothing here measures.
GPU_SLICES_PER_SECOND = 2000
NODE_CORES = 32
SLICES_PER_STUDY = 300


@dataclass(frozen=True)
class Timed:
    """A scan, from start to end."""

    seconds: float
    first: float
    """Seconds until the state held a slice."""

    def rate_after_first(self, count: int) -> float:
        return count / (self.seconds - self.first)


def time_scan(folder: Path, model: str, output: Path, cores: Sequence[int], *options: str) -> Timed:
    """Scan in a process of its own, held to some cores; raises SystemExit if it fails or lacks a score."""
    command = [*scan_command(folder, model, output), "--threads", "1", "--workers", "1", *options]
    before = psutil.Process().cpu_affinity()
    psutil.Process().cpu_affinity(list(cores))
    try:
        started = time.perf_counter()
        process = subprocess.Popen(command)  # noqa: S603 - our own
    finally:
        psutil.Process().cpu_affinity(before)
    first = None
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        if first is None and holds_a_slice(output.with_suffix(".sqlite")):
            first = time.perf_counter() - started
    seconds = time.perf_counter() - started
    count = len(list(folder.iterdir()))
    if process.returncode or scored(output) != count or first is None:
        raise SystemExit(f"{command}: exit code {process.returncode}")
    return Timed(seconds, first)


class Answers:
    """In place of a worker: says that every file has a slice, without reading it."""

    def __init__(self, *_: object) -> None:
        pass

    def score(self, entries: Sequence[Any]) -> Any:
        from hemoscan.ray_worker import Answer
        from hemoscan.slices import Decoded, Identity

        frames = []
        for entry in entries:
            number = int(Path(entry.path).stem)
            study = f"1.2.826.0.1.3680043.8.498.{number // SLICES_PER_STUDY}"
            identity = Identity(study, f"{study}.1", f"{study}.1.{number}", number, float(number % SLICES_PER_STUDY))
            frames.append([Decoded(entry.path, entry.folder, entry.mtime, 1, identity)])
        engine = {"name": "openvino", "device": "cpu", "precision": "fp32"}
        return Answer(frames, [-3.0] * len(frames), [None] * len(frames), engine)


def listing(count: int) -> Iterator[Any]:
    from hemoscan.sources import Entry

    for number in range(count):
        path = f"/archive/{number // SLICES_PER_STUDY:07d}/{number:09d}.dcm"
        yield Entry(path, 1.7e9, 525_000, mtime_ns=1_700_000_000_000_000_000)


def scan_listing(model_name: str, count: int, folder: Path) -> dict[str, float]:
    """Scan a listing on a cluster of one worker that does not read; return seconds and peak memory of this process."""
    import resource

    from hemoscan import ray_cluster, scan
    from hemoscan.card import find_model
    from hemoscan.decode import DecodeOptions
    from hemoscan.engines import choose_engine
    from hemoscan.ray_worker import Wish, Work
    from hemoscan.results import Results
    from hemoscan.state import State

    setattr(ray_cluster, "Worker", Answers)  # noqa: B010 - mypy
    setattr(scan, "find_entries", lambda paths: listing(count))  # noqa: B010
    model = find_model(model_name)
    decoding = DecodeOptions(model.card.input)
    wish = Wish("auto", "cpu", "auto")
    work = Work(model_name, model.card, wish, decoding, None, None, 60.0, 0.5, None, pictures=False)
    choice = choose_engine(device="cpu")
    engine, _ = choice.make_resilient(model)
    options = scan.ScanOptions(decoding, 0.5, 16, 1)
    with State(folder / "state.sqlite") as state, ray_cluster.ray_cluster("local", work, [folder], None) as cluster:
        job = scan.Job([folder], model, engine, options, {}, elsewhere=cluster)
        report = scan.scan(job, Results(folder / "out.csv"), state)
    if report.counts["ok"] != count:
        raise SystemExit(f"{report.counts['ok']} rows of {count}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"files": count, "seconds": report.seconds, "peak_mib": peak, "under_way": cluster.most_under_way}


def measure_listing(model: str, count: int, work: Path, kept: Path) -> dict[str, float]:
    """Do so in a process of its own, so that its memory is of this alone; keep the figures, or take those kept."""
    figures = kept / f"listed-{count}.json"
    if figures.is_file():
        found: dict[str, float] = json.loads(figures.read_bytes())
        return found
    folder = work / f"listed-{count}"
    folder.mkdir()
    command = [sys.executable, __file__, "--model", model, "--child", str(count), "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own
    found = json.loads(done.stdout.splitlines()[-1])
    figures.write_text(json.dumps(found))
    print(found, flush=True)
    return found


def walk_rate(folder: Path) -> float:
    from hemoscan.sources import find_entries

    started = time.perf_counter()
    count = sum(1 for _ in find_entries([folder]))
    return count / (time.perf_counter() - started)


def plan(rate: float, ceiling: float, file_bytes: float, threads: int) -> str:
    """Return the archive's table, computed from the rate of a node, slices/s, and that of the scan that hands out."""
    per_core = rate / threads
    nodes = [
        (f"{threads} cores, as measured", rate),
        (f"{NODE_CORES} such cores, if they scale as these", per_core * NODE_CORES),
        (f"GPU (not measured: assumes {GPU_SLICES_PER_SECOND:,} slices/s)", float(GPU_SLICES_PER_SECOND)),
    ]
    rows = []
    for name, each in nodes:
        for count in (1, 10, 100):
            total = min(each * count, ceiling)
            hours = ARCHIVE_SLICES / total / 3600
            limit = "nodes" if total < ceiling else "the scan that hands out"
            cells = (f"{total:,.0f}", f"{hours:,.0f}", f"{hours * count:,.0f}", f"{total * file_bytes / 1e6:,.0f}")
            rows.append([name, str(count), *cells, limit])
    return table(["node", "nodes", "slices/s", "hours", "node-hours", "MB/s from storage", "limited by"], rows)


def measure(options: argparse.Namespace, work: Path) -> str:
    load = os.getloadavg()[0]
    folder = slices(options.work or work, "uncompressed", options.slices)
    one = slices(options.work or work, "uncompressed", 1)
    cores = psutil.Process().cpu_affinity() or [0]
    pair = cores[:2]
    time_scan(one, options.model, work / "cold.csv", cores)  # converts the model, once and for all
    ways: list[tuple[str, str, Sequence[int], tuple[str, ...]]] = [
        ("without Ray", "plain", pair[-1:], ()),
        ("`--ray`, 1 worker", "one", pair[-1:], ("--ray",)),
        ("without Ray, `--threads 2 --workers 2`", "both", pair, ("--threads", "2", "--workers", "2")),
        (f"`--ray`, {len(pair)} workers", "two", pair, ("--ray",)),
    ]
    runs: dict[str, list[Timed]] = {key: [] for _, key, _, _ in ways}
    for number in range(options.rounds):  # in turns, so that what else the machine does falls on all of them
        for _, key, where, more in ways:
            output = work / f"{key}-{number}.csv"
            runs[key].append(time_scan(folder, options.model, output, where, *more))
            print(key, runs[key][-1], flush=True)
    if len({path.read_bytes() for key in runs for path in work.glob(f"{key}-?.csv")}) != 1:
        raise SystemExit("the CSVs differ")
    found = {key: sorted(timed, key=lambda each: each.seconds)[len(timed) // 2] for key, timed in runs.items()}
    rows = []
    for name, key, where, _ in ways:
        least, most = min(each.seconds for each in runs[key]), max(each.seconds for each in runs[key])
        figures = (f"{found[key].seconds:.1f}", f"{least:.1f} to {most:.1f}", f"{found[key].first:.1f}")
        rows.append([name, str(len(where)), *figures, f"{found[key].rate_after_first(options.slices):.1f}"])
    kept = options.work or work
    listed = [measure_listing(options.model, count, work, kept) for count in (options.listed // 10, options.listed)]
    size = sum(path.stat().st_size for path in folder.iterdir()) / options.slices
    walked = walk_rate(folder)
    command = f"--model {options.model} --slices {options.slices} --rounds {options.rounds} --listed {options.listed}"
    return section(Measured(command, load, options.slices, rows, found, listed, size, walked))


@dataclass(frozen=True)
class Measured:
    """What the figures are made of."""

    command: str
    load: float
    slices: int
    rows: list[list[str]]
    found: dict[str, Timed]
    listed: list[dict[str, float]]
    size: float
    """Bytes of a slice."""
    walked: float
    """Files per second of the walk."""


def section(measured: Measured) -> str:
    """Return what was measured, and the plan that is computed from it, as Markdown."""
    count, listed, size, walked = measured.slices, measured.listed, measured.size, measured.walked
    plain, one = measured.found["plain"], measured.found["one"]
    rates = {key: timed.rate_after_first(count) for key, timed in measured.found.items()}
    overhead = one.seconds / plain.seconds - 1
    at_8000 = (one.first + 8000 / rates["one"]) / (plain.first + 8000 / rates["plain"]) - 1
    ceiling = listed[-1]["files"] / listed[-1]["seconds"]
    memory = [
        [f"{each['files']:,.0f}", f"{each['seconds']:.0f}", f"{each['peak_mib']:.0f}", f"{each['under_way']:.0f}"]
        for each in listed
    ]
    return f"""## Measured
`python tests/benchmarks/ray_scaling.py {measured.command} --write docs/scale.md`: {machine_line()}; load
average {measured.load:.1f} before the start: so many other processes wanted the cores.

{count} uncompressed slices of 512 x 512; a worker has one thread and one process that decodes. The CSVs are the same
byte for byte. Figures are of the median run; the rate is of the time after its first result.

{table(["scan", "cores", "seconds", "range", "first result, s", "slices/s"], measured.rows)}

- Ray with one worker takes {overhead:+.1%} of the time without, start-up included; of the rate alone
  {rates["plain"] / rates["one"] - 1:+.1%}. Computed for 8,000 slices from rates and first results: {at_8000:+.1%}.
- From one worker to two: {rates["two"] / rates["one"]:.2f} times the slices/s; without Ray, from one core to two,
  {rates["both"] / rates["plain"]:.2f} times.
- The walk finds {walked:,.0f} files/s on this machine's own disk, their heads in its cache.

A listing, each file one slice that is answered without being read, by one worker: memory is the highest of the scan's
own process, `under way` the highest number of files that were handed out and not back.

{table(["files listed", "seconds", "peak MiB", "under way"], memory)}

## The plan of an archive
Computed from the figures above, for {ARCHIVE_STUDIES:,.0f} studies of {ARCHIVE_SLICES:,.0f} slices of
{size / 1e3:,.0f} kB, uncompressed. One scan hands out, keeps and writes at most {ceiling:,.0f} files/s (the larger
listing above); several scans, each of a part of the archive with an output of its own, go beyond. Nothing of this was
run.

{plan(rates["two"], min(ceiling, walked), size, 2)}
"""


def write_between(path: Path, text: str) -> None:
    """Put the text between the page's two marks; raises ValueError if they lack."""
    old = path.read_text(encoding="utf-8")
    new, count = re.subn(
        r"(<!-- begin measured -->\n).*?(<!-- end measured -->)",
        lambda found: f"{found[1]}{text.strip()}\n{found[2]}",
        old,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"{path}: {count} places between <!-- begin measured --> and <!-- end measured -->; legal: 1")
    path.write_text(new, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="densenet-bias")
    parser.add_argument("--slices", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--listed", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, help="Keep slices and figures of listings there, and take them.")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(scan_listing(options.model, options.child, options.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="hemoscan-ray-") as name:
        text = measure(options, Path(name))
    print(text)
    if options.write:
        write_between(options.write, text)


if __name__ == "__main__":
    main()
