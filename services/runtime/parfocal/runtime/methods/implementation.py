"""What training and prediction need of a framework and of a method, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.store.manifests import ModelManifest

Arrays = Mapping[str, NDArray[Any]]
Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]

UNCERTAINTY: Final = "uncertainty"
"""The output that says how far a prediction may be off, in the units of the image."""


class Learner(Protocol):
    """A network with its loss and optimiser, whatever framework it is made of.

    Batches have the method's axes with a leading batch axis and a trailing channel axis, float32. The state is
    complete: once weights and optimiser are set again training goes on bit for bit as if it had never stopped.
    """

    learning_rate: float

    def train_batch(self, inputs: NDArray[np.float32], targets: Any) -> float:
        """Do one step of optimisation and return the loss of the batch before it.

        `targets` are what `Implementation.prepare_targets` made: by default an array like the inputs.
        """

    def validate_batch(self, inputs: NDArray[np.float32], targets: Any) -> float:
        """Return the loss of a batch without learning from it."""

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's output for a batch."""

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all weights."""

    def set_weights(self, weights: Arrays) -> None:
        """Replace all weights; raise InvalidInputError if they are of another network."""

    def optimiser_state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all variables of the optimiser."""

    def set_optimiser_state(self, state: Arrays) -> None:
        """Replace all variables of the optimiser."""


@dataclass(frozen=True)
class Geometry:
    """How a network may be applied piece by piece: legal sizes, and how far an output pixel sees.

    Attributes
    ----------
    divisor
        The axes of an input must be multiples of this many pixels: one number for all, or one for each.
    overlap
        Pixels by which neighbouring tiles must overlap so that tiled equals untiled, likewise.
    output_channels
        Channels of the raw output.
    """

    divisor: int | tuple[int, ...]
    overlap: int | tuple[int, ...]
    output_channels: int


@dataclass(frozen=True)
class Tiling:
    """How an image is to be cut for a network, and whom to tell.

    Attributes
    ----------
    most_pixels
        The most pixels that a tile may have.
    on_tile
        Called with the tiles done and all of them; may raise to end the prediction.
    """

    most_pixels: int
    on_tile: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class Channels:
    """What goes into a network and what it learns: found in the dataset, recorded in the model.

    Attributes
    ----------
    inputs
        Channels of an input image.
    targets
        The dataset's roles that are learnt, in the order of the network's outputs.
    """

    inputs: int = 1
    targets: tuple[str, ...] = ("target",)


def model_channels(model: ModelManifest) -> Channels:
    """Return the channels that a model was trained with."""
    return Channels(model.input_channels, tuple(model.channels.get("targets", ("target",))))


def wanted_outputs(parameters: PredictionParameters, channels: Channels) -> list[str]:
    """Return the names of the outputs that these parameters ask for, the prediction first."""
    uncertainty = [UNCERTAINTY] if getattr(parameters, "uncertainty", False) else []
    return ["prediction", *channels.targets[1:], *uncertainty]


class Implementation(ABC):
    """One method, as the runtime drives it in a worker. A method derives from one of the two kinds below.

    Attributes
    ----------
    normaliser
        The rule by which images are brought to one scale.
    """

    normaliser = Normaliser()

    @abstractmethod
    def build(self, parameters: Any, channels: Channels) -> Learner:
        """Return a new network with random weights that follow from `parameters.seed`."""

    @abstractmethod
    def save(self, folder: Path, parameters: Any, channels: Channels, best: Arrays, last: Arrays) -> None:
        """Write the model's files to `folder`, so that `load` and the original library can read them."""

    @abstractmethod
    def load(self, folder: Path, parameters: Any, channels: Channels, weights: str) -> Learner:
        """Return the network saved in `folder` with its "best" or "last" weights. Never runs code of the files."""

    def prepare_targets(self, targets: NDArray[Any], parameters: Any) -> Any:  # noqa: ARG002
        """Return what the learner's loss compares with, for a batch of targets with a trailing axis for their roles.

        Called in a thread of its own, ahead of the step that needs it.
        """
        return targets

    def calibrate(
        self,
        folder: Path,  # noqa: ARG002
        parameters: Any,  # noqa: ARG002
        channels: Channels,  # noqa: ARG002
        images: Iterable[tuple[NDArray[np.float32], NDArray[Any]]],  # noqa: ARG002
    ) -> dict[str, float]:
        """Set what the saved model needs besides weights, such as thresholds, and return it for the record.

        `images` are the validation images, normalised and channels last, with their first targets, normalised too
        unless they are labels.
        """
        return {}


class ImageImplementation(Implementation):
    """A method that turns images into images.

    Attributes
    ----------
    grey_values_of
        Whose scale a prediction is brought back to: that of the "source" it was made from, where both show the
        same light (restoration), or that of the training's "target" images (where one kind of image is turned
        into another).
    """

    grey_values_of: Literal["source", "target"] = "source"

    @abstractmethod
    def geometry(self, parameters: Any, channels: Channels) -> Geometry:
        """Return how the network of these parameters may be tiled."""

    @abstractmethod
    def interpret(
        self, output: NDArray[np.float32], parameters: Any, channels: Channels
    ) -> dict[str, tuple[NDArray[np.float32], bool]]:
        """Return the named images in a raw output (channels last), first the prediction.

        The flag says whether the offset applies when grey values are restored: it does for intensities, not for
        widths such as an uncertainty. With several targets the first is the "prediction"; the others are named as
        in `channels.targets`.
        """


class ObjectImplementation(Implementation):
    """A method that finds objects and is trained on label images."""

    def resolve(self, parameters: Any, labels: Iterable[NDArray[Any]]) -> Any:  # noqa: ARG002
        """Return the parameters with what was left to be measured from the label images of the training set."""
        return parameters

    def clean_labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return a label image of the training set as the network shall learn it, of the same shape and dtype."""
        return labels

    @abstractmethod
    def find_objects(
        self, learner: Learner, image: NDArray[np.float32], parameters: PredictionParameters, tiling: Tiling
    ) -> Objects:
        """Return the objects in one normalised image (channels last, if it has any)."""
