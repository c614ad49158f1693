"""Label files: the columns that are accepted, RSNA's and the data set's own form, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hemoscan.errors import DataError
from hemoscan.phantom import write_phantom
from hemoscan.trainer.labels import read_labels


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize(
    ("text", "kind", "keys"),
    [
        ("path,label\na/1.dcm,1\na/2.dcm,0\n", "path", ("a/1.dcm", "a/2.dcm")),
        ("SOPInstanceUID,Label\n1.2,1\n1.3,0\n", "uid", ("1.2", "1.3")),
        ("sop_uid;class\n1.2;1\n1.3;0\n", "uid", ("1.2", "1.3")),
        ("SOP Instance UID\tCLASS\n1.2\t1\n1.3\t0\n", "uid", ("1.2", "1.3")),
        ("id,class\n000001,1\n000002,0\n", "id", ("000001", "000002")),
        ("id,sop_uid,class\nx,1.2,1\ny,1.3,0\n", "uid", ("1.2", "1.3")),
        ("reader,id,class\nnobody,1,true\n\nnobody,2,0.0\n", "id", ("1", "2")),
    ],
)
def test_columns_in_any_case_and_order(tmp_path: Path, text: str, kind: str, keys: tuple[str, ...]):
    found = read_labels(written(tmp_path, text))
    assert (found.kind, found.keys) == (kind, keys)
    assert found.labels.tolist() == [1, 0]
    assert found.labels.dtype == np.uint8
    assert (found.frames, found.patients, found.studies, found.groups) == (None, None, None, None)
    assert found.source == tmp_path / "labels.csv"
    assert len(found) == 2


def test_optional_columns(tmp_path: Path):
    text = (
        "path,frame,label,PatientID,StudyInstanceUID,Site\na,001,1,p1,s1,north\na,2,0,p1,s1,north\nb,,0,p2,s2,south\n"
    )
    found = read_labels(written(tmp_path, text))
    assert found.frames is not None
    assert found.frames.tolist() == [1, 2, 1]
    assert found.patients == ("p1", "p1", "p2")
    assert found.studies == ("s1", "s1", "s2")
    assert found.groups == ("north", "north", "south")


def test_what_is_not_known_is_left_empty(tmp_path: Path):
    found = read_labels(written(tmp_path, "path,label,patient,study,group\na,1,,s1,\nb,0,p2,,\n"))
    assert (found.patients, found.studies, found.groups) == (("", "p2"), ("s1", ""), None)


def test_uids_are_kept_beside_paths(tmp_path: Path):
    found = read_labels(written(tmp_path, "SOPInstanceUID,path,label\n1.2,a,1\n,b,0\n"))
    assert (found.kind, found.keys, found.uids) == ("path", ("a", "b"), ("1.2", ""))
    assert read_labels(written(tmp_path, "SOPInstanceUID,label\n1.2,1\n")).uids is None


def test_a_byte_order_mark_and_quotes_are_read(tmp_path: Path):
    path = written(tmp_path, 'path,label\r\n"a, b.png",1\r\n', "utf-8-sig")
    assert read_labels(path).keys == ("a, b.png",)


def test_a_quoted_cell_may_span_lines(tmp_path: Path):
    found = read_labels(written(tmp_path, 'path,label,note\na,1,"two\nlines ""quoted"""\nb,0,\n'))
    assert found.keys == ("a", "b")


def test_of_rsna_the_rows_on_any_hemorrhage_are_used(tmp_path: Path):
    kinds = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")
    rows = [f"ID_{name}_{kind},{int(name == 'b')}\n" for name in ("a", "b") for kind in kinds]
    found = read_labels(written(tmp_path, "ID,Label\n" + "".join([*rows, rows[-1]])))
    assert (found.kind, found.keys, found.labels.tolist()) == ("uid", ("ID_a", "ID_b"), [0, 1])


def test_the_labels_of_a_phantom_are_read(tmp_path: Path):
    bleeding = write_phantom(tmp_path, "epidural", slices=8)
    found = read_labels(tmp_path / "labels.csv")
    assert (len(found), found.kind, int(found.labels.sum())) == (8, "id", bleeding)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the first line is empty"),
        ("path,label\n", "no labels"),
        ("name,label\na,1\n", "columns name, label; legal: path, SOPInstanceUID or id"),
        ("path,truth\na,1\n", "legal: label or class"),
        ("path,label,class\na,1,1\n", "columns label, class; legal: one of label, class"),
        ("path,label\na,2\n", "line 2: label is '2'; legal: 0 or 1"),
        ("path,label\na,\n", "line 2: label is ''"),
        ("path,label\n,1\n", "line 2: path is ''; legal: filled"),
        ("path,label\na,1\na,1\n", "line 3: path is 'a'; legal: each slice once"),
        ("path,label\na,1,3\n", "line 2: 3 cells; legal: 2"),
        ("path,label,frame\na,1,0\n", "line 2: frame is '0'; legal: 1, 2, 3"),
        ("path,label,frame\na,1,1\na,0,\n", "line 3: path is 'a'; legal: each slice once"),
        ("path,label,frame\na,1,99999999999999999999\n", "frame is"),
        ("path,label,frame\na,1,2147483648\n", "frame is '2147483648'; legal: 1, 2, 3"),
        (f"path,label,frame\na,1,{'9' * 5000}\n", "999...'; legal: 1, 2, 3"),
        (f"path,label,frame\na,1,{'0' * 5000}\n", "000...'; legal: 1, 2, 3"),
        (f"path,label\na,{'x' * 100_000}\n", "line 2: label is 'xxx"),
        (f"path,{'x' * 100_000}\na,1\n", "columns path, xxx"),
        (f"{'x' * 100_000},label\na,1\n", "columns xxx"),
        (f"label,class{' ' * 100_000}_\n1,1\n", "columns label, class"),
        (f"ID,Label\nID_a_any,1\n{'x' * 100_000},0\n", "line 3: id is 'xxx"),
        ("ID,Label\nID_a_any,1\nother,0\n", "line 3: id is 'other'; legal: ids such as ID_x_any"),
        ("ID,Label\nID_a_any,1\nID_a_any,0\n", "line 3: ID is 'ID_a_any'; legal: each slice once"),
        ("ID,Label\nID_a_epidural,1\n", "no labels"),
        ("path,label\n" + "x" * 200_000 + ",1\n", "line 2: the row that begins here cannot be read as a CSV"),
        ('path,label,group\na,1,x\nb,0,"y\nc,1,z\nd,0,z\n', "line 3: the row that begins here cannot be read as a CSV"),
        ('path,label,group\na,1,x\nb,0,"y\nc,1,"z"\n', "line 3: the row that begins here cannot be read as a CSV"),
        ('path,"label\na,1\n', "line 1: the row that begins here cannot be read as a CSV"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, complaint: str):
    with pytest.raises(DataError) as caught:
        read_labels(written(tmp_path, text))
    assert complaint in str(caught.value)
    assert "labels.csv" in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_other_encodings_and_missing_files_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"labels\.csv: cannot be read as a CSV in UTF-8"):
        read_labels(written(tmp_path, "path,label\nä,1\n", "utf-16"))
    with pytest.raises(DataError, match=r"none\.csv: cannot be read"):
        read_labels(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path)
