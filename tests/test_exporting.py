"""Exported files: what other runtimes get, checked before anything is written."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hemoscan import NOTICE, exporting
from hemoscan.card import HEAD, RAW, Model, read_card
from hemoscan.cli import cli
from hemoscan.errors import ExportError, OutputError
from hemoscan.exporting import compare, export, main, metadata, sample
from hemoscan.networks import load_classifier
from hemoscan.openvino_runtime import import_openvino
from hemoscan.operating import Calibration
from hemoscan.slices import to_probability

TRACE = exporting.trace


@pytest.fixture(scope="module")
def program(untrained: Model) -> Any:
    return exporting.trace(untrained)


@pytest.fixture(scope="module")
def traced(program: Any):
    """Trace once for all tests: it takes most of an export's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "trace", lambda model: program)
        yield


@pytest.fixture(scope="module")
def files(untrained: Model, traced: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of both formats, by format."""
    folder = tmp_path_factory.mktemp("exported")
    found = {}
    for kind, suffix in exporting.FORMATS.items():
        found[kind] = folder / f"model{suffix}"
        assert export(untrained, found[kind], kind) <= exporting.TOLERANCE
    return found


def test_an_export_leaves_its_files_and_no_others(files: dict[str, Path]):
    assert sorted(path.name for path in files["onnx"].parent.iterdir()) == ["model.bin", "model.onnx", "model.xml"]


@pytest.mark.parametrize("kind", exporting.FORMATS)
def test_files_score_like_torch_for_any_number_of_slices(untrained: Model, files: dict[str, Path], kind: str):
    images = sample(untrained.card)[[3, 1, 2]]
    compiled = import_openvino().Core().compile_model(str(files[kind]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.inference_mode():
        expected = load_classifier(untrained)(torch.from_numpy(images)).numpy()
    found = compiled(images)
    np.testing.assert_allclose(found["logit"], expected, rtol=0, atol=1e-4)
    assert found["map"].shape == (3, 7, 7)
    np.testing.assert_allclose(found["map"].mean((1, 2)), found["logit"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(compiled(images[:1])["logit"], found["logit"][:1], rtol=0, atol=1e-5)


def test_onnx_carries_card_notice_and_description(untrained: Model, files: dict[str, Path], tmp_path: Path):
    import onnx

    model = onnx.load(files["onnx"])
    onnx.checker.check_model(model)
    assert [item.version for item in model.opset_import if item.domain == ""] == [exporting.ONNX_OPSET]
    (tmp_path / "card.json").write_text({item.key: item.value for item in model.metadata_props}["card"])
    assert read_card(tmp_path / "card.json") == untrained.card
    found = {item.key: item.value for item in model.metadata_props}
    assert found["notice"] == NOTICE
    assert "0 to 70" in found["input"]
    (grey,) = model.graph.input
    assert grey.name == "grey"
    assert grey.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [axis.dim_value for axis in grey.type.tensor_type.shape.dim][1:] == [224, 224]
    assert grey.type.tensor_type.shape.dim[0].dim_param
    assert [output.name for output in model.graph.output] == ["logit", "map"]


def test_openvino_carries_card_notice_and_description(untrained: Model, files: dict[str, Path], tmp_path: Path):
    graph = import_openvino().Core().read_model(str(files["openvino"]))
    (tmp_path / "card.json").write_text(graph.get_rt_info(["hemoscan", "card"]).astype(str))
    assert read_card(tmp_path / "card.json") == untrained.card
    assert graph.get_rt_info(["hemoscan", "notice"]).astype(str) == NOTICE
    assert graph.inputs[0].get_any_name() == "grey"
    assert str(graph.inputs[0].partial_shape).endswith("224,224]")
    assert [output.get_any_name() for output in graph.outputs] == ["logit", "map"]


def test_a_file_says_what_its_input_is(untrained: Model):
    whole = metadata(untrained.card)["input"]
    assert "tissue: null" in whole
    assert "crop: false" in whole
    head = metadata(replace(untrained.card, input=HEAD))["input"]
    assert "tissue: 30 HU" in head
    assert "crop: true" in head
    assert "(n, 224, 224)" in head


def test_the_probability_that_a_file_tells_of_is_the_scans(untrained: Model):
    """Read as arithmetic, the description gives what a scan writes."""
    calibrated = replace(untrained.card, calibration=Calibration(1.1383618945298895, -0.25))
    for card in (untrained.card, calibrated):
        formula = metadata(card)["output"].partition("the probability is ")[2].partition(",")[0]
        for logit in (-3.0, 0.5, 2.0):
            names = {"sigmoid": lambda x: 1 / (1 + math.exp(-x)), "logit": logit}
            found = eval(formula, {"__builtins__": {}}, names)  # noqa: S307 - our own text
            assert found == pytest.approx(to_probability(logit, card.calibration), abs=1e-6)
    assert "calibration" in metadata(calibrated)["output"]


def test_the_difference_is_of_calibrated_probabilities(untrained: Model, files: dict[str, Path]):
    """A slope that makes all of them 1 leaves none."""
    blunt = replace(untrained.card, calibration=Calibration(1.0, 1e4))
    assert compare(Model(blunt, untrained.folder), files["openvino"]) == 0
    assert compare(untrained, files["openvino"]) > 0


def other_weights(model: Model) -> torch.nn.Module:
    """The network with another last unit."""
    classifier = load_classifier(model)
    with torch.no_grad():
        classifier.network.classifier[1].bias += 1
    return classifier


def test_a_file_that_scores_otherwise_is_not_written(
    untrained: Model, traced: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(exporting, "load_classifier", other_weights)
    (tmp_path / "model.xml").write_text("an older file")
    with pytest.raises(ExportError, match=r"differs from PyTorch by 0\..*legal: 0\.0001; nothing was written"):
        export(untrained, tmp_path / "model.xml", "openvino")
    assert [path.name for path in tmp_path.iterdir()] == ["model.xml"]
    assert (tmp_path / "model.xml").read_text() == "an older file"


def test_an_ir_of_the_scans_own_that_scores_otherwise_is_refused(
    untrained: Model, traced: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    arguments = [str(untrained.folder / "untrained.json"), str(untrained.folder), str(tmp_path / "model.xml")]
    assert main(arguments) == 0
    monkeypatch.setattr(exporting, "load_classifier", other_weights)
    assert main(arguments) == 1
    assert "differs from PyTorch by 0." in capsys.readouterr().err


def fails(*_: object) -> NoReturn:
    raise RuntimeError("Exception from src/core:\nCheck failed")


def test_what_pytorch_and_openvino_raise_is_told_in_words(
    untrained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(exporting, "trace", fails)
    expected = "densenet-bias cannot be converted (RuntimeError: Exception from src/core:)"
    for kind, suffix in exporting.FORMATS.items():
        with pytest.raises(ExportError) as raised:
            export(untrained, tmp_path / f"model{suffix}", kind)
        assert str(raised.value) == expected
    card = untrained.folder / "untrained.json"
    assert main([str(card), str(untrained.folder), str(tmp_path / "model.xml")]) == 1
    assert capsys.readouterr().err == expected + "\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_scores_nan_is_not_right(untrained: Model, monkeypatch: pytest.MonkeyPatch):
    compiled = SimpleNamespace(compile_model=lambda *_: lambda images: [np.full(len(images), np.nan, np.float32)])
    monkeypatch.setattr(exporting, "import_openvino", lambda: SimpleNamespace(Core=lambda: compiled))
    with pytest.raises(ExportError, match="nan"):
        compare(untrained, Path("any.xml"))


def test_the_sample_is_four_images_within_the_window(untrained: Model):
    for spec in (untrained.card.input, RAW):
        images = sample(replace(untrained.card, input=spec))
        low, high = spec.limits
        assert images.shape == (4, spec.size, spec.size)
        assert images.dtype == np.uint8
        assert low <= images.min() <= images.max() <= high
        assert len({image.tobytes() for image in images}) == 4


def test_a_folder_that_lacks_is_an_error(untrained: Model, tmp_path: Path):
    with pytest.raises(OutputError, match="cannot be written"):
        export(untrained, tmp_path / "none" / "model.onnx", "onnx")


def test_onnx_without_its_packages_says_what_to_install(
    untrained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match=r"pip install 'hemoscan\[onnx\]'"):
        export(untrained, tmp_path / "model.onnx", "onnx")


def test_a_conversion_that_fails_says_why(
    untrained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(exporting, "trace", TRACE)
    card = untrained.folder / "untrained.json"
    assert main([str(card), str(tmp_path), str(tmp_path / "model.xml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_the_command_writes_and_tells(untrained: Model, traced: None, tmp_path: Path):
    target = tmp_path / "some.xml"
    arguments = ["export", str(untrained.folder / "untrained.json"), "--format", "openvino", "-o", str(target)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert target.is_file()
    assert target.with_suffix(".bin").is_file()
    assert f"{target}: openvino, probabilities within" in result.stderr


@pytest.mark.parametrize(("kind", "name"), [("onnx", "model.xml"), ("openvino", "model.onnx"), ("onnx", "model")])
def test_a_wrong_suffix_is_wrong_usage(untrained: Model, kind: str, name: str):
    arguments = ["export", str(untrained.folder / "untrained.json"), "--format", kind, "-o", name]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "legal for" in result.stderr
