"""Parameters of quality control of predicted classes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from parfocal.qc.comparison.parameters import ComparisonParameters
from parfocal.runtime.methods.service import Parameters


class SemanticThresholds(BaseModel):
    """Thresholds that a model of pixel classes must reach on its test images.

    The defaults ask for an IoU of one half, for some foreground in every image that has any, and for a better IoU than
    that of the baseline.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_iou: float = Field(
        default=0.5,
        ge=0,
        le=1,
        title="IoU asked for",
        description="Lowest accepted intersection over union (IoU: common area divided by the area of both together) "
        "of the foreground, over all test images together; for several classes, the mean over all classes but the "
        "background.",
    )
    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed images allowed",
        description="Accepted number of test images with foreground of which none was found, or whose prediction is "
        "missing or cannot be scored.",
    )
    min_iou_gain_over_baseline: float = Field(
        default=0.0,
        ge=0,
        title="IoU gain over the baseline",
        description="Mean gain in IoU over the baseline (Otsu's threshold or a pixel classifier) that the lower end of "
        "the confidence interval over the images must exceed.",
    )


class SemanticParameters(Parameters, SemanticThresholds):
    """Thresholds of the verdict, what counts as foreground, how probabilities are cut, and what is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        title="Threshold",
        description="Lowest probability at which a pixel is taken for foreground. Not set: the threshold that gave the "
        "best result on the model's validation images, or 0.5 if the model stores none. It is never chosen on the test "
        "images.",
    )
    foreground_value: int | None = Field(
        default=None,
        title="Foreground value",
        description="For masks with two values: the value of the pixels to be found, for example 0 if membranes are "
        "drawn black on white. Not set: the value the model was trained to find, otherwise the larger value.",
    )
    ignore_value: int | None = Field(
        default=None,
        title="Ignore value",
        description="Value of pixels of the targets that are not annotated; they are not scored. Not set: as in the "
        "training of the model.",
    )
    separated: Literal["foreground", "background"] = Field(
        default="foreground",
        title="Separated regions",
        description="Class whose connected regions are compared for splits and merges: foreground, for example cells "
        "and nuclei; or background, if the foreground is a network of membranes and the cells lie between them.",
    )
    boundary_tolerance: float = Field(
        default=2.0,
        ge=0,
        le=100,
        title="Tolerance of outlines",
        description="Distance, in pixels, up to which two outlines agree, for the boundary F score.",
    )
    maps: bool = Field(
        default=True,
        title="Maps",
        description="Write an error map for every test image.",
    )


class SemanticComparisonParameters(ComparisonParameters):
    """Parameters of the comparison of predicted classes, image by image."""

    scoring = ("boundary_tolerance", "foreground_value", "ignore_value", "separated")

    metrics: tuple[Literal["iou", "dice", "boundary_f1", "precision", "recall"], ...] = Field(
        default=("iou", "boundary_f1"),
        min_length=1,
        title="Metrics",
        description="Metrics to compare, of iou, dice, boundary_f1, precision and recall. The first decides which "
        "image is called best and worst. More metrics mean more statistical tests, so that more images are required to "
        "show a difference.",
    )
