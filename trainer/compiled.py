"""The forward pass of a training step, compiled where that works."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException


class Forward:
    """A model's forward pass, compiled if asked for; where that fails it says so once and runs uncompiled.

    PyTorch compiles the backward pass along with it. Only the largest batches are worth the minutes that it takes.
    """

    def __init__(self, model: nn.Module, *, compiled: bool, note: Callable[[str], None]) -> None:
        self.model, self.note = model, note
        self.largest = 0
        self.compiled: Callable[[Tensor], Tensor] | None = torch.compile(model, dynamic=False) if compiled else None

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits of shape (n,) for images of shape (n, rows, columns)."""
        self.largest = max(self.largest, len(images))
        if self.compiled is not None and len(images) == self.largest:
            try:
                return self.compiled(images)
            except TorchDynamoException as error:
                self.note(f"goes on uncompiled: {type(error).__name__}: {str(error).splitlines()[0]}")
                self.compiled = None
        logits: Tensor = self.model(images)
        return logits
