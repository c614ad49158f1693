"""Which files are taken, and in which order: studies that are still arriving, newest first."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from factories import make_ct, to_bytes

from hemoscan.identifiers import read_identifiers
from hemoscan.selection import UNSETTLED, Settling, newest_first
from hemoscan.slices import Decoded, Identity
from hemoscan.sources import Entry, find_entries

HU = np.zeros((16, 16))
IMAGE = np.zeros((4, 4), np.uint8)


def write(path: Path, age: float, study: str | None = "1.2", **attributes: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(make_ct(HU, StudyInstanceUID=study, **attributes)) if study else b"no DICOM")
    return set_age(path, age)


def set_age(path: Path, age: float) -> Path:
    os.utime(path, (time.time() - age,) * 2)
    return path


def held(settling: Settling, paths: Iterable[Path]) -> set[str]:
    return {Path(e.path).name for e in find_entries(paths) if settling.hold(e).skipped == UNSETTLED}


def decoded(path: str, study: str) -> Decoded:
    return Decoded(path, str(Path(path).parent), None, 1, Identity(study), image=IMAGE)


def test_a_study_waits_for_its_newest_file_wherever_it_lies(tmp_path: Path):
    write(tmp_path / "a" / "young", 5, "1.1")
    write(tmp_path / "b" / "old", 500, "1.1")
    write(tmp_path / "b" / "other", 500, "2.2")
    settling = Settling([tmp_path], 60)
    assert held(settling, [tmp_path]) == {"young"}
    waiting = settling.hold_back(decoded("/b/old", "1.1"))
    assert (waiting.status, waiting.reason, waiting.image, waiting.passing) == ("skipped", UNSETTLED, None, True)
    other = decoded("/b/other", "2.2")
    assert settling.hold_back(other) is other


def test_files_without_a_study_wait_by_folder(tmp_path: Path):
    write(tmp_path / "a" / "young", 5, None)
    settling = Settling([tmp_path], 60)
    assert settling.hold_back(decoded(str(tmp_path / "a" / "x.png"), "")).reason == UNSETTLED
    assert settling.hold_back(decoded(str(tmp_path / "b" / "x.png"), "")).image is IMAGE
    assert settling.hold_back(decoded(str(tmp_path / "a" / "x.dcm"), "1.2")).image is IMAGE


def test_members_of_a_young_zip_wait(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one", to_bytes(make_ct(HU, StudyInstanceUID="1.1")))
    settling = Settling([tmp_path], 60)
    assert held(settling, [tmp_path]) == {"a.zip!one"}
    assert settling.hold_back(decoded("/elsewhere", "1.1")).reason == UNSETTLED


def test_a_file_that_is_cut_short_still_says_its_study(tmp_path: Path):
    path = write(tmp_path / "young", 5, "1.1")
    path.write_bytes(path.read_bytes()[:-300])
    settling = Settling([tmp_path], 60)
    assert settling.hold_back(decoded("/elsewhere", "1.1")).reason == UNSETTLED


@pytest.mark.parametrize(("age", "waits"), [(0, True), (50, True), (70, False), (-50, True), (-1e6, False)])
def test_a_clock_that_is_wrong_makes_nothing_wait_for_ever(tmp_path: Path, age: float, waits: bool):
    write(tmp_path / "file", age)
    assert held(Settling([tmp_path], 60), [tmp_path]) == ({"file"} if waits else set())


def test_what_cannot_be_read_is_left_as_it_is(tmp_path: Path):
    settling = Settling([tmp_path / "absent"], 60)
    (entry,) = find_entries([tmp_path / "absent"])
    assert settling.hold(entry) is entry


def test_newest_first_keeps_every_field(tmp_path: Path):
    entries = [
        Entry("/a", 1.0, 5, mtime_ns=10**9),
        Entry("/caf\udce9", 3.0, 5, error="broken"),
        Entry("/b.zip!m\udcff", 3.0, 5, member="m\udcff", position=2),
        Entry("/c", None, skipped="a folder"),
        Entry("/d", 2.5),
    ]
    assert list(newest_first(iter(entries))) == [entries[1], entries[2], entries[4], entries[0], entries[3]]


def test_newest_first_of_sizes_beyond_64_bits():
    (entry,) = newest_first([Entry("/a", 1.0, 2**70)])
    assert entry.size == 2**63 - 1


# Identifiers

WHO = {"PatientID": "P1", "AccessionNumber": "A2", "StudyDate": "20240131"}


def test_identifiers_are_read_from_a_file(tmp_path: Path):
    assert read_identifiers(str(write(tmp_path / "a!b", 0, **WHO))) == ("P1", "A2", "20240131")


def test_identifiers_are_read_from_a_member_of_a_zip(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a!.zip", "w") as archive:
        archive.writestr("b!/one", to_bytes(make_ct(HU, **WHO)))
    assert read_identifiers(f"{tmp_path}/a!.zip!b!/one") == ("P1", "A2", "20240131")


def test_identifiers_that_are_absent_are_empty(tmp_path: Path):
    assert read_identifiers(str(write(tmp_path / "a", 0))) == ("", "", "")
    assert read_identifiers(str(write(tmp_path / "b", 0, None))) == ("", "", "")
    assert read_identifiers(str(tmp_path / "absent")) == ("", "", "")
    assert read_identifiers("") == ("", "", "")
