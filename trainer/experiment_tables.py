"""The tables of `docs/experiments.md`, as Markdown: ours beside the report's, ranking, training."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from hemoscan.card import MODEL_NAMES
from hemoscan.trainer.bootstrap import Estimate
from hemoscan.trainer.evaluation import OTHERS, small_groups
from hemoscan.trainer.experiments import describe_sizes
from hemoscan.trainer.published import PUBLISHED
from hemoscan.trainer.row_figures import AT_CHOSEN, AT_HALF, MEASURES, Figures
from hemoscan.trainer.rows import (
    REPORT_RECIPE,
    Row,
    Section,
    describe_init,
    has_own_start,
    is_comparable,
    is_in_full,
    other_data,
)

NOT_DEFINED = "not defined"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def at_half(section: Section, trials: Container[str] = ()) -> str:
    """Return the figures at 0.5, those of the report's recipe beside the report's.

    Reduced runs, which experiments of `trials` have, are not set beside them.
    """
    lines: list[list[str]] = []
    for name, rows in _named(section):
        printed = ["", "the report", *(f"{getattr(PUBLISHED[name], key):.2f}" for key in MEASURES)]
        for row in rows:
            lines.append([row.label, row.how, *_with_intervals(row.figures, AT_HALF)])
            if _is_compared(section, row):
                lines += [printed, ["", f"difference{_changed(row)}", *_differences_at_half(name, row.figures)]]
        if not rows:
            lines += [[name, _missing(name, trials), *["-"] * len(MEASURES)], printed]
    lines += [[row.label, row.how, *_with_intervals(row.figures, AT_HALF)] for row in section.baselines]
    return table(["model", "", "accuracy", "precision", "recall", "F1"], lines)


def _is_compared(section: Section, row: Row) -> bool:
    """Return whether a row is set beside the report's: another recipe, or other data, makes another experiment."""
    return not section.reduced and row.result is not None and is_comparable(row.result.setting)


def _changed(row: Row) -> str:
    """Return what stands beside a difference to the report of which its recipe or start may be the cause."""
    if row.result is None or is_in_full(row.result.setting):
        return ""
    return " (own start)" if has_own_start(row.result.setting) else " (recipe changed)"


def _differences_at_half(name: str, figures: Figures) -> list[str]:
    """Return ours less the report's; an accuracy that cannot be right is not compared."""
    printed = PUBLISHED[name]
    return [
        "not compared"
        if key == "accuracy" and not printed.possible
        else _difference(figures.estimates[f"{AT_HALF}.{key}"], getattr(printed, key))
        for key in MEASURES
    ]


def _difference(found: Estimate, printed: float) -> str:
    return NOT_DEFINED if found.value is None else f"{100 * found.value - printed:+.2f}"


def _missing(name: str, trials: Container[str]) -> str:
    return "reduced only, below" if name in trials else "not run"


def _named(section: Section) -> list[tuple[str, list[Row]]]:
    """Return the rows of each experiment; in the report's recipe of all eight, run or not, unless reduced."""
    found: dict[str, list[Row]] = {name: [] for name in MODEL_NAMES}
    for row in section.rows:
        if row.result is not None:
            found[row.result.setting.experiment].append(row)
    everything = section.recipe == REPORT_RECIPE and not section.reduced
    return [(name, rows) for name, rows in found.items() if rows or everything]


def at_chosen(section: Section, trials: Container[str] = ()) -> str:
    """Return ranking figures, and those at a threshold chosen on other slices; `trials` as of `at_half`.

    The last column, F1 less the report's, is there only where a row can be compared.
    """
    header = ["model", "", "AUC", "AUC, balanced", "AP", "accuracy", "precision", "recall", "F1"]
    compared = any(_is_compared(section, row) for row in section.rows)
    lines: list[list[str]] = []
    for name, rows in _named(section):
        for row in rows:
            difference = "not compared"
            if _is_compared(section, row):
                difference = _difference(row.figures.estimates[f"{AT_CHOSEN}.f1"], PUBLISHED[name].f1) + _changed(row)
            lines.append([row.label, row.how, *_ranking(row.figures), *[difference] * compared])
        if not rows:
            lines.append([name, _missing(name, trials), *["-"] * (7 + compared)])
    lines += [[row.label, row.how, *_ranking(row.figures), *[""] * compared] for row in section.baselines]
    return table([*header, *["F1 less the report's"] * compared], lines)


def within_groups(section: Section) -> str:
    """Return the AUC of each row in each group by itself, and how many slices and positives each group has."""
    rows = [*section.rows, *section.baselines]
    groups = [{_group_name(row, group): one for group, one in row.figures.within.items()} for row in rows]
    names = sorted({name for found in groups for name in found}, key=_group_order)
    sizes: dict[tuple[str, ...], list[str]] = {}
    lines = []
    for row, known in zip(rows, groups, strict=True):
        found = [known.get(name) for name in names]
        counts = tuple("" if one is None else f"{one.n:,}, {one.positives:,} positive" for one in found)
        sizes.setdefault(counts, ["slices", row.split, *counts])
        cells = ("" if one is None else NOT_DEFINED if one.auc is None else f"{one.auc:.3f}" for one in found)
        lines.append([row.label, row.split, *cells])
    return table(["model", "split", *names], [*sizes.values(), *lines])


def _group_name(row: Row, group: int) -> str:
    """Return a group's name: of data of one's own as in the label file, else the largest grey level."""
    if row.result is not None and other_data(row.result.setting):
        names = row.result.runs[0].record.get("groups")
        if not names:
            return "all slices"
        return small_groups(names.values()) if group < 0 else str(names.get(str(group), group))
    return OTHERS if group < 0 else str(group)


def _group_order(name: str) -> tuple[bool, bool, int, str]:
    """Order grey levels by number, names by letter, small groups last."""
    return name in (OTHERS, small_groups([OTHERS])), not name.isdecimal(), int(name) if name.isdecimal() else 0, name


def _ranking(figures: Figures) -> list[str]:
    found = [figures.estimates[key] for key in ("auc", "auc_group_balanced", "average_precision")]
    return [*(_with_interval(one, 1, 3, 3) for one in found), *_with_intervals(figures, AT_CHOSEN)]


def _with_intervals(figures: Figures, threshold: str) -> list[str]:
    return [_with_interval(figures.estimates[f"{threshold}.{key}"], 100, 2, 1) for key in MEASURES]


def _with_interval(found: Estimate, factor: float, digits: int, interval_digits: int) -> str:
    if found.value is None:
        return NOT_DEFINED
    text = f"{factor * found.value:.{digits}f}"
    if found.low is None or found.high is None:
        return text
    low, high = (f"{factor * end:.{interval_digits}f}" for end in (found.low, found.high))
    return f"{text} ({low} to {high})"


def training_table(section: Section) -> str:
    """Return how each row was trained."""
    header = ["model", "recipe", "start", "input", "groups", "epochs", "pixels", "device", "split", "trained on"]
    return table([*header, "held out", "seed", "minutes"], [_training_row(row) for row in section.rows])


def _training_row(row: Row) -> list[str]:
    if row.result is None:
        raise TypeError(f"{row.label} was not trained by a recipe")
    setting, records = row.result.setting, [run.record for run in row.result.runs]
    return [
        row.label,
        setting.recipe,
        describe_init(setting.init).removeprefix("from "),
        setting.input,
        "reweighed" if setting.reweigh_groups else "as they are",
        str(setting.epochs),
        describe_sizes(setting.sizes) or str(setting.size),
        "; ".join(sorted({_device(record) for record in records})),
        row.result.split,
        _trained_on(records),
        _held_out(row.figures),
        str(setting.seed),
        f"{sum(record['seconds'] for record in records) / 60:.0f}",
    ]


def _held_out(figures: Figures) -> str:
    """Return how many slices were held out, and in how many clusters where not each is one by itself."""
    text = f"{figures.n:,}, {figures.positives:,} positive"
    return text + (f", in {figures.clusters:,} clusters" if figures.clusters < figures.n else "")


def _trained_on(records: Sequence[Mapping[str, Any]]) -> str:
    """Return how many slices each training learned from; folds may differ a little."""
    found = [record["trained_on"]["slices"] for record in records if record.get("trained_on")]
    if not found:
        return "not recorded"
    return " to ".join(f"{count:,}" for count in sorted({min(found), max(found)}))


def _device(record: Mapping[str, Any]) -> str:
    machine, words = record["machine"], [record["device"], record["precision"]]
    if machine.get("accelerator"):
        words.append(machine["accelerator"])
    elif machine.get("processor"):
        cores = machine.get("cores") or "?"
        words.append(f"{machine['processor']}, {cores} core{'s' * (cores != 1)}")
    return ", ".join(words)


def percent(share: float) -> str:
    """Return a share as percent, without the sign."""
    return f"{100 * share:.2f}"
