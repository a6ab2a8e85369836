"""Limits beyond which a property of a dataset is reported as a finding."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from parfocal.runtime.methods.service import Parameters


class DatasetThresholds(BaseModel):
    """Limits beyond which a property of a dataset is reported as a finding.

    The defaults report nothing about sound data: they lie between the values of sound datasets and those of real
    defects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_saturated: float = Field(
        default=0.01,
        ge=0,
        le=1,
        title="Saturated pixels allowed",
        description="Largest accepted fraction of an image's pixels that are saturated, at the largest value of the "
        "camera or the data type. From one in a hundred on, structures and not only single points lose their "
        "brightness.",
    )
    max_zero: float = Field(
        default=0.25,
        ge=0,
        le=1,
        title="Pixels at zero allowed",
        description="Largest accepted fraction of an image's pixels that are 0. Cameras add an offset, so that zeros "
        "come from software that clipped the background and its noise.",
    )
    min_rise: float = Field(
        default=3.0,
        ge=0,
        title="Rise above the noise",
        description="Smallest accepted difference between the brightest and the darkest place of an image smoothed "
        "over 2 pixels, in standard deviations of the noise. White noise alone gives 0.7 to 1.5.",
    )
    max_blur: float = Field(
        default=3.5,
        gt=0,
        title="Deviation of sharpness",
        description="How much less sharp than the median of all images of a role an image may be, in robust standard "
        "deviations on a logarithmic scale. An image that is less sharp by under a third is always accepted.",
    )
    max_deviation: float = Field(
        default=5.0,
        gt=0,
        title="Deviation of brightness",
        description="How much the brightness or contrast of an image may differ from the median of all images of a "
        "role, in robust standard deviations on a logarithmic scale. A factor below 4 is always accepted.",
    )
    max_shift: float = Field(
        default=1.0,
        gt=0,
        title="Shift allowed",
        description="Largest accepted shift of a target against its source, in pixels. A model that predicts pixel by "
        "pixel blurs its images by as much; the estimate stays below 0.3 pixels for sound pairs. Twice as much is "
        "accepted for labels and masks, whose outlines are drawn by hand.",
    )
    min_alike: float = Field(
        default=0.9,
        gt=0,
        le=1,
        title="Almost the same",
        description="Correlation of two images, reduced to 32x32 blocks, from which on they are taken for the same "
        "field of view. Two stains of one field, or neighbouring sections, stay below 0.8.",
    )
    tiny_object: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        title="Tiny objects",
        description="Size, as a fraction of the median size of an image's objects, below which an object is taken for "
        "a small fragment.",
    )
    min_likeness: float = Field(
        default=0.7,
        gt=0,
        le=1,
        title="Restoration or translation",
        description="Correlation of targets with their smoothed sources from which on a pair is taken for a noisy and "
        "a clean image of the same signal. Below it, source and target show different things.",
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
