"""Pages of synthetic studies, for tests and for a look at them.

usage: python tests/worklist_pages.py FILE.html [STUDIES]
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hemoscan.aggregate import Worklist
from hemoscan.card import BRAIN, Card
from hemoscan.page import Page
from hemoscan.pictures import Pictures
from hemoscan.slices import ERROR, SKIPPED, Decoded, Identity, Row

CARD = Card("densenet-bias", "densenet121", BRAIN, 0.5, "none.safetensors", "0" * 64, metrics={"auc": 0.75})
THRESHOLD = 0.5
# Half past four in the morning.
MTIME = 1_800_000_000.0


def scored(
    study: str, number: int, probability: float, *, path: str = "", mtime: float | None = MTIME, **identity: Any
) -> Row:
    folder = f"/archive/{study}"
    fields = {"series_uid": f"{study}.1", "sop_uid": f"{study}.1.{number}", "instance_number": number, **identity}
    decoded = Decoded(
        path or f"{folder}/{number:03}.dcm", folder, mtime, 1, Identity(study, z_mm=5.0 * number, **fields)
    )
    return Row(decoded, probability, probability >= THRESHOLD, CARD.name)


def unscored(status: str, path: str, reason: str, study: str = "") -> Row:
    return Row(
        Decoded(path, str(Path(path).parent), None, status=status, reason=reason, identity=Identity(study)),
        None,
        None,
        CARD.name,
    )


def make_study(index: int, slices: int = 24) -> Iterator[Row]:
    """Yield the slices of a study; two of three have a bump of scores, of falling height."""
    rng = np.random.default_rng(index)
    height = 0.98 - 0.9 * (index % 100) / 100 if index % 3 else 0.2
    centre = rng.uniform(6, slices - 6)
    for number in range(slices):
        bump = height * np.exp(-(((number - centre) / 3) ** 2))
        probability = round(float(np.clip(bump + rng.uniform(0, 0.1), 0, 1)), 6)
        yield scored(f"1.2.840.{index}", number + 1, probability, mtime=MTIME - 60 * index)


def slice_and_map(seed: int = 0) -> tuple[Any, Any]:
    """Return an input of the network, and a map."""
    rows, columns = np.mgrid[:224, :224] / 224 - 0.5
    radius = np.hypot(rows, 1.2 * columns)
    image = np.where(radius < 0.4, 32.0, np.where(radius < 0.44, 70, 0))
    image[np.hypot(rows + 0.1, columns - 0.12) < 0.07] = 62
    activation = np.full((7, 7), -2, np.float32)
    activation[2:4, 4:6] = 8 + seed % 7
    return image.astype(np.uint8), activation


def write_page(path: Path, rows: list[Row], *, pictures: bool = True, **options: Any) -> Page:
    """Write a page of these rows, as a scan does."""
    with contextlib.closing(Pictures(CARD, BRAIN, page=path)) as taken:
        study_threshold = options.pop("study_threshold", None)
        stale_after = options.pop("stale_after", 1.0)
        page = Page(path, CARD, THRESHOLD, taken, stale_after=stale_after, study_threshold=study_threshold)
        worklist = Worklist(study_threshold)
        counts = {"ok": 0, "skipped": 0, "error": 0}
        for number, row in enumerate(rows):
            counts[row.decoded.status] += 1
            worklist.add(row)
            page.add(row)
            if pictures and row.flag:
                taken.take(row, *slice_and_map(number))
        record = {"state": options.pop("state", "done"), "counts": counts}
        page.write(list(worklist.ranked()), record, options.pop("as_of", datetime.now(UTC)), **options)
    return page


def rows_of_studies(studies: int) -> list[Row]:
    rows = [row for index in range(studies) for row in make_study(index)]
    rows += [
        unscored(ERROR, f"/archive/1.2.840.3/{n}.dcm", "Rows (0028,0010) is 0; legal: 1 to 4096", "1.2.840.3")
        for n in range(2)
    ]
    rows += [
        unscored(
            SKIPPED,
            f"/archive/1.2.840.{n}/localizer.dcm",
            "ImageType (0008,0008) has LOCALIZER: not an axial slice",
            f"1.2.840.{n}",
        )
        for n in range(studies // 2)
    ]
    return rows


if __name__ == "__main__":
    write_page(Path(sys.argv[1]), rows_of_studies(int(sys.argv[2]) if len(sys.argv) > 2 else 12))
