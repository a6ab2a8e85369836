"""Parameters of quality control of localisations and reconstructions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from parfocal.runtime.methods.service import Parameters


class LocalisationThresholds(BaseModel):
    """Thresholds that a model must reach on stacks with known emitters.

    The defaults ask for a Jaccard index of one third, for an error of at most the width of an emitter's spot (its
    standard deviation), and for more efficiency than fits of single spots, which require no training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    radius_nm: float = Field(
        default=250,
        gt=0,
        le=10_000,
        title="Matching radius (nm)",
        description="How near, in nanometres, a localisation must be to a true emitter to count as a true positive. "
        "The challenges of the field use 250 nm; in crowded frames that is often reached by chance, and 100 nm is more "
        "informative.",
    )
    min_jaccard: float = Field(
        default=0.33,
        ge=0,
        le=1,
        title="Jaccard index asked for",
        description="Lowest accepted Jaccard index: true positives divided by all emitters and localisations (pairs "
        "counted once), over all test stacks together.",
    )
    max_rmse_nm: float = Field(
        default=100,
        gt=0,
        title="RMSE allowed (nm)",
        description="Largest accepted root mean square distance between matched localisations and emitters, over all "
        "test stacks together.",
    )
    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed stacks allowed",
        description="Accepted number of test stacks with emitters of which none was found, or whose prediction is "
        "missing or cannot be scored.",
    )
    min_efficiency_gain: float = Field(
        default=0.0,
        ge=0,
        le=100,
        title="Efficiency gain over fits",
        description="Mean gain in efficiency over the baseline (fits of local maxima) that the lower end of the "
        "confidence interval over the stacks must exceed.",
    )


class LocalisationParameters(Parameters, LocalisationThresholds):
    """Thresholds of the verdict on localisations, and what is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    maps: bool = Field(
        default=True,
        title="Maps",
        description="For every stack, write the rendered ground truth and maps of the similarity and the differences "
        "between it and the super-resolved image.",
    )

    def thresholds(self) -> LocalisationThresholds:
        """Return the thresholds alone."""
        return LocalisationThresholds(**self.model_dump(include=set(LocalisationThresholds.model_fields)))


class ReconstructionThresholds(BaseModel):
    """Thresholds of super-resolved images whose emitters are unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_failed_images: int = Field(
        default=0,
        ge=0,
        title="Failed stacks allowed",
        description="Accepted number of stacks without a localisation, or whose prediction cannot be scored.",
    )
    min_rsp: float = Field(
        default=0.8,
        ge=-1,
        le=1,
        title="Correlation with the frames",
        description="Lowest accepted mean correlation of the mean frame with the super-resolved image after it was "
        "blurred as by the microscope. Structures that are not in the frames lower it.",
    )
    max_frc_nm: float = Field(
        default=250,
        gt=0,
        title="Resolution asked for (nm)",
        description="Largest accepted mean resolution, in nanometres, measured by Fourier ring correlation (agreement "
        "of two halves of the stack, detail by detail). A light microscope without super-resolution reaches about 250 "
        "nm.",
    )


class ReconstructionParameters(Parameters, ReconstructionThresholds):
    """Thresholds of the verdict on reconstructions, and what is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    maps: bool = Field(
        default=True,
        title="Maps",
        description="For every stack, write the map of differences between its mean frame and the blurred "
        "super-resolved image.",
    )

    def thresholds(self) -> ReconstructionThresholds:
        """Return the thresholds alone."""
        return ReconstructionThresholds(**self.model_dump(include=set(ReconstructionThresholds.model_fields)))
