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
    "--labels",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Data of your own: a CSV of path, SOPInstanceUID or id, label, and patient, study, group where known; "
    "--data is then a folder of DICOM, PNG or JPEG.",
)
@click.option(
    "--experiments",
    default="all",
    show_default=True,
    help="Names from `hemoscan models`, with commas, or all.",
)
@click.option(
    "--recipe",
    "name",
    type=click.Choice(["report"]),
    default="report",
    show_default=True,
    help="How they are trained: docs/training.md.",
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
    "--compile/--no-compile",
    "compiled",
    default=None,
    help="Compile the training steps (minutes at the start, faster after).  [default: on one CUDA GPU]",
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
    help="Where weights and cards are written.  [default: weights; with --folds, --labels or --limit RUN-DIR/weights]",
)
@click.option(
    "--test/--no-test",
    default=True,
    show_default=True,
    help="Score the data set's test images, too, as far as they are there.",
)
@click.option("--limit", type=click.IntRange(2), help="Only the first so many slices of each split: for a trial.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
def train(**options: Any) -> None:
    """Train the report's experiments and write weights, cards, records and logits.

    Goes on where a stopped run stands, with the same options; --epochs may grow. What is done is not trained again.
    `torchrun --nproc-per-node N -m hemoscan train ...` trains on N GPUs, or in N processes.
    """
    from hemoscan.trainer.command import run_training  # noqa: PLC0415

    run_training(**options)
