"""The two networks: shape, top, normalisation, saving, and the weights that a training starts from."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.torch
import torch
import torchvision.models
from torch import Tensor, nn

from hemoscan.card import BRAIN, RAW, Card, InputSpec, Model
from hemoscan.errors import CardError, StartError
from hemoscan.networks import (
    Classifier,
    MappedClassifier,
    build_classifier,
    collecting_maps,
    load_classifier,
    load_saved,
    save_weights,
    start_classifier,
    top_unit,
)

TOPS = {"densenet121": ("classifier", 1024), "resnet101": ("fc", 2048)}


@pytest.fixture(scope="module", params=sorted(TOPS))
def classifier(request: pytest.FixtureRequest) -> Iterator[tuple[str, Classifier]]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield request.param, build_classifier(request.param, BRAIN).eval()


@pytest.fixture(scope="module")
def densenet() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return build_classifier("densenet121", BRAIN).eval()


@pytest.fixture(scope="module")
def torchvision_state() -> dict[str, Tensor]:
    """Weights as torchvision publishes them: DenseNet-121 with 1000 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return torchvision.models.densenet121().state_dict()


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith("features.")}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def greys(count: int = 2, size: int = 64) -> Tensor:
    return torch.randint(0, 71, (count, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_logit_for_each_slice(classifier: tuple[str, Classifier]):
    with torch.inference_mode():
        logits = classifier[1](greys(3))
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32
    assert len(set(logits.tolist())) == 3


def test_the_top_is_dropout_and_one_unit(classifier: tuple[str, Classifier]):
    architecture, network = classifier
    name, features = TOPS[architecture]
    dropout, unit = getattr(network.network, name)
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.5
    assert isinstance(unit, nn.Linear)
    assert (unit.in_features, unit.out_features) == (features, 1)
    assert unit.bias is not None
    assert top_unit(network, architecture) is unit


def test_the_backbone_is_torchvisions(classifier: tuple[str, Classifier]):
    architecture, network = classifier
    top = TOPS[architecture][0]
    with torch.device("meta"):
        theirs = torchvision.models.get_model(architecture).state_dict()
    shapes = {name: value.shape for name, value in network.network.state_dict().items() if not name.startswith(top)}
    assert shapes == {name: value.shape for name, value in theirs.items() if not name.startswith(top)}


def test_whole_and_floating_greys_give_the_same_logits(densenet: Classifier):
    with torch.inference_mode():
        assert torch.equal(densenet(greys()), densenet(greys().float()))


@pytest.mark.parametrize("spec", [BRAIN, RAW, InputSpec((40.0, 80.0), scale=80.0, mean=(0.1, 0.2, 0.3), std=(1, 2, 3))])
def test_greys_are_scaled_and_normalised_as_the_card_says(spec: InputSpec):
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, channels: Tensor) -> Tensor:
            seen.append(channels)
            return channels.mean(dim=(2, 3))[:, :1]

    grey = greys()
    Classifier(Spy(), spec)(grey)
    expected = [(grey.double() / spec.scale - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)]
    torch.testing.assert_close(seen[0].double(), torch.stack(expected, dim=1), rtol=1e-5, atol=1e-5)


# Saving and loading


def save(classifier: Classifier, folder: Path, **changes: Any) -> Model:
    content = save_weights(classifier)
    (folder / "w.safetensors").write_bytes(content)
    card = Card("densenet-base", "densenet121", BRAIN, 0.5, "w.safetensors", hashlib.sha256(content).hexdigest())
    return Model(dataclasses.replace(card, **changes), folder)


def test_weights_come_back_within_the_rounding_of_float16(densenet: Classifier, tmp_path: Path):
    loaded = load_classifier(save(densenet, tmp_path))
    assert not loaded.training
    for name, value in densenet.network.state_dict().items():
        again = loaded.network.state_dict()[name]
        assert again.dtype == value.dtype
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(again, expected), name
    with torch.inference_mode():
        torch.testing.assert_close(loaded(greys()), densenet(greys()), rtol=0, atol=2e-2)


def test_saving_twice_gives_the_same_bytes(densenet: Classifier):
    assert save_weights(densenet) == save_weights(densenet)


def test_saved_weights_are_float16_and_nothing_else(densenet: Classifier):
    state = safetensors.torch.load(save_weights(densenet))
    assert {value.dtype for value in state.values()} == {torch.float16}


def test_weights_of_another_architecture_are_refused(densenet: Classifier, tmp_path: Path):
    with pytest.raises(CardError, match=r"w\.safetensors: not weights of resnet101"):
        load_classifier(save(densenet, tmp_path, architecture="resnet101"))


@pytest.mark.parametrize("change", ["garbage", "shape", "missing", "unknown"])
def test_weights_that_do_not_fit_are_refused(densenet: Classifier, tmp_path: Path, change: str):
    state = safetensors.torch.load(save_weights(densenet))
    if change == "shape":
        state["classifier.1.weight"] = torch.zeros(2, 1024, dtype=torch.float16)
    elif change == "missing":
        del state["features.norm5.weight"]
    elif change == "unknown":
        state["surprise"] = torch.zeros(1)
    content = b"garbage" if change == "garbage" else safetensors.torch.save(state)
    model = save(densenet, tmp_path, sha256=hashlib.sha256(content).hexdigest())
    model.weights_path.write_bytes(content)
    with pytest.raises(CardError, match=r"w\.safetensors: not weights of densenet121"):
        load_classifier(model)


# In 8 bits


@pytest.fixture(scope="module")
def resnet() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return build_classifier("resnet101", BRAIN).eval()


@pytest.fixture(scope="module")
def in_8_bits(resnet: Classifier) -> bytes:
    return save_weights(resnet, bits=8)


def save_resnet(content: bytes, folder: Path) -> Model:
    (folder / "w.safetensors").write_bytes(content)
    card = Card("resnet-base", "resnet101", BRAIN, 0.5, "w.safetensors", hashlib.sha256(content).hexdigest())
    return Model(card, folder)


def kernels(state: dict[str, Tensor]) -> set[str]:
    return {name for name, value in state.items() if value.ndim == 4}


def test_kernels_of_8_bits_are_whole_numbers_with_a_scale_a_channel(resnet: Classifier, in_8_bits: bytes):
    plain, state = resnet.network.state_dict(), safetensors.torch.load(in_8_bits)
    assert kernels(state) == kernels(plain)
    for name in kernels(plain):
        assert state[name].dtype == torch.int8
        assert state[name].abs().amax((1, 2, 3)).eq(127).all()
        assert state[name + "_scale"].shape == plain[name].shape[:1]
    scales = {name + "_scale" for name in kernels(plain)}
    rest = state.keys() - kernels(plain) - scales
    assert rest == {name for name in plain.keys() - kernels(plain) if not name.endswith("num_batches_tracked")}
    assert {state[name].dtype for name in rest} == {torch.float16}


def test_weights_of_8_bits_come_back_within_half_a_step(resnet: Classifier, in_8_bits: bytes, tmp_path: Path):
    loaded = load_classifier(save_resnet(in_8_bits, tmp_path)).network.state_dict()
    for name, value in resnet.network.state_dict().items():
        assert loaded[name].dtype == value.dtype
        if value.ndim == 4:
            step = value.abs().amax((1, 2, 3), keepdim=True) / 127
            assert ((loaded[name] - value).abs() <= 0.501 * step).all(), name
        elif value.is_floating_point():
            assert torch.equal(loaded[name], value.half().float()), name


def test_four_resnets_of_8_bits_and_four_densenets_fit_a_package(densenet: Classifier, in_8_bits: bytes):
    assert 4 * len(in_8_bits) + 4 * len(save_weights(densenet)) < 235e6


def test_a_channel_of_zeros_stays_one(tmp_path: Path):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = build_classifier("densenet121", BRAIN)
    with torch.no_grad():
        network.network.features.conv0.weight[7] = 0
    loaded = load_classifier(save(network, tmp_path))
    content = save_weights(network, bits=8)
    assert load_saved(loaded, content) == ([], [])
    found = loaded.network.features.conv0.weight
    assert not found[7].any()
    assert found[6].any()


def test_a_training_starts_from_weights_of_8_bits(resnet: Classifier, in_8_bits: bytes, tmp_path: Path):
    path = tmp_path / "start.safetensors"
    path.write_bytes(in_8_bits)
    start = start_classifier("resnet101", BRAIN, str(path)).network
    again = load_classifier(save_resnet(in_8_bits, tmp_path)).network
    assert torch.equal(start.layer3[5].conv2.weight, again.layer3[5].conv2.weight)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_kernels_of_8_bits_without_their_scales_are_refused(in_8_bits: bytes, tmp_path: Path, change: str):
    state = safetensors.torch.load(in_8_bits)
    scale = state.pop("conv1.weight_scale")
    if change == "shape":
        state["conv1.weight_scale"] = scale[:-1]
    model = save_resnet(safetensors.torch.save(state), tmp_path)
    with pytest.raises(CardError, match=r"w\.safetensors: not weights of resnet101: conv1\.weight is int8 without"):
        load_classifier(model)
    with pytest.raises(StartError, match=r"w\.safetensors"):
        start_classifier("resnet101", BRAIN, str(model.weights_path))


# Starts


def test_a_start_from_scratch_is_seeded():
    states = []
    for seed in (5, 5, 6):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            states.append(start_classifier("densenet121", BRAIN, "scratch").network.state_dict())
    assert_same(states[0], states[1])
    weight = "features.conv0.weight"
    assert not torch.equal(states[0][weight], states[2][weight])


def old_name(name: str) -> str:
    return re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", name)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("old", [True, False])
def test_a_file_of_torchvision_gives_the_backbone(
    torchvision_state: dict[str, Tensor], tmp_path: Path, ending: str, old: bool
):
    state = dict(torchvision_state)
    if old:
        state = {old_name(name): value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    path = tmp_path / f"start{ending}"
    if ending == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    network = start_classifier("densenet121", BRAIN, str(path)).network
    assert_same(backbone(network.state_dict()), backbone(torchvision_state))
    assert network.classifier[1].weight.shape == (1, 1024)


def test_a_file_of_hemoscan_gives_the_top_as_well(densenet: Classifier, tmp_path: Path):
    path = tmp_path / "own.safetensors"
    path.write_bytes(save_weights(densenet))
    unit = top_unit(start_classifier("densenet121", BRAIN, str(path)), "densenet121")
    assert torch.equal(unit.weight, top_unit(densenet, "densenet121").weight.half().float())


class Evil:
    """Would run code if it were unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("ran"),))  # type: ignore[return-value]


def bad_start(kind: str, path: Path, state: dict[str, Tensor]) -> None:
    lacking = {name: value for name, value in state.items() if name != "features.norm5.weight"}
    contents: dict[str, Any] = {
        "list": [1, 2],
        "not tensors": {"features.norm5.weight": "text"},
        "nothing": {},
        "lacks one": lacking,
        "unknown one": {**state, "surprise": torch.zeros(1)},
        "wrong shape": {**state, "features.norm5.weight": torch.zeros(3)},
    }
    if kind in contents:
        torch.save(contents[kind], path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "pickle in a state dict":
        torch.save({"features.norm5.weight": Evil()}, path)
    elif kind == "garbage":
        path.write_bytes(b"garbage" * 100)
    elif kind == "empty":
        path.touch()


@pytest.mark.parametrize(
    "kind",
    [
        "absent",
        "empty",
        "garbage",
        "pickle",
        "pickle in a state dict",
        "list",
        "not tensors",
        "nothing",
        "lacks one",
        "unknown one",
        "wrong shape",
    ],
)
def test_a_file_that_is_no_start_is_refused(
    torchvision_state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "start.pth"
    bad_start(kind, path, torchvision_state)
    with pytest.raises(StartError) as caught:
        start_classifier("densenet121", BRAIN, str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value), "advice to let a file run code"
    assert not (tmp_path / "ran").exists()


def test_a_damaged_safetensors_start_is_refused(tmp_path: Path):
    (tmp_path / "start.safetensors").write_bytes(b"garbage")
    with pytest.raises(StartError, match=r"start\.safetensors: cannot be read"):
        start_classifier("densenet121", BRAIN, str(tmp_path / "start.safetensors"))


def test_a_start_of_the_other_architecture_is_refused(torchvision_state: dict[str, Tensor], tmp_path: Path):
    torch.save(torchvision_state, tmp_path / "start.pth")
    with pytest.raises(StartError, match="not weights of resnet101"):
        start_classifier("resnet101", BRAIN, str(tmp_path / "start.pth"))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder on a machine without network."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("architecture", "file"), [("densenet121", "densenet121-a639ec97.pth"), ("resnet101", "resnet101-63fe2227.pth")]
)
def test_imagenet_that_cannot_be_had_names_the_ways_out(offline: Path, architecture: str, file: str):
    with pytest.raises(StartError) as caught:
        start_classifier(architecture, BRAIN, "imagenet")
    text = str(caught.value)
    assert f"put {file} into {offline}" in text
    assert "--init FILE" in text
    assert "--init scratch" in text


def test_imagenet_is_taken_from_the_cache(offline: Path, torchvision_state: dict[str, Tensor]):
    torch.save(torchvision_state, offline / "densenet121-a639ec97.pth")
    network = start_classifier("densenet121", BRAIN, "imagenet").network
    assert_same(backbone(network.state_dict()), backbone(torchvision_state))
    assert network.classifier[1].weight.shape == (1, 1024)


def test_the_class_activation_map_is_exact(classifier: tuple[str, Classifier]):
    """Its mean is the logit of the network as it is otherwise called, for images that are not square, too."""
    architecture, network = classifier
    grey = torch.randint(0, 71, (2, 96, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(grey)
        with collecting_maps(network, architecture) as collected:
            logits = network(grey)
        network(grey)
        exported_logits, maps = MappedClassifier(network, architecture)(grey)
    assert torch.equal(logits, expected)
    assert [tuple(each.shape) for each in collected] == [(2, 3, 2)], "only within"
    assert maps.std() > 0
    torch.testing.assert_close(exported_logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps, collected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps.mean((1, 2)), expected, rtol=1e-4, atol=1e-5)
