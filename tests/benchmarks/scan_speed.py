"""The whole scan beside what users have today, the bare engine, and what the machine's arithmetic allows.

usage: python tests/benchmarks/scan_speed.py [--model NAME] [--parts start,first,formats,growth] [--slices 500]
                                             [--formats uncompressed,...] [--growth 500,2000,8000] [--rounds 3]
                                             [--work FOLDER] [--prepare] [--write docs/performance.md]

Every way is a process of its own, and its time is the whole process's: starting, importing and loading included. The
bare engine's is that of inference alone. Slices are 512 x 512, no two alike: a synthetic head with noise of its own.
MONAI is measured where it is installed. Each part is written as soon as it is measured, and with each format and size,
so that a run that is ended early keeps what it has.

--work: keep the slices there, and take them from there; --prepare: only make them, minutes that need no quiet machine.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from performance import machine_line, table, write_section
from speed_processes import Ran, first_results, run, scan_command
from speed_slices import FORMATS, slices

from hemoscan.card import Model, find_model
from hemoscan.machine import usable_cores

PEERS = Path(__file__).with_name("peer_pipelines.py")
BARE_SLICES = 256
MANY = 100_000
LINKS = 1000
BARE = """
import sys, time
import numpy as np
from hemoscan.card import find_model
from hemoscan.engines import choose_engine
model = find_model(sys.argv[1])
images = np.load(sys.argv[2])
choice = choose_engine(device="cpu")
engine = choice.load(model)
engine.logits(images[:16])
started, used = time.perf_counter(), time.process_time()
for at in range(0, len(images), 64):
    engine.logits(images[at : at + 64])
print(time.perf_counter() - started, time.process_time() - used, choice.name, choice.precision)
"""


@dataclass
class Benchmark:
    """What is measured, and where it goes."""

    model: str
    slices: int
    formats: list[str]
    growth: list[int]
    rounds: int
    work: Path
    """Folder of the slices."""
    outputs: Path
    """Folder of what the ways write."""
    write: Path | None
    numbers: Iterator[int] = field(default_factory=itertools.count)
    """Of the outputs: no two scans share one, so none finds what another knows."""
    load: float = field(default_factory=lambda: os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan"))

    def publish(self, section: str, text: str) -> None:
        print(text, flush=True)
        if self.write:
            write_section(self.write, section, text)

    def head(self, part: str, more: str = "") -> str:
        """Return the line that says by what and on what a section was measured."""
        command = f"--parts {part} --model {self.model} --rounds {self.rounds}{more}"
        return f"""`python tests/benchmarks/scan_speed.py {command} --write docs/performance.md`:
{machine_line()}; load average {self.load:.1f} before the
start: so many other processes wanted the cores."""

    def command(self, folder: Path, output: Path) -> list[str | Path]:
        return scan_command(folder, self.model, output)

    def scan(self, folder: Path, output: Path, count: int) -> Ran:
        """Scan; raises SystemExit unless every slice has a score."""
        ran = run(self.command(folder, output))
        if scored(output) != count:
            raise SystemExit(f"{output}: {scored(output)} slices of {count} have a score")
        return ran

    def scans(self, folder: Path, count: int, rounds: int) -> tuple[list[Ran], Path]:
        """Scan so many times, each as if for the first time; return what that took, and the last output."""
        found = []
        for _ in range(rounds):
            output = self.outputs / f"{next(self.numbers)}.csv"
            found.append(self.scan(folder, output, count))
            print(f"  {folder.name}: {found[-1]}", flush=True)
        return found, output


def scored(output: Path) -> int:
    """Return how many slices a scan's CSV has scores of."""
    with output.open(encoding="utf-8", newline="") as file:
        return sum(row["status"] == "ok" for row in csv.DictReader(file))


def middle(runs: list[Ran]) -> Ran:
    """Return the run of the median time."""
    return sorted(runs, key=lambda ran: ran.seconds)[len(runs) // 2]


def median_seconds(measure: Callable[[], Ran], rounds: int) -> float:
    return statistics.median(measure().seconds for _ in range(rounds))


def aim(what: str, found: float, *, least: float | None = None, most: float | None = None) -> str:
    """Return a line that says whether an aim is reached."""
    reached = (least is None or found >= least) and (most is None or found <= most)
    bounds = [f"at least {least:g}"] if least is not None else []
    bounds += [f"at most {most:g}"] if most is not None else []
    return f"- {what}: {found:.3g}; aim: {', '.join(bounds)}: {'reached' if reached else 'not reached'}."


@dataclass(frozen=True)
class Bare:
    """The engine alone, on slices in memory."""

    rate: float
    """Slices per second, the median of the rounds."""
    cpu: float
    """CPU seconds a slice, the median of the rounds."""
    name: str
    precision: str


def bare(benchmark: Benchmark) -> Bare:
    """Measure the engine alone, in processes of its own."""
    images, _ = decoded(benchmark, "uncompressed")
    path = benchmark.outputs / "images.npy"
    np.save(path, images)
    rates, costs, name, precision = [], [], "", ""
    for _ in range(benchmark.rounds):
        command = [sys.executable, "-c", BARE, benchmark.model, str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own
        seconds, used, name, precision = done.stdout.split()
        rates.append(len(images) / float(seconds))
        costs.append(float(used) / len(images))
    return Bare(statistics.median(rates), statistics.median(costs), name, precision)


def decoded(benchmark: Benchmark, format_: str) -> tuple[NDArray[np.uint8], float]:
    """Return slices as the network takes them, and the CPU seconds of reading, decoding and preprocessing one."""
    from hemoscan.decode import DecodeOptions, decode
    from hemoscan.sources import Reader, find_entries

    options = DecodeOptions(find_model(benchmark.model).card.input)
    entries = list(find_entries([slices(benchmark.work, format_, benchmark.slices)]))[: BARE_SLICES + 1]
    with Reader() as reader:
        first = [found.image for found in decode(entries[0], reader, options)]  # imports and warms up
        started = time.process_time()
        images = first + [found.image for entry in entries[1:] for found in decode(entry, reader, options)]
        cost = (time.process_time() - started) / max(len(entries) - 1, 1)
    return np.stack(images), cost


def bound(model: Model, precision: str) -> tuple[float, float, float]:
    """Return FLOPs of a slice, FLOP/s of a large product of matrices in that precision, and their ratio, slices/s."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from hemoscan.networks import load_classifier

    size = model.card.input.size
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        load_classifier(model)(torch.zeros(1, size, size))
    flops = counter.get_total_flops()
    side = 2048
    left = torch.randn(side, side, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - started)
    peak = 2 * side**3 / min(seconds)
    return flops, peak, peak / flops


def ways(benchmark: Benchmark, format_: str) -> Iterator[tuple[str, Ran | None]]:
    """Yield the ways of scoring a folder, and how they ran; None for what is not installed."""
    folder = slices(benchmark.work, format_, benchmark.slices)
    model = find_model(benchmark.model)
    card = model.weights_path.with_name(f"{model.card.name}.json")
    peer = (sys.executable, PEERS)
    yield "script", run([*peer, "script", folder, card, benchmark.outputs / "script.csv"])
    monai = find_spec("monai") is not None
    yield "MONAI", run([*peer, "monai", folder, card, benchmark.outputs / "monai.csv"]) if monai else None
    yield "hemoscan scan", middle(benchmark.scans(folder, benchmark.slices, benchmark.rounds)[0])


def measure_formats(benchmark: Benchmark) -> None:
    """Measure every way on every format: section `scan`."""
    base = bare(benchmark)
    print(base, flush=True)
    flops, peak, limit = bound(find_model(benchmark.model), base.precision)
    rows: list[list[str]] = []
    profile: list[list[str]] = []
    aims: list[str] = []
    for format_ in benchmark.formats:
        script = None
        for way, ran in ways(benchmark, format_):
            if ran is None:
                rows.append([format_, way, "not installed", *[""] * 6])
                continue
            script = script or ran
            rate = benchmark.slices / ran.seconds
            shares = [f"{script.seconds / ran.seconds:.2f}", f"{rate / base.rate:.2f}", f"{rate / limit:.2f}"]
            used = [f"{ran.cpu_seconds:.1f}", f"{ran.peak_mib:.0f}"]
            rows.append([format_, way, f"{ran.seconds:.1f}", f"{rate:.1f}", *shares, *used])
            print(rows[-1], flush=True)
        if ran is not None:  # the last way is the scan
            cost, decoding = ran.cpu_seconds / benchmark.slices, decoded(benchmark, format_)[1]
            parts = (cost, base.cpu, decoding, cost - base.cpu - decoding)
            most = usable_cores() / (base.cpu + decoding)
            limits = [f"{most:.1f}", f"{most / base.rate:.2f}"]
            profile.append([format_, *(f"{1000 * part:.1f}" for part in parts), *limits])
            aims += format_aims(format_, script.seconds / ran.seconds, rate / base.rate, most / base.rate)
        more = f" --slices {benchmark.slices} --formats '{','.join(benchmark.formats)}'"
        parts_header = ["format", "CPU ms a slice", "network", "decoding", "the rest"]
        header = ["format", "way", "seconds", "slices/s", "times the script", "of the bare engine", "of the bound"]
        benchmark.publish(
            "scan",
            f"""## The whole scan
{benchmark.head("formats", more)}

{benchmark.slices} slices of 512 x 512 each, no two alike; seconds are of the whole process, start-up included; memory
and CPU seconds are of the process and its children. `hemoscan scan` is the median of the rounds, the others ran once.
Of few slices, starting takes most of the time; where other work shares the machine, compare CPU seconds: the seconds of
one row may hold more of that work than another's. The script: pydicom, torchvision, DataLoader, eager fp32; MONAI:
LoadImage, ScaleIntensityRange, Resize, DataLoader, the same network; both with one loading process a core
(`tests/benchmarks/peer_pipelines.py`).

{table([*header, "CPU s", "peak MiB"], rows)}

- Bare engine ({base.name} {base.precision}) on slices in memory: {base.rate:.1f} slices/s.
- Arithmetic bound: {flops / 1e9:.2f} GFLOP a slice, {peak / 1e9:.0f} GFLOP/s in a product of 2048 x 2048 matrices by
  PyTorch: {limit:.1f} slices/s.

Aims, those on uncompressed DICOM for a processor with bf16; this one computed in {base.precision}:

{chr(10).join(aims) or "None of the formats with an aim was measured."}

Where a scan's processor time goes: the network as the bare engine has it; reading, decoding and preprocessing as a
process alone has them; the rest, start-up included, is what the scan took beyond the two. Network and decoding alone
would leave {usable_cores()} cores that do nothing else the slices/s of the last columns: no scan can have more.

{table([*parts_header, "at most, slices/s", "of the bare engine"], profile)}
""",
        )


def format_aims(format_: str, script: float, share: float, most: float) -> list[str]:
    """Return the lines on a format's aims: times the script, share of the bare engine, and the largest such share."""
    if format_ == "uncompressed":
        return [
            aim("uncompressed, times the script", script, least=5.5),
            aim(f"uncompressed, of the bare engine (network and decoding leave {most:.2f} at most)", share, least=0.85),
        ]
    return [aim("JPEG 2000, times the script", script, least=3)] if format_ == "JPEG 2000" else []


def measure_growth(benchmark: Benchmark) -> None:
    """Scan more and more slices, and each folder again: section `growth`."""
    rows: list[list[str]] = []
    found: dict[int, Ran] = {}
    faster: dict[int, float] = {}
    for count in benchmark.growth:
        folder = slices(benchmark.work, "uncompressed", count)
        # A large folder takes long enough for one round to tell.
        runs, known = benchmark.scans(folder, count, benchmark.rounds if count <= 500 else 1)
        ran = middle(runs)
        again = median_seconds(lambda f=folder, k=known, n=count: benchmark.scan(f, k, n), benchmark.rounds)  # type: ignore[misc]
        found[count] = ran
        faster[count] = ran.seconds / again
        figures = [f"{ran.seconds:.1f}", f"{count / ran.seconds:.1f}", f"{1000 * ran.cpu_seconds / count:.1f}"]
        figures.append(f"{ran.peak_mib:.0f}")
        rows.append([f"{count:,}", *figures, f"{again:.2f}", f"{faster[count]:.0f}"])
        print(rows[-1], flush=True)
        more = f" --growth {','.join(map(str, benchmark.growth))}"
        header = ["slices", "seconds", "slices/s", "CPU ms a slice", "peak MiB", "second scan, s", "times faster"]
        benchmark.publish(
            "growth",
            f"""## More and more slices
{benchmark.head("growth", more)}

Scans of uncompressed DICOM, start-up included, each for the first time and then again with all files known. Memory and
CPU time are of the process and its children.

{table(header, rows)}

{compare(found)}{aim(f"second scan of {count:,} slices, times faster", faster[count], least=50)}
""",
        )


def compare(found: dict[int, Ran]) -> str:
    """Say how the largest scan compares with the one before."""
    if len(found) < 2:
        return ""
    (few, before), (many, last) = list(found.items())[-2:]
    further = (last.cpu_seconds - before.cpu_seconds) / (many - few)
    rate = (many / last.seconds) / (few / before.seconds)
    start = before.cpu_seconds - few * further
    lines = [
        aim(f"throughput at {many:,} slices, of that at {few:,}", rate, least=0.97),
        aim(f"peak memory at {many:,} slices, of that at {few:,}", last.peak_mib / before.peak_mib, most=1.05),
        aim(f"peak memory at {many:,} slices, GB", last.peak_mib * 2**20 / 1e9, most=1.2),
    ]
    return f"""By CPU time, which other work on the machine changes little: {1000 * further:.1f} ms for each slice
beyond {few:,}, and {start:.1f} s that do not depend on how many there are, start-up.

{chr(10).join(lines)}
"""


def measure_start(benchmark: Benchmark) -> None:
    """Measure what a user waits for at least: section `start`."""
    helped = median_seconds(lambda: run([sys.executable, "-m", "hemoscan", "--help"]), 5 * benchmark.rounds)
    one = slices(benchmark.work, "uncompressed", 1)
    found, _ = benchmark.scans(one, 1, 5 * benchmark.rounds)
    times = sorted(ran.seconds for ran in found)
    benchmark.publish(
        "start",
        f"""## Starting
{benchmark.head("start")}

{aim("`hemoscan --help`, s", helped, most=0.25)}
{aim("a scan of one slice, with the model converted, s", statistics.median(times), most=2)}

Medians of {5 * benchmark.rounds} rounds; seconds are of the whole process. The scans took {times[0]:.2f} to
{times[-1]:.2f} s.
""",
    )


def make_many(folder: Path, one: Path, count: int) -> tuple[Path, Path]:
    """Return two folders of so many hard links to copies of a file: in folders of a thousand, and all in one.

    File systems bound the links of a file (ext4: 65,000): each thousand has a copy of its own.
    """
    nested, flat = folder / "nested", folder / "flat"
    flat.mkdir(parents=True)
    for number in range(count):
        part = nested / f"{number // LINKS:03d}"
        first = part / "000.dcm"
        if number % LINKS:
            (part / f"{number % LINKS:03d}.dcm").hardlink_to(first)
        else:
            part.mkdir(parents=True)
            shutil.copyfile(one, first)
        (flat / f"{number:06d}.dcm").hardlink_to(first)
    return nested, flat


def first_of(benchmark: Benchmark, folder: Path) -> str:
    """Return, in words, when scans of a folder have their first results."""
    firsts = []
    for number in range(benchmark.rounds):
        output = benchmark.outputs / f"first-{folder.name}-{number}.csv"
        firsts.append(first_results(benchmark.command(folder, output), output.with_suffix(".sqlite"), output))
        print(firsts[-1], flush=True)
    kept, published = (statistics.median(getattr(first, name) for first in firsts) for name in ("kept", "published"))
    return f"the first slice is scored and kept after {kept:.1f} s, the first CSV is there after {published:.1f} s"


def measure_first(benchmark: Benchmark) -> None:
    """Measure when a scan of a large folder has its first results: section `first`."""
    (one,) = slices(benchmark.work, "uncompressed", 1).iterdir()
    nested, flat = make_many(benchmark.outputs / "many", one, MANY)
    copies = -(-MANY // LINKS)
    benchmark.publish(
        "first",
        f"""## The first results of a large folder
{benchmark.head("first")}

Of {MANY:,} files, hard links to {copies} copies of one slice, start-up included, medians of {benchmark.rounds} rounds:

- in {copies} folders: {first_of(benchmark, nested)};
- in one folder: {first_of(benchmark, flat)}.
""",
    )


PARTS = {"start": measure_start, "first": measure_first, "formats": measure_formats, "growth": measure_growth}


def prepare(benchmark: Benchmark) -> None:
    """Make the slices: the largest folder first, the others are its first ones."""
    sizes = {benchmark.slices, *benchmark.growth}
    for count in sorted(sizes, reverse=True):
        slices(benchmark.work, "uncompressed", count)
    for format_ in benchmark.formats:
        slices(benchmark.work, format_, benchmark.slices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="densenet-bias")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--growth", default="500,2000,8000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    parts = options.parts.split(",")
    if not set(parts) <= set(PARTS):
        raise SystemExit(f"--parts {options.parts}; legal: {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="hemoscan-speed-") as name:
        outputs = Path(name) / "outputs"
        outputs.mkdir()
        growth = [int(count) for count in options.growth.split(",")]
        benchmark = Benchmark(
            options.model,
            options.slices,
            options.formats.split(","),
            growth if "growth" in parts else [],
            options.rounds,
            options.work or Path(name) / "slices",
            outputs,
            options.write,
        )
        benchmark.work.mkdir(exist_ok=True)
        prepare(benchmark)
        if options.prepare:
            return
        benchmark.scan(slices(benchmark.work, "uncompressed", 1), outputs / "cold.csv", 1)  # converts the model
        for part, measure in PARTS.items():
            if part in parts:
                measure(benchmark)


if __name__ == "__main__":
    main()
