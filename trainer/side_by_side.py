"""Experiments side by side on a Ray cluster, a GPU each: `python -m hemoscan.trainer.side_by_side`.

Each experiment is the command `hemoscan train` in a process of its own, with a run folder of its own on a file system
that the nodes share. One whose node or process dies is started again, there or elsewhere, and goes on from its
checkpoint; so does all of it when the same command is given again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hemoscan.errors import HemoscanError, TrainingError
from hemoscan.ray_runtime import LOCAL, running_ray
from hemoscan.trainer.experiments import parse_experiments

# A training that is killed goes on; one that fails so often by itself is not tried again.
ATTEMPTS = 3
# A training whose Ray worker was killed may hold its folder for a moment longer.
HELD = "another training is running there"
WAIT_SECONDS = 5.0
TOLD_LINES = 5


def run_side_by_side(address: str, experiments: Sequence[str], options: Sequence[str], runs: Path, gpus: float) -> None:
    """Train experiments, as many at a time as the cluster has GPUs for.

    Parameters
    ----------
    address
        HOST:PORT of the cluster's head node, or `local`.
    experiments
        Names; each has the run folder `runs/NAME`, with its weights in `weights` there.
    options
        Options of `hemoscan train`, the same for all.
    runs
        Absolute path on a file system that all nodes share.
    gpus
        GPUs that an experiment takes; 0: a processor.

    Raises
    ------
    ExtraError, ClusterError
        If there is no Ray, or no cluster.
    TrainingError
        If experiments fail; the others are trained to their end.
    """
    with running_ray(address) as ray:
        train = ray.remote(train_one).options(num_cpus=1, num_gpus=gpus, max_retries=-1)
        waiting: dict[Any, str] = {train.remote(name, list(options), str(runs)): name for name in experiments}
        failed = []
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            name = waiting.pop(done)
            try:
                text = ray.get(done)
            except ray.exceptions.RayError as error:
                text = f"{name}: failed: {type(error).__name__}"
            failed += [text] if text else []
            click.echo(text or f"{name}: done, in {runs / name}", err=True)
    if failed:
        raise TrainingError("; ".join(failed))


def train_one(name: str, options: Sequence[str], runs: str) -> str:
    """Train an experiment in a process of its own; return what it said last if it fails, else nothing."""
    folder = Path(runs, name)
    folders = ["--run-dir", str(folder), "--weights-dir", str(folder / "weights")]
    command = [sys.executable, "-P", "-m", "hemoscan", "train", "--quiet", "--experiments", name, *folders, *options]
    for _ in range(ATTEMPTS):
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603
        if done.returncode >= 0 and HELD not in done.stderr:
            break
        time.sleep(WAIT_SECONDS)
    if done.returncode == 0:
        return ""
    said = " | ".join(done.stderr.strip().splitlines()[-TOLD_LINES:])
    return f"{name}: exit code {done.returncode}: {said}"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "ignore_unknown_options": True})
@click.option(
    "--ray", "address", default=LOCAL, metavar="ADDRESS", help="HOST:PORT of a cluster.  [default: start one]"
)
@click.option("--experiments", default="all", show_default=True, help="all, or names separated by commas.")
@click.option("--runs", type=click.Path(path_type=Path), required=True, help="Folder that all nodes share.")
@click.option("--gpus", type=click.FloatRange(0, 8), default=1.0, show_default=True, help="Of each; 0: a processor.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(address: str, experiments: str, runs: Path, gpus: float, options: tuple[str, ...]) -> None:
    """Train experiments side by side; OPTIONS are those of `hemoscan train`, absolute paths in them."""
    try:
        chosen = [experiment.name for experiment in parse_experiments(experiments)]
        run_side_by_side(address, chosen, options, Path(os.path.abspath(runs)), gpus)  # noqa: PTH100 - links stay
    except (HemoscanError, ValueError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
