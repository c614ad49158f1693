"""A network's call as a CUDA graph: hundreds of small kernels started by one launch, which else outlasts many of them.

Source: PyTorch, CUDA semantics, CUDA graphs (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WARM_UP = 3

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From inputs of shape (n, size, size) on the device to logits of shape (n,) and maps of shape (n, h, w)."""

_log = logging.getLogger(__name__)


class Replay(Protocol):
    """A captured call."""

    size: int
    """Inputs that it takes at most."""

    def __call__(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Return logits of shape (n,) and maps of shape (n, h, w), on the CPU, for inputs of shape (n, size, size)."""


class Graphs:
    """Captures a network's call once batches of one size repeat: what is short is not worth the capture.

    Smaller batches are padded, so that a scan's last one needs no capture of its own.
    """

    def __init__(self, capture: Callable[[tuple[int, ...]], Replay]) -> None:
        """Take what captures a call for inputs of a shape; it may raise RuntimeError, and is then not tried again."""
        self._capture = capture
        self._replay: Replay | None = None
        self._failed = False
        self._last = 0

    def run(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor] | None:
        """Return logits and maps for inputs of shape (n, size, size); None if they are to be had without a graph."""
        repeats, self._last = len(images) == self._last, len(images)
        fits = self._replay is not None and len(images) <= self._replay.size
        if repeats and not fits and not self._failed:
            self._try(images.shape)
        if self._replay is None or len(images) > self._replay.size:
            return None
        return self._replay(images)

    def _try(self, shape: tuple[int, ...]) -> None:
        self._replay = None  # lets go of a smaller one's memory
        try:
            self._replay = self._capture(shape)
        except RuntimeError as error:  # out of memory is one, too
            self._failed = True
            _log.warning("no CUDA graph, which costs speed alone: %s", str(error).strip().partition("\n")[0])


class CudaGraph:
    """A call on a CUDA device, its inputs copied from pinned memory."""

    @torch.inference_mode()
    def __init__(self, forward: Forward, device: torch.device, shape: tuple[int, ...]) -> None:
        """Capture the call for inputs of shape (n, size, size); raises RuntimeError if CUDA cannot."""
        self.size = shape[0]
        self._device = device
        self._host = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        with torch.cuda.device(device):
            self._grey = torch.zeros(shape, dtype=torch.uint8, device=device)
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):  # what libraries set up at the first calls must not be captured
                for _ in range(WARM_UP):
                    forward(self._grey)
            torch.cuda.current_stream().wait_stream(beside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._outputs = forward(self._grey)

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Return logits of shape (n,) and maps of shape (n, h, w), on the CPU, for inputs of shape (n, size, size)."""
        count = len(images)
        self._host[:count] = torch.from_numpy(images)  # what is left of an earlier batch behind them is not looked at
        with torch.cuda.device(self._device):
            self._grey.copy_(self._host, non_blocking=True)
            self._graph.replay()
            logits, maps = (output[:count].cpu() for output in self._outputs)  # waits for the device
        return logits, maps
