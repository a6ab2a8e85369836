"""The parameters of NAME; where a default differs from the publication, the method's page says why."""

from __future__ import annotations

from pydantic import Field

from parfocal.runtime.methods.parameters import TrainingParameters, check_patch_fits
from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import DatasetManifest


class NAMEParameters(TrainingParameters):
    """Parameters of a NAME training."""

    layers: int = Field(
        default=4,
        ge=1,
        le=32,
        title="Layers",
        description="Convolutions in a row. More see farther and are slower.",
    )


def check_dataset(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if an image is smaller than a patch."""
    assert isinstance(parameters, NAMEParameters)
    check_patch_fits(parameters, "YX", dataset)
