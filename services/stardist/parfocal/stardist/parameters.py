"""The parameters of StarDist and SplineDist; defaults follow the ZeroCostDL4Mic notebooks.

Differences are argued in the pages of the methods.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

from pydantic import Field, field_validator

from parfocal.runtime.methods.augmenting import FlipZ
from parfocal.runtime.methods.object_checks import check_labels, large_objects
from parfocal.runtime.methods.parameters import (
    ClassTrainingParameters,
    PredictionParameters,
    check_patch_fits,
    inherited,
)
from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import DatasetManifest

_GRIDS = (1, 2, 4, 8, 16)


class NetworkParameters(ClassTrainingParameters):
    """Common parameters of trainings of StarDist's networks; the defaults are those for two dimensions."""

    patch_size: int = Field(
        default=128,
        ge=16,
        le=2048,
        multiple_of=16,
        title="Patch size",
        description="Side length of the square training patches, in pixels; a multiple of 16, not larger than your "
        "images, and larger than the largest object.",
    )
    batch_size: int = inherited(ClassTrainingParameters, "batch_size", default=4)
    patches_per_image: int = inherited(
        ClassTrainingParameters,
        "patches_per_image",
        default=4,
        description="Number of patches cut from each image in every epoch, at random positions that change from epoch "
        "to epoch. Raise it for few or large images: an epoch should have at least 50 training steps.",
    )
    learning_rate: float = inherited(ClassTrainingParameters, "learning_rate", default=3e-4)
    plateau_patience: int = inherited(ClassTrainingParameters, "plateau_patience", default=40)
    grid: int = Field(
        default=2,
        ge=1,
        le=16,
        title="Grid",
        description="Objects are proposed at every pixel (1), every second pixel (2), 4, 8 or 16. A coarser grid is "
        "faster and sees larger objects whole; an object must be several grid steps wide.",
    )
    network_depth: int = Field(
        default=3,
        ge=1,
        le=5,
        title="Network depth",
        description="How many times the network (a U-Net) halves the image, after the grid has reduced it. A deeper "
        "network sees larger objects whole.",
    )
    first_filters: int = Field(
        default=32,
        ge=4,
        le=256,
        title="First filters",
        description="Number of filters (pattern detectors) of the network's first level, doubled at every further "
        "level. More filters can represent finer differences and are slower.",
    )

    @property
    def divisor(self) -> tuple[int, ...]:
        """Divisors of the side lengths of a patch, for Y and X."""
        return (self.grid * 2**self.network_depth,) * 2

    @property
    def field_of_view(self) -> tuple[int, ...]:
        """How far the network sees from a pixel in each direction, in pixels along Y and X, by its convolutions."""
        return (_seen(self.network_depth, self.grid),) * 2

    @field_validator("grid")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if not math.log2(value).is_integer():
            raise ValueError("must be 1, 2, 4, 8 or 16")
        return value


class PlanarParameters(NetworkParameters, ABC):
    """Common parameters of trainings in two dimensions."""

    @property
    @abstractmethod
    def outline_outputs(self) -> int:
        """How many numbers describe an outline."""


class StarDist2DParameters(PlanarParameters):
    """Parameters of a StarDist 2D training."""

    rays: int = Field(
        default=32,
        ge=8,
        le=256,
        multiple_of=4,
        title="Rays",
        description="Number of directions in which the distance to the outline is predicted, which is the number of "
        "corners of the polygon around an object. 32 suits round nuclei; 64 or more follow finer outlines and take "
        "longer.",
    )

    @property
    def outline_outputs(self) -> int:
        """A distance for each ray."""
        return self.rays


class SplineDist2DParameters(PlanarParameters):
    """Parameters of a SplineDist 2D training."""

    control_points: int = Field(
        default=16,
        ge=4,
        le=64,
        title="Control points",
        description="Number of points that define the smooth outline of an object. 8 suit ovals, 16 suit outlines with "
        "dents or a waist; more follow finer outlines, take longer to train and require more images.",
    )

    @property
    def outline_outputs(self) -> int:
        """A distance and an angle for each control point."""
        return 2 * self.control_points


class StarDist3DParameters(FlipZ, NetworkParameters):
    """Parameters of a StarDist 3D training."""

    patch_size: int = Field(
        default=96,
        ge=16,
        le=1024,
        multiple_of=4,
        title="Patch size",
        description="Side length of the training patches in Y and X, in pixels; a multiple of 4, not larger than your "
        "volumes, and larger than the largest object.",
    )
    patch_depth: int = Field(
        default=48,
        ge=4,
        le=512,
        multiple_of=4,
        title="Patch depth",
        description="Number of planes in a training patch; a multiple of 4, not more than your volumes have.",
    )
    batch_size: int = inherited(NetworkParameters, "batch_size", default=2)
    patches_per_image: int = inherited(
        NetworkParameters,
        "patches_per_image",
        default=8,
        description="Number of patches cut from each volume in every epoch, at random positions that change from epoch "
        "to epoch.",
    )
    rays: int = Field(
        default=96,
        ge=16,
        le=512,
        multiple_of=4,
        title="Rays",
        description="Number of directions, evenly spread over the sphere, in which the distance to the surface of an "
        "object is predicted. More directions follow finer surfaces and take longer.",
    )
    grid: int = inherited(
        NetworkParameters,
        "grid",
        description="In Y and X objects are proposed at every pixel (1), every second pixel (2), 4, 8 or 16; in Z in "
        "every plane. A coarser grid is faster; an object must be several grid steps wide.",
    )
    anisotropy: float = Field(
        default=0.0,
        ge=0,
        le=100,
        title="Anisotropy",
        description="Distance between planes divided by the size of a pixel in Y and X. 0 measures it on the labels, "
        "whose objects are assumed to be round on average.",
    )
    backbone: Literal["unet", "resnet"] = Field(
        default="unet",
        title="Backbone",
        description="Type of network. unet takes more of the surroundings into account and is faster on processors "
        "without a GPU; resnet is the network of the published models for dense nuclei.",
    )
    network_depth: int = Field(
        default=2,
        ge=1,
        le=4,
        title="Network depth",
        description="How many times a unet halves the volume, in all three directions; ignored by a resnet.",
    )

    @property
    def divisor(self) -> tuple[int, ...]:
        """Divisors of the side lengths of a patch, for Z, Y and X."""
        halved = 2**self.network_depth if self.backbone == "unet" else 1
        return (halved, halved * self.grid, halved * self.grid)

    @property
    def field_of_view(self) -> tuple[int, ...]:
        """How far the network sees from a voxel in each direction, in pixels along Z, Y and X, by its convolutions."""
        if self.backbone == "unet":
            return (_seen(self.network_depth, 1), *(_seen(self.network_depth, self.grid),) * 2)
        return (_seen_by_resnet(1), *(_seen_by_resnet(self.grid),) * 2)


class StarDistPredictionParameters(PredictionParameters):
    """Parameters of a prediction with a model of StarDist or SplineDist."""

    probability_threshold: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Probability threshold",
        description="Lowest probability, 0 to 1, of an object that is kept. A lower threshold finds more objects and "
        "gives more false positives (objects that are not there); 0 takes the threshold that gave the best result on "
        "the model's validation images.",
    )
    overlap_threshold: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Overlap threshold",
        description="Of two proposed objects that share more than this fraction of the area of the smaller one, only "
        "the more probable one is kept. 0 takes the threshold that gave the best result on the model's validation "
        "images.",
    )


def check_dataset(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if the patches do not fit network or images, or the targets cannot be labels."""
    assert isinstance(parameters, NetworkParameters)
    axes = "ZYX" if isinstance(parameters, StarDist3DParameters) else "YX"
    check_labels(parameters, dataset)
    because = f"grid {parameters.grid} and network_depth {parameters.network_depth}"
    check_patch_fits(parameters, axes, dataset, divisor=parameters.divisor, because=because)


def advise(parameters: Parameters, dataset: DatasetManifest) -> list[str]:
    """Return that objects are larger than what the network sees, if they are: it would find them in parts."""
    assert isinstance(parameters, NetworkParameters)
    axes = "ZYX" if isinstance(parameters, StarDist3DParameters) else "YX"
    grids = [parameters.model_copy(update={"grid": grid}) for grid in _GRIDS if grid >= parameters.grid]
    return large_objects(dataset, axes, grids, "grid")


def _seen(depth: int, grid: int) -> int:
    """Return how many pixels a U-Net of stardist sees in each direction, by the radii of its convolutions.

    Two convolutions of radius 1 at each level on the way down and up and at the bottom, and one behind them, on a grid;
    two before each halving that makes the grid.
    """
    levels = 1 << depth
    return grid * (1 + 2 * levels + 4 * (levels - 1)) + 2 * (grid - 1)


def _seen_by_resnet(grid: int) -> int:
    """Return how many pixels the ResNet of stardist sees in each direction, by the radii of its convolutions.

    One of radius 3 and one of radius 1, four blocks of three, of which the first ones halve until the grid is
    reached, and one behind them.
    """
    seen, scale = 4, 1
    for _ in range(4):
        seen += scale
        scale *= 2 if scale < grid else 1
        seen += 2 * scale
    return seen + scale
