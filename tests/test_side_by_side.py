"""Experiments side by side: the command that each is, what becomes of failures, and a worker that is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from trainer_data import make_rows, write_data_set

from hemoscan.trainer import side_by_side
from hemoscan.trainer.side_by_side import ATTEMPTS, HELD, main, train_one


def played(monkeypatch: pytest.MonkeyPatch, *ends: tuple[int, str]) -> list[list[str]]:
    """Have processes end as told, one after the other; return the commands."""
    commands: list[list[str]] = []
    left = iter(ends)

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        code, said = next(left)
        return subprocess.CompletedProcess(command, code, "", said)

    monkeypatch.setattr(side_by_side.subprocess, "run", run)
    monkeypatch.setattr(side_by_side, "WAIT_SECONDS", 0.0)
    return commands


def test_an_experiment_is_the_command_with_folders_of_its_own(monkeypatch: pytest.MonkeyPatch):
    commands = played(monkeypatch, (0, ""))
    assert train_one("densenet-bias", ["--data", "/d"], "/runs") == ""
    assert " ".join(commands[0][1:]) == (
        "-P -m hemoscan train --quiet --experiments densenet-bias --run-dir /runs/densenet-bias"
        " --weights-dir /runs/densenet-bias/weights --data /d"
    )


def test_a_training_that_was_killed_or_found_its_folder_held_goes_on(monkeypatch: pytest.MonkeyPatch):
    commands = played(monkeypatch, (-9, ""), (1, f"/runs: {HELD}; name"), (0, ""))
    assert train_one("densenet-bias", [], "/runs") == ""
    assert len(commands) == ATTEMPTS


def test_a_training_that_fails_is_told_with_its_last_lines(monkeypatch: pytest.MonkeyPatch):
    commands = played(monkeypatch, (1, "first\nlast"))
    assert train_one("densenet-bias", [], "/runs") == "densenet-bias: exit code 1: first | last"
    assert len(commands) == 1


def test_an_unknown_experiment_is_told(tmp_path: Path):
    result = CliRunner().invoke(main, ["--experiments", "none", "--runs", str(tmp_path)])
    assert result.exit_code == 1
    assert "legal: densenet-base" in result.output


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
def test_a_worker_that_is_killed_goes_on_where_it_was(tmp_path: Path):
    data = write_data_set(tmp_path, make_rows([0, 0, 1] * 4, 1), make_rows([0, 1] * 4, 15_001))
    names = ("densenet-base", "densenet-bias")
    options = ["--init", "scratch", "--sizes", "32:3", "--batch-size", "6", "--device", "cpu"]
    runs = tmp_path / "runs"
    arguments = ["--gpus", "0", "--experiments", ",".join(names), "--runs", str(runs), "--", "--data", str(data)]
    command = [sys.executable, "-P", "-m", "hemoscan.trainer.side_by_side", *arguments, *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        victim = None
        deadline = time.monotonic() + 300
        while victim is None or not any(runs.glob("*/*.checkpoint.pt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
            family = psutil.Process(process.pid).children(recursive=True)
            victim = next((each for each in family if "ray::train_one" in " ".join(each.cmdline()[:1])), None)
        os.kill(victim.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    for name in names:
        record = json.loads((runs / name / f"{name}.validation.json").read_text(encoding="utf-8"))
        assert record["epochs"] == 3
        assert (runs / name / "weights" / f"{name}.safetensors").exists()
    shutil.rmtree(tmp_path)
