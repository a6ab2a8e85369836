"""The F1 that models of single objects must reach: outlined objects and boxes are judged by the same rule."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class F1Thresholds(BaseModel):
    """The F1 over all test images together that must be reached, and how much better than a baseline it must be.

    The defaults ask that a model finds at least half of what there is with few false positives, in every image
    something where there is something, and more than a threshold without any training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    iou: float = Field(default=0.5, gt=0, le=1, title="IoU level")
    min_f1: float = Field(
        default=0.5,
        ge=0,
        le=1,
        title="F1 asked for",
        description="Lowest accepted F1 (0 to 1; it combines how many objects were found and how many found objects "
        "are real) at the IoU level, over the objects of all test images together.",
    )
    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed images allowed",
        description="Accepted number of test images with objects of which none was found, or whose prediction is "
        "missing or cannot be scored.",
    )
    min_f1_gain_over_baseline: float = Field(
        default=0.0,
        ge=0,
        title="F1 gain over the threshold",
        description="Mean gain in F1 over the baseline (Otsu's threshold) that the lower end of the confidence "
        "interval over the images must exceed.",
    )
