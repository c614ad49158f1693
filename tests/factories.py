"""DICOM files built in memory: no test needs a patient's image.

Stored values are computed here from HU, so that what a test expects never comes from the code under test.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
import pydicom.config
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

UNCOMPRESSED = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
LOSSLESS = (JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, RLELossless)
GDCM_NAMES = {
    JPEGLossless: "JPEGLosslessProcess14",
    JPEGLosslessSV1: "JPEGLosslessProcess14_1",
    JPEG2000Lossless: "JPEG2000Lossless",  # pydicom's encoder takes no fewer than 32 rows and columns
}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
IDENTITY = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5"}

# No package that hemoscan requires encodes HTJ2K: `hu_ramp()` by imagecodecs 2026.3.6 (OpenJPH 0.26.3), reversible, as
# unsigned HU + 1024 and as signed HU. PixelRepresentation to stream.
HTJ2K_RAMP = {
    0: (
        "|4;u>04YEK0000C0000G00000000000000C0000G0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm"
        "&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001K>z{&lfVEbvGfH8bN~Rr0206e62Jfx0JZ`LbO7W42Xp{C_yY%Y0Kf"
        "nfzyK9c00iLb+x`KIbO6@C*ji*c0mC!^94X-g3v>X$02aIe0c^kk7RYEME(D2%v+P6>X)zUe_w@&8f&hP)0BC?-G9#<l`jAD?#s=AaCO"
        "zO3^g@BXmjKcLp$z51Q_xfzy<0oPx=7{#d7?r9eV72i04~-50d_C|3#fKsB@lM03o^EAmkhfE5-aSgOC39`Sld;X)Y-)@WYmRStmyl|5"
        "wT#q+p&i3glHG^pilvJky<j=#g76~U68S*c2VcjWJHU)2+}Uqz>g4C7leuaz%+O#>4&j`<?Qeu^rKJ#+U4zRce~qlJMFf!-R*Aoc5Sy^"
        "H2J_do@ig`gk=T7gv?+q^y5+i|Je"
    ),
    1: (
        "|4;u>04YEK0000C0000G00000000000000C0000G000000000000EBy0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm"
        "&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001KmY;%lfVEaOacdV006)M62JfwzyK2fwgLxq0OSA%bO1Z}0|#^fzyK"
        "4#02NRG1mNo1{sD`00M@|RT4Xr^!!!UKDd7VPbO68r7Q6rfY`_2($Y>-k1c`;S>_ic1F%@|C^#^Ez0DqSNXn<ZaBdgf@kVVkO2HAZkJ>"
        "V4dLV>-P0MY=V4CTU8&{P_|TRX(MNag@}qCx<Dm;k^4F4h16b}#@7sCHo`5O%2xGPY}%47&spE9|OE9XqU8+f|p;*~Kno)P-HF==;DCv"
        "0%H~v4-x1XczRLPyu$4S~Awfj{;I%kg=t9QRmWRM2orz(k|7&j}TTDgo*yZG<YZJhp~d??C>A-qfi0b<?U>DyW4d;?Y6Vs?QZvWZMR)C"
        "`M@}yXkY1sWd*{7%wR3_<5B_t*#"
    ),
}


def hu_ramp(rows: int = 16, columns: int = 12) -> NDArray[np.int64]:
    """Return HU from -1024 to 3071 in no order that a codec could hide an error behind, with a plausible median."""
    row, column = np.mgrid[:rows, :columns]
    hu = (row * 389 + column * 173) % 3000 - 1024
    hu[-1, -1] = 3071
    return hu


def make_stored(stored: NDArray[np.integer[Any]], **attributes: object) -> Dataset:
    """Return a CT slice, Explicit VR Little Endian, of stored values; an attribute of None is left out.

    `stored` has shape (rows, columns), or (frames, rows, columns).
    """
    bits = stored.dtype.itemsize * 8
    defaults: dict[str, object] = {
        "SOPClassUID": CTImageStorage,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Modality": "CT",
        "InstanceNumber": 7,
        "ImagePositionPatient": [-120.0, -110.0, 42.5],
        "ImageOrientationPatient": list(AXIAL),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[-2],
        "Columns": stored.shape[-1],
        "NumberOfFrames": stored.shape[0] if stored.ndim == 3 else None,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "PixelData": stored.astype(stored.dtype.newbyteorder("<")).tobytes(),
        **IDENTITY,
    }
    values = {"HighBit": int(str(attributes.get("BitsStored", bits))) - 1, **defaults, **attributes}
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with pydicom.config.disable_value_validation():
        for keyword, value in values.items():
            if value is not None:
                setattr(dataset, keyword, value)
    return dataset


def make_ct(hu: NDArray[np.number[Any]], **attributes: object) -> Dataset:
    """Return a CT slice of whole HU: unsigned with RescaleIntercept -1024 unless the attributes say otherwise."""
    values: dict[str, Any] = {"RescaleIntercept": -1024, "PixelRepresentation": 0, **attributes}
    intercept = 0 if values["RescaleIntercept"] is None else float(values["RescaleIntercept"])
    stored = np.asarray(hu) - intercept
    return make_stored(stored.astype("<i2" if values["PixelRepresentation"] else "<u2"), **values)


def make_enhanced_ct(
    stored: NDArray[np.integer[Any]],
    *,
    slopes: Sequence[float] | None = None,
    intercepts: Sequence[float],
    positions: Sequence[Sequence[float]],
    orientation: Sequence[float] = AXIAL,
) -> Dataset:
    """Return an Enhanced CT: rescale and position of its own for each frame of `stored`, orientation shared."""
    dataset = make_stored(
        stored,
        SOPClassUID=EnhancedCTImageStorage,
        RescaleSlope=None,
        RescaleIntercept=None,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
    )
    dataset.PerFrameFunctionalGroupsSequence = [
        _item(
            PixelValueTransformationSequence=[_item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")],
            PlanePositionSequence=[_item(ImagePositionPatient=list(position))],
        )
        for slope, intercept, position in zip(slopes or [1.0] * len(stored), intercepts, positions, strict=True)
    ]
    dataset.SharedFunctionalGroupsSequence = [
        _item(PlaneOrientationSequence=[_item(ImageOrientationPatient=list(orientation))])
    ]
    return dataset


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def to_bytes(dataset: Dataset) -> bytes:
    """Return the file, with preamble and meta information."""
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation():
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def without_preamble(content: bytes) -> bytes:
    """Return the file from its meta information on."""
    return content[132:]


def without_meta(dataset: Dataset) -> bytes:
    """Return the data set alone, in its transfer syntax."""
    syntax = dataset.file_meta.TransferSyntaxUID
    bare = Dataset(dataset)
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation():
        bare.save_as(buffer, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return buffer.getvalue()


def transcode(dataset: Dataset, syntax: UID, **options: object) -> Dataset:
    """Bring a data set of `make_stored` to another transfer syntax; `options` go to pydicom's encoder."""
    if syntax in UNCOMPRESSED:
        dataset.file_meta.TransferSyntaxUID = syntax
        if not syntax.is_little_endian:
            words = np.frombuffer(dataset.PixelData, f"<u{dataset.BitsAllocated // 8}")
            dataset.PixelData = words.byteswap().tobytes()
        return dataset
    if syntax == HTJ2KLossless:
        return with_frames(dataset, syntax, [base64.b85decode(HTJ2K_RAMP[dataset.PixelRepresentation])])
    if syntax in GDCM_NAMES:
        return with_frames(dataset, syntax, _encode_with_gdcm(dataset, GDCM_NAMES[syntax]))
    dataset.compress(syntax, generate_instance_uid=False, **options)
    return dataset


def with_frames(dataset: Dataset, syntax: UID, frames: Sequence[bytes]) -> Dataset:
    """Replace the pixels by encoded frames."""
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(list(frames))
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    return dataset


def _encode_with_gdcm(dataset: Dataset, name: str) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.dcm"), Path(folder, "after.dcm")
        before.write_bytes(to_bytes(dataset))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(before))
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
        if not reader.Read():
            raise RuntimeError("gdcm cannot read what pydicom wrote")
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise RuntimeError(f"gdcm cannot encode {name}")
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(after))
        if not writer.Write():
            raise RuntimeError(f"gdcm cannot write {name}")
        encoded = pydicom.dcmread(io.BytesIO(after.read_bytes()))
        return list(generate_frames(encoded.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)))


def replace_once(content: bytes, old: bytes, new: bytes) -> bytes:
    """Replace a value in a file by one that pydicom would not write, of the same length."""
    if content.count(old) != 1 or len(old) != len(new):
        raise ValueError(f"{old!r} occurs {content.count(old)} times")
    return content.replace(old, new)
