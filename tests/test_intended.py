"""Headers of what no model was trained for: other parts of the body, contrast, bone kernels."""

from __future__ import annotations

import pytest
from factories import hu_ramp, make_ct
from pydicom.dataset import Dataset

from hemoscan.errors import NotForModelError
from hemoscan.intended import check_body_part, header_notes
from hemoscan.slices import BONE_KERNEL, CONTRAST


def header(**attributes: object) -> Dataset:
    return make_ct(hu_ramp(), **attributes)


@pytest.mark.parametrize(
    "part", [None, "", "HEAD", "head", "BRAIN", "SKULL", "HEADNECK", "HEAD AND NECK", "ORBIT", "IAC", "EAR", "SINUS"]
)
def test_heads_are_scored(part: str | None):
    check_body_part(header(BodyPartExamined=part))


@pytest.mark.parametrize("part", ["KOPF", "TETE", "SCHAEDEL", "UNKNOWN", "X"])
def test_words_on_no_list_are_scored(part: str):
    check_body_part(header(BodyPartExamined=part))


@pytest.mark.parametrize(
    "part", ["CHEST", "ABDOMEN", "Chest Abd Pelvis", "CHESTABDPELVIS", "CSPINE", "LSPINE", "KNEE", "NECK", "CARDIAC"]
)
def test_other_parts_are_skipped_with_the_tag(part: str):
    with pytest.raises(NotForModelError, match=r"BodyPartExamined \(0018,0015\).*legal: HEAD"):
        check_body_part(header(BodyPartExamined=part))


@pytest.mark.parametrize(
    "attributes",
    [
        {"ContrastBolusAgent": "ISOVUE300/100"},
        {"SeriesDescription": "CTA 0.75"},
        {"SeriesDescription": "Head Angio"},
        {"SeriesDescription": "with contrast", "ContrastBolusAgent": "NONE"},
        {"ProtocolName": "Head CTA"},
    ],
)
def test_contrast_is_noted(attributes: dict[str, str]):
    assert header_notes(header(**attributes), 0) == (CONTRAST,)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"ContrastBolusAgent": "NONE"},
        {"ContrastBolusAgent": ""},
        {"SeriesDescription": "Head W/O", "ContrastBolusAgent": "OMNI 350"},
        {"SeriesDescription": "non-contrast head"},
        {"SeriesDescription": "Unenhanced"},
        {"SeriesDescription": "NCCT 5mm", "ProtocolName": "Stroke CTA"},
        {"SeriesDescription": "Routine 5.0", "ProtocolName": "Stroke CTA"},
        {"SeriesDescription": "post fossa"},
        {"SeriesDescription": "post-op day 1"},
    ],
)
def test_a_plain_series_is_not(attributes: dict[str, str]):
    assert header_notes(header(**attributes), 0) == ()


@pytest.mark.parametrize(
    "attributes",
    [
        *(
            {"ConvolutionKernel": kernel}
            for kernel in ("BONE", "BONEPLUS", "EDGE", "H70h", "B60s", "FC30", "FC81", "YD")
        ),
        {"ConvolutionKernel": ["Hr64h", "3"]},
        {"SeriesDescription": "Head Bone 1.0"},
    ],
)
def test_a_bone_kernel_is_noted(attributes: dict[str, object]):
    assert header_notes(header(**attributes), 0) == (BONE_KERNEL,)


@pytest.mark.parametrize(
    "kernel", ["STANDARD", "SOFT", "STD+", "11", "H31s", "J40s", "Hr38h", "FC21", "FC64", "UB", "B"]
)
def test_a_soft_kernel_is_not(kernel: str):
    assert header_notes(header(ConvolutionKernel=kernel, SeriesDescription="bone or brain"), 0) == ()


def test_an_enhanced_ct_names_its_kernel_in_a_functional_group():
    frame, shared, kernel = header(), Dataset(), Dataset()
    kernel.ConvolutionKernel = "BONE"
    shared.CTReconstructionSequence = [kernel]
    frame.SharedFunctionalGroupsSequence = [shared]
    assert header_notes(frame, 0) == (BONE_KERNEL,)


def test_the_notes_say_that_no_model_was_trained_for_it():
    notes = header_notes(header(SeriesDescription="CTA", ConvolutionKernel="BONE"), 0)
    assert notes == ("out-of-distribution: contrast", "out-of-distribution: bone kernel")


def test_no_value_of_a_description_is_quoted():
    frame = header(SeriesDescription="Doe^Jane CTA bone", BodyPartExamined="DOE CHEST")
    assert header_notes(frame, 0) == (CONTRAST, BONE_KERNEL)
    with pytest.raises(NotForModelError) as error:
        check_body_part(frame)
    assert "DOE" not in str(error.value)
