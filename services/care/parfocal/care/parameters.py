"""The parameters of CARE; defaults follow the ZeroCostDL4Mic notebooks, differences are argued in the method's page."""

from __future__ import annotations

from pydantic import Field, field_validator

from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.manifests import DatasetManifest
from parfocal.runtime.parameters import PredictionParameters, TrainingParameters
from parfocal.runtime.service import Parameters


class Care2DParameters(TrainingParameters):
    """Parameters of a CARE 2D training."""

    patch_size: int = Field(
        default=64,
        ge=16,
        le=2048,
        multiple_of=8,
        title="Patch size",
        description="Edge in pixels of the square patches learnt from; a multiple of 8, not larger than your images. "
        "It should hold whole structures of interest.",
    )
    network_depth: int = Field(
        default=3,
        ge=1,
        le=5,
        title="Network depth",
        description="How often the U-Net halves the image. Deeper sees more context and needs larger patches.",
    )
    kernel_size: int = Field(
        default=5, ge=3, le=7, title="Kernel size", description="Edge of the convolutions in pixels: 3, 5 or 7."
    )
    first_filters: int = Field(
        default=32,
        ge=4,
        le=256,
        title="First filters",
        description="Filters of the first level, doubled at every further one. More learns more and is slower.",
    )
    probabilistic: bool = Field(
        default=True,
        title="Probabilistic",
        description="Learn for every pixel how uncertain the prediction is, besides its value.",
    )

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd")
        return value


class CarePredictionParameters(PredictionParameters):
    """Parameters of a prediction with a CARE model."""

    uncertainty: bool = Field(
        default=False,
        title="Uncertainty map",
        description="Also write the scale of the Laplace distribution the network predicts for each pixel, in grey "
        "values: where it is large, do not trust the prediction. Needs a model trained with probabilistic on.",
    )


def check_dataset(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if the patches do not fit the images or the network."""
    assert isinstance(parameters, Care2DParameters)
    patch = parameters.patch_size
    if patch % 2**parameters.network_depth:
        raise InvalidInputError(
            f"patch_size {patch} is no multiple of {2**parameters.network_depth}, which network_depth "
            f"{parameters.network_depth} needs.",
            [Violation("patch_size", f"must be a multiple of {2**parameters.network_depth}")],
        )
    small = [image for image in dataset.select("train", "source") if min(image.shape) < patch]
    if small:
        shapes = ", ".join(f"{image.file} {image.shape[0]}x{image.shape[1]}" for image in small[:5])
        raise InvalidInputError(
            f"{len(small)} training images are smaller than patch_size {patch} ({shapes}). "
            "Choose a smaller patch_size or leave these images out.",
            [Violation(image.file, f"is smaller than patch_size {patch}") for image in small],
        )
