"""The eight experiments, the recipe's legal values, and how options are read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hemoscan.card import BRAIN, HEAD, RAW
from hemoscan.trainer.experiments import RECIPES, Experiment, Recipe, parse_experiments, parse_sizes

EIGHT = [
    ("densenet-base", "densenet121", False, False),
    ("densenet-weight", "densenet121", True, False),
    ("densenet-bias", "densenet121", False, True),
    ("densenet-weight-bias", "densenet121", True, True),
    ("resnet-base", "resnet101", False, False),
    ("resnet-weight", "resnet101", True, False),
    ("resnet-bias", "resnet101", False, True),
    ("resnet-weight-bias", "resnet101", True, True),
]


@pytest.mark.parametrize(("name", "architecture", "class_weight", "output_bias"), EIGHT)
def test_a_name_says_network_and_variant(name: str, architecture: str, class_weight: bool, output_bias: bool):
    experiment = Experiment(name)
    assert experiment.architecture == architecture
    assert experiment.class_weight is class_weight
    assert experiment.output_bias is output_bias


def test_all_are_the_eight():
    assert [experiment.name for experiment in parse_experiments("all")] == [name for name, *_ in EIGHT]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("resnet-base", ["resnet-base"]),
        ("resnet-base,densenet-bias", ["resnet-base", "densenet-bias"]),
        (" resnet-base , densenet-bias ", ["resnet-base", "densenet-bias"]),
        ("densenet-bias,resnet-base,densenet-bias", ["densenet-bias", "resnet-base"]),
    ],
)
def test_experiments_are_read_in_order_each_once(text: str, names: list[str]):
    assert [experiment.name for experiment in parse_experiments(text)] == names


@pytest.mark.parametrize(
    "text", ["", "densenet", "densenet-base,", "vgg-base", "densenet-bias-weight", "DENSENET-BASE"]
)
def test_other_names_are_refused_with_the_legal_ones(text: str):
    with pytest.raises(ValueError, match=r"legal: densenet-base, .*resnet-weight-bias, all"):
        parse_experiments(text)


def test_the_defaults_are_the_reports():
    recipe = Recipe()
    assert (recipe.epochs, recipe.learning_rate, recipe.batch_size, recipe.init) == (7, 5e-4, 32, "imagenet")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epochs": 0}, "epochs 0; legal: 1 to 1,000,000"),
        ({"epochs": 1_000_001}, "epochs 1000001; legal: 1 to 1,000,000"),
        ({"batch_size": 1}, "batch size 1; legal: 2 to 1,000,000"),
        ({"batch_size": 10**30}, "batch size 10*; legal: 2 to 1,000,000"),
        ({"learning_rate": 0.0}, "learning rate 0.0; legal: above 0, finite"),
        ({"learning_rate": -1e-3}, "learning rate -0.001; legal: above 0"),
        ({"learning_rate": float("nan")}, "learning rate nan; legal: above 0"),
        ({"learning_rate": float("inf")}, "learning rate inf; legal: above 0"),
        ({"negatives": float("nan")}, "negatives nan; legal: above 0 up to 1"),
        ({"weight_decay": float("nan")}, "weight decay nan; legal: 0 or more, finite"),
        ({"ema": 1.0}, "ema 1.0; legal: 0 or more, below 1"),
        ({"left_out": ("bone",)}, "legal: geometry, hu, crop, alignment"),
        ({"input": "bone"}, "input 'bone'; legal: brain, raw"),
        ({"epochs": 3, "sizes": ((128, 1), (224, 1))}, "sizes 128:1,224:1 do not add up to 3 epochs"),
    ],
)
def test_a_recipe_out_of_range_is_refused_with_the_legal_values(values: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        Recipe(**values)


@pytest.mark.parametrize(("name", "spec"), [("brain", BRAIN), ("raw", RAW)])
def test_the_input_is_named(name: str, spec: object):
    assert Recipe(input=name).spec == spec


@pytest.mark.parametrize(
    ("sizes", "epochs", "expected"),
    [
        ((), 2, [224, 224]),
        (((112, 2), (160, 1), (224, 1)), 4, [112, 112, 160, 224]),
        (((32, 3),), 3, [32, 32, 32]),
    ],
)
def test_the_size_of_each_epoch(sizes: tuple[tuple[int, int], ...], epochs: int, expected: list[int]):
    recipe = Recipe(epochs=epochs, sizes=sizes)
    assert [recipe.size_of(epoch) for epoch in range(epochs)] == expected


def test_the_identity_is_everything_but_the_length():
    base = Recipe().identity()
    changed = {
        "batch_size": 16,
        "learning_rate": 1e-3,
        "seed": 1,
        "init": "scratch",
        "input": "raw",
        "reweigh_groups": True,
    }
    assert set(changed) <= set(base)
    for key, value in changed.items():
        assert Recipe(**{key: value}).identity() == {**base, key: value}  # type: ignore[arg-type]
    assert Recipe(epochs=9).identity() == base


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("224:1", ((224, 1),)),
        ("112:3,224:1", ((112, 3), (224, 1))),
        (" 112 : 3 , 224 : 1 ", ((112, 3), (224, 1))),
        ("32:1,1024:1", ((32, 1), (1024, 1))),
    ],
)
def test_sizes_are_read(text: str, pairs: tuple[tuple[int, int], ...]):
    assert parse_sizes(text) == pairs


@pytest.mark.parametrize(
    "text",
    [
        "",
        "112",
        "112:",
        ":3",
        "112:3,",
        "112:3:1",
        "a:b",
        "-112:3",
        "112:0",
        "31:1",
        "1025:1",
        "1e2:1",
        "²:1",
        "32:1000001",
        "32:" + "9" * 5000,
    ],
)
def test_sizes_in_another_form_are_refused_with_the_legal_one(text: str):
    with pytest.raises(ValueError, match="legal: "):
        parse_sizes(text)


def test_the_strong_recipe_is_a_valid_recipe_on_heads():
    recipe = Recipe(**{"name": "strong", **RECIPES["strong"], "init": "scratch"})
    assert recipe.spec == HEAD
    assert recipe.augment
    assert recipe.one_cycle
    assert not recipe.reweigh_groups


def test_a_constant_rate_stays():
    assert {Recipe().rate_at(part) for part in (0.0, 0.3, 1.0)} == {5e-4}


def test_one_cycle_rises_and_falls_to_nothing():
    recipe = Recipe(learning_rate=1e-3, one_cycle=True)
    rates = [recipe.rate_at(step / 100) for step in range(101)]
    top = rates.index(max(rates))
    assert rates[0] == pytest.approx(4e-5)
    assert rates[top] == pytest.approx(1e-3)
    assert top == 15
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(1e-6)


def test_a_schedule_is_not_lengthened_in_the_middle():
    assert "epochs" in Recipe(one_cycle=True).identity()
    assert "epochs" not in Recipe().identity()


def test_the_size_is_the_inputs():
    assert Recipe(size=128).spec.size == 128


@pytest.mark.parametrize(
    "changed",
    [{"name": "weak"}, {"size": 31}, {"size": 1025}, {"negatives": 0.0}, {"negatives": 1.1}, {"weight_decay": -1.0}],
    ids=str,
)
def test_values_of_a_recipe_out_of_range_are_refused(changed: dict[str, Any]):
    with pytest.raises(ValueError, match="legal"):
        Recipe(**changed)


def test_what_is_left_out_of_the_input_is_not_on_the_card():
    strong = {"name": "strong", **RECIPES["strong"], "init": "scratch"}
    assert replace(HEAD, crop=False) == Recipe(**strong, left_out=("crop",)).spec
    assert replace(HEAD, tissue=None) == Recipe(**strong, left_out=("alignment", "hu")).spec


def test_checkpoints_from_before_the_average_still_fit():
    assert not {"ema", "left_out"} & Recipe().identity().keys()
    assert Recipe(ema=0.9).identity() == {**Recipe().identity(), "ema": 0.9}
