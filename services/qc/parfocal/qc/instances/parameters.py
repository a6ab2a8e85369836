"""What found objects must show."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from parfocal.qc.comparison.parameters import ComparisonParameters
from parfocal.runtime.methods.service import Parameters


class InstanceThresholds(BaseModel):
    """What a model that finds objects must show on its test images to pass.

    The defaults ask that it finds at least half of what there is without inventing as much, in every image
    something where there is something, and more than a threshold that needs no training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    iou: float = Field(
        default=0.5,
        gt=0,
        le=1,
        title="IoU level",
        description="How well an object must be outlined to count as found: intersection over union with its target. "
        "0.5 asks for the right object, 0.8 for a good outline.",
    )
    min_f1: float = Field(
        default=0.5,
        ge=0,
        le=1,
        title="F1 asked for",
        description="F1 at the IoU level, over the objects of all test images together, that must be reached.",
    )
    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed images allowed",
        description="Test images with objects in which none was found, or whose prediction is missing or cannot be "
        "scored.",
    )
    min_f1_gain_over_baseline: float = Field(
        default=0.0,
        ge=0,
        title="F1 gain over the threshold",
        description="Mean F1 gain over Otsu's threshold, over the images, that the lower end of the interval must "
        "exceed.",
    )


class InstanceParameters(Parameters, InstanceThresholds):
    """Thresholds of the verdict on found objects, and what is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    maps: bool = Field(
        default=True,
        title="Overlays",
        description="Write a picture of every test image with found, missed, invented, cut and merged objects.",
    )

    def thresholds(self) -> InstanceThresholds:
        """Return the thresholds alone."""
        return InstanceThresholds(**self.model_dump(include=set(InstanceThresholds.model_fields)))


class InstanceComparisonParameters(ComparisonParameters):
    """How found objects are compared, image by image."""

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
        description="What is compared, of f1, mean_accuracy, panoptic_quality, precision, recall, accuracy, "
        "mean_matched_iou and foreground_iou. The first decides which image is called best and worst. More metrics are "
        "more tests, so more images are needed to show a difference.",
    )
