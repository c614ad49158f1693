"""Checkpoints are whole or not there, and of the training that goes on from them."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hemoscan.errors import HemoscanError, OutputError, TrainingError
from hemoscan.trainer.checkpoint import load_checkpoint, save_checkpoint

IDENTITY: dict[str, Any] = {"experiment": "densenet-bias", "seed": 0, "learning_rate": 5e-4, "slices": 20}


def state(step: int = 3) -> dict[str, Any]:
    network = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {
        "identity": IDENTITY,
        "step": step,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "history": [{"loss": 0.5, "validation": {"auc": 0.9, "auc_within_groups": {"70": 0.8}}}],
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "densenet-bias.checkpoint.pt"


def test_what_was_saved_is_loaded(path: Path):
    saved = state()
    save_checkpoint(path, saved)
    loaded = load_checkpoint(path, IDENTITY)
    assert loaded is not None
    torch.testing.assert_close(loaded["network"], saved["network"], rtol=0, atol=0)
    torch.testing.assert_close(loaded["optimizer"]["state"], saved["optimizer"]["state"], rtol=0, atol=0)
    assert torch.equal(loaded["rng"], saved["rng"])
    assert {key: loaded[key] for key in ("step", "history", "identity")} == {
        key: saved[key] for key in ("step", "history", "identity")
    }
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_no_file_is_no_checkpoint(path: Path):
    assert load_checkpoint(path, IDENTITY) is None


def test_a_later_checkpoint_replaces_the_earlier(path: Path):
    for step in (3, 4):
        save_checkpoint(path, state(step))
    loaded = load_checkpoint(path, IDENTITY)
    assert loaded is not None
    assert loaded["step"] == 4


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ],
    ids=["disk full", "interrupted", "no memory"],
)
def test_the_earlier_checkpoint_survives_a_failure_in_the_middle(
    path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, raised: type[BaseException]
):
    save_checkpoint(path, state())
    before = path.read_bytes()

    def half(_: object, file: io.BytesIO) -> None:
        file.write(before[: len(before) // 2])
        raise failure

    with monkeypatch.context() as patch, pytest.raises(raised):
        patch.setattr(torch, "save", half)
        save_checkpoint(path, state(4))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


class _FullDisk(io.FileIO):
    """A file on a disk that is full after so many bytes."""

    def __init__(self, handle: int, mode: str) -> None:
        super().__init__(handle, mode)
        self.left = 3000

    def write(self, content: Any) -> int:
        self.left -= len(content)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


def test_a_disk_that_is_full_in_the_middle_of_a_checkpoint_is_named_and_leaves_the_earlier_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_checkpoint(path, state())
    before = path.read_bytes()
    assert len(before) > 3000
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", _FullDisk)
        with pytest.raises(OutputError, match=r"checkpoint\.pt: cannot be written: No space left on device"):
            save_checkpoint(path, state(4))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"densenet-bias\.checkpoint\.pt: cannot be written"):
        save_checkpoint(tmp_path / "file" / "densenet-bias.checkpoint.pt", state())


def test_a_checkpoint_of_a_training_with_more_to_it_is_refused(path: Path):
    save_checkpoint(path, state() | {"identity": {**IDENTITY, "ema": 0.9}})
    with pytest.raises(TrainingError, match=r"ema 0\.9, now None"):
        load_checkpoint(path, IDENTITY)


@pytest.mark.parametrize(
    ("key", "value"),
    [("experiment", "resnet-base"), ("seed", 1), ("learning_rate", 1e-3), ("slices", 21), ("new option", True)],
)
def test_a_checkpoint_of_another_training_is_refused_naming_what_differs(path: Path, key: str, value: object):
    save_checkpoint(path, state())
    with pytest.raises(TrainingError) as caught:
        load_checkpoint(path, {**IDENTITY, key: value})
    text = str(caught.value)
    assert str(path) in text
    assert f"{key} {IDENTITY.get(key)!r}, now {value!r}" in text
    assert "--run-dir" in text
    assert not any(f"{other} " in text for other in IDENTITY if other != key), text


class _Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def _whole() -> bytes:
    content = io.BytesIO()
    torch.save(state(), content)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda: b"", id="empty"),
        pytest.param(lambda: b"no checkpoint", id="text"),
        pytest.param(lambda: _whole()[:-200], id="cut at the end"),
        pytest.param(lambda: _whole()[:100], id="cut near the start"),
        pytest.param(lambda: bytes(len(_whole())), id="zeros"),
    ],
)
def test_a_damaged_checkpoint_is_refused(path: Path, content: Any):
    path.parent.mkdir()
    path.write_bytes(content())
    with pytest.raises(TrainingError, match=r"checkpoint\.pt.*cannot be read(?s:.*)--run-dir") as caught:
        load_checkpoint(path, IDENTITY)
    assert "\n" not in str(caught.value), "the command line promises one line"
    assert "weights_only" not in str(caught.value), "torch's own text advises to load it unsafely"


@pytest.mark.parametrize(
    "content", [{"weight": torch.zeros(2)}, [1, 2], torch.zeros(2)], ids=["dict", "list", "tensor"]
)
def test_a_file_of_torch_that_is_no_checkpoint_is_refused(path: Path, content: object):
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(HemoscanError, match=r"checkpoint\.pt.*--run-dir"):
        load_checkpoint(path, IDENTITY)


def test_code_in_a_checkpoint_is_not_run(path: Path, tmp_path: Path):
    path.parent.mkdir()
    torch.save({"identity": IDENTITY, "network": _Touch(tmp_path / "run")}, path)
    with pytest.raises(TrainingError):
        load_checkpoint(path, IDENTITY)
    assert not (tmp_path / "run").exists()
