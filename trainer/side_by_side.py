"""Experiments side by side on a Ray cluster, a GPU each: `python -m hemoscan.trainer.side_by_side`.

Each experiment is the command `hemoscan train` in a process of its own, with a run folder of its own on a file system
that the nodes share. One whose node or process dies is started again, there or elsewhere, and goes on from its
checkpoint; so does all of it when the same command is given again.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from hemoscan.errors import ClusterError, HemoscanError, TrainingError
from hemoscan.ray_runtime import LOCAL, running_ray
from hemoscan.trainer.experiments import parse_experiments
from hemoscan.trainer.records import HELD

# A training that is killed goes on; one that fails so often by itself is not tried again.
ATTEMPTS = 3
WAIT_SECONDS = 5.0
TOLD_LINES = 5
# How long nothing may end until it is told that no node is there to train on.
LOOK_SECONDS = 60.0
# Linux ends a training with the Ray worker that started it; elsewhere it may live on, and hold its folder till its end.
DIES_WITH_PARENT = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
        If there is no Ray, no cluster, or no node of it with so many GPUs.
    TrainingError
        If experiments fail; the others are trained to their end.
    """
    with running_ray(address) as ray:
        if not _can_train(ray, gpus):
            raise ClusterError(_lacking(ray, gpus))
        train = ray.remote(train_one).options(num_cpus=1, num_gpus=gpus, max_retries=-1)
        waiting: dict[Any, str] = {train.remote(name, list(options), str(runs)): name for name in experiments}
        failed = []
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK_SECONDS)
            if not done and not _can_train(ray, gpus):
                click.echo(f"waiting for a node: {_lacking(ray, gpus)}", err=True)
            for task in done:
                name = waiting.pop(task)
                text = _end_of(ray, task, name)
                failed += [text] if text else []
                click.echo(text or f"{name}: done, in {runs / name}", err=True)
    if failed:
        raise TrainingError("; ".join(failed))


def _end_of(ray: Any, task: Any, name: str) -> str:
    """Return why an experiment failed, else nothing."""
    try:
        text: str = ray.get(task)
    except ray.exceptions.RayError as error:
        return f"{name}: failed: {type(error).__name__}"
    return text


def _gpus_of_nodes(ray: Any) -> list[float]:
    """Return how many GPUs each node has that has a processor to give."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [each.get("GPU", 0.0) for each in resources if each.get("CPU", 0.0) >= 1]


def _can_train(ray: Any, gpus: float) -> bool:
    return any(has >= gpus for has in _gpus_of_nodes(ray))


def _lacking(ray: Any, gpus: float) -> str:
    most = max(_gpus_of_nodes(ray), default=0.0)
    legal = f"0 to {most:g}" if most else "0, a processor each, unless a cluster with GPUs is named by --ray"
    return f"--gpus {gpus:g}: no node of the cluster has a processor and so many GPUs; legal: {legal}"


def train_one(name: str, options: Sequence[str], runs: str) -> str:
    """Train an experiment in a process of its own; return what it said last if it fails, else nothing."""
    folder = Path(runs, name)
    folders = ["--run-dir", str(folder), "--weights-dir", str(folder / "weights")]
    command = [sys.executable, "-P", "-m", "hemoscan", "train", "--quiet", "--experiments", name, *folders, *options]
    attempts = 0
    while True:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            preexec_fn=_dying_with_parent() if DIES_WITH_PARENT else None,
        )
        held = done.returncode > 0 and HELD in done.stderr
        attempts += DIES_WITH_PARENT or not held
        if (done.returncode >= 0 and not held) or attempts >= ATTEMPTS:
            break
        time.sleep(WAIT_SECONDS)
    if done.returncode == 0:
        return ""
    said = " | ".join(done.stderr.strip().splitlines()[-TOLD_LINES:])
    return f"{name}: exit code {done.returncode}: {said}"


def _dying_with_parent() -> Callable[[], None]:
    """Return what a new process calls so that Linux kills it with its parent (prctl(2), PR_SET_PDEATHSIG)."""
    # With its thread, that is: Ray runs a task in its worker's main thread.
    # Loaded before the process is: between fork and exec it may take no lock that a thread of its parent holds.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it was asked
            os._exit(1)

    return ask


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
