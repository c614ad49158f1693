"""The network at work: batches of inputs to logits."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from hemoscan.card import Model
from hemoscan.devices import autocast
from hemoscan.graphs import CudaGraph, Graphs
from hemoscan.networks import collecting_maps, load_classifier


class TorchEngine:
    """A model loaded on a device with PyTorch."""

    def __init__(self, model: Model, device: torch.device, precision: str) -> None:
        """Load the model; raises CardError if its weights are missing or changed."""
        self._device = device
        self._precision = precision
        self._architecture = model.card.architecture
        self._classifier = load_classifier(model).to(device)
        cuda = device.type == "cuda"
        self._graphs = Graphs(partial(CudaGraph, self._forward, device)) if cuda else None
        if cuda and precision == "fp32":
            # Else cuDNN takes TF32, which has the mantissa of fp16, for fp32. Global to the process.
            torch.backends.cudnn.allow_tf32 = False

    def describe(self) -> dict[str, str]:
        """Return name, device and precision, for the run record."""
        return {"name": "torch", "device": str(self._device), "precision": self._precision}

    @torch.inference_mode()
    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return logits of hemorrhage, of shape (n,), for inputs of shape (n, size, size).

        On a CPU one image at a time: there the bits of a logit depend on how many share its batch, and a scan that goes
        on after a kill batches otherwise.
        """
        replayed = self._graphs.run(images) if self._graphs else None
        return self._eager(images) if replayed is None else replayed[0].double().numpy()

    def _eager(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        parts = np.split(images, len(images)) if self._device.type == "cpu" else [images]
        with autocast(self._device, self._precision):
            # Apple GPUs have no float64.
            logits = [self._classifier(torch.from_numpy(part).to(self._device)).cpu().double() for part in parts]
        return torch.cat(logits).numpy()

    @torch.inference_mode()
    def logits_and_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return logits, to the bit those of `logits`, and class activation maps of shape (n, h, w), by one inference.

        The mean of a map is its logit, within the precision.
        """
        replayed = self._graphs.run(images) if self._graphs else None
        if replayed is not None:
            return replayed[0].double().numpy(), replayed[1].numpy()
        with collecting_maps(self._classifier, self._architecture) as maps:
            logits = self._eager(images)
        return logits, torch.cat([part.cpu() for part in maps]).numpy()

    def _forward(self, grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and maps, on the device, for inputs there."""
        with (
            collecting_maps(self._classifier, self._architecture) as maps,
            autocast(self._device, self._precision),
        ):
            logits = self._classifier(grey)
        return logits, maps[0]
