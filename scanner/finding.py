"""A flagged study as DICOM objects are made of it: a Structured Report, and a Secondary Capture a flagged slice.

highdicom makes them; what it is given holds no patient data, which `Origin.copy_to` alone writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from hemoscan import NOTICE, __version__
from hemoscan.card import Card
from hemoscan.heatmap import OVERLAY_NOTICE, draw_overlay
from hemoscan.origin import Origin, derive_uid
from hemoscan.slices import PROBABILITY_DIGITS, Row

MANUFACTURER = "hemoscan"
SERIES_DESCRIPTION = f"{MANUFACTURER}: {OVERLAY_NOTICE}"
SR_SERIES_NUMBER, SC_SERIES_NUMBER = 9901, 9902
HEMORRHAGE = Code("1386000", "SCT", "Intracranial hemorrhage")
HEAD_CT = Code("24725-4", "LN", "CT Head")


@dataclass(frozen=True)
class Slice:
    """A flagged slice."""

    row: Row
    origin: Origin

    @property
    def key(self) -> tuple[str, int | None]:
        """What it is known by, wherever copies of it lie."""
        return self.origin.sop_uid, self.origin.frame

    @property
    def number(self) -> int:
        """Its number in its series, 1 or more."""
        return max(self.origin.frame or self.row.decoded.identity.instance_number or 1, 1)

    @property
    def probability(self) -> float:
        """0 to 1."""
        return self.row.probability or 0.0


@dataclass(frozen=True)
class Finding:
    """A flagged study."""

    card: Card
    """Of the model that flagged it."""
    threshold: float
    """Probability from which a slice is flagged."""
    limits: tuple[float, float]
    """Lowest and highest value of the model's input, HU."""
    score: float
    """Of the study, 0 to 1."""
    slices: Sequence[Slice]
    """One or more, of one study."""

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID (0020,000D)."""
        return self.slices[0].origin.copied["StudyInstanceUID"]

    @property
    def report_uid(self) -> str:
        """SOPInstanceUID of the report: another result makes it another."""
        found = [(*each.key, round(each.probability, PROBABILITY_DIGITS)) for each in self.slices]
        return self._uid("report", self.threshold, self.score, self.limits, *found)

    def capture_uid(self, found: Slice) -> str:
        """Return the SOPInstanceUID of a slice's capture: another score or window makes it another."""
        return self._uid("capture", *found.key, round(found.probability, PROBABILITY_DIGITS), self.limits)

    def make_report(self) -> Dataset:
        """Return the Structured Report (PS3.16, TID 1500), unverified and preliminary."""
        content = sr.MeasurementReport(
            observation_context=sr.ObservationContext(observer_device_context=self._observer()),
            procedure_reported=HEAD_CT,
            imaging_measurements=[
                self._group("study", self.score, self.slices),
                *(self._group(f"slice {each.number}", each.probability, [each]) for each in self.slices),
            ],
        )
        notice = sr.TextContentItem(codes.DCM.Comment, NOTICE, sr.RelationshipTypeValues.CONTAINS)
        content[0].ContentSequence.append(notice)
        report = sr.ComprehensiveSR(
            evidence=[_evidence(each.origin) for each in self.slices],
            content=content[0],
            series_instance_uid=self._uid("reports"),
            series_number=SR_SERIES_NUMBER,
            series_description=SERIES_DESCRIPTION,
            sop_instance_uid=self.report_uid,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=self.card.name,
            software_versions=__version__,
            is_complete=True,
            is_final=False,
            is_verified=False,
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        self.slices[0].origin.copy_to(report)
        return report

    def make_capture(self, found: Slice, image: NDArray[np.uint8], activation: NDArray[np.float32]) -> Dataset:
        """Return the Secondary Capture (PS3.3, A.8.1) of a slice with its heatmap, the notice in the pixels.

        Parameters
        ----------
        found
            One of the study's.
        image
            Shape (size, size): the network's input.
        activation
            Shape (h, w), logits: the class activation map.
        """
        overlay = draw_overlay(image, activation, self.limits, f"{self.card.name}: {found.probability:.3f}")
        capture = hd.sc.SCImage(
            pixel_array=_pixels(overlay),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),  # highdicom wants one; the slice's own follows
            study_instance_uid=self.study_uid,
            series_instance_uid=self._uid("captures"),
            series_number=SC_SERIES_NUMBER,
            series_description=SERIES_DESCRIPTION,
            sop_instance_uid=self.capture_uid(found),
            instance_number=found.number,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=self.card.name,
            software_versions=__version__,
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        capture.BodyPartExamined = "HEAD"
        capture.PatientOrientation = list(found.origin.orientation)
        # PS3.3, C.7.6.1.1: whether the pixels say who the patient is. What is written in them does not.
        capture.BurnedInAnnotation = "NO"
        capture.DerivationDescription = f"Class activation map over the input of {self.card.name}. {NOTICE}"
        capture.SourceImageSequence = [_reference(found.origin)]
        found.origin.copy_to(capture)
        return capture

    def _uid(self, kind: str, *parts: object) -> str:
        return derive_uid(kind, self.study_uid, self.card.sha256, *parts)

    def _observer(self) -> sr.ObserverContext:
        return sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=derive_uid("device", self.card.sha256),
                name=MANUFACTURER,
                manufacturer_name=MANUFACTURER,
                model_name=self.card.name,
                serial_number=__version__,
            ),
        )

    def _group(
        self, name: str, probability: float, slices: Sequence[Slice]
    ) -> sr.MeasurementsAndQualitativeEvaluations:
        """Return a finding with its probability and the slices that it refers to (PS3.16, TID 1501)."""
        certainty = sr.Measurement(
            name=codes.DCM.CertaintyOfFinding,
            value=round(100 * probability, PROBABILITY_DIGITS - 2),
            unit=codes.UCUM.Percent,
        )
        keys = [each.key for each in slices]
        return sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(self._uid("finding", name, *keys), name),
            finding_type=HEMORRHAGE,
            algorithm_id=self._algorithm(),
            measurements=[certainty],
            source_images=[_source_image(each.origin) for each in slices],
        )

    def _algorithm(self) -> sr.AlgorithmIdentification:
        """Return what found it (PS3.16, TID 4019)."""
        low, high = self.limits
        return sr.AlgorithmIdentification(
            name=self.card.name,
            version=__version__,
            manufacturer=MANUFACTURER,
            parameters=[
                f"SHA-256 of the weights: {self.card.sha256}",
                f"Slices are flagged from a probability of {self.threshold:.{PROBABILITY_DIGITS}f}",
                f"Input: {low:g} to {high:g} HU",
            ],
        )


def _source_image(origin: Origin) -> sr.SourceImageForMeasurementGroup:
    frames = None if origin.frame is None else [origin.frame]
    return sr.SourceImageForMeasurementGroup(origin.sop_class_uid, origin.sop_uid, frames)


def _evidence(origin: Origin) -> Dataset:
    """Return what highdicom asks of a referred image, the patient left out."""
    image = Dataset()
    image.StudyInstanceUID = origin.copied["StudyInstanceUID"]
    image.SeriesInstanceUID, image.SOPInstanceUID = origin.series_uid, origin.sop_uid
    image.SOPClassUID = origin.sop_class_uid
    image.PatientID = image.PatientName = image.PatientBirthDate = image.PatientSex = ""
    image.AccessionNumber = image.StudyID = image.StudyDate = image.StudyTime = ""
    return image


def _reference(origin: Origin) -> Dataset:
    item, purpose = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = origin.sop_class_uid, origin.sop_uid
    if origin.frame is not None:
        item.ReferencedFrameNumber = origin.frame
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = (
        code.value,
        code.scheme_designator,
        code.meaning,
    )
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def _pixels(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture.convert("RGB"))
