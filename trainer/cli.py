"""The commands `hemoscan train` and `hemoscan experiments`. What they run is imported when they run."""

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
