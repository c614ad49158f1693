"""Run folders as `hemoscan train` leaves them, with drawn logits instead of trainings."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemoscan.trainer.data import DESCRIPTION

RECORD: dict[str, Any] = {
    "format": 1,
    "recipe": "report",
    "data": DESCRIPTION,
    "init": "scratch",
    "input": "brain",
    "reweigh_groups": False,
    "epochs": 7,
    "sizes": [],
    "device": "cpu",
    "precision": "fp32",
    "machine": {"processor": "a processor", "cores": 2},
    "seconds": 90,
    "seed": 0,
}
TEST_IDS = tuple(f"{number:06}" for number in range(17_001, 17_011))


def draw(n: int, seed: int = 0, share: float = 0.2) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float64]]:
    """Draw labels, groups and logits of shape (n,) that tell something about the labels."""
    rng = np.random.default_rng(seed)
    groups = rng.choice([70, 80], n)
    labels = (rng.random(n) < np.where(groups == 80, 1.5 * share, 0.5 * share)).astype(np.uint8)
    labels[:2] = 0, 1
    return labels, groups, rng.normal(2.5 * labels - 2, 1)


def drawn_history(epochs: int) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "size": 224,
            "loss": 0.5 / epoch,
            "seconds": 10.0,
            "validation": {"auc": 0.9 - 0.2 / epoch},
        }
        for epoch in range(1, epochs + 1)
    ]


def write_run(
    folder: Path,
    experiment: str = "densenet-bias",
    split: str = "validation",
    *,
    ids: Sequence[str],
    labels: Iterable[int],
    groups: Iterable[int],
    logits: Iterable[float],
    clusters: Iterable[int] | None = None,
    test_logits: Sequence[float] | None = None,
    **changed: Any,
) -> Path:
    """Write a finished training, as earlier versions did without clusters; return its record's path."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = list(labels)
    record = {
        "experiment": experiment,
        "split": split,
        "n": len(ids),
        "positives": int(sum(labels)),
        **RECORD,
        **changed,
    }
    record.setdefault("history", drawn_history(record["epochs"]))
    path = folder / f"{experiment}.{split}.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    columns: dict[str, Iterable[object]] = {"id": ids, "label": labels, "group": groups, "logit": logits}
    if clusters is not None:
        columns["cluster"] = clusters
    write_csv(path.with_suffix(".csv"), tuple(columns), zip(*columns.values(), strict=True))
    if test_logits is not None:
        ids = TEST_IDS[: len(test_logits)]
        write_csv(path.with_suffix(".test.csv"), ("id", "logit"), zip(ids, test_logits, strict=True))
    return path


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def drawn_run(
    folder: Path, experiment: str = "densenet-bias", n: int = 200, draws: int = 0, first: int = 15_001, **changed: Any
) -> Path:
    """Write a training whose labels, groups and logits are drawn; slices are numbered from `first`."""
    labels, groups, logits = draw(n, draws)
    ids = [f"{first + number:06}" for number in range(n)]
    return write_run(
        folder, experiment, ids=ids, labels=labels.tolist(), groups=groups.tolist(), logits=logits.tolist(), **changed
    )


def drawn_folds(folder: Path, experiment: str = "densenet-bias", folds: int = 3, n: int = 80, **changed: Any) -> None:
    """Write a whole cross-validation."""
    for fold in range(1, folds + 1):
        drawn_run(folder, experiment, n, draws=fold, first=1 + n * fold, split=f"fold{fold}of{folds}", **changed)
