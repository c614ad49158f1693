"""Fixtures that several test modules share. Images are synthesised here: no patient data."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

# Before torch: networks here are tiny, and threads that wait for each other on a busy machine are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from command_line import MappingEngine

from hemoscan.card import BRAIN, Card, Model
from hemoscan.dicom import configure_pydicom
from hemoscan.phantom import make_phantom, write_dicom

DATA_SET = "unibuc-brain-ad"
LABEL_FILES = ("train_labels.txt", "*/train_labels.txt")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whatever tries to reach the network, here and in the processes that tests start: hemoscan never does.

    Sockets of the machine's own (AF_UNIX) are how processes of one program talk.
    """
    connect = socket.socket.connect

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError(f"a connection was tried: {args}")

    def connect_within(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None):
            refuse(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_within)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    blocked = str(Path(__file__).parent / "blocked")
    monkeypatch.setenv("PYTHONPATH", blocked, prepend=os.pathsep)


@pytest.fixture(autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the states of scans out of the user's folder, those of subprocesses, too."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep converted models out of the user's own cache, for subprocesses too; one conversion serves all tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))  # Linux's; elsewhere tests use the user's cache
        yield folder


@pytest.fixture(scope="session", autouse=True)
def pydicom_as_in_a_scan() -> None:
    configure_pydicom()


def shared_folder(name: str) -> Path | None:
    """Return a folder of the real data.

    HEMOSCAN_DATA names the data set's folder, which may be `name` or lie beside it; in CI the real data lie beside
    the checkout.
    """
    roots = []
    if os.environ.get("HEMOSCAN_DATA"):
        data = Path(os.environ["HEMOSCAN_DATA"]).absolute()
        if name == DATA_SET and any(any(data.glob(pattern)) for pattern in LABEL_FILES):
            return data
        roots += [data, data.parent]
    if os.environ.get("CI"):
        roots.append(Path(__file__).parents[2] / "shared" / "data")
    return next((root / name for root in roots if (root / name).is_dir()), None)


def need_shared(name: str) -> Path:
    """Return a folder of the real data, or skip the test."""
    folder = shared_folder(name)
    if folder is None:
        pytest.skip(f"needs {name}: name the folder of the real data with HEMOSCAN_DATA")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """DICOM/PNG pairs of the data set: pairs.csv, *.dcm, *.png."""
    return need_shared("golden")


@pytest.fixture(scope="session")
def head_ct_ge() -> Path:
    """One real head CT of 28 slices."""
    return need_shared("head-ct-ge")


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A DenseNet-121 with seeded random weights and its card: scores mean nothing, everything else is real."""
    import torch

    from hemoscan.networks import build_classifier, save_weights

    folder = tmp_path_factory.mktemp("untrained")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = save_weights(build_classifier("densenet121", BRAIN))
    (folder / "untrained.safetensors").write_bytes(weights)
    card = Card(
        name="densenet-bias",
        architecture="densenet121",
        input=BRAIN,
        threshold=0.5,
        weights="untrained.safetensors",
        sha256=hashlib.sha256(weights).hexdigest(),
    )
    (folder / "untrained.json").write_text(card.to_json(), encoding="utf-8")
    return Model(card, folder)


@pytest.fixture
def card_path(untrained: Model) -> Path:
    return untrained.folder / "untrained.json"


@pytest.fixture
def mapping_engine(monkeypatch: pytest.MonkeyPatch) -> MappingEngine:
    """Have commands score by the mean: see `command_line`."""
    engine = MappingEngine()
    first = SimpleNamespace(load=lambda: engine, describe=engine.describe)
    monkeypatch.setattr("hemoscan.engines.EngineChoice.make_resilient", lambda *_: (first, engine))
    return engine


@pytest.fixture(scope="session")
def epidural(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of eight slices, some with blood; not to be changed."""
    folder = tmp_path_factory.mktemp("epidural")
    write_dicom(make_phantom("epidural", size=64, slices=8), folder)
    return folder
