"""Pictures of flagged slices: where they are kept, how they are named, and when they are made again."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from worklist_pages import CARD, scored, slice_and_map, write_page

from hemoscan.card import BRAIN, RAW
from hemoscan.errors import OptionError
from hemoscan.pictures import Pictures, overlay_name

FLAGGED, UNFLAGGED = scored("1.2.3", 7, 0.9), scored("1.2.3", 8, 0.1)


def open_pictures(**options: Any) -> contextlib.closing[Pictures]:
    return contextlib.closing(Pictures(CARD, BRAIN, **options))


def test_overlays_are_named_by_sop_instance_uid_and_frame():
    assert overlay_name(FLAGGED) == "1.2.3.1.7.png"
    assert overlay_name(replace(FLAGGED, decoded=replace(FLAGGED.decoded, frame=2))) == "1.2.3.1.7_2.png"


@pytest.mark.parametrize("uid", ["", "../../etc/passwd", "a/b", ".hidden", "x" * 65, "a\nb", "1.2\\3"])
def test_what_is_no_uid_becomes_no_file_name(uid: str):
    names = {overlay_name(scored("1", 7, 0.9, sop_uid=uid, path=path)) for path in ("/a.dcm", "/b.dcm")}
    assert len(names) == 2
    assert all(len(name) == 36 and name[:32].isalnum() for name in names)


def test_only_flagged_slices_lack_pictures(tmp_path: Path):
    with open_pictures(heatmaps=tmp_path / "maps", page=tmp_path / "page.html") as pictures:
        assert pictures.lacks_overlay(FLAGGED)
        assert pictures.lacks_thumbnail(FLAGGED)
        assert not pictures.lacks_overlay(UNFLAGGED)
        assert not pictures.lacks_thumbnail(UNFLAGGED)


def test_an_overlay_is_written_and_found_by_the_next_run(tmp_path: Path):
    with open_pictures(heatmaps=tmp_path / "maps") as pictures:
        pictures.take(FLAGGED, *slice_and_map())
        assert not pictures.lacks_overlay(FLAGGED)
        assert not pictures.lacks_thumbnail(FLAGGED), "no page is wanted"
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["1.2.3.1.7.png"]
    with Image.open(tmp_path / "maps" / "1.2.3.1.7.png") as image:
        assert image.info == {}
        assert np.asarray(image).std() > 10
    with open_pictures(heatmaps=tmp_path / "maps") as pictures:
        assert not pictures.lacks_overlay(FLAGGED)


def test_thumbnails_are_taken_over_from_the_page_before(tmp_path: Path):
    page = tmp_path / "page.html"
    with open_pictures(page=page) as pictures:
        pictures.take(FLAGGED, *slice_and_map())
        made = pictures.find(FLAGGED)
    assert made is not None
    assert not page.exists(), "no file but the page holds pixels"
    write_page(page, [FLAGGED])
    with open_pictures(page=page) as pictures:
        assert pictures.find(FLAGGED) == made
        assert pictures.lacks_thumbnail(replace(FLAGGED, probability=0.8)), "changed pixels"
    with contextlib.closing(Pictures(CARD, RAW, page=page)) as pictures:
        assert pictures.lacks_thumbnail(FLAGGED), "another window"
    with contextlib.closing(Pictures(replace(CARD, sha256="1" * 64), BRAIN, page=page)) as pictures:
        assert pictures.lacks_thumbnail(FLAGGED), "another model"


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"no page", b'<div data-picture="' + b"0" * 32 + b'"><img src="']
)
def test_another_page_before_gives_nothing(tmp_path: Path, content: bytes):
    (tmp_path / "page.html").write_bytes(content)
    with open_pictures(page=tmp_path / "page.html") as pictures:
        assert pictures.lacks_thumbnail(FLAGGED)


def test_a_file_in_place_of_the_folder_is_wrong_usage(tmp_path: Path):
    (tmp_path / "maps").write_text("x", encoding="utf-8")
    with pytest.raises(OptionError, match=r"maps: is no folder; legal"):
        Pictures(CARD, BRAIN, heatmaps=tmp_path / "maps")
