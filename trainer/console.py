"""What a training shows on the terminal: progress on stderr, figures on stdout."""

from __future__ import annotations

import sys
from typing import Any

import click
from tqdm import tqdm


def format_metrics(name: str, split: str, metrics: dict[str, Any]) -> str:
    """Return the figures of one model on a split as a table of at most 80 columns."""
    balanced = metrics.get("auc_group_balanced")
    lines = [
        f"{name} on {metrics['n']} {split} slices, {metrics['positives']} positive",
        f"  AUC {metrics['auc']:.4f}   AP {metrics['average_precision']:.4f}   "
        f"AUC with groups balanced {'-: a single group' if balanced is None else format(balanced, '.4f')}",
    ]
    for title, key in (("at 0.5", "at_0.5"), ("cross-fitted", "at_cross_fitted_threshold")):
        found = metrics.get(key)
        if not found:
            lines.append(f"  {title:<13}-: positives of one cluster alone")
            continue
        figures = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "F1": "f1"}
        texts = (f"{words} {_figure(found.get(name))}" for words, name in figures.items())
        lines.append(f"  {title:<13}{'  '.join(texts)}")
        lines.append(
            f"  {'':<13}TP {found['true_positives']}  FP {found['false_positives']}  "
            f"FN {found['false_negatives']}  TN {found['true_negatives']}"
        )
    within = [f"{group}: {auc:.3f}" for group, auc in metrics["auc_within_groups"].items()]
    lines.append("  AUC within groups (-1: the small ones)")
    lines += [f"  {'':<13}{'  '.join(within[i : i + 6])}" for i in range(0, len(within), 6)]
    return "\n".join([*lines, f"  threshold with the best F1 on these very slices: {metrics['threshold']:.4f}"])


def _figure(value: float | None) -> str:
    """Return a figure, `-` for 0/0."""
    return "-" if value is None else f"{value:.4f}"


def hide_progress(quiet: bool) -> bool | None:
    """Return tqdm's `disable`: None leaves it to whether stderr is a terminal, which cron's is not."""
    return True if quiet or sys.stderr is None else None


def reading_bar(quiet: bool, unit: str) -> Any:
    """Return what wraps slices or files while they are read."""
    return lambda rows: tqdm(rows, desc="reading", unit=f" {unit}", disable=hide_progress(quiet))


class Bars:
    """A progress bar an epoch, and a line on stderr at its end."""

    def __init__(self, title: str, quiet: bool) -> None:
        self.title, self.quiet = title, quiet
        self.bar: Any = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Show a step: see `hemoscan.trainer.train.Progress`."""
        if self.bar is None:
            self.bar = tqdm(total=steps, desc=f"{self.title} epoch {epoch + 1}", disable=hide_progress(self.quiet))
        self.bar.n = step
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self.bar.update(0)

    def epoch(self, record: dict[str, Any]) -> None:
        """Show the end of an epoch."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None
        found = record["validation"]
        fitted = found["at_cross_fitted_threshold"]
        click.echo(
            f"{self.title} epoch {record['epoch']}: loss {record['loss']:.4f}, validation AUC {found['auc']:.4f}, "
            f"AP {found['average_precision']:.4f}, F1 {_figure(fitted and fitted['f1'])}, "
            f"{record['seconds']:.0f} s",
            err=True,
        )
