"""Training steps captured in a CUDA graph and replayed, so that the GPU never waits for Python.

Source: PyTorch's notes on CUDA semantics, "CUDA Graphs", whole-network capture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor

Learn = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Learn a batch: images of shape (n, rows, columns), labels (n,), weights (n,), scale of the loss; return the loss."""
Replay = Callable[[Tensor, Tensor, Tensor], Tensor]

WARM_UP = 3
"""Steps before a capture. They train as all others do; in them cuDNN and the optimizer prepare what they need."""


class Graphs(Protocol):
    """What runs work as it is, and records it to be run again."""

    def run(self, work: Callable[[], Tensor], *, tune: bool) -> Tensor:
        """Do the work; with `tune`, time cuDNN's algorithms and keep the fastest."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Return what does the work again, and the tensor that then holds its result. Recording does not do it."""


class CudaGraphs:
    """PyTorch's CUDA graphs, on a stream of their own."""

    broken: ClassVar[list[torch.cuda.CUDAGraph]] = []
    """Captures that CUDA broke off. PyTorch's allocator never hears of their end, and asks them at every later one."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, work: Callable[[], Tensor], *, tune: bool) -> Tensor:
        """See `Graphs`. On the stream of the capture, as PyTorch asks for: gradients keep to the stream they met."""
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = tune
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                return work()
        finally:
            current.wait_stream(self.stream)
            torch.backends.cudnn.benchmark = before

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See `Graphs`. A capture that CUDA breaks off leaves its stream current and the generator unusable."""
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[self.stream.device.index]
        before = generator.clone_state()
        try:
            with torch.cuda.stream(self.stream), torch.cuda.graph(graph, stream=self.stream):
                result = work()
        except RuntimeError:
            generator.graphsafe_set_state(before)
            self.broken.append(graph)
            raise
        return graph.replay, result


class Captured:
    """Learns batches, those of a shape that comes again and again from a graph; where that fails, as they are.

    `learn` must read nothing that changes but its tensors and those that stay where they are on the device.
    """

    def __init__(self, learn: Learn, graphs: Graphs, note: Callable[[str], None]) -> None:
        self.learn, self.graphs, self.note = learn, graphs, note
        self.pixels: tuple[int, ...] = ()
        self.met: Counter[int] = Counter()
        self.replays: dict[int, Replay] = {}
        self.failed = False

    def __call__(self, images: Tensor, labels: Tensor, weights: Tensor, scale: float) -> Tensor:
        """Learn a batch; return its loss, of shape (), on the device."""
        if images.shape[1:] != self.pixels:
            self.pixels = tuple(images.shape[1:])
            self.met.clear()
            self.replays.clear()
        n = len(images)
        if n not in self.replays and self.met[n] >= WARM_UP and not self.failed:
            self.capture(images, labels, weights, scale)
        if n in self.replays:
            return self.replays[n](images, labels, weights)
        self.met[n] += 1
        # The last batch of an epoch is smaller, and not worth the search for its algorithms.
        return self.graphs.run(lambda: self.learn(images, labels, weights, scale), tune=n == max(self.met))

    def capture(self, images: Tensor, labels: Tensor, weights: Tensor, scale: float) -> None:
        """Record the work on batches of this shape."""
        inputs = images.clone(), labels.clone(), weights.clone()
        try:
            run, loss = self.graphs.record(lambda: self.learn(*inputs, scale))
        except RuntimeError as error:
            self.failed = True
            self.replays.clear()  # the generator that earlier graphs draw from may be unusable, too
            reason = str(error).partition("\n")[0]
            self.note(f"goes on without CUDA graphs (--no-capture leaves them out): {type(error).__name__}: {reason}")
            return

        def replay(*values: Tensor) -> Tensor:
            for kept, value in zip(inputs, values, strict=True):
                kept.copy_(value)
            run()
            return loss.clone()

        self.replays[len(images)] = replay
