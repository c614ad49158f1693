"""Training in several processes: their gradient is that of one, and one of them writes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainer_data import make_rows, write_data_set
from training_process import UNEVEN, gradients

from hemoscan.trainer.parallel import ALONE, Processes, join_processes

PROGRAM = Path(__file__).with_name("training_process.py")
COUNT = 2


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("n", [6, 7, 8])
def test_the_parts_of_a_batch_are_the_batch(n: int, size: int):
    parts = [Processes(rank, size).share(torch.arange(n)) for rank in range(size)]
    assert torch.cat(parts).tolist() == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_is_wrapped_or_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes("cpu") as (processes, device):
        assert processes == ALONE
        assert device.type == "cpu"
    model = torch.nn.Linear(1, 1)
    assert ALONE.wrap(model) is model
    assert ALONE.mean(torch.tensor(2.5)).item() == 2.5
    assert [value.item() for value in ALONE.gather(torch.tensor(3))] == [3]


def run_together(*arguments: str) -> None:
    """Run the program in as many processes, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": str(COUNT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(PROGRAM), *arguments]
    environments = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(COUNT)]
    started = [subprocess.Popen(command, env=environment) for environment in environments]  # noqa: S603
    try:
        assert [process.wait(timeout=300) for process in started] == [0] * COUNT
    finally:
        for process in started:
            process.kill()


def test_with_batch_norm_frozen_the_gradient_of_two_processes_is_that_of_one(tmp_path: Path):
    assert UNEVEN % COUNT, "the parts differ in length"
    run_together("gradients", str(tmp_path))
    together = torch.load(tmp_path / "gradients.pt", weights_only=True)
    alone = gradients()
    assert max(value.abs().max().item() for value in alone.values()) > 1e-2, "there is something to compare"
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_torchrun_trains_with_the_same_command_and_goes_on(tmp_path: Path):
    data = write_data_set(tmp_path, make_rows([0, 0, 1] * 4, 1), make_rows([0, 1] * 4, 15_001))

    def train(epochs: int) -> str:
        options = f"--experiments densenet-bias --init scratch --sizes 32:{epochs} --batch-size 6 --device cpu"
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(COUNT), "-m", "hemoscan"]
        folders = ["--data", str(data), "--run-dir", str(tmp_path / "runs"), "--weights-dir", str(tmp_path / "weights")]
        command += ["train", "--quiet", *options.split(), *folders]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    for epochs in (1, 2):
        output = train(epochs)
        assert output.count("densenet-bias on 8 validation slices, 4 positive") == 1, "one of them prints"
        assert output.count(" epoch ") == 1, "it goes on"
    record = json.loads((tmp_path / "runs" / "densenet-bias.validation.json").read_text(encoding="utf-8"))
    assert (record["processes"], record["epochs"]) == (COUNT, 2)
    assert sorted(path.suffix for path in (tmp_path / "weights").iterdir()) == [".json", ".safetensors"]
    shutil.rmtree(tmp_path)
