"""The command `hemoscan train`. What it runs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="The data set's folder.  [default: HEMOSCAN_DATA, else ./data]"
)
@click.option(
    "--experiments",
    default="all",
    show_default=True,
    help="Names from `hemoscan models`, with commas, or all.",
)
@click.option(
    "--init", default="imagenet", show_default=True, help="imagenet, scratch, or a state dict (.safetensors, .pth)."
)
@click.option(
    "--input",
    type=click.Choice(["brain", "raw"]),
    default="brain",
    show_default=True,
    help="brain: 0 to 70 HU; raw: the report's.",
)
@click.option("--reweigh-groups", is_flag=True, help="Give every site's slices the same share of positives.")
@click.option("--epochs", type=click.IntRange(1), default=7, show_default=True)
@click.option(
    "--sizes",
    metavar="PIXELS:EPOCHS,...",
    help="Train the first epochs at fewer pixels, such as 112:3,224:1; replaces --epochs.",
)
@click.option("--batch-size", type=click.IntRange(2), default=32, show_default=True)
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), default=5e-4, show_default=True, help="Adam's."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option(
    "-d", "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="bf16: autocast. auto: bf16 where the device computes in it, else fp32.",
)
@click.option(
    "--run-dir",
    "run_folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="runs/report",
    show_default=True,
    help="Checkpoints and histories; a run that was stopped goes on from here.",
)
@click.option(
    "--weights-dir",
    "weights_folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where weights and cards are written.  [default: weights, with --limit the run's folder]",
)
@click.option("--limit", type=click.IntRange(2), help="Only the first so many slices of each split: for a trial.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
def train(**options: Any) -> None:
    """Train the report's experiments and write weights, cards and validation figures.

    Goes on where a stopped run stands, with the same options; --epochs may grow.
    """
    from hemoscan.trainer.command import run_training  # noqa: PLC0415

    run_training(**options)


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
