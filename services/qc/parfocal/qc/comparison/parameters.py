"""How evaluations are compared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from parfocal.runtime.methods.service import Parameters


class ComparisonParameters(Parameters):
    """How competitors are compared; each kind of evaluation names the metrics it has."""

    metrics: tuple[str, ...]
    alpha: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        title="Error accepted",
        description="Probability, over all tests of the comparison together, of calling a difference real that is "
        "chance. Intervals have the confidence 1 - alpha: 95 % for 0.05.",
    )
    references: bool = Field(
        default=True,
        title="Compare with references",
        description="Compare the models with what needs no training too: the baseline and, where it makes sense, the "
        "input. Without them there are fewer tests, so fewer images can show a difference between models.",
    )
    figures: bool = Field(
        default=True,
        title="Pictures",
        description="Write the picture of the best and the worst image with the predictions of all models.",
    )


class ImageComparisonParameters(ComparisonParameters):
    """How restored or translated images are compared."""

    metrics: tuple[Literal["psnr", "ssim", "nrmse", "pearson"], ...] = Field(
        default=("psnr", "ssim"),
        min_length=1,
        title="Metrics",
        description="What is compared, of psnr, ssim, nrmse and pearson. The first decides which image is called best "
        "and worst. More metrics are more tests, so more images are needed to show a difference.",
    )


class InstanceComparisonParameters(ComparisonParameters):
    """How found objects are compared, image by image."""

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


class SemanticComparisonParameters(ComparisonParameters):
    """How predicted foreground is compared, image by image."""

    metrics: tuple[Literal["iou", "dice", "boundary_f1", "precision", "recall"], ...] = Field(
        default=("iou", "boundary_f1"),
        min_length=1,
        title="Metrics",
        description="What is compared, of iou, dice, boundary_f1, precision and recall. The first decides which image "
        "is called best and worst. More metrics are more tests, so more images are needed to show a difference.",
    )
