"""Pictures of slices that an earlier run scored: the state keeps no pixels, so they are read and scored again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hemoscan.decode import DecodeOptions
from hemoscan.isolation import DecoderOptions, DecoderPool
from hemoscan.operating import Calibration
from hemoscan.resilient import Engine
from hemoscan.slices import Decoded, Row, to_probability
from hemoscan.sources import entry_at

# Between engines and precisions; a slice whose score is further off is no longer the one that was scored.
TOLERANCE = 0.02

_log = logging.getLogger(__name__)


class Taker(Protocol):
    """Makes something of slices and their maps."""

    def take(self, row: Row, image: NDArray[np.uint8], activation: NDArray[np.float32]) -> None:
        """Take a slice: the network's input of shape (size, size), its map of shape (h, w) in logits."""


def redraw(
    rows: Iterable[Row],
    pictures: Taker,
    engine: Engine,
    options: DecodeOptions,
    *,
    calibration: Calibration | None,
    batch_size: int,
    go_on: Callable[[], bool] = lambda: True,
) -> int:
    """Make the pictures of flagged slices from their files.

    Parameters
    ----------
    rows
        The slices.
    pictures
        Takes what is made.
    engine
        Scores the slices again, for the maps.
    options
        How files are read: as when the slices were scored.
    calibration
        What brought the logits to the slices' probabilities; None: nothing did.
    batch_size
        Slices at a time.
    go_on
        Asked before each batch.

    Returns
    -------
    int
        Slices without picture: their files are gone, or no longer what they were.

    Raises
    ------
    OutputError
        If an overlay cannot be written.
    """
    wanted = {(row.decoded.path, row.decoded.frame): row for row in rows}
    lacking = len(wanted)
    batch: list[tuple[Row, Decoded]] = []
    for item in _decoded(wanted, options):
        batch.append(item)
        if len(batch) == batch_size:
            if not go_on():
                return lacking
            lacking -= _draw(batch, pictures, engine, calibration)
            batch = []
    if batch and go_on():
        lacking -= _draw(batch, pictures, engine, calibration)
    if lacking:
        _log.warning("%d flagged slices have no picture: their files are gone or were changed", lacking)
    return lacking


def _decoded(wanted: dict[tuple[str, int | None], Row], options: DecodeOptions) -> Iterator[tuple[Row, Decoded]]:
    with DecoderPool(DecoderOptions(options, workers=1)) as pool:
        for path in dict.fromkeys(path for path, _ in wanted):
            entry = entry_at(path)
            for decoded in () if entry is None else pool.submit([entry]).result():
                row = wanted.get((path, decoded.frame))
                if row is not None and decoded.image is not None:
                    yield row, decoded


def _draw(batch: list[tuple[Row, Decoded]], pictures: Taker, engine: Engine, calibration: Calibration | None) -> int:
    """Draw a batch; return how many were drawn."""
    images = np.stack([decoded.image for _, decoded in batch if decoded.image is not None])
    drawn = 0
    for (row, _), image, logit, activation in zip(batch, images, *engine.logits_and_maps(images), strict=True):
        if (
            row.probability is not None
            and abs(to_probability(float(logit), calibration) - row.probability) <= TOLERANCE
        ):
            pictures.take(row, image, activation)
            drawn += 1
    return drawn
