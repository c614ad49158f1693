"""Submissions have the challenge's form and the threshold of the held-out slices."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import TEST_IDS, drawn_run, write_csv, write_run

from hemoscan.errors import ResultsError
from hemoscan.trainer.metrics import probabilities
from hemoscan.trainer.submission import write_submission
from hemoscan.trainer.trainings import Result, read_run_folders


def only(folder: Path) -> Result:
    (found,) = read_run_folders([folder])
    return found


def test_classes_follow_the_threshold_with_the_best_f1(tmp_path: Path):
    # Positives are those of 1 and more, so the threshold is the probability of the logit 1.
    write_run(
        tmp_path,
        "resnet-bias",
        ids=list("abcd"),
        labels=[0, 0, 1, 1],
        groups=[70] * 4,
        logits=[-2, 0.5, 1, 3],
        test_logits=[-1, 0.9, 1, 2],
    )
    found = write_submission(only(tmp_path))
    assert found is not None
    assert found.path == tmp_path / "submission-resnet-bias.csv"
    assert found.path.read_bytes() == b"id,class\n017001,0\n017002,0\n017003,1\n017004,1\n"
    assert found.threshold == pytest.approx(0.731059, abs=1e-6)
    assert (found.n, found.flagged) == (4, 2)


def test_rows_are_sorted_by_id(tmp_path: Path):
    path = drawn_run(tmp_path)
    write_csv(path.with_suffix(".test.csv"), ("id", "logit"), [("017003", "9"), ("017001", "-9"), ("017002", "9")])
    found = write_submission(only(tmp_path))
    assert found is not None
    assert found.path.read_text(encoding="utf-8").split() == ["id,class", "017001,0", "017002,1", "017003,1"]


def fold(folder: Path, number: int, test_logits: list[float]) -> Path:
    return write_run(
        folder,
        split=f"fold{number}of2",
        ids=[f"{number}{letter}" for letter in "abcd"],
        labels=[0, 0, 1, 1],
        groups=[70] * 4,
        logits=[-2, -1, 1, 2],
        test_logits=test_logits,
    )


def test_logits_of_folds_are_averaged_and_the_threshold_is_that_of_all_slices(tmp_path: Path):
    fold(tmp_path, 1, [0.5, 3.0, 5.0])
    fold(tmp_path, 2, [0.5, -0.5, -5.0])
    found = write_submission(only(tmp_path))
    assert found is not None
    assert found.path.name == "submission-densenet-bias.2folds.csv", "the single split's file stays"
    assert found.threshold == pytest.approx(float(probabilities(only(tmp_path).logits[2:3])[0]))
    assert found.path.read_text(encoding="utf-8").split() == ["id,class", "017001,0", "017002,1", "017003,0"]


def test_folds_with_other_test_images_are_refused(tmp_path: Path):
    fold(tmp_path, 1, [0.5, 3.0])
    path = fold(tmp_path, 2, [0.5])
    with pytest.raises(ResultsError, match="other test images than") as caught:
        write_submission(only(tmp_path))
    assert str(path) in str(caught.value)


def test_a_test_image_that_comes_twice_is_refused(tmp_path: Path):
    path = drawn_run(tmp_path)
    write_csv(path.with_suffix(".test.csv"), ("id", "logit"), [(TEST_IDS[0], "1"), (TEST_IDS[0], "2")])
    with pytest.raises(ResultsError, match="or one twice"):
        write_submission(only(tmp_path))


def test_nothing_is_written_without_test_scores(tmp_path: Path):
    drawn_run(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert write_submission(only(tmp_path)) is None
    assert sorted(tmp_path.iterdir()) == before
