"""Pictures of an evaluation: ROC, precision and recall, reliability. No patient data: scores and counts only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from hemoscan.trainer.bootstrap import Estimate
from hemoscan.trainer.evaluate import Outcome
from hemoscan.trainer.evaluation import Evaluation, Sample, evaluate

# Told apart by everybody: Okabe and Ito's blue and vermilion.
COLOURS = ("#0072b2", "#d55e00")
GREY = "0.6"

Curve = tuple[str, Sample, Evaluation]


def draw_pictures(outcome: Outcome) -> dict[str, Figure]:
    """Return pictures by the names of their files; those that the sample cannot fill are left out.

    Of a comparison, slices are those that both files have scored.
    """
    pictures = _of_level("slices", _slices(outcome))
    if outcome.studies is not None and outcome.study_sample is not None:
        pictures |= _of_level("studies", [("results", outcome.study_sample, outcome.studies)])
    return pictures


def _slices(outcome: Outcome) -> list[Curve]:
    if outcome.compared is None:
        return [("results", outcome.first.slices, outcome.slices)]
    pair = zip(("results", "other"), outcome.compared.pair, strict=True)
    return [(name, sample, evaluate(sample, outcome.bootstrap)) for name, sample in pair]


def _of_level(level: str, curves: list[Curve]) -> dict[str, Figure]:
    pictures = {}
    if all(found.estimates["auc"].value is not None for _, _, found in curves):
        pictures[f"roc-{level}.png"] = draw_roc(curves, level)
        pictures[f"precision-recall-{level}.png"] = draw_precision_recall(curves, level)
    if all(sample.probabilities for _, sample, _ in curves):
        pictures[f"reliability-{level}.png"] = draw_reliability(curves, level)
    return pictures


def draw_roc(curves: Sequence[Curve], level: str) -> Figure:
    """Draw true against false positive rates, with where the flags stand; curves are name, sample and figures."""
    figure, axes = _square(f"ROC, {level}", "1 - specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    for colour, (name, sample, found) in zip(COLOURS, curves, strict=False):
        false, true, _ = roc_curve(sample.labels, sample.scores, drop_intermediate=False)
        axes.plot(false, true, color=colour, label=f"{name}: AUC {_text(found.estimates['auc'])}")
        specificity = found.estimates["specificity"]
        turned = Estimate(
            *(None if end is None else 1 - end for end in (specificity.value, specificity.high, specificity.low))
        )
        _mark(axes, turned, found.estimates["sensitivity"], colour, f"{name}: as flagged")
    _finish(axes, "lower right")
    return figure


def draw_precision_recall(curves: Sequence[Curve], level: str) -> Figure:
    """Draw precision against recall, with where the flags stand, and the share of positives."""
    figure, axes = _square(f"Precision and recall, {level}", "recall (sensitivity)", "precision")
    for colour, (name, sample, found) in zip(COLOURS, curves, strict=False):
        precision, recall, _ = precision_recall_curve(sample.labels, sample.scores)
        label = f"{name}: AP {_text(found.estimates['average_precision'])}"
        axes.plot(recall, precision, color=colour, drawstyle="steps-post", label=label)
        axes.axhline(sample.positives / len(sample), color=GREY, linestyle=":", linewidth=1)
        _mark(axes, found.estimates["sensitivity"], found.estimates["ppv"], colour, f"{name}: as flagged")
    _finish(axes, "lower left")
    return figure


def draw_reliability(curves: Sequence[Curve], level: str) -> Figure:
    """Draw the share of positives against the mean prediction in bins of equal mass, and how predictions spread."""
    figure = Figure(figsize=(5, 6), dpi=150, layout="constrained")
    axes, spread = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    axes.set(title=f"Reliability, {level}", ylabel="share of positives", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    for colour, (name, sample, found) in zip(COLOURS, curves, strict=False):
        _draw_bins(axes, found, colour, f"{name}: Brier {_text(found.estimates['brier'])}")
        spread.hist(sample.scores, bins=50, range=(0, 1), histtype="step", color=colour)
    spread.set(xlabel="predicted probability", ylabel="number", yscale="log")
    _finish(axes, "upper left")
    return figure


def _draw_bins(axes: Any, found: Evaluation, colour: str, label: str) -> None:
    points = [
        (predicted.value, observed.value, *_arms(observed))
        for predicted, observed in found.bins
        if predicted.value is not None and observed.value is not None
    ]
    x, y, down, up = zip(*points, strict=True)
    axes.errorbar(x, y, yerr=(down, up), color=colour, marker="o", markersize=4, capsize=2, linewidth=1, label=label)


def _square(title: str, x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5, 5.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return figure, axes


def _finish(axes: Any, corner: str) -> None:
    axes.grid(color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.legend(loc=corner, fontsize="small", frameon=True)


def _text(part: Estimate) -> str:
    if part.value is None:
        return "-"
    return f"{part.value:.3f}" if part.low is None else f"{part.value:.3f} ({part.low:.3f} to {part.high:.3f})"


def _arms(part: Estimate) -> tuple[float, float]:
    """Return the lengths of an error bar below and above; 0 without interval."""
    if part.value is None or part.low is None or part.high is None:
        return 0.0, 0.0
    return max(part.value - part.low, 0.0), max(part.high - part.value, 0.0)


def _mark(axes: Any, x: Estimate, y: Estimate, colour: str, label: str) -> None:
    """Draw where the flags stand, with the intervals."""
    if x.value is not None and y.value is not None:
        arms = {"xerr": [[arm] for arm in _arms(x)], "yerr": [[arm] for arm in _arms(y)]}
        style = {"color": colour, "marker": "o", "markersize": 5, "capsize": 2, "linewidth": 1}
        axes.errorbar(x.value, y.value, **arms, **style, linestyle="", elinewidth=1, label=label)
