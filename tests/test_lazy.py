"""An engine that is loaded when it is needed: once, and with its own word from then on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from hemoscan.errors import EngineError
from hemoscan.lazy import LazyEngine

IMAGES = np.zeros((3, 4, 4), np.uint8)


class Loaded:
    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.arange(len(images), dtype=np.float64)

    def describe(self) -> dict[str, str]:
        return {"name": "loaded"}


def test_it_is_not_loaded_to_be_described():
    engine = LazyEngine(lambda: pytest.fail("loaded"), {"name": "promised"})
    assert engine.describe() == {"name": "promised"}


def test_once_loaded_it_speaks_for_itself():
    engine = LazyEngine(Loaded, {"name": "promised"})
    assert engine.logits(IMAGES).tolist() == [0, 1, 2]
    assert engine.describe() == {"name": "loaded"}


def test_it_is_loaded_once_by_however_many_threads():
    made: list[Loaded] = []

    def load() -> Loaded:
        made.append(Loaded())
        return made[-1]

    engine = LazyEngine(load, {})
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: engine.load(), range(8)))
    assert len(made) == 1
    assert all(each is made[0] for each in found)


def test_what_fails_to_load_may_be_tried_again():
    results: Iterator[object] = iter([EngineError("no"), Loaded()])

    def load() -> Loaded:
        result = next(results)
        if isinstance(result, EngineError):
            raise result
        assert isinstance(result, Loaded)
        return result

    engine = LazyEngine(load, {"name": "promised"})
    with pytest.raises(EngineError):
        engine.logits(IMAGES)
    assert engine.describe() == {"name": "promised"}
    assert engine.logits(IMAGES).shape == (3,)
