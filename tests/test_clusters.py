"""Which slices belong together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hemoscan.trainer.clusters import clusters, digest, number, tell_apart


def partition(numbers: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(numbers == number).tolist()) for number in numbers}


def test_equal_images_share_a_digest_and_others_do_not():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    other = image.copy()
    other[3, 3] += 1
    assert digest(image) == digest(image.copy())
    assert digest(image) != digest(other)


def test_a_black_image_has_no_digest():
    assert digest(np.zeros((4, 4), np.uint8)) is None


def test_slices_without_anything_in_common_are_by_themselves():
    assert partition(clusters([b"a", b"b", b"c"])) == {frozenset({i}) for i in range(3)}
    assert partition(clusters([None, None, b"a"])) == {frozenset({i}) for i in range(3)}


def test_a_duplicate_joins_two_patients():
    digests = [b"1", b"2", b"2", b"3", b"4"]
    patients = ["p", "p", "q", "q", "r"]
    assert partition(clusters(digests, patients)) == {frozenset({0, 1, 2, 3}), frozenset({4})}


def test_a_patient_named_as_a_digest_is_not_that_digest():
    assert partition(clusters(["x", "y"], ["z", "x"])) == {frozenset({0}), frozenset({1})}


def test_no_slices_have_no_clusters():
    assert clusters([]).shape == (0,)


@given(st.lists(st.tuples(st.none() | st.integers(0, 4), st.none() | st.integers(0, 4)), max_size=12))
def test_clusters_are_the_finest_partition_that_parts_no_pair(pairs: list[tuple[int | None, int | None]]):
    found = clusters([left for left, _ in pairs], [right for _, right in pairs])
    expected = [{i} for i in range(len(pairs))]
    for i, one in enumerate(pairs):
        for j, other in enumerate(pairs):
            if (
                any(a is not None and a == b for a, b in zip(one, other, strict=True))
                and expected[i] is not expected[j]
            ):
                joined = expected[i] | expected[j]
                for member in joined:
                    expected[member] = joined
    assert partition(found) == {frozenset(members) for members in expected}


def test_studies_of_one_name_are_told_apart_by_the_patient():
    found = tell_apart(["1", "1", "1", "2", "2", None, ""], ["a", "b", "a", "a", None, "a", "b"])
    assert found == [("1", "a"), ("1", "b"), ("1", "a"), ("2",), ("2",), None, None]


def test_keys_are_numbered_in_their_order():
    assert number([("b",), None, ("a",), ("b",)]).tolist() == [1, -1, 0, 1]
    assert number([None, None]).tolist() == [-1, -1]
