"""What a scan left behind, read back for a page: a CSV with its worklist and run record, or a state."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hemoscan.card import InputSpec, Model
from hemoscan.decode import DecodeOptions
from hemoscan.errors import CardError, OptionError, StateError
from hemoscan.located import locate
from hemoscan.operating import Calibration, Operating
from hemoscan.outputs import restore
from hemoscan.results import SLICE_COLUMNS
from hemoscan.slices import ERROR, OK, SKIPPED, Decoded, Identity, Row, to_probability
from hemoscan.sources import Entry
from hemoscan.state import SEPARATOR, State

RECORD_KEYS = frozenset({"model", "sha256", "threshold", "arguments", "state", "started", "finished", "seconds"})


@dataclass(frozen=True)
class Reread:
    """A scan's results."""

    rows: Iterator[Row]
    """Once; raises OptionError at a row that is none."""
    record: dict[str, Any]
    """The run record, as far as it is known."""
    as_of: datetime
    decoding: DecodeOptions
    """How the files were read."""
    threshold: float
    calibration: Calibration | None
    study_threshold: float | None


def read_record(results: Path) -> dict[str, Any]:
    """Return the run record beside a CSV of slices.

    Raises
    ------
    OptionError
        If it cannot be read, or is none.
    """
    path = results.with_suffix(".run.json")
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise OptionError(f"{path}: the run record of {results} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise OptionError(f"{path}: no run record of hemoscan: {error}") from error
    if RECORD_KEYS - set(record) or not isinstance(record["arguments"], dict):
        raise OptionError(f"{path}: no run record of hemoscan: lacks {', '.join(sorted(RECORD_KEYS - set(record)))}")
    return record


def read_results(results: Path, record: dict[str, Any], model: Model) -> Reread:
    """Read a CSV of slices, with the worklist beside it.

    Raises
    ------
    OptionError
        If it cannot be read, or the record holds what none holds.
    """
    try:
        as_of = datetime.fromisoformat(record["finished"] or record["started"])
        if not record["finished"]:
            as_of += timedelta(seconds=record["seconds"])
        decoding = _decoding(record["arguments"], model.card.input)
        threshold = _share("threshold", record["threshold"])
        calibration = None if record.get("calibration") is None else Calibration(**record["calibration"])
        study_threshold = study_threshold_of(record)
    except (ValueError, TypeError, LookupError, OverflowError, CardError) as error:
        raise OptionError(f"{results.with_suffix('.run.json')}: no run record of hemoscan: {error}") from error
    rows = _csv_rows(results, _newest(results))
    return Reread(rows, record, as_of, decoding, threshold, calibration, study_threshold)


def read_rows(results: Path) -> Iterator[Row]:
    """Yield the rows of a CSV of slices, without when their files were last changed.

    Raises
    ------
    OptionError
        At a row that is none, or if it cannot be read.
    """
    return _csv_rows(results, {})


def study_threshold_of(record: dict[str, Any]) -> float | None:
    """Return the score from which a run flagged its studies; None: if any slice was.

    Raises
    ------
    ValueError
        If the record holds anything else.
    """
    found = record.get("study_threshold")
    return None if found is None else _share("study_threshold", found)


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r:.50}; legal: 0 to 1")
    return float(value)


def _decoding(arguments: dict[str, Any], spec: InputSpec) -> DecodeOptions:
    window, png_window = arguments.get("window"), arguments.get("png_window")
    return DecodeOptions(
        spec if window is None else replace(spec, window=(window[0], window[1])),
        None if png_window is None else (png_window[0], png_window[1]),
        bool(arguments.get("repair_12bit", True)),
    )


def _newest(results: Path) -> dict[str, float]:
    """Return when the newest file of each study was last changed, as far as the worklist tells."""
    newest = {}
    try:
        with results.with_suffix(".studies.csv").open(encoding="utf-8", newline="") as file:
            for cells in csv.DictReader(file):
                if cells["newest_file"]:
                    newest[restore(cells["study_uid"])] = datetime.fromisoformat(cells["newest_file"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError, OverflowError, csv.Error):
        return {}
    return newest


def _csv_rows(results: Path, newest: dict[str, float]) -> Iterator[Row]:
    number = 1
    try:
        with results.open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            if tuple(header[: len(SLICE_COLUMNS)]) != SLICE_COLUMNS:
                raise ValueError(f"columns {','.join(header)[:100]!r}; legal: {','.join(SLICE_COLUMNS)}")
            for cells in lines:
                number += 1
                yield _csv_row(dict(zip(SLICE_COLUMNS, cells, strict=False)), newest)
    except OSError as error:
        raise OptionError(f"{results}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, csv.Error) as error:
        raise OptionError(f"{results}, row {number}: no CSV of slices by `hemoscan scan`: {error}") from error


def _csv_row(cells: dict[str, str], newest: dict[str, float]) -> Row:
    path, status = restore(cells["path"]), cells["status"]
    if status not in (OK, SKIPPED, ERROR):
        raise ValueError(f"status {status!r}; legal: {OK}, {SKIPPED}, {ERROR}")
    identity = Identity(
        study_uid=restore(cells["study_uid"]),
        series_uid=restore(cells["series_uid"]),
        sop_uid=restore(cells["sop_uid"]),
        instance_number=_whole(cells["instance_number"]) if cells["instance_number"] else None,
        z_mm=float(cells["z_mm"]) if cells["z_mm"] else None,
    )
    folder = _folder(path)
    decoded = Decoded(
        path,
        folder,
        newest.get(identity.study_uid or folder),
        int(cells["frame"]) if cells["frame"] else None,
        identity,
        tuple(restore(cells["notes"]).split(SEPARATOR)) if cells["notes"] else (),
        status=status,
        reason=restore(cells["reason"]),
    )
    probability = _share("probability", float(cells["probability"])) if cells["probability"] else None
    return Row(decoded, probability, bool(int(cells["flag"])) if cells["flag"] else None, restore(cells["model"]))


def _whole(text: str) -> int:
    """Read an InstanceNumber, which slices are ordered by as a float."""
    if not math.isfinite(float(text)):
        raise ValueError(f"instance_number {text!r:.50}; legal: an integer of at most 308 digits")
    return int(text)


def _folder(path: str) -> str:
    if "!" not in path:
        return Entry(path).folder
    try:
        _, member = locate(path)
    except (OSError, ValueError):  # gone
        member = path.partition("!")[2]
    return Entry(path, member=member).folder


def read_state(state: State, as_of: datetime, model: Model, operating: Operating, threshold: float) -> Reread:
    """Read what a state knows by one model: if files were read in several ways, by what knows most of them.

    What other engines or precisions scored, such as other nodes of a cluster, belongs to it.

    Its logits are read by `operating`, and slices flagged from `threshold`: those of the scan give the scan's worklist.

    Raises
    ------
    StateError
        If it knows nothing by this model.
    """
    settings = state.settings_of(model.card.sha256)
    if not settings:
        raise StateError(f"state {state.path}: has nothing scored by {model.card.name}; name its model with --model")
    found = json.loads(settings[-1])
    alike = [text for text in settings[:-1] if _without_engine(json.loads(text)) == _without_engine(found)]
    state.use(settings[-1], *alike)
    spec: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in found["input"].items()
    }
    png_window = found["png_window"]
    decoding = DecodeOptions(
        InputSpec(**spec), None if png_window is None else (png_window[0], png_window[1]), found["repair_12_bit"]
    )
    record = {"model": model.card.name, "state": "done"}
    rows = _state_rows(state, model.card.name, threshold, operating.calibration)
    return Reread(rows, record, as_of, decoding, threshold, operating.calibration, operating.study_threshold)


def _without_engine(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in ("engine", "precision")}


def _state_rows(state: State, model: str, threshold: float, calibration: Calibration | None) -> Iterator[Row]:
    for decoded, logit in state.rows_known():
        probability = None if logit is None else to_probability(logit, calibration)
        yield Row(decoded, probability, None if probability is None else probability >= threshold, model)


def time_of(state: Path) -> datetime:
    """Return when a state was last written.

    Raises
    ------
    OptionError
        If there is none.
    """
    try:
        times = [state.stat().st_mtime]
    except OSError as error:
        raise OptionError(f"state {state}: cannot be read: {error.strerror}; legal: one that a scan made") from error
    log = state.with_name(state.name + "-wal")
    if log.exists():
        times.append(log.stat().st_mtime)
    return datetime.fromtimestamp(max(times), UTC)
