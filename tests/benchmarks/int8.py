"""What int8 would give in OpenVINO: speed and parity of the model after NNCF's post-training quantisation.

usage: python tests/benchmarks/int8.py DATA [--model NAME] [--calibration 300] [--slices 300]
                                       [--write docs/performance.md]

Needs `pip install nncf`, which hemoscan itself does not. Calibrated on training slices, compared with fp32 on the first
validation slices. NNCF and OpenVINO send nothing: the package that would, openvino-telemetry, is kept from them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from parity import HEADER, compare, weights_line
from performance import machine_line, table, write_section

from hemoscan.card import Card, find_model
from hemoscan.exporting import calibrated
from hemoscan.ir_cache import cached_ir
from hemoscan.machine import version_of
from hemoscan.openvino_runtime import import_openvino
from hemoscan.trainer.data import load_splits

CONFIG = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
VARIANTS: dict[str, dict[str, Any]] = {
    "int8, performance preset": {"preset": "performance"},
    "int8, mixed preset": {"preset": "mixed"},
}


def score(model: Any, images: np.ndarray, card: Card) -> tuple[np.ndarray, float]:
    """Return calibrated probabilities and slices per second of CPU time, which other work changes little."""
    ov = import_openvino()
    queue = ov.AsyncInferQueue(ov.Core().compile_model(model, "CPU", CONFIG))
    logits = np.empty(len(images))

    def take(request: Any, index: int) -> None:
        logits[index] = request.output_tensors[0].data[0]

    queue.set_callback(take)
    queue.start_async({0: images[:1]}, 0)
    queue.wait_all()
    started = time.process_time()
    for index in range(len(images)):
        queue.start_async({0: images[index : index + 1]}, index)
    queue.wait_all()
    return calibrated(logits, card), len(images) / (time.process_time() - started)


def quantise(model: Any, images: np.ndarray, *, preset: str, **options: Any) -> Any:
    import_openvino()  # NNCF, too, then finds nothing to send with
    import nncf

    calibration = nncf.Dataset(list(images), lambda image: image[None])
    chosen = nncf.QuantizationPreset(preset)
    return nncf.quantize(model.clone(), calibration, preset=chosen, subset_size=len(images), **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="densenet-bias")
    parser.add_argument("--calibration", type=int, default=300)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    model = find_model(options.model)
    size, threshold = model.card.input.size, model.card.threshold
    training, validation = load_splits(options.data, model.card.input, limit=max(options.calibration, options.slices))
    images, labels = validation.images[: options.slices], validation.labels[: options.slices]
    fp32 = import_openvino().Core().read_model(*cached_ir(model, print))
    fp32.reshape([1, size, size])
    reference, rate = score(fp32, images, model.card)
    rows = [["openvino", "fp32", *compare(reference, reference, labels, threshold), f"{rate:.1f}", "1.00"]]
    for name, variant in VARIANTS.items():
        quantised = quantise(fp32, training.images[: options.calibration], **variant)
        found, int8_rate = score(quantised, images, model.card)
        row = ["openvino", name, *compare(reference, found, labels, threshold)]
        rows.append([*row, f"{int8_rate:.1f}", f"{int8_rate / rate:.2f}"])
        print(rows[-1], flush=True)
    command = f"--model {options.model} --calibration {options.calibration} --slices {options.slices}"
    text = f"""## int8, which hemoscan does not offer
`python tests/benchmarks/int8.py DATA {command} --write docs/performance.md`: {machine_line()},
nncf {version_of("nncf")}; {weights_line(model.card)}.

NNCF's post-training quantisation, calibrated on {options.calibration} training slices, beside OpenVINO in fp32, on the
first validation slices; probabilities are calibrated as a scan's, not rounded; slices per second of CPU time.

{table([*HEADER, "slices/CPU s", "ratio"], rows)}
"""
    print(text)
    if options.write:
        write_section(options.write, "int8", text)


if __name__ == "__main__":
    main()
