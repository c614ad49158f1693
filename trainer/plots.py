"""The pictures of the experiments: confusion matrices, ROC and precision-recall curves, losses."""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from hemoscan.outputs import write_atomically

# Okabe and Ito's colours, told apart by colour-blind readers, too; yellow is left out, it is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = {"densenet": "-", "resnet": "--", "baseline": ":"}
# Of a single epoch there is no line.
MARKERS = {"-": "o", "--": "s", ":": "."}
PANELS_A_ROW = 4
TITLE_COLUMNS = 30
LEGEND_COLUMNS = 3


@dataclass(frozen=True)
class Curve:
    """Held-out scores of one row."""

    label: str
    """Its first word, up to a hyphen or a colon, is the network or `baseline`: see `LINES`."""
    scores: NDArray[np.float64]
    """Shape (n,)."""
    labels: NDArray[np.uint8]
    """Shape (n,)."""


def confusion_figure(matrices: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw a panel for each row: title, and what `hemoscan.trainer.metrics.at_threshold` returns."""
    columns = min(PANELS_A_ROW, len(matrices))
    rows = math.ceil(len(matrices) / columns)
    figure = Figure(figsize=(0.4 + 2.6 * columns, 0.2 + 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    panels = list(grid.flat)
    for axes, (title, matrix) in zip(panels, matrices.items(), strict=False):
        _draw_matrix(axes, title, matrix)
    for axes in panels[len(matrices) :]:
        axes.remove()
    return figure


def _draw_matrix(axes: Axes, title: str, matrix: Mapping[str, Any]) -> None:
    counts = np.array(
        [
            [matrix["true_negatives"], matrix["false_positives"]],
            [matrix["false_negatives"], matrix["true_positives"]],
        ]
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in (0, 1):
        for column in (0, 1):
            text = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=11)
    lines = (textwrap.fill(line, TITLE_COLUMNS) for line in title.replace(" (", "\n(").splitlines())
    axes.set_title("\n".join(lines), fontsize=10)
    axes.set_xticks([0, 1], ["not flagged", "flagged"])
    axes.set_yticks([0, 1], ["no\nhemorrhage", "hemorrhage"], rotation=90, va="center", ma="center")
    axes.tick_params(length=0, labelsize=9)


def curves_figure(curves: Sequence[Curve]) -> Figure:
    """Draw the ROC and the precision-recall curves of all rows in two panels."""
    figure, (roc, pr) = _two_panels(5.3, len(curves))
    for curve, style in zip(curves, _styles([curve.label for curve in curves]), strict=True):
        false_positive_rate, recall, _ = roc_curve(curve.labels, curve.scores)
        roc.plot(false_positive_rate, recall, label=curve.label, **style)
        precision, recall, _ = precision_recall_curve(curve.labels, curve.scores)
        pr.step(recall, precision, where="post", **style)
    roc.plot([0, 1], [0, 1], color="0.8", linewidth=0.8, zorder=0)
    share = np.concatenate([curve.labels for curve in curves]).mean()
    pr.axhline(share, color="0.8", linewidth=0.8, zorder=0)
    roc.set(xlabel="1 - specificity", ylabel="recall (sensitivity)", title="ROC")
    pr.set(xlabel="recall (sensitivity)", ylabel="precision", title="Precision and recall")
    for axes in (roc, pr):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), box_aspect=1)
    _legend_below(figure)
    return figure


def losses_figure(histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Figure:
    """Draw training loss and held-out AUC by epoch; of several folds, a line each in the row's colour."""
    figure, (loss, auc) = _two_panels(3.8, len(histories))
    for (label, folds), looks in zip(histories.items(), _styles(list(histories)), strict=True):
        for fold, history in enumerate(folds):
            epochs = [record["epoch"] for record in history]
            style = {
                **looks,
                "linewidth": 1.4 if len(folds) == 1 else 0.8,
                "marker": MARKERS[looks["linestyle"]],
                "markersize": 4,
            }
            loss.plot(epochs, [record["loss"] for record in history], label="" if fold else label, **style)
            measured = [record for record in history if record.get("validation")]
            auc.plot(
                [record["epoch"] for record in measured], [record["validation"]["auc"] for record in measured], **style
            )
    loss.set(xlabel="epoch", ylabel="training loss", title="Loss")
    auc.set(xlabel="epoch", ylabel="AUC", title="AUC of the held-out slices")
    last = max(record["epoch"] for folds in histories.values() for history in folds for record in history)
    for axes in (loss, auc):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0.5, last + 0.5)
        axes.grid(color="0.9")
    _legend_below(figure)
    return figure


def _two_panels(height: float, entries: int) -> tuple[Figure, tuple[Axes, Axes]]:
    """Return a figure of two panels, with room for a legend of so many entries below them."""
    figure = Figure(figsize=(10, height + 0.22 * math.ceil(entries / LEGEND_COLUMNS)), layout="constrained")
    left, right = figure.subplots(1, 2)
    return figure, (left, right)


def _styles(labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the looks of each line: the network tells the dashes, the variant the colour; baselines are grey."""
    seen: Counter[str] = Counter()
    styles = []
    for label in labels:
        family = re.split("[-:]", label)[0]
        colour = "0.4" if family == "baseline" else COLOURS[seen[family] % len(COLOURS)]
        width = 1.0 + seen[family] % 2 if family == "baseline" else 1.4
        styles.append({"color": colour, "linestyle": LINES.get(family, "-"), "linewidth": width})
        seen[family] += 1
    return styles


def _legend_below(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=LEGEND_COLUMNS, fontsize=9, frameon=False)


def save_picture(figure: Figure, path: Path) -> None:
    """Write a PNG, the same bytes for the same figure.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    # Without matplotlib's version in the file.
    write_atomically(path, lambda file: figure.savefig(file, format="png", metadata={"Software": None}))
