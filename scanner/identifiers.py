"""What `--identifiers` adds to the worklist: read from a file of each study when it is written, kept nowhere else."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import IO

from hemoscan.located import locate
from hemoscan.sniff import DICOM, sniff

COLUMNS = ("patient_id", "accession_number", "study_date")
KEYWORDS = ("PatientID", "AccessionNumber", "StudyDate")
HEAD_BYTES = 2**16


def read_identifiers(path: str) -> tuple[str, ...]:
    """Return PatientID (0010,0020), AccessionNumber (0008,0050), StudyDate (0008,0020) of a file that was scanned.

    Parameters
    ----------
    path
        As in the slices' CSV: members of a zip as `archive.zip!member`.

    Returns
    -------
    tuple of str
        In the order of `COLUMNS`; empty for what is absent, for files that are no DICOM, or are gone.
    """
    from hemoscan.dicom import configure_pydicom, read_first_values  # noqa: PLC0415 - seldom needed, slow to import

    configure_pydicom()
    try:
        with _open(path) as file:
            head = file.read(HEAD_BYTES)
    except Exception:  # damaged archives raise many kinds
        return ("",) * len(KEYWORDS)
    return tuple(read_first_values(io.BytesIO(head), KEYWORDS)) if sniff(head) == DICOM else ("",) * len(KEYWORDS)


def _open(path: str) -> IO[bytes]:
    """Open a file, or a member of a zip."""
    file, member = locate(path)
    if member is None:
        return Path(file).open("rb")
    with zipfile.ZipFile(file) as archive:
        return archive.open(member)  # the archive's file stays open until its members are closed
