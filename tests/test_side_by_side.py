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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from trainer_data import make_rows, write_data_set

from hemoscan.trainer import side_by_side
from hemoscan.trainer.records import HELD
from hemoscan.trainer.side_by_side import ATTEMPTS, main, train_one


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


@pytest.mark.parametrize("dies", [True, False])
def test_a_folder_that_stays_held_is_waited_for_where_a_training_may_outlive_its_worker(
    monkeypatch: pytest.MonkeyPatch, dies: bool
):
    held = (1, f"/runs: {HELD}; name")
    commands = played(monkeypatch, *[held] * (ATTEMPTS + 2), (0, ""))
    monkeypatch.setattr(side_by_side, "DIES_WITH_PARENT", dies)
    assert (train_one("densenet-bias", [], "/runs") == "") is not dies
    assert len(commands) == (ATTEMPTS if dies else ATTEMPTS + 3)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_training_ends_with_the_worker_that_started_it(tmp_path: Path):
    note = tmp_path / "pid"
    training = tmp_path / "training"
    training.write_text(f"#!/bin/sh\necho $$ > {note}.part\nmv {note}.part {note}\nexec sleep 300\n", encoding="utf-8")
    training.chmod(0o700)
    code = f"import sys; from hemoscan.trainer import side_by_side as s; sys.executable = {str(training)!r}; "
    command = [sys.executable, "-P", "-c", f"{code}s.train_one('densenet-bias', [], {str(tmp_path)!r})"]
    with subprocess.Popen(command) as worker:  # noqa: S603
        try:
            until(note.exists)
            orphan = psutil.Process(int(note.read_text(encoding="utf-8")))
            assert orphan.is_running()
        finally:
            worker.kill()
    try:
        until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)
    finally:
        if orphan.is_running():
            orphan.kill()


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def cluster_of(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float]) -> None:
    @contextmanager
    def running(_: str) -> Iterator[SimpleNamespace]:
        nodes = [{"Alive": True, "Resources": each} for each in resources]
        yield SimpleNamespace(nodes=lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 8.0}}])

    monkeypatch.setattr(side_by_side, "running_ray", running)


@pytest.mark.parametrize(
    ("resources", "asked", "legal"),
    [
        ([{"CPU": 2.0}], "1", "legal: 0, a processor each"),
        ([{"CPU": 2.0, "GPU": 2.0}, {"GPU": 4.0}], "4", "legal: 0 to 2"),
    ],
)
def test_gpus_that_no_node_has_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resources: list[dict[str, float]], asked: str, legal: str
):
    cluster_of(monkeypatch, *resources)
    result = CliRunner().invoke(main, ["--gpus", asked, "--runs", str(tmp_path)])
    assert result.exit_code == 1
    assert f"--gpus {asked}: no node" in result.output
    assert legal in result.output


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
