"""Run folders are read whole, joined over folds, and refused with the file's name when they are malformed."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_folders import RECORD, TEST_IDS, drawn_folds, drawn_history, drawn_run, write_csv, write_run

from hemoscan.errors import ResultsError
from hemoscan.trainer.records import RunFiles
from hemoscan.trainer.rows import is_reduced, make_sections
from hemoscan.trainer.splits import Split
from hemoscan.trainer.trainings import read_run_folders


def test_a_training_is_read_as_it_was_written(tmp_path: Path):
    path = write_run(
        tmp_path,
        "resnet-weight",
        ids=["000007", "000003", "000005"],
        labels=[0, 1, 0],
        groups=[70, -1, 115],
        logits=[-1.5, 2.25, 0],
        test_logits=[0.5, -0.5],
        sizes=[[112, 3], [224, 1]],
        epochs=4,
        init="imagenet",
    )
    (found,) = read_run_folders([tmp_path])
    assert found.ids == ("000007", "000003", "000005")
    assert found.labels.tolist() == [0, 1, 0]
    assert found.groups.tolist() == [70, -1, 115]
    assert found.logits.tolist() == [-1.5, 2.25, 0]
    assert found.folds.tolist() == [0, 0, 0]
    assert found.split == "validation"
    (run,) = found.runs
    assert (run.path, run.test_ids, run.test_logits.tolist()) == (path, TEST_IDS[:2], [0.5, -0.5])
    setting = found.setting
    assert (setting.experiment, setting.epochs, setting.init) == ("resnet-weight", 4, "imagenet")
    assert setting.sizes == ((112, 3), (224, 1))


def test_what_a_training_writes_says_which_slices_belong_together_and_of_no_patient(tmp_path: Path):
    split = Split(
        ("b", "a", "c", "d"),
        np.zeros((4, 2, 2), np.uint8),
        np.array([0, 1, 0, 1], np.uint8),
        np.array([70, 70, -1, -1]),
        np.array([7, 7, 9, 7]),
    )
    record = {**RECORD, "experiment": "densenet-bias", "split": "validation", "n": 4, "positives": 2}
    files = RunFiles(tmp_path, "densenet-bias.validation")
    files.write({**record, "history": drawn_history(7)}, (split, np.array([-1, 2, 0.5, 1], np.float32)), None)
    assert files.held_out.read_text(encoding="utf-8").splitlines() == [
        "id,label,group,logit,cluster",
        "b,0,70,-1,7",
        "a,1,70,2,7",
        "c,0,-1,0.5,9",
        "d,1,-1,1,7",
    ]
    (found,) = read_run_folders([tmp_path])
    assert found.knows_clusters
    assert found.clusters.tolist() == [0, 0, 1, 0]
    row = next(row for section in make_sections([found], None) for row in section.rows)
    assert (row.clusters.tolist(), row.figures.clusters) == ([0, 0, 1, 0], 2)


def test_clusters_of_two_folds_are_apart_and_without_the_column_each_slice_is_one(tmp_path: Path):
    values = {"labels": [0, 1, 0], "groups": [70, 70, 70], "logits": [0, 1, 2]}
    write_run(tmp_path, split="fold1of2", ids=["a", "b", "c"], clusters=[4, 2, 4], **values)
    write_run(tmp_path, split="fold2of2", ids=["d", "e", "f"], clusters=[4, 4, 4], **values)
    (found,) = read_run_folders([tmp_path])
    assert found.clusters.tolist() == [1, 0, 1, 3, 3, 3]
    assert found.knows_clusters
    write_run(tmp_path, split="fold2of2", ids=["d", "e", "f"], **values)
    (found,) = read_run_folders([tmp_path])
    assert found.clusters.tolist() == [1, 0, 1, 3, 4, 5]
    assert not found.knows_clusters


def test_folds_are_joined_out_of_fold(tmp_path: Path):
    for fold, (ids, logits) in {2: (["c", "d"], [3.0, 4.0]), 1: (["b", "a"], [1.0, 2.0])}.items():
        write_run(tmp_path, split=f"fold{fold}of2", ids=ids, labels=[0, 1], groups=[70, 80], logits=logits)
    (found,) = read_run_folders([tmp_path])
    assert (found.ids, found.logits.tolist(), found.folds.tolist()) == (
        ("b", "a", "c", "d"),
        [1, 2, 3, 4],
        [1, 1, 2, 2],
    )
    assert found.split == "2 folds"
    assert found.setting.folds == 2


def test_missing_folds_are_said(tmp_path: Path):
    drawn_folds(tmp_path, folds=3)
    (tmp_path / "densenet-bias.fold2of3.json").unlink()
    (found,) = read_run_folders([tmp_path])
    assert found.split == "folds 1, 3 of 3"
    assert len(found.ids) == 160


def test_folds_may_lie_in_several_folders(tmp_path: Path):
    drawn_folds(tmp_path / "all", folds=2)
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "all").glob("*fold2of2*"):
        path.rename(tmp_path / "other" / path.name)
    (found,) = read_run_folders([tmp_path / "other", tmp_path / "all"])
    assert found.split == "2 folds"
    assert found.folds.tolist() == [1] * 80 + [2] * 80


def test_rows_are_kept_apart_and_ordered_as_in_the_report(tmp_path: Path):
    drawn_run(tmp_path / "a", "resnet-base")
    drawn_run(tmp_path / "a", "densenet-weight")
    drawn_run(tmp_path / "b", "densenet-weight", input="raw")
    drawn_run(tmp_path / "c", "densenet-base", recipe="strong")
    drawn_run(tmp_path / "d", "densenet-weight", epochs=3)
    drawn_run(tmp_path / "e", "densenet-weight", seed=1, reweigh_groups=True)
    found = [one.setting for one in read_run_folders([tmp_path / name for name in "abcde"])]
    assert [(one.recipe, one.input, one.experiment) for one in found] == [
        *[("report", "brain", "densenet-weight")] * 3,
        ("report", "brain", "resnet-base"),
        ("report", "raw", "densenet-weight"),
        ("strong", "brain", "densenet-base"),
    ]


def test_averaged_weights_and_fewer_negatives_make_rows_of_their_own(tmp_path: Path):
    drawn_run(tmp_path / "plain")
    drawn_run(tmp_path / "averaged", ema=0.998)
    drawn_run(tmp_path / "fewer", negatives=0.4)
    found = {
        (one.setting.ema, one.setting.negatives): one
        for one in read_run_folders([tmp_path / name for name in ("plain", "averaged", "fewer")])
    }
    assert set(found) == {(0, 1), (0.998, 1), (0, 0.4)}, "records of earlier versions say neither"
    results = list(found.values())
    assert [is_reduced(one.setting, results) for one in results] == [one.setting.negatives < 1 for one in results]
    first, *others = make_sections(results, None)[:3]
    assert [row.label for section in (first, *others) for row in section.rows if "averaged" in row.how] == [
        "densenet-bias (weights averaged, decay 0.998)"
    ]


def test_a_cross_validation_is_a_row_beside_the_single_split(tmp_path: Path):
    drawn_run(tmp_path)
    drawn_folds(tmp_path)
    assert [one.split for one in read_run_folders([tmp_path])] == ["validation", "3 folds"]


def test_other_files_of_a_run_folder_are_passed_over(tmp_path: Path):
    drawn_run(tmp_path)
    for name in ("densenet-bias.json", "densenet-bias.history.json", "lock", "densenet-bias.validation.checkpoint.pt"):
        (tmp_path / name).write_text("{", encoding="utf-8")
    assert len(read_run_folders([tmp_path])) == 1


def test_a_folder_without_trainings_is_refused(tmp_path: Path):
    with pytest.raises(ResultsError, match=r"holds no finished training.*--run-dir") as caught:
        read_run_folders([tmp_path])
    assert str(tmp_path) in str(caught.value)


def test_the_same_training_in_two_folders_is_refused(tmp_path: Path):
    paths = [drawn_run(tmp_path / name) for name in "ab"]
    with pytest.raises(ResultsError, match="the same training as") as caught:
        read_run_folders([tmp_path / "a", tmp_path / "b"])
    assert all(str(path) in str(caught.value) for path in paths)


def test_a_slice_in_two_folds_is_refused(tmp_path: Path):
    for fold in (1, 2):
        drawn_run(tmp_path, split=f"fold{fold}of2")
    with pytest.raises(ResultsError, match="held out more than once"):
        read_run_folders([tmp_path])


def _change(**changed: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        record = json.loads(path.read_text(encoding="utf-8")) | changed
        path.write_text(json.dumps(record), encoding="utf-8")

    return write


def _without(key: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        record = json.loads(path.read_text(encoding="utf-8"))
        del record[key]
        path.write_text(json.dumps(record), encoding="utf-8")

    return write


def _scores(header: str, *rows: str) -> Callable[[Path], None]:
    return lambda path: path.with_suffix(".csv").write_text("\n".join([header, *rows]), encoding="utf-8") and None


COLUMNS = "id,label,group,logit"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        pytest.param(lambda path: path.write_text("{", encoding="utf-8"), "not a training's record", id="no JSON"),
        pytest.param(lambda path: path.write_text("[]", encoding="utf-8"), "not a training's record", id="a list"),
        pytest.param(_without("epochs"), "epochs is missing", id="a key lacks"),
        pytest.param(_without("history"), "history is missing", id="no history"),
        pytest.param(_change(split="fold0of2"), "split 'fold0of2'; legal: validation, as in", id="fold 0"),
        pytest.param(_change(experiment="vgg"), "experiment 'vgg'; legal: densenet-bias, as in", id="vgg"),
        pytest.param(_change(n=3), "2 slices, 1 positive; legal.*3 slices", id="rows lack"),
        pytest.param(_change(positives=2), "2 slices, 1 positive; legal.*2 positive", id="other labels"),
        pytest.param(lambda path: path.with_suffix(".csv").unlink(), "cannot be read", id="no scores"),
        pytest.param(_scores("id,label,logit", "a,0,1"), "header id,label,logit; legal: id,label", id="column lacks"),
        pytest.param(_scores(COLUMNS, "a,0,70,1", "b,2,70,1"), "line 3: label '2'; legal: labels 0 and 1", id="2"),
        pytest.param(_scores(COLUMNS, "a,0,70,1", "b,0.9,70,1"), "line 3: label '0.9'; legal: .* 0 and 1", id="0.9"),
        pytest.param(_scores(COLUMNS, "a,1,70,1", "b,1,70,1"), "2 positive; legal: labels 0 and 1, both", id="1 class"),
        pytest.param(_scores(COLUMNS, "a,0,70,1", "b,1,70,x"), "line 3: logit 'x'; legal: finite", id="no number"),
        pytest.param(_scores(COLUMNS, "a,0,70,1", "b,1,70"), "line 3: logit ''; legal: finite", id="short row"),
        pytest.param(_scores(COLUMNS, "a,0,70,1", "b,1,70,nan"), "line 3: logit 'nan'; legal: finite", id="NaN"),
        pytest.param(_scores(COLUMNS, "a,0,70,1", "b,1,70.9,1"), "line 3: group '70.9'; legal: integers", id="70.9"),
        *(
            pytest.param(
                _scores(f"{COLUMNS},cluster", "a,0,70,1,0", f"b,1,70,1,{cell}"),
                rf"line 3: cluster '{cell[:9]}.*; legal: integers of 64 bits",
                id=f"cluster {cell[:9]}",
            )
            for cell in ("P7", "0.01", "1e300", "1e-999999999", "-9223372036854775809", "inf", "sNaN", "9" * 5000)
        ),
    ],
)
def test_what_is_malformed_is_refused_with_its_file(tmp_path: Path, break_it: Callable[[Path], None], message: str):
    path = write_run(tmp_path, ids=["a", "b"], labels=[0, 1], groups=[70, 70], logits=[0, 1])
    break_it(path)
    with pytest.raises(ResultsError, match=message) as caught:
        read_run_folders([tmp_path])
    assert str(path.with_suffix("")) in str(caught.value)


HUGE = 10**400


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 2}, "format 2; legal: 1"),
        ({"experiment": "resnet-base"}, "experiment 'resnet-base'; legal: densenet-bias, as in the file's name"),
        ({"split": "fold1of2"}, "split 'fold1of2'; legal: validation, as in the file's name"),
        ({"recipe": "../../x"}, "recipe '../../x'; legal: 1 to 64 of A-Z"),
        ({"recipe": "a\0b"}, r"recipe 'a\\x00b'; legal: 1 to 64 of A-Z"),
        ({"input": 5}, "input 5; legal: 1 to 64 of A-Z"),
        ({"data": "\udcff"}, r"data '\\udcff'; legal: a text without lone surrogates"),
        ({"init": None}, "init None; legal: a text"),
        ({"epochs": -3}, "epochs -3; legal: a whole number, 1 to 1,000,000"),
        ({"epochs": float("inf")}, "epochs inf; legal: a whole number"),
        ({"epochs": True}, "epochs True; legal: a whole number"),
        ({"sizes": [[float("inf"), 7]]}, r"sizes \[\[inf, 7\]\]; legal: pairs of pixels"),
        ({"sizes": 5}, "sizes 5; legal: pairs of pixels"),
        ({"limit": float("inf")}, "limit inf; legal: a whole number"),
        ({"seed": float("inf")}, "seed inf; legal: a whole number"),
        ({"batch_size": HUGE}, "batch_size 1000.*000; legal: a whole number, 2 to 1,000,000"),
        ({"negatives": HUGE}, "negatives 1000.*000; legal: above 0 up to 1"),
        ({"negatives": float("nan")}, "negatives nan; legal: above 0 up to 1"),
        ({"learning_rate": HUGE}, "learning_rate 1000.*000; legal: above 0, finite"),
        ({"learning_rate": "x"}, "learning_rate 'x'; legal: above 0, finite"),
        ({"seconds": "x"}, "seconds 'x'; legal: 0 to"),
        ({"seconds": None}, "seconds None; legal: 0 to"),
        ({"seconds": HUGE}, "seconds 1000.*000; legal: 0 to"),
        ({"machine": {"cores": "x"}}, "machine.cores 'x'; legal: a whole number"),
        ({"left_out": [1]}, r"left_out \[1\]; legal: a list of texts"),
        ({"groups": {"0": 5}}, "groups {'0': 5}; legal: an object of texts"),
        ({"trained_on": {"positives": 1}}, "trained_on.slices is missing"),
        ({"trained_on": 5}, "trained_on 5; legal: an object"),
        ({"trained_on": {"slices": "x"}}, "trained_on.slices 'x'; legal: a whole number"),
        ({"history": 5}, "history 5; legal: a list of one or more"),
        ({"history": []}, r"history \[\]; legal: a list of one or more"),
        ({"history": [{"size": 224, "loss": 1}]}, r"history\[0\].epoch is missing"),
        ({"history": [{"epoch": "1", "size": 224, "loss": 1}]}, r"history\[0\].epoch '1'; legal: a whole number"),
        ({"history": [{"epoch": 1, "size": float("inf"), "loss": 1}]}, r"history\[0\].size inf; legal: a whole"),
        ({"history": [{"epoch": 1, "size": 224, "loss": "x"}]}, r"history\[0\].loss 'x'; legal: a finite number"),
        ({"history": [{"epoch": 1, "size": 224, "loss": HUGE}]}, r"history\[0\].loss 1000.*000; legal: a finite"),
        (
            {"history": [{"epoch": 1, "size": 224, "loss": 1, "validation": 5}]},
            r"history\[0\].validation 5; legal: an object",
        ),
    ],
    ids=lambda value: reprlib.repr(value) if isinstance(value, dict) else "",
)
def test_what_a_record_may_not_hold_is_refused_with_key_and_value(
    tmp_path: Path, changed: dict[str, object], message: str
):
    path = drawn_run(tmp_path)
    _change(**changed)(path)
    with pytest.raises(ResultsError, match=message) as caught:
        read_run_folders([tmp_path])
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_record_too_deep_to_be_read_is_refused(tmp_path: Path):
    path = drawn_run(tmp_path)
    path.write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(ResultsError, match="not a training's record: maximum recursion depth"):
        read_run_folders([tmp_path])


@pytest.mark.parametrize("split", ["fold4of3", "fold0of3", "fold01of3"])
def test_folds_beyond_their_number_are_refused(tmp_path: Path, split: str):
    drawn_run(tmp_path, split=split)
    with pytest.raises(ResultsError, match=f"split {split}; legal: validation, or fold1ofK to foldKofK"):
        read_run_folders([tmp_path])


def test_records_of_weights_that_were_scored_anew_lack_their_losses(tmp_path: Path):
    history = [{"epoch": 4, "size": 224, "loss": float("nan"), "validation": {}}]
    drawn_run(tmp_path, history=history, limit=None, trained_on={}, machine={})
    (found,) = read_run_folders([tmp_path])
    assert found.setting.limit == 0


def test_integers_are_read_as_they_are_written(tmp_path: Path):
    clusters = [2**60, 2**60 + 1, 2**60]
    values = {"labels": [0, 1, 0], "groups": ["70", "70.0", "7e1"], "logits": [0, 1, 2]}
    write_run(tmp_path, ids=["a", "b", "c"], clusters=clusters, **values)  # type: ignore[arg-type]
    (found,) = read_run_folders([tmp_path])
    assert found.groups.tolist() == [70, 70, 70]
    assert found.clusters.tolist() == [0, 1, 0]


def test_malformed_test_scores_are_refused(tmp_path: Path):
    path = drawn_run(tmp_path, test_logits=[0.0])
    write_csv(path.with_suffix(".test.csv"), ("id", "logit"), [("017001", "inf")])
    with pytest.raises(ResultsError, match=r"test\.csv, line 2: logit 'inf'"):
        read_run_folders([tmp_path])


def test_a_training_without_test_scores_has_none(tmp_path: Path):
    drawn_run(tmp_path)
    (run,) = read_run_folders([tmp_path])[0].runs
    assert run.test_ids == ()
    assert np.shape(run.test_logits) == (0,)
