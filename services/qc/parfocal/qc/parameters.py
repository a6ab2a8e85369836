"""The parameters of the evaluations; thresholds of a verdict are parameters too."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from parfocal.qc.summary import RestorationThresholds
from parfocal.runtime.service import Parameters


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
