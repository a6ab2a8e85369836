"""The parameters of CARE; defaults follow the ZeroCostDL4Mic notebooks, the method's page gives reasons for others."""

from __future__ import annotations

from pydantic import Field, field_validator

from parfocal.runtime.methods.augmenting import FlipZ
from parfocal.runtime.methods.parameters import (
    ImagePredictionParameters,
    TrainingParameters,
    check_patch_fits,
    inherited,
)
from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import DatasetManifest


class CareParameters(TrainingParameters):
    """Common parameters of CARE trainings in two and three dimensions; the defaults are those for two."""

    patch_size: int = Field(
        default=64,
        ge=16,
        le=2048,
        multiple_of=8,
        title="Patch size",
        description="Side length of the square training patches, in pixels; a multiple of 8, not larger than your "
        "images. A patch should hold whole structures of interest.",
    )
    network_depth: int = Field(
        default=3,
        ge=1,
        le=5,
        title="Network depth",
        description="How many times the network (a U-Net) halves the image. A deeper network takes more of the "
        "surroundings into account and requires larger patches.",
    )
    kernel_size: int = Field(
        default=5,
        ge=3,
        le=7,
        title="Kernel size",
        description="Side length, in pixels, of the network's filters (pattern detectors): 3, 5 or 7.",
    )
    first_filters: int = Field(
        default=32,
        ge=4,
        le=256,
        title="First filters",
        description="Number of filters (pattern detectors) of the network's first level, doubled at every further "
        "level. More filters can represent finer differences and are slower.",
    )
    probabilistic: bool = Field(
        default=True,
        title="Probabilistic",
        description="Also train the network to predict how uncertain each pixel of its prediction is. An uncertainty "
        "map can be written only if this is on.",
    )

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd")
        return value


class Care2DParameters(CareParameters):
    """Parameters of a CARE 2D training."""


class Care3DParameters(FlipZ, CareParameters):
    """Parameters of a CARE 3D training."""

    epochs: int = inherited(CareParameters, "epochs", default=40)
    patch_size: int = Field(
        default=80,
        ge=16,
        le=1024,
        multiple_of=4,
        title="Patch size",
        description="Side length of the training patches in Y and X, in pixels; a multiple of 4, not larger than your "
        "volumes.",
    )
    patch_depth: int = Field(
        default=8,
        ge=4,
        le=512,
        multiple_of=4,
        title="Patch depth",
        description="Number of planes in a training patch; a multiple of 4, not more than your volumes have.",
    )
    patches_per_image: int = inherited(
        CareParameters,
        "patches_per_image",
        default=200,
        description="Number of patches cut from each volume in every epoch, at random positions that change from epoch "
        "to epoch.",
    )
    network_depth: int = Field(
        default=2,
        ge=1,
        le=4,
        title="Network depth",
        description="How many times the network (a U-Net) halves the volume, in all three directions. A deeper network "
        "takes more of the surroundings into account and requires larger and deeper patches.",
    )
    kernel_size: int = inherited(CareParameters, "kernel_size", default=3)
    probabilistic: bool = inherited(CareParameters, "probabilistic", default=False)


class CarePredictionParameters(ImagePredictionParameters):
    """Parameters of a prediction with a CARE model."""

    uncertainty: bool = Field(
        default=False,
        title="Uncertainty map",
        description="Also write how uncertain each pixel is, in grey values: with a probability of 90 % the true "
        "intensity lies within 2.3 times this number of the predicted one. Do not trust the prediction where it is "
        "large. Requires a model that was trained with probabilistic on.",
    )


def check_dataset(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if the patches do not fit the images or the network."""
    assert isinstance(parameters, CareParameters)
    axes = "ZYX" if isinstance(parameters, Care3DParameters) else "YX"
    depth = parameters.network_depth
    divisor = (2**depth,) * len(axes)
    check_patch_fits(parameters, axes, dataset, divisor=divisor, because=f"network_depth {depth}")
