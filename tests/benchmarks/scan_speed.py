"""The whole scan beside what users have today, the bare engine, and what the machine's arithmetic allows.

usage: python tests/benchmarks/scan_speed.py [--model NAME] [--slices 500] [--formats uncompressed,...] [--growth]
                                             [--write docs/performance.md]

Every way is a process of its own, and its time is the whole process's: starting, importing and loading included. The
bare engine's is that of inference alone. Slices are 512 x 512, no two alike: a synthetic head with noise of its own.
MONAI is measured where it is installed. --growth: `hemoscan scan` of 500, 2,000 and 8,000 uncompressed slices, too.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
from performance import machine_line, table, write_section
from PIL import Image
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

sys.path.insert(0, str(Path(__file__).parents[1]))
from factories import make_ct, to_bytes, transcode

from hemoscan.card import Model, find_model
from hemoscan.phantom import make_phantom

SYNTAXES: dict[str, UID | None] = {
    "uncompressed": ExplicitVRLittleEndian,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "RLE": RLELossless,
    "PNG": None,
}
GROWTH = (500, 2000, 8000)
NOISE_HU = 8
SAMPLE_SECONDS = 0.2
PEERS = Path(__file__).with_name("peer_pipelines.py")
BARE = """
import sys, time
import numpy as np
from hemoscan.card import find_model
from hemoscan.engines import choose_engine
model = find_model(sys.argv[1])
images = np.load(sys.argv[2])
choice = choose_engine()
engine = choice.load(model)
engine.logits(images[:16])
started = time.perf_counter()
for at in range(0, len(images), 64):
    engine.logits(images[at : at + 64])
print(time.perf_counter() - started, choice.name, choice.precision)
"""


@dataclass
class Ran:
    """A process and its children, from start to end."""

    seconds: float
    peak_mib: float
    """Memory of all of them together, pages that they share counted once where the system tells (PSS on Linux)."""
    cpu_seconds: float
    """Of all of them together, as last seen: other work on the machine delays a process and leaves this as it is."""


def run(command: list[str | Path]) -> Ran:
    """Run a command to its end; raises SystemExit if it fails."""
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = psutil.Popen([str(part) for part in command], stdout=said, stderr=said)
        peak = 0
        cpu: dict[int, float] = {}
        while True:
            try:
                process.wait(SAMPLE_SECONDS)
                break
            except psutil.TimeoutExpired:
                processes = tree(process)
                peak = max(peak, sum(map(memory, processes)))
                cpu |= {each.pid: used for each in processes if (used := cpu_seconds(each))}
        seconds = time.perf_counter() - started
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{command}: exit code {process.returncode}\n{said.read().decode()}")
    return Ran(seconds, peak / 2**20, sum(cpu.values()))


def tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
        return float(used.user + used.system)
    except psutil.Error:
        return 0.0


def memory(process: psutil.Process) -> int:
    try:
        found = process.memory_full_info()
        return int(getattr(found, "pss", found.rss))
    except psutil.Error:
        return 0


def write_slices(folder: Path, syntax: UID | None, count: int) -> None:
    """Write slices that differ from each other; the same in every syntax."""
    folder.mkdir()
    heads = make_phantom("epidural", size=512, slices=24).hu
    for number in range(count):
        random = np.random.default_rng(number)
        noise = random.standard_normal(heads.shape[1:], np.float32) * NOISE_HU
        hu = np.clip(np.rint(heads[number % len(heads)] + noise), -1024, 3071).astype(np.int64)
        path = folder / f"{number:05d}"
        if syntax is None:
            Image.fromarray(np.clip(hu, 0, 80).astype(np.uint8)).save(path.with_suffix(".png"))
        else:
            uid = f"1.2.826.0.1.3680043.8.498.{number // len(heads) + 1}"
            slice_ = make_ct(hu, StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1", SOPInstanceUID=f"{uid}.1.{number}")
            path.with_suffix(".dcm").write_bytes(to_bytes(transcode(slice_, syntax)))


def scan_command(folder: Path, model: str, output: Path) -> list[str | Path]:
    return [
        *(sys.executable, "-m", "hemoscan", "scan", folder, "--model", model, "--device", "cpu", "--quiet"),
        *("--output", output, "--state", output.with_suffix(".sqlite")),
    ]


def scored(output: Path) -> int:
    """Return how many slices a scan's CSV has scores of."""
    with output.open(encoding="utf-8", newline="") as file:
        return sum(row["status"] == "ok" for row in csv.DictReader(file))


def scan(folder: Path, model: str, output: Path, count: int) -> Ran:
    ran = run(scan_command(folder, model, output))
    if scored(output) != count:
        raise SystemExit(f"{output}: {scored(output)} slices of {count} have a score")
    return ran


def bare(model: str, folder: Path, work: Path) -> tuple[float, str]:
    """Return slices per second of the engine on the folder's slices in memory, and its name and precision."""
    from hemoscan.decode import DecodeOptions, decode
    from hemoscan.sources import Reader, find_entries

    options = DecodeOptions(find_model(model).card.input)
    with Reader() as reader:
        images = np.stack([found.image for e in find_entries([folder]) for found in decode(e, reader, options)])
    np.save(work / "images.npy", images)
    command = [sys.executable, "-c", BARE, model, str(work / "images.npy")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own
    seconds, name, precision = done.stdout.split()
    return len(images) / float(seconds), f"{name} {precision}"


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
    for _ in range(6):
        started = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - started)
    peak = 2 * side**3 / min(seconds)
    return flops, peak, peak / flops


def median_seconds(command: list[str | Path], rounds: int = 5) -> float:
    return statistics.median(run(command).seconds for _ in range(rounds))


def measure_format(name: str, options: argparse.Namespace, work: Path, base: float) -> tuple[list[list[str]], Ran]:
    """Return the table's rows of one format, and the scan."""
    count, folder = options.slices, work / name.replace(" ", "-")
    write_slices(folder, SYNTAXES[name], count)
    model = find_model(options.model)
    card = model.weights_path.with_name(f"{model.card.name}.json")
    output = work / f"{folder.name}.csv"
    peer, where = (sys.executable, PEERS), (folder, card)
    ways: list[tuple[str, Ran | None]] = [
        ("script", run([*peer, "script", *where, work / "script.csv"])),
        ("MONAI", run([*peer, "monai", *where, work / "monai.csv"]) if find_spec("monai") else None),
        ("hemoscan scan", scan(folder, options.model, output, count)),
    ]
    first = ways[0][1]
    rows = []
    for way, ran in ways:
        if ran is None or first is None:
            rows.append([name, way, "not installed", "", "", "", "", ""])
            continue
        rate = count / ran.seconds
        ratios = [f"{first.seconds / ran.seconds:.2f}", f"{rate / base:.2f}"]
        rows.append(
            [name, way, f"{ran.seconds:.1f}", f"{rate:.1f}", *ratios, f"{ran.cpu_seconds:.1f}", f"{ran.peak_mib:.0f}"]
        )
        print(rows[-1], flush=True)
    assert ways[-1][1] is not None
    return rows, ways[-1][1]


def growth(options: argparse.Namespace, work: Path) -> str:
    """Return a table of scans of more and more slices."""
    rows = []
    for count in GROWTH:
        folder, output = work / f"growth-{count}", work / f"growth-{count}.csv"
        write_slices(folder, ExplicitVRLittleEndian, count)
        ran = scan(folder, options.model, output, count)
        rows.append([f"{count:,}", f"{ran.seconds:.1f}", f"{count / ran.seconds:.1f}", f"{ran.peak_mib:.0f}"])
        print(rows[-1], flush=True)
    return "\n\nGrowth, uncompressed:\n\n" + table(["slices", "seconds", "slices/s", "peak MiB"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="densenet-bias")
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--formats", default=",".join(SYNTAXES))
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hemoscan-speed-") as name:
        text = measure(options, options.formats.split(","), Path(name))
    print(text)
    if options.write:
        write_section(options.write, "scan", text)


def measure(options: argparse.Namespace, formats: list[str], work: Path) -> str:
    """Measure all; return the section of docs/performance.md."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    write_slices(work / "one", ExplicitVRLittleEndian, 1)
    scan(work / "one", options.model, work / "cold.csv", 1)  # converts the model, once and for all
    write_slices(work / "sample", ExplicitVRLittleEndian, min(options.slices, 128))
    base, engine = bare(options.model, work / "sample", work)
    flops, peak, limit = bound(find_model(options.model), engine.split()[1])
    rows, first = [], None
    for format_ in formats:
        found, ran = measure_format(format_, options, work, base)
        rows += found
        first = first or ran
    assert first is not None
    known = work / formats[0].replace(" ", "-")
    again = scan(known, options.model, known.with_suffix(".csv"), options.slices)
    helped = median_seconds([sys.executable, "-m", "hemoscan", "--help"])
    warm = statistics.median(scan(work / "one", options.model, work / f"one-{i}.csv", 1).seconds for i in range(3))
    grown = growth(options, work) if options.growth else ""
    command = f"--model {options.model} --slices {options.slices} --formats '{options.formats}'"
    command += " --growth" if options.growth else ""
    header = ["format", "way", "seconds", "slices/s", "times the script", "of the bare engine", "CPU s", "peak MiB"]
    return f"""## The whole scan
`python tests/benchmarks/scan_speed.py {command} --write docs/performance.md`: {machine_line()}; load
average {load:.1f} before the start: so many other processes wanted the cores.

{options.slices} slices of 512 x 512 each, no two alike; seconds are of the whole process, start-up included; memory and
CPU seconds are of the process and its children. Of few slices, starting takes most of the time; where other work shares
the machine, compare CPU seconds: the seconds of one row may hold more of that work than another's. The script: pydicom,
torchvision, DataLoader, eager fp32; MONAI: LoadImage, ScaleIntensityRange, Resize, DataLoader, the same network; both
with one loading process a core (`tests/benchmarks/peer_pipelines.py`).

{table(header, rows)}

- Bare engine ({engine}) on slices in memory: {base:.1f} slices/s.
- Arithmetic bound: {flops / 1e9:.2f} GFLOP a slice, {peak / 1e9:.0f} GFLOP/s in a product of 2048 x 2048 matrices by
  PyTorch: {limit:.1f} slices/s.
- Second scan of the known folder ({formats[0]}): {again.seconds:.2f} s, {first.seconds / again.seconds:.0f} times
  faster than the first.
- One slice, with the model converted: {warm:.2f} s. `hemoscan --help`: {helped:.2f} s.{grown}
"""


if __name__ == "__main__":
    main()
