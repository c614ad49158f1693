"""`hemoscan calibrate`: calibration and operating points of a site, from its own scan and its own labels."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemoscan import __version__
from hemoscan.errors import DataError, OptionError, OutputError
from hemoscan.operating import Calibration, Operating, site_json
from hemoscan.outputs import refuse_inputs, scan_files, write_atomically
from hemoscan.trainer.belonging import belonging
from hemoscan.trainer.calibration import calibration, log_odds
from hemoscan.trainer.join import join
from hemoscan.trainer.labels import read_labels
from hemoscan.trainer.operating_points import fit_operating
from hemoscan.trainer.scores import read_scores

NAME = re.compile(r"[\w.-]+")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Refitted:
    """What `run_calibration` made."""

    path: Path
    """The site's file."""
    model: str
    slices: int
    positives: int
    ece_before: float
    """Expected calibration error of the probabilities as they were."""
    operating: Operating


def run_calibration(results: Path, label_file: Path, output: Path | None) -> Refitted:
    """Refit calibration and operating points on the labelled slices of a scan, and write the site's file.

    Parameters
    ----------
    results
        The slices' CSV of a scan; its run record lies beside it.
    label_file
        See `hemoscan.trainer.labels`. With a column for the patient, else the study, slices of one are kept together.
    output
        Where the file goes; None: into the user's state folder.

    Raises
    ------
    DataError
        If the results or labels cannot be read or joined, or are too few, or a score is no probability.
    OptionError
        If the file would lie within the package, or in place of one that is read.
    OutputError
        If it cannot be written.
    """
    record = _read_record(results)
    model, sha256 = record.model, record.sha256
    path = _checked_output(default_path(model) if output is None else output)
    refuse_inputs(path, (*scan_files(results), label_file))
    scores, labels = read_scores(results, probabilities=True), read_labels(label_file)
    joined = join(scores, labels)
    truth, probabilities = labels.labels[joined.labels], scores.scores[joined.rows]
    on = "labelled slices of a site"
    found = belonging(scores, labels, joined)
    clusters = None if found.clustered_by == "slice" else found.clusters
    operating = fit_operating(_raw_logits(probabilities, record.calibration), truth, on=on, clusters=clusters)
    before = float(calibration(probabilities, truth, np.ones((1, len(truth))))["ece"][0])
    about = {
        "slices": len(truth),
        "positives": int(truth.sum()),
        "ece_before": round(before, 6),
        "hemoscan": __version__,
    }
    text = site_json(operating, model, sha256, about)
    write_atomically(path, lambda file: file.write(text.encode()))
    return Refitted(path, model, len(truth), int(truth.sum()), before, operating)


def default_path(model: str) -> Path:
    """Return where the file of a site goes if nobody says: beside the states of its scans."""
    from platformdirs import user_state_path  # noqa: PLC0415 - not needed with --output

    folder = user_state_path("hemoscan", appauthor=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; name a file with --output") from error
    return folder / f"{model}.site.json"


def _checked_output(path: Path) -> Path:
    package = Path(__file__).resolve().parents[1]
    if Path(os.path.realpath(path)).is_relative_to(package):
        raise OptionError(f"output {path}: lies within the installed package; legal: any other folder")
    return path


@dataclass(frozen=True)
class _Record:
    model: str
    sha256: str
    calibration: Calibration | None
    """What the scan applied."""


def _read_record(results: Path) -> _Record:
    """Return the run record beside the results: it says which model made them, and how they were calibrated."""
    path = results.with_suffix(".run.json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        applied = record.get("calibration")
        calibrated = None if applied is None else Calibration(**applied)
        model = _text(record, "model", NAME, "letters, digits, _, . and -")  # the site's file is named after it
        return _Record(model, _text(record, "sha256", SHA256, "64 hexadecimal digits"), calibrated)
    except OSError as error:
        raise DataError(f"{path}: the scan's run record cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: no run record of a scan: {error}") from error


def _text(record: dict[str, Any], key: str, pattern: re.Pattern[str], legal: str) -> str:
    found = record[key]
    if not isinstance(found, str) or not pattern.fullmatch(found):
        raise ValueError(f"{key} is {found!r:.100}; legal: {legal}")
    return found


def _raw_logits(probabilities: NDArray[np.float64], platt: Calibration | None) -> NDArray[np.float64]:
    """Return the network's logits, undoing the calibration that the scan applied."""
    logits = log_odds(probabilities)
    return logits if platt is None else (logits - platt.intercept) / platt.slope
