"""Files that crash, hang or bloat a decoder: each costs its own row, nothing else."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import decoders
import pytest

from hemoscan import cli, isolation
from hemoscan.card import BRAIN
from hemoscan.decode import DecodeOptions, decode
from hemoscan.errors import DecoderError
from hemoscan.isolation import Decode, DecoderOptions, DecoderPool
from hemoscan.phantom import make_phantom, write_dicom
from hemoscan.slices import Decoded
from hemoscan.sources import Entry, find_entries

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="enforced on Linux")


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_dicom(make_phantom(size=64, slices=8), tmp_path_factory.mktemp("slices"))


@pytest.fixture
def folder(tmp_path: Path, slices: list[Path]) -> Callable[..., Path]:
    """Return a function that fills a folder with slices of the given names."""

    def fill(*names: str) -> Path:
        for name in names:
            shutil.copy(slices[4], tmp_path / name)
        return tmp_path

    return fill


@pytest.fixture(autouse=True)
def no_worker_stays() -> Iterator[None]:
    yield
    assert [process for process in multiprocessing.active_children() if process.is_alive()] == []


def run(
    root: Path, decode: Decode = decoders.hostile, files_per_task: int = 4, workers: int = 2, **options: Any
) -> list[Decoded]:
    """Decode what is under a folder, some files a task."""
    entries = list(find_entries([root]))
    tasks = [entries[i : i + files_per_task] for i in range(0, len(entries), files_per_task)]
    settings = DecoderOptions(DecodeOptions(BRAIN), workers, **options)
    with DecoderPool(settings, decode) as pool:
        futures = [pool.submit(task) for task in tasks]
        return [decoded for future in futures for decoded in future.result()]


def statuses(found: list[Decoded]) -> dict[str, str]:
    return {Path(decoded.path).name: decoded.status for decoded in found}


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("files_per_task", [1, 5])
def test_workers_decode_as_the_process_itself_does(slices: list[Path], workers: int, files_per_task: int):
    root = slices[0].parent
    with DecoderPool(DecoderOptions(DecodeOptions(BRAIN), 0)) as pool:
        expected = pool.submit(list(find_entries([root]))).result()
    found = run(root, decode, files_per_task, workers)
    assert [decoded.path for decoded in found] == [str(path) for path in slices]
    assert [decoded.image.tobytes() for decoded in found if decoded.image is not None] == [
        decoded.image.tobytes() for decoded in expected if decoded.image is not None
    ]
    assert {decoded.status for decoded in found} == {"ok"}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_calling_process_decodes_only_if_there_are_no_workers(slices: list[Path], workers: int):
    found = run(slices[0].parent, decoders.pid, workers=workers)
    assert (str(os.getpid()) in {decoded.reason for decoded in found}) == (workers == 0)


@pytest.mark.parametrize(
    ("name", "files_per_task", "reason"),
    [
        ("abort", 1, "crashed its decoder (SIGABRT)"),
        ("abort", 4, "crashed its decoder (SIGABRT)"),
        ("segfault", 4, "crashed its decoder (SIGSEGV)"),
        ("leave", 4, "crashed its decoder"),
        ("sleep", 4, "took longer than 10 s to decode; --file-timeout allows more"),
        ("spin", 1, "took longer than 10 s to decode; --file-timeout allows more"),
        pytest.param("allocate", 1, "MemoryError", marks=linux_only),
        pytest.param("allocate", 4, "MemoryError", marks=linux_only),
    ],
)
def test_the_file_at_fault_is_the_only_one_to_lose(
    folder: Callable[..., Path], name: str, files_per_task: int, reason: str
):
    guilty = f"{name}-3"
    root = folder("1", "2", guilty, "4", "5", "6", "7", "8")
    found = run(root, files_per_task=files_per_task, file_timeout=10 if "10 s" in reason else 60, worker_bytes=2**28)
    assert [decoded.path for decoded in found] == [entry.path for entry in find_entries([root])]
    assert {name for name, status in statuses(found).items() if status != "ok"} == {guilty}
    (text,) = (decoded.reason for decoded in found if decoded.status == "error")
    assert reason in text


def test_many_crashes_blame_nobody_else(folder: Callable[..., Path]):
    names = [f"abort-{number}" if number % 3 == 0 else f"{number}" for number in range(30)]
    found = statuses(run(folder(*names)))
    assert found == {name: "error" if name.startswith("abort") else "ok" for name in names}


def test_a_crash_that_does_not_happen_again_costs_nothing(folder: Callable[..., Path]):
    root = folder("1", "once-2", "3")
    found = run(root, files_per_task=1)
    assert (root / "once-2.tried").exists()
    assert set(statuses(found).values()) == {"ok"}


def test_a_long_file_has_more_time():
    options = DecoderOptions(DecodeOptions(BRAIN), 1, 60)
    small, large = Entry("small", size=2**20), Entry("large", size=200 * 2**20)
    assert options.seconds_for([small, small]) == 60
    assert options.seconds_for([small, large]) == 60 * 4


def test_workers_are_silent(folder: Callable[..., Path], capfd: pytest.CaptureFixture[str]):
    found = run(folder("speak-1", "segfault-2"))
    assert statuses(found) == {"speak-1": "ok", "segfault-2": "error"}
    assert capfd.readouterr() == ("", "")


@linux_only
def test_a_crash_leaves_no_core_with_the_image(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    root = folder("abort-1")
    monkeypatch.chdir(root)
    run(root)
    assert [path.name for path in root.iterdir()] == ["abort-1"]


@pytest.mark.parametrize("name", ["sleep", "spin"])
def test_leaving_ends_what_workers_do(folder: Callable[..., Path], name: str):
    entries = list(find_entries([folder(*(f"{name}-{number}" for number in range(9)))]))
    with DecoderPool(DecoderOptions(DecodeOptions(BRAIN), 2), decoders.hostile) as pool:
        futures = [pool.submit([entry]) for entry in entries]
        time.sleep(1)
        started = time.monotonic()
    assert time.monotonic() - started < 30, "not the 60 s that a file may take"
    assert all(future.done() for future in futures)


def test_an_exception_leaves_at_once_too(folder: Callable[..., Path]):
    entries = list(find_entries([folder("sleep-1")]))
    with (
        pytest.raises(KeyboardInterrupt),
        DecoderPool(DecoderOptions(DecodeOptions(BRAIN), 1), decoders.hostile) as pool,
    ):
        pool.submit(entries)
        raise KeyboardInterrupt


def test_workers_that_cannot_be_started_are_an_error_of_the_run(slices: list[Path], monkeypatch: pytest.MonkeyPatch):
    def refuse(worker_bytes: int) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(isolation, "_start_pool", refuse)
    monkeypatch.setattr(isolation, "START_ATTEMPTS", 2)
    with pytest.raises(DecoderError, match="Resource temporarily unavailable"):
        run(slices[0].parent)


def test_workers_are_replaced_now_and_then(slices: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isolation, "TASKS_PER_WORKER", 3)
    found = run(slices[0].parent, decoders.pid, files_per_task=1, workers=1)
    assert len(found) == len(slices)
    assert len({decoded.reason for decoded in found}) >= 3


def test_workers_import_the_reading_side_only():
    code = "import sys, hemoscan.isolation; print(sorted({'torch', 'sklearn', 'openvino'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert found.stdout.strip() == "[]"


def test_the_command_line_has_the_same_default():
    (option,) = (option for option in cli.scan.params if option.name == "file_timeout")
    assert option.default == isolation.DEFAULT_FILE_TIMEOUT


@linux_only
def test_workers_end_with_their_parent(folder: Callable[..., Path]):
    """A parent that is killed leaves no decoder that runs for ever."""
    root = folder("sleep-1")
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import decoders
from hemoscan.card import BRAIN
from hemoscan.decode import DecodeOptions
from hemoscan.isolation import DecoderOptions, DecoderPool
from hemoscan.sources import find_entries
import multiprocessing, time
pool = DecoderPool(DecoderOptions(DecodeOptions(BRAIN), 1, 1e-3 + 2), decoders.hostile)
pool.submit(list(find_entries([{str(root)!r}])))
while not multiprocessing.active_children():
    time.sleep(0.05)
print(multiprocessing.active_children()[0].pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _runs(worker)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
