"""Parameters of quality control of restored and translated images."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from parfocal.qc.comparison.parameters import ComparisonParameters
from parfocal.runtime.methods.service import Parameters


class ImageThresholds(BaseModel):
    """Thresholds on test images for models that turn images into images, whatever they are compared with.

    The defaults ask that a model inverts nothing and that its scores do not come from the background.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed images allowed",
        description="Accepted number of test images whose prediction is missing, inverted, constant or impossible to "
        "score. A single one is reason to mistrust a model: the fit used by the other metrics hides an inversion, "
        "which in practice comes from a fault of normalisation and not from noise.",
    )
    max_failed_slices: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        title="Failed slices allowed",
        description="Largest accepted fraction of a stack's slices that are inverted or constant. Slices above and "
        "below the sample show nothing, so that their sign is chance.",
    )
    min_inside_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        title="Share of the gain inside the foreground",
        description="Lowest accepted ratio between the gain in SNR inside the foreground and the gain in PSNR over the "
        "whole image, both in dB. Noise that is removed evenly everywhere gives a ratio near 1, however much "
        "background there is; a model that only cleans the background gives 0. Below a quarter, the score comes from "
        "the background.",
    )
    min_ssim_gain_inside: float = Field(
        default=0.0,
        ge=0,
        title="SSIM gain inside the foreground",
        description="Mean gain in SSIM inside the foreground that the lower end of the confidence interval must "
        "exceed, wherever a gain over the whole image is required.",
    )
    max_background_shift: float = Field(
        default=0.1,
        gt=0,
        title="Difference between whole image and foreground",
        description="Difference between the SSIM of the whole image and the SSIM inside the foreground above which a "
        "remark says that the score comes from the background. Most models differ by less than 0.1. The remark does "
        "not change the verdict.",
    )


class RestorationThresholds(ImageThresholds):
    """Thresholds that a restoration model must reach on its test images.

    The defaults ask for the least that makes a model worth using: that it inverts nothing, improves on its input by
    more than the chance of the choice of images, and is not worse than a simple filter (the baseline).
    """

    min_psnr_gain_over_input: float = Field(
        default=0.0,
        ge=0,
        title="PSNR gain over the input",
        description="Mean gain in PSNR over the input, in dB, that the lower end of the confidence interval must "
        "exceed.",
    )
    min_ssim_gain_over_input: float = Field(
        default=0.0,
        ge=0,
        title="SSIM gain over the input",
        description="Mean gain in SSIM over the input that the lower end of the confidence interval must exceed.",
    )
    max_psnr_loss_to_baseline: float = Field(
        default=0.0,
        ge=0,
        title="PSNR loss to the Gaussian filter allowed",
        description="How much lower than that of the Gaussian filter the mean PSNR of the prediction may be, in dB. A "
        "model fails only if the whole confidence interval is worse than this.",
    )
    max_ssim_loss_to_baseline: float = Field(
        default=0.0,
        ge=0,
        title="SSIM loss to the Gaussian filter allowed",
        description="How much lower than that of the Gaussian filter the mean SSIM of the prediction may be. A model "
        "fails only if the whole confidence interval is worse than this.",
    )

    def gain_over_input(self, metric: str) -> float:
        """Return the gain over the input that a metric ("psnr" or "ssim") must exceed."""
        return {"psnr": self.min_psnr_gain_over_input, "ssim": self.min_ssim_gain_over_input}[metric]

    def loss_to_baseline(self, metric: str) -> float:
        """Return by how much a metric may be worse than that of the Gaussian filter."""
        return {"psnr": self.max_psnr_loss_to_baseline, "ssim": self.max_ssim_loss_to_baseline}[metric]


class TranslationThresholds(ImageThresholds):
    """Thresholds that a model of image translation must reach on its test images, for each target.

    The defaults ask that it inverts nothing and is better than the best linear function of the input's grey values,
    which ignores structure.
    """

    min_psnr_gain_over_baseline: float = Field(
        default=0.0,
        ge=0,
        title="PSNR gain over the linear predictor",
        description="Mean gain in PSNR over the linear predictor, in dB, that the lower end of the confidence interval "
        "must exceed.",
    )
    min_ssim_gain_over_baseline: float = Field(
        default=0.0,
        ge=0,
        title="SSIM gain over the linear predictor",
        description="Mean gain in SSIM over the linear predictor that the lower end of the confidence interval must "
        "exceed.",
    )

    def gain_over_baseline(self, metric: str) -> float:
        """Return the gain over the linear predictor that a metric ("psnr" or "ssim") must exceed."""
        return {"psnr": self.min_psnr_gain_over_baseline, "ssim": self.min_ssim_gain_over_baseline}[metric]


class ImageParameters(Parameters, ImageThresholds):
    """Thresholds of the verdict on predicted images, and what is written."""

    maps: bool = Field(
        default=True,
        title="Maps",
        description="Write an SSIM map and an error map for every test image, for prediction, input and baseline.",
    )


class RestorationParameters(ImageParameters, RestorationThresholds):
    """Thresholds of the verdict on a restoration, and what is written."""

    def thresholds(self) -> RestorationThresholds:
        """Return the thresholds alone."""
        return RestorationThresholds(**self.model_dump(include=set(RestorationThresholds.model_fields)))


class TranslationParameters(ImageParameters, TranslationThresholds):
    """Thresholds of the verdict on an image translation, and what is written."""

    def thresholds(self) -> TranslationThresholds:
        """Return the thresholds alone."""
        return TranslationThresholds(**self.model_dump(include=set(TranslationThresholds.model_fields)))


class ImageComparisonParameters(ComparisonParameters):
    """Parameters of the comparison of restored or translated images."""

    metrics: tuple[Literal["psnr", "ssim", "nrmse", "pearson"], ...] = Field(
        default=("psnr", "ssim"),
        min_length=1,
        title="Metrics",
        description="Metrics to compare, of psnr, ssim, nrmse and pearson. The first decides which image is called "
        "best and worst. More metrics mean more statistical tests, so that more images are required to show a "
        "difference.",
    )


class RestorationComparisonParameters(ImageComparisonParameters):
    """Parameters of the comparison of restored images."""

    compared_with = ("input", "baseline")
