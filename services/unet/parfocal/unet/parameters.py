"""The parameters of the U-Nets; differences from the notebooks are argued in the methods' pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.methods.augmenting import FlipZ, Intensity
from parfocal.runtime.methods.parameters import (
    Foreground,
    PredictionParameters,
    TrainingParameters,
    check_patch_fits,
    inherited,
)
from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import DatasetManifest

_MASK_VALUES = (0, 255)


class UnetParameters(Intensity, Foreground, TrainingParameters):
    """Common parameters of U-Net trainings in two and three dimensions; the defaults are those for two."""

    batch_size: int = inherited(TrainingParameters, "batch_size", default=4)
    patches_per_image: int = inherited(TrainingParameters, "patches_per_image", default=8)
    learning_rate: float = inherited(TrainingParameters, "learning_rate", default=3e-4)
    foreground_fraction: float = inherited(
        Foreground,
        "foreground_fraction",
        description="Fraction of the patches that must contain a pixel of another class than the background (an "
        "annotated pixel, if not all pixels are annotated); the others are cut at any position.",
    )
    augment_scale: float = inherited(Intensity, "augment_scale", default=0.5)
    augment_scale_probability: float = inherited(Intensity, "augment_scale_probability", default=0.5)
    foreground_value: int | None = Field(
        default=None,
        title="Foreground value",
        description="For masks with two values: the value of the pixels to be found, for example 0 if membranes are "
        "drawn black on white. Not set: the larger value. In label images every object is foreground.",
    )
    ignore_value: int | None = Field(
        default=None,
        title="Ignore value",
        description="Value of pixels that are not annotated, for example 0 if only a few strokes of each class were "
        "drawn, or 255 for unclear regions. They do not take part in the training. Not set: all pixels are annotated.",
    )
    loss: Literal["dice-cross-entropy", "cross-entropy", "focal"] = Field(
        default="dice-cross-entropy",
        title="Loss",
        description="Measure of error (loss) that the training minimises. cross-entropy: each pixel by itself, as in "
        "the notebooks. dice-cross-entropy: the overlap of regions (Dice) in addition, which suits small and thin "
        "structures. focal: cross-entropy that gives more weight to pixels that are still wrong.",
    )
    class_weights: Literal["auto", "balanced", "none"] = Field(
        default="auto",
        title="Class weights",
        description="How much pixels of each class count in the cross-entropy (the error per pixel). balanced: pixels "
        "of rare classes count more, so that each class counts the same in total. none: all pixels count the same. "
        "auto: balanced for the loss cross-entropy, as in the notebooks, otherwise none.",
    )
    boundary_weight: float = Field(
        default=0.0,
        ge=0,
        le=100,
        title="Boundary weight",
        description="How much more pixels at the boundary between classes count in the cross-entropy (the error per "
        "pixel): 4 makes them count 5 times. It helps to separate structures that nearly touch. 0: all pixels count "
        "the same.",
    )
    boundary_width: float = Field(
        default=3.0,
        gt=0,
        le=100,
        title="Boundary width",
        description="Distance from the boundary, in pixels, over which the boundary weight falls off (standard "
        "deviation of a Gaussian).",
    )

    @property
    def balanced(self) -> bool:
        """Whether classes are weighted by how rare they are."""
        return self.class_weights == "balanced" or (self.class_weights == "auto" and self.loss == "cross-entropy")

    @property
    def scales(self) -> tuple[tuple[int, ...], ...]:
        """For each level of the network, from the top, the pixels along each axis that one of its pixels stands for."""
        raise NotImplementedError

    @property
    def divisor(self) -> tuple[int, ...]:
        """Divisors of the side lengths of a patch, along each axis."""
        return self.scales[-1]

    def resolved(self, anisotropy: float) -> UnetParameters:  # noqa: ARG002
        """Return the parameters with what depends on the images.

        Parameters
        ----------
        anisotropy
            Distance of planes as a multiple of the pixel size in X; 1 where it is unknown.
        """
        return self


class Unet2DParameters(UnetParameters):
    """Parameters of a U-Net 2D training."""

    patch_size: int = inherited(
        TrainingParameters,
        "patch_size",
        default=256,
        description="Side length of the square training patches, in pixels: a multiple of 2 to the power of poolings, "
        "and not larger than your images.",
    )
    plateau_factor: float = inherited(TrainingParameters, "plateau_factor", default=0.1)
    poolings: int = Field(
        default=2,
        ge=1,
        le=5,
        title="Poolings",
        description="How many times the network halves the image. Each halving doubles the distance over which the "
        "network looks, and makes the network four times as large.",
    )
    first_filters: int = Field(
        default=64,
        ge=4,
        le=256,
        title="First filters",
        description="Number of filters (pattern detectors) of the network's first level, doubled at every further "
        "level. More filters can tell finer differences apart and are slower.",
    )

    @property
    def scales(self) -> tuple[tuple[int, ...], ...]:
        """For each level, from the top, the pixels along Y and X that one of its pixels stands for."""
        return tuple((2**level,) * 2 for level in range(self.poolings + 1))

    @property
    def reach(self) -> tuple[int, ...]:
        """How far an output pixel sees, in pixels along Y and X.

        The convolutions of 3 reach one pixel of their level: two on the way down, two on the way up, one more at the
        top. Those of 2 behind each enlargement reach one to the right and below. Pooling adds what lies in the same
        pixel of the lowest level.
        """
        return _reach(self.scales, up=3, more=1)


class Unet3DParameters(FlipZ, UnetParameters):
    """Parameters of a U-Net 3D training."""

    patch_size: int = Field(
        default=128,
        ge=8,
        le=2048,
        title="Patch size",
        description="Side length in Y and X of the training patches, in pixels: a multiple of 2 to the power of "
        "poolings, and not larger than your volumes.",
    )
    patch_depth: int = Field(
        default=8,
        ge=1,
        le=512,
        title="Patch depth",
        description="Number of planes in a training patch; not more than your volumes have.",
    )
    batch_size: int = inherited(UnetParameters, "batch_size", default=2)
    validation_fraction: float = inherited(UnetParameters, "validation_fraction", default=0.2)
    learning_rate: float = inherited(UnetParameters, "learning_rate", default=1e-3)
    plateau_patience: int = inherited(UnetParameters, "plateau_patience", default=50)
    poolings: int = Field(
        default=3,
        ge=1,
        le=4,
        title="Poolings",
        description="How many times the network halves the volume in Y and X. Each halving doubles the distance over "
        "which the network looks, and makes the network four times as large.",
    )
    z_poolings: int | None = Field(
        default=None,
        ge=0,
        le=4,
        title="Poolings in Z",
        description="How many times the network halves the volume in Z as well, on its lowest levels; at most as often "
        "as poolings. Not set: derived from the distance between planes, so that voxels become as high as wide, and "
        "limited by patch_depth.",
    )
    first_filters: int = Field(
        default=32,
        ge=2,
        le=128,
        title="First filters",
        description="Number of filters (pattern detectors) of the network's first layer; the second layer of each "
        "level has twice as many, and each level twice as many as the level above. More filters can tell finer "
        "differences apart and are slower.",
    )

    @property
    def scales(self) -> tuple[tuple[int, ...], ...]:
        """For each level, from the top, the voxels along Z, Y and X that one of its voxels stands for."""
        in_z = self._poolings_in_z(1.0)
        return tuple(
            (2 ** max(0, level - self.poolings + in_z), 2**level, 2**level) for level in range(self.poolings + 1)
        )

    @property
    def reach(self) -> tuple[int, ...]:
        """How far an output voxel sees, in voxels along Z, Y and X; see `Unet2DParameters.reach`."""
        return _reach(self.scales, up=2, more=0)

    def resolved(self, anisotropy: float) -> UnetParameters:
        """Return the parameters with the number of poolings in Z."""
        return self.model_copy(update={"z_poolings": self._poolings_in_z(anisotropy)})

    def _poolings_in_z(self, anisotropy: float) -> int:
        if self.z_poolings is not None:
            return self.z_poolings
        wanted = self.poolings - max(0, round(math.log2(anisotropy)))
        allowed = (self.patch_depth & -self.patch_depth).bit_length() - 1  # how often the depth can be halved
        return max(0, min(wanted, allowed))


class UnetPredictionParameters(PredictionParameters):
    """Parameters of a prediction with a U-Net."""

    threshold: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Threshold",
        description="For two classes: lowest probability at which a pixel is taken for foreground. 0 takes the "
        "threshold that gave the best result on the model's validation images. For more classes it is ignored: the "
        "most probable class is taken.",
    )
    probabilities: bool = Field(
        default=False,
        title="Probabilities",
        description="Also write an image of the probability of each class.",
    )
    smallest_object: float = Field(
        default=0.0,
        ge=0,
        title="Smallest object",
        description="Connected regions of a class that are smaller than this become background. Area, or volume in "
        "three dimensions, in the unit of sizes; 0 keeps all.",
    )
    largest_hole: float = Field(
        default=0.0,
        ge=0,
        title="Largest hole",
        description="Holes (background enclosed by other classes) up to this size are filled with the class around "
        "them. Area, or volume in three dimensions, in the unit of sizes; 0 keeps all.",
    )
    size_unit: Literal["um", "pixels"] = Field(
        default="um",
        title="Unit of sizes",
        description="Unit of the smallest object and of the largest hole. um: square or cubic micrometres, which "
        "requires images with a known pixel size. pixels: number of pixels.",
    )
    instances: Literal["none", "components", "watershed"] = Field(
        default="none",
        title="Instances",
        description="Also number single objects, and write a table and ImageJ regions of them. components: connected "
        "pixels of a class are one object. watershed: touching objects are separated where they are narrow.",
    )
    seed_distance: int = Field(
        default=7,
        ge=1,
        le=1000,
        title="Seed distance",
        description="For watershed: smallest distance between the centres of two touching objects, in pixels. A larger "
        "distance splits fewer objects.",
    )


def class_values(parameters: UnetParameters, dataset: DatasetManifest) -> tuple[int, ...]:
    """Return the value of each class in the class images of a dataset, the background first; () for label images.

    Raises
    ------
    InvalidInputError
        foreground_value is not one of two classes, a value is named for label images, or less than two classes are
        left.
    """
    named = {"foreground_value": parameters.foreground_value, "ignore_value": parameters.ignore_value}
    if not dataset.image_class_values:
        if wrong := [name for name, value in named.items() if value is not None]:
            raise InvalidInputError(
                f"The dataset {dataset.dataset!r} has label images, of which 0 is background, every object foreground, "
                f"and numbers below 0 are not annotated. Leave out {' and '.join(wrong)}, or create the dataset with "
                "--kind classes.",
                [Violation(name, "is for class images, and these are label images") for name in wrong],
            )
        return ()
    values = tuple(value for value in dataset.image_class_values if value != parameters.ignore_value)
    listed = ", ".join(map(str, dataset.image_class_values))
    if len(values) < 2:
        raise InvalidInputError(
            f"The class images of {dataset.dataset!r} have the values {listed}: two or more classes are required. "
            "Annotate a second class, for example the background, or correct ignore_value.",
            [Violation("ignore_value", f"leaves {len(values)} of the values {listed}")],
        )
    foreground = parameters.foreground_value
    if foreground is None:
        return values
    if foreground not in values or len(values) > 2:
        raise InvalidInputError(
            f"foreground_value {foreground} says which of two values is the foreground, and the classes of "
            f"{dataset.dataset!r} have {', '.join(map(str, values))}. "
            + ("Leave it out: with several classes, all are found." if len(values) > 2 else "Choose one of them."),
            [
                Violation(
                    "foreground_value", f"must be one of two values; the classes have {', '.join(map(str, values))}"
                )
            ],
        )
    return (values[0] if foreground == values[1] else values[1], foreground)


def written_values(values: Sequence[int]) -> tuple[int, ...]:
    """Return the value that each class has in predictions: its own, or those of a mask where there were labels."""
    return tuple(values) or _MASK_VALUES


def check_dataset(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if patches do not fit network or images, or the classes cannot be told apart."""
    assert isinstance(parameters, UnetParameters)
    axes = "YX"
    if isinstance(parameters, Unet3DParameters):
        axes = "ZYX"
        if (parameters.z_poolings or 0) > parameters.poolings:
            raise InvalidInputError(
                f"z_poolings {parameters.z_poolings} is larger than poolings {parameters.poolings}: volumes can be "
                "halved in Z only on levels where they are halved in Y and X. Change one of them.",
                [Violation("z_poolings", f"must be at most poolings, {parameters.poolings}")],
            )
    class_values(parameters, dataset)
    because = "poolings and z_poolings" if len(axes) == 3 else "poolings"
    check_patch_fits(parameters, axes, dataset, divisor=parameters.divisor, because=because)


def _reach(scales: Sequence[tuple[int, ...]], *, up: int, more: int) -> tuple[int, ...]:
    """Return how far a U-Net sees along each axis, in pixels.

    There are two convolutions for each level on the way down and at the bottom, `up` on the way up, and `more` at the
    top.
    """
    *levels, bottom = scales
    return tuple(
        sum((2 + up) * scale[axis] for scale in levels) + 2 * lowest + more + lowest - 1
        for axis, lowest in enumerate(bottom)
    )
