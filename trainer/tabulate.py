"""An evaluation as text of at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hemoscan.trainer.belonging import Belonging
from hemoscan.trainer.bootstrap import Estimate
from hemoscan.trainer.evaluate import HIGHEST_SLICE, Loaded, Outcome
from hemoscan.trainer.evaluation import Difference, Evaluation

WIDTH = 80
FEW_CLUSTERS = 20
TITLES = {
    "auc": "AUC",
    "auc_group_balanced": "AUC, groups balanced",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
    "accuracy": "accuracy",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "calibration error, 10 bins",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
}
RANKING = ("auc", "auc_group_balanced", "average_precision")
RATES = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "f1")
FITTED = tuple(f"cross_fitted_{name}" for name in ("sensitivity", "specificity", "ppv", "f1"))
CALIBRATION = ("brier", "ece", "calibration_slope", "calibration_intercept")
PLURALS = {"patient": "patients", "study": "studies", "slice": "slices"}


def tabulate(outcome: Outcome) -> str:
    """Return what was joined, and the figures."""
    flagged_by = outcome.first.flagged_by
    lines = [*_sources(outcome), *_level("slices", outcome.slices, outcome, flagged_by)]
    if outcome.studies is not None and outcome.studies_by is not None:
        by = flagged_by if outcome.studies_by == HIGHEST_SLICE else outcome.studies_by
        lines += _level("studies", outcome.studies, outcome, by, outcome.studies_by)
        lines += _beyond(outcome.first.belongs)
    return "\n".join([*lines, *_comparison(outcome)])


def list_unmatched(outcome: Outcome) -> str:
    """Return the names of what has no partner, a line each."""
    loaded = [part for part in (outcome.first, outcome.second) if part is not None]
    return "\n".join(
        line
        for part in loaded
        for line in (
            *(f"without label in {outcome.labels.source}: {name}" for name in part.unlabelled),
            *(f"without score in {part.scores.source}: {name}" for name in part.unscored),
        )
    )


def _sources(outcome: Outcome) -> Iterator[str]:
    yield from _source("results", outcome.first)
    if outcome.second is not None:
        yield from _source("other", outcome.second)
    belongs = outcome.first.belongs
    if belongs.without_patient:
        yield f"{belongs.without_patient} slices have no patient: they count with their study, else alone"
    clusters, bootstrap = outcome.slices.clusters, outcome.bootstrap
    kind = belongs.clustered_by
    named = kind if clusters == 1 else PLURALS[kind]
    if not bootstrap.resamples:
        return
    yield f"{bootstrap.level:.0%} intervals: {bootstrap.resamples} bootstrap draws of {clusters} {named}"
    if kind == "slice":
        yield "  no patient or study is known: slices of one patient make them too narrow"
    elif clusters < FEW_CLUSTERS:
        yield f"  of fewer than {FEW_CLUSTERS} {PLURALS[kind]} they are too narrow"


def _source(title: str, loaded: Loaded) -> Iterator[str]:
    left_out = "".join(f", {count} {status}" for status, count in sorted(loaded.scores.left_out.items()))
    yield f"{title:<9}{_shortened(str(loaded.scores.source), WIDTH - 9)}"
    yield f"{'':<9}{len(loaded.scores)} scored{left_out}; flagged by: {loaded.flagged_by}"
    ways = ", ".join(f"{count} by {way}" for way, count in loaded.joined.ways.items())
    yield f"{'':<9}joined with labels: {ways}"
    if loaded.joined.copies:
        yield f"{'':<9}{len(loaded.joined.copies)} scores of copies left out: the highest score of a slice counts"
    if loaded.unlabelled or loaded.unscored:
        yield f"{'':<9}{len(loaded.unlabelled)} scores without label, {len(loaded.unscored)} labels without score"


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else "..." + text[3 - width :]


def _level(title: str, found: Evaluation, outcome: Outcome, flagged_by: str, rule: str = "") -> Iterator[str]:
    share = found.positives / found.n
    yield ""
    yield f"{title}: {found.n}, {found.positives} positive ({share:.1%})"
    if rule:
        yield f"  score and flag: {rule}"
        if outcome.not_as_in_worklist:
            yield f"  not as in the worklist: {_shortened(outcome.not_as_in_worklist, WIDTH - 26)}"
    yield from _rows(found, RANKING)
    counts = (found.confusion[f"{kind}_{side}"] for kind in ("true", "false") for side in ("positives", "negatives"))
    names = zip(("TP", "TN", "FP", "FN"), counts, strict=True)
    yield f"  flagged ({flagged_by}): " + "  ".join(f"{name} {count}" for name, count in names)
    yield from _rows(found, RATES)
    for prevalence in outcome.prevalences:
        yield f"  where {prevalence!r} are positive"
        yield _row(TITLES["ppv"], found.estimates[f"ppv_at_{prevalence!r}"])
        yield _row(TITLES["npv"], found.estimates[f"npv_at_{prevalence!r}"])
    yield from _section("flagged at the threshold of best F1, cross-fitted", found, FITTED)
    yield from _section("calibration", found, CALIBRATION)
    if found.groups:
        yield "  AUC within groups"
        for name, part in found.groups.items():
            yield _row(f"{_shortened(name, 20)} ({part.positives}/{part.n})", part.estimates["auc"])


def _beyond(belongs: Belonging) -> Iterator[str]:
    """Tell of hemorrhages that no figure of studies counts."""
    studies, slices = belongs.positive_unscored, belongs.positives_astray
    if studies:
        yield f"  not counted: {studies} positive {'study' if studies == 1 else 'studies'} without a scored slice"
    if slices:
        yield f"  not counted: {slices} positive slice{'s' * (slices != 1)} without score, of unknown study"


def _section(title: str, found: Evaluation, names: Iterable[str]) -> Iterator[str]:
    rows = list(_rows(found, names))
    if rows:
        yield f"  {title}"
        yield from rows


def _rows(found: Evaluation, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name in found.estimates:
            yield _row(TITLES[name.removeprefix("cross_fitted_")], found.estimates[name])


def _row(title: str, part: Estimate) -> str:
    return f"    {title:<34}{_number(part.value)}{_interval(part)}"


def _number(value: float | None, width: int = 9) -> str:
    return f"{'-' if value is None else format(value, '.4f'):>{width}}"


def _interval(part: Estimate) -> str:
    return "" if part.low is None or part.high is None else f"{part.low:>12.4f} to {part.high:7.4f}"


def _comparison(outcome: Outcome) -> Iterator[str]:
    if outcome.compared is None:
        return
    found = outcome.compared
    for title, n, rows in (("slices", len(found.pair[0]), found.slices), ("studies", found.n_studies, found.studies)):
        if rows:
            yield ""
            yield f"compared on the {n} {title} of both files, other less results"
            if title == "studies":
                yield f"  score and flag of both: {HIGHEST_SLICE}"
            yield f"    {'':<26}{'results':>8}{'other':>8}{'differ.':>9}{'interval':>17}{'p':>8}"
            for name, row in rows.items():
                yield _difference(TITLES[name], row)


def _difference(title: str, row: Difference) -> str:
    part = row.difference
    interval = "" if part.low is None or part.high is None else f"{part.low:+.4f} {part.high:+.4f}"
    p = "" if row.p is None else f"{row.p:.4f}"
    value = "-" if part.value is None else f"{part.value:+.4f}"
    return f"    {title:<26}{_number(row.first, 8)}{_number(row.second, 8)}{value:>9}{interval:>17}{p:>8}".rstrip()
