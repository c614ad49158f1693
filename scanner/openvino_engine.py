"""The network at work in OpenVINO on a CPU: the fastest there, and without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemoscan.card import Model
from hemoscan.errors import EngineError, OptionError
from hemoscan.ir_cache import cached_ir
from hemoscan.openvino_runtime import import_openvino

HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """A model compiled for the CPU: one image a request, as many requests at a time as OpenVINO deems best.

    An image's logit so does not depend on its neighbours, nor on how many images are passed at a time.
    """

    def __init__(
        self,
        model: Model,
        precision: str,
        threads: int | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Compile the model.

        Parameters
        ----------
        model
            The model.
        precision
            fp32 or bf16, as `pick_precision` returns it.
        threads
            Threads to compute in; None for OpenVINO's own choice, all cores.
        say
            Told of a conversion and of a cache that cannot be used.

        Raises
        ------
        CardError
            If the weights are missing or changed.
        EngineError
            If OpenVINO is not installed, or cannot take the model.
        """
        self._name = model.card.name
        model.read_weights()  # a damaged installation is an error, whether or not its IR is in the cache
        ov = import_openvino()
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            # Bound to cores, the threads of every process would be on the first ones, and decoders could not share.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        graph, weights = cached_ir(model, say)
        size = model.card.input.size
        try:
            core = ov.Core()
            read = core.read_model(graph, weights)
            read.reshape([1, size, size])
            compiled = core.compile_model(read, "CPU", config)
            self._map_shape = tuple(compiled.output(1).shape)[1:]
            self._new_queue: Callable[[], Any] = lambda: ov.AsyncInferQueue(compiled)
            self._queue = self._new_queue()
            computed = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        except RuntimeError as error:
            raise _failure(self._name, error) from error
        # Where OpenVINO cannot have what it is asked for, it computes in fp32 without a word.
        self._precision = "bf16" if computed == HINTS["bf16"] else "fp32"

    def describe(self) -> dict[str, str]:
        """Return name, device and precision, for the run record."""
        return {"name": "openvino", "device": "cpu", "precision": self._precision}

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return logits of hemorrhage, of shape (n,), for inputs of shape (n, size, size).

        Raises EngineError if OpenVINO fails.
        """
        return self.logits_and_maps(images)[0]

    def logits_and_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return logits of shape (n,) and class activation maps of shape (n, h, w), whose means are the logits.

        Raises EngineError if OpenVINO fails.
        """
        logits = np.empty(len(images))
        maps = np.empty((len(images), *self._map_shape), np.float32)

        def take(request: Any, index: int) -> None:
            logit, activation = request.output_tensors
            logits[index], maps[index] = logit.data[0], activation.data[0]

        self._queue.set_callback(take)
        try:
            for index, image in enumerate(images):
                self._queue.start_async({0: image[np.newaxis]}, index)
            self._queue.wait_all()
        except RuntimeError as error:
            self._queue = self._new_queue()  # a request that fails is not free again: the next call would wait forever
            raise _failure(self._name, error) from error
        return logits, maps


def _failure(name: str, error: RuntimeError) -> EngineError:
    cause = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return EngineError(f"{name} cannot be run in OpenVINO ({cause}); legal: --engine torch")


def pick_precision(name: str) -> str:
    """Return fp32 or bf16; `auto` is bf16 where the processor computes in it, fp32 elsewhere.

    Raises
    ------
    OptionError
        If bf16 is asked for where the processor lacks it: OpenVINO would silently compute in fp32.
    """
    native = "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if name == "bf16" and not native:
        raise OptionError(
            "--precision bf16: this processor does not compute in bf16; legal: auto, fp32, or bf16 with --engine torch"
        )
    return ("bf16" if native else "fp32") if name == "auto" else name
