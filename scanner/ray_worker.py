"""A worker of a scan on many machines: reads files that its node sees, decodes and infers them, and returns no pixels.

Nothing here knows Ray: the class is made an actor by `hemoscan.ray_cluster`. The model stays loaded. Two calls may be
in progress at a time, so that files of one are decoded while those of the other are inferred.
"""

from __future__ import annotations

import itertools
import logging
import math
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemoscan import __version__
from hemoscan.ahead import chunks, in_parts, split_after, whole
from hemoscan.card import Card, Model, find_model
from hemoscan.decode import DecodeOptions
from hemoscan.engines import EngineChoice, choose_engine
from hemoscan.errors import HemoscanError
from hemoscan.isolation import FILES_PER_TASK, DecoderOptions, DecoderPool
from hemoscan.machine import usable_cores
from hemoscan.operating import Calibration
from hemoscan.resilient import Engine
from hemoscan.scan import infer
from hemoscan.slices import Decoded, to_probability
from hemoscan.sources import Entry

MOST_DECODERS = 16


@dataclass(frozen=True)
class Wish:
    """Which engine is asked for, as on the command line."""

    engine: str
    device: str
    precision: str


@dataclass(frozen=True)
class Work:
    """What every worker of a scan is told."""

    model: str
    """A name, or the path of a card, which each node sees."""
    card: Card
    """The card that the scan goes by."""
    wish: Wish
    decoding: DecodeOptions
    """How files are read."""
    batch_size: int | None
    """Slices that the network is given at a time; None: what the node's engine takes best."""
    decoders: int | None
    """Processes that decode for a worker; None: one a processor of the worker, 2 to 16."""
    file_timeout: float
    """Seconds that decoding a file may take, as in a scan without Ray."""
    threshold: float
    """Probability from which a slice is flagged, so may need a picture."""
    calibration: Calibration | None
    """What brings logits to probabilities."""
    pictures: bool
    """Whether flagged slices are returned with input and class activation map."""


@dataclass(frozen=True)
class Answer:
    """What became of some files."""

    frames: list[list[Decoded]]
    """A list a file, in the order asked for; images only of what may need a picture."""
    logits: list[float | None]
    """One a frame, over all files."""
    maps: list[NDArray[np.float32] | None]
    """Class activation maps of shape (h, w), one a frame, where there is an image."""
    engine: dict[str, str]
    """What scored them, as it describes itself."""


def examine(version: str, model: str, card: str, roots: Sequence[str], wish: tuple[str, str, str]) -> dict[str, object]:
    """Say what a node would score by, or why it cannot; told in builtin types, which any version understands.

    Parameters
    ----------
    version
        Of hemoscan on the machine that asks.
    model
        A name, or the path of a card.
    card
        The asking machine's card, as JSON.
    roots
        Absolute paths that are scanned.
    wish
        Engine, device and precision asked for.

    Returns
    -------
    dict
        `engine`: name, device and precision, and `batch_size`; or `refusal`, a text.
    """
    if version != __version__:
        return {"refusal": f"hemoscan {__version__}; legal: {version}, as where the scan was started"}
    missing = [root for root in roots if not Path(root).exists()]
    if missing:
        return {"refusal": f"{missing[0]} is not there; legal: PATHs that every node sees"}
    try:
        found = find_model(model)
        if found.card.to_json() != card:
            return {
                "refusal": f"model {model} is another one (SHA-256 {found.card.sha256}) than where the scan was started"
            }
        found.read_weights()
        choice = choose_engine(*wish)
    except HemoscanError as error:
        return {"refusal": str(error)}
    return {"engine": choice.describe(), "batch_size": choice.batch_size}


class Worker:
    """Decodes and infers; loads the model once."""

    def __init__(self, work: Work, threads: int | None) -> None:
        """Take what to do, and the threads that the network computes in on a CPU."""
        _be_still()
        self._work = work
        self._choice = choose_engine(*_wish(work), threads)
        decoders = min(max(threads or usable_cores(), 2), MOST_DECODERS) if work.decoders is None else work.decoders
        self._pool = DecoderPool(in_parts(DecoderOptions(work.decoding, decoders, work.file_timeout)))
        self._inferring = threading.Lock()
        self._engine = self._make_engine(self._choice)

    def _make_engine(self, choice: EngineChoice) -> Engine:
        model = Model(self._work.card, find_model(self._work.model).folder)
        return choice.make_resilient(model)[1]

    def try_engine(self) -> None:
        """Load the model and score an empty image: a node that cannot do that is to say so before it has files.

        Raises
        ------
        HemoscanError
            If the model cannot be loaded.
        """
        size = self._work.card.input.size
        with self._inferring:
            self._engine.logits(np.zeros((1, size, size), np.uint8))

    def score(self, entries: Sequence[Entry]) -> Answer:
        """Return what becomes of some files.

        Raises
        ------
        HemoscanError
            If the model cannot be loaded, or no decoder can be started.
        """
        tasks = [(part, self._pool.submit(part)) for part in chunks(entries, FILES_PER_TASK, lambda entry: entry)]
        decoded = (frame for part, task in tasks for frame in whole(self._pool, part, task))
        frames: list[Decoded] = []
        logits: list[float | None] = []
        maps: list[NDArray[np.float32] | None] = []
        engine = self._engine.describe()
        while batch := list(itertools.islice(decoded, self._work.batch_size or self._choice.batch_size)):
            with self._inferring:
                found = infer(self._engine, batch, with_maps=self._work.pictures)
                engine = self._engine.describe()
            for frame, logit, activation in zip(batch, *found, strict=True):
                kept, shown = self._kept(frame, logit, activation)
                frames.append(kept)
                logits.append(logit)
                maps.append(shown)
        return Answer(list(split_after(frames, lambda frame: frame.last)), logits, maps, engine)

    def _kept(
        self, frame: Decoded, logit: float | None, activation: NDArray[np.float32] | None
    ) -> tuple[Decoded, NDArray[np.float32] | None]:
        """Leave out image and map, unless there may be a picture of them."""
        work = self._work
        wanted = work.pictures and logit is not None and math.isfinite(logit)
        if wanted and logit is not None and to_probability(logit, work.calibration) >= work.threshold:
            return frame, activation
        return replace(frame, image=None), None


def _wish(work: Work) -> tuple[str, str, str]:
    return work.wish.engine, work.wish.device, work.wish.precision


def _be_still() -> None:
    """Print nothing: Ray keeps what its workers print, and it may name a file, so a patient.

    Decoders are started as copies of a small process: without `__file__` they do not import Ray's main module.
    """
    for name in ("hemoscan", "pydicom", "PIL"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    warnings.simplefilter("ignore")
    sys.modules["__main__"].__dict__.pop("__file__", None)
