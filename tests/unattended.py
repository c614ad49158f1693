"""Checks of unattended runs, each with its counts: the tests run them briefly, `tests/reliability.py` at length.

Scans run in processes of their own, forked from one that has imported hemoscan, with an engine that scores by the mean
and notes every image that it scores. Everything else is the real program.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from hemoscan.card import BRAIN, Card
from hemoscan.decode import DecodeOptions, decode
from hemoscan.phantom import make_phantom, write_dicom
from hemoscan.results import SLICE_COLUMNS
from hemoscan.sources import Reader, find_entries

SLICES = 40
BATCH_SIZE = 4
SECONDS_PER_IMAGE = 0.01

NURSERY = """
import hashlib, json, os, signal, sys, time, types

class Engine:
    def __init__(self, *args):
        open(os.environ["SCORED"], "ab").close()
    def describe(self): return {"name": "fake", "device": "cpu", "precision": "fp32"}
    def logits(self, images):
        open(os.environ["SCORED"] + ".begun", "ab").close()
        with open(os.environ["SCORED"], "ab", buffering=0) as log:
            for image in images:
                time.sleep(float(os.environ["SECONDS_PER_IMAGE"]))
                log.write(hashlib.sha256(image.tobytes()).hexdigest().encode() + b"\\n")
        return images.mean(axis=(1, 2)) / 255 - 1

from hemoscan import engines

class Choice(engines.EngineChoice):
    batch_size = 4
    def load(self, model, say=None): return Engine()

engines.choose_engine = lambda *options: Choice("fake", "cpu", "fp32")

import hemoscan.cli, hemoscan.scan, hemoscan.lock
hemoscan.scan.PUBLISH_SECONDS, hemoscan.scan.PUBLISH_SHARE = 0.05, 0

def child(task):
    os.environ.update(task["environment"])
    errors = os.open(task["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, nothing), (1, nothing), (2, errors)):
        os.dup2(source, target)
    sys.argv = ["hemoscan", *task["arguments"]]
    code = 1
    try:
        hemoscan.cli.main()
    except SystemExit as error:
        code = error.code or 0
    finally:
        sys.stderr.flush()
        os._exit(code)

print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    if "wait" in task:
        print(os.waitstatus_to_exitcode(os.waitpid(task["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        child(task)
    print(pid, flush=True)
"""


class Nursery:
    """Starts scans quickly: each is forked from a process that has done its imports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        if self._answer() != "ready":
            raise RuntimeError("hemoscan cannot be imported")

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.communicate(timeout=60)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _ask(self, task: dict[str, object]) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        return int(self._answer())

    def start(self, *arguments: str | Path, name: str = "scan", pace: float = SECONDS_PER_IMAGE) -> int:
        """Start `hemoscan ARGUMENTS`; return its process number."""
        environment = {"SCORED": str(self.folder / "scored"), "SECONDS_PER_IMAGE": str(pace)}
        errors = str(self.folder / f"{name}.stderr")
        return self._ask({"arguments": [str(a) for a in arguments], "environment": environment, "stderr": errors})

    def wait(self, pid: int) -> int:
        """Return the exit code, -N if a signal ended it."""
        return self._ask({"wait": pid})

    def stderr(self, name: str = "scan") -> str:
        return (self.folder / f"{name}.stderr").read_text(encoding="utf-8")

    @property
    def scored(self) -> list[str]:
        """Digests of the images that were scored so far."""
        path = self.folder / "scored"
        return path.read_text().split() if path.exists() else []


class Setting:
    """A study, a model's card, and what an uninterrupted scan of the study makes of it."""

    def __init__(self, folder: Path, nursery: Nursery, slices: int = SLICES) -> None:
        self.folder, self.nursery = folder, nursery
        self.study = folder / "study"
        write_dicom(make_phantom("epidural", size=64, slices=slices), self.study)
        (self.study / "notes.txt").write_text("a note", encoding="utf-8")
        (self.study / "cut.dcm").write_bytes((self.study / "phantom-004.dcm").read_bytes()[:-1000])
        self.card = write_card(folder)
        self.digests = {}
        with Reader() as reader:
            for entry in find_entries([self.study]):
                (decoded,) = decode(entry, reader, DecodeOptions(BRAIN))
                if decoded.image is not None:
                    self.digests[entry.path] = hashlib.sha256(decoded.image.tobytes()).hexdigest()
        assert len(set(self.digests.values())) == slices, "no two slices are alike"
        began = time.monotonic()
        assert self.scan("reference") == 4
        self.seconds = time.monotonic() - began
        self.reference = outputs(folder / "reference")

    def arguments(self, name: str, *more: str | Path) -> list[str | Path]:
        place = self.folder / name
        state = ("--state", place / "state.sqlite")
        return ["scan", self.study, "-m", self.card, "-b", str(BATCH_SIZE), "-o", place / "out.csv", *state, *more]

    def scan(self, name: str, *more: str | Path) -> int:
        return self.nursery.wait(self.nursery.start(*self.arguments(name, *more)))


def write_card(folder: Path) -> Path:
    path = folder / "card.json"
    path.write_text(Card("densenet-bias", "densenet121", BRAIN, 0.3, "none", "0" * 64).to_json(), encoding="utf-8")
    return path


def outputs(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "out.csv").read_bytes(), (folder / "out.studies.csv").read_bytes()


def kept(state: Path) -> set[str]:
    """Return the paths of slices that a state holds."""
    if not state.exists():
        return set()
    with contextlib.closing(sqlite3.connect(state)) as connection:
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return set()
        found = connection.execute("SELECT path FROM files JOIN slices ON file = id WHERE status = 'ok'")
        return {path.decode() for (path,) in found}


class Polling:
    """Reads a CSV all the time, as a reader beside the scan would, and notes what is broken."""

    def __init__(self, path: Path) -> None:
        self.reads, self.broken = 0, 0
        self._path, self._done = path, threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> Polling:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._done.wait(0.01):
            with contextlib.suppress(FileNotFoundError):
                content = self._path.read_text(encoding="utf-8")
                self.reads += 1
                self.broken += not is_whole(content)


def is_whole(content: str) -> bool:
    rows = list(csv.reader(content.splitlines(), strict=True))
    return content.endswith("\n") and tuple(rows[0]) == SLICE_COLUMNS and {len(r) for r in rows} == {len(SLICE_COLUMNS)}


def interrupt(setting: Setting, number: signal.Signals, times: int, seed: int = 0) -> Counter[str]:
    """Interrupt scans at random moments, resume them, and compare: `times` interruptions, up to three of a scan."""
    nursery, chance = setting.nursery, random.Random(seed)  # noqa: S311 - moments, no secrets
    killed = number == signal.SIGKILL
    counts: Counter[str] = Counter()
    while counts["interruptions"] < times:
        name = f"trial-{counts['scans']}"
        place = setting.folder / name
        place.mkdir()
        first = len(nursery.scored)
        with Polling(place / "out.csv") as polling:
            for _ in range(chance.randint(1, 3)):
                before = len(nursery.scored)
                known = kept(place / "state.sqlite")
                pid = nursery.start(*setting.arguments(name))
                time.sleep(chance.uniform(0, setting.seconds))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                code = nursery.wait(pid)
                assert code in {-number, 128 + number, 4}, nursery.stderr()
                assert "Traceback" not in nursery.stderr()
                counts["interruptions"] += code != 4
                again = {setting.digests[path] for path in known} & set(nursery.scored[before:])
                counts["slices kept and scored again"] += len(again)
            before = len(nursery.scored)
            known = kept(place / "state.sqlite")
            assert setting.scan(name) == 4, nursery.stderr()
            again = {setting.digests[path] for path in known} & set(nursery.scored[before:])
            counts["slices kept and scored again"] += len(again)
        counts["scans"] += 1
        counts["reads of the CSV meanwhile"] += polling.reads
        counts["broken CSVs seen"] += polling.broken
        counts["final CSVs that differ"] += outputs(place) != setting.reference
        twice = len(nursery.scored) - first - len(setting.digests)
        counts["slices scored twice"] += twice
        assert twice <= (3 * BATCH_SIZE if killed else 0), "a kill loses at most a batch, a signal nothing"
        assert sorted(path.name for path in place.iterdir() if path.name.startswith("out")) == [
            "out.csv",
            "out.run.json",
            "out.studies.csv",
        ]
        assert not list(place.glob(".out*")), "what was half written is removed"
        shutil.rmtree(place)
    return counts


def start_together(setting: Setting, times: int) -> Counter[str]:
    """Start two runs on one state at the same moment: one scans, the other exits 75 and says who holds the lock."""
    counts: Counter[str] = Counter()
    for number in range(times):
        name = f"together-{number}"
        (setting.folder / name).mkdir()
        pids = [setting.nursery.start(*setting.arguments(name), name=f"run-{i}") for i in range(2)]
        codes = [setting.nursery.wait(pid) for pid in pids]
        counts["pairs started"] += 1
        counts["one scanned, the other exited 75"] += sorted(codes) == [4, 75]
        loser, winner = codes.index(75), codes.index(4)
        counts["the other named the holder"] += f"process {pids[winner]} on " in setting.nursery.stderr(f"run-{loser}")
        counts["CSVs that differ from one run's"] += outputs(setting.folder / name) != setting.reference
        shutil.rmtree(setting.folder / name)
    return counts


@contextlib.contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[None]:
    """Mount a file system of so many bytes; raises PermissionError where that is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = shutil.which("mount")
    if mount is None or sys.platform != "linux":
        raise PermissionError("no tmpfs")
    command = [mount, "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:  # noqa: S603
        raise PermissionError("mount is not permitted")
    try:
        yield
    finally:
        subprocess.run([shutil.which("umount") or "umount", str(folder)], check=True)  # noqa: S603


def fill_up(setting: Setting, sizes: list[int]) -> Counter[str]:
    """Scan onto file systems that are too small, each a little less so, then give them room and resume."""
    counts: Counter[str] = Counter()
    nursery = setting.nursery
    for size in sizes:
        place = setting.folder / "small"
        with tmpfs(place, size):
            code = setting.scan("small")
            text = nursery.stderr()
            assert code in {1, 4}, text
            assert "Traceback" not in text
            counts["file systems"] += 1
            counts["full: exit 1, one line that says so"] += code == 1 and _says_full(text)
            counts["large enough"] += code == 4
            counts["broken CSVs left"] += (place / "out.csv").exists() and not is_whole((place / "out.csv").read_text())
            before = len(nursery.scored)
            known = kept_copy(place / "state.sqlite", setting.folder)
            mount = shutil.which("mount") or "mount"
            subprocess.run([mount, "-o", "remount,size=64m", str(place)], check=True)  # noqa: S603
            assert setting.scan("small") == 4, nursery.stderr()
            counts["final CSVs that differ"] += outputs(place) != setting.reference
            again = {setting.digests[path] for path in known} & set(nursery.scored[before:])
            counts["slices kept and scored again"] += len(again)
    return counts


def kept_copy(state: Path, folder: Path) -> set[str]:
    """As `kept`, of a copy elsewhere: opening a database needs room beside it."""
    copy = folder / "copy.sqlite"
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
        if state.with_name(state.name + suffix).exists():
            shutil.copy(state.with_name(state.name + suffix), copy.with_name(copy.name + suffix))
    return kept(copy)


def _says_full(text: str) -> bool:
    lines = [line.lower() for line in text.splitlines() if line.startswith("hemoscan: ")]
    return len(lines) == 1 and ("no space left on device" in lines[0] or "disk is full" in lines[0])


def arrive(setting: Setting, studies: int, runs: int, seed: int = 0) -> Counter[str]:
    """Scan a folder again and again while files arrive in it; the last run equals a one-shot scan."""
    nursery, chance = setting.nursery, random.Random(seed)  # noqa: S311
    place = setting.folder / "nightly"
    inbox = place / "inbox"
    inbox.mkdir(parents=True)
    (content,) = {path.name: path.read_bytes() for path in setting.study.glob("phantom-00[1]*.dcm")}.values()
    at = content.index(b"\xe0\x7f\x10\x00") + 12
    names = [f"study-{study:03d}/{number}.dcm" for study in range(studies) for number in range(2)]
    chance.shuffle(names)

    def write(name: str) -> None:
        path = inbox / name
        path.parent.mkdir(exist_ok=True)
        pixels = chance.randbytes(64) * ((len(content) - at) // 64)
        with path.open("wb") as file:  # in two parts, as an export is
            file.write(content[: at + 100])
            file.flush()
            time.sleep(0.002)
            file.write(pixels[: len(content) - at - 100])

    arguments = ["scan", inbox, "-m", setting.card, "-o", place / "out.csv", "--state", place / "state.sqlite"]
    counts: Counter[str] = Counter()
    share = -(-len(names) // runs)
    for number in range(runs):
        pid = nursery.start(*arguments, pace=0.001)
        for name in names[number * share : (number + 1) * share]:
            write(name)
        counts["runs while files arrived"] += 1
        assert nursery.wait(pid) in {0, 3, 4}, nursery.stderr()
    assert nursery.wait(nursery.start(*arguments, pace=0)) == 0, nursery.stderr()
    once = [*arguments[:-3], place / "once.csv", "--state", place / "once.sqlite"]
    assert nursery.wait(nursery.start(*once, pace=0)) == 0, nursery.stderr()
    rows = list(csv.DictReader((place / "out.csv").read_text().splitlines()))
    counts["slices that arrived"] = len(names)
    counts["slices with exactly one result"] = sum(n == 1 for n in Counter(row["path"] for row in rows).values())
    counts["CSVs that differ from a one-shot scan"] = int(
        (place / "out.csv").read_bytes() != (place / "once.csv").read_bytes()
    )
    shutil.rmtree(place)
    return counts
