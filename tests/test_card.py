"""Model cards: reading, legal ranges, the hash of the weights, names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hemoscan.card import (
    BRAIN,
    INPUTS,
    MODEL_NAMES,
    RAW,
    Card,
    InputSpec,
    Model,
    builtin_folder,
    find_model,
    has_weights,
    read_card,
)
from hemoscan.errors import CardError, OptionError

SHA256_OF_CONTENT = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
EXAMPLE = Card(
    name="resnet-weight-bias",
    architecture="resnet101",
    input=InputSpec((40.0, 80.0), size=128, scale=80.0, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
    threshold=0.123,
    weights="resnet-weight-bias.safetensors",
    sha256=SHA256_OF_CONTENT,
    training={"epochs": 7, "seed": 0},
    metrics={"auc": 0.9},
    notice="ü",
)


def write_card(folder: Path, **changes: Any) -> Path:
    """Write the example with changes; `input.size=…` is given as `input__size`."""
    content = json.loads(EXAMPLE.to_json())
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = content[outer[0]] if outer else content
        place[last] = value
    path = folder / "card.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("spec", [BRAIN, RAW, EXAMPLE.input])
def test_a_card_comes_back_as_it_was_written(tmp_path: Path, spec: InputSpec):
    card = dataclasses.replace(EXAMPLE, input=spec)
    path = tmp_path / "card.json"
    path.write_text(card.to_json(), encoding="utf-8")
    assert read_card(path) == card
    assert read_card(path).to_json() == card.to_json()


def test_inputs_span_whole_grey_values():
    assert {name: spec.limits for name, spec in INPUTS.items()} == {
        "brain": (0.0, 70.0),
        "raw": (0.0, 255.0),
        "head": (0.0, 70.0),
    }


BAD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"format": 2}, "reads format 1"),
    ({"format": None}, "reads format 1"),
    ({"architecture": "vgg16"}, "legal: densenet121, resnet101"),
    ({"threshold": 1.5}, "legal: 0 to 1"),
    ({"threshold": -0.1}, "legal: 0 to 1"),
    ({"threshold": float("nan")}, "legal: 0 to 1"),
    ({"threshold": 10**400}, "legal: 0 to 1"),
    ({"threshold": "high"}, "legal: 0 to 1"),
    ({"threshold": None}, "legal: 0 to 1"),
    ({"weights": "../other.safetensors"}, "legal: a file name without folders"),
    ({"weights": "/etc/passwd"}, "legal: a file name without folders"),
    ({"weights": ".."}, "legal: a file name without folders"),
    ({"weights": ""}, "legal: a file name without folders"),
    ({"weights": 5}, "legal: a file name without folders"),
    ({"input__window": [40, 400]}, "legal: within 0 to 255"),
    ({"input__window": [127.5, 257]}, "legal: within 0 to 255"),
    ({"input__window": [40, 0]}, "legal: within 0 to 255"),
    ({"input__window": [40, float("nan")]}, "legal: within 0 to 255"),
    ({"input__window": [40]}, "legal"),
    ({"input__window": "40,80"}, "legal"),
    ({"input__size": 0}, "legal: 1 to 4096"),
    ({"input__size": 4097}, "legal: 1 to 4096"),
    ({"input__size": 224.5}, "legal: 1 to 4096"),
    ({"input__size": "224"}, "legal: 1 to 4096"),
    ({"input__scale": 0}, "legal: above 0"),
    ({"input__scale": -70}, "legal: above 0"),
    ({"input__scale": float("nan")}, "legal: above 0"),
    ({"input__scale": float("inf")}, "legal: above 0"),
    ({"input__scale": 10**400}, "legal: above 0"),
    ({"input__std": [0.1, 0, 0.1]}, "legal: above 0"),
    ({"input__std": [0.1, 0.1]}, "legal"),
    ({"input__std": 0.1}, "legal"),
    ({"input__mean": [0.1]}, "legal"),
    ({"input__mean": ["a", "b", "c"]}, "legal"),
]


@pytest.mark.parametrize(("changes", "legal"), BAD_VALUES, ids=[f"{changes!s:.40}" for changes, _ in BAD_VALUES])
def test_a_bad_value_names_the_file_and_what_is_legal(tmp_path: Path, changes: dict[str, Any], legal: str):
    path = write_card(tmp_path, **changes)
    with pytest.raises(CardError) as caught:
        read_card(path)
    assert str(path) in str(caught.value)
    assert legal in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "[]",
        "null",
        "5",
        '{"format": 1}',
        '{"format": 1, "input": []}',
        '{"format": 1, "input": {}}',
        "\ufeff",
        pytest.param("[" * 200_000, id="deep"),
    ],
)
def test_what_is_no_card_is_told_by_its_file(tmp_path: Path, text: str):
    path = tmp_path / "card.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CardError) as caught:
        read_card(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("changes", [{"surprise": 1}, {"input__surprise": 1}])
def test_an_unknown_key_is_named(tmp_path: Path, changes: dict[str, Any]):
    with pytest.raises(CardError, match="surprise"):
        read_card(write_card(tmp_path, **changes))


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_a_card_that_cannot_be_read_is_named(tmp_path: Path, name: str):
    with pytest.raises(CardError, match="card cannot be read"):
        read_card(tmp_path / name)


def test_a_card_that_is_not_utf8_is_named(tmp_path: Path):
    (tmp_path / "card.json").write_bytes(b'{"format": 1, "name": "caf\xe9"}')
    with pytest.raises(CardError, match=r"card\.json: not a model card"):
        read_card(tmp_path / "card.json")


def test_weights_are_read_if_they_are_those_of_the_card(tmp_path: Path):
    (tmp_path / EXAMPLE.weights).write_bytes(b"content")
    assert Model(EXAMPLE, tmp_path).read_weights() == b"content"


@pytest.mark.parametrize("content", [b"", b"Content", b"content\n"])
def test_changed_weights_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / EXAMPLE.weights).write_bytes(content)
    with pytest.raises(CardError, match="SHA-256") as caught:
        Model(EXAMPLE, tmp_path).read_weights()
    assert str(tmp_path / EXAMPLE.weights) in str(caught.value)
    assert SHA256_OF_CONTENT in str(caught.value)


def test_missing_weights_are_named(tmp_path: Path):
    with pytest.raises(CardError, match="cannot be read: No such file") as caught:
        Model(EXAMPLE, tmp_path).read_weights()
    assert str(tmp_path / EXAMPLE.weights) in str(caught.value)


def test_the_eight_models():
    variants = ("base", "weight", "bias", "weight-bias")
    assert list(MODEL_NAMES) == [f"{family}-{variant}" for family in ("densenet", "resnet") for variant in variants]


def test_a_model_is_found_by_its_name(tmp_path: Path):
    (tmp_path / "resnet-weight-bias.json").write_text(EXAMPLE.to_json(), encoding="utf-8")
    assert find_model("resnet-weight-bias", tmp_path) == Model(EXAMPLE, tmp_path)


def test_a_model_is_found_by_the_path_of_its_card(tmp_path: Path):
    path = write_card(tmp_path)
    assert find_model(str(path)) == Model(EXAMPLE, tmp_path)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_model_without_weights_says_how_to_come_by_them(tmp_path: Path, name: str):
    with pytest.raises(CardError, match=f"hemoscan train --experiments {name}`") as caught:
        find_model(name, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["densenet", "", "densenet-BIAS", "../densenet-bias"])
def test_an_unknown_name_is_told_the_known_ones(name: str):
    with pytest.raises(OptionError) as caught:
        find_model(name)
    assert all(known in str(caught.value) for known in (repr(name), *MODEL_NAMES))


def test_a_card_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(CardError, match=r"none\.json"):
        find_model(str(tmp_path / "none.json"))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_installed_models_are_whole(name: str):
    if not has_weights(name):
        with pytest.raises(CardError, match="no weights"):
            find_model(name)
        return
    model = find_model(name)
    assert model.card.name == name
    assert model.folder == builtin_folder()
    assert model.card.architecture.startswith(name.partition("-")[0])
    assert model.card.notice
    model.read_weights()
