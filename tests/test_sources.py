"""What is found under the PATHs of a run: every file once, in a stable order, and a reason for what cannot be read."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

from hemoscan import bounds, sources
from hemoscan.card import BRAIN
from hemoscan.decode import DecodeOptions, decode
from hemoscan.phantom import make_phantom, write_dicom
from hemoscan.sources import Entry, Reader, find_entries


def found(*roots: str | Path) -> list[str]:
    return [entry.path for entry in find_entries(roots)]


def read(reader: Reader, entry: Entry) -> bytes:
    with reader.open(entry) as file:
        return file.read()


def entries_by_name(root: Path) -> dict[str, Entry]:
    return {Path(entry.path).name: entry for entry in find_entries([root])}


def write_files(folder: Path, *names: str) -> list[str]:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content of " + os.fsencode(name))
    return [str(folder / name) for name in names]


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_dicomdir(folder: Path, *references: list[str]) -> Path:
    """Write a DICOMDIR whose records refer to files, each given by its parts."""
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    directory.DirectoryRecordSequence = [Dataset()]
    directory.DirectoryRecordSequence[0].DirectoryRecordType = "PATIENT"
    for parts in references:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = parts
        directory.DirectoryRecordSequence.append(record)
    folder.mkdir(parents=True, exist_ok=True)
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


# Folders and files


def test_folders_are_walked_in_the_order_of_names(tmp_path: Path):
    names = ("a.dcm", "b/1.dcm", "b/10.dcm", "b/c/d/deep.dcm", "b/c.dcm", "z.dcm")
    expected = [str(tmp_path / name) for name in sorted(names, key=lambda name: name.split("/"))]
    write_files(tmp_path, *reversed(names))
    assert found(tmp_path) == expected


def test_a_file_is_found_by_its_own_path_with_its_time(tmp_path: Path):
    (path,) = write_files(tmp_path, "one.dcm")
    os.utime(path, (1_500_000_000, 1_500_000_000))
    assert list(find_entries([path])) == [
        Entry(path, 1_500_000_000.0, Path(path).stat().st_size, mtime_ns=1_500_000_000 * 10**9)
    ]


def test_paths_are_absolute_as_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (path,) = write_files(tmp_path, "folder/one.dcm")
    monkeypatch.chdir(tmp_path)
    assert found("folder") == [path]
    assert found("./folder/../folder/one.dcm") == [path]


def test_several_paths_keep_the_order_in_which_they_were_named(tmp_path: Path):
    first, second = write_files(tmp_path, "z/1.dcm", "a/1.dcm")
    assert found(tmp_path / "z", tmp_path / "a") == [first, second]


@pytest.mark.parametrize(
    "roots",
    [
        (".", "."),
        (".", "sub"),
        ("sub", "."),
        (".", "sub/2.dcm"),
        ("1.dcm", "sub/", "1.dcm", "sub/2.dcm"),
        (".", "sub/../sub"),
    ],
)
def test_overlapping_paths_are_walked_once(tmp_path: Path, roots: tuple[str, ...]):
    expected = write_files(tmp_path, "1.dcm", "sub/2.dcm")
    assert sorted(found(*(f"{tmp_path}/{root}" for root in roots))) == expected


def test_paths_that_share_a_beginning_of_their_name_do_not_overlap(tmp_path: Path):
    expected = write_files(tmp_path, "ct/1.dcm", "ct2/1.dcm")
    assert found(tmp_path / "ct", tmp_path / "ct2") == expected


def test_an_empty_folder_holds_nothing(tmp_path: Path):
    assert found(tmp_path) == []


def test_a_missing_path_is_an_error(tmp_path: Path):
    (entry,) = find_entries([tmp_path / "absent"])
    assert entry.path == str(tmp_path / "absent")
    assert "No such file" in (entry.error or "")
    assert entry.skipped is None


def test_a_broken_link_is_an_error(tmp_path: Path):
    (tmp_path / "link.dcm").symlink_to(tmp_path / "absent.dcm")
    (entry,) = find_entries([tmp_path])
    assert entry.error


def test_a_link_to_a_folder_above_is_not_followed_for_ever(tmp_path: Path):
    (path,) = write_files(tmp_path, "sub/1.dcm")
    (tmp_path / "sub" / "up").symlink_to(tmp_path, target_is_directory=True)
    entries = list(find_entries([tmp_path]))
    assert [entry.path for entry in entries] == [path, str(tmp_path / "sub" / "up")]
    assert "already entered" in (entries[1].skipped or "")


def test_a_link_to_itself_is_an_error(tmp_path: Path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (entry,) = find_entries([tmp_path])
    assert entry.error


def test_links_are_followed_and_keep_their_own_path(tmp_path: Path):
    write_files(tmp_path, "outside/1.dcm")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    assert found(tmp_path / "inside") == [str(tmp_path / "inside" / "link" / "1.dcm")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
@pytest.mark.parametrize("named", [True, False])
def test_a_fifo_is_skipped_without_blocking(tmp_path: Path, named: bool):
    os.mkfifo(tmp_path / "pipe")
    entries: list[Entry] = []
    thread = threading.Thread(
        target=lambda: entries.extend(find_entries([tmp_path / "pipe" if named else tmp_path])), daemon=True
    )
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert [entry.skipped for entry in entries] == ["not a regular file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_an_error_and_the_walk_goes_on(tmp_path: Path):
    write_files(tmp_path, "locked/1.dcm", "open/1.dcm")
    (tmp_path / "locked").chmod(0)
    try:
        entries = list(find_entries([tmp_path]))
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert [bool(entry.error) for entry in entries] == [True, False]


def test_a_folder_that_cannot_be_listed_is_an_error_and_the_walk_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, readable = write_files(tmp_path, "locked/1.dcm", "open/1.dcm")
    listdir = os.listdir

    def refuse(path: str) -> list[str]:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    entries = list(find_entries([tmp_path]))
    assert [entry.path for entry in entries] == [str(tmp_path / "locked"), readable]
    assert "Permission denied" in (entries[0].error or "")
    assert entries[1].error is None


@pytest.mark.parametrize(
    "name", ["new\nline.dcm", "car\rriage", "com,ma.dcm", 'quo"te', " space ", "-dash", "!.dcm", "é\u202e", "a.zip!b"]
)
def test_odd_names_are_found_as_they_are(tmp_path: Path, name: str):
    expected = write_files(tmp_path, name)
    assert found(tmp_path) == expected


def test_a_name_that_is_not_utf8_is_found_and_read(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.dcm")
    try:
        (path,) = write_files(tmp_path, name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (entry,) = find_entries([tmp_path])
    assert entry.path == path
    with Reader() as reader:
        assert read(reader, entry) == b"content of caf\xe9.dcm"


def test_folders_may_be_nested_deeper_than_generators_can(tmp_path: Path):
    folder = tmp_path
    for _ in range(600):
        folder /= "d"
        folder.mkdir()
    (path,) = write_files(folder, "slice")
    assert found(tmp_path) == [path]


def test_a_name_with_a_nul_is_an_error():
    (entry,) = find_entries(["a\0b"])
    assert entry.error is not None


# Zips


def test_members_of_a_zip_in_the_order_of_the_archive(tmp_path: Path):
    archive = write_zip(tmp_path / "study.zip", {"z.dcm": b"1", "sub/": b"", "sub/a.dcm": b"2", "b.dcm": b"3"})
    entries = list(find_entries([tmp_path]))
    assert [entry.path for entry in entries] == [f"{archive}!{name}" for name in ("z.dcm", "sub/a.dcm", "b.dcm")]
    assert {entry.file for entry in entries} == {str(archive)}
    assert [entry.folder for entry in entries] == [f"{archive}!", f"{archive}!sub", f"{archive}!"]
    assert {entry.mtime for entry in entries} == {archive.stat().st_mtime}
    with Reader() as reader:
        assert [read(reader, entry) for entry in entries] == [b"1", b"2", b"3"]


def test_a_zip_is_told_by_its_content(tmp_path: Path):
    archive = write_zip(tmp_path / "export.dat", {"a.dcm": b"1"})
    (text,) = write_files(tmp_path, "text.zip")
    assert found(tmp_path) == [f"{archive}!a.dcm", text]


@pytest.mark.parametrize("members", [{}, {"folder/": b""}])
def test_a_zip_without_files_is_skipped(tmp_path: Path, members: dict[str, bytes]):
    write_zip(tmp_path / "empty.zip", members)
    (entry,) = find_entries([tmp_path])
    assert (entry.error, entry.skipped) == (None, "an empty zip")


@pytest.mark.parametrize("length", [4, 60, -1])
def test_a_damaged_zip_is_an_error(tmp_path: Path, length: int):
    whole = write_zip(tmp_path / "whole", {"a.dcm": bytes(range(256)) * 8}).read_bytes()
    (tmp_path / "whole").unlink()
    (tmp_path / "damaged.zip").write_bytes(whole[:length])
    (entry,) = find_entries([tmp_path])
    assert "zip cannot be read" in (entry.error or "")


def test_an_encrypted_member_is_an_error_and_the_others_are_read(tmp_path: Path):
    archive = write_zip(tmp_path / "half.zip", {"secret.dcm": b"1", "open.dcm": b"2"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    secret, readable = find_entries([tmp_path])
    assert secret.error == "zip member is encrypted"
    assert readable.error is None


def test_a_member_that_grows_too_much_is_an_error_that_names_the_limit(tmp_path: Path):
    write_zip(tmp_path / "bomb.zip", {"bomb.dcm": bytes(2**21), "small.dcm": bytes(2**20)})
    bomb, small = find_entries([tmp_path])
    assert f"legal: up to {bounds.MAX_RATIO} times" in (bomb.error or "")
    assert small.error is None


def test_a_member_above_the_limit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 10)
    write_zip(tmp_path / "large.zip", {"fits": b"x" * 10, "large": b"x" * 11})
    fits, large = find_entries([tmp_path])
    assert fits.error is None
    assert "zip member of 11 bytes; legal: up to 10" in (large.error or "")


def test_a_zip_in_a_zip_is_one_entry_that_is_skipped(tmp_path: Path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.dcm", b"1")
    outer = write_zip(tmp_path / "outer.zip", {"inner.zip": inner.getvalue()})
    (entry,) = find_entries([tmp_path])
    assert entry.path == f"{outer}!inner.zip"
    with Reader() as reader:
        (decoded,) = decode(entry, reader, DecodeOptions(BRAIN))
    assert (decoded.status, decoded.reason) == ("skipped", "an archive within an archive")


def test_a_member_with_a_wrong_checksum_is_an_error(tmp_path: Path):
    archive = tmp_path / "damaged.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        file.writestr("a.dcm", bytes(128) + b"DICM" + b"content")
    archive.write_bytes(archive.read_bytes().replace(b"DICMcontent", b"DICMc0ntent"))
    (entry,) = find_entries([tmp_path])
    with Reader() as reader:
        (decoded,) = decode(entry, reader, DecodeOptions(BRAIN))
    assert decoded.status == "error"
    assert "cannot be read" in decoded.reason


@pytest.mark.parametrize("name", ["../x.dcm", "/x.dcm", "..\\x.dcm", "C:/x.dcm"])
def test_the_name_of_a_member_is_never_a_place_in_the_file_system(tmp_path: Path, name: str):
    home = tmp_path / "home"
    home.mkdir()
    archive = write_zip(home / "slip.zip", {name: b"inside"})
    write_files(tmp_path, "x.dcm")
    before = sorted(tmp_path.rglob("*"))
    (entry,) = find_entries([home])
    assert entry.path == f"{archive}!{entry.member}"
    with Reader() as reader:
        assert read(reader, entry) == b"inside"
    assert sorted(tmp_path.rglob("*")) == before


def test_members_of_the_same_name_are_both_read(tmp_path: Path):
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive,
    ):
        archive.writestr("a.dcm", b"first")
        archive.writestr("a.dcm", b"second")
    with Reader() as reader:
        assert [read(reader, entry) for entry in find_entries([tmp_path])] == [b"first", b"second"]


def test_the_reader_serves_threads_that_read_from_two_archives(tmp_path: Path):
    for archive in ("a.zip", "b.zip"):
        write_zip(tmp_path / archive, {str(number): f"{archive}{number}".encode() for number in range(20)})
    entries = sorted(find_entries([tmp_path]), key=lambda entry: (entry.member, entry.path))
    with Reader() as reader, ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(partial(read, reader), entries))
    assert contents == [f"{Path(entry.file).name}{entry.member}".encode() for entry in entries]


# DICOMDIRs


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """A folder as on a CD: IMAGES/A, B and C, a DICOMDIR that names C, A and a missing D, and a README."""
    write_files(tmp_path / "disc", "IMAGES/A", "IMAGES/B", "IMAGES/C", "README")
    write_dicomdir(tmp_path / "disc", ["IMAGES", "C"], ["IMAGES", "A"], ["IMAGES", "D"])
    return tmp_path / "disc"


def test_a_named_dicomdir_stands_for_its_files_in_its_order(disc: Path):
    directory, *files = find_entries([disc / "DICOMDIR"])
    assert directory.path == str(disc / "DICOMDIR")
    assert "DICOMDIR" in (directory.skipped or "")
    assert [entry.path for entry in files] == [str(disc / "IMAGES" / name) for name in "CAD"]
    assert [bool(entry.error) for entry in files] == [False, False, True]


def test_a_dicomdir_in_a_folder_adds_the_missing_files_only(disc: Path):
    entries = list(find_entries([disc]))
    assert sorted(entry.path for entry in entries) == sorted(
        [str(disc / "DICOMDIR"), str(disc / "README"), *(str(disc / "IMAGES" / name) for name in "ABCD")]
    )
    assert [entry.path for entry in entries if entry.error] == [str(disc / "IMAGES" / "D")]
    assert [entry.path for entry in entries if entry.skipped] == [str(disc / "DICOMDIR")]


@pytest.mark.parametrize("beside", ["IMAGES", "IMAGES/A"])
@pytest.mark.parametrize("first", [True, False])
def test_what_a_dicomdir_and_another_path_both_name_is_met_once(disc: Path, beside: str, first: bool):
    roots = [disc / "DICOMDIR", disc / beside]
    paths = found(*roots if first else reversed(roots))
    assert len(paths) == len(set(paths))
    assert {str(disc / "IMAGES" / name) for name in "ACD"} <= set(paths)


@pytest.mark.parametrize("parts", [["..", "secret"], ["../secret"], ["/secret"]])
def test_a_dicomdir_cannot_lead_out_of_its_folder(tmp_path: Path, parts: list[str]):
    write_files(tmp_path, "secret", "disc/IMAGE")
    outside = [f"{tmp_path}{part}" if part.startswith("/") else part for part in parts]
    directory = write_dicomdir(tmp_path / "disc", outside, ["IMAGE"])
    entries = list(find_entries([directory]))
    readable = [entry.path for entry in entries if entry.error is None and entry.skipped is None]
    assert readable == [str(tmp_path / "disc" / "IMAGE")]
    assert any(entry.error for entry in entries), "a reference that is not followed has a row, too"


def test_a_dicomdir_finds_lower_case_names(tmp_path: Path):
    (path,) = write_files(tmp_path / "disc", "images/a")
    directory = write_dicomdir(tmp_path / "disc", ["IMAGES", "A"])
    assert found(directory) == [str(directory), path]


@pytest.mark.parametrize("parts", [["."], ["IMAGES", ".."]])
def test_a_dicomdir_cannot_stand_for_its_folder(disc: Path, parts: list[str]):
    directory = write_dicomdir(disc, parts)
    entries = list(find_entries([directory]))
    assert [bool(entry.error) for entry in entries] == [False, True]


def test_a_dicomdir_that_refers_to_itself_ends(tmp_path: Path):
    directory = write_dicomdir(tmp_path, ["DICOMDIR"])
    assert set(found(directory)) == {str(directory)}


@pytest.mark.parametrize("content", [b"not DICOM at all", b"", bytes(128) + b"DICM"])
@pytest.mark.parametrize("named", [True, False])
def test_a_damaged_dicomdir_is_an_error(tmp_path: Path, content: bytes, named: bool):
    (tmp_path / "DICOMDIR").write_bytes(content)
    write_files(tmp_path, "IMAGE")
    entries = list(find_entries([tmp_path / "DICOMDIR" if named else tmp_path]))
    assert [Path(entry.path).name for entry in entries if entry.error] == ["DICOMDIR"]
    assert [Path(entry.path).name for entry in entries if not entry.error] == ([] if named else ["IMAGE"])


def test_a_dicomdir_as_pydicom_writes_it(tmp_path: Path):
    files = FileSet()
    for path in write_dicom(make_phantom(size=64, slices=8), tmp_path / "study")[:3]:
        files.add(path)
    files.write(tmp_path / "disc")
    files._stage["t"].cleanup()  # pydicom leaves it to the garbage collector, which warns
    images = sorted(str(path) for path in (tmp_path / "disc").rglob("IM*"))
    assert len(images) == 3
    assert found(tmp_path / "disc" / "DICOMDIR") == [str(tmp_path / "disc" / "DICOMDIR"), *images]
    assert sorted(found(tmp_path / "disc")) == sorted([str(tmp_path / "disc" / "DICOMDIR"), *images])
