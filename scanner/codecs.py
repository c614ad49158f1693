"""Which transfer syntaxes decode on this machine: a tiny file of each, read in the way that a scan reads files."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRBigEndian, JPEGBaseline8Bit

from hemoscan.card import InputSpec
from hemoscan.codec_samples import FLAT, FRAMES, UNCOMPRESSED, ramp
from hemoscan.decode import DecodeOptions
from hemoscan.isolation import DecoderOptions, DecoderPool
from hemoscan.preprocess import preprocess
from hemoscan.slices import OK, Decoded
from hemoscan.sources import Entry

# Wide open, so that a wrong value shows.
_SPEC = InputSpec(window=(127.5, 255.0), size=16)
_SECONDS = 30.0


def check_codecs() -> dict[str, str]:
    """Decode a sample of every transfer syntax, in a worker process: one that crashes there is told, too.

    Returns
    -------
    dict[str, str]
        Keyword of the transfer syntax (DICOM PS3.6, table A-1) to `ok`, or to what went wrong.

    Raises
    ------
    DecoderError
        If no worker process can be started.
    """
    options = DecoderOptions(DecodeOptions(_SPEC), workers=1, file_timeout=_SECONDS)
    syntaxes = (*UNCOMPRESSED, *FRAMES)
    with tempfile.TemporaryDirectory(prefix="hemoscan-") as name, DecoderPool(options) as pool:
        entries = [_write(syntax, Path(name)) for syntax in syntaxes]
        futures = [pool.submit([entry]) for entry in entries]
        found = [future.result()[0] for future in futures]
    return {syntax.keyword: _judge(syntax, decoded) for syntax, decoded in zip(syntaxes, found, strict=True)}


def sample(syntax: UID) -> bytes:
    """Return a DICOM file of one CT slice in a transfer syntax of `FRAMES` or `UNCOMPRESSED`."""
    bits = 8 if syntax == JPEGBaseline8Bit else 16
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = CTImageStorage, "1.2.3.4", "CT"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = ramp().shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = bits, bits, bits - 1, 0
    image.RescaleSlope, image.RescaleIntercept = "1", "0" if bits == 8 else "-1024"
    if syntax in FRAMES:
        image.PixelData = encapsulate([FRAMES[syntax]])
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
    else:
        image.PixelData = ramp().astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
        image["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _write(syntax: UID, folder: Path) -> Entry:
    path = folder / f"{syntax}.dcm"
    content = sample(syntax)
    path.write_bytes(content)
    return Entry(str(path), size=len(content))


def _judge(syntax: UID, decoded: Decoded) -> str:
    if decoded.status != OK or decoded.image is None:
        return decoded.reason
    lossy = syntax == JPEGBaseline8Bit
    hu = np.full(ramp().shape, FLAT) if lossy else ramp().astype(int) - 1024
    difference = np.abs(decoded.image.astype(int) - preprocess(hu, _SPEC)).max()
    return "ok" if difference <= int(lossy) else f"decodes to wrong values, by up to {difference}"
