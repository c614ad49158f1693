"""The samples that tell which transfer syntaxes decode."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from factories import hu_ramp
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, RLELossless

from hemoscan import codecs
from hemoscan.codec_samples import FRAMES, UNCOMPRESSED, ramp
from hemoscan.codecs import check_codecs, sample


def test_every_transfer_syntax_decodes_here():
    found = check_codecs()
    assert found == dict.fromkeys((syntax.keyword for syntax in (*UNCOMPRESSED, *FRAMES)), "ok")


def test_the_samples_cover_what_the_documentation_promises():
    promised = {*JPEG2000TransferSyntaxes, *JPEGLSTransferSyntaxes, RLELossless}
    assert {syntax for syntax in promised if "Part 2" not in syntax.name} <= set(FRAMES)
    assert len(set(FRAMES) | set(UNCOMPRESSED)) == 15


def test_the_ramp_is_that_of_the_other_tests():
    assert np.array_equal(ramp().astype(int) - 1024, hu_ramp())


@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, *FRAMES])
def test_a_sample_is_dicom_of_its_transfer_syntax(syntax: pydicom.uid.UID):
    found = pydicom.dcmread(io.BytesIO(sample(syntax)))
    assert found.file_meta.TransferSyntaxUID == syntax
    assert "PatientName" not in found


def test_a_damaged_stream_and_wrong_values_are_told(monkeypatch: pytest.MonkeyPatch):
    changed: dict[Any, bytes] = dict(FRAMES)
    first, second = pydicom.uid.JPEGLSLossless, pydicom.uid.RLELossless
    changed[first] = changed[first][:40]
    run = bytearray(changed[second])
    run[300:400] = bytes(byte ^ 0x40 for byte in run[300:400])
    changed[second] = bytes(run)
    monkeypatch.setattr(codecs, "FRAMES", changed)
    found = check_codecs()
    assert {name for name, result in found.items() if result != "ok"} == {first.keyword, second.keyword}
