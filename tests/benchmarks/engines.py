"""Slices per second of the bare engines on slices in memory, no two alike.

usage: python tests/benchmarks/engines.py [--model NAME] [--slices N] [--rounds N] [--write docs/performance.md]

The engines take turns, so that what else the machine does falls on all of them; a figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from performance import machine_line, table, write_section

from hemoscan.card import find_model
from hemoscan.engines import choose_engine
from hemoscan.errors import OptionError
from hemoscan.networks import load_classifier

BATCH = 16
BASE = "PyTorch eager fp32"
Run = Callable[[np.ndarray], object]


def torch_run(name: str, layout: torch.memory_format) -> Run:
    """Return PyTorch in fp32: in the default layout what a script does, in channels_last what a careful one does."""
    classifier = load_classifier(find_model(name))
    network = classifier.network.to(memory_format=layout)

    @torch.inference_mode()
    def run(images: np.ndarray) -> object:
        return network(classifier.normalise(torch.from_numpy(images)).contiguous(memory_format=layout))

    return run


def runs(name: str) -> dict[str, Run]:
    """Return what this machine can run, by a name for the table."""
    found: dict[str, Run] = {
        BASE: torch_run(name, torch.contiguous_format),
        "PyTorch channels_last fp32": torch_run(name, torch.channels_last),
    }
    for precision in ("fp32", "bf16"):
        try:
            choice = choose_engine("openvino", "cpu", precision)
        except OptionError as error:
            print(error)
            continue
        found[f"OpenVINO {precision}"] = choice.load(find_model(name), print).logits
    return found


def rate(run: Run, images: np.ndarray) -> float:
    """Return slices per second."""
    started = time.perf_counter()
    for at in range(0, len(images), BATCH):
        run(images[at : at + BATCH])
    return len(images) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="densenet-bias")
    parser.add_argument("--slices", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    size = find_model(options.model).card.input.size
    images = np.random.default_rng(0).integers(0, 71, (options.slices, size, size), np.uint8)
    engines = runs(options.model)
    for run in engines.values():
        run(images[:BATCH])  # what is set up at the first use is not the engine's speed
    measured: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(options.rounds):
        for name, run in engines.items():
            measured[name].append(rate(run, images))
    base = statistics.median(measured[BASE])
    rows = []
    for name, rates in measured.items():
        median = statistics.median(rates)
        rows.append([name, f"{median:.1f}", f"{min(rates):.1f} to {max(rates):.1f}", f"{median / base:.2f}"])
    command = f"--model {options.model} --slices {options.slices} --rounds {options.rounds}"
    text = f"""## Bare engines
`python tests/benchmarks/engines.py {command} --write docs/performance.md`: {machine_line()}.

Slices of {size} x {size} in memory, {BATCH} at a time (OpenVINO takes them one a request); the median of the
rounds, and their range.

{table(["engine", "slices/s", "range", "ratio"], rows)}
"""
    print(text)
    if options.write:
        write_section(options.write, "engines", text)


if __name__ == "__main__":
    main()
