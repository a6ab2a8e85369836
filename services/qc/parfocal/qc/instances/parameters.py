"""Parameters of quality control of predicted objects."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from parfocal.qc.comparison.parameters import ComparisonParameters
from parfocal.qc.evaluation.f1 import F1Thresholds
from parfocal.runtime.methods.service import Parameters


class InstanceThresholds(F1Thresholds):
    """Thresholds that a model of objects must reach on its test images; see `F1Thresholds`."""

    iou: float = Field(
        default=0.5,
        gt=0,
        le=1,
        title="IoU level",
        description="How well an object must be outlined to count as a true positive (an object that was found): its "
        "intersection over union (common area divided by the area of both together) with its target. 0.5 asks for the "
        "right object, 0.8 for a good outline.",
    )


class InstanceParameters(Parameters, InstanceThresholds):
    """Thresholds of the verdict on found objects, and what is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    maps: bool = Field(
        default=True,
        title="Overlays",
        description="Write a picture of every test image that outlines true positives (objects found), false negatives "
        "(not found), false positives (not there), split and merged objects.",
    )

    def thresholds(self) -> InstanceThresholds:
        """Return the thresholds alone."""
        return InstanceThresholds(**self.model_dump(include=set(InstanceThresholds.model_fields)))


class InstanceComparisonParameters(ComparisonParameters):
    """Parameters of the comparison of predicted objects, image by image."""

    scoring = ("iou",)
    draw = "parfocal.qc.instances.comparison:objects_figure"

    metrics: tuple[
        Literal[
            "f1",
            "mean_accuracy",
            "panoptic_quality",
            "precision",
            "recall",
            "accuracy",
            "mean_matched_iou",
            "foreground_iou",
        ],
        ...,
    ] = Field(
        default=("f1", "mean_accuracy", "panoptic_quality"),
        min_length=1,
        title="Metrics",
        description="Metrics to compare, of f1, mean_accuracy, panoptic_quality, precision, recall, accuracy, "
        "mean_matched_iou and foreground_iou. The first decides which image is called best and worst. More metrics "
        "mean more statistical tests, so that more images are required to show a difference.",
    )
