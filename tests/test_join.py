"""Which score belongs to which label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemoscan.errors import DataError
from hemoscan.trainer.join import Joined, join
from hemoscan.trainer.labels import KeyKind, Labels
from hemoscan.trainer.scores import Scores


def make_labels(*keys: str, kind: KeyKind = "path", frames: list[int] | None = None) -> Labels:
    numbers = None if frames is None else np.array(frames, np.int64)
    return Labels(Path("labels.csv"), keys, kind, np.zeros(len(keys), np.uint8), numbers)


def make_scores(
    *paths: str,
    uids: tuple[str, ...] | None = None,
    frames: list[int] | None = None,
    scores: list[float] | None = None,
) -> Scores:
    n = len(paths)
    return Scores(
        source=Path("scores.csv"),
        paths=paths,
        uids=uids or ("",) * n,
        frames=np.array(frames or [1] * n, np.int64),
        scores=np.array(scores or [0.0] * n),
        flags=None,
        studies=("",) * n,
        left_out={},
    )


def pairs(found: Joined) -> list[tuple[int, int]]:
    """Return (label, row) pairs."""
    return list(zip(found.labels.tolist(), found.rows.tolist(), strict=True))


@pytest.mark.parametrize(
    ("labels", "paths", "expected", "ways"),
    [
        (("/a/1", "/a/2"), ("/a/2", "/a/1"), [(0, 1), (1, 0)], {"path": 2}),
        (("a/1", "b/1"), ("/x/b/1", "/x/a/1"), [(0, 1), (1, 0)], {"end of the path": 2}),
        (("1", "2"), ("/x/2", "/y/1"), [(0, 1), (1, 0)], {"file name alone": 2}),
        (("/old/a/1", "/old/b/1"), ("/new/b/1", "/new/a/1"), [(0, 1), (1, 0)], {"end of the path": 2}),
        (("/old/1",), ("/new/1",), [(0, 0)], {"file name alone": 1}),
        (("/x/a/1",), ("a/1", "b/1"), [(0, 0)], {"end of the path": 1}),
        (("./a//b/../1",), ("/x/a/1",), [(0, 0)], {"end of the path": 1}),
        ((r"C:\ct\a\1.dcm",), ("C:/ct/a/1.dcm",), [(0, 0)], {"path": 1}),
        ((r"a\1.dcm",), ("/x/a/1.dcm",), [(0, 0)], {"end of the path": 1}),
        (("b/1.dcm",), ("/x/a.zip!b/1.dcm", "/x/c.zip!d/1.dcm"), [(0, 0)], {"end of the path": 1}),
    ],
)
def test_paths(labels: tuple[str, ...], paths: tuple[str, ...], expected: list[tuple[int, int]], ways: dict[str, int]):
    found = join(make_scores(*paths), make_labels(*labels))
    assert pairs(found) == expected
    assert found.ways == ways


def test_a_relative_path_is_never_joined_by_its_name_alone():
    found = join(make_scores("/x/a/1", "/x/a/2"), make_labels("b/1", "a/2"))
    assert pairs(found) == [(1, 1)]


def test_the_longer_end_wins_and_the_other_label_stays_alone():
    found = join(make_scores("/new/a/1"), make_labels("/old/b/1", "/old/a/1"))
    assert pairs(found) == [(1, 0)]


def test_a_label_takes_no_row_from_the_label_of_the_same_path():
    found = join(make_scores("/x/a/1"), make_labels("/x/a/1", "/x/b/1"))
    assert pairs(found) == [(0, 0)]


@pytest.mark.parametrize(
    ("labels", "paths", "complaint"),
    [
        (("1",), ("/a/1", "/b/1"), "label 1 of labels.csv fits 2 rows of scores.csv: /a/1, /b/1; legal: one"),
        (("/a/1",), ("/a/1", "/a/1"), "fits 2 rows of scores.csv: /a/1, /a/1"),
        (("a/1", "./a/1"), ("/x/a/1",), "labels a/1, ./a/1 are of one slice, /x/a/1; legal: one label"),
        (("/a/1", "/b/1"), ("/c/1",), "labels /a/1, /b/1 are of one slice"),
        (("1",), ("/a/1", "/b/1", "/c/1", "/d/1"), r"/a/1, /b/1, /c/1, \.\.\.; legal"),
        (("/a/1",), ("/a/2",), "no slice is in both; scores are of slices such as /a/2, labels of slices such as /a/1"),
    ],
)
def test_what_fits_twice_or_not_at_all_is_named(labels: tuple[str, ...], paths: tuple[str, ...], complaint: str):
    with pytest.raises(DataError, match=complaint):
        join(make_scores(*paths), make_labels(*labels))


def test_frames_are_told_apart():
    scores = make_scores("/a/1", "/a/1", "/b/2", frames=[1, 2, 1])
    assert pairs(join(scores, make_labels("/a/1", "/a/1", "b/2", frames=[2, 1, 1]))) == [(0, 1), (1, 0), (2, 2)]
    with pytest.raises(DataError, match=r"fits 2 rows of scores.csv: /a/1, /a/1 frame 2; legal: one; .* column frame"):
        join(scores, make_labels("/a/1"))
    framed = make_scores("", "", uids=("1.2", "1.2"), frames=[1, 2])
    assert pairs(join(framed, make_labels("1.2", kind="uid", frames=[2]))) == [(0, 1)]


@pytest.mark.parametrize(
    ("kind", "keys", "scores", "expected"),
    [
        ("uid", ("1.2", "1.9"), make_scores("/a/x.dcm", "/a/1.9.dcm", uids=("1.2", "1.3")), [(0, 0)]),
        ("uid", ("ID_a",), make_scores("/a/ID_a.dcm", "/a/ID_b.dcm"), [(0, 0)]),
        ("id", ("000002", "000001"), make_scores("/a/000001.png", "/a/000002.png"), [(0, 1), (1, 0)]),
        ("id", ("a.png",), make_scores("/a/a.png"), [(0, 0)]),
        ("id", ("ID_a",), make_scores("", uids=("ID_a",)), [(0, 0)]),
        ("path", ("/x/ID_a.dcm",), make_scores("", uids=("ID_a",)), [(0, 0)]),
    ],
)
def test_uids_and_ids(kind: KeyKind, keys: tuple[str, ...], scores: Scores, expected: list[tuple[int, int]]):
    assert pairs(join(scores, make_labels(*keys, kind=kind))) == expected


def test_labels_with_paths_and_uids_are_joined_by_uid_where_there_are_no_paths():
    labels = replace(make_labels("/x/a.dcm", "/x/b.dcm", "/x/c.dcm"), uids=("1.2", "1.3", ""))
    by_uid = join(make_scores("", "", "", uids=("1.3", "1.2", "1.3"), scores=[0.1, 0, 0.2]), labels)
    assert (pairs(by_uid), by_uid.ways, by_uid.copies) == ([(0, 1), (1, 2)], {"SOPInstanceUID": 2}, (0,))
    by_path = join(make_scores("/y/b.dcm", "/y/a.dcm", uids=("1.2", "1.3")), labels)
    assert (pairs(by_path), by_path.ways) == ([(0, 1), (1, 0)], {"file name alone": 2})
    by_name = join(make_scores("", uids=("c",)), labels)
    assert (pairs(by_name), by_name.ways) == ([(2, 0)], {"id": 1})


def test_of_copies_the_one_with_the_highest_score_counts():
    paths = ("/a/1", "/b/1", "/c/1", "/d/2")
    scores = make_scores(*paths, uids=("1.2", "1.2", "1.2", "1.3"), scores=[0.2, 0.7, 0.7, 0.1])
    found = join(scores, make_labels("1.3", "1.2", kind="uid"))
    assert (pairs(found), found.copies, found.ways) == ([(0, 3), (1, 1)], (0, 2), {"SOPInstanceUID": 2})
    framed = make_scores("", "", "", uids=("1.2",) * 3, frames=[1, 2, 2], scores=[0.9, 0.1, 0.2])
    found = join(framed, make_labels("1.2", kind="uid", frames=[2]))
    assert (pairs(found), found.copies) == ([(0, 2)], (1,))


@pytest.mark.parametrize(
    ("uids", "frames"), [(("1.2", "1.2"), [1, 2]), (("", "1.2"), [1, 1]), (("", ""), [1, 1])], ids=str
)
def test_what_may_be_two_slices_is_no_copy(uids: tuple[str, ...], frames: list[int]):
    with pytest.raises(DataError, match=r"label 1.2 of labels.csv fits 2 rows"):
        join(make_scores("/a/1.2", "/b/1.2", uids=uids, frames=frames), make_labels("1.2", kind="uid"))


def test_an_id_of_two_files_is_named():
    with pytest.raises(DataError, match=r"label x of labels.csv fits 2 rows of scores.csv: /dicom/x.dcm, /png/x.png"):
        join(make_scores("/dicom/x.dcm", "/png/x.png"), make_labels("x", kind="id"))


FOLDERS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3)


@given(st.lists(st.tuples(FOLDERS, st.sampled_from("123")), min_size=1, max_size=12, unique_by=str), st.randoms())
def test_a_moved_root_changes_nothing(slices: list[tuple[list[str], str]], random: Random):
    paths = ["/".join(["top", *folders, name]) for folders, name in slices]
    moved = [f"/elsewhere/{path}" for path in paths]
    random.shuffle(moved)
    for root in ("", "/home/"):
        found = join(make_scores(*moved), make_labels(*(root + path for path in paths)))
        assert [f"/elsewhere/{paths[place]}" for place in found.labels] == [moved[row] for row in found.rows]
        assert len(found.rows) == len(paths)
