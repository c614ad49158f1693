"""Decoding and the whole scan by number of worker processes, beside the bare model: where a GPU is fed fast enough.

usage: python tests/benchmarks/workers.py [--device cuda] [--model NAME] [--slices 2000] [--workers 1,2,4,8,16]
                                          [--format uncompressed] [--work FOLDER] [--write docs/performance.md]

The bare model scores batches from memory, of the size that a scan gives it, on the device that a scan would take. The
scan is the whole process, start-up included, and again without what starting took (the run of one slice). The smaller
limit is that of bare model and decoding alone. Written for a GPU; --device cpu tries the same on any machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from performance import machine_line, table, write_section
from scan_speed import scored
from speed_processes import Ran, run, scan_command
from speed_slices import slices

from hemoscan.card import find_model
from hemoscan.decode import DecodeOptions
from hemoscan.isolation import FILES_PER_TASK, DecoderOptions, DecoderPool
from hemoscan.sources import find_entries

ROUNDS = 3
WARM_BATCHES = 3
BARE = """
import sys, time
import numpy as np
from hemoscan.card import find_model
from hemoscan.engines import choose_engine
model = find_model(sys.argv[1])
choice = choose_engine(device=sys.argv[2])
engine = choice.load(model)
batch, count = choice.batch_size, int(sys.argv[3])
size = model.card.input.size
images = np.random.default_rng(0).integers(0, 71, (count, size, size), np.uint8)
for _ in range(int(sys.argv[4])):
    engine.logits(images[:batch])
started = time.perf_counter()
for at in range(0, count, batch):
    engine.logits(images[at : at + batch])
seconds = time.perf_counter() - started
name = choice.device
if choice.device.startswith("cuda"):
    import torch
    name = torch.cuda.get_device_name()
print(seconds, f"{choice.name} {choice.precision}", batch, name, sep="\\t")
"""


def bare(model: str, device: str, count: int) -> tuple[float, str]:
    """Return slices per second, the median of the rounds, and what ran."""
    rates, what = [], ""
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", BARE, model, device, str(count), str(WARM_BATCHES)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own
        seconds, engine, batch, name = done.stdout.strip().split("\t")
        rates.append(count / float(seconds))
        what = f"{engine}, {batch} at a time, {name}"
    return statistics.median(rates), what


def decoding(folder: Path, model: str, workers: int) -> float:
    """Return slices per second of decoding alone, the workers being started."""
    entries = list(find_entries([folder]))
    tasks = [entries[at : at + FILES_PER_TASK] for at in range(0, len(entries), FILES_PER_TASK)]
    with DecoderPool(DecoderOptions(DecodeOptions(find_model(model).card.input), workers)) as pool:
        for future in [pool.submit(task) for task in tasks[:workers]]:
            future.result()
        started = time.perf_counter()
        found = [future.result() for future in [pool.submit(task) for task in tasks]]
        seconds = time.perf_counter() - started
    if any(decoded.status != "ok" for part in found for decoded in part):
        raise SystemExit("not every slice was decoded")
    return len(entries) / seconds


def scan(folder: Path, options: argparse.Namespace, workers: int, output: Path, count: int) -> Ran:
    ran = run([*scan_command(folder, options.model, output, options.device), "--workers", str(workers)])
    if scored(output) != count:
        raise SystemExit(f"{output}: {scored(output)} slices of {count} have a score")
    return ran


def measure(options: argparse.Namespace, work: Path, outputs: Path) -> str:
    """Measure all; return the section of docs/performance.md."""
    count = options.slices
    folder, one = slices(work, options.format, count), slices(work, options.format, 1)
    model, what = bare(options.model, options.device, count)
    scan(one, options, 1, outputs / "cold.csv", 1)  # converts the model, once and for all
    started = statistics.median(scan(one, options, 1, outputs / f"one-{i}.csv", 1).seconds for i in range(ROUNDS))
    rows = []
    for workers in map(int, options.workers.split(",")):
        decoded = decoding(folder, options.model, workers)
        ran = scan(folder, options, workers, outputs / f"{workers}.csv", count)
        limit, whole = min(model, decoded), count / ran.seconds
        more = ["", ""]  # so few slices that starting hides them
        if ran.seconds > started:
            running = count / (ran.seconds - started)
            more = [f"{running:.0f}", f"{running / limit:.2f}"]
        figures = [f"{decoded:.0f}", f"{whole:.0f}", f"{whole / limit:.2f}", *more]
        rows.append([str(workers), *figures, f"{ran.peak_mib:.0f}"])
        print(rows[-1], flush=True)
    header = ["workers", "decoding alone", "scan", "of the smaller limit", "scan without starting"]
    command = f"--device {options.device} --model {options.model} --slices {count} --workers {options.workers}"
    return f"""## By number of workers
`python tests/benchmarks/workers.py {command} --format {options.format} --write docs/performance.md`:
{machine_line()}.

Slices/s of {count} slices of 512 x 512, {options.format}. Bare model ({what}): {model:.0f} slices/s. Starting, taken
from a scan of one slice: {started:.2f} s. The smaller limit is that of bare model and decoding alone (aim on a GPU: 0.8
of it). Memory is of the process and its children, the GPU's own not counted.

{table([*header, "of the smaller limit", "peak MiB"], rows)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="densenet-bias")
    parser.add_argument("--slices", type=int, default=2000)
    parser.add_argument("--workers", default="1,2,4,8,16")
    parser.add_argument("--format", default="uncompressed")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hemoscan-workers-") as name:
        outputs = Path(name) / "outputs"
        outputs.mkdir()
        work = options.work or Path(name) / "slices"
        work.mkdir(exist_ok=True)
        text = measure(options, work, outputs)
    print(text)
    if options.write:
        write_section(options.write, "workers", text)


if __name__ == "__main__":
    main()
