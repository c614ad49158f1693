"""What a header says of a CT slice that no model here was trained for: another part of the body, contrast, bone kernel.

Only the names of elements are quoted, and values that are on a list: descriptions are free text, which may name a
patient.
"""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from hemoscan.elements import group_with, string, values
from hemoscan.errors import NotForModelError
from hemoscan.slices import BONE_KERNEL, CONTRAST

# Of a head, in what people write into BodyPartExamined; a part of the head is scored like the head.
HEAD_PARTS = re.compile(
    r"HEAD|BRAIN|SKULL|CRAN|NEURO|CEREB|SINUS|ORBIT|FACE|FACIAL|TEMPORAL|PITUITARY|SELLA|^IACS?$|EAR$"
)
# DICOM PS3.16, Annex L, Table L-1 (code strings for BodyPartExamined), without those of the head; also as a part of
# longer ones, such as CHESTABDPELVIS.
OTHER_PARTS = re.compile(
    r"ABD|ANKLE|AORTA|ARM|AXILLA|BACK|BILEDUCT|BLADDER|BREAST|BRONCH|CALCANEUS|CALF|CARDIAC|CERVIC|CHEST|CLAVICLE|COCCYX|COLON|"
    r"CORONARY|ELBOW|EXTREMITY|FEMUR|FIBULA|FINGER|FOOT|FOREARM|GALLBLADDER|HAND|HEART|HIP|HUMERUS|ILEUM|ILIUM|KIDNEY|"
    r"KNEE|LARYNX|LEG|LIVER|LUMB|LUNG|NECK|PANCREAS|PELVIS|PROSTATE|RADIUS|RIB|SACRUM|SCAPULA|SHOULDER|SPINE|SPLEEN|STERNUM|"
    r"STOMACH|THIGH|THORA|THUMB|TIBIA|TOE|TRUNK|ULNA|URETER|UTERUS|WRIST|WHOLEBODY"
)
NO_AGENT = {"NONE", "NO", "N", "0", "NIL", "WITHOUT", "NATIVE", "NO CONTRAST", "WITHOUT CONTRAST", "NON CONTRAST"}
PLAIN_SERIES = re.compile(r"W/?O\b|WITHOUT|\bNON?\b|\bNON-?CON|NATIVE?|UNENHANCED|\bNCCT\b|\bPLAIN\b|\bPRE\b")
CONTRAST_SERIES = re.compile(
    r"\bCTA\b|\bCTV\b|\bCTP\b|ANGIO|CONTRAST|ENHANCED|PERFUSION|VENOGR|\bKM\b|\bC\+|"
    r"\bPOST[- ]?(INJ|GAD|IV|C)\b|\bARTERIAL|\bVENOUS"
)
SHARP_WORDS = re.compile(r"BONE|EDGE|LUNG")
# Siemens: one or two letters, then the sharpness, from about 20 to 90; Canon: FC30 to FC39 bone, FC50 to FC59 lung,
# FC80 to FC89 ear; Philips: letters.
SIEMENS_KERNEL = re.compile(r"[A-Z]{1,2}(\d\d)[A-Z]?")
SIEMENS_SHARP = 59
CANON_SHARP = re.compile(r"FC[358]\d")
PHILIPS_SHARP = {"D", "E", "L", "YD", "YE"}


def check_body_part(header: Dataset) -> None:
    """Check that a header does not name another part of the body than the head.

    What is on neither list, such as the word of another language, is left to the content check: a head that is passed
    over for its name would never be read first.

    Raises
    ------
    NotForModelError
        If it does.
    """
    found = re.sub(r"[^A-Z]", "", string(header, "BodyPartExamined"))
    other = OTHER_PARTS.search(found)
    if other is not None and HEAD_PARTS.search(found) is None:
        raise NotForModelError(f"BodyPartExamined (0018,0015) names another part of the body ({other[0]}); legal: HEAD")


def header_notes(header: Dataset, index: int) -> tuple[str, ...]:
    """Return the notes on frame `index` (from 0) that its header gives: of contrast, of a bone kernel.

    SeriesDescription decides over ContrastBolusAgent and ProtocolName, which many scanners give to all series of an
    examination alike.
    """
    notes = []
    if _has_contrast(header):
        notes.append(CONTRAST)
    if _is_sharp(header, index):
        notes.append(BONE_KERNEL)
    return tuple(notes)


def _has_contrast(header: Dataset) -> bool:
    description = string(header, "SeriesDescription")
    if PLAIN_SERIES.search(description):
        return False
    if CONTRAST_SERIES.search(description):
        return True
    agent = string(header, "ContrastBolusAgent")
    if (agent and agent not in NO_AGENT) or values(header, "ContrastBolusAgentSequence"):
        return True
    protocol = string(header, "ProtocolName")
    return not description and not PLAIN_SERIES.search(protocol) and CONTRAST_SERIES.search(protocol) is not None


def _is_sharp(header: Dataset, index: int) -> bool:
    """Tell a kernel for bone, the inner ear or the lung by ConvolutionKernel (0018,1210), else by the description."""
    kernel = string(group_with(header, index, "CTReconstructionSequence", "ConvolutionKernel"), "ConvolutionKernel")
    if not kernel:
        return SHARP_WORDS.search(string(header, "SeriesDescription")) is not None
    siemens = SIEMENS_KERNEL.fullmatch(kernel)
    return (
        SHARP_WORDS.search(kernel) is not None
        or (siemens is not None and not kernel.startswith("FC") and int(siemens[1]) >= SIEMENS_SHARP)
        or CANON_SHARP.fullmatch(kernel) is not None
        or kernel in PHILIPS_SHARP
    )
