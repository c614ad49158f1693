"""`hemoscan report`: the worklist page of what a scan left behind, without a scan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from hemoscan.aggregate import Study, Worklist
from hemoscan.card import Model
from hemoscan.dicom import configure_pydicom
from hemoscan.page import Page
from hemoscan.pictures import Pictures
from hemoscan.redraw import redraw
from hemoscan.reread import Reread
from hemoscan.resilient import Engine
from hemoscan.slices import ERROR, OK, SKIPPED

BATCH_SIZE = 16


def write_report(
    found: Reread, model: Model, path: Path, *, stale_after: float, load: Callable[[Model], Engine] | None
) -> list[Study]:
    """Write the page.

    Parameters
    ----------
    found
        What the scan left behind.
    model
        What it was scored by.
    path
        The page; pictures of one that is there already are taken over.
    stale_after
        Hours after which the page raises an alarm.
    load
        Loads what makes the maps, called only if a picture is lacking; None: slices may go without picture.

    Returns
    -------
    list of Study
        The studies on the page.

    Raises
    ------
    OptionError
        If the results cannot be read.
    OutputError
        If the page cannot be written.
    """
    configure_pydicom()
    counts = {OK: 0, SKIPPED: 0, ERROR: 0}
    worklist = Worklist(found.study_threshold)
    with contextlib.closing(Pictures(model.card, found.decoding.spec, page=path)) as pictures:
        page = Page(
            path,
            model.card,
            found.threshold,
            pictures,
            stale_after=stale_after,
            study_threshold=found.study_threshold,
        )
        for row in found.rows:
            counts[row.decoded.status] += 1
            worklist.add(row)
            page.add(row)
        studies = list(worklist.ranked())
        lacking = list(page.lacking(studies))
        if lacking and load is not None:
            redraw(lacking, pictures, load(model), found.decoding, calibration=found.calibration, batch_size=BATCH_SIZE)
        page.write(studies, {**found.record, "counts": counts}, found.as_of)
    return studies
