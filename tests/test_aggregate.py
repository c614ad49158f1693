"""From slices to the worklist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hemoscan.aggregate import FEWEST_SLICES, Study, Worklist
from hemoscan.slices import BONE_KERNEL, CONTRAST, OUT_OF_DISTRIBUTION, Decoded, Identity, Row


def row(
    name: str,
    probability: float | None = None,
    *,
    uid: str = "",
    status: str = "ok",
    frame: int | None = None,
    series: str = "",
    z: float | None = None,
    notes: tuple[str, ...] = (),
) -> Row:
    """Return a row of a file `folder/name`, flagged from 0.5; without place or series, it is a series of its own."""
    folder = name.rpartition("/")[0]
    identity = Identity(study_uid=uid, series_uid=series or name, z_mm=z)
    decoded = Decoded(f"/{name}", f"/{folder}", None, frame, identity, notes, status=status)
    return Row(decoded, probability, None if probability is None else probability >= 0.5, "densenet-bias")


def series(name: str, probabilities: Sequence[float], *notes: str) -> list[Row]:
    """Return a series of study 1, slices 5 mm apart."""
    return [
        row(f"a/{name}{place}", value, uid="1", series=name, z=5.0 * place, notes=notes)
        for place, value in enumerate(probabilities)
    ]


def ranked(*rows: Row, threshold: float | None = None) -> list[Study]:
    worklist = Worklist(threshold)
    for item in rows:
        worklist.add(item)
    return list(worklist.ranked())


def test_the_highest_score_of_a_slice_ranks_the_study():
    studies = ranked(
        row("a/1", 0.4, uid="a"),
        row("b/1", 0.1, uid="b"),
        row("a/2", 0.3, uid="a"),
        row("b/2", 0.9, uid="b"),
        row("c/1", 0.6, uid="c"),
    )
    assert [(study.uid, study.score) for study in studies] == [("b", 0.9), ("c", 0.6), ("a", 0.4)]


def test_studies_of_one_score_stand_in_the_order_of_their_uids():
    rows = [row("a/1", 0.4, uid="2.10"), row("b/1", 0.4, uid="2.9"), row("c/1", 0.4, uid="1")]
    assert [study.uid for study in ranked(*rows)] == [study.uid for study in ranked(*reversed(rows))]


def test_a_study_of_score_zero_stands_before_one_without_score():
    studies = ranked(row("a/1", uid="a", status="error"), row("b/1", 0.0, uid="b"))
    assert [(study.uid, study.score) for study in studies] == [("b", 0.0), ("a", None)]


@pytest.mark.parametrize(
    ("probabilities", "flagged"), [((0.1, 0.49), 0), ((0.5,), 1), ((0.9, 0.1, 0.8), 2), ((None, 0.7), 1)]
)
def test_flagged_slices_are_counted(probabilities: tuple[float | None, ...], flagged: int):
    rows = [
        row(f"a/{number}", value, uid="a", status="skipped" if value is None else "ok")
        for number, value in enumerate(probabilities)
    ]
    (study,) = ranked(*rows)
    assert study.n_flagged == flagged
    assert study.n_slices == sum(value is not None for value in probabilities)


def test_rows_are_counted_by_status():
    (study,) = ranked(
        row("a/1", 0.2, uid="a"),
        row("a/2", uid="a", status="skipped"),
        row("a/3", uid="a", status="error"),
        row("a/4", uid="a", status="error"),
        row("a/5", 0.3, uid="a"),
    )
    assert (study.n_slices, study.n_skipped, study.n_errors) == (2, 1, 2)


def test_top_slices_are_the_three_highest_highest_first():
    values = [0.1, 0.9, 0.3, 0.8, 0.2, 0.7]
    (study,) = ranked(*(row(f"a/{number}", value, uid="a") for number, value in enumerate(values)))
    assert study.top_slices == ["/a/1", "/a/3", "/a/5"]
    assert study.score == 0.9


def test_top_slices_of_one_score_stand_in_the_order_of_their_names():
    (study,) = ranked(*(row(f"a/{name}", 0.5, uid="a") for name in "ba"))
    assert study.top_slices == ["/a/a", "/a/b"]


def test_top_slices_do_not_depend_on_the_order_of_rows():
    rows = [row(f"a/{name}", 0.5, uid="a") for name in "abcde"]
    (forth,), (back,) = ranked(*rows), ranked(*reversed(rows))
    assert forth.top_slices == back.top_slices


def test_a_frame_other_than_the_first_is_named():
    (study,) = ranked(*(row("a/1", value, uid="a", frame=frame) for frame, value in ((1, 0.9), (2, 0.8))))
    assert study.top_slices == ["/a/1", "/a/1#2"]


def test_slices_of_a_uid_belong_together_across_folders():
    (study,) = ranked(row("a/1", 0.1, uid="1.2"), row("b/1", 0.2, uid="1.2"))
    assert (study.uid, study.n_slices) == ("1.2", 2)


def test_slices_without_uid_belong_to_their_folder():
    studies = ranked(row("a/1", 0.1), row("b/1", 0.2), row("a/2", 0.3), row("a/3", 0.4, uid="1.2"))
    assert [(study.uid, study.n_slices) for study in studies] == [("1.2", 1), ("/a", 2), ("/b", 1)]


def test_a_folder_of_junk_is_no_study():
    assert ranked(row("junk/1", status="skipped"), row("junk/2", status="skipped")) == []


def test_a_folder_of_unreadable_files_is_a_study_without_score():
    (study,) = ranked(row("a/1", status="error"), row("a/2", status="skipped"))
    assert (study.uid, study.score, study.top_slices) == ("/a", None, [])
    assert (study.n_slices, study.n_errors, study.n_skipped) == (0, 1, 1)


@pytest.mark.parametrize(
    ("times", "newest"), [((5.0, 9.0, 7.0), 9.0), ((None, 3.0), 3.0), ((None,), None), ((0.0,), 0.0)]
)
def test_the_newest_file_gives_the_time(times: tuple[float | None, ...], newest: float | None):
    study = Study("a")
    for time in times:
        study.add(Row(Decoded("/a/1", "/a", time), 0.1, flag=False, model="densenet-bias"))
    assert study.newest_mtime == newest


def test_the_best_series_scores_the_study_not_the_sum_of_both():
    (study,) = ranked(*series("a", [0.2] * 12), *series("b", [0.4] * 12))
    assert (study.score, study.n_slices, study.notes) == (0.4, 24, ())


def test_neighbours_in_a_series_support_each_other():
    (alone,), (pair,) = ranked(*series("a", [0, 0.9, 0, 0, 0])), ranked(*series("a", [0, 0.9, 0.9, 0, 0]))
    assert alone.score == pytest.approx(0.54)
    assert pair.score == pytest.approx(0.72)


@pytest.mark.parametrize(("threshold", "flag"), [(None, True), (0.5, True), (0.54, True), (0.541, False)])
def test_a_study_is_flagged_by_its_own_threshold(threshold: float | None, flag: bool):
    (study,) = ranked(*series("a", [0, 0.9, 0, 0, 0]), threshold=threshold)
    assert (study.score, study.n_flagged, study.flag) == (pytest.approx(0.54), 1, flag)


def test_a_study_without_scored_slices_has_no_flag():
    (study,) = ranked(row("a/1", status="error"), threshold=0.5)
    assert study.flag is None


@pytest.mark.parametrize("note", [BONE_KERNEL, CONTRAST])
def test_a_plain_series_is_preferred(note: str):
    (study,) = ranked(*series("a", [0.9] * 12, note), *series("b", [0.2] * FEWEST_SLICES))
    assert (study.score, study.notes) == (0.2, ("1 of 2 series not used for the score",))


@pytest.mark.parametrize(("note", "text"), [(BONE_KERNEL, "a bone kernel"), (CONTRAST, "with contrast")])
def test_a_few_plain_slices_stand_for_no_head(note: str, text: str):
    (study,) = ranked(*series("a", [0.9] * 12, note), *series("b", [0.2] * (FEWEST_SLICES - 1)))
    assert study.score == 0.9
    assert [text in line for line in study.notes] == [True]


def test_slices_out_of_distribution_do_not_rank_a_study():
    (study,) = ranked(*series("a", [0.4] * 12, OUT_OF_DISTRIBUTION), *series("b", [0.2] * 12))
    assert study.score == 0.2
    assert all("/a/b" in name for name in study.top_slices)


@pytest.mark.parametrize(("probability", "threshold"), [(0.9, None), (0.9, 0.95), (0.4, 0.3), (0.3, 0.3)])
def test_a_likely_hemorrhage_counts_whatever_it_looks_like(probability: float, threshold: float | None):
    strange = series("a", [0.1] * 3 + [probability] * 3 + [0.1] * 3, OUT_OF_DISTRIBUTION)
    (study,) = ranked(*strange, *series("b", [0.2] * 12), threshold=threshold)
    assert study.score == probability
    assert study.flag == (threshold is None or probability >= threshold)
    assert study.notes == ("scored by slices out-of-distribution",)
    assert all("/a/a" in name for name in study.top_slices) == (probability >= 0.5)


def test_what_looks_strange_never_lowers_a_score():
    slices = [0.1, 0.1, 0.6, 0.1, 0.1]
    strange = [
        replace(item, decoded=replace(item.decoded, notes=(OUT_OF_DISTRIBUTION,))) for item in series("a", slices)
    ]
    plain = series("a", slices)
    (alone,), (mixed,) = ranked(*plain, threshold=0.3), ranked(*strange[:3], *plain[3:], threshold=0.3)
    assert mixed.score is not None
    assert alone.score is not None
    assert mixed.score >= alone.score
    assert mixed.flag


def test_a_study_of_nothing_else_is_scored_and_noted():
    (study,) = ranked(*series("a", [0.9] * 12, OUT_OF_DISTRIBUTION))
    assert (study.score, study.notes) == (0.9, (OUT_OF_DISTRIBUTION,))


def test_an_incomplete_series_is_noted():
    slices = series("a", [0.1] * 20)
    (whole,), (holed,) = ranked(*slices), ranked(*slices[:7], *slices[8:])
    assert whole.notes == ()
    assert holed.notes == ("incomplete series: slices missing in 1 place",)


def test_copies_are_noted_and_are_not_listed_twice():
    copies = [
        Row(Decoded(f"/{place}/1", "/x", None, 1, Identity("1", "1.1", "1.1.1", 1, 0.0)), 0.7, flag=True, model="m")
        for place in "ab"
    ]
    (study,) = ranked(*copies)
    assert (study.n_slices, study.n_flagged, study.top_slices) == (1, 1, ["/a/1"])
    assert study.notes == ("1 slices there twice, counted once",)
