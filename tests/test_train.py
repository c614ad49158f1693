"""The training loop on synthetic slices of 64 pixels, trained at 32."""

from __future__ import annotations

import gc
import math
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from trainer_data import FIRST_VALIDATION_ID, make_split

from hemoscan.card import BRAIN, MODEL_NAMES
from hemoscan.errors import DataError, StartError, TrainingError
from hemoscan.networks import Classifier, build_classifier, load_saved, start_classifier, top_unit
from hemoscan.trainer import train as loop
from hemoscan.trainer.balance import class_weights, group_weights, output_bias
from hemoscan.trainer.experiments import Experiment, Recipe
from hemoscan.trainer.metrics import measure
from hemoscan.trainer.parallel import ALONE
from hemoscan.trainer.train import Progress, Trained, epoch_batches, predict, resized, sample_weights, train

CPU = torch.device("cpu")
BASE = Experiment("densenet-base")
TRAINING = make_split([0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0])
VALIDATION = make_split([1, 0] * 6, FIRST_VALIDATION_ID)
SPLITS = (TRAINING, VALIDATION)
STEPS = 3
# Adam's steps are as long as its rate: with this one no parameter moves.
STANDING_STILL = 1e-30


class StopError(Exception):
    """What ends a training from outside."""


def recipe_of(epochs: int = 1, **values: Any) -> Recipe:
    return Recipe(**{"epochs": epochs, "batch_size": 4, "init": "scratch", "sizes": ((32, epochs),), **values})


def stop_at(epoch: int, step: int) -> Progress:
    def stop(epoch_now: int, step_now: int, _steps: int, _loss: float) -> None:
        if (epoch_now, step_now) == (epoch, step):
            raise StopError

    return Progress(step=stop)


def weights_of(trained: Trained) -> dict[str, Tensor]:
    return dict(trained.classifier.network.state_dict())


def assert_same_weights(left: Trained, right: Trained) -> None:
    torch.testing.assert_close(weights_of(left), weights_of(right), rtol=0, atol=0)
    assert np.array_equal(left.logits, right.logits)


def without_seconds(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


@pytest.fixture
def run_folder(tmp_path: Path) -> Iterator[Path]:
    """Checkpoints are large: leave none behind."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    yield train(BASE, recipe_of(2), SPLITS, folder, CPU)
    shutil.rmtree(folder)


def test_the_same_seed_gives_the_same_weights(run_folder: Path, uninterrupted: Trained):
    again = train(BASE, recipe_of(2), SPLITS, run_folder, CPU)
    assert_same_weights(again, uninterrupted)
    assert without_seconds(again.history) == without_seconds(uninterrupted.history)


def test_another_seed_gives_other_weights(run_folder: Path, uninterrupted: Trained):
    other = train(BASE, recipe_of(2, seed=1), SPLITS, run_folder, CPU)
    assert not np.array_equal(other.logits, uninterrupted.logits)


def test_the_history_has_a_record_an_epoch(uninterrupted: Trained):
    assert [(record["epoch"], record["size"]) for record in uninterrupted.history] == [(1, 32), (2, 32)]
    assert all(record["validation"]["n"] == len(VALIDATION) for record in uninterrupted.history)
    assert all(math.isfinite(record["loss"]) and record["seconds"] > 0 for record in uninterrupted.history)


def test_progress_is_told_of_every_step_and_epoch(run_folder: Path):
    steps: list[tuple[int, int, int]] = []
    losses: list[float] = []
    records: list[dict[str, Any]] = []

    def step(epoch: int, number: int, of: int, loss: float) -> None:
        steps.append((epoch, number, of))
        losses.append(loss)

    trained = train(BASE, recipe_of(), SPLITS, run_folder, CPU, progress=Progress(step=step, epoch=records.append))
    assert steps == [(0, number + 1, STEPS) for number in range(STEPS)]
    assert records == trained.history
    assert records[0]["loss"] == pytest.approx(np.mean(losses))


@pytest.mark.parametrize(
    ("epoch", "step"), [(0, 2), (0, STEPS), (1, 2)], ids=["first epoch", "before validation", "second epoch"]
)
def test_a_training_interrupted_in_an_epoch_ends_with_the_same_weights(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Trained, epoch: int, step: int
):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(StopError):
        train(BASE, recipe_of(2), SPLITS, run_folder, CPU, progress=stop_at(epoch, step))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", math.inf)
    torch.manual_seed(99)
    steps: list[tuple[int, int]] = []
    resumed = train(
        BASE, recipe_of(2), SPLITS, run_folder, CPU, progress=Progress(step=lambda e, s, *_: steps.append((e, s)))
    )
    assert steps[0] in ((epoch, step), (epoch, step + 1), (epoch + 1, 1))
    assert (epoch, 1) not in steps
    assert_same_weights(resumed, uninterrupted)
    assert without_seconds(resumed.history) == without_seconds(uninterrupted.history)


def test_more_epochs_go_on_from_a_finished_training(run_folder: Path, uninterrupted: Trained):
    train(BASE, recipe_of(1), SPLITS, run_folder, CPU)
    assert_same_weights(train(BASE, recipe_of(2), SPLITS, run_folder, CPU), uninterrupted)


def test_a_finished_training_is_returned_without_a_step(run_folder: Path):
    first = train(BASE, recipe_of(), SPLITS, run_folder, CPU)
    again = train(BASE, recipe_of(), SPLITS, run_folder, CPU, progress=stop_at(0, 1))
    assert_same_weights(first, again)
    assert again.history == first.history


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed 0, now 1"),
        ({"learning_rate": 1e-3}, "learning_rate 0.0005, now 0.001"),
        ({"reweigh_groups": True}, "reweigh_groups False, now True"),
        ({"sizes": ((48, 1),)}, r"epochs of \[32\] pixels, asked for are \[48\]"),
    ],
    ids=["seed", "learning rate", "groups", "size of a finished epoch"],
)
def test_a_checkpoint_of_another_recipe_is_refused(finished_folder: Path, change: dict[str, Any], named: str):
    with pytest.raises(TrainingError, match=named):
        train(BASE, replace(recipe_of(), **change), SPLITS, finished_folder, CPU)


@pytest.mark.parametrize("which", ["fewer", "other labels", "other groups"])
def test_a_checkpoint_of_other_slices_is_refused(finished_folder: Path, which: str):
    other = {
        "fewer": TRAINING.take(np.arange(10)),
        "other labels": replace(TRAINING, labels=TRAINING.labels[::-1].copy()),
        "other groups": replace(TRAINING, groups=TRAINING.groups + 1),
    }[which]
    with pytest.raises(TrainingError, match=r"checkpoint\.pt"):
        train(BASE, recipe_of(), (other, VALIDATION), finished_folder, CPU)


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("finished")
    train(BASE, recipe_of(), SPLITS, folder, CPU)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("family", ["densenet", pytest.param("resnet", marks=pytest.mark.slow)])
def test_the_four_variants_differ_in_the_start_of_the_bias_only_and_see_the_same_order(run_folder: Path, family: str):
    recipe = recipe_of(learning_rate=STANDING_STILL)
    variants = [Experiment(name) for name in MODEL_NAMES if name.startswith(family)]
    assert len(variants) == 4
    found = {variant: train(variant, recipe, SPLITS, run_folder, CPU) for variant in variants}
    first = weights_of(found[variants[0]])
    start = {variant: top_unit(trained.classifier, variant.architecture).bias for variant, trained in found.items()}
    bias_name = next(name for name, value in first.items() if value.data_ptr() == start[variants[0]].data_ptr())
    log_odds = output_bias(TRAINING.labels)
    assert log_odds == pytest.approx(math.log(3 / 9))
    for variant in variants[1:]:
        weights = weights_of(found[variant])
        for name, value in first.items():
            if name != bias_name:
                # Running means and variances depend on the order that slices came in.
                torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-20, msg=f"{variant.name}: {name}")
        if variant.output_bias:
            assert start[variant].item() == pytest.approx(log_odds, rel=1e-3)  # 16-bit weights
        else:
            assert start[variant].item() == pytest.approx(start[variants[0]].item())
            assert start[variant].item() != pytest.approx(log_odds)


def test_the_order_would_show_in_the_running_means(run_folder: Path):
    recipe = recipe_of(learning_rate=STANDING_STILL)
    straight = weights_of(train(BASE, recipe, SPLITS, run_folder / "straight", CPU))
    turned = (TRAINING.take(np.arange(len(TRAINING))[::-1]), VALIDATION)
    other = weights_of(train(BASE, recipe, turned, run_folder / "turned", CPU))
    means = [name for name in straight if name.endswith("running_mean")]
    assert any(not torch.equal(straight[name], other[name]) for name in means)


@pytest.mark.parametrize(
    ("experiment", "reweigh", "expected"),
    [
        ("densenet-base", False, lambda: np.ones(12)),
        ("densenet-bias", False, lambda: np.ones(12)),
        ("densenet-weight", False, lambda: class_weights(TRAINING.labels)),
        ("resnet-weight-bias", False, lambda: class_weights(TRAINING.labels)),
        ("resnet-base", True, lambda: group_weights(TRAINING.labels, TRAINING.groups)),
        (
            "densenet-weight",
            True,
            lambda: class_weights(TRAINING.labels) * group_weights(TRAINING.labels, TRAINING.groups),
        ),
    ],
)
def test_sample_weights_of_each_variant(experiment: str, reweigh: bool, expected: Callable[[], Any]):
    found = sample_weights(Experiment(experiment), recipe_of(reweigh_groups=reweigh), TRAINING)
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx(expected().tolist())


def test_negatives_that_are_shown_less_often_weigh_the_more():
    weights = sample_weights(Experiment("densenet-base"), recipe_of(negatives=0.25), TRAINING)
    assert set(weights[TRAINING.labels == 1]) == {1.0}
    assert set(weights[TRAINING.labels == 0]) == {4.0}


def test_an_epoch_shows_every_positive_and_a_share_of_the_negatives_drawn_anew():
    labels = np.array([1, 0, 0, 0, 0] * 200, np.uint8)
    epochs = [
        torch.cat(epoch_batches(labels, recipe_of(negatives=0.25, batch_size=7), epoch)).tolist() for epoch in (0, 1)
    ]
    for shown in epochs:
        assert len(set(shown)) == len(shown)
        assert sum(labels[shown]) in {199, 200}  # a last batch of one is left out
        assert 150 < len(shown) - 200 < 250
    assert set(epochs[0]) != set(epochs[1])


def test_sample_weights_scale_the_loss(run_folder: Path, monkeypatch: pytest.MonkeyPatch):
    losses: list[float] = []

    def first_step(_epoch: int, _step: int, _steps: int, loss: float) -> None:
        losses.append(loss)
        raise StopError

    for weight in (1, 2):
        monkeypatch.setattr(loop, "sample_weights", lambda *_, weight=weight: np.full(12, weight, np.float32))
        with pytest.raises(StopError):
            train(BASE, recipe_of(), SPLITS, run_folder / str(weight), CPU, progress=Progress(step=first_step))
    assert losses[1] == pytest.approx(2 * losses[0])


@pytest.mark.parametrize(("n", "batch_size", "lengths"), [(12, 4, [4, 4, 4]), (11, 4, [4, 4, 3]), (9, 4, [4, 4])])
def test_batches_show_every_slice_once_but_make_none_of_one(n: int, batch_size: int, lengths: list[int]):
    batches = epoch_batches(np.zeros(n, np.uint8), recipe_of(batch_size=batch_size), 0)
    assert [len(batch) for batch in batches] == lengths
    shown = torch.cat(batches).tolist()
    assert len(set(shown)) == len(shown)
    assert set(shown) <= set(range(n))


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(epoch_batches(np.zeros(40, np.uint8), recipe_of(seed=seed), epoch)).tolist()  # type: ignore[no-any-return]

    first = order(0, 0)
    torch.manual_seed(5)
    assert order(0, 0) == first
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_batches_leave_the_generator_of_dropout_alone():
    before = torch.get_rng_state()
    epoch_batches(np.zeros(40, np.uint8), recipe_of(), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_resizing_to_the_same_size_changes_nothing():
    images = torch.randint(0, 71, (2, 64, 64), dtype=torch.uint8)
    same = resized(images, 64)
    assert same.dtype == torch.float32
    assert torch.equal(same, images.float())


@pytest.mark.parametrize("size", [32, 48, 112])
def test_resizing_keeps_what_is_flat(size: int):
    flat = resized(torch.full((2, 128, 128), 35, dtype=torch.uint8), size)
    assert flat.shape == (2, size, size)
    torch.testing.assert_close(flat, torch.full((2, size, size), 35.0))


def test_smaller_images_are_antialiased():
    image = torch.zeros(1, 128, 128, dtype=torch.uint8)
    image[0, 64, 64] = 64  # between the four pixels that plain bilinear interpolation looks at
    smaller = resized(image, 32)
    assert smaller.sum().item() == pytest.approx(64 / 16, rel=0.05)


class Replayed:
    """Stands in for CUDA graphs: work that was recorded is done again from the same tensors, into the same result."""

    def __init__(self, _device: torch.device) -> None:
        self.tuned: list[bool] = []
        self.recorded, self.replayed = 0, 0

    def run(self, work: Callable[[], Tensor], *, tune: bool) -> Tensor:
        self.tuned.append(tune)
        return work()

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        result = torch.zeros(())
        self.recorded += 1

        def again() -> None:
            self.replayed += 1
            result.copy_(work())

        return again, result


@pytest.mark.parametrize("n", [12, 11], ids=["full batches", "a smaller last batch"])
def test_captured_steps_train_the_same_weights(run_folder: Path, monkeypatch: pytest.MonkeyPatch, n: int):
    graphs = Replayed(CPU)
    monkeypatch.setattr(loop, "CudaGraphs", lambda _device: graphs)
    splits = (TRAINING.take(np.arange(n)), VALIDATION)
    captured = train(BASE, recipe_of(2), splits, run_folder / "captured", CPU, captured=True)
    assert graphs.recorded == 1
    assert graphs.replayed + len(graphs.tuned) == 2 * STEPS
    assert graphs.tuned.count(False) == (0 if n == 12 else 2), "only full batches are tuned for"
    plain = train(BASE, recipe_of(2), splits, run_folder / "plain", CPU)
    assert_same_weights(captured, plain)
    assert without_seconds(captured.history) == without_seconds(plain.history)
    assert (captured.captured, plain.captured) == (True, False)


def test_a_training_whose_capture_failed_says_that_it_was_not_captured(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    class Failing(Replayed):
        def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
            raise RuntimeError("operation not permitted")

    notes: list[str] = []
    monkeypatch.setattr(loop, "CudaGraphs", Failing)
    progress = Progress(note=notes.append)
    assert not train(BASE, recipe_of(2), SPLITS, run_folder, CPU, captured=True, progress=progress).captured
    assert len(notes) == 1


def test_steps_whose_losses_are_looked_at_later_train_the_same_weights(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Trained
):
    monkeypatch.setattr(loop, "steps_ahead", lambda _device: 2)
    told: list[tuple[int, int]] = []
    progress = Progress(step=lambda epoch, step, *_: told.append((epoch, step)))
    trained = train(BASE, recipe_of(2), SPLITS, run_folder, CPU, progress=progress)
    assert_same_weights(trained, uninterrupted)
    assert without_seconds(trained.history) == without_seconds(uninterrupted.history)
    assert told == [(epoch, step + 1) for epoch in range(2) for step in range(STEPS)]


def test_a_non_finite_loss_that_is_noticed_later_names_its_own_batch(run_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "steps_ahead", lambda _device: STEPS)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    spoilt = epoch_batches(TRAINING.labels, recipe_of(), 0)[1]
    weights = np.ones(12, np.float32)
    weights[int(spoilt[0])] = np.inf
    monkeypatch.setattr(loop, "sample_weights", lambda *_: weights)
    with pytest.raises(TrainingError, match="epoch 1, step 2") as caught:
        train(BASE, recipe_of(), SPLITS, run_folder, CPU)
    assert {name for name in TRAINING.ids if name in str(caught.value)} == {TRAINING.ids[i] for i in spoilt.tolist()}
    assert not list(run_folder.iterdir()), "nothing of it was saved"


def test_what_a_training_held_is_given_back_before_the_next(run_folder: Path, monkeypatch: pytest.MonkeyPatch):
    held: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    class Held(loop._Training):
        def __init__(self, *arguments: Any) -> None:
            alive.extend(one() is not None for one in held)
            super().__init__(*arguments)
            held.append(weakref.ref(self))

    monkeypatch.setattr(loop, "_Training", Held)
    gc.disable()
    try:
        for name in ("first", "second"):
            train(BASE, recipe_of(), SPLITS, run_folder / name, CPU)
    finally:
        gc.enable()
    assert alive == [False]


def test_every_legal_seed_makes_generators():
    def state(seed: int) -> Tensor:
        recipe = recipe_of(seed=seed)
        training = SimpleNamespace(recipe=recipe, position=loop.Position(epoch=3), processes=ALONE, device=CPU)
        return loop._Training.generator(training, 5).get_state()  # type: ignore[arg-type]

    assert not torch.equal(state(2**31 - 1), state(2**31 - 2))


@pytest.mark.parametrize(("device", "ahead"), [("cpu", 1), ("cuda", loop.STEPS_AHEAD)])
def test_only_a_gpu_runs_ahead(device: str, ahead: int):
    assert loop.steps_ahead(torch.device(device)) == ahead


def test_an_epoch_that_ends_soon_after_a_checkpoint_has_none_of_its_own(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    saved: list[int] = []
    monkeypatch.setattr(loop, "save_checkpoint", lambda _path, content: saved.append(content["position"]["epoch"]))
    train(BASE, recipe_of(2), SPLITS, run_folder / "soon", CPU)
    assert saved == [2]
    monkeypatch.setattr(loop, "EPOCH_SECONDS", 0.0)
    train(BASE, recipe_of(2), SPLITS, run_folder / "later", CPU)
    assert saved == [2, 1, 2]


def test_the_optimizer_of_a_gpu_takes_the_same_steps():
    def steps(rate: Tensor | None) -> Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 1)
        optimizer = loop.make_optimizer(model, recipe_of(learning_rate=0.01, weight_decay=0.02), rate)
        for number in range(4):
            if rate is not None:
                rate.fill_(0.01 * (number + 1))
            else:
                optimizer.param_groups[0]["lr"] = 0.01 * (number + 1)
            optimizer.zero_grad()
            model(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
        return model.weight.detach()

    torch.testing.assert_close(steps(torch.tensor(0.01)), steps(None))


def test_a_diverging_training_names_the_slices_of_the_batch(run_folder: Path):
    done = 0

    def count(_epoch: int, step: int, _steps: int, _loss: float) -> None:
        nonlocal done
        done = step

    recipe = recipe_of(learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"loss (nan|inf)") as caught:
        train(BASE, recipe, SPLITS, run_folder, CPU, progress=Progress(step=count))
    batch = set(epoch_batches(TRAINING.labels, recipe, 0)[done].tolist())
    named = {i for i, name in enumerate(TRAINING.ids) if name in str(caught.value)}
    assert named == batch


def test_a_training_that_diverges_in_an_epochs_last_step_is_noticed(run_folder: Path):
    with pytest.raises(TrainingError, match="non-finite"):
        train(BASE, recipe_of(learning_rate=1e30, batch_size=12), SPLITS, run_folder, CPU)
    assert not list(run_folder.iterdir())


def test_a_non_finite_loss_leaves_the_checkpoint_as_it_was(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Trained
):
    train(BASE, recipe_of(1), SPLITS, run_folder, CPU)
    checkpoint = run_folder / "densenet-base.validation.checkpoint.pt"
    before = checkpoint.read_bytes()
    spoilt = epoch_batches(TRAINING.labels, recipe_of(2), 1)[1]
    with monkeypatch.context() as patch:
        weights = np.ones(12, np.float32)
        weights[int(spoilt[0])] = np.inf
        patch.setattr(loop, "sample_weights", lambda *_: weights)
        with pytest.raises(TrainingError, match="epoch 2, step 2") as caught:
            train(BASE, recipe_of(2), SPLITS, run_folder, CPU)
    assert {name for name in TRAINING.ids if name in str(caught.value)} == {TRAINING.ids[i] for i in spoilt.tolist()}
    assert checkpoint.read_bytes() == before
    assert_same_weights(train(BASE, recipe_of(2), SPLITS, run_folder, CPU), uninterrupted)


@pytest.mark.parametrize(
    ("experiment", "init", "splits", "error"),
    [
        ("densenet-bias", "scratch", (TRAINING.take(TRAINING.labels == 0), VALIDATION), DataError),
        ("densenet-weight", "scratch", (TRAINING.take(TRAINING.labels == 1), VALIDATION), DataError),
        ("densenet-base", "missing.safetensors", SPLITS, StartError),
    ],
    ids=["negatives only", "positives only", "no such start"],
)
def test_what_cannot_start_is_refused(
    run_folder: Path, experiment: str, init: str, splits: Any, error: type[Exception]
):
    with pytest.raises(error):
        train(Experiment(experiment), recipe_of(init=init), splits, run_folder, CPU)
    assert not list(run_folder.iterdir())


def test_an_epoch_without_a_batch_is_refused(run_folder: Path):
    negatives, positives = (np.flatnonzero(TRAINING.labels == label) for label in (0, 1))
    few = TRAINING.take(np.append(negatives[:5], positives[:1]))
    with pytest.raises(TrainingError, match=r"epoch 1: no batch has 2 of the 6 training slices; legal: .*--negatives"):
        train(Experiment("densenet-base"), recipe_of(negatives=1e-9), (few, VALIDATION), run_folder, CPU)


@pytest.fixture(scope="module")
def network() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_classifier("densenet121", BRAIN)


def test_prediction_keeps_the_order_and_drops_nothing_out(network: Classifier):
    split = make_split([0, 1] * 35, size=32)
    logits = predict(network.train(), split, CPU, "fp32")
    assert logits.shape == (70,)
    assert logits.dtype == np.float32
    turned = predict(network.train(), split.take(np.arange(70)[::-1]), CPU, "fp32")
    np.testing.assert_allclose(turned[::-1], logits, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(split.images[:3])).numpy()
    np.testing.assert_allclose(logits[:3], expected, rtol=1e-4, atol=1e-5)


def test_prediction_in_bf16_is_close(network: Classifier):
    split = make_split([0, 1], size=32)
    np.testing.assert_allclose(
        predict(network, split, CPU, "bf16"), predict(network, split, CPU, "fp32"), rtol=0.05, atol=0.05
    )


def test_the_loss_falls_and_positives_are_told_from_negatives(run_folder: Path):
    training = make_split([0, 1] * 20, size=32)
    validation = make_split([0, 1] * 10, FIRST_VALIDATION_ID, size=32)
    trained = train(BASE, recipe_of(8, batch_size=8), (training, validation), run_folder, CPU)
    losses = [record["loss"] for record in trained.history]
    assert min(losses[-2:]) < 0.7 * losses[0]
    assert max(record["validation"]["auc"] for record in trained.history) > 0.7


# The average of the weights


def test_a_stopped_training_of_changed_slices_with_averaged_weights_goes_on_as_if_it_had_not(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    recipe = recipe_of(2, ema=0.8, augment=True, one_cycle=True, weight_decay=0.02)
    whole = train(BASE, recipe, SPLITS, run_folder / "whole", CPU)
    with pytest.raises(StopError):
        train(BASE, recipe, SPLITS, run_folder / "stopped", CPU, progress=stop_at(1, 2))
    assert_same_weights(train(BASE, recipe, SPLITS, run_folder / "stopped", CPU), whole)
    learner = torch.load(run_folder / "whole" / "densenet-base.validation.checkpoint.pt", weights_only=True)["network"]
    name = "features.conv0.weight"
    assert not torch.equal(weights_of(whole)[name], learner[name].half().float()), "the average, not the last step"
    assert whole.rounding["auc_before"] == whole.history[-1]["validation"]["auc"]


# Rounding


@pytest.mark.parametrize(("most", "bits"), [(1.0, 8), (-1.0, 16)], ids=["8 bits cost little", "8 bits cost too much"])
def test_weights_are_rounded_to_8_bits_only_where_that_costs_little(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, most: float, bits: int
):
    monkeypatch.setitem(loop.BITS, "densenet121", 8)
    monkeypatch.setattr(loop, "MOST_AUC_LOST", most)
    notes: list[str] = []
    trained = train(BASE, recipe_of(), SPLITS, run_folder, CPU, progress=Progress(note=notes.append))
    kernels = {value.dtype for value in safetensors.torch.load(trained.weights).values() if value.ndim == 4}
    assert kernels == {torch.int8 if bits == 8 else torch.float16}
    assert len(notes) == (bits == 16)
    before = trained.history[-1]["validation"]["auc"]
    after = measure(trained.logits, VALIDATION.labels, VALIDATION.groups)["auc"]
    assert trained.rounding == {"bits": bits, "auc_before": before, "auc_lost": before - after}
    again = start_classifier("densenet121", recipe_of().spec, "scratch")
    assert load_saved(again, trained.weights) == ([], [])
    assert np.array_equal(predict(again, VALIDATION, CPU, "fp32"), trained.logits), "figures are of what ships"
