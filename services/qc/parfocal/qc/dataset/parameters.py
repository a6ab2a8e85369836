"""From when on something about a dataset is worth a sentence."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from parfocal.runtime.methods.service import Parameters


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
