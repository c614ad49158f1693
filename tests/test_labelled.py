"""Other people's data: found by path, UID or RSNA's id, read as a scan reads it, nothing silently dropped."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_ct, make_enhanced_ct, to_bytes
from PIL import Image
from trainer_data import slice_image

from hemoscan.card import BRAIN, HEAD, RAW, InputSpec
from hemoscan.decode import DecodeOptions, decode
from hemoscan.errors import DataError
from hemoscan.preprocess import preprocess
from hemoscan.sources import Entry, Reader
from hemoscan.trainer.labelled import load_labelled
from hemoscan.trainer.splits import DataSet

SLICES = 24
LABELS = [int(i % 3 == 0) for i in range(SLICES)]


def uid(i: int) -> str:
    return f"1.2.826.{i + 1}"


def write_dicom(path: Path, i: int, **attributes: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"SOPInstanceUID": uid(i), "StudyInstanceUID": f"1.2.{i // 2}", **attributes}
    path.write_bytes(to_bytes(make_ct(slice_image(LABELS[i], i), **values)))


@pytest.fixture
def dicoms(tmp_path: Path) -> Path:
    """Two slices a study, in folders."""
    for i in range(SLICES):
        write_dicom(tmp_path / "images" / f"study{i // 2}" / f"{i}.dcm", i)
    return tmp_path / "images"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def write_labels(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def load(folder: Path, header: str, rows: list[str], spec: InputSpec = BRAIN, **options: Any) -> DataSet:
    return load_labelled(write_labels(folder.parent / "labels.csv", header, rows), folder, spec, **options)


def as_scanned(path: Path, spec: InputSpec = BRAIN) -> Any:
    with Reader() as reader:
        (found,) = decode(Entry(str(path), size=path.stat().st_size), reader, DecodeOptions(spec))
    assert found.image is not None
    return found.image


KEYS = {
    "path": lambda i: f"study{i // 2}/{i}.dcm",
    "SOPInstanceUID": uid,
    "id": lambda i: uid(i) if i % 2 else str(i),
}


@pytest.mark.parametrize("spec", [BRAIN, RAW], ids=["brain", "raw"])
@pytest.mark.parametrize("column", KEYS)
def test_slices_are_found_by_path_uid_or_id_and_read_as_a_scan_reads_them(dicoms: Path, column: str, spec: InputSpec):
    keys = [KEYS[column](i) for i in range(SLICES)]
    rows = [f"{key},{label}" for key, label in zip(keys, LABELS, strict=True)]
    found = load(dicoms, f"{column},label", rows, spec)
    assert found.left_out == ()
    assert found.labelled.ids == tuple(keys)
    assert found.labelled.images.flags.c_contiguous
    assert found.labelled.labels.tolist() == LABELS
    for i, image in enumerate(found.labelled.images):
        assert np.array_equal(image, as_scanned(dicoms / f"study{i // 2}" / f"{i}.dcm", spec))


def test_absolute_paths_and_members_of_zips_are_found(tmp_path: Path, dicoms: Path):
    with zipfile.ZipFile(dicoms / "more.zip", "w") as archive:
        archive.write(dicoms / "study0" / "0.dcm", "in/zipped.dcm")
    rows = [f"{dicoms}/study{i // 2}/{i}.dcm,{LABELS[i]}" for i in range(1, SLICES)]
    found = load(dicoms, "path,label", [f"more.zip!in/zipped.dcm,{LABELS[0]}", *rows])
    assert found.left_out == ()
    assert len(found.labelled) == SLICES
    assert np.array_equal(found.labelled.images[0], as_scanned(dicoms / "study0" / "0.dcm"))


@pytest.mark.parametrize("suffix", ["png", "dcm"])
def test_rsnas_file_is_read(tmp_path: Path, suffix: str):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(SLICES):
        if suffix == "dcm":
            write_dicom(folder / f"ID_{i:09x}.dcm", i, SOPInstanceUID=f"ID_{i:09x}")
        else:
            Image.fromarray(slice_image(LABELS[i], i)).save(folder / f"ID_{i:09x}.png")
    kinds = ("epidural", "any")
    rows = [f"ID_{i:09x}_{kind},{LABELS[i] * (kind == 'any')}" for i in range(SLICES) for kind in kinds]
    found = load(folder, "ID,Label", rows)
    assert found.left_out == ()
    assert found.labelled.ids == tuple(f"ID_{i:09x}" for i in range(SLICES))
    assert found.labelled.labels.tolist() == LABELS


def write_exports(folder: Path, window: tuple[float, float]) -> None:
    """Write the slices as a viewer exports them: 0 to 255 span the window."""
    folder.mkdir()
    low, width = window[0] - window[1] / 2, window[1]
    for i in range(SLICES):
        stretched = 255 * (slice_image(LABELS[i], i).astype(np.float64) - low) / width
        Image.fromarray(stretched.clip(0, 255).round().astype(np.uint8)).save(folder / f"{i}.png")


def test_stretched_exports_of_a_declared_window_are_brought_back_to_hu(tmp_path: Path):
    write_exports(tmp_path / "images", (50, 100))
    rows = [f"{i},{LABELS[i]}" for i in range(SLICES)]
    found = load(tmp_path / "images", "id,label", rows, png_window=(50.0, 100.0))
    assert found.notes == (("png-window 50,100 declared", SLICES),)
    truth = np.stack([preprocess(slice_image(LABELS[i], i), BRAIN) for i in range(SLICES)])
    difference = np.abs(found.labelled.images.astype(int) - truth.astype(int))
    assert difference.max() <= 1, "an eighth bit of 100 HU is 0.4"


def test_a_window_that_was_guessed_is_told(tmp_path: Path):
    write_exports(tmp_path / "images", (40, 80))
    found = load(tmp_path / "images", "id,label", [f"{i},{LABELS[i]}" for i in range(SLICES)])
    guessed = [count for note, count in found.notes if re.fullmatch(r"stretched export: window \d+,\d+ guessed", note)]
    assert sum(guessed) == SLICES


def test_frames_of_a_file_are_told_apart_by_their_number(tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for file in range(2):
        frames = [slice_image(LABELS[i], i) for i in range(4 * file, 4 * file + 4)]
        positions = [[0.0, 0.0, 5.0 * i] for i in range(4)]
        dataset = make_enhanced_ct(np.stack(frames).astype("<u2") + 1024, intercepts=[-1024.0] * 4, positions=positions)
        (folder / f"{file}.dcm").write_bytes(to_bytes(dataset))
    rows = [f"{file}.dcm,{frame},{LABELS[4 * file + frame - 1]}" for file in range(2) for frame in range(1, 5)]
    found = load(folder, "path,frame,label", [*rows, "1.dcm,7,0"])
    assert found.labelled.ids == tuple(
        f"{file}.dcm" + (f" frame {frame}" if frame > 1 else "") for file in range(2) for frame in range(1, 5)
    )
    assert found.labelled.labels.tolist() == LABELS[:8]
    assert [one.name for one in found.left_out] == ["1.dcm frame 7"]


def test_what_is_not_among_the_slices_is_listed_with_the_reason(dicoms: Path):
    write_dicom(dicoms / "study0" / "0.dcm", 0, Modality="MR")
    (dicoms / "study1" / "3.dcm").write_bytes(to_bytes(make_ct(slice_image(0, 3), SOPInstanceUID=uid(3)))[:-900])
    (dicoms / "study2" / "4.dcm").unlink()
    (dicoms / "notes.txt").write_text("nobody's label", encoding="utf-8")
    rows = [f"study{i // 2}/{i}.dcm,{LABELS[i]}" for i in range(SLICES)]
    found = load(dicoms, "path,label", rows)
    assert len(found.labelled) == SLICES - 3
    assert not {"study0/0.dcm", "study1/3.dcm", "study2/4.dcm"} & set(found.labelled.ids)
    listed = {(Path(one.name).name, one.status) for one in found.left_out}
    missing = {(name, "not found") for name in ("0.dcm", "3.dcm", "4.dcm")}
    assert listed == {("0.dcm", "skipped"), ("3.dcm", "error"), *missing}
    assert "Modality" in next(one.reason for one in found.left_out if one.status == "skipped")


def test_images_without_label_are_passed_over(dicoms: Path):
    rows = [f"{uid(i)},{LABELS[i]}" for i in range(18)]
    found = load(dicoms, "SOPInstanceUID,label", rows)
    assert len(found.labelled) == 18
    assert found.left_out == ()


def cluster_sets(data: DataSet) -> set[frozenset[int]]:
    numbers = data.labelled.clusters
    return {frozenset(np.flatnonzero(numbers == number).tolist()) for number in numbers}


INPUTS = {"brain": BRAIN, "raw": RAW, "head": HEAD, "small": replace(BRAIN, size=32)}


@pytest.mark.parametrize("name", INPUTS)
def test_all_inputs_divide_the_slices_alike(tmp_path: Path, name: str):
    """Duplicates are those at 0 to 70 HU: neither detail that an input hides nor bone that it shows makes others."""
    folder = tmp_path / "images"
    folder.mkdir()
    images = [np.pad(slice_image(LABELS[i], i, size=24), 8) for i in range(SLICES)]
    images[3] = images[1].copy()
    images[5] = np.where(images[1] > 70, 90, images[1])  # brighter bone alone
    images[7] = images[1].copy()
    images[7][1, 1] = 1  # outside the head, and too little for a smaller image
    for i, image in enumerate(images):
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{i}.png")
    rows = [f"{i},{LABELS[i]}" for i in range(SLICES)]
    found = load(folder, "id,label", rows, INPUTS[name])
    assert cluster_sets(found) == {frozenset({1, 3, 5}), *(frozenset({i}) for i in range(SLICES) if i not in {1, 3, 5})}


def test_slices_of_one_study_stay_together(dicoms: Path):
    found = load(dicoms, "SOPInstanceUID,label", [f"{uid(i)},{LABELS[i]}" for i in range(SLICES)])
    assert cluster_sets(found) == {frozenset({i, i + 1}) for i in range(0, SLICES, 2)}


def test_slices_of_one_patient_stay_together(dicoms: Path):
    rows = [f"{uid(i)},{LABELS[i]},P{i // 4}" for i in range(SLICES)]
    found = load(dicoms, "SOPInstanceUID,label,patient", rows)
    assert cluster_sets(found) == {frozenset(range(i, i + 4)) for i in range(0, SLICES, 4)}
    for division in found.folds(3, seed=0):
        held_out = {int(name.rsplit(".", 1)[1]) - 1 for name in division.held_out.ids}
        assert not {i // 4 for i in held_out} & {i // 4 for i in set(range(SLICES)) - held_out}
    assert found.together == "held out by patient: 6 patients, by the label file"


def test_slices_without_patient_stay_with_their_study_alone(images: Path):
    for i in range(SLICES):
        Image.fromarray(slice_image(LABELS[i], i)).save(images / f"{i}.png")
    patients = ["P", "P", "P", *[""] * (SLICES - 3)]
    studies = ["", "1", "", "2", "2", *[""] * (SLICES - 5)]
    rows = [f"{i},{LABELS[i]},{patients[i]},{studies[i]}" for i in range(SLICES)]
    found = load(images, "id,label,patient,study", rows)
    alone = {frozenset({i}) for i in range(5, SLICES)}
    assert cluster_sets(found) == {frozenset({0, 1, 2}), frozenset({3, 4}), *alone}
    assert "1 patient, by the label file; 21 slices have none" in found.together


def test_a_study_s_name_need_be_unique_within_its_patient_only(images: Path):
    for i in range(SLICES):
        Image.fromarray(slice_image(LABELS[i], i)).save(images / f"{i}.png")
    rows = [f"{i},{LABELS[i]},P{i // 4},{i // 2 % 2}" for i in range(SLICES)]
    found = load(images, "id,label,patient,study", rows)
    assert cluster_sets(found) == {frozenset(range(i, i + 4)) for i in range(0, SLICES, 4)}


def test_unknown_patients_are_told(images: Path):
    for i in range(SLICES):
        Image.fromarray(slice_image(LABELS[i], i)).save(images / f"{i}.png")
    found = load(images, "id,label", [f"{i},{LABELS[i]}" for i in range(SLICES)])
    assert found.together.startswith("held out singly: no patients are known")
    rows = [f"{i},{LABELS[i]},{'' if i < 3 else i // 4}" for i in range(SLICES)]
    found = load(images, "id,label,study", rows)
    assert found.together.startswith("held out by study (6; 3 slices have none): no patients are known")


@pytest.mark.parametrize(("patients", "together"), [(6, 4), (1, 2)])
def test_without_a_column_the_files_patient_counts_unless_an_anonymiser_wrote_it(
    tmp_path: Path, patients: int, together: int
):
    for i in range(SLICES):
        write_dicom(tmp_path / "images" / f"{i}.dcm", i, PatientID=f"P{i // 4 % patients}")
    found = load(tmp_path / "images", "SOPInstanceUID,label", [f"{uid(i)},{LABELS[i]}" for i in range(SLICES)])
    assert cluster_sets(found) == {frozenset(range(i, i + together)) for i in range(0, SLICES, together)}
    said = "by patient: 6 patients, by PatientID" if patients == 6 else "by study (12): no patients are known"
    assert said in found.together


def test_groups_have_names_and_small_ones_are_merged(tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    count = 130
    for i in range(count):
        Image.fromarray(slice_image(i % 2, i, size=8)).save(folder / f"{i}.png")
    rows = [f"{i},{i % 2},{'large' if i < 110 else 'small'}" for i in range(count)]
    found = load(folder, "id,label,group", rows)
    assert found.group_names == ("large", "small")
    assert found.labelled.groups.tolist() == [0] * 110 + [-1] * 20


def test_slices_without_group_are_among_the_small_ones(images: Path):
    for i in range(120):
        Image.fromarray(slice_image(i % 2, i, size=8)).save(images / f"{i}.png")
    found = load(images, "id,label,group", [f"{i},{i % 2},{'large' if i >= 10 else ''}" for i in range(120)])
    assert found.group_names == ("large",)
    assert found.labelled.groups.tolist() == [-1] * 10 + [0] * 110


def test_a_limit_takes_the_first_labels(dicoms: Path):
    rows = [f"{uid(i)},{i % 2},P{i}" for i in range(SLICES)]
    found = load(dicoms, "SOPInstanceUID,label,patient", rows, limit=16)
    assert found.labelled.ids == tuple(uid(i) for i in range(16))


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (["9.9.9,1"], "no CT slice that .*labels.csv names, such as 9.9.9"),
        ([f"{uid(0)},2"], "line 2: label is '2'"),
    ],
    ids=["nothing found", "no label"],
)
def test_what_cannot_be_trained_on_is_refused(dicoms: Path, rows: list[str], named: str):
    with pytest.raises(DataError, match=named):
        load(dicoms, "SOPInstanceUID,label", rows)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere: not there.*--data"):
        load(tmp_path / "nowhere", "id,label", ["1,1"])


def test_of_copies_the_first_is_taken(dicoms: Path):
    write_dicom(dicoms / "study3" / "again.dcm", 1, SOPInstanceUID=uid(0))
    found = load(dicoms, "SOPInstanceUID,label", [f"{uid(i)},{LABELS[i]}" for i in range(SLICES)])
    assert found.labelled.ids == tuple(uid(i) for i in range(SLICES))
    assert np.array_equal(found.labelled.images[0], as_scanned(dicoms / "study0" / "0.dcm"))


def test_a_label_that_fits_two_images_is_refused(dicoms: Path):
    write_dicom(dicoms / "copy" / "0.dcm", 0)
    with pytest.raises(DataError, match=r"label 0 .*fits 2 rows"):
        load(dicoms, "id,label", [f"{i},{LABELS[i]}" for i in range(SLICES)])
