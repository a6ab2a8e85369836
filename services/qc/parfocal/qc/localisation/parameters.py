"""What localisations and reconstructions must show."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from parfocal.runtime.methods.service import Parameters


class LocalisationThresholds(BaseModel):
    """What a model must show on stacks with known emitters to pass.

    The defaults ask that a third of what is there or was located is right, that places are off by no more than an
    emitter's spot is wide (its standard deviation), and more than fits of single spots give without any training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    radius_nm: float = Field(
        default=250,
        gt=0,
        le=10_000,
        title="Matching radius (nm)",
        description="How near a localisation must be to a true emitter to count as found. 250 nm is that of the "
        "challenges of the field; in crowded frames chance alone reaches it, and 100 nm says more.",
    )
    min_jaccard: float = Field(
        default=0.33,
        ge=0,
        le=1,
        title="Jaccard index asked for",
        description="True positives among all emitters and localisations, over all test stacks together, that must be "
        "reached.",
    )
    max_rmse_nm: float = Field(
        default=100,
        gt=0,
        title="RMSE allowed (nm)",
        description="Root mean square distance between matched localisations and emitters, over all test stacks "
        "together.",
    )
    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed stacks allowed",
        description="Test stacks with emitters in which none was found, or whose prediction is missing or cannot be "
        "scored.",
    )
    min_efficiency_gain: float = Field(
        default=0.0,
        ge=0,
        le=100,
        title="Efficiency gain over fits",
        description="Mean gain in efficiency over fits of local maxima, over the stacks, that the lower end of the "
        "interval must exceed.",
    )


class LocalisationParameters(Parameters, LocalisationThresholds):
    """Thresholds of the verdict on localisations, and what is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    maps: bool = Field(
        default=True,
        title="Maps",
        description="Write for every stack the rendered ground truth, and maps of similarity and of differences "
        "between it and the super-resolved image.",
    )

    def thresholds(self) -> LocalisationThresholds:
        """Return the thresholds alone."""
        return LocalisationThresholds(**self.model_dump(include=set(LocalisationThresholds.model_fields)))


class ReconstructionThresholds(BaseModel):
    """What super-resolved images must show to raise no objection where the emitters are not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed stacks allowed",
        description="Stacks without a localisation, or whose prediction cannot be scored.",
    )
    min_rsp: float = Field(
        default=0.8,
        ge=-1,
        le=1,
        title="Correlation with the frames",
        description="Mean correlation of the mean frame with the super-resolved image, blurred as the microscope "
        "blurs, that must be reached. Structures that are not in the frames lower it.",
    )
    max_frc_nm: float = Field(
        default=250,
        gt=0,
        title="Resolution asked for (nm)",
        description="Mean resolution by Fourier ring correlation of two halves of the stack that must be reached. "
        "About 250 nm are what a light microscope gives without super-resolution.",
    )


class ReconstructionParameters(Parameters, ReconstructionThresholds):
    """Thresholds of the verdict on reconstructions, and what is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    maps: bool = Field(
        default=True,
        title="Maps",
        description="Write for every stack the map of differences between its mean frame and the blurred image.",
    )

    def thresholds(self) -> ReconstructionThresholds:
        """Return the thresholds alone."""
        return ReconstructionThresholds(**self.model_dump(include=set(ReconstructionThresholds.model_fields)))
