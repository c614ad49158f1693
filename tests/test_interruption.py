"""A training that is killed, whenever, goes on to the weights of one that was not."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_process import EPOCHS, STEPS, train_slowly

PROGRAM = Path(__file__).with_name("training_process.py")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("uninterrupted")
    weights = train_slowly(folder)
    shutil.rmtree(folder)
    return weights


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), "train", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603


def kill_after(folder: Path, step: int, seconds: float) -> list[int]:
    """Train until so long after the first step not before `step`, then send SIGKILL; return the steps it told of."""
    told = []
    with start(folder) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(int(line))
            if told[-1] >= step:
                break
        time.sleep(seconds)
        process.kill()
    return told


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_training_that_is_killed_at_any_moment_ends_with_the_same_weights(
    folder: Path, uninterrupted: bytes, kills: int
):
    moments = random.Random()  # noqa: S311
    for _ in range(kills):
        # A step with its checkpoint takes about as long: the kill falls into either.
        told = kill_after(folder, moments.randint(1, EPOCHS * STEPS - 1), moments.uniform(0, 0.7))
        assert told, "it got nowhere"
        assert not (folder / "weights").exists(), "it was done before it was killed"
    with start(folder) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert (folder / "weights").read_bytes() == uninterrupted
    assert output.split()[:1] != ["1"], "it began anew"
