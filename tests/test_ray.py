"""`hemoscan scan --ray` for real: clusters of processes on this machine, whose workers and nodes are killed."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from hemoscan.phantom import make_phantom, write_dicom

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray"),
    pytest.mark.skipif(os.name != "posix", reason="POSIX signals"),
]
ON_NODES = Path(__file__).with_name("on_nodes")
FILES = 160
PATIENCE = 300.0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_dicom(make_phantom("epidural", size=64, slices=FILES), folder)
    return folder


def environment(pause: float = 0.0, **more: str) -> dict[str, str]:
    """Return an environment in which processes may talk to each other, and score by the mean."""
    names = ("PATH", "HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "LANG")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "PYTHONPATH": str(ON_NODES), "HEMOSCAN_TEST_PAUSE": str(pause), **more}


def command(study: Path, output: Path, *options: str) -> list[str]:
    files = ["-o", str(output), "--state", str(output.with_suffix(".sqlite"))]
    return [sys.executable, "-P", "-m", "hemoscan", "scan", str(study), *files, "-j", "1", "--threads", "1", *options]


def start(study: Path, output: Path, *options: str, pause: float = 0.0, **more: str) -> subprocess.Popen[str]:
    with output.with_suffix(".err").open("w", encoding="utf-8") as stderr:
        return subprocess.Popen(  # noqa: S603
            command(study, output, *options), env=environment(pause, **more), stderr=stderr, text=True
        )


@pytest.fixture(scope="module")
def reference(study: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("reference") / "out.csv"
    assert start(study, output).wait(PATIENCE) == 0
    return output.read_bytes()


def wait_until(there: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if there():
            return
        assert process.poll() is None, "the scan ended before it happened"
        time.sleep(0.1)
    raise AssertionError("it never happened")


def workers() -> list[psutil.Process]:
    """Return the processes of workers."""
    return [each for each in psutil.process_iter() if _title(each).startswith("ray::Worker")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def scored(output: Path) -> int:
    """Return how many slices a scan's state knows by now."""
    try:
        with closing(sqlite3.connect(f"file:{output.with_suffix('.sqlite')}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM slices").fetchone()[0])
    except sqlite3.OperationalError:  # it is not made yet
        return 0


def record_of(output: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(output.with_suffix(".run.json").read_text(encoding="utf-8"))
    return found


def own_worker(process: subprocess.Popen[str]) -> psutil.Process | None:
    """Return a worker of the cluster that a scan started."""
    family = psutil.Process(process.pid).children(recursive=True)
    return next((each for each in family if _title(each).startswith("ray::Worker")), None)


def listening(process: subprocess.Popen[str]) -> set[str]:
    """Return the addresses at which a scan and all that it started take connections."""
    found = set()
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        try:
            found |= {one.laddr.ip for one in each.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
        except psutil.Error:
            continue
    return found


def test_a_worker_that_is_killed_changes_nothing_and_no_port_is_open_to_others(
    study: Path, reference: bytes, tmp_path: Path
):
    output = tmp_path / "out.csv"
    with tempfile.TemporaryDirectory(prefix="t") as temporary:
        process = start(study, output, "--ray", "-v", pause=0.02, TMPDIR=temporary)
        wait_until(lambda: scored(output) >= 32, process)
        addresses = listening(process)
        victim = own_worker(process)
        assert victim is not None
        os.kill(victim.pid, signal.SIGKILL)
        assert process.wait(PATIENCE) == 0
        assert list(Path(temporary).iterdir()) == [], "nothing is left behind"
    assert output.read_bytes() == reference
    assert addresses
    assert {address.removeprefix("::ffff:") for address in addresses} <= {"127.0.0.1", "::1"}
    record = record_of(output)
    assert record["ray"]["workers_lost"] == 1
    assert record["of_these"]["slices_scored"] == FILES
    assert psutil.pid_exists(victim.pid) is False
    stderr = output.with_suffix(".err").read_text(encoding="utf-8")
    assert "was lost: its files are scored again" in stderr
    assert "raylet" not in stderr
    assert len(stderr.splitlines()) <= 12, stderr


def test_a_scan_that_is_terminated_keeps_what_was_done(study: Path, reference: bytes, tmp_path: Path):
    output = tmp_path / "out.csv"
    # One worker of all processors: the more there are, the more is under way, and done before the end.
    process = start(study, output, "--ray", "--threads", "1024", pause=0.02)
    wait_until(lambda: scored(output) >= 32, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    with output.open(encoding="utf-8", newline="") as file:
        kept = len(list(csv.DictReader(file)))
    assert 32 <= kept < FILES
    assert start(study, output).wait(PATIENCE) == 0
    assert output.read_bytes() == reference
    assert record_of(output)["of_these"] == {
        "files_known": kept,
        "slices_scored": FILES - kept,
        "files_pruned": 0,
    }


@pytest.mark.slow
def test_an_address_without_a_cluster_is_told(study: Path, tmp_path: Path):
    output = tmp_path / "out.csv"
    process = start(study, output, "--ray", "127.0.0.1:9")
    assert process.wait(PATIENCE) == 1
    stderr = output.with_suffix(".err").read_text(encoding="utf-8")
    assert "--ray 127.0.0.1:9: no cluster that can be joined" in stderr
    assert "Traceback" not in stderr


class Nodes:
    """A cluster of nodes, each with processes and resources of its own."""

    def __init__(self, pause: float) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="n")
        self._pause = pause
        self.program = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", str(Path(__file__).with_name("ray_nodes.py")), self._folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(pause),
        )
        self.address = self._said()

    def ask(self, what: str) -> str:
        assert self.program.stdin is not None
        print(what, file=self.program.stdin, flush=True)
        return self._said()

    def _said(self) -> str:
        assert self.program.stdout is not None
        for line in self.program.stdout:
            if line.startswith("node: "):
                return line.removeprefix("node: ").strip()
        raise AssertionError("no cluster")

    def end(self) -> None:
        self.program.communicate("end\n", timeout=PATIENCE)
        self._folder.cleanup()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    found = Nodes(pause=0.5)
    yield found
    found.end()


@pytest.mark.slow
def test_nodes_are_added_and_removed_during_a_scan(study: Path, reference: bytes, nodes: Nodes, tmp_path: Path):
    output = tmp_path / "out.csv"
    process = start(study, output, "--ray", nodes.address)
    wait_until(lambda: scored(output) >= 32, process)
    nodes.ask("add")
    wait_until(lambda: len(workers()) == 3, process)
    nodes.ask("remove")
    assert process.wait(PATIENCE) == 0
    assert output.read_bytes() == reference
    record = record_of(output)
    assert record["of_these"]["slices_scored"] == FILES
    assert record["ray"]["workers"] == 3
    assert "left the cluster" in output.with_suffix(".err").read_text(encoding="utf-8")
