"""The forward pass of a training step, compiled and captured in a CUDA graph where that works."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException


class Forward:
    """A model's forward pass, compiled if asked for; where that fails it says so once and runs uncompiled.

    PyTorch compiles the backward pass along with it.
    """

    def __init__(self, model: nn.Module, *, compiled: bool, note: Callable[[str], None]) -> None:
        self.model, self.note = model, note
        self.compiled: Callable[[Tensor], Tensor] | None = None
        if compiled:
            self.compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits of shape (n,) for images of shape (n, rows, columns); they last until the next call."""
        if self.compiled is not None:
            try:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                return self.compiled(images)
            except TorchDynamoException as error:
                self.note(f"goes on uncompiled: {type(error).__name__}: {str(error).splitlines()[0]}")
                self.compiled = None
        logits: Tensor = self.model(images)
        return logits
