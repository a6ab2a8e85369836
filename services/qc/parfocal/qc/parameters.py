"""The parameters of the evaluations; thresholds of a verdict are parameters too."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from parfocal.runtime.service import Parameters


class RestorationThresholds(BaseModel):
    """What a restoration model must show on its test images to pass.

    The defaults ask for the least that makes a model worth using: that it inverts nothing, improves on its
    input beyond the chance of the choice of images, and is no worse than a filter that needs no training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed images allowed",
        description="Test images that may be inverted or constant. One is enough to mistrust a model: the fit used by "
        "the other metrics hides inversion, and in practice it comes from a fault of normalisation, not from noise.",
    )
    max_failed_slices: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        title="Failed slices allowed",
        description="Fraction of a stack's slices that may be inverted or constant before the stack counts as failed. "
        "In slices above and below the sample there is nothing to restore, and the sign of the fit is chance.",
    )
    min_psnr_gain_over_input: float = Field(
        default=0.0,
        ge=0,
        title="PSNR gain over the input",
        description="Mean PSNR gain over the input, in dB, that the lower end of the interval must exceed.",
    )
    min_ssim_gain_over_input: float = Field(
        default=0.0,
        ge=0,
        title="SSIM gain over the input",
        description="Mean SSIM gain over the input that the lower end of the interval must exceed.",
    )
    max_psnr_loss_to_baseline: float = Field(
        default=0.0,
        ge=0,
        title="PSNR loss to the Gaussian filter allowed",
        description="Mean PSNR, in dB, by which the prediction may be worse than the Gaussian filter. It fails only if "
        "the whole interval is worse than this.",
    )
    max_ssim_loss_to_baseline: float = Field(
        default=0.0,
        ge=0,
        title="SSIM loss to the Gaussian filter allowed",
        description="Mean SSIM by which the prediction may be worse than the Gaussian filter. It fails only if the "
        "whole interval is worse than this.",
    )

    def gain_over_input(self, metric: str) -> float:
        """Return the gain over the input that a metric ("psnr" or "ssim") must exceed."""
        return {"psnr": self.min_psnr_gain_over_input, "ssim": self.min_ssim_gain_over_input}[metric]

    def loss_to_baseline(self, metric: str) -> float:
        """Return by how much a metric may be worse than that of the Gaussian filter."""
        return {"psnr": self.max_psnr_loss_to_baseline, "ssim": self.max_ssim_loss_to_baseline}[metric]


class TranslationThresholds(BaseModel):
    """What a model that predicts one kind of image from another must show on its test images to pass, per target.

    The defaults ask that it inverts nothing and knows more than grey values alone can tell: the best linear
    function of the input's pixels is what a model that has learnt no structure would come to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed images allowed",
        description="Test images that may be inverted or constant. One is enough to mistrust a model.",
    )
    max_failed_slices: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        title="Failed slices allowed",
        description="Fraction of a stack's slices that may be inverted or constant before the stack counts as failed. "
        "In slices above and below the sample there is nothing to predict, and the sign of the fit is chance.",
    )
    min_psnr_gain_over_baseline: float = Field(
        default=0.0,
        ge=0,
        title="PSNR gain over the linear predictor",
        description="Mean PSNR gain over the linear predictor, in dB, that the lower end of the interval must exceed.",
    )
    min_ssim_gain_over_baseline: float = Field(
        default=0.0,
        ge=0,
        title="SSIM gain over the linear predictor",
        description="Mean SSIM gain over the linear predictor that the lower end of the interval must exceed.",
    )

    def gain_over_baseline(self, metric: str) -> float:
        """Return the gain over the linear predictor that a metric ("psnr" or "ssim") must exceed."""
        return {"psnr": self.min_psnr_gain_over_baseline, "ssim": self.min_ssim_gain_over_baseline}[metric]


class RestorationParameters(Parameters, RestorationThresholds):
    """Thresholds of the verdict on a restoration, and what is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    maps: bool = Field(
        default=True,
        title="Maps",
        description="Write an SSIM map and an error map for every test image, for prediction, input and baseline.",
    )

    def thresholds(self) -> RestorationThresholds:
        """Return the thresholds alone."""
        return RestorationThresholds(**self.model_dump(include=set(RestorationThresholds.model_fields)))


class TranslationParameters(Parameters, TranslationThresholds):
    """Thresholds of the verdict on an image translation, and what is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    maps: bool = Field(
        default=True,
        title="Maps",
        description="Write an SSIM map and an error map for every test image, for prediction, input and baseline.",
    )

    def thresholds(self) -> TranslationThresholds:
        """Return the thresholds alone."""
        return TranslationThresholds(**self.model_dump(include=set(TranslationThresholds.model_fields)))


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
        description="Test images with objects in which none was found.",
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


class SemanticThresholds(BaseModel):
    """What a model that tells foreground from background must show on its test images to pass.

    The defaults ask that it gets at least half of the foreground without inventing as much, in every image something
    where there is something, and more than a threshold that needs no training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_iou: float = Field(
        default=0.5,
        ge=0,
        le=1,
        title="IoU asked for",
        description="Intersection over union of the foreground, over all test images together, that must be reached.",
    )
    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed images allowed",
        description="Test images with foreground in which none was found.",
    )
    min_iou_gain_over_baseline: float = Field(
        default=0.0,
        ge=0,
        title="IoU gain over the threshold",
        description="Mean IoU gain over Otsu's threshold, over the images, that the lower end of the interval must "
        "exceed.",
    )


class SemanticParameters(Parameters, SemanticThresholds):
    """Thresholds of the verdict on foreground masks, how they are made from probabilities, and what is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        title="Threshold",
        description="Where probabilities are cut. Not set: where the model found best on its validation images, or at "
        "0.5 if it stores nothing. Never chosen on the test images.",
    )
    boundary_tolerance: float = Field(
        default=2.0,
        ge=0,
        le=100,
        title="Tolerance of outlines",
        description="How many pixels an outline may be off and still agree, in the boundary F.",
    )
    maps: bool = Field(
        default=True,
        title="Maps",
        description="Write an error map for every test image.",
    )


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
