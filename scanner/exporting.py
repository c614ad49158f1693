"""Models as files for other runtimes: OpenVINO IR and ONNX, with normalisation in the graph and the card inside.

`python -m hemoscan.exporting CARD WEIGHTS_FOLDER FILE.xml` writes the IR that the OpenVINO engine keeps, compared with
PyTorch: a process of its own, so that a scan never holds torch in memory.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemoscan import NOTICE, __version__
from hemoscan.card import Card, InputSpec, Model, read_card
from hemoscan.errors import ExportError, HemoscanError, OutputError
from hemoscan.networks import MappedClassifier, load_classifier
from hemoscan.openvino_runtime import import_openvino

if TYPE_CHECKING:
    from torch.export import ExportedProgram

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
INPUT = "grey"
OUTPUTS = ("logit", "map")
ONNX_OPSET = 18
# The product's promise between engines in fp32.
TOLERANCE = 1e-4


def metadata(card: Card) -> dict[str, str]:
    """Return what a file says of itself: notice, card, and what goes in and comes out."""
    return {
        "hemoscan": __version__,
        "notice": NOTICE,
        "card": card.to_json(),
        "input": _describe_input(card.input),
        "output": f"logit: float32, (n,); the probability is {_describe_probability(card)}; map: float32, (n, h, w), "
        "the class activation map, whose mean is the logit",
    }


def _describe_input(spec: InputSpec) -> str:
    low, high = spec.limits
    tissue = "null, levels are left as they are"
    if spec.tissue is not None:
        tissue = f"{spec.tissue:g} HU, to which the median of the slice's central tissue is brought"
    crop = "true, the head is cut out of the frame" if spec.crop else "false, the whole frame"
    return (
        f"{INPUT}: uint8, (n, {spec.size}, {spec.size}), as hemoscan.preprocess.preprocess makes it of HU by the "
        f"card's input: clipped to {low:g} to {high:g} HU, whole numbers; tissue: {tissue}; crop: {crop}; "
        "normalisation is inside"
    )


def _describe_probability(card: Card) -> str:
    found = card.calibration
    if found is None:
        return "sigmoid(logit), the card has no calibration"
    return f"sigmoid({found.slope!r} * logit + {found.intercept!r}), slope and intercept of the card's calibration"


@contextmanager
def _told(model: Model) -> Iterator[None]:
    """Turn whatever PyTorch or OpenVINO raise about a model into an error in words."""
    try:
        yield
    except (HemoscanError, OSError):
        raise
    except Exception as error:  # both raise many types of their own
        lines = str(error).strip().splitlines() or [""]
        raise ExportError(f"{model.card.name} cannot be converted ({type(error).__name__}: {lines[0]})") from error


def trace(model: Model) -> ExportedProgram:
    """Return a model's graph, for any number of slices.

    Raises
    ------
    CardError
        If its weights are missing, changed, or do not fit the card's architecture.
    """
    classifier = MappedClassifier(load_classifier(model), model.card.architecture).eval()
    # Two slices: torch.export takes a size of one for a constant.
    example = torch.zeros((2, model.card.input.size, model.card.input.size), dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(classifier, (example,), dynamic_shapes=({0: torch.export.Dim("n", max=65536)},))


def to_openvino(program: ExportedProgram, card: Card) -> Any:
    """Convert a graph to OpenVINO's, with named input and outputs and the metadata."""
    ov = import_openvino()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = ov.convert_model(program)
    graph.reshape([-1, card.input.size, card.input.size])  # the conversion leaves all three open
    graph.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(graph.outputs, OUTPUTS, strict=True):
        output.get_tensor().set_names({name})
    for key, value in metadata(card).items():
        graph.set_rt_info(value, ["hemoscan", key])
    return graph


def write_openvino(model: Model, path: Path) -> None:
    """Write OpenVINO IR: `path`, which ends in .xml, and the .bin beside it, weights in float32."""
    ov = import_openvino()
    ov.save_model(to_openvino(trace(model), model.card), str(path), compress_to_fp16=False)


def write_onnx(model: Model, path: Path) -> None:
    """Write ONNX.

    Raises
    ------
    ExportError
        If onnx or onnxscript are not installed.
    """
    try:
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise ExportError(
            f"ONNX needs the packages onnx and onnxscript: pip install 'hemoscan[onnx]' ({error})"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            trace(model),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=ONNX_OPSET,
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update(metadata(model.card))
    program.model.producer_name = "hemoscan"
    program.model.producer_version = __version__
    program.save(str(path), external_data=False)


def export(model: Model, path: Path, kind: str) -> float:
    """Write a model for another runtime, read it back, and compare it with PyTorch.

    Parameters
    ----------
    model
        The model; its weights are checked against its card.
    path
        The file to write, replaced if it is there. OpenVINO's weights go beside it, with the suffix .bin.
    kind
        onnx or openvino.

    Returns
    -------
    float
        Largest difference of a probability from PyTorch's, on a sample of slices.

    Raises
    ------
    ExportError
        If the model cannot be converted, or the file would score otherwise than PyTorch: none is written then.
    OutputError
        If the file cannot be written.
    """
    writers = {"onnx": write_onnx, "openvino": write_openvino}
    try:
        with tempfile.TemporaryDirectory(prefix=".hemoscan-", dir=path.parent) as folder:
            made = Path(folder) / f"model{FORMATS[kind]}"
            with _told(model):
                writers[kind](model, made)
                difference = compare(model, made)
            weights = made.with_suffix(".bin")
            if kind == "openvino":
                weights.replace(path.with_suffix(".bin"))
            made.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return difference


def compare(model: Model, path: Path) -> float:
    """Return the largest difference of a probability between a file, run by OpenVINO, and PyTorch.

    Raises
    ------
    ExportError
        If it is above 1e-4.
    """
    ov = import_openvino()
    images = sample(model.card)
    compiled = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(images)[0]
    with torch.inference_mode():
        expected = load_classifier(model)(torch.from_numpy(images)).numpy()
    away = calibrated(found, model.card) - calibrated(expected, model.card)
    difference = float(np.abs(away).max())
    if not difference <= TOLERANCE:  # NaN is a difference too
        raise ExportError(
            f"{model.card.name}: the exported file differs from PyTorch by {difference:.2g} in probability; "
            f"legal: {TOLERANCE:g}; nothing was written"
        )
    return difference


def sample(card: Card) -> NDArray[np.uint8]:
    """Return inputs of shape (4, size, size) to try a model on: an empty slice, a disc, a ramp, noise."""
    size = card.input.size
    low, high = (int(limit) for limit in card.input.limits)
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    disc = np.where(rows**2 + columns**2 < 0.12, (low + high) // 2, low)
    ramp = low + (columns + 0.5) * (high - low)
    noise = np.random.default_rng(0).integers(low, high + 1, (size, size))
    return np.stack([np.full((size, size), low), disc, ramp, noise]).astype(np.uint8)


def calibrated(logits: NDArray[np.floating[Any]], card: Card) -> NDArray[np.float64]:
    """Return probabilities of shape (n,) as a scan compares them with the card's threshold, but not rounded."""
    found = logits.astype(np.float64)
    if card.calibration is not None:
        found = card.calibration.slope * found + card.calibration.intercept
    return 1 / (1 + np.exp(-found))


def main(arguments: list[str]) -> int:
    """Write the IR of a card's model and compare it with PyTorch; return the exit code."""
    card, weights, path = (Path(argument) for argument in arguments)
    try:
        model = Model(read_card(card), weights)
        with _told(model):
            write_openvino(model, path)
            compare(model, path)
    except HemoscanError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
