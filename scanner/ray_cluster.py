"""A scan's decoding and inference on the nodes of a Ray cluster; all else stays where the scan was started.

Each node has as many workers as it has GPUs, or else one of all its processors (one for every so many, if the scan has
a number of threads). A worker is given a chunk of files, and the next while it scores the first, so what is under way
is bounded by the cluster. Its answer counts once: what a worker had when it was lost is given to another.

Ray's actors are used, not Ray Data: its source is a list of tasks that can be run again, which a walk that asks the
state is not; it gathers small blocks up to 128 MiB before it passes them on, so a bounded number of files never comes
to be scored; and its pools have one demand of resources, where nodes with and without GPU need two.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from hemoscan import __version__
from hemoscan.ahead import chunks
from hemoscan.decode import fail
from hemoscan.errors import ClusterError, HemoscanError
from hemoscan.ray_runtime import running_ray
from hemoscan.ray_worker import Answer, Work, Worker
from hemoscan.scan import Batch, Inferred, Pending

FILES_PER_CHUNK = 32
BYTES_PER_CHUNK = 64 * 2**20
CHUNKS_PER_WORKER = 2
# A chunk that was lost so often is no longer tried as a whole; a file by itself, then, becomes an error.
ATTEMPTS = 2
# Workers of a node that are lost in a row, until the node is left out.
NODE_ATTEMPTS = 5
LOOK_SECONDS = 2.0
# How long workers may take to finish what they have, once the scan is to end: Ray may have been ended, too.
ENDING_SECONDS = 30.0
# How long a node may take to start a Python process and import hemoscan from a share.
PROBE_SECONDS = 180.0
# How long a scan without any node waits for one to join.
LONELY_SECONDS = 120.0

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Chunk:
    """Files that are given to a worker together."""

    files: list[Pending]
    attempts: int = 0
    alone: bool = False
    """Whether its worker is given nothing else meanwhile: should that be lost, this is to blame."""
    failed_on: set[str] = field(default_factory=set)
    """Nodes that had it in vain."""


@dataclass
class _Node:
    """A machine of the cluster, or a part of one that Ray was told is a node."""

    name: str
    cpus: float
    gpus: float
    engine: Mapping[str, str]
    batch_size: int
    lost: int = 0
    """Workers that were lost in a row."""
    answered: bool = False
    """Whether a worker has scored anything, if only an empty image: then a file that kills workers is to blame."""
    left_out: bool = False
    """Whether no more workers are started on it."""
    fell_back: bool = False
    """Whether it was told that it scores by another engine than it said."""


@dataclass(eq=False)
class _Worker:
    """An actor, and what it was given."""

    node: str
    actor: Any
    ready: Any
    """The call that tries its engine; None once that has ended."""
    calls: dict[Any, _Chunk] = field(default_factory=dict)


@dataclass(frozen=True)
class _Probe:
    """A node that was asked what it has, and when."""

    key: str
    info: Mapping[str, Any]
    since: float

    def silence(self) -> str:
        """Return what is said of a node that does not answer."""
        text = f"node {self.info['NodeManagerAddress']}: no answer within {PROBE_SECONDS:g} s"
        taken = "; its GPUs are taken by others, or it hangs" if _has_gpu(self.info) else ""
        return text + taken


@contextmanager
def ray_cluster(address: str, work: Work, paths: Sequence[Path], threads: int | None) -> Iterator[Cluster]:
    """Yield a cluster whose nodes can do the work: the one at an address, or one started here for `local`.

    Parameters
    ----------
    address
        HOST:PORT of the head node, `auto`, or `local`.
    work
        What workers are to do.
    paths
        What is scanned: every node has to see it.
    threads
        Of a worker's network on a CPU; None: all processors of its node.

    Raises
    ------
    ExtraError
        If Ray is not installed.
    ClusterError
        If the cluster cannot be joined or started, or a node lacks the same hemoscan, model, or files.
    """
    with running_ray(address) as ray:
        cluster = Cluster(ray, work, [os.path.abspath(path) for path in paths], threads)  # noqa: PTH100 - as found
        cluster.join()
        yield cluster  # Ray ends the workers when it is left


class Cluster:
    """The nodes, the workers on them, and what they have under way; see `hemoscan.scan.Elsewhere`."""

    def __init__(self, ray: Any, work: Work, roots: Sequence[str], threads: int | None) -> None:
        self._ray, self._work, self._roots, self._threads = ray, work, roots, threads
        self._nodes: dict[str, _Node] = {}
        self._refused: set[str] = set()
        self._probes: dict[Any, _Probe] = {}
        self._workers: list[_Worker] = []
        self._again: deque[_Chunk] = deque()
        self._engines: list[Mapping[str, str]] = []
        self._looked = float("-inf")
        self._lonely_since: float | None = None
        self._most_workers = self._lost = 0
        self.most_under_way = 0
        """Files, the highest number of the run."""

    def join(self) -> None:
        """Look at the nodes there are; raises ClusterError if one of them cannot do the work, or there is none."""
        self._probe_new_nodes()
        deadline = time.monotonic() + PROBE_SECONDS
        while self._probes and time.monotonic() < deadline:
            done, _ = self._ray.wait(list(self._probes), timeout=1)
            refusals = [text for text in map(self._take_probe, done) if text]
            if refusals:
                raise ClusterError("; ".join(refusals))
        if self._probes:
            raise ClusterError("--ray: " + ", ".join(probe.silence() for probe in self._probes.values()))
        if not self._nodes:
            raise ClusterError("--ray: no node of the cluster has a processor to give; legal: at least one CPU")

    def engines(self) -> Sequence[Mapping[str, str]]:
        """Return what the nodes' engines say of themselves, each once: name, device and precision."""
        return self._engines

    def describe(self) -> dict[str, object]:
        """Return what the run record says: no node's name."""
        return {
            "ray": self._ray.__version__,
            "nodes": len(self._nodes),
            "workers": self._most_workers,
            "workers_lost": self._lost,
            "engines": [dict(engine) for engine in self._engines],
            "batch_sizes": sorted(set(self._batch_sizes())),
        }

    @property
    def files_per_chunk(self) -> int:
        """Files that a worker is given at a time: at least what its network takes."""
        return max([FILES_PER_CHUNK, *self._batch_sizes()])

    def _batch_sizes(self) -> list[int]:
        """Return how many slices the nodes' networks take at a time."""
        return [self._work.batch_size or node.batch_size for node in self._nodes.values()]

    def score(
        self, files: Iterator[Pending], going: Callable[[], bool]
    ) -> Generator[tuple[Batch, Inferred], None, None]:
        """Yield whole files with their logits, in the order in which workers are done.

        Raises
        ------
        ClusterError
            If no node is left that could do the work.
        HemoscanError
            What the last worker raised on purpose, such as DecoderError, if it raised that on every node.
        """
        parts = chunks(files, self.files_per_chunk, lambda file: file.entry, BYTES_PER_CHUNK)
        fresh: Iterator[_Chunk] | None = (_Chunk(part) for part in parts)
        ending: float | None = None
        self._again.extend(itertools.islice(fresh or (), 1))
        if not self._again:
            return  # nothing to do, nobody to start
        while self._again or fresh or any(worker.calls for worker in self._workers):
            if not going():
                ending = ending or time.monotonic()
                if time.monotonic() - ending > ENDING_SECONDS:
                    _log.warning("workers do not answer: their files are left to the next run")
                    return
                self._again.clear()
                fresh = None
            elif time.monotonic() - self._looked > LOOK_SECONDS:
                self._look()
            if not self._hand_out(fresh):
                fresh = None
            yield from self._collect()

    def _hand_out(self, fresh: Iterator[_Chunk] | None) -> bool:
        """Give every worker something to do; return whether there may be more to give."""
        more = fresh is not None
        for count in range(CHUNKS_PER_WORKER):  # all have a first chunk before any has a second
            for worker in self._workers:
                again = next((chunk for chunk in self._again if self._may_go_to(chunk, worker.node)), None)
                if len(worker.calls) > count or not _may_join(again, worker):
                    continue
                chunk = again or next(fresh or iter(()), None)
                if chunk is None:
                    more = False
                    continue
                if again:
                    self._again.remove(again)
                call = worker.actor.score.remote([file.entry for file in chunk.files])
                worker.calls[call] = chunk
                self._count_under_way()
        return more

    def _may_go_to(self, chunk: _Chunk, node: str) -> bool:
        """Tell whether a node may have a chunk: not one that it had in vain, while another could do it."""
        others = (worker.node for worker in self._workers if worker.node not in chunk.failed_on)
        return node not in chunk.failed_on or not any(self._is_good(other) for other in others)

    def _is_good(self, key: str) -> bool:
        return key in self._nodes and not self._nodes[key].left_out

    def _count_under_way(self) -> None:
        under_way = sum(len(chunk.files) for worker in self._workers for chunk in worker.calls.values())
        self.most_under_way = max(self.most_under_way, under_way)

    def _collect(self) -> Iterator[tuple[Batch, Inferred]]:
        """Wait for something to happen, at most until the nodes are looked at again; yield what was scored."""
        calls = {call: worker for worker in self._workers for call in worker.calls}
        starting = {worker.ready: worker for worker in self._workers if worker.ready is not None}
        waiting = [*calls, *starting, *self._probes]
        if not waiting:
            if not self._workers:
                time.sleep(LOOK_SECONDS / 4)  # until somebody is there to do it
            return
        done, _ = self._ray.wait(waiting, num_returns=1, timeout=LOOK_SECONDS)
        for ref in done:
            if ref in self._probes:
                refusal = self._take_probe(ref)
                if refusal:
                    _log.warning("left out: %s", refusal)
            elif ref in starting:
                self._take_ready(starting[ref])
            elif ref in calls[ref].calls:
                yield from self._take(calls[ref], ref)

    def _take(self, worker: _Worker, call: Any) -> Iterator[tuple[Batch, Inferred]]:
        """Yield what a call returned; what was lost with its worker is done again."""
        exceptions = self._ray.exceptions
        try:
            answer: Answer = self._ray.get(call)
        except exceptions.RayTaskError as error:
            self._leave_out(worker, error.cause)
            return
        except exceptions.RayError:
            yield from self._lose(worker)
            return
        chunk = worker.calls.pop(call)
        if worker.node in self._nodes:
            _note_answer(self._nodes[worker.node], answer.engine)
        self._note_engine(answer.engine)
        batch = [(file, frame) for file, frames in zip(chunk.files, answer.frames, strict=True) for frame in frames]
        yield batch, Inferred(answer.logits, answer.maps, answer.engine)

    def _take_ready(self, worker: _Worker) -> None:
        """Take in that a worker's engine works, or not."""
        exceptions = self._ray.exceptions
        call, worker.ready = worker.ready, None
        try:
            self._ray.get(call)
        except exceptions.RayTaskError as error:
            self._leave_out(worker, error.cause)
        except exceptions.RayError:
            pass  # what it was given tells that it was lost
        else:
            if worker.node in self._nodes:
                self._nodes[worker.node].answered = True

    def _note_engine(self, engine: Mapping[str, str]) -> None:
        means = [(each["name"], each["precision"]) for each in self._engines]
        if (engine["name"], engine["precision"]) not in means:
            self._engines.append(engine)

    def _lose(self, worker: _Worker) -> Iterator[tuple[Batch, Inferred]]:
        """Take a worker for lost, with its chunks; yield files that were lost too often, as errors."""
        name = self._drop(worker)
        self._lost += 1
        _log.warning("a worker on %s was lost: its files are scored again", name)
        self._count_loss(worker)
        for chunk in reversed(worker.calls.values()):
            chunk.attempts += 1
            chunk.failed_on.add(worker.node)
            if chunk.attempts < ATTEMPTS:
                self._again.appendleft(chunk)
            elif not chunk.alone:
                self._again.extendleft(_Chunk([file], alone=True) for file in reversed(chunk.files))
            else:
                yield _given_up(chunk.files[0], self._engines[0])

    def _count_loss(self, worker: _Worker) -> None:
        """Count a lost worker against its node, unless a file is to blame; leave out a node that keeps none."""
        node = self._nodes.get(worker.node)
        if node is None or (node.answered and any(chunk.alone for chunk in worker.calls.values())):
            return
        node.lost += 1
        if node.lost >= NODE_ATTEMPTS and not node.left_out:
            node.left_out = True
            _log.warning("node %s is left out: it lost %d workers in a row", node.name, node.lost)

    def _leave_out(self, worker: _Worker, cause: BaseException) -> None:
        """Leave out a node whose worker raised an error, others do its files; raise that if there are none."""
        name = self._drop(worker)
        # Only what is raised on purpose has a text that is known to be without patient data.
        text = str(cause) if isinstance(cause, HemoscanError) else f"a worker failed: {type(cause).__name__}"
        kind = type(cause) if isinstance(cause, HemoscanError) else ClusterError
        _log.warning("left out: %s: %s", name, text)
        for chunk in reversed(worker.calls.values()):
            chunk.failed_on.add(worker.node)
            self._again.appendleft(chunk)
        if worker.node in self._nodes:
            self._nodes[worker.node].left_out = True
        if not (self._workers or self._probes or any(map(self._is_good, self._nodes))):
            raise kind(f"{name}: {text}") from cause

    def _drop(self, worker: _Worker) -> str:
        """End a worker; have the nodes looked at; return its node, as users know it."""
        self._workers.remove(worker)
        self._ray.kill(worker.actor)
        self._looked = float("-inf")
        return f"node {self._nodes[worker.node].name}" if worker.node in self._nodes else "a node that left"

    def _look(self) -> None:
        """Ask for the cluster's nodes; start workers on those that lack them, forget those that left."""
        self._looked = time.monotonic()
        self._drop_old_probes()
        alive = self._probe_new_nodes()
        for left in [node for node in self._nodes if node not in alive]:
            _log.warning("node %s left the cluster", self._nodes.pop(left).name)
        have = Counter(worker.node for worker in self._workers)
        for key, node in self._nodes.items():
            if node.left_out:
                continue
            count, cpus, gpus = self._share(node)
            for _ in range(count - have[key]):
                self._start(key, cpus, gpus)
        self._most_workers = max(self._most_workers, len(self._workers))
        if self._workers or self._probes:
            self._lonely_since = None
        elif self._lonely_since is None:
            self._lonely_since = time.monotonic()
        elif time.monotonic() - self._lonely_since > LONELY_SECONDS:
            raise ClusterError(
                f"--ray: no node that keeps its workers for {LONELY_SECONDS:g} s; what was saved is kept"
            )

    def _share(self, node: _Node) -> tuple[int, float, float]:
        """Return how many workers a node has, and what each takes of it: processors and GPUs."""
        if node.gpus >= 1 and node.engine["device"] != "cpu":
            count = int(node.gpus)
            return count, max(node.cpus // count, 0), 1
        threads = min(self._threads or node.cpus, node.cpus)
        return int(node.cpus // threads), threads, 0

    def _start(self, key: str, cpus: float, gpus: float) -> None:
        make = self._ray.remote(Worker).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_concurrency=CHUNKS_PER_WORKER,
            max_restarts=0,
            scheduling_strategy=self._on(key),
        )
        actor = make.remote(self._work, int(cpus) or None)
        self._workers.append(_Worker(key, actor, actor.try_engine.remote()))

    def _on(self, key: str) -> Any:
        return self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(key, soft=False)

    def _probe_new_nodes(self) -> set[str]:
        """Ask nodes that were not seen before what they have; return all that are alive."""
        alive = {info["NodeID"]: info for info in self._ray.nodes() if info["Alive"]}
        known = {*self._nodes, *self._refused, *(probe.key for probe in self._probes.values())}
        for key, info in alive.items():
            if key in known or info["Resources"].get("CPU", 0) < 1:
                continue
            gpus = int(_has_gpu(info))
            probe = self._ray.remote(_probe_function()).options(
                num_cpus=0, num_gpus=gpus, max_retries=1, scheduling_strategy=self._on(key)
            )
            asked = (__version__, self._work.model, self._work.card.to_json(), self._roots, astuple(self._work.wish))
            self._probes[probe.remote(*asked)] = _Probe(key, info, time.monotonic())
        return set(alive)

    def _drop_old_probes(self) -> None:
        """Leave out nodes that were asked long ago, so that nobody waits for them."""
        for ref, probe in list(self._probes.items()):
            if time.monotonic() - probe.since > PROBE_SECONDS:
                del self._probes[ref]
                self._refused.add(probe.key)
                self._ray.cancel(ref, force=True)
                _log.warning("left out: %s", probe.silence())

    def _take_probe(self, ref: Any) -> str | None:
        """Take in what a node says of itself; return why it cannot do the work, if so."""
        probe = self._probes.pop(ref)
        key, name, resources = probe.key, probe.info["NodeManagerAddress"], probe.info["Resources"]
        try:
            found = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            found = {"refusal": f"cannot be asked ({type(error).__name__})"}
        if "refusal" in found:
            self._refused.add(key)
            return f"node {name}: {found['refusal']}"
        self._note_engine(found["engine"])
        self._nodes[key] = _Node(
            name, resources.get("CPU", 0), resources.get("GPU", 0), found["engine"], found["batch_size"]
        )
        return None


def _has_gpu(info: Mapping[str, Any]) -> bool:
    has: float = info["Resources"].get("GPU", 0)
    return has >= 1


def _may_join(again: _Chunk | None, worker: _Worker) -> bool:
    """Tell whether the next chunk, one that is done again or a new one, may join what a worker has."""
    next_alone = again is not None and again.alone
    return not worker.calls or not (next_alone or any(chunk.alone for chunk in worker.calls.values()))


def _note_answer(node: _Node, engine: Mapping[str, str]) -> None:
    """Note that a node works; tell once if it does so by another engine than it said, as after a GPU was lost."""
    node.lost, node.answered = 0, True
    if dict(engine) == dict(node.engine) or node.fell_back:
        return
    node.fell_back = True
    said, now = (f"{each['device']} in {each['precision']} ({each['name']})" for each in (node.engine, engine))
    _log.warning("node %s scores on %s now, not on %s", node.name, now, said)


def _given_up(file: Pending, engine: Mapping[str, str]) -> tuple[Batch, Inferred]:
    """Return the row of a file whose workers were lost: the next run tries it again."""
    row = fail(file.entry, f"its worker was lost, {ATTEMPTS} times", passing=True)
    return [(file, row)], Inferred([None], [None], engine)


def _probe_function() -> Callable[..., dict[str, object]]:
    """Return what a node is asked, in a form that is sent as code: the node may lack hemoscan."""

    def probe(*asked: object) -> dict[str, object]:
        try:
            from hemoscan.ray_worker import examine  # noqa: PLC0415
        except ImportError as error:
            return {
                "refusal": f"hemoscan cannot be imported ({error}); legal: {asked[0]}, as where the scan was started"
            }
        return examine(*asked)  # type: ignore[arg-type]

    return probe
