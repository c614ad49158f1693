"""The cache of converted models: made once, whole or not at all, never trusted when damaged."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import filelock
import pytest

from hemoscan import ir_cache
from hemoscan.card import BRAIN, RAW, Card, Model
from hemoscan.errors import CardError, EngineError
from hemoscan.ir_cache import FILES, MANIFEST, cached_ir, convert, entry_folder, read_entry

CARD = Card("densenet-bias", "densenet121", BRAIN, 0.5, "weights.safetensors", "0" * 64)
MADE = (b"<net/>", bytes(range(256)))


class Converter:
    """Takes the place of the conversion and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: Model, say: Callable[[str], None]) -> ir_cache.IR:
        self.calls += 1
        return MADE


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Converter:
    fake = Converter()
    monkeypatch.setattr(ir_cache, "convert", fake)
    return fake


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache lies; not there yet."""
    root = tmp_path / "cache" / "hemoscan"
    monkeypatch.setattr(ir_cache.platformdirs, "user_cache_path", lambda *_, **__: root)
    return root


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(CARD, tmp_path)


def fail(text: str) -> NoReturn:
    raise AssertionError(text)


def test_a_model_is_converted_once(model: Model, root: Path, converter: Converter):
    assert [cached_ir(model, fail) for _ in range(3)] == [MADE] * 3
    assert converter.calls == 1
    assert entry_folder(model).is_relative_to(root)
    assert [path.name for path in entry_folder(model).parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "change", [{"sha256": "1" * 64}, {"input": RAW}, {"input": replace(BRAIN, size=64)}, {"architecture": "resnet101"}]
)
def test_what_the_graph_depends_on_makes_another_entry(model: Model, change: dict[str, object]):
    assert entry_folder(replace(model, card=replace(CARD, **change))) != entry_folder(model)


def test_what_it_does_not_depend_on_does_not(model: Model):
    assert entry_folder(Model(replace(CARD, name="other", threshold=0.1), Path("elsewhere"))) == entry_folder(model)


def test_another_form_makes_another_entry(model: Model, monkeypatch: pytest.MonkeyPatch):
    before = entry_folder(model)
    monkeypatch.setattr(ir_cache, "IR_FORMAT", ir_cache.IR_FORMAT + 1)
    assert entry_folder(model) != before


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit in the weights": lambda entry: flip(entry / FILES[1]),
    "a flipped bit in the graph": lambda entry: flip(entry / FILES[0]),
    "weights cut short": lambda entry: (entry / FILES[1]).write_bytes(MADE[1][:-1]),
    "no weights": lambda entry: (entry / FILES[1]).unlink(),
    "no manifest": lambda entry: (entry / MANIFEST).unlink(),
    "an empty manifest": lambda entry: (entry / MANIFEST).write_bytes(b""),
    "a manifest of something else": lambda entry: (entry / MANIFEST).write_text("[1]"),
    "a manifest that is no text": lambda entry: (entry / MANIFEST).write_bytes(b"\xff\xfe\xff"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.usefixtures("root")
def test_a_damaged_entry_is_made_anew(model: Model, converter: Converter, damage: Callable[[Path], object]):
    cached_ir(model, fail)
    damage(entry_folder(model))
    assert read_entry(entry_folder(model)) is None
    assert cached_ir(model, fail) == MADE
    assert converter.calls == 2
    assert read_entry(entry_folder(model)) == MADE


@pytest.mark.usefixtures("root")
def test_what_a_killed_process_left_is_no_hindrance(model: Model, converter: Converter):
    entry = entry_folder(model)
    left = entry.with_name(f".making-{entry.name}")
    left.mkdir(parents=True)
    (left / FILES[0]).write_bytes(b"half")
    assert cached_ir(model, fail) == MADE
    assert read_entry(entry) == MADE
    assert not left.exists()


def test_without_a_cache_every_scan_converts(model: Model, root: Path, converter: Converter):
    root.parent.mkdir()
    root.write_text("a file where the folder should be")
    said: list[str] = []
    assert [cached_ir(model, said.append) for _ in range(2)] == [MADE] * 2
    assert converter.calls == 2
    assert len(said) == 2
    assert "cannot be kept" in said[0]
    assert str(root) in said[0]


@pytest.mark.usefixtures("root")
def test_a_full_disk_leaves_no_half_entry(model: Model, converter: Converter, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, content: bytes) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert cached_ir(model, said.append) == MADE
    assert "No space left on device" in said[0]
    assert [path.name for path in entry_folder(model).parent.iterdir() if path.is_dir()] == []
    assert cached_ir(model, fail) == MADE
    assert converter.calls == 2


@pytest.mark.usefixtures("root")
def test_a_lock_that_is_never_released_does_not_stop_a_scan(
    model: Model, converter: Converter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ir_cache, "CONVERSION_SECONDS", 0.1)
    entry = entry_folder(model)
    entry.parent.mkdir(parents=True)
    said: list[str] = []
    with filelock.FileLock(f"{entry}.lock"):
        assert cached_ir(model, said.append) == MADE
    assert len(said) == 2
    assert "another process converts the model for OpenVINO: waiting" in said[0]
    assert "cannot be kept" in said[1]
    assert read_entry(entry) is None, "who does not hold the lock must not write"


def test_the_lock_is_released_after_a_failure(model: Model, root: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> NoReturn:
        raise EngineError("no")

    monkeypatch.setattr(ir_cache, "convert", broken)
    with pytest.raises(EngineError, match="no"):
        cached_ir(model, fail)
    lock = next((root / "openvino").glob("*.lock"))
    with filelock.FileLock(lock, timeout=0):
        pass


PROCESS = """
import sys, time
from pathlib import Path
from hemoscan import ir_cache
from hemoscan.card import Model, read_card

def convert(model, say):
    with open(sys.argv[2], "a") as file:
        file.write("converted\\n")
    time.sleep(1)
    return b"<net/>", b"weights"

ir_cache.convert = convert
ir_cache.platformdirs.user_cache_path = lambda *_, **__: Path(sys.argv[3])
card = Path(sys.argv[1])
assert ir_cache.cached_ir(Model(read_card(card), card.parent), print) == (b"<net/>", b"weights")
"""


def test_of_processes_at_the_same_time_one_converts(tmp_path: Path):
    (tmp_path / "card.json").write_text(CARD.to_json(), encoding="utf-8")
    log = tmp_path / "log"
    command = [sys.executable, "-c", PROCESS, tmp_path / "card.json", log, tmp_path / "cache"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(3)]  # noqa: S603
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    waited = b"another process converts the model for OpenVINO: waiting, up to 30 minutes\n"
    assert sorted(outputs) == [b"", waited, waited], "nobody should complain about the cache"
    assert log.read_text().splitlines() == ["converted"]


def test_changed_weights_are_not_converted(model: Model, monkeypatch: pytest.MonkeyPatch):
    model.weights_path.write_bytes(b"other weights")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: fail("started"))
    with pytest.raises(CardError, match="SHA-256"):
        convert(model, fail)


def test_a_model_that_cannot_be_converted_is_an_error_that_says_why(untrained: Model, tmp_path: Path):
    """Weights of another network than the card says."""
    said: list[str] = []
    wrong = Model(replace(untrained.card, architecture="resnet101"), untrained.folder)
    with pytest.raises(EngineError, match=r"densenet-bias cannot be converted .*not weights of resnet101.*torch"):
        convert(wrong, said.append)
    assert len(said) == 1


def test_the_manifest_is_of_the_files(model: Model, root: Path, converter: Converter):
    import hashlib

    cached_ir(model, fail)
    manifest = json.loads((entry_folder(model) / MANIFEST).read_text())
    assert manifest == {name: hashlib.sha256(content).hexdigest() for name, content in zip(FILES, MADE, strict=True)}
