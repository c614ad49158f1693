"""From a file to inputs of the network, or to the reason why there is none."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from factories import (
    LOSSLESS,
    UNCOMPRESSED,
    hu_ramp,
    make_ct,
    make_enhanced_ct,
    make_stored,
    to_bytes,
    transcode,
    with_frames,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, HTJ2KLossless, RLELossless, SecondaryCaptureImageStorage

from hemoscan import decode as decoding
from hemoscan import dicom, preprocess
from hemoscan.card import BRAIN, HEAD, RAW, InputSpec
from hemoscan.decode import DecodeOptions, decode
from hemoscan.phantom import make_phantom
from hemoscan.slices import BLANK, BONE_KERNEL, CONTRAST, ERROR, OK, OUT_OF_DISTRIBUTION, SKIPPED, Decoded
from hemoscan.sources import Entry, Reader

pytestmark = pytest.mark.filterwarnings("ignore:::pydicom")  # a scan ignores them too: they quote values

SMALL = InputSpec(window=BRAIN.window, size=16, scale=BRAIN.scale)
ENCODED_HERE = [syntax for syntax in (*UNCOMPRESSED, *LOSSLESS) if syntax != HTJ2KLossless]
SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
SHIPPED_FILES = sorted(path for path in SHIPPED.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))


def rules(decoded: Decoded) -> tuple[str, ...]:
    """Return the notes on how a slice was read; what it shows is no head here, and noted so."""
    return tuple(note for note in decoded.notes if note not in (BLANK, OUT_OF_DISTRIBUTION))


def write(folder: Path, content: bytes | Dataset, name: str = "a") -> Entry:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else to_bytes(content))
    return Entry(str(path), 12.5)


def decode_file(entry: Entry, **options: Any) -> list[Decoded]:
    with Reader() as reader:
        return decode(entry, reader, DecodeOptions(**{"spec": SMALL, **options}))


def test_a_bone_window_is_noted_once(tmp_path: Path):
    grey = np.clip((make_phantom(slices=8).hu[4] + 500) / 2000 * 255, 0, 255).astype(np.uint8)
    shown = io.BytesIO()
    Image.fromarray(grey).save(shown, "PNG")
    notes = decode_file(write(tmp_path, shown.getvalue()))[0].notes
    assert notes.count(OUT_OF_DISTRIBUTION) == 1


def test_an_export_whose_window_ends_below_bone_is_a_head(tmp_path: Path):
    grey = np.clip((make_phantom(slices=8).hu[4] - 20) / 40 * 255, 0, 255).astype(np.uint8)
    shown = io.BytesIO()
    Image.fromarray(grey).save(shown, "PNG")
    notes = decode_file(write(tmp_path, shown.getvalue()), png_window=(40.0, 40.0))[0].notes
    assert notes == ("png-window 40,40 declared",)


def tissue(size: int = 16) -> np.ndarray[Any, Any]:
    return hu_ramp(size, size) % 71


def png(grey: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", ENCODED_HERE, ids=lambda syntax: syntax.keyword)
def test_a_ct_slice_is_one_input(tmp_path: Path, syntax: UID):
    (found,) = decode_file(write(tmp_path, transcode(make_ct(tissue()), syntax)))
    assert (found.status, found.reason, found.frame, rules(found)) == (OK, "", 1, ())
    assert (found.path, found.folder, found.mtime) == (str(tmp_path / "a"), str(tmp_path), 12.5)
    assert (found.identity.study_uid, found.identity.instance_number, found.identity.z_mm) == ("1.2.3", 7, 42.5)
    assert np.array_equal(found.image, tissue())


def test_the_card_rules_the_input(tmp_path: Path):
    entry = write(tmp_path, make_ct(np.full((8, 8), 200)))
    for spec, expected in [(BRAIN, 70), (RAW, 200), (InputSpec(window=(100, 60), size=5), 130)]:
        (found,) = decode_file(entry, spec=spec)
        assert found.image is not None
        assert found.image.shape == (spec.size, spec.size)
        assert np.unique(found.image).tolist() == [expected]


@pytest.mark.parametrize("spec", [BRAIN, HEAD], ids=["brain", "head"])
def test_a_header_window_changes_nothing(tmp_path: Path, spec: InputSpec):
    windows: list[dict[str, Any]] = [
        {},
        {"WindowCenter": 40, "WindowWidth": 80},
        {"WindowCenter": [35, 600], "WindowWidth": [70, 2800], "VOILUTFunction": "SIGMOID"},
    ]
    found = [decode_file(write(tmp_path, make_ct(hu_ramp(64, 64), **window)), spec=spec)[0] for window in windows]
    for other in found[1:]:
        assert np.array_equal(other.image, found[0].image)
        assert other.notes == found[0].notes


def test_multi_frame_has_one_for_each_frame(tmp_path: Path):
    stored = np.stack([tissue(), tissue() + 10, tissue() + 20]).astype("<i2")
    dataset = make_enhanced_ct(stored, intercepts=[0, -10, -20], positions=[[0, 0, z] for z in (1.0, 2.5, 4.0)])
    found = decode_file(write(tmp_path, dataset))
    assert [one.frame for one in found] == [1, 2, 3]
    assert [one.identity.z_mm for one in found] == [1.0, 2.5, 4.0]
    assert all(np.array_equal(one.image, tissue()) for one in found)


def test_frames_before_a_damaged_one_are_kept(tmp_path: Path):
    dataset = transcode(make_stored(np.stack([tissue(), tissue() + 1]).astype("<i2")), RLELossless)
    good, bad = generate_frames(dataset.PixelData, number_of_frames=2)
    first, second = decode_file(write(tmp_path, with_frames(dataset, RLELossless, [good, bad[:70]])))
    assert np.array_equal(first.image, tissue())
    assert (second.status, second.frame, second.image) == (ERROR, 2, None)
    assert "RLE Lossless" in second.reason
    assert second.identity.study_uid == "1.2.3"


@pytest.mark.parametrize(
    ("attributes", "status", "words"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, SKIPPED, "LOCALIZER"),
        ({"Modality": "MR"}, SKIPPED, "Modality (0008,0060) is 'MR'"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, SKIPPED, "Secondary Capture"),
        ({"PixelData": None}, ERROR, "PixelData (7FE0,0010) is absent or incomplete"),
        ({"PixelData": b"\0" * 20}, ERROR, "Explicit VR Little Endian"),
        ({"Rows": 0}, ERROR, "Rows (0028,0010) is 0"),
        ({"RescaleSlope": 0}, ERROR, "RescaleSlope"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_dicom_without_an_input_says_why_and_whose(tmp_path: Path, attributes: dict[str, Any], status: str, words: str):
    (found,) = decode_file(write(tmp_path, make_ct(tissue(), **attributes)))
    assert (found.status, found.image) == (status, None)
    assert words in found.reason
    assert found.identity.sop_uid == "1.2.3.4.5"


def test_12_bit_repair_is_an_option(tmp_path: Path):
    hu = tissue()
    hu[:4] = -500
    entry = write(tmp_path, make_stored((hu & 0xFFF).astype("<u2"), BitsStored=12))
    (repaired,), (left,) = decode_file(entry), decode_file(entry, repair_12_bit=False)
    assert repaired.image is not None
    assert left.image is not None
    assert (repaired.image[0, 0], left.image[0, 0]) == (0, 70)
    assert "12-bit values unwrapped" in repaired.notes


class TestRaster:
    def test_a_png_of_the_data_sets_kind(self, tmp_path: Path):
        grey = tissue().astype(np.uint8)
        (found,) = decode_file(write(tmp_path, png(grey), "000001.png"))
        assert np.array_equal(found.image, grey)
        assert (found.status, found.frame, rules(found)) == (OK, 1, ("grey taken as HU",))

    def test_a_declared_window(self, tmp_path: Path):
        (found,) = decode_file(write(tmp_path, png(np.full((16, 16), 102, np.uint8))), png_window=(40.0, 80.0))
        assert np.unique(found.image).tolist() == [32]
        assert rules(found) == ("png-window 40,80 declared",)

    def test_a_name_is_not_trusted(self, tmp_path: Path):
        (found,) = decode_file(write(tmp_path, png(tissue().astype(np.uint8)), "slice.dcm"))
        assert found.status == OK

    def test_colour_is_skipped(self, tmp_path: Path):
        picture = np.zeros((16, 16, 3), np.uint8)
        picture[..., 1] = 200
        (found,) = decode_file(write(tmp_path, png(picture)))
        assert (found.status, found.image) == (SKIPPED, None)
        assert "colour" in found.reason

    def test_a_truncated_png_is_an_error(self, tmp_path: Path):
        (found,) = decode_file(write(tmp_path, png(tissue().astype(np.uint8))[:60]))
        assert (found.status, found.image) == (ERROR, None)
        assert found.reason


class TestOtherFiles:
    @pytest.mark.parametrize(
        ("content", "words"),
        [(b"", "empty"), (b"id,class\n", "text"), (b"%PDF-1.4", "PDF"), (b"\0\1\2", "unknown")],
        ids=["empty", "text", "PDF", "bytes"],
    )
    def test_they_are_skipped_in_words(self, tmp_path: Path, content: bytes, words: str):
        (found,) = decode_file(write(tmp_path, content))
        assert (found.status, found.image) == (SKIPPED, None)
        assert words in found.reason

    def test_a_missing_file_is_an_error(self, tmp_path: Path):
        (found,) = decode_file(Entry(str(tmp_path / "gone")))
        assert found.status == ERROR
        assert found.reason.startswith("cannot be read")

    @pytest.mark.parametrize(("field", "status"), [("error", ERROR), ("skipped", SKIPPED)])
    def test_what_the_walk_found_out_is_passed_on(self, field: str, status: str):
        (found,) = decode_file(Entry("/nowhere/a", **{field: "because"}))
        assert (found.status, found.reason, found.path, found.folder) == (status, "because", "/nowhere/a", "/nowhere")

    def test_members_of_a_zip(self, tmp_path: Path):
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            archive.writestr("x", "x")
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("study/slice", to_bytes(make_ct(tissue())))
            archive.writestr("inner.zip", inner.getvalue())
        (image,) = decode_file(Entry(f"{path}!study/slice", member="study/slice"))
        assert np.array_equal(image.image, tissue())
        assert image.folder == f"{path}!study"
        (archived,) = decode_file(Entry(f"{path}!inner.zip", member="inner.zip"))
        assert (archived.status, archived.reason) == (SKIPPED, "an archive within an archive")
        (gone,) = decode_file(Entry(f"{path}!gone", member="gone"))
        assert gone.status == ERROR


@given(st.integers(0, 900), st.binary(min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_a_damaged_header_never_ends_a_run(tmp_path_factory: pytest.TempPathFactory, position: int, noise: bytes):
    content = to_bytes(make_ct(tissue()))
    damaged = content[:position] + noise + content[position + len(noise) :]
    found = decode_file(write(tmp_path_factory.mktemp("damaged"), damaged))
    assert found
    assert all((one.status == OK) == (one.image is not None) == (one.reason == "") for one in found)


def holds_a_ct_slice(path: Path) -> bool:
    """Tell by pydicom alone whether a file is a CT slice."""
    try:
        header = pydicom.dcmread(path)
    except InvalidDicomError:
        return False
    return header.get("Modality") == "CT" and "PixelData" in header and "LOCALIZER" not in header.get("ImageType", [])


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: str(path.relative_to(SHIPPED)))
def test_every_file_that_pydicom_ships(path: Path):
    found = decode_file(Entry(str(path)))
    assert found
    for one in found:
        assert one.status in (OK, SKIPPED, ERROR)
        assert (one.status == OK) == (one.image is not None) == (one.reason == "")
    assert any(one.image is not None for one in found) == holds_a_ct_slice(path)


def test_pydicom_ships_enough_to_mean_something():
    assert len(SHIPPED_FILES) > 150
    assert sum(holds_a_ct_slice(path) for path in SHIPPED_FILES) >= 10


@pytest.mark.parametrize("kind", ["film", "image"])
def test_only_an_image_can_be_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setattr("hemoscan.decode.MAX_IMAGE_BYTES", 10)
    content = png(tissue().astype(np.uint8)) if kind == "image" else b"\0\0\0\x18ftypmp42" + bytes(100)
    (found,) = decode_file(Entry(write(tmp_path, content).path, size=len(content)))
    assert found.status == (ERROR if kind == "image" else SKIPPED)
    assert ("legal: up to 10" in found.reason) == (kind == "image")


def test_an_image_of_one_long_row_is_an_error(tmp_path: Path):
    (found,) = decode_file(write(tmp_path, png(np.zeros((1, 100_000), np.uint8))))
    assert (found.status, found.reason) == (ERROR, "100000 x 1 pixels; legal: up to 4096 x 4096")


@pytest.mark.parametrize("failing", ["preprocess.focus", "raster.read_raster"])
def test_running_out_of_memory_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str):
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(f"hemoscan.{failing}", fail)
    (found,) = decode_file(write(tmp_path, png(tissue().astype(np.uint8))))
    assert (found.status, found.reason) == (ERROR, "cannot be read: MemoryError")


def test_what_no_model_was_trained_for_is_noted_or_skipped(tmp_path: Path):
    image = make_ct(tissue(), ContrastBolusAgent="yes", ConvolutionKernel="BONE")
    (found,) = decode_file(write(tmp_path, image))
    assert (found.status, found.notes) == (OK, (CONTRAST, BONE_KERNEL, OUT_OF_DISTRIBUTION))
    (blank,) = decode_file(write(tmp_path, make_ct(np.full((16, 16), -1000))))
    assert (blank.status, BLANK in blank.notes) == (OK, True)
    head = make_phantom("none", slices=8, size=128, seed=1).hu[4].round().astype(np.int64)
    (plain,) = decode_file(write(tmp_path, make_ct(head)))
    assert OUT_OF_DISTRIBUTION not in plain.notes
    head[55:65, 55:65] = 3071
    (metal,) = decode_file(write(tmp_path, make_ct(head)))
    assert metal.notes.count(OUT_OF_DISTRIBUTION) == 1
    (chest,) = decode_file(write(tmp_path, make_ct(tissue(), BodyPartExamined="CHEST")))
    assert (chest.status, chest.image) == (SKIPPED, None)
    assert "BodyPartExamined (0018,0015)" in chest.reason


def enhanced(frames: int) -> Dataset:
    stored = np.stack([np.full((16, 16), 1030 + 10 * number, "<u2") for number in range(frames)])
    return make_enhanced_ct(
        stored, intercepts=[-1024.0] * frames, positions=[(0.0, 0.0, 5.0 * n) for n in range(frames)]
    )


def test_frames_come_in_parts_if_asked(tmp_path: Path):
    entry = write(tmp_path, enhanced(5))
    whole = decode_file(entry)
    parts: list[list[Decoded]] = []
    done: int | None = 0
    while done is not None:
        parts.append(decode_file(replace(entry, frames_done=done), most_frames=2))
        done = parts[-1][-1].more
    assert [len(part) for part in parts] == [2, 2, 1]
    assert [decoded.last for part in parts for decoded in part] == [False] * 4 + [True]
    found = [decoded for part in parts for decoded in part]
    assert [(one.frame, one.identity, one.notes) for one in found] == [
        (one.frame, one.identity, one.notes) for one in whole
    ]
    assert all(np.array_equal(one.image, other.image) for one, other in zip(found, whole, strict=True))


def test_frames_that_fit_are_one_part(tmp_path: Path):
    found = decode_file(write(tmp_path, enhanced(2)), most_frames=2)
    assert [(decoded.more, decoded.last) for decoded in found] == [(None, False), (None, True)]


def test_a_file_that_lost_frames_between_two_parts_is_an_error(tmp_path: Path):
    (found,) = decode_file(replace(write(tmp_path, enhanced(2)), frames_done=4), most_frames=4)
    assert (found.status, found.last) == (ERROR, True)
    assert found.reason == "the file was changed: it has 2 frames now"


@pytest.mark.parametrize(("window", "passes"), [(BRAIN.window, 1), ((40.0, 80.0), 2)])
def test_a_slice_is_clipped_and_resized_once_if_the_card_looks_through_the_window_of_the_content_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: tuple[float, float], passes: int
):
    specs: list[InputSpec] = []
    whole_field = preprocess.whole_field

    def watch(hu: Any, spec: InputSpec) -> Any:
        specs.append(spec)
        return whole_field(hu, spec)

    monkeypatch.setattr(preprocess, "whole_field", watch)
    spec = InputSpec(window=window, size=128, scale=window[1], tissue=30.0, crop=True)
    head = make_ct(make_phantom(size=256, slices=8).hu[4].astype(int))
    (found,) = decode_file(write(tmp_path, head), spec=spec)
    (plain,) = decode_file(write(tmp_path, head), spec=BRAIN)
    assert len(specs) == passes + 1
    assert found.notes == plain.notes == ()
    assert found.image is not None
    assert found.image.shape == (128, 128)


# Header first


class Counted(io.BytesIO):
    """A file that says how much of it was read."""

    total = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.total += len(content)
        return content


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """The files that are opened from now on; all of them are large."""
    found: list[Counted] = []

    def open_counted(_reader: Reader, entry: Entry) -> Counted:
        found.append(Counted(Path(entry.path).read_bytes()))
        return found[-1]

    monkeypatch.setattr(Reader, "open", open_counted)
    monkeypatch.setattr(decoding, "HEADER_FIRST_BYTES", 1000)
    monkeypatch.setattr(dicom, "SMALL_BYTES", 1000)
    return found


def large(folder: Path, content: bytes | Dataset) -> Entry:
    entry = write(folder, content)
    return replace(entry, size=Path(entry.path).stat().st_size)


NOISE = np.random.default_rng(0).integers(-1000, 1000, (128, 128))


@pytest.mark.parametrize("syntax", ENCODED_HERE, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("attributes", [{"Modality": "MR"}, {"BodyPartExamined": "CHEST"}], ids=str)
def test_pixels_of_a_large_file_that_is_not_for_the_model_are_not_read(
    tmp_path: Path, opened: list[Counted], syntax: UID, attributes: dict[str, str]
):
    entry = large(tmp_path, transcode(make_ct(NOISE, **attributes), syntax))
    found = decode_file(entry)
    read = sum(file.total for file in opened)
    assert found[0].status == SKIPPED
    assert found == decode_file(replace(entry, size=0)), "read whole, it has the same row"
    if not syntax.is_deflated:
        assert len(opened) == 2
        assert read < 12_000 < entry.size


@pytest.mark.parametrize("syntax", ENCODED_HERE, ids=lambda syntax: syntax.name)
def test_a_large_file_for_the_model_is_read_as_any_other(tmp_path: Path, opened: list[Counted], syntax: UID):
    entry = large(tmp_path, transcode(make_ct(NOISE), syntax))
    (found,), (whole,) = decode_file(entry), decode_file(replace(entry, size=0))
    assert found.status == OK
    np.testing.assert_array_equal(found.image, whole.image)
    assert replace(found, image=None) == replace(whole, image=None)


def test_a_large_file_that_is_cut_short_is_told_as_any_other(tmp_path: Path, opened: list[Counted]):
    content = to_bytes(make_ct(NOISE))
    for size in (len(content) - 100, 2000, 400):
        entry = large(tmp_path, content[:size])
        assert decode_file(replace(entry, size=5000)) == decode_file(replace(entry, size=0))
