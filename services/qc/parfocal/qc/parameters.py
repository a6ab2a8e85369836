"""The parameters of the evaluations; thresholds of a verdict are parameters too."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from parfocal.runtime.service import Parameters


class ForegroundThresholds(BaseModel):
    """What a model must show in the structures of its test images, so that background cannot carry its scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_inside_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        title="Share of the gain inside the foreground",
        description="Share of the PSNR gain, in dB, that must be found as a gain in SNR inside the foreground. Noise "
        "of one strength that is removed everywhere gives a share near 1, however much background there is; a model "
        "that only cleans the background gives 0. With less than a quarter the score is carried by background.",
    )
    min_ssim_gain_inside: float = Field(
        default=0.0,
        ge=0,
        title="SSIM gain inside the foreground",
        description="Mean SSIM gain inside the foreground that the lower end of the interval must exceed wherever a "
        "gain over the whole image is asked for.",
    )
    max_background_shift: float = Field(
        default=0.1,
        gt=0,
        title="Difference between whole image and foreground",
        description="Difference between the SSIM of the whole image and that inside the foreground above which a "
        "remark says that background makes the score. 0.1 is more than most models differ by. It does not decide.",
    )


class RestorationThresholds(ForegroundThresholds):
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


class TranslationThresholds(ForegroundThresholds):
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


class SemanticComparisonParameters(ComparisonParameters):
    """How predicted foreground is compared, image by image."""

    metrics: tuple[Literal["iou", "dice", "boundary_f", "precision", "recall"], ...] = Field(
        default=("iou", "boundary_f"),
        min_length=1,
        title="Metrics",
        description="What is compared, of iou, dice, boundary_f, precision and recall. The first decides which image "
        "is called best and worst. More metrics are more tests, so more images are needed to show a difference.",
    )


class DatasetThresholds(BaseModel):
    """From when on something about a dataset is worth a sentence.

    The defaults are meant to be silent on sound data: they were set where real defects lie clearly beyond what sound
    datasets show.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_saturated: float = Field(
        default=0.01,
        ge=0,
        le=1,
        title="Saturated pixels allowed",
        description="Fraction of an image's pixels at the largest value of the camera or the data type. One in a "
        "hundred is where structures, not single points, begin to lose their brightness.",
    )
    max_zero: float = Field(
        default=0.25,
        ge=0,
        le=1,
        title="Pixels at zero allowed",
        description="Fraction of an image's pixels that are 0. Cameras add an offset, so that zeros come from software "
        "that cut off the background and its noise.",
    )
    min_rise: float = Field(
        default=3.0,
        ge=0,
        title="Rise above the noise",
        description="What the brightest place of an image, smoothed over 2 pixels, must rise above the darkest one, in "
        "standard deviations of the noise. White noise alone gives 0.7 to 1.5.",
    )
    max_blur: float = Field(
        default=3.5,
        gt=0,
        title="Deviation of sharpness",
        description="Robust deviations from the median of all images of a role, on a logarithmic scale, by which an "
        "image may be less sharp; it must also be less sharp by a third.",
    )
    max_deviation: float = Field(
        default=5.0,
        gt=0,
        title="Deviation of brightness",
        description="Robust deviations from the median of all images of a role, on a logarithmic scale, by which "
        "brightness or contrast may be unusual; the factor must also be 4 or more.",
    )
    max_shift: float = Field(
        default=1.0,
        gt=0,
        title="Shift allowed",
        description="Pixels by which a target may be shifted against its source. What is learnt pixel by pixel is "
        "blurred by as much; estimates on sound pairs stay below 0.3 pixels. Twice as much is allowed for labels and "
        "masks, whose outlines are drawn by hand.",
    )
    min_alike: float = Field(
        default=0.9,
        gt=0,
        le=1,
        title="Almost the same",
        description="Correlation of two images in 32x32 blocks from which on they are taken for the same field. Two "
        "stains of one field, or neighbouring sections, stay below 0.8.",
    )
    tiny_object: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        title="Tiny objects",
        description="Fraction of the median size of an image's objects below which an object is taken for a crumb.",
    )
    min_likeness: float = Field(
        default=0.7,
        gt=0,
        le=1,
        title="Restoration or translation",
        description="Correlation of targets with their smoothed sources from which on a pair is taken for a poor and "
        "a good image of the same light. Below, source and target show different things.",
    )


class DatasetParameters(Parameters, DatasetThresholds):
    """Thresholds of the findings on a dataset, and how much is drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_sheets: int = Field(
        default=10,
        ge=1,
        le=1000,
        title="Sheets",
        description="Largest number of sheets of thumbnails for the training and for the test images, 40 fields of "
        "view on each, those with findings first.",
    )

    def thresholds(self) -> DatasetThresholds:
        """Return the thresholds alone."""
        return DatasetThresholds(**self.model_dump(include=set(DatasetThresholds.model_fields)))
