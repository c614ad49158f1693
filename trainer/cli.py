"""The commands `hemoscan train` and `hemoscan experiments`. What they run is imported when they run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from hemoscan.console import device_option, png_window_option


def refuse_nan(_ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
    """Refuse NaN and infinity, which click's numbers let through."""
    for number in value if isinstance(value, tuple) else (value,):
        if number is not None and not math.isfinite(number):
            raise click.BadParameter(f"{number}; legal: a finite number")
    return value


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="The data set's folder.  [default: HEMOSCAN_DATA, else ./data]"
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Data of your own: a CSV of path, SOPInstanceUID or id, label, and patient, study, group where known; "
    "--data is then a folder of DICOM, PNG or JPEG.",
)
@png_window_option
@click.option(
    "--experiments",
    default="all",
    show_default=True,
    help="Names from `hemoscan models`, with commas, or all.",
)
@click.option(
    "--folds",
    type=click.IntRange(2, 100),
    help="Stratified cross-validation over all labelled slices in place of the data set's own validation split.",
)
@click.option(
    "--init", default="imagenet", show_default=True, help="imagenet, scratch, or a state dict (.safetensors, .pth)."
)
@click.option(
    "--recipe",
    "name",
    type=click.Choice(["report", "strong"]),
    default="report",
    show_default=True,
    help="report: as published; strong: heads cut out and aligned, augmented, one-cycle rate. Options override it.",
)
@click.option(
    "--input",
    type=click.Choice(["brain", "raw", "head"]),
    help="brain: 0 to 70 HU; raw: the report's; head: brain, cut out and aligned.  [default: brain, strong: head]",
)
@click.option("--size", type=click.IntRange(32, 1024), default=224, show_default=True, help="The input's pixels.")
@click.option(
    "--reweigh-groups/--no-reweigh-groups",
    default=False,
    show_default=True,
    help="Give every site's slices the same share of positives.",
)
@click.option("--epochs", type=click.IntRange(1, 1_000_000), help="[default: 7, strong: 9]")
@click.option(
    "--negatives",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    callback=refuse_nan,
    help="Share of the negatives shown in an epoch, weighing the more: less time, the same balance of the classes.",
)
@click.option(
    "--sizes",
    metavar="PIXELS:EPOCHS,...",
    help="Train the first epochs at fewer pixels, such as 112:3,224:1; they add up to --epochs, if given.",
)
@click.option("--batch-size", type=click.IntRange(2, 1_000_000), default=32, show_default=True)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    callback=refuse_nan,
    help="Adam's; strong: the highest of its cycle.  [default: 0.0005, strong: 0.0015]",
)
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    callback=refuse_nan,
    help="Ship the moving average of the weights, with this decay a step, such as 0.998.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@device_option
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="bf16: autocast. auto: bf16 where the device computes in it, else fp32.",
)
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=False,
    show_default=True,
    help="Compile the network: minutes at the start of each training, faster after.",
)
@click.option(
    "--capture/--no-capture",
    "captured",
    default=None,
    help="Capture the training steps in a CUDA graph.  [default: on one CUDA GPU]",
)
@click.option(
    "--run-dir",
    "run_folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="runs/report",
    show_default=True,
    help="Checkpoints, records and logits; a run that was stopped goes on from here.",
)
@click.option(
    "--weights-dir",
    "weights_folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where weights and cards are written.  "
    "[default: weights; with --folds, --labels, --input raw or less training than the recipe's RUN-DIR/weights]",
)
@click.option(
    "--test/--no-test",
    default=True,
    show_default=True,
    help="Score the data set's test images, too, as far as they are there.",
)
@click.option(
    "--limit", type=click.IntRange(2, 10**9), help="Only the first so many slices of each split: for a trial."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
def train(**options: Any) -> None:
    """Train the report's experiments and write weights, cards, records and logits.

    Goes on where a stopped run stands, with the same options; --epochs may grow (not in recipe strong, whose rate
    depends on them). What is done is not trained again.
    `torchrun --nproc-per-node N -m hemoscan train ...` trains on N GPUs, or in N processes.
    """
    from hemoscan.trainer.command import run_training  # noqa: PLC0415

    run_training(**options)


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.argument("labels", type=click.Path(path_type=Path))
@click.option(
    "--threshold",
    type=float,
    callback=refuse_nan,
    help="Flag from this score on, studies by their highest slice.  [default: RESULTS' flags, studies as the worklist]",
)
@click.option("--score-column", metavar="NAME", help="Column of the scores.  [default: probability, score, ...]")
@click.option(
    "--prevalence",
    "prevalences",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    callback=refuse_nan,
    help="Predictive values where this share is positive, such as 0.02; may be repeated.",
)
@click.option("--compare", "other", type=click.Path(path_type=Path), help="Other results, of the same slices.")
@click.option("--compare-threshold", type=float, callback=refuse_nan, help="As --threshold, for the other results.")
@click.option("--compare-score-column", metavar="NAME", help="As --score-column, for the other results.")
@click.option(
    "--bootstrap", type=click.IntRange(0, 1_000_000), default=2000, show_default=True, help="Draws; 0: no intervals."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of the draws.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="All figures as JSON.")
@click.option(
    "--plots", type=click.Path(path_type=Path, file_okay=False), help="Folder for ROC, PR and reliability PNGs."
)
@click.option("-v", "--verbose", is_flag=True, help="List scores without label and labels without score on stderr.")
def evaluate(
    results: Path, labels: Path, output: Path | None, plots: Path | None, verbose: bool, **options: Any
) -> None:
    """Measure RESULTS (the slices of a scan, or another tool's CSV) against LABELS, with 95 % intervals.

    LABELS is a CSV with path, SOPInstanceUID or id; label (0 or 1); and where known patient, study, group, frame.
    RESULTS of another tool have path, SOPInstanceUID or id, and a score. Studies of a scan are scored and flagged as
    in its worklist, if the run record lies beside it and LABELS name no other studies; else by their highest slice.
    """
    from hemoscan.outputs import refuse_inputs, scan_files  # noqa: PLC0415
    from hemoscan.trainer.bootstrap import Bootstrap  # noqa: PLC0415
    from hemoscan.trainer.evaluate import Source, run_evaluation, write_outcome  # noqa: PLC0415
    from hemoscan.trainer.tabulate import list_unmatched, tabulate  # noqa: PLC0415

    other = options["other"]
    if output is not None:
        refuse_inputs(output, (*scan_files(results), labels, *(scan_files(other) if other else ())))
    outcome = run_evaluation(
        Source(results, options["score_column"], options["threshold"]),
        labels,
        Bootstrap(options["bootstrap"], options["seed"]),
        tuple(dict.fromkeys(options["prevalences"])),
        other and Source(other, options["compare_score_column"], options["compare_threshold"]),
    )
    if verbose:
        click.echo(list_unmatched(outcome), err=True)
    try:  # whoever reads the text may stop before its end, as `head` does
        if output is not None:
            write_outcome(outcome, output)
        if plots is not None:
            from hemoscan.trainer.curves import draw_pictures  # noqa: PLC0415
            from hemoscan.trainer.plots import save_picture  # noqa: PLC0415

            for name, picture in draw_pictures(outcome).items():
                save_picture(picture, plots / name)
    finally:
        click.echo(tabulate(outcome))


@click.command()
@click.argument(
    "run_folders",
    metavar="RUN_FOLDER...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default="docs/experiments.md",
    show_default=True,
    help="The document; its pictures go to pictures/ beside it.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The data set's folder, for the baselines.  [default: HEMOSCAN_DATA, else ./data]",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def experiments(run_folders: tuple[Path, ...], output: Path, data: Path | None, quiet: bool) -> None:
    """Set the trainings of run folders beside the report: tables, pictures, submissions.

    RUN_FOLDER is what `hemoscan train --run-dir` wrote. Files for the challenge,
    submission-MODEL.csv, are written into it.
    """
    from hemoscan.trainer.report import summarise, write_report  # noqa: PLC0415

    written = write_report(run_folders, output, data, quiet=quiet)
    for line in summarise(written):
        click.echo(line)


@click.command()
@click.argument("results", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--labels",
    "label_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="CSV with path, SOPInstanceUID or id; label (0 or 1); and where known patient, study, frame.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The site's file.  [default: MODEL.site.json in the user's state folder]",
)
def calibrate(results: Path, label_file: Path, output: Path | None) -> None:
    """Fit probabilities and operating points to a site, from RESULTS (the slices of a scan) and its own labels.

    Needs at least 20 labelled slices with hemorrhage and 100 without. `hemoscan scan --calibration FILE` uses the file;
    it is for the model of that scan alone.
    """
    from hemoscan.trainer.calibrate import run_calibration  # noqa: PLC0415

    found = run_calibration(results, label_file, output)
    operating = found.operating
    after = operating.calibration.ece if operating.calibration is not None else None
    click.echo(f"{found.model}: {found.slices} labelled slices, {found.positives} with hemorrhage")
    click.echo(f"expected calibration error {found.ece_before:.4f} before, {after:.4f} after, cross-fitted")
    click.echo(f"{'POINT':<12}{'THRESHOLD':>10}{'SENSITIVITY':>13}{'SPECIFICITY':>13}")
    for name, point in (*operating.operating_points.items(), ("study", operating.study)):
        if point is not None:
            click.echo(f"{name:<12}{point.threshold:>10.4f}{point.sensitivity:>13.3f}{point.specificity:>13.3f}")
    click.echo(f"written to {found.path}", err=True)
