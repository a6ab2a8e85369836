"""What the runtime asks of a method, whatever data it is trained on and whatever it puts out.

The runtime owns jobs, data, patches, checkpoints, selection of weights, reports and outputs; an `Implementation` brings
the network with its loss, and says how data become batches and how the network's output becomes results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.outputs import Outputs, Unit
from parfocal.runtime.methods.parameters import PredictionParameters, TrainingSettings
from parfocal.runtime.methods.portable import Portable
from parfocal.runtime.methods.schedule import Schedule
from parfocal.runtime.store.facts import Facts

Arrays = Mapping[str, NDArray[Any]]
PixelSizes = tuple[float | None, float | None, float | None]
P = TypeVar("P", bound=TrainingSettings)


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of one training step.

    Attributes
    ----------
    inputs
        Arrays by role, float32 and normalised, with a leading batch axis and a trailing channel axis.
    targets
        Targets of the loss, in the form that `Implementation.open` and `prepare` give them; None for a method without
        targets.
    size
        Images or patches in the batch, by which losses are averaged.
    """

    inputs: Mapping[str, NDArray[np.float32]]
    targets: Any
    size: int

    @property
    def input(self) -> NDArray[np.float32]:
        """The first of the inputs: the only one for most methods."""
        return next(iter(self.inputs.values()))


class Batches(Protocol):
    """The batches of a training. Each is a function of the seed, the epoch and the step, whatever was drawn before."""

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch."""

    @property
    def validation_steps(self) -> int:
        """Validation batches, the same in every epoch; 0 where nothing is held out."""

    def batch(self, epoch: int, step: int) -> Batch:
        """Return training batch number `step` of epoch number `epoch`, both from 0."""

    def validation_batch(self, step: int) -> Batch:
        """Return validation batch number `step`, from 0."""


@dataclass(frozen=True)
class ValidationImage:
    """One whole part of the data that was held out: inputs and targets as in a `Batch`, but without the batch axis."""

    name: str
    inputs: Mapping[str, NDArray[np.float32]]
    targets: Any

    @property
    def input(self) -> NDArray[np.float32]:
        """The first of the inputs."""
        return next(iter(self.inputs.values()))


@dataclass(frozen=True)
class Example:
    """An image of the training data for the report, with pixels (…, Y, X) or (Y, X, colours)."""

    name: str
    role: str
    pixels: NDArray[Any]
    labels: bool = False


@dataclass(frozen=True)
class TrainingDataRecord:
    """Record of the training data, for the model and the report.

    Attributes
    ----------
    split
        Training and validation set, as JSON values.
    statistics
        Statistics of the images, as JSON values of `TrainingStatistics`; empty if unknown.
    pixel_size_um
        Size of a pixel in x, y and z in micrometres; None where the images do not say it.
    examples
        Images for the report.
    """

    split: Mapping[str, Any]
    statistics: Mapping[str, Any]
    pixel_size_um: PixelSizes | None
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Opened(Generic[P]):
    """A dataset as a method trains on it.

    Attributes
    ----------
    batches
        Training and validation batches.
    parameters
        Parameters of the job, completed by those measured on the data.
    facts
        The network's ports and what was measured.
    record
        Record of the data, for the model and the report.
    validation_images
        Gives the parts that were held out, whole and one after the other, each time it is called.
    """

    batches: Batches
    parameters: P
    facts: Facts
    record: TrainingDataRecord
    validation_images: Callable[[], Iterator[ValidationImage]]


class Learner(Protocol):
    """One or several networks with their losses and optimisers, whatever framework they are made of.

    Weights and state together are complete: once both are set, training goes on bit for bit as if it had never stopped.
    """

    def begin_epoch(self, epoch: int, learning_rate: float) -> None:
        """Set the learning rate, and make what is random inside the networks a function of seed and epoch (from 0)."""

    def train_batch(self, batch: Batch) -> Mapping[str, float]:
        """Do one step of optimisation and return the losses of the batch before it, by name."""

    def validate_batch(self, batch: Batch) -> Mapping[str, float]:
        """Return the losses of a batch without training on it, by name."""

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the weights of all networks."""

    def set_weights(self, weights: Arrays) -> None:
        """Replace all weights; raise InvalidInputError if they are of another network."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of everything besides the weights: variables of optimisers, image pools, running averages."""

    def set_state(self, state: Arrays) -> None:
        """Replace everything besides the weights."""


L = TypeVar("L", bound=Learner)


@dataclass(frozen=True)
class Selection:
    """Rule that selects the weights to keep: those of the epoch with the lowest or the highest value of a metric.

    Attributes
    ----------
    metric
        A validation loss ("val_" and its name), or a score that `Implementation.assess` returns.
    better
        Which values are better: lower or higher ones.
    """

    metric: str = "val_loss"
    better: Literal["lower", "higher"] = "lower"

    def improves(self, value: float, best: float | None) -> bool:
        """Return whether a value is better than the best so far, None at the beginning."""
        return best is None or (value < best if self.better == "lower" else value > best)


@dataclass(frozen=True)
class ModelView:
    """Facts about a model for loading and predicting.

    Attributes
    ----------
    parameters
        Parameters of the training.
    facts
        Facts of the model.
    normaliser
        The rule by which images are brought to one scale.
    axes
        Axes of one image, for example "YX".
    """

    parameters: Any
    facts: Facts
    normaliser: Normaliser
    axes: str


class Implementation(ABC, Generic[P, L]):
    """One method, as the runtime drives it in a worker.

    Parameters
    ----------
    device
        Device and precision of its networks; by default the processor in float32.

    Attributes
    ----------
    device
        Device as above. `build` hands it to the driver; `load` and `save` may call `build`.
    kept
        Names of the weights that a model keeps, and how each is selected; those of the last epoch, "last", come
        besides. The first one is what calibration and reports go by.
    normaliser
        The rule by which images are brought to one scale.
    """

    kept: ClassVar[Mapping[str, Selection]] = {"best": Selection()}
    normaliser: ClassVar[Normaliser] = Normaliser()

    def __init__(self, device: Device | None = None) -> None:
        self.device = device or Device()

    @abstractmethod
    def open(self, data: DatasetView, parameters: P) -> Opened[P]:
        """Return the training data as batches, with what was measured on them.

        Raises
        ------
        InvalidInputError
            An image or annotation is not usable; all that are wrong are named.
        """

    def prepare(self, batch: Batch, parameters: P, facts: Facts, rng: np.random.Generator) -> Batch:  # noqa: ARG002
        """Return a batch as the learner takes it, with the targets of its loss or masked inputs.

        Called in a thread of its own, ahead of the step that needs it. `rng` follows from seed, epoch and step.
        """
        return batch

    @abstractmethod
    def build(self, parameters: P, facts: Facts) -> L:
        """Return new networks on `self.device`, with random weights that follow from `parameters.seed`."""

    def initialise(self, learner: L, facts: Facts, weights: Arrays, initial: Facts) -> None:
        """Give a new learner the weights of an earlier model of the method.

        A method that can begin with a part of them, for example where the classes are others, says so here.

        Parameters
        ----------
        learner, facts
            The new learner and what it was built for.
        weights, initial
            The weights of the earlier model and its facts.

        Raises
        ------
        InvalidInputError
            The earlier model has another network.
        """
        if (known := initial.input_channels) != (channels := facts.input_channels):
            raise InvalidInputError(f"It reads {known} channels and these images have {channels}.")
        learner.set_weights(weights)

    def schedule(self, parameters: P) -> Schedule:
        """Return how the learning rate changes: as the parameters say."""
        return parameters.schedule()

    def assess_every(self, parameters: P) -> int:  # noqa: ARG002
        """Return after how many epochs validation images are assessed; 0: never. The last epoch always is."""
        return 0

    def assess(
        self,
        learner: L,  # noqa: ARG002
        images: Iterator[ValidationImage],  # noqa: ARG002
        parameters: P,  # noqa: ARG002
        facts: Facts,  # noqa: ARG002
    ) -> Mapping[str, float]:
        """Return scores of whole validation images by name, which a `Selection` may go by."""
        return {}

    def calibrate(
        self,
        learner: L,  # noqa: ARG002
        images: Iterator[ValidationImage],  # noqa: ARG002
        parameters: P,  # noqa: ARG002
        facts: Facts,
    ) -> Facts:
        """Return the facts with what is set on the validation images after training, such as thresholds.

        The learner has the first of the kept weights.
        """
        return facts

    def figures(
        self,
        learner: L,  # noqa: ARG002
        images: Iterator[ValidationImage],  # noqa: ARG002
        parameters: P,  # noqa: ARG002
        facts: Facts,  # noqa: ARG002
    ) -> Mapping[str, Any]:
        """Return figures of matplotlib by name, which become NAME.png of the model and pages of its training report.

        The learner has the first of the kept weights, and the facts are calibrated.
        """
        return {}

    @abstractmethod
    def save(self, folder: Path, parameters: P, facts: Facts, weights: Mapping[str, Arrays]) -> None:
        """Write the model's files to `folder`, so that `load` and the original library can read them.

        Parameters
        ----------
        weights
            The kept weights and "last", by name; each is read when it is required.
        """

    @abstractmethod
    def load(self, folder: Path, model: ModelView, weights: str) -> L:
        """Return the networks saved in `folder` with the weights of this name. Never runs code of the files."""

    @abstractmethod
    def predict(
        self, learner: L, unit: Unit, model: ModelView, parameters: PredictionParameters, outputs: Outputs
    ) -> None:
        """Hand over what the model makes of one unit, as soon as parts of it are known.

        Raises
        ------
        InvalidInputError
            The unit is unusable, or the parameters ask for what the model does not make.
        """

    def portable(self, learner: L, model: ModelView) -> Portable:  # noqa: ARG002
        """Return what those must know who run the learner's network without Parfocal.

        The learner of a method that offers it has a method `write_portable` as those of the runtime's drivers.

        Raises
        ------
        InvalidInputError
            What follows the network has no description that other programs understand.
        """
        raise InvalidInputError(
            "Models of this method cannot be written for other programs: what follows the network has no description "
            "that they understand. The model's own files can be downloaded."
        )
