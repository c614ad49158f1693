"""How far each engine and precision is from PyTorch in fp32, on the validation slices of the data set.

usage: python tests/benchmarks/parity.py DATA [--model NAME] [--limit N] [--bf16-limit N] [--write docs/performance.md]

--bf16-limit: slices for bf16, which a processor without it emulates many times more slowly than fp32.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from performance import machine_line, table, write_section
from sklearn.metrics import roc_auc_score

from hemoscan.card import Card, find_model
from hemoscan.engines import choose_engine
from hemoscan.errors import OptionError
from hemoscan.exporting import calibrated
from hemoscan.trainer.data import load_splits

REFERENCE = ("torch", "fp32")
OTHERS = (("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"))
HEADER = ["engine", "precision", "slices", "max abs dp", "mean abs dp", "flips", "AUC", "AUC difference"]


def weights_line(card: Card) -> str:
    """Return which weights were measured, and how their logits are read."""
    found = card.calibration
    read = (
        "no calibration" if found is None else f"calibrated, slope {found.slope:.4f}, intercept {found.intercept:.4f}"
    )
    return f"weights of {card.name}, SHA-256 {card.sha256[:12]}..., {read}"


def score(model_name: str, engine: str, precision: str, images: np.ndarray) -> np.ndarray:
    """Return calibrated probabilities on the CPU, sixteen slices at a time."""
    model = find_model(model_name)
    loaded = choose_engine(engine, "cpu", precision).load(model, print)
    started = time.monotonic()
    parts = [calibrated(loaded.logits(images[at : at + 16]), model.card) for at in range(0, len(images), 16)]
    print(f"{engine} {precision}: {len(images)} slices in {time.monotonic() - started:.0f} s", flush=True)
    return np.concatenate(parts)


def compare(reference: np.ndarray, found: np.ndarray, labels: np.ndarray, threshold: float) -> list[str]:
    """Return a row's figures, those of `found` beside those of `reference`."""
    away = np.abs(found - reference)
    flips = int(((found >= threshold) != (reference >= threshold)).sum())
    auc = roc_auc_score(labels, found)
    difference = auc - roc_auc_score(labels, reference)
    return [str(len(found)), f"{away.max():.1e}", f"{away.mean():.1e}", str(flips), f"{auc:.4f}", f"{difference:+.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="densenet-bias")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--bf16-limit", type=int)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    card = find_model(options.model).card
    _, validation = load_splits(options.data, card.input, limit=options.limit)
    reference = score(options.model, *REFERENCE, validation.images)
    rows = [[*REFERENCE, *compare(reference, reference, validation.labels, card.threshold)]]
    lacking = ""
    for engine, precision in OTHERS:
        count = options.bf16_limit if precision == "bf16" else None
        try:
            found = score(options.model, engine, precision, validation.images[:count])
        except OptionError:
            lacking = f"\n\nNot measured: {engine} in {precision}, which this processor does not compute in."
            continue
        rows.append([engine, precision, *compare(reference[:count], found, validation.labels[:count], card.threshold)])
    limits = (("--limit", options.limit), ("--bf16-limit", options.bf16_limit))
    limit = "".join(f" {name} {value}" for name, value in limits if value)
    text = f"""## Parity of the engines
`python tests/benchmarks/parity.py DATA --model {options.model}{limit} --write docs/performance.md`: {machine_line()};
{weights_line(card)}.

Differences of the probability p, calibrated as a scan's and not rounded, from PyTorch in fp32, on the first validation
slices; flips are slices whose flag differs at the card's threshold, {card.threshold:.4f}. AUC differences are from
PyTorch in fp32 on the same slices.

{table(HEADER, rows)}{lacking}
"""
    print(text)
    if options.write:
        write_section(options.write, "parity", text)


if __name__ == "__main__":
    main()
