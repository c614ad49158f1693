"""The forward pass, compiled where that works. What PyTorch's compiler does is its own; the fallback is ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from hemoscan.trainer.compiled import Forward


class Doubler(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * images.sum(dim=(1, 2))


IMAGES = torch.ones(3, 4, 4)


def fake_compile(result: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda _model, **_: result


def test_uncompiled_it_is_the_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled unasked"))
    assert Forward(Doubler(), compiled=False, note=pytest.fail)(IMAGES).tolist() == [32.0] * 3


def test_the_compiled_model_is_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", fake_compile(lambda images: images[:, 0, 0] + 6))
    assert Forward(Doubler(), compiled=True, note=pytest.fail)(IMAGES).tolist() == [7.0] * 3


def test_only_the_largest_batches_are_compiled_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", fake_compile(lambda images: images[:, 0, 0] + 6))
    forward = Forward(Doubler(), compiled=True, note=pytest.fail)
    assert [forward(IMAGES[:n]).tolist() for n in (3, 2, 3)] == [[7.0] * 3, [32.0] * 2, [7.0] * 3]


def test_where_compiling_fails_it_says_so_once_and_goes_on(monkeypatch: pytest.MonkeyPatch):
    tries: list[int] = []

    def fail(_: Tensor) -> Tensor:
        tries.append(1)
        raise BackendCompilerFailed(fake_backend, RuntimeError("no compiler\nbelow"), None)

    def fake_backend() -> None:
        pass

    notes: list[str] = []
    monkeypatch.setattr(torch, "compile", fake_compile(fail))
    forward = Forward(Doubler(), compiled=True, note=notes.append)
    for _ in range(2):
        assert forward(IMAGES).tolist() == [32.0] * 3
    assert len(tries) == 1
    (note,) = notes
    assert "goes on uncompiled: BackendCompilerFailed" in note
    assert "\n" not in note


def test_other_failures_are_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def fail(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("too large a batch")

    monkeypatch.setattr(torch, "compile", fake_compile(fail))
    with pytest.raises(torch.OutOfMemoryError):
        Forward(Doubler(), compiled=True, note=pytest.fail)(IMAGES)
