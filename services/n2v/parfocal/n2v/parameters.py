"""The parameters of Noise2Void; differences from the notebooks and from n2v are argued in the method's page."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from parfocal.runtime.methods.augmenting import Flips, FlipZ
from parfocal.runtime.methods.object_checks import check_labels
from parfocal.runtime.methods.parameters import (
    Arithmetic,
    Epochs,
    ImagePredictionParameters,
    Patches,
    PlateauRate,
    Precision,
    PredictionParameters,
    Validation,
    check_patch_fits,
    inherited,
)
from parfocal.runtime.methods.roles import Roles
from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import DatasetManifest

STRUCT = "structn2v"
"""The variant that hides pixels around each blind spot."""
N2V2 = "n2v2"
"""The variant without checkerboard patterns."""


class BlindSpotParameters(Arithmetic, Flips, PlateauRate, Validation, Patches, Epochs):
    """Common parameters of trainings with hidden pixels; the defaults are those of Noise2Void in two dimensions.

    Patches are mirrored and turned by quarters only: interpolation would change the noise that is trained on.
    """

    masked_percent: float = Field(
        default=0.198,
        gt=0,
        le=10,
        title="Masked pixels [%]",
        description="Percentage of the pixels of a patch that are hidden in a training step and predicted from the "
        "pixels around them; at least one pixel.",
    )
    neighborhood_radius: int = Field(
        default=5,
        ge=1,
        le=15,
        title="Neighbourhood radius [pixels]",
        description="Distance, in pixels, within which the value is chosen that replaces a hidden pixel.",
    )
    patch_size: int = Field(
        default=64,
        ge=8,
        le=2048,
        multiple_of=4,
        title="Patch size",
        description="Side length of the square training patches, in pixels; a multiple of 4, not larger than your "
        "images.",
    )
    patches_per_image: int = inherited(Patches, "patches_per_image", default=200)
    batch_size: int = inherited(Patches, "batch_size", default=128)
    network_depth: int = Field(
        default=2,
        ge=1,
        le=5,
        title="Network depth",
        description="How many times the network (a U-Net) halves the image. A deeper network takes more of the "
        "surroundings into account and requires larger patches.",
    )
    kernel_size: int = Field(
        default=3,
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

    @field_validator("kernel_size")
    @classmethod
    def _odd_kernel(cls, value: int) -> int:
        return _odd(value)


class NoiseParameters(BlindSpotParameters):
    """Common parameters of Noise2Void trainings in two and three dimensions."""

    variant: str
    struct_direction: Literal["auto", "x", "y", "xy"] = Field(
        default="auto",
        title="structN2V: direction",
        description="Only for structn2v: axis along which the noise of neighbouring pixels is similar (correlated): x "
        "for horizontal stripes, y for vertical ones, xy for both, for example after interpolation. auto measures "
        "direction and length on the training images.",
    )
    struct_length: int = Field(
        default=9,
        ge=1,
        le=63,
        title="structN2V: length [pixels]",
        description="Only for structn2v: number of pixels in this direction that are hidden together, with the "
        "predicted one in the middle; an odd number. It should just cover the stripes of correlated noise. It is "
        "ignored if the direction is auto.",
    )

    @field_validator("struct_length")
    @classmethod
    def _odd_length(cls, value: int) -> int:
        return _odd(value)

    def roles(self, dataset: DatasetManifest) -> Roles:  # noqa: ARG002
        """Return the images alone: targets are for quality control."""
        return Roles(targets=())


class Noise2Void2DParameters(NoiseParameters):
    """Parameters of a Noise2Void 2D training."""

    variant: Literal["n2v", "n2v2", "structn2v"] = Field(
        default="n2v",
        title="Variant",
        description="n2v: Noise2Void. n2v2: the same without the checkerboard patterns that it leaves in some images. "
        "structn2v: for noise that forms stripes (is correlated along an axis), as in the rows of some cameras and "
        "scanners.",
    )


class Noise2Void3DParameters(FlipZ, NoiseParameters):
    """Parameters of a Noise2Void 3D training."""

    variant: Literal["n2v", "structn2v"] = Field(
        default="n2v",
        title="Variant",
        description="n2v: Noise2Void. structn2v: for noise that forms stripes in the planes (is correlated along an "
        "axis), as in the rows of some cameras and scanners.",
    )
    patch_depth: int = Field(
        default=4,
        ge=4,
        le=512,
        multiple_of=4,
        title="Patch depth",
        description="Number of planes in a training patch; a multiple of 4, not more than your volumes have.",
    )


class DenoiSegParameters(BlindSpotParameters):
    """Parameters of a DenoiSeg training."""

    denoising_weight: float = Field(
        default=0.5,
        ge=0,
        le=1,
        title="Weight of denoising",
        description="Share of denoising in the loss (the error that training minimises); the rest is finding objects. "
        "At 0, images without annotations are ignored; at 1, finding objects is not trained.",
    )
    masked_percent: float = inherited(BlindSpotParameters, "masked_percent", default=1.5)
    network_depth: int = inherited(BlindSpotParameters, "network_depth", default=4)


_PRECISE = (
    "Number format in which the network computes. float32 (32 bits) by default: these networks output the grey values "
    "themselves, not a difference to the input, so that the rounding of shorter formats is visible in the image. auto: "
    "bfloat16 (16 bits; float16 on older GPUs) if the device is faster with it, which changed single pixels of small "
    "networks by up to 6 % of the image's range."
)


class NoisePredictionParameters(ImagePredictionParameters):
    """Parameters of a prediction with a Noise2Void model."""

    precision: Precision = inherited(PredictionParameters, "precision", default="float32", description=_PRECISE)


class DenoiSegPredictionParameters(PredictionParameters):
    """Parameters of a prediction with a DenoiSeg model."""

    precision: Precision = inherited(PredictionParameters, "precision", default="float32", description=_PRECISE)
    probability_threshold: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Probability threshold",
        description="Lowest probability at which a pixel belongs to an object; 0 takes the threshold that was chosen "
        "on the validation images.",
    )


def check_dataset(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if the patches do not fit the images or the network."""
    assert isinstance(parameters, BlindSpotParameters)
    axes = "ZYX" if isinstance(parameters, Noise2Void3DParameters) else "YX"
    depth = parameters.network_depth
    divisor = (2**depth,) * len(axes)
    check_patch_fits(parameters, axes, dataset, Roles().source, divisor=divisor, because=f"network_depth {depth}")
    if isinstance(parameters, DenoiSegParameters):
        check_labels(parameters, dataset)


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value
