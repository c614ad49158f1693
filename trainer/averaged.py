"""The exponential moving average of a network's weights over the steps of a training."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hemoscan.networks import Classifier

Tensors = tuple[Tensor, ...] | list[Tensor]


class Averaged:
    """A classifier whose weights, BatchNorm's running statistics among them, are averages.

    Early steps count less than the decay has it, as the average of step n takes at most (1 + n) / (10 + n) of what was
    before: else the random start would stay in it for long. Sources: Polyak and Juditsky, Acceleration of stochastic
    approximation by averaging, 1992; the rise is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, classifier: Classifier, decay: float) -> None:
        """Start from the classifier's weights.

        Parameters
        ----------
        decay
            Share that stays of the average at every step, above 0 and below 1.
        """

        def blend(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
            kept = min(decay, (1 + int(steps)) / (10 + int(steps)))
            get_ema_multi_avg_fn(kept)(averaged, current, steps)  # type: ignore[no-untyped-call]

        self._model = AveragedModel(classifier, multi_avg_fn=blend, use_buffers=True)

    @property
    def classifier(self) -> Classifier:
        """The averaged network."""
        module = self._model.module
        if not isinstance(module, Classifier):
            raise TypeError(f"average of {type(module).__name__}, not of Classifier")
        return module

    def update(self, classifier: Classifier) -> None:
        """Take in the weights after a step."""
        self._model.update_parameters(classifier)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return dict(self._model.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved average."""
        self._model.load_state_dict(state)
