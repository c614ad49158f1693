"""Files of scores: the slices of a scan, other tools' files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hemoscan.errors import DataError, OptionError
from hemoscan.outputs import neutralise
from hemoscan.results import SLICE_COLUMNS
from hemoscan.trainer.scores import read_scores


def written(folder: Path, text: str) -> Path:
    path = folder / "scores.csv"
    path.write_text(text, encoding="utf-8")
    return path


def own(*rows: dict[str, str]) -> str:
    """Return a CSV as a scan writes it."""
    lines = [",".join(row.get(column, "") for column in SLICE_COLUMNS) for row in rows]
    return "\n".join([",".join(SLICE_COLUMNS), *lines, ""])


def test_of_a_scan_the_rows_with_a_score_are_used(tmp_path: Path):
    ok = {"path": "/a/1.dcm", "frame": "2", "study_uid": "1.9", "sop_uid": "1.1", "probability": "0.25", "flag": "1"}
    rows = [
        {**ok, "status": "ok"},
        {"path": "/a/2.txt", "status": "skipped", "reason": "text"},
        {"path": "/a/3.dcm", "status": "error", "reason": "broken"},
        {"path": "/a/4.dcm", "status": "skipped"},
    ]
    found = read_scores(written(tmp_path, own(*rows)))
    assert (found.paths, found.uids, found.studies) == (("/a/1.dcm",), ("1.1",), ("1.9",))
    assert (found.frames.tolist(), found.scores.tolist()) == ([2], [0.25])
    assert found.flags is not None
    assert found.flags.tolist() == [True]
    assert found.left_out == {"skipped": 2, "error": 1}
    assert found.are_probabilities
    assert found.name_of(0) == "/a/1.dcm frame 2"


def test_cells_that_a_spreadsheet_would_run_are_those_of_the_scan_again(tmp_path: Path):
    path, study = "=1+1/a.dcm", "@study"
    row = {"path": neutralise(path), "study_uid": neutralise(study), "sop_uid": "1.1", "probability": "0.25"}
    assert row["path"] != path
    found = read_scores(written(tmp_path, own({**row, "flag": "0", "status": "ok"})))
    assert (found.paths, found.studies) == ((path,), (study,))
    other = read_scores(written(tmp_path, "path,score\n'=a.png,0.5\n"))
    assert other.paths == ("'=a.png",), "another tool's names are left as they are"


def test_a_probability_of_a_scan_is_one(tmp_path: Path):
    row = {"path": "/a/1.dcm", "sop_uid": "1.1", "flag": "1", "status": "ok"}
    for value in ("7", "-0.1", "1.000001", "nan", "inf", ""):
        text = own({**row, "probability": "0"}, {**row, "probability": "1"}, {**row, "probability": value})
        if value:
            with pytest.raises(DataError, match=rf"line 4: probability is '{value}'; legal: 0 to 1$"):
                read_scores(written(tmp_path, text))
    assert read_scores(written(tmp_path, text)).left_out == {"without score": 1}


def test_of_other_files_scores_may_be_anything_unless_probabilities_are_asked_for(tmp_path: Path):
    for text in ("path,probability\na,7\n", "path,score,status\na,7,ok\n"):
        path = written(tmp_path, text)
        assert read_scores(path).scores.tolist() == [7]
        with pytest.raises(DataError, match=r"scores\.csv, line 2: \w+ is '7'; legal: 0 to 1$"):
            read_scores(path, probabilities=True)


def test_long_columns_are_cut_in_errors(tmp_path: Path):
    path = written(tmp_path, f"path,{'x' * 100_000}\na,0.5\n")
    for column, kind in ((None, DataError), ("score", OptionError)):
        with pytest.raises(kind, match="path, xxx") as caught:
            read_scores(path, column)
        assert len(str(caught.value)) < 2000


def test_a_quote_that_is_left_open_takes_no_rows_away(tmp_path: Path):
    with pytest.raises(DataError, match=r"scores\.csv, line 3: the row that begins here .*unexpected end of data"):
        read_scores(written(tmp_path, 'path,score,note\na,0.5,x\nb,0.5,"y\nc,0.5,z\n'))


@pytest.mark.parametrize(
    ("text", "uids", "paths"),
    [
        ("SOPInstanceUID,score\n1.2,0.5\n1.3,0.75\n", ("1.2", "1.3"), ("", "")),
        ("File;Prob\na.png;0.5\nb.png;0.75\n", ("", ""), ("a.png", "b.png")),
        ("id,prediction,note\na,0.5,x\nb,.75,y\n", ("a", "b"), ("", "")),
        ("path,sop_uid,y_score\na,1.2,0.5\nb,1.3,0.75\n", ("1.2", "1.3"), ("a", "b")),
        ("ID,Label\nID_a_any,0.5\nID_a_subdural,0.4\nID_b_any,0.75\n", ("ID_a", "ID_b"), ("", "")),
    ],
)
def test_other_tools_files(tmp_path: Path, text: str, uids: tuple[str, ...], paths: tuple[str, ...]):
    found = read_scores(written(tmp_path, text))
    assert (found.uids, found.paths, found.scores.tolist()) == (uids, paths, [0.5, 0.75])
    assert found.flags is None
    assert found.frames.tolist() == [1, 1]
    assert found.left_out == {}


def test_the_score_column_can_be_named(tmp_path: Path):
    path = written(tmp_path, "path,score,ICH Likelihood,flagged\na,9,-3.5,0\nb,9,,1\n")
    found = read_scores(path, "ich_likelihood")
    assert found.scores.tolist() == [-3.5]
    assert not found.are_probabilities
    assert found.left_out == {"without score": 1}
    with pytest.raises(OptionError, match=r"score column 'x'; legal, in .*: path, score, ICH Likelihood, flagged"):
        read_scores(path, "x")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name,score\na,1\n", "columns name, score; legal: path, SOPInstanceUID or id"),
        ("path,value,x\na,1,1\n", "legal: probability or prob"),
        ("path,label,x\na,1,1\n", "legal: probability or prob"),
        ("path,score,prob\na,1,1\n", "--score-column tells which"),
        ("path,score\na,high\n", "line 2: score is 'high'; legal: a finite number"),
        ("path,score\na,nan\n", "line 2: score is 'nan'"),
        ("path,score\na,inf\n", "line 2: score is 'inf'"),
        ("path,score\n,1\n", "line 2: has neither path nor UID"),
        ("path,score,flag\na,1,yes\n", "line 2: flag is 'yes'; legal: 0 or 1"),
        ("path,score,frame\na,1,x\n", "line 2: frame is 'x'"),
        ("path,score\na,\n", "no scored slice"),
        ("ID,Label\nID_a_any,0.5\nb,1\n", "line 3: id is 'b'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, complaint: str):
    with pytest.raises(DataError) as caught:
        read_scores(written(tmp_path, text))
    assert complaint in str(caught.value)
    assert "scores.csv" in str(caught.value)
