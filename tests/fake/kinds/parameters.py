"""The parameters of the tiny methods: of each mixin those that act."""

from __future__ import annotations

from pydantic import Field

from parfocal.runtime.methods.augmenting import Flips
from parfocal.runtime.methods.parameters import (
    Arithmetic,
    ConstantRate,
    Epochs,
    Foreground,
    LinearDecayRate,
    Patches,
    PlateauRate,
    Validation,
)
from parfocal.runtime.methods.roles import Roles, TrainingBase
from parfocal.runtime.store.manifests import DatasetManifest


class Pause(TrainingBase):
    """Time to interrupt."""

    pause_seconds: float = Field(
        default=0.0, ge=0, le=10, title="Pause", description="Wait after each step, to test interruptions."
    )


class Small(Pause, Arithmetic, Validation, Patches, Epochs):
    """Small patches and few of them."""

    epochs: int = Field(default=4, ge=1, le=1000, title="Epochs", description="Rounds through the data.")
    patch_size: int = Field(default=16, ge=8, le=512, title="Patch size", description="Side length in pixels.")
    batch_size: int = Field(default=4, ge=1, le=64, title="Batch size", description="Patches per step.")
    patches_per_image: int = Field(
        default=4, ge=1, le=1000, title="Patches per image", description="Patches per epoch."
    )
    validation_fraction: float = Field(
        default=0.2, gt=0, lt=0.9, title="Validation fraction", description="Part that is held out."
    )


class LabelParameters(Foreground, Flips, PlateauRate, Small):
    """Parameters of trainings on label images."""

    learning_rate: float = Field(default=0.05, gt=0, le=1, title="Learning rate", description="Size of the steps.")
    plateau_patience: int = Field(default=1, ge=1, le=9, title="Patience", description="Epochs to wait.")


class SmallParameters(Flips, PlateauRate, Small):
    """Parameters of trainings on class images, boxes and coordinates."""

    learning_rate: float = Field(default=0.05, gt=0, le=1, title="Learning rate", description="Size of the steps.")


class SourceParameters(Flips, ConstantRate, Small):
    """Parameters of trainings on images without targets."""

    learning_rate: float = Field(default=0.02, gt=0, le=1, title="Learning rate", description="Size of the steps.")

    def roles(self, dataset: DatasetManifest) -> Roles:  # noqa: ARG002
        """Return that there are no targets."""
        return Roles(targets=())


class UnpairedParameters(Flips, LinearDecayRate, Small):
    """Parameters of trainings on unpaired images."""

    learning_rate: float = Field(default=0.02, gt=0, le=1, title="Learning rate", description="Size of the steps.")
    decay_epochs: int = Field(default=2, ge=0, le=1000, title="Decay epochs", description="Over which it falls.")
