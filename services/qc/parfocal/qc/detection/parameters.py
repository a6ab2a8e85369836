"""Parameters of quality control of detections."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from parfocal.qc.comparison.parameters import ComparisonParameters
from parfocal.qc.evaluation.f1 import F1Thresholds
from parfocal.runtime.methods.service import Parameters


class DetectionThresholds(F1Thresholds):
    """Thresholds that a model of boxes must reach on its test images; see `F1Thresholds`."""

    iou: float = Field(
        default=0.5,
        gt=0,
        le=1,
        title="IoU level",
        description="How well a box must fit to count as a true positive (an object that was found): its intersection "
        "over union (common area divided by the area of both together) with the annotated box. 0.3 asks for the right "
        "place, 0.5 for the right object, 0.75 for a close fit.",
    )
    confidence: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Confidence",
        description="Lowest confidence of a detection that is counted. 0 counts all detections of the prediction, "
        "which the model has limited by its own threshold. Average precision always uses all detections.",
    )


class DetectionParameters(Parameters, DetectionThresholds):
    """Thresholds of the verdict on detections, and what is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    maps: bool = Field(
        default=True,
        title="Overlays",
        description="Write a picture of every test image with its true positives, false negatives and false positives.",
    )

    def thresholds(self) -> DetectionThresholds:
        """Return the thresholds alone."""
        return DetectionThresholds(**self.model_dump(include=set(DetectionThresholds.model_fields)))


class DetectionComparisonParameters(ComparisonParameters):
    """Parameters of the comparison of detections, image by image."""

    scoring = ("iou", "confidence")
    draw = "parfocal.qc.detection.comparison:boxes_figure"
    load = "parfocal.qc.detection.comparison:load_boxes"

    metrics: tuple[Literal["f1", "precision", "recall", "mean_matched_iou"], ...] = Field(
        default=("f1", "precision", "recall"),
        min_length=1,
        title="Metrics",
        description="Metrics to compare, of f1, precision, recall and mean_matched_iou. The first decides which image "
        "is called best and worst. More metrics mean more statistical tests, so that more images are required to show "
        "a difference.",
    )
