"""The data set in every layout that it comes in, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from conftest import need_shared
from PIL import Image
from trainer_data import (
    FIRST_TEST_ID,
    FIRST_TRAINING_ID,
    FIRST_VALIDATION_ID,
    LAYOUTS,
    Row,
    black_image,
    make_rows,
    slice_image,
    write_data_set,
    write_labels,
)

from hemoscan.card import BRAIN, RAW, InputSpec
from hemoscan.errors import DataError
from hemoscan.preprocess import preprocess
from hemoscan.trainer.data import Label, default_folder, load_data_set, load_splits
from hemoscan.trainer.splits import Split

TRAINING = make_rows([0, 0, 1, 0, 1, 0], FIRST_TRAINING_ID)
VALIDATION = make_rows([1, 0, 0, 1], FIRST_VALIDATION_ID)


def assert_holds(split: Split, rows: Iterable[Row], spec: InputSpec = BRAIN) -> None:
    rows = list(rows)
    assert split.ids == tuple(row.id for row in rows)
    assert split.labels.tolist() == [row.label for row in rows]
    assert split.images.dtype == np.uint8
    for image, row in zip(split.images, rows, strict=True):
        assert np.array_equal(image, preprocess(row.image, spec)), row.id


@pytest.mark.parametrize("spec", [BRAIN, RAW], ids=["brain", "raw"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_splits(tmp_path: Path, layout: str, spec: InputSpec):
    training, validation = load_splits(write_data_set(tmp_path, TRAINING, VALIDATION, layout), spec)
    assert_holds(training, TRAINING, spec)
    assert_holds(validation, VALIDATION, spec)


@pytest.mark.parametrize("layout", ["data/data", "tars"])
@pytest.mark.parametrize("above", [0, 1, 2])
def test_the_folder_may_be_named_from_up_to_two_above(tmp_path: Path, layout: str, above: int):
    home = write_data_set(tmp_path / "downloads", TRAINING, VALIDATION, layout)
    named = [home, *home.parents][above]
    assert_holds(load_splits(named, BRAIN)[0], TRAINING)


def test_the_folder_is_not_searched_for_three_levels_down(tmp_path: Path):
    write_data_set(tmp_path / "my" / "downloads", TRAINING, VALIDATION)
    with pytest.raises(DataError, match=r"no train_labels\.txt.*--data"):
        load_splits(tmp_path, BRAIN)


@pytest.mark.parametrize(
    ("number", "split"), [(15_000, "training"), (15_001, "validation"), (17_000, "validation"), (17_001, "training")]
)
def test_of_merged_labels_the_ids_15001_to_17000_are_validation(tmp_path: Path, number: int, split: str):
    extra = make_rows([1], number)
    home = write_data_set(
        tmp_path, [*TRAINING, *extra], [row for row in VALIDATION if row.id != extra[0].id], "merged labels"
    )
    training, validation = load_splits(home, BRAIN)
    assert (extra[0].id in validation.ids) == (split == "validation")
    assert (extra[0].id in training.ids) == (split == "training")


def test_the_raw_input_keeps_what_the_brain_input_clips(tmp_path: Path):
    home = write_data_set(tmp_path, TRAINING, VALIDATION)
    assert load_splits(home, BRAIN)[0].images.max() == 70
    assert load_splits(home, RAW)[0].images.max() == 76


def test_training_slices_that_are_also_in_validation_are_left_out_but_for_black_ones(tmp_path: Path):
    copy = Row("000101", 1, VALIDATION[0].image)
    black = Row("000102", 0, black_image())
    almost = VALIDATION[1].image.copy()
    almost[20, 20] += 1
    near_copy = Row("000103", 0, almost)
    validation = [*VALIDATION, Row("015101", 0, black_image())]
    training, held_out = load_splits(write_data_set(tmp_path, [*TRAINING, copy, black, near_copy], validation), BRAIN)
    assert_holds(training, [*TRAINING, black, near_copy])
    assert_holds(held_out, validation)


def test_groups_are_the_largest_raw_levels_and_small_ones_are_merged(tmp_path: Path):
    labels = [0, 1] * 25
    training = [
        *make_rows([*labels, *labels], 1, size=8, top=76),
        *make_rows(labels, 1001, size=8, top=80),
        *make_rows(labels[:30], 2001, size=8, top=102),
    ]
    validation = [
        *make_rows(labels, FIRST_VALIDATION_ID, size=8, top=80),
        *make_rows(labels[:20], FIRST_VALIDATION_ID + 1000, size=8, top=115),
    ]
    home = write_data_set(tmp_path, training, validation, "single-channel")
    found, held_out = load_splits(home, BRAIN)
    assert len(found) == len(training), "an accidental duplicate would shift the groups"
    assert found.groups.tolist() == [76] * 100 + [80] * 50 + [-1] * 30
    assert held_out.groups.tolist() == [80] * 50 + [-1] * 20


TEST = make_rows([0, 1, 0], FIRST_TEST_ID)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_test_images_are_loaded_where_they_are(tmp_path: Path, layout: str):
    home = write_data_set(
        tmp_path, TRAINING, VALIDATION, layout, test=[*reversed(TEST), Row("000900", 0, black_image())]
    )
    test = load_data_set(home, BRAIN).test
    assert test is not None
    assert test.ids == tuple(row.id for row in TEST)
    for image, row in zip(test.images, TEST, strict=True):
        assert np.array_equal(image, preprocess(row.image, BRAIN))
    assert load_data_set(home, BRAIN, test=False).test is None
    trial = load_data_set(home, BRAIN, limit=3).test
    assert trial is not None
    assert len(trial) == 3


def test_without_test_images_there_is_no_test(tmp_path: Path):
    assert load_data_set(write_data_set(tmp_path, TRAINING, VALIDATION), BRAIN).test is None


@pytest.mark.parametrize("spec", [BRAIN, RAW], ids=["brain", "raw"])
def test_duplicates_are_one_cluster_whatever_the_input_and_black_images_are_not(tmp_path: Path, spec: InputSpec):
    copies = [Row("000101", 1, VALIDATION[0].image), Row("000102", 0, black_image()), Row("000103", 0, black_image())]
    found = load_data_set(write_data_set(tmp_path, [*TRAINING, *copies], VALIDATION), spec).labelled
    cluster = dict(zip(found.ids, found.clusters.tolist(), strict=True))
    assert cluster["000101"] == cluster[VALIDATION[0].id]
    assert len(set(cluster.values())) == len(found) - 1


@pytest.mark.parametrize("limit", [3, 4])
def test_a_limit_takes_the_first_slices_of_each_split(tmp_path: Path, limit: int):
    training, validation = load_splits(write_data_set(tmp_path, TRAINING, VALIDATION), BRAIN, limit=limit)
    assert_holds(training, TRAINING[:limit])
    assert_holds(validation, VALIDATION[:limit])


def test_images_beyond_the_limit_need_not_exist(tmp_path: Path):
    home = write_data_set(tmp_path, TRAINING, VALIDATION)
    (home / "data" / f"{TRAINING[-1].id}.png").unlink()
    assert len(load_splits(home, BRAIN, limit=4)[0]) == 4


def test_progress_is_told_of_every_slice(tmp_path: Path):
    seen: list[Label] = []

    def progress(rows: Iterable[Label]) -> Iterable[Label]:
        for row in rows:
            seen.append(row)
            yield row

    load_splits(write_data_set(tmp_path, TRAINING, VALIDATION), BRAIN, progress=progress)
    assert seen == [(row.id, row.label) for row in [*TRAINING, *VALIDATION]]


def test_a_byte_order_mark_and_windows_line_ends_are_taken(tmp_path: Path):
    home = write_data_set(tmp_path, TRAINING, VALIDATION)
    labels = home / "train_labels.txt"
    labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes().replace(b"\n", b"\r\n"))
    assert_holds(load_splits(home, BRAIN)[0], TRAINING)


def test_taking_slices_takes_all_that_belongs_to_them():
    split = Split(
        ("a", "b", "c"),
        np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
        np.array([0, 1, 1], np.uint8),
        np.array([70, -1, 80], np.int64),
        np.array([0, 1, 1], np.int64),
    )
    for index in (np.array([False, True, True]), np.array([1, 2])):
        part = split.take(index)
        assert part.ids == ("b", "c")
        assert part.images[:, 0, 0].tolist() == [4, 8]
        assert part.labels.tolist() == [1, 1]
        assert part.groups.tolist() == [-1, 80]
        assert part.clusters.tolist() == [1, 1]


def _remove_images(home: Path) -> None:
    for row in TRAINING[1:3]:
        (home / "data" / f"{row.id}.png").unlink()


def _damage_image(home: Path) -> None:
    path = home / "data" / f"{TRAINING[3].id}.png"
    path.write_bytes(path.read_bytes()[:60])


def _disguise_image(home: Path) -> None:
    path = home / "data" / f"{TRAINING[3].id}.png"
    Image.fromarray(TRAINING[3].image).save(path, "BMP")


def _damage_tar(home: Path) -> None:
    (home / "labelled-9.tar").write_bytes(b"no tar" * 300)


def _training_of(content: bytes) -> Callable[[Path], object]:
    return lambda home: (home / "train_labels.txt").write_bytes(content)


def _one_class(home: Path) -> None:
    write_labels(home / "validation_labels.txt", [row for row in VALIDATION if row.label == 0])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        pytest.param(_remove_images, r"data: 2 labelled images not found, such as 000002", id="missing images"),
        pytest.param(lambda home: (home / "train_labels.txt").unlink(), r"no train_labels\.txt", id="no label file"),
        pytest.param(_training_of(b"id,kind\n000001,0\n"), r"train_labels\.txt: .*label or class", id="bad header"),
        pytest.param(_training_of(b"path,class\n000001,0\n"), r"train_labels\.txt: .*legal: id,class", id="by path"),
        pytest.param(_training_of(b""), r"train_labels\.txt: .*empty; legal", id="empty label file"),
        pytest.param(
            _training_of(b"id,class\n000001,0\n000002,2\n"), r"train_labels\.txt, line 3: class is '2'", id="bad class"
        ),
        pytest.param(
            _training_of(b"id,class\n000001,0\n\n\n000002,2\n"), r"train_labels\.txt, line 5: ", id="after blank lines"
        ),
        pytest.param(_training_of(b"id,class\n000001,0\n000002\n"), r"train_labels\.txt, line 3: ", id="no class"),
        pytest.param(_training_of(b"id,class\n,1\n"), r"train_labels\.txt, line 2: ", id="no id"),
        pytest.param(_training_of(b"id,class\n\xff\xfe,1\n"), r"train_labels\.txt: cannot be read", id="no text"),
        pytest.param(_training_of(b"id,class\n"), r"train_labels\.txt: no labels", id="no rows"),
        pytest.param(_training_of(b"id,class\n000001,0\n000001,1\n"), r"line 3: id is '000001'", id="twice"),
        pytest.param(_one_class, r"validation split has 2 slices.*both classes", id="one class"),
        pytest.param(_damage_image, r"000004.*cannot be decoded", id="damaged image"),
        pytest.param(_disguise_image, r"000004.*cannot be decoded", id="another format"),
        pytest.param(_damage_tar, r"labelled-9\.tar: cannot be read as a tar", id="damaged tar"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Callable[[Path], object], named: str):
    home = write_data_set(tmp_path, TRAINING, VALIDATION)
    spoil(home)
    with pytest.raises(DataError, match=named):
        load_splits(home, BRAIN)


def test_a_cut_tar_is_refused_not_padded(tmp_path: Path):
    home = write_data_set(tmp_path, TRAINING, VALIDATION, "tars")
    tar = home / "labelled-1.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(DataError):
        load_splits(home, BRAIN)


def test_merged_labels_without_validation_ids_are_refused(tmp_path: Path):
    home = write_data_set(tmp_path, TRAINING, [], "merged labels")
    with pytest.raises(DataError, match="validation split has 0 slices"):
        load_splits(home, BRAIN)


def test_a_limit_that_leaves_one_class_is_refused(tmp_path: Path):
    home = write_data_set(tmp_path, TRAINING, VALIDATION)
    with pytest.raises(DataError, match="training split has 2 slices"):
        load_splits(home, BRAIN, limit=2)


def test_the_default_folder_is_the_environments_else_data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEMOSCAN_DATA", "/somewhere/else")
    assert default_folder() == Path("/somewhere/else")
    for unset in (lambda: monkeypatch.setenv("HEMOSCAN_DATA", ""), lambda: monkeypatch.delenv("HEMOSCAN_DATA")):
        unset()
        assert default_folder() == Path("data")


def test_positives_of_the_helper_differ_from_negatives():
    assert slice_image(1, seed=3).mean() > slice_image(0, seed=3).mean() + 1


class _CountedError(Exception):
    """Ends loading once the labels were seen."""


@pytest.mark.data
def test_the_real_set_has_17000_labelled_slices_2514_positive():
    labels: list[Label] = []

    def progress(rows: Iterable[Label]) -> Iterable[Label]:
        labels.extend(rows)
        raise _CountedError

    with pytest.raises(_CountedError):
        load_splits(need_shared("unibuc-brain-ad"), BRAIN, progress=progress)
    assert len(labels) == 17_000
    assert sum(label for _, label in labels) == 2_514
    assert [name for name, _ in labels] == [f"{number:06}" for number in range(1, 17_001)]


@pytest.mark.data
def test_the_real_set_loads_from_its_tars():
    training, validation = load_splits(need_shared("unibuc-brain-ad"), RAW, limit=50)
    assert validation.ids == tuple(f"{number:06}" for number in range(15_001, 15_051))
    assert set(training.ids) <= {f"{number:06}" for number in range(1, 51)}
    assert len(training) >= 45
    assert training.images.shape[1:] == (224, 224)
    levels = np.concatenate([training.images, validation.images]).max(axis=(1, 2))
    assert {70, 76} <= set(levels.tolist())
    assert set(training.groups.tolist()) == {-1}, "50 slices of each split make no group of 100"
