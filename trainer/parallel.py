"""Several processes that train one network, as torchrun starts them: each takes its part of every batch.

Source: PyTorch's DistributedDataParallel (Li et al., PyTorch Distributed, VLDB 2020).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hemoscan.devices import pick_device


@dataclass(frozen=True)
class Processes:
    """The processes of one training, and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch, of shape (k,); parts differ by one at most."""
        return torch.tensor_split(batch, self.size)[self.rank]

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model, so that after a backward pass every process has the mean of all gradients."""
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over all processes of a number, of shape (), that each has; nothing waits for a GPU."""
        if self.size > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value / self.size

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return the tensors that all processes have, by rank."""
        if self.size == 1:
            return [value]
        found: list[Tensor | None] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return [one for one in found if one is not None]


ALONE = Processes()


@contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Join the other processes that torchrun started, if any; yield them and this one's device.

    On GPUs each process takes its own, the LOCAL_RANK-th of its machine.

    Raises
    ------
    OptionError
        If there is no device of that name.
    DeviceError
        If this machine lacks the device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        where = pick_device(device)
        if where.type == "cuda" and where.index is not None:
            torch.cuda.set_device(where)
        yield ALONE, where
        return
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    where = pick_device(device)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    torch.distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Processes(torch.distributed.get_rank(), size), where
    finally:
        torch.distributed.destroy_process_group()
