"""The text of `docs/experiments.md`. Every figure in it was measured, is the report's, or is computed from those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hemoscan import NOTICE
from hemoscan.card import MODEL_NAMES
from hemoscan.trainer.experiment_tables import at_chosen, at_half, percent, table, training_table, within_groups
from hemoscan.trainer.published import LABELLED, POSITIVES, PUBLISHED
from hemoscan.trainer.row_figures import BOOTSTRAP
from hemoscan.trainer.rows import (
    REPORT_PIXELS,
    REPORT_RECIPE,
    Section,
    describe_epochs,
    describe_init,
    describe_limit,
    has_own_start,
    is_comparable,
    is_in_full,
    unlike,
)
from hemoscan.trainer.submission import TEST_IMAGES, Submission

REPORT_EPOCHS = 7
INPUT_WORDS = {"brain": "0 to 70 HU", "raw": "the report's own grey values"}


def write_document(
    sections: Sequence[Section],
    pictures: Mapping[str, Sequence[str]],
    submissions: Mapping[str, Submission],
    *,
    command: str,
    baselines: str,
) -> str:
    """Return the document.

    Parameters
    ----------
    sections
        All of them, in their order.
    pictures
        Links to the pictures of each section, by the section's name.
    submissions
        What was written for the test images, by label.
    command
        The one that makes the document.
    baselines
        Why there are no baseline rows; empty if there are.
    """
    parts = [_opening(sections, command, baselines), _what_was_run(sections), _published()]
    parts += [_section(section, pictures.get(section.name, ()), _trials(sections, section)) for section in sections]
    parts += [_test_images(submissions), _differences(sections)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(sections: Sequence[Section], command: str, baselines: str) -> str:
    missing = f"\n- The baselines were not measured: {baselines}." if baselines else ""
    runs = [row.result for section in sections for row in section.rows if row.result is not None]
    alone = sum(not run.knows_clusters for run in runs)
    unknown = (
        f"""
- {alone} of the {len(runs)} rows are of run folders that do not say which slices belong together: there, each counts
  by itself."""
        if alone
        else ""
    )
    return f"""# The report's experiments, run again

Made by this command; do not edit it by hand:

```
{command}
```

{NOTICE}

- Accuracy, precision, recall and F1 are in percent, differences in percentage points; AUC and average precision (AP)
  lie between 0 and 1.
- In brackets: {100 * BOOTSTRAP.level:g} % intervals from {BOOTSTRAP.resamples:,} bootstrap resamples of clusters;
  thresholds are not chosen anew in each. Slices that are known to belong together are one cluster, which lies on one
  side of a split, and whose slices are drawn together: exact duplicates, and in data of one's own those of a patient or
  a study.
- No patient ids come with the report's data, so there slices of one patient count as independent and can lie on both
  sides of a split: the intervals are too narrow and the figures optimistic.{unknown}
- *At 0.5*: slices with a probability of 0.5 or more are flagged. *At a chosen threshold*: the one with the best F1 on
  other folds' out-of-fold scores; with a single split, each half of it is flagged at the threshold chosen on the other.
- *Balanced*: the AUC after every group (largest grey level, which tells the header's window, so the site; in data of
  one's own the label file's `group`) was reweighed to the same share of positives. *Within groups*: the AUC of each by
  itself. In both, those with fewer than ten of either label are one, `others`.
- The baselines never look for a hemorrhage. *lookup*: the share of positives among training images of the same largest
  grey level. *histogram*: a logistic regression on the grey levels' frequencies, clamped to 0 to 70.{missing}"""


def _what_was_run(sections: Sequence[Section]) -> str:
    lines = []
    for section in sections:
        if section.recipe == REPORT_RECIPE and not section.reduced:
            run = {one.experiment for one in section.settings if is_comparable(one)}
            full = {one.experiment for one in section.settings if is_in_full(one)}
            elsewhere, trials = section.experiments - run, _trials(sections, section) - section.experiments
            found = {
                "changed (epochs, pixels, groups, rate or start)": run - full,
                "on other data only": elsewhere,
                "reduced only": trials,
                "not run": set(MODEL_NAMES) - run - elsewhere - trials,
            }
            texts = [
                f"{what}: {', '.join(sorted(names, key=MODEL_NAMES.index))}" for what, names in found.items() if names
            ]
            lines.append("; ".join([f"- input `{section.input}`: {len(full)} of {len(MODEL_NAMES)} in full", *texts]))
    others = sorted({f"`{section.recipe}`" for section in sections} - {f"`{REPORT_RECIPE}`"})
    lines.append(f"- other recipes: {', '.join(others) or 'none'}")
    return "\n".join(["Of the report's eight experiments were run, by its recipe:", "", *lines])


def _trials(sections: Sequence[Section], of: Section) -> set[str]:
    """Return the experiments that have reduced runs of a section's recipe and input."""
    same = [one for one in sections if one.reduced and (one.recipe, one.input) == (of.recipe, of.input)]
    return {name for section in same for name in section.experiments}


def _against_baselines(section: Section) -> str:
    """Say how many rows have an interval of the AUC that lies above the best baseline's AUC.

    That is no test of the difference: the baseline's own interval is not counted, and where there are several splits,
    the best baseline may be that of another one.
    """
    if not section.baselines:
        return ""
    found = {row.label: row.figures.estimates["auc"].value or 0.0 for row in section.baselines}
    best = max(found, key=lambda label: found[label])
    ends = [row.figures.estimates["auc"].low for row in section.rows]
    above = sum(low is not None and low > found[best] for low in ends)
    return (
        f"The AUC of {above} of {len(ends)} rows lies, with its whole interval, above that of the best baseline "
        f"({best.removeprefix('baseline: ')}, {found[best]:.3f}, whose own interval is not counted)."
    )


def _published() -> str:
    header = ["model", "accuracy", "precision", "recall", "F1", "private", "public", "accuracy implied"]
    rows = []
    for name, row in PUBLISHED.items():
        printed = (row.accuracy, row.precision, row.recall, row.f1, row.private, row.public)
        implied = f"{row.implied_accuracy:.2f}" + ("" if row.possible else ", not the printed one")
        rows.append([name, *(f"{value:.2f}" for value in printed), implied])
    return f"""## The report's figures

{table(header, rows)}

The last column is arithmetic: the accuracy that precision and recall leave at {percent(POSITIVES / LABELLED)} %
positives ({POSITIVES:,} of {LABELLED:,} slices)."""


REDUCED = f"""Trials: fewer slices, fewer pixels than the report's {REPORT_PIXELS} in its recipe, or less training than
another row of the same experiment, which stands for it above. They show that an experiment runs from end to end, and
are no measure of what it reaches."""


OTHER_RECIPE = "This is not the report's recipe: no difference to the report's figures is given."


def _compared(section: Section) -> str:
    """Say whether the rows of a section show what its experiments are worth."""
    if len(section.experiments) < 2:
        return ""
    differing = unlike(section.settings)
    if not differing:
        return "The rows differ in their experiment alone, and can be compared with each other."
    return (
        f"The rows differ in {', '.join(differing)}, too (see below): a difference between two of them need not be one "
        "between their experiments."
    )


def _started(section: Section) -> str:
    """Say what a start from a file hides."""
    settings = section.settings
    own = sum(has_own_start(one) for one in settings)
    return (
        f"{own} of {len(settings)} rows go on from a file of weights: what that had learned before, its epochs, and "
        "whether it learned from slices that are held out here, or was chosen by them, is not in the table."
        if own
        else ""
    )


def _section(section: Section, pictures: Sequence[str], trials: set[str]) -> str:
    title = f"## {section.title[0].upper()}{section.title[1:]}"
    if section.input in INPUT_WORDS:
        title += f" ({INPUT_WORDS[section.input]})"
    if not section.rows:
        missing = [name for name in MODEL_NAMES if name not in trials]
        return f"{title}\n\nNot run: {', '.join(missing) or 'none, but see the reduced runs below'}."
    other = OTHER_RECIPE if section.recipe != REPORT_RECIPE else ""
    parts = [title, other, REDUCED if section.reduced else "", _compared(section), _started(section)]
    parts += ["### At 0.5", at_half(section, trials)]
    parts += ["### Ranking, and at a chosen threshold", at_chosen(section, trials), _against_baselines(section)]
    parts += ["### Within groups", within_groups(section)]
    parts += ["### How each was trained", training_table(section), *pictures]
    return "\n\n".join(part for part in parts if part)


def _test_images(submissions: Mapping[str, Submission]) -> str:
    if not submissions:
        return "## Test images\n\nNone of the runs scored the unlabelled test images."
    header = ["run", "file", "threshold", "images", "flagged", "flagged, percent"]
    rows = []
    for label, one in submissions.items():
        file = f"`{one.path.parent.name}/{one.path.name}`"
        images = f"{one.n:,}" if one.n == TEST_IMAGES else f"{one.n:,} of {TEST_IMAGES:,}: incomplete"
        rows.append([label, file, f"{one.threshold:.4f}", images, f"{one.flagged:,}", percent(one.flagged / one.n)])
    return f"""## Test images

{table(header, rows)}

The files lie in the run folders and have the challenge's form, `id,class`. The threshold has the best F1 on all
held-out slices; of several folds the logits are averaged. The labels of these images are not published, so the files
cannot be scored here."""


def _differences(sections: Sequence[Section]) -> str:
    runs = [row.result for section in sections for row in section.rows if row.result is not None]
    settings = [run.setting for run in runs]
    total = len(runs)
    starts = _counted(describe_init(one.init) for one in settings)
    inputs = _counted(f"`{one.input}`" for one in settings)
    splits = _counted("the validation split" if not run.setting.folds else run.split for run in runs)
    epochs = _counted(map(describe_epochs, settings))
    slices = _counted(map(describe_limit, settings))
    data = _counted(one.data for one in settings)
    recipes = _counted(f"`{one.recipe}`" for one in settings)
    impossible = [
        f"{name} ({row.accuracy:.2f} % printed, {row.implied_accuracy:.2f} % implied)"
        for name, row in PUBLISHED.items()
        if not row.possible
    ]
    return f"""## What differs from the report

In brackets: how many of the {total} rows.

- **Start.** The report starts from ImageNet's weights. Here: {starts}.
- **Input.** The report feeds the PNGs' grey values as they are (`raw`), whose largest one tells the site.
  Here: {inputs}.
- **Evaluation.** The report has cross-validation over the {LABELLED:,} labelled slices. Here: {splits}.
- **Data.** The report's is the Unibuc "brain anomaly detection" set; for rows on others no difference is given.
  Here: {data}.
- **Slices.** The report uses all of them. Here: {slices}.
- **Epochs.** The report trains {REPORT_EPOCHS} epochs at 224x224. Here: {epochs}.
- **Recipe.** For rows of another recipe than the report's no difference is given. Beside those of its recipe with
  other epochs, pixels, groups or rate stands `recipe changed`, and `own start` where a file of weights was the start.
  Here: {recipes}.
- **Private and public scores.** The challenge's server gave them. The test labels are not published, so nobody can
  recompute them, and no row here has such scores.
- **Accuracies that cannot be right.** {len(impossible)} printed accuracies contradict their own precision and recall at
  {percent(POSITIVES / LABELLED)} % positives: {", ".join(impossible) or "none"}.
  They are not compared here; compare F1."""


def _counted(words: Iterable[str]) -> str:
    found = list(words)
    return ", ".join(f"{word} ({found.count(word)})" for word in sorted(set(found))) or "none"
