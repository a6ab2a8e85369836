"""The parameters of fnet; differences from the publication and the notebooks are argued in the method's page."""

from __future__ import annotations

import math

from pydantic import Field

from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.methods.augmenting import FlipZ
from parfocal.runtime.methods.parameters import (
    ImagePredictionParameters,
    TrainingParameters,
    check_patch_fits,
    inherited,
)
from parfocal.runtime.methods.roles import Roles
from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import DatasetManifest


class FnetParameters(TrainingParameters):
    """Common parameters of fnet trainings in two and three dimensions; the defaults are those for two."""

    source: str = Field(
        default="source",
        pattern="^source(_[A-Za-z0-9-]+)?$",
        title="Source",
        description="Which images of the dataset the model predicts from: the name of their folder, for example source "
        "or source_zstack. Of a stack, a two-dimensional model takes the planes as channels of its input.",
    )
    targets: str = Field(
        default="",
        pattern="^(target(_[A-Za-z0-9-]+)?( *, *target(_[A-Za-z0-9-]+)?)*)?$",
        title="Targets",
        description="Which targets to train on, separated by commas, for example target,target_DAPI: one model "
        "predicts all of them. Empty: all targets of the dataset.",
    )
    steps: int = Field(
        default=0,
        ge=0,
        le=10_000_000,
        title="Steps",
        description="Total number of training steps, one batch of patches each, in place of epochs (rounded up to "
        "whole epochs); 0: the number of epochs counts.",
    )
    patch_size: int = Field(
        default=128,
        ge=16,
        le=2048,
        multiple_of=16,
        title="Patch size",
        description="Side length of the square training patches, in pixels; a multiple of 16, not larger than your "
        "images.",
    )
    learning_rate: float = inherited(TrainingParameters, "learning_rate", default=1e-3)
    augment_flip: bool = inherited(
        TrainingParameters,
        "augment_flip",
        description="Mirror patches at random. Switch it off for oblique illumination and differential interference "
        "contrast, whose shadows have a direction.",
    )
    augment_rotate: bool = inherited(
        TrainingParameters,
        "augment_rotate",
        description="Turn patches by 0, 90, 180 or 270 degrees at random. Switch it off for oblique illumination and "
        "differential interference contrast.",
    )
    first_filters: int = Field(
        default=32,
        ge=4,
        le=256,
        title="First filters",
        description="Number of filters (pattern detectors) of the network's first level, doubled at each of the four "
        "further levels. More filters can represent finer differences and are slower.",
    )

    def total_epochs(self, steps_per_epoch: int) -> int:
        """Return the number of epochs, or as many epochs as hold the requested steps."""
        return math.ceil(self.steps / steps_per_epoch) if self.steps else self.epochs

    def roles(self, dataset: DatasetManifest) -> Roles:
        """Return the requested roles; raise InvalidInputError if a target is named twice."""
        named = tuple(name.strip() for name in self.targets.split(",") if name.strip())
        if len(set(named)) != len(named):
            raise InvalidInputError("targets names an image twice.", [Violation("targets", "name each target once")])
        return Roles(self.source, named or dataset.roles("target"))


class Fnet2DParameters(FnetParameters):
    """Parameters of an fnet 2D training."""


class Fnet3DParameters(FlipZ, FnetParameters):
    """Parameters of an fnet 3D training."""

    patch_size: int = Field(
        default=64,
        ge=16,
        le=1024,
        multiple_of=16,
        title="Patch size",
        description="Side length of the training patches in Y and X, in pixels; a multiple of 16, not larger than your "
        "volumes.",
    )
    patch_depth: int = Field(
        default=32,
        ge=16,
        le=512,
        multiple_of=16,
        title="Patch depth",
        description="Number of planes in a training patch; a multiple of 16, not more than your volumes have.",
    )
    batch_size: int = inherited(FnetParameters, "batch_size", default=4)


class FnetPredictionParameters(ImagePredictionParameters):
    """Parameters of a prediction with an fnet model."""


def check_dataset(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if the images are smaller than a patch, or steps have too few pixels."""
    assert isinstance(parameters, FnetParameters)
    axes = "ZYX" if isinstance(parameters, Fnet3DParameters) else "YX"
    if parameters.batch_size == 1 and set(parameters.patch_shape(axes)) == {16}:
        # The lowest level would have one value for each channel, which has no spread to normalise by.
        raise InvalidInputError(
            "A single patch with sides of 16 pixels is too small for a training step of fnet. Choose a batch_size of 2 "
            "or more, or a larger patch_size.",
            [Violation("batch_size", "must be 2 or more with patches of 16 pixels")],
        )
    check_patch_fits(parameters, axes, dataset, parameters.roles(dataset).targets[0])
