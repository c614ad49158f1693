"""Other people's data: a label file, and a folder of DICOM, PNG or JPEG that is read as a scan reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from hemoscan.card import InputSpec
from hemoscan.decode import DecodeOptions, decode
from hemoscan.dicom import configure_pydicom
from hemoscan.errors import DataError
from hemoscan.identifiers import read_identifiers
from hemoscan.machine import usable_cores
from hemoscan.slices import ERROR, OK, Decoded
from hemoscan.sources import Entry, Reader, find_entries
from hemoscan.trainer.balance import merge_small_groups
from hemoscan.trainer.clusters import clusters, digest, number, tell_apart
from hemoscan.trainer.join import join
from hemoscan.trainer.labels import Labels, read_labels
from hemoscan.trainer.scores import Scores
from hemoscan.trainer.splits import DataSet, LeftOut, Split

FILES_AHEAD = 512
NOT_FOUND = "not found"
# With fewer, PatientID is what an anonymiser wrote into every file, rather than who the patients are.
FEWEST_PATIENTS = 5
DESCRIPTION = "a label file of its own"
NOTICE = (
    "Research use only, not for diagnosis. Trained on data of whoever trained it: whether and to whom the weights may "
    "be passed on is theirs to say."
)

Progress = Callable[[Iterable[Entry]], Iterable[Entry]]


def load_labelled(
    labels: Path,
    folder: Path,
    spec: InputSpec,
    *,
    png_window: tuple[float, float] | None = None,
    limit: int | None = None,
    progress: Progress = iter,
) -> DataSet:
    """Load the slices in a folder that a label file names.

    Parameters
    ----------
    labels
        See `hemoscan.trainer.labels`.
    folder
        Where files are looked for: see `hemoscan.sources`.
    spec
        The network's input.
    png_window
        Centre and width, HU, that stretched PNG and JPEG exports span; None: told by the values.
    limit
        Take only the first so many labels, for a trial.
    progress
        Wraps the files while they are decoded, such as tqdm.

    Returns
    -------
    DataSet
        Patients (of the label file, else by the files' PatientID), studies and duplicates are clusters; a slice whose
        cell for the patient is empty belongs to its study alone. `left_out` has
        every label without an image, and every file that cannot be read, with the reason; `notes` has what was assumed
        of the labelled slices.

    Raises
    ------
    DataError
        If the label file is malformed, or no image or several are found for a label that must have one.
    """
    wanted = read_labels(labels)
    if limit is not None:
        wanted = wanted.take(range(min(limit, len(wanted))))
    if not folder.exists():
        raise DataError(f"{folder}: not there; name the folder of the images with --data")
    found = _Found(wanted)
    for decoded in _decode_all(folder, DecodeOptions(spec, png_window, keep_field=True), progress):
        found.add(decoded)
    split, names = found.split(folder)
    left_out = tuple(found.left_out)
    return DataSet(split, None, None, DESCRIPTION, NOTICE, left_out, names, found.together, found.notes)


def _decode_all(folder: Path, options: DecodeOptions, progress: Progress) -> Iterator[Decoded]:
    """Yield every frame of every file, in the order of names."""
    configure_pydicom()
    entries = iter(progress(find_entries([folder])))
    with Reader() as reader, ThreadPoolExecutor(usable_cores()) as pool:
        while chunk := list(islice(entries, FILES_AHEAD)):
            for frames in pool.map(lambda entry: decode(entry, reader, options), chunk):
                yield from frames


def _names_of(path: str) -> set[str]:
    """Return a file's name, and that without its suffix; of the member, for one of a zip."""
    name = PurePosixPath(path.replace("\\", "/").replace("!", "/"))
    return {name.name, name.stem}


class _Found:
    """What of the folder may belong to a label: other images are counted, and not kept."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.wanted = set(labels.keys)
        if labels.kind == "path":
            self.wanted = {name for key in labels.keys for name in _names_of(key)}
        self.slices: list[Decoded] = []
        self.digests: list[bytes | None] = []
        """Of the slices, of what they show at 0 to 70 HU: so all inputs divide them alike."""
        self.left_out: list[LeftOut] = []
        self.notes: tuple[tuple[str, int], ...] = ()
        self.together = ""

    def add(self, decoded: Decoded) -> None:
        """Keep a slice that may be wanted; note a file that cannot be read, and a wanted one that is no slice."""
        may_be_wanted = not self.wanted.isdisjoint({decoded.identity.sop_uid, *_names_of(decoded.path)})
        if decoded.field is not None and may_be_wanted:
            self.slices.append(replace(decoded, field=None))
            self.digests.append(digest(decoded.field))
        elif decoded.status == ERROR or (decoded.status != OK and may_be_wanted):
            self.left_out.append(LeftOut(decoded.path, decoded.status, decoded.reason))

    def split(self, folder: Path) -> tuple[Split, tuple[str, ...]]:
        """Return the labelled slices, in the labels' order, and the names of their groups."""
        labels, rows = self.labels, self.slices
        if not rows:
            raise DataError(
                f"{folder}: holds no CT slice that {labels.source} names, such as {labels.keys[0]}; "
                f"{len(self.left_out)} files cannot be read or are no CT slices"
            )
        joined = join(_as_rows(folder, rows), labels)
        unmatched = np.setdiff1d(np.arange(len(labels)), joined.labels)
        self.left_out += [
            LeftOut(labels.name_of(place), NOT_FOUND, "no such slice could be read") for place in unmatched.tolist()
        ]
        slices = [rows[row] for row in joined.rows]
        self.notes = tuple(sorted(Counter(note for found in slices for note in found.notes).items()))
        images = np.array([found.image for found in slices])  # in C order, which stack would not promise

        def column(values: tuple[str, ...] | None) -> list[str | None]:
            return [None if values is None else values[place] or None for place in joined.labels]

        groups, names = _groups(column(labels.groups))
        patients, source = column(labels.patients), "the label file"
        if not any(patients):
            patients, source = _patients([found.path for found in slices]), "PatientID"
        studies = [found.identity.study_uid or None for found in slices]
        named = tell_apart(column(labels.studies), patients)
        self.together = _together(patients, source, [a or b for a, b in zip(named, studies, strict=True)])
        belongings = clusters([self.digests[row] for row in joined.rows], patients, named, studies)
        ids = tuple(labels.name_of(place) for place in joined.labels.tolist())
        return Split(ids, images, labels.labels[joined.labels], groups, belongings), names


def _patients(paths: Sequence[str]) -> list[str | None]:
    """Return each file's PatientID (0010,0020), which goes no further than which slices belong together."""
    known = {path: read_identifiers(path)[0] or None for path in set(paths)}
    found = [known[path] for path in paths]
    return found if len(set(found) - {None}) >= FEWEST_PATIENTS else [None] * len(paths)


def _together(patients: Sequence[str | None], source: str, studies: Sequence[Hashable | None]) -> str:
    """Say what keeps slices of one patient on one side of a division."""
    known, alone = len(set(patients) - {None}), patients.count(None)
    if known:
        text = f"held out by patient: {known} patient{'s' * (known != 1)}, by {source}"
        return text + f"; {alone} slices have none, and count with their study, else alone" * bool(alone)
    known, alone = len(set(studies) - {None}), studies.count(None)
    by = (
        f"held out by study ({known}" + f"; {alone} slices have none" * bool(alone) + ")"
        if known
        else "held out singly"
    )
    return f"{by}: no patients are known, so those with slices on both sides of a division make figures too good"


def _as_rows(folder: Path, slices: list[Decoded]) -> Scores:
    """Return slices in the form that labels are joined with; nothing is scored."""
    return Scores(
        source=folder,
        paths=tuple(found.path for found in slices),
        uids=tuple(found.identity.sop_uid for found in slices),
        frames=np.array([found.frame or 1 for found in slices], np.int64),
        scores=np.zeros(len(slices)),
        flags=None,
        studies=tuple(found.identity.study_uid for found in slices),
        left_out={},
    )


def _groups(names: list[str | None]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return numbers of shape (n,), small groups and slices without one merged into -1, and the names."""
    known = {name for name in names if name is not None}
    if not known:
        return merge_small_groups(np.zeros(len(names), np.int64)), ()
    return merge_small_groups(number([None if name is None else (name,) for name in names])), tuple(sorted(known))
