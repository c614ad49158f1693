"""A scan on a cluster that is played, in one process: workers lost, nodes that leave and join, bounds, refusals."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemoscan import __version__, ray_cluster, ray_worker
from hemoscan.card import BRAIN, Card, Model
from hemoscan.decode import DecodeOptions
from hemoscan.engines import EngineChoice
from hemoscan.errors import ClusterError, DecoderError, EngineError
from hemoscan.phantom import make_phantom, write_dicom
from hemoscan.ray_cluster import ATTEMPTS, CHUNKS_PER_WORKER, FILES_PER_CHUNK, NODE_ATTEMPTS, Cluster
from hemoscan.ray_worker import Wish, Work
from hemoscan.reread import read_state
from hemoscan.results import Results
from hemoscan.scan import Job, Report, ScanOptions, scan
from hemoscan.sources import find_entries
from hemoscan.state import State
from hemoscan.stopping import Stop

CARD = Card("densenet-bias", "densenet121", BRAIN, 0.5, "none.safetensors", "0" * 64)
MODEL = Model(CARD, Path("nowhere"))
WORK = Work(
    "densenet-bias", CARD, Wish("auto", "auto", "auto"), DecodeOptions(BRAIN), 3, 0, 60.0, 0.5, None, pictures=False
)
CPU = {"name": "mean", "device": "cpu", "precision": "fp32"}
GPU = {"name": "other", "device": "cuda", "precision": "bf16"}
FILES = 72


class MeanEngine:
    def __init__(self, description: dict[str, str] = CPU) -> None:
        self.description = description

    def describe(self) -> dict[str, str]:
        return self.description

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = images.mean(axis=(1, 2)) / 25 - 1
        return means

    def logits_and_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        return self.logits(images), images[:, ::32, ::32].astype(np.float32)


class TaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__("task")
        self.cause = cause


class DeadError(Exception):
    pass


@dataclass(eq=False)
class Ref:
    """A call that is under way: it is done when it is looked at."""

    call: Callable[[], Any]
    actor: Actor | None = None
    tries: str = ""
    """The node whose engine is tried, if this is that call."""


@dataclass(eq=False)
class Actor:
    """Stands for an actor: what it is asked is done when it is waited for."""

    ray: FakeRay
    node: str
    worker: ray_worker.Worker
    options: dict[str, Any]

    @property
    def score(self) -> Any:
        return SimpleNamespace(remote=lambda entries: self.ray.submit(self, lambda: self.worker.score(entries)))

    @property
    def try_engine(self) -> Any:
        return SimpleNamespace(remote=lambda: Ref(self.worker.try_engine, tries=self.node))


@dataclass
class FakeRay:
    """As much of Ray as a scan uses. `hook` is called with the number of each call that is to be answered."""

    hook: Callable[[int], None] = lambda number: None
    alive: dict[str, dict[str, Any]] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    actors: list[Actor] = field(default_factory=list)
    killed: list[Actor] = field(default_factory=list)
    cancelled: list[Ref] = field(default_factory=list)
    answers: int = 0
    most_calls: int = 0
    open: list[Ref] = field(default_factory=list)
    probed: Callable[[str], dict[str, object]] = lambda node: {"engine": CPU, "batch_size": 3}
    __version__ = "0"
    exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=DeadError)
    util = SimpleNamespace(scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda key, soft: key))

    def add(self, name: str, cpus: float = 1, gpus: float = 0) -> None:
        self.alive[name] = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}

    def remove(self, name: str) -> None:
        del self.alive[name]

    def nodes(self) -> list[dict[str, Any]]:
        everyone = dict.fromkeys(self.alive, True) | {"gone": False}
        return [
            {"NodeID": name, "Alive": alive, "NodeManagerAddress": name, "Resources": self.alive.get(name, {})}
            for name, alive in everyone.items()
        ]

    def remote(self, what: Any) -> Any:
        def options(**given: Any) -> Any:
            node = given["scheduling_strategy"]

            def start(*arguments: Any) -> Any:
                if what is ray_worker.Worker:
                    actor = Actor(self, node, what(*arguments), given)
                    self.actors.append(actor)
                    return actor
                return Ref(lambda: self.probed(node))

            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def submit(self, actor: Actor, call: Callable[[], Any]) -> Ref:
        ref = Ref(call, actor)
        self.open.append(ref)
        self.most_calls = max(self.most_calls, len(self.open))
        return ref

    def wait(self, refs: Sequence[Ref], num_returns: int = 1, timeout: float = 0) -> tuple[list[Ref], list[Ref]]:
        return [refs[-1]], list(refs[:-1])  # the last first: an order of its own

    def get(self, ref: Ref) -> Any:
        if ref.actor is not None:
            self.open.remove(ref)
            self.answers += 1
            self.hook(self.answers)
            if ref.actor in self.killed or ref.actor.node not in self.alive:
                raise DeadError
        return ref.call()

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor)

    def cancel(self, ref: Ref, *, force: bool) -> None:
        self.cancelled.append(ref)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_dicom(make_phantom("epidural", size=64, slices=FILES - 1), folder / "dicom")
    (folder / "notes.txt").write_text("a note", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(ray_worker, "_be_still", lambda: None)
    monkeypatch.setattr(ray_worker, "choose_engine", lambda *_: EngineChoice("mean", "cpu", "fp32"))
    monkeypatch.setattr(ray_worker, "find_model", lambda name: MODEL)
    monkeypatch.setattr(EngineChoice, "load", lambda *_: MeanEngine())


def joined(ray: FakeRay, threads: int | None = None, work: Work = WORK) -> Cluster:
    cluster = Cluster(ray, work, ["/in"], threads)
    cluster.join()
    return cluster


def run(study: Path, output: Path, cluster: Cluster | None, stop: Stop | None = None, **options: Any) -> Report:
    settings = ScanOptions(DecodeOptions(BRAIN), 0.5, 3, 0, **options)
    job = Job([study], MODEL, MeanEngine(), settings, {}, elsewhere=cluster)
    with State(output.with_suffix(".sqlite")) as state:
        return scan(job, Results(output), state, stop=stop)


@pytest.fixture(scope="module")
def reference(study: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("reference") / "out.csv"
    run(study, output, None)
    return output.read_bytes()


def test_the_csv_is_that_of_a_scan_without_a_cluster(study: Path, reference: bytes, tmp_path: Path):
    ray = FakeRay()
    ray.add("one", cpus=4)
    cluster = joined(ray, threads=2)
    report = run(study, tmp_path / "out.csv", cluster)
    assert (tmp_path / "out.csv").read_bytes() == reference
    assert report.scored == FILES - 1
    record = json.loads((tmp_path / "out.run.json").read_text(encoding="utf-8"))
    counts = {"nodes": 1, "workers": 2, "workers_lost": 0}
    assert record["ray"] == {"ray": "0", **counts, "engines": [CPU], "batch_sizes": [3]}
    assert "batch_size" not in record["engine"], "that of this machine, which scored nothing"
    assert "one" not in json.dumps(record["ray"]), "no node's name"


def test_what_is_under_way_is_bounded_by_the_workers(study: Path, tmp_path: Path):
    ray = FakeRay()
    ray.add("one", cpus=2)
    cluster = joined(ray, threads=1)
    taken: list[int] = []
    find = find_entries([study])

    def entries(_: object) -> Iterator[Any]:
        for entry in find:
            taken.append(1)
            yield entry

    answered = 0

    def look(number: int) -> None:
        nonlocal answered
        answered = number
        assert len(taken) <= (number + 2 * CHUNKS_PER_WORKER) * FILES_PER_CHUNK

    ray.hook = look
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hemoscan.scan.find_entries", entries)
        run(study, tmp_path / "out.csv", cluster)
    assert answered == -(-FILES // FILES_PER_CHUNK)
    assert ray.most_calls <= 2 * CHUNKS_PER_WORKER
    assert 0 < cluster.most_under_way <= 2 * CHUNKS_PER_WORKER * FILES_PER_CHUNK


def test_a_worker_that_is_killed_costs_and_doubles_nothing(study: Path, reference: bytes, tmp_path: Path):
    ray = FakeRay()
    ray.add("one", cpus=2)
    cluster = joined(ray, threads=1)
    ray.hook = lambda number: ray.kill(ray.actors[0]) if number == 2 else None
    report = run(study, tmp_path / "out.csv", cluster)
    assert (tmp_path / "out.csv").read_bytes() == reference
    assert report.scored == FILES - 1
    assert cluster.describe()["workers_lost"] == 1
    assert len(ray.actors) == 3, "another takes its place"


def test_nodes_may_leave_and_join(study: Path, reference: bytes, tmp_path: Path):
    ray = FakeRay()
    ray.add("one")
    ray.add("two")

    def change(number: int) -> None:
        if number == 1:
            ray.remove("two")
        if number == 2:
            ray.add("three", cpus=2)

    ray.hook = change
    cluster = joined(ray)
    report = run(study, tmp_path / "out.csv", cluster)
    assert (tmp_path / "out.csv").read_bytes() == reference
    assert report.scored == FILES - 1
    assert {actor.node for actor in ray.actors} == {"one", "two", "three"}


def test_a_file_whose_workers_die_is_an_error_and_the_others_are_scored(study: Path, tmp_path: Path):
    ray = FakeRay()
    ray.add("one")
    cluster = joined(ray)
    culprit = str(next(path for path in sorted((study / "dicom").iterdir())))
    given: list[list[str]] = []

    original = ray_worker.Worker.score

    def fragile(self: ray_worker.Worker, entries: Sequence[Any]) -> ray_worker.Answer:
        given.append([entry.path for entry in entries])
        if culprit in given[-1]:
            raise DeadError
        return original(self, entries)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_worker.Worker, "score", fragile)
        run(study, tmp_path / "out.csv", cluster)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == FILES
    assert [row["path"] for row in rows if row["status"] == "error"] == [culprit]
    assert f"lost, {ATTEMPTS} times" in next(row["reason"] for row in rows if row["status"] == "error")
    run(study, tmp_path / "out.csv", joined(ray))
    assert "error" not in (tmp_path / "out.csv").read_text(encoding="utf-8"), "the next run tries it again"


def test_a_file_beside_one_whose_workers_die_is_not_blamed(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ray_cluster, "FILES_PER_CHUNK", 1)
    ray = FakeRay()
    ray.add("one")
    cluster = joined(ray, work=replace(WORK, batch_size=1))
    culprit = str(min((study / "dicom").iterdir()))
    get = ray.get

    def die(ref: Ref) -> Any:
        under_way = [chunk for worker in cluster._workers for chunk in worker.calls.values()]
        if ref.actor is not None and any(chunk.files[0].entry.path == culprit for chunk in under_way):
            raise DeadError
        return get(ref)

    ray.get = die  # type: ignore[method-assign]
    run(study, tmp_path / "out.csv", cluster, limit=6)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows if row["status"] == "error"] == [culprit]
    assert len(rows) == 6


def test_a_cluster_without_nodes_ends_the_scan_and_keeps_what_was_done(
    study: Path, reference: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ray_cluster, "LONELY_SECONDS", 0.0)
    ray = FakeRay()
    ray.add("one")
    ray.hook = lambda number: ray.remove("one") if number == 2 else None
    with pytest.raises(ClusterError, match="no node"):
        run(study, tmp_path / "out.csv", joined(ray))
    first = len((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()) - 1
    assert first == FILES_PER_CHUNK
    again = FakeRay()
    again.add("one")
    report = run(study, tmp_path / "out.csv", joined(again))
    assert report.known + report.scored in (FILES, FILES - 1)
    assert report.known == first
    assert (tmp_path / "out.csv").read_bytes() == reference


def test_a_node_that_loses_worker_after_worker_is_left_alone_and_costs_no_file(
    study: Path, reference: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ray_cluster, "FILES_PER_CHUNK", 4)
    ray = FakeRay()
    ray.add("good")
    ray.add("bad")
    lost: list[Actor] = []
    get = ray.get

    def lose(ref: Ref) -> Any:
        if ref.actor is not None and ref.actor.node == "bad":
            lost.append(ref.actor)
            raise DeadError
        return get(ref)

    def wait(refs: Sequence[Ref], num_returns: int = 1, timeout: float = 0) -> tuple[list[Ref], list[Ref]]:
        first = next((ref for ref in refs if ref.actor is not None and ref.actor.node == "bad"), refs[0])
        return [first], [ref for ref in refs if ref is not first]

    ray.get, ray.wait = lose, wait  # type: ignore[method-assign]
    report = run(study, tmp_path / "out.csv", joined(ray))
    assert (tmp_path / "out.csv").read_bytes() == reference
    assert report.scored == FILES - 1
    assert len(set(map(id, lost))) == NODE_ATTEMPTS
    assert f"node bad is left out: it lost {NODE_ATTEMPTS} workers in a row" in caplog.text


def test_files_that_kill_their_workers_do_not_cost_the_last_node(study: Path, tmp_path: Path):
    ray = FakeRay()
    ray.add("one")
    culprits = {str(path) for path in sorted((study / "dicom").iterdir())[:NODE_ATTEMPTS]}
    original = ray_worker.Worker.score

    def fragile(self: ray_worker.Worker, entries: Sequence[Any]) -> ray_worker.Answer:
        if culprits & {entry.path for entry in entries}:
            raise DeadError
        return original(self, entries)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_worker.Worker, "score", fragile)
        for _ in range(2):  # the second time they are all that there is to do
            run(study, tmp_path / "out.csv", joined(ray))
            with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            assert len(rows) == FILES
            assert {row["path"] for row in rows if row["status"] == "error"} == culprits


def test_a_node_that_never_answers_is_left_out_and_not_waited_for(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(ray_cluster, "LONELY_SECONDS", 0.0)
    ray = FakeRay()
    ray.add("one")
    cluster = joined(ray)
    monkeypatch.setattr(ray_cluster, "PROBE_SECONDS", 0.05)
    waits = 0

    def wait(refs: Sequence[Ref], num_returns: int = 1, timeout: float = 0) -> tuple[list[Ref], list[Ref]]:
        nonlocal waits
        waits += 1
        assert waits < 10**6, "it waits without end"
        answering = [ref for ref in refs if ref not in cluster._probes]
        return answering[:1], [ref for ref in refs if ref not in answering[:1]]

    def change(number: int) -> None:
        if number == 1:
            ray.add("silent", gpus=1)
            ray.remove("one")

    ray.wait, ray.hook = wait, change  # type: ignore[method-assign]
    with pytest.raises(ClusterError, match="no node"):
        run(study, tmp_path / "out.csv", cluster)
    assert "left out: node silent: no answer within 0.05 s; its GPUs are taken by others" in caplog.text
    assert len(ray.cancelled) == 1


def test_a_cluster_whose_gpus_are_taken_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_cluster, "PROBE_SECONDS", 0.0)
    ray = FakeRay()
    ray.add("busy", gpus=1)
    with pytest.raises(ClusterError, match=r"node busy: no answer within 0 s; its GPUs are taken by others"):
        joined(ray)


def test_a_known_folder_starts_no_worker(study: Path, tmp_path: Path):
    ray = FakeRay()
    ray.add("one")
    run(study, tmp_path / "out.csv", joined(ray))
    again = FakeRay()
    again.add("one")
    assert run(study, tmp_path / "out.csv", joined(again)).known == FILES
    assert again.actors == []


def test_a_plain_scan_knows_what_a_cluster_scored_and_the_other_way_round(study: Path, tmp_path: Path):
    ray = FakeRay()
    ray.add("one")
    run(study, tmp_path / "a.csv", joined(ray))
    assert run(study, tmp_path / "a.csv", None).known == FILES
    run(study, tmp_path / "b.csv", None)
    assert run(study, tmp_path / "b.csv", joined(ray)).known == FILES


def test_nodes_with_other_engines_share_a_state(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ray = FakeRay(probed=lambda node: {"engine": GPU if node == "gpu" else CPU, "batch_size": 3})
    ray.add("cpu")
    ray.add("gpu", gpus=2, cpus=8)
    engines = iter([GPU, GPU, CPU])
    monkeypatch.setattr(ray_worker.Worker, "_make_engine", lambda self, choice: MeanEngine(next(engines)))
    cluster = joined(ray)
    run(study, tmp_path / "out.csv", cluster)
    given = [(actor.node, actor.options["num_cpus"], actor.options["num_gpus"]) for actor in ray.actors]
    assert sorted(given) == [("cpu", 1, 0), ("gpu", 4, 1), ("gpu", 4, 1)]
    assert run(study, tmp_path / "out.csv", joined(ray)).known == FILES
    with State(tmp_path / "out.sqlite") as state:
        assert len(state.settings_of(CARD.sha256)) == 2
        found = read_state(state, datetime.now(UTC), MODEL, CARD.operating, CARD.threshold)
        assert len(list(found.rows)) == FILES, "the page and the objects have all of them, too"


def test_a_gpu_node_that_fell_back_to_its_processor_is_told_once(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    ray = FakeRay(probed=lambda node: {"engine": GPU, "batch_size": 3})
    ray.add("gpu", gpus=2, cpus=8)
    run(study, tmp_path / "out.csv", joined(ray))
    assert ray.answers > 1
    assert caplog.text.count("node gpu scores on cpu in fp32 (mean) now, not on cuda in bf16 (other)") == 1


@pytest.mark.parametrize("ending", ["limit", "time_budget", "stop"])
def test_a_scan_ends_early_as_without_a_cluster(study: Path, reference: bytes, tmp_path: Path, ending: str):
    ray = FakeRay()
    ray.add("one")
    stop = Stop()
    options: dict[str, Any] = {"limit": {"limit": 40}, "time_budget": {"time_budget": 0.0}, "stop": {}}[ending]
    if ending == "stop":
        ray.hook = lambda number: setattr(stop, "signal", 15) if number == 1 else None
    report = run(study, tmp_path / "out.csv", joined(ray), stop, **options)
    expected = {"limit": ("done", 40), "time_budget": ("out of time", 0), "stop": ("interrupted", 64)}[ending]
    lines = (tmp_path / "out.csv").read_bytes().splitlines(keepends=True)
    assert (report.state, len(lines) - 1) == expected
    assert run(study, tmp_path / "out.csv", joined(FakeRay(alive=ray.alive))).known == expected[1]
    assert (tmp_path / "out.csv").read_bytes() == reference


def test_workers_that_never_answer_do_not_hold_up_the_end(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_cluster, "ENDING_SECONDS", 0.0)
    ray = FakeRay()
    ray.add("one")
    stop = Stop()

    def wait(refs: Sequence[Ref], num_returns: int = 1, timeout: float = 0) -> tuple[list[Ref], list[Ref]]:
        if any(ref.actor for ref in refs):
            stop.signal = 15
            return [], list(refs)
        return list(refs), []

    ray.wait = wait  # type: ignore[method-assign]
    assert run(study, tmp_path / "out.csv", joined(ray), stop).state == "interrupted"


def test_a_study_that_is_still_arriving_is_held_back(study: Path, tmp_path: Path):
    ray = FakeRay()
    ray.add("one")
    report = run(study, tmp_path / "out.csv", joined(ray), settle=1e6)
    assert report.scored == 0
    assert report.counts["skipped"] == FILES


def test_a_node_that_refuses_is_named_with_the_reason():
    ray = FakeRay(probed=lambda node: {"refusal": "hemoscan 0.0.1; legal: 0.1.0"})
    ray.add("one")
    with pytest.raises(ClusterError, match=r"node one: hemoscan 0\.0\.1; legal"):
        joined(ray)


def test_a_node_that_refuses_later_is_left_out(study: Path, reference: bytes, tmp_path: Path):
    ray = FakeRay(
        probed=lambda node: {"refusal": "no"} if node == "two" else {"engine": CPU, "batch_size": 3},
        hook=lambda number: ray.add("two"),
    )
    ray.add("one")
    run(study, tmp_path / "out.csv", joined(ray))
    assert (tmp_path / "out.csv").read_bytes() == reference
    assert {actor.node for actor in ray.actors} == {"one"}


def test_a_cluster_without_processors_is_refused():
    ray = FakeRay()
    ray.add("head", cpus=0)
    with pytest.raises(ClusterError, match="at least one CPU"):
        joined(ray)


@pytest.mark.parametrize(
    ("error", "text"),
    [(EngineError("no engine"), "node one: no engine"), (ValueError("x"), "node one: a worker failed: ValueError")],
)
def test_what_the_last_worker_raises_ends_the_scan(study: Path, tmp_path: Path, error: Exception, text: str):
    ray = FakeRay()
    ray.add("one")
    cluster = joined(ray)
    with pytest.MonkeyPatch.context() as patch, pytest.raises((EngineError, ClusterError), match=text):

        def fail(*_: object) -> None:
            raise TaskError(error)

        patch.setattr(ray_worker.Worker, "score", fail)
        run(study, tmp_path / "out.csv", cluster)


@pytest.mark.parametrize("call", ["score", "try_engine"])
def test_a_node_whose_worker_raises_is_named_and_the_others_go_on(
    study: Path, reference: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture, call: str
):
    ray = FakeRay()
    ray.add("good")
    ray.add("sick")
    get = ray.get
    sick: list[Ref] = []

    def fail(ref: Ref) -> Any:
        if ref.actor is not None and ref.actor.node == "sick" and call == "score":
            sick.append(ref)
            raise TaskError(DecoderError("no process can be started"))
        if call == "try_engine" and ref.tries == "sick":
            sick.append(ref)
            raise TaskError(RuntimeError("of somebody"))
        return get(ref)

    ray.get = fail  # type: ignore[method-assign]
    report = run(study, tmp_path / "out.csv", joined(ray))
    assert (tmp_path / "out.csv").read_bytes() == reference
    assert report.scored == FILES - 1
    assert len(sick) == 1
    told = {"score": "no process can be started", "try_engine": "a worker failed: RuntimeError"}[call]
    assert f"left out: node sick: {told}" in caplog.text
    assert "somebody" not in caplog.text


def test_the_question_to_a_node_is_answered_where_hemoscan_lacks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "hemoscan.ray_worker", None)
    refusal = str(ray_cluster._probe_function()(__version__)["refusal"])
    assert "cannot be imported" in refusal
    assert __version__ in refusal
