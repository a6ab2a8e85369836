"""Parameters of quality control of restored images without targets."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from parfocal.runtime.methods.service import Parameters


class ResidualThresholds(BaseModel):
    """Thresholds of the residuals of restored images.

    The defaults were set where true targets, put in the place of predictions, pass in every dataset tried, and filters
    that are plainly too strong do not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed images allowed",
        description="Accepted number of images whose prediction is inverted, constant or impossible to score.",
    )
    min_agreement: float = Field(
        default=0.99,
        ge=0,
        le=1,
        title="Agreement with the input",
        description="Lowest accepted mean fraction of pixels in which prediction and input, both smoothed over 2 "
        "pixels, agree within four standard deviations of the noise. Real targets reach at least 0.999.",
    )
    max_structure: float = Field(
        default=1.5,
        gt=0,
        title="Structure in the residual",
        description="Largest accepted mean ratio between the variation of the smoothed residual (input minus "
        "prediction) in structures and that of noise. Real targets give 0.9 to 1.1; a filter that is just strong "
        "enough for the noise gives less than 1.",
    )
    max_noise_left: float = Field(
        default=0.5,
        gt=0,
        title="Noise left",
        description="Largest accepted mean fraction of the input's noise that is left in the prediction. 1 means that "
        "no noise was removed.",
    )


class ResidualParameters(Parameters, ResidualThresholds):
    """Thresholds of the verdict on residuals, and what is written."""

    maps: bool = Field(
        default=True,
        title="Maps",
        description="For every image, write the residual (input minus prediction) and the map of deviations that shows "
        "where the prediction contradicts its input.",
    )

    def thresholds(self) -> ResidualThresholds:
        """Return the thresholds alone."""
        return ResidualThresholds(**self.model_dump(include=set(ResidualThresholds.model_fields)))
