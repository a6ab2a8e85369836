"""Parameters that many methods share. A method inherits them and changes a default where its publication does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import Any, Literal, Protocol

import numpy as np
from annotated_types import Ge, MultipleOf
from pydantic import Field

from parfocal.runtime.datasets.classes import CLASS_ROLE, MOST_CLASSES
from parfocal.runtime.datasets.findings import some
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.methods.augmenting import Flips, Intensity, Warps
from parfocal.runtime.methods.roles import Roles, TrainingBase
from parfocal.runtime.methods.schedule import Constant, LinearDecay, Plateau, Schedule
from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import UNCERTAINTY, DatasetManifest


def inherited(parent: type[Parameters], name: str, *, default: Any = None, description: str = "") -> Any:
    """Return a field of a parent with another default or description, for the class that inherits it.

    Title and limits stay the parent's, so that what is the same is written once. A field with other limits is written
    anew.

    Parameters
    ----------
    parent, name
        Class and name of the field.
    default
        The new default; None keeps the parent's.
    description
        The new description; empty keeps the parent's.
    """
    field = copy(parent.model_fields[name])
    if default is not None:
        field.default = default
    if description:
        field.description = description
    return field


Precision = Literal["auto", "float32", "bfloat16"]


class TrainingSettings(Protocol):
    """Requirements of the training loop on parameters, which the mixins meet."""

    @property
    def seed(self) -> int:
        """Start of all random choices."""

    @property
    def precision(self) -> Precision:
        """Arithmetic that is required."""

    def total_epochs(self, steps_per_epoch: int) -> int:
        """Return the epochs to train."""

    def schedule(self) -> Schedule:
        """Return how the learning rate changes."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return the parameters as values; JSON values with the mode "json"."""


class Epochs(TrainingBase):
    """The number of epochs."""

    epochs: int = Field(
        default=100,
        ge=1,
        le=100_000,
        title="Epochs",
        description="How many times the training goes through all images. More epochs help until the loss on the "
        "validation images (the error on images that are held out) stops falling.",
    )

    def total_epochs(self, steps_per_epoch: int) -> int:  # noqa: ARG002
        """Return the epochs to train; a method that counts in steps derives them from `steps_per_epoch`."""
        return self.epochs


class Patches(TrainingBase):
    """Square patches, cut at random."""

    patch_size: int = Field(
        default=64,
        ge=8,
        le=4096,
        title="Patch size",
        description="Side length of the square training patches, in pixels; not larger than your images.",
    )
    batch_size: int = Field(
        default=16,
        ge=1,
        le=1024,
        title="Batch size",
        description="Number of patches in one training step. Fewer patches require less memory.",
    )
    patches_per_image: int = Field(
        default=50,
        ge=1,
        le=100_000,
        title="Patches per image",
        description="Number of patches cut from each image in every epoch, at random positions that change from epoch "
        "to epoch.",
    )

    def patch_shape(self, axes: str) -> tuple[int, ...]:
        """Return the shape in pixels of a patch with these spatial axes, for example "YX".

        Methods for volumes have a `patch_depth`, its length along Z. Patches of stacks of frames are of single frames.
        """
        return tuple(getattr(self, _edge(axis)) for axis in axes if axis != "T")


class Validation(TrainingBase):
    """Images that are held out."""

    validation_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=0.9,
        title="Validation fraction",
        description="Fraction of the training images that is held out to measure progress (the validation set): whole "
        "images, not patches.",
    )


class PlateauRate(TrainingBase):
    """A learning rate that is reduced when the validation loss stops falling."""

    learning_rate: float = Field(
        default=4e-4,
        gt=0,
        le=1,
        title="Learning rate",
        description="How strongly each training step changes the network, at the start. It is reduced whenever the "
        "validation loss stops falling.",
    )
    plateau_patience: int = Field(
        default=10,
        ge=1,
        le=100_000,
        title="Plateau patience",
        description="Number of epochs without a better validation loss (error on the held-out images) after which the "
        "learning rate is reduced.",
    )
    plateau_factor: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        title="Plateau factor",
        description="Factor by which the learning rate is multiplied when it is reduced.",
    )

    def schedule(self) -> Schedule:
        """Return the schedule."""
        return Plateau(self.learning_rate, self.plateau_factor, self.plateau_patience)


class LinearDecayRate(Epochs):
    """A learning rate that stays as it is and falls linearly to 0 over the last epochs."""

    learning_rate: float = Field(
        default=2e-4,
        gt=0,
        le=1,
        title="Learning rate",
        description="How strongly each training step changes the network, until the learning rate begins to fall.",
    )
    decay_epochs: int = Field(
        default=100,
        ge=0,
        le=100_000,
        title="Decay epochs",
        description="Number of epochs at the end over which the learning rate falls to 0; 0 keeps it constant.",
    )

    def schedule(self) -> Schedule:
        """Return the schedule."""
        decay = min(self.decay_epochs, self.epochs)
        return LinearDecay(self.learning_rate, self.epochs - decay, decay)


class ConstantRate(TrainingBase):
    """A learning rate that stays as it is."""

    learning_rate: float = Field(
        default=4e-4,
        gt=0,
        le=1,
        title="Learning rate",
        description="How strongly each training step changes the network.",
    )

    def schedule(self) -> Schedule:
        """Return the schedule."""
        return Constant(self.learning_rate)


class Foreground(TrainingBase):
    """Patches that are asked to show an object."""

    foreground_fraction: float = Field(
        default=0.9,
        ge=0,
        le=1,
        title="Foreground fraction",
        description="Fraction of the patches that must contain an object; the others are cut at any position.",
    )


class ObjectClasses(TrainingBase):
    """A class of each object besides its label."""

    classes: int = Field(
        default=0,
        ge=0,
        le=MOST_CLASSES,
        title="Classes",
        description="Number of classes of objects to tell apart, for example 2 for dividing and not dividing; 0: none. "
        f"The dataset must then have a folder {CLASS_ROLE} beside target: images in which the pixels of each object "
        "hold the number of its class from 1, or 0 if it is unknown.",
    )

    def roles(self, dataset: DatasetManifest) -> Roles:
        """Return label images and, where classes are trained on, class images; raise InvalidInputError without them."""
        if not self.classes:
            return Roles()
        if dataset.images and not dataset.select("train", CLASS_ROLE):
            raise InvalidInputError(
                f"The dataset {dataset.dataset!r} (version {dataset.version}) has no class images, which a training "
                f"with classes = {self.classes} requires. Create it with a folder train/{CLASS_ROLE} beside "
                "train/target, or set classes to 0.",
                [Violation("classes", f"the dataset has no images {CLASS_ROLE!r}")],
            )
        return Roles(targets=(*Roles().targets, CLASS_ROLE))


class Arithmetic(TrainingBase):
    """Random choices and precision."""

    seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        title="Seed",
        description="Number from which all random choices follow. The same seed and data give the same model on the "
        "same machine.",
    )
    precision: Precision = Field(
        default="auto",
        title="Precision",
        description="Number format in which the network computes. auto: bfloat16 (16 bits, faster) if the device is "
        "made for it, otherwise float32 (32 bits).",
    )


class TrainingParameters(Arithmetic, Warps, Flips, PlateauRate, Validation, Patches, Epochs):
    """Parameters of trainings on patches whose learning rate follows the validation loss."""


class LabelTrainingParameters(Intensity, Foreground, TrainingParameters):
    """Further parameters of trainings on label images."""


class ClassTrainingParameters(ObjectClasses, LabelTrainingParameters):
    """Parameters of trainings on label images that can also be trained on a class of each object."""


def check_patch_fits(
    parameters: Patches,
    axes: str,
    dataset: DatasetManifest,
    role: str = "target",
    *,
    divisor: Sequence[int] = (),
    because: str = "",
) -> None:
    """Raise InvalidInputError if patches do not fit the network or the training images, and name what to change.

    Parameters
    ----------
    parameters
        Parameters of the training; `patch_depth` is the length of a patch along Z, `patch_size` that along Y and X.
    axes
        Axes of one image of the method, e.g. "ZYX".
    dataset, role
        Dataset and role of the training images to check.
    divisor
        Divisor along each axis of the side lengths of a patch that the network requires; empty: none.
    because
        The parameters that decide on the divisor, for example "network_depth 3".
    """
    patch = parameters.patch_shape(axes)
    for axis, length, step in zip(axes, patch, divisor or (1,) * len(patch), strict=True):
        if length % step:
            name = _edge(axis)
            raise InvalidInputError(
                f"{name} {length} is not a multiple of {step}, as required by {because}. Change one of them.",
                [Violation(name, f"must be a multiple of {step}")],
            )
    small = [
        image for image in dataset.select("train", role) if any(np.less(image.spatial_shape[-len(patch) :], patch))
    ]
    if not small:
        return
    wanted = " x ".join(map(str, patch))
    shapes = [f"{image.file} {' x '.join(map(str, image.shape))}" for image in small]
    least = np.min([image.spatial_shape[-len(patch) :] for image in small], axis=0)
    cures: dict[str, int | None] = {}
    for axis, length, there, step in zip(axes, patch, least.tolist(), divisor or (1,) * len(patch), strict=True):
        name = _edge(axis)
        if there < length:
            fitting = _largest(parameters, name, there, step)
            known = cures.get(name, fitting)
            cures[name] = None if known is None or fitting is None else min(known, fitting)
    impossible = [name for name, value in cures.items() if value is None]
    if impossible:
        cure = f"No {' and no '.join(impossible)} of this method fits them: leave them out"
        cure += ", or use a method for single planes." if "patch_depth" in impossible else "."
    else:
        chosen = " and ".join(f"{name} {value}" for name, value in cures.items())
        cure = f"Choose {chosen} or less, or leave {'these images' if len(small) > 1 else 'it'} out."
    raise InvalidInputError(
        f"{len(small)} training image{'s are' if len(small) > 1 else ' is'} smaller than a patch of {wanted} pixels: "
        f"{some(shapes)}. {cure}",
        [
            *(
                Violation(name, f"is more than the images have along {'Z' if name == 'patch_depth' else 'Y or X'}")
                for name in cures
            ),
            *(Violation(image.file, f"is smaller than a patch of {wanted}") for image in small),
        ],
    )


def _edge(axis: str) -> str:
    """Return the parameter that is the length of a patch along an axis."""
    return "patch_depth" if axis == "Z" else "patch_size"


def _largest(parameters: Patches, name: str, most: int, step: int) -> int | None:
    """Return the largest value that a parameter may have up to a limit, a multiple of `step`; None if there is none."""
    limits = type(parameters).model_fields[name].metadata
    multiple = next((each.multiple_of for each in limits if isinstance(each, MultipleOf)), 1)
    least = next((each.ge for each in limits if isinstance(each, Ge)), 1)
    step = math.lcm(int(step), int(multiple))  # type: ignore[call-overload]
    value = most // step * step
    return value if value >= max(1, int(least)) else None  # type: ignore[call-overload]


class PredictionParameters(Parameters):
    """Parameters of every prediction."""

    weights: str = Field(
        default="best",
        min_length=1,
        max_length=64,
        title="Weights",
        description="Which of the saved weights (states of the network) to use. best: those with the best result on "
        "the validation images; last: those of the last epoch. `parfocal models show` lists all weights of a model.",
    )
    tile_size: int = Field(
        default=0,
        ge=0,
        le=65536,
        title="Tile size",
        description="Side length, in pixels, of the tiles in which large images are processed; 0 chooses it by the "
        "free memory. Tiles are never smaller than the network's receptive field (the area that influences one output "
        "pixel) requires.",
    )
    precision: Precision = Field(
        default="auto",
        title="Precision",
        description="Number format in which the network computes. auto: bfloat16 (16 bits; float16 on older GPUs) with "
        "the last layers in float32 if the device is faster this way, otherwise float32. Grey values are as fine as "
        "with float32 and change by a few thousandths of their range at most. float32: always 32 bits, for comparisons "
        "between machines.",
    )

    @property
    def like_input(self) -> bool:
        """Whether intensities are converted to the type of the input."""
        return False

    @property
    def backwards(self) -> bool:
        """Whether images of the model's targets are turned into images of its inputs; few methods can do that."""
        return False

    @property
    def wants_uncertainty(self) -> bool:
        """Whether the uncertainty of a prediction is asked for; methods that know it have a field of that name."""
        return bool(getattr(self, UNCERTAINTY, False))


class ImagePredictionParameters(PredictionParameters):
    """Parameters of every prediction that turns images into images."""

    output_dtype: Literal["float32", "like-input"] = Field(
        default="float32",
        title="Type of the output",
        description="float32 keeps the exact grey values; like-input rounds and clips them to the data type of the "
        "input (never for an uncertainty map).",
    )

    @property
    def like_input(self) -> bool:
        """Whether intensities are converted to the type of the input."""
        return self.output_dtype == "like-input"
