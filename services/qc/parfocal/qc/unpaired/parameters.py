"""Parameters of quality control of translated images without pairs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from parfocal.runtime.methods.service import Parameters


class UnpairedThresholds(BaseModel):
    """Thresholds of translated images without pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed images allowed",
        description="Accepted number of images whose prediction is constant or impossible to score.",
    )
    min_gap_closed: float = Field(
        default=0.5,
        le=1,
        title="Gap closed",
        description="How much nearer to real images predictions must be than inputs with matched intensities, measured "
        "as the distance between whole sets of images: 0 is as near as these inputs, 1 as near as other real images.",
    )
    min_cycle_correlation: float = Field(
        default=0.5,
        ge=-1,
        le=1,
        title="Cycle correlation",
        description="Lowest accepted mean Pearson correlation between the inputs and the images that result from "
        "turning them into the other kind and back. This threshold is ignored if the model cannot turn images back.",
    )


class UnpairedParameters(Parameters, UnpairedThresholds):
    """Thresholds of the verdict on translations without pairs."""

    def thresholds(self) -> UnpairedThresholds:
        """Return the thresholds alone."""
        return UnpairedThresholds(**self.model_dump(include=set(UnpairedThresholds.model_fields)))
