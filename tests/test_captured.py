"""Batches of a shape that comes again are learned from a graph; what PyTorch records is its own, when is ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hemoscan.trainer.captured import WARM_UP, Captured, CudaGraphs

SCALE = 0.5


class Model:
    """Adds up what it is shown."""

    def __init__(self) -> None:
        self.total = torch.zeros(())

    def learn(self, images: Tensor, labels: Tensor, weights: Tensor, scale: float) -> Tensor:
        self.total += images.sum()
        return (labels * weights).sum() * scale


class Replays:
    """Records work as CUDA graphs do, without a GPU: inputs and result stay where they are."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.log: list[str] = []

    def run(self, work: Callable[[], Tensor], *, tune: bool) -> Tensor:
        self.log.append("tuned" if tune else "run")
        return work()

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.log.append("record")
        if self.failure is not None:
            raise self.failure
        result = torch.zeros(())

        def again() -> None:
            self.log.append("replay")
            result.copy_(work())

        return again, result


def batch(n: int, value: float, pixels: int = 2) -> tuple[Tensor, Tensor, Tensor, float]:
    return torch.full((n, pixels, pixels), value), torch.full((n,), value), torch.ones(n), SCALE


def test_after_the_warm_up_a_batch_is_replayed_with_its_own_values():
    model, graphs = Model(), Replays()
    captured = Captured(model.learn, graphs, pytest.fail)
    losses = [captured(*batch(2, float(number))) for number in range(1, 6)]
    assert graphs.log == ["tuned"] * WARM_UP + ["record", "replay", "replay"]
    assert [loss.item() for loss in losses] == [1, 2, 3, 4, 5], "a later step leaves an earlier loss alone"
    assert model.total.item() == 8 * (1 + 2 + 3 + 4 + 5)


def test_smaller_batches_are_learned_as_they_are_and_not_tuned_for():
    model, graphs = Model(), Replays()
    captured = Captured(model.learn, graphs, pytest.fail)
    for n in (3, 3, 3, 2, 3, 2):
        captured(*batch(n, 1.0))
    assert graphs.log == ["tuned"] * WARM_UP + ["run", "record", "replay", "run"]
    assert model.total.item() == 4 * 16


def test_images_of_other_pixels_begin_anew():
    model, graphs = Model(), Replays()
    captured = Captured(model.learn, graphs, pytest.fail)
    for pixels in (2, 4):
        for _ in range(WARM_UP + 1):
            captured(*batch(2, 1.0, pixels))
    assert graphs.log == (["tuned"] * WARM_UP + ["record", "replay"]) * 2
    assert len(captured.replays) == 1, "the other graph's memory is given back"


def test_where_capturing_fails_it_says_so_once_and_goes_on():
    notes: list[str] = []
    model, graphs = Model(), Replays(RuntimeError("operation not permitted\nwhen stream is capturing"))
    captured = Captured(model.learn, graphs, notes.append)
    losses = [captured(*batch(2, 1.0)).item() for _ in range(WARM_UP + 2)]
    assert graphs.log.count("record") == 1
    assert losses == [1.0] * (WARM_UP + 2)
    assert model.total.item() == 8 * (WARM_UP + 2)
    assert notes == [
        "goes on without CUDA graphs (--no-capture leaves them out): RuntimeError: operation not permitted"
    ]


def test_where_a_later_capture_fails_no_earlier_one_is_replayed():
    notes: list[str] = []
    model, graphs = Model(), Replays()
    captured = Captured(model.learn, graphs, notes.append)
    for n in [3] * (WARM_UP + 1) + [2] * WARM_UP:
        captured(*batch(n, 1.0))
    assert graphs.log[-WARM_UP - 2 :] == ["record", "replay", *["run"] * WARM_UP]
    graphs.failure = RuntimeError("out of memory")
    for n in (2, 3):
        captured(*batch(n, 1.0))
    assert graphs.log[-3:] == ["record", "run", "tuned"]
    assert len(notes) == 1
    assert model.total.item() == 4 * (3 * (WARM_UP + 2) + 2 * (WARM_UP + 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpus_graph_learns_what_plain_steps_learn():
    device = torch.device("cuda")

    def weights(captures: bool) -> Tensor:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        model.to(device)
        rate = torch.tensor(0.01, device=device)
        optimizer = torch.optim.AdamW(model.parameters(), rate, fused=True, capturable=True)

        def learn(images: Tensor, labels: Tensor, _weights: Tensor, scale: float) -> Tensor:
            loss = (model(images)[:, 0] - labels).square().sum() * scale
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return loss.detach()

        step = Captured(learn, CudaGraphs(device), pytest.fail) if captures else learn
        generator = torch.Generator(device).manual_seed(0)
        for number in range(10):
            rate.fill_(0.01 / (number + 1))
            images = torch.rand(4 if number != 6 else 3, 4, 4, generator=generator, device=device)
            loss = step(images, images.mean((1, 2)), torch.ones(len(images), device=device), 1 / len(images))
            assert torch.isfinite(loss)
        assert not captures or list(step.replays) == [4]  # type: ignore[union-attr]
        return torch.cat([value.detach().flatten() for value in model.parameters()]).cpu()

    torch.testing.assert_close(weights(True), weights(False), rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_capture_that_cuda_breaks_off_does_no_harm():
    notes: list[str] = []
    device = torch.device("cuda")
    current = torch.cuda.current_stream(device)
    total = torch.zeros((), device=device)

    def learn(images: Tensor, _labels: Tensor, _weights: Tensor, scale: float) -> Tensor:
        total.add_(torch.nn.functional.dropout(images, 0.5).sum() * scale)
        if torch.cuda.is_current_stream_capturing():
            total.item()  # waits for the GPU, which a capture forbids
        return total.detach().clone()

    captured = Captured(learn, CudaGraphs(device), notes.append)
    shown = [value.to(device) if isinstance(value, Tensor) else value for value in batch(2, 1.0)]
    losses = [captured(*shown).item() for _ in range(WARM_UP + 3)]  # type: ignore[arg-type]
    assert len(notes) == 1
    assert losses == sorted(losses)
    assert torch.cuda.current_stream(device) == current
    torch.rand(2, device=device)
