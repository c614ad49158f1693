"""The network at work: batches of inputs to probabilities."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hemoscan.card import Model
from hemoscan.devices import autocast
from hemoscan.networks import load_classifier


class TorchEngine:
    """A model loaded on a device with PyTorch."""

    def __init__(self, model: Model, device: torch.device, precision: str) -> None:
        """Load the model; raises CardError if its weights are missing or changed."""
        self._device = device
        self._precision = precision
        self._classifier = load_classifier(model).to(device)

    def describe(self) -> dict[str, str]:
        """Return name, device and precision, for the run record."""
        return {"name": "torch", "device": str(self._device), "precision": self._precision}

    @torch.inference_mode()
    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return probabilities of hemorrhage, of shape (n,), for inputs of shape (n, size, size)."""
        with autocast(self._device, self._precision):
            logits = self._classifier(torch.from_numpy(images).to(self._device)).cpu()  # Apple GPUs have no float64
        return torch.sigmoid(logits.double()).numpy()
