"""A complete method in plain numpy, for the tests of everything that is not a network.

`fake-2d` learns one 3x3 filter and an offset by gradient descent. It is a real method: it trains on real patches,
gets better, checkpoints, resumes and predicts, in seconds and without any framework.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from parfocal import v1
from parfocal.runtime.bases.images import ImageImplementation
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.implementation import Arrays, Batch, ModelView
from parfocal.runtime.methods.parameters import ImagePredictionParameters, TrainingParameters, check_patch_fits
from parfocal.runtime.methods.service import Method, Parameters, Service, Work, quick
from parfocal.runtime.prediction.tiling import Geometry
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import DatasetManifest


class FakeParameters(TrainingParameters):
    """Parameters of the fake method."""

    epochs: int = Field(default=4, ge=1, le=1000, title="Epochs", description="Rounds through the data.")
    batch_size: int = Field(default=4, ge=1, le=64, title="Batch size", description="Patches per step.")
    patches_per_image: int = Field(
        default=4, ge=1, le=1000, title="Patches per image", description="Patches per epoch."
    )
    learning_rate: float = Field(default=0.02, gt=0, le=1, title="Learning rate", description="Size of the steps.")
    patch_size: int = Field(default=16, ge=8, le=512, title="Patch size", description="Edge of a patch in pixels.")
    pause_seconds: float = Field(
        default=0.0,
        ge=0,
        le=10,
        title="Pause",
        description="Wait after each step or tile, to test interruptions.",
    )


def check_patch(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if an image is smaller than a patch."""
    assert isinstance(parameters, FakeParameters)
    check_patch_fits(parameters, "YX", dataset)


class FilterLearner:
    """One 3x3 filter and an offset, trained with Adam on the mean squared error, in float64."""

    def __init__(self, parameters: FakeParameters) -> None:
        rng = np.random.default_rng(parameters.seed)
        self._rate = parameters.learning_rate
        self._pause = parameters.pause_seconds
        self._values = rng.normal(0, 0.1, 10)
        self._first = np.zeros(10)
        self._second = np.zeros(10)
        self._steps = np.zeros(1)

    def begin_epoch(self, epoch: int, learning_rate: float) -> None:  # noqa: ARG002
        """Set the learning rate; nothing is random."""
        self._rate = learning_rate

    def train_batch(self, batch: Batch) -> dict[str, float]:
        """Do one step of Adam."""
        views = _neighbours(batch.input)
        error = self._apply(views) - batch.targets[..., 0]
        gradient = np.append(np.tensordot(views, error, 3) * 2 / error.size, 2 * error.mean())
        self._steps += 1
        self._first += 0.1 * (gradient - self._first)
        self._second += 0.001 * (gradient**2 - self._second)
        first = self._first / (1 - 0.9 ** self._steps[0])
        second = self._second / (1 - 0.999 ** self._steps[0])
        self._values -= self._rate * first / (np.sqrt(second) + 1e-8)
        time.sleep(self._pause)
        return {"loss": float(np.mean(error**2))}

    def validate_batch(self, batch: Batch) -> dict[str, float]:
        """Return the mean squared error."""
        return {"loss": float(np.mean((self._apply(_neighbours(batch.input)) - batch.targets[..., 0]) ** 2))}

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the filtered batch."""
        time.sleep(self._pause)
        return self._apply(_neighbours(inputs))[..., np.newaxis].astype(np.float32)

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return the filter and the offset."""
        return {"values": self._values.copy()}

    def set_weights(self, weights: Arrays) -> None:
        """Replace filter and offset."""
        if weights["values"].shape != (10,):
            raise InvalidInputError("The weights are not those of a 3x3 filter.")
        self._values = np.array(weights["values"], dtype=np.float64)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the moments and the step count."""
        return {"first": self._first.copy(), "second": self._second.copy(), "steps": self._steps.copy()}

    def set_state(self, state: Arrays) -> None:
        """Replace the moments and the step count."""
        self._first, self._second, self._steps = (np.array(state[name]) for name in ("first", "second", "steps"))

    def _apply(self, views: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.tensordot(self._values[:9], views, 1) + self._values[9])


def _neighbours(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the nine shifted copies of a batch (B, Y, X, 1) as (9, B, Y, X), edges repeated."""
    planes = np.pad(inputs[..., 0].astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = inputs.shape[1:3]
    return np.stack([planes[:, y : y + height, x : x + width] for y in range(3) for x in range(3)])


class Fake2D(ImageImplementation[FakeParameters, FilterLearner]):
    """The fake method as the runtime drives it."""

    def build(self, parameters: FakeParameters, facts: Facts) -> FilterLearner:  # noqa: ARG002
        """Return a new filter."""
        return FilterLearner(parameters)

    def geometry(self, parameters: FakeParameters, facts: Facts) -> Geometry:  # noqa: ARG002
        """Return the reach of a 3x3 filter; the divisor is stricter than needed, as it is for networks."""
        return Geometry(divisor=4, overlap=4, output_channels=1)

    def save(self, folder: Path, parameters: FakeParameters, facts: Facts, weights: Mapping[str, Arrays]) -> None:  # noqa: ARG002
        """Write the values as JSON."""
        content = {name: arrays["values"].tolist() for name, arrays in weights.items()}
        (folder / "filter.json").write_text(json.dumps(content), encoding="utf-8")

    def load(self, folder: Path, model: ModelView, weights: str) -> FilterLearner:
        """Return the saved filter."""
        learner = self.build(model.parameters, model.facts)
        content = json.loads((folder / "filter.json").read_text(encoding="utf-8"))
        learner.set_weights({"values": np.array(content[weights])})
        return learner


SERVICE = Service(
    name="fake",
    methods=(
        Method(
            name="fake-2d",
            title="Fake 2D",
            task=v1.TASK_RESTORATION,
            summary="Learns one 3x3 filter, to test everything around a method.",
            axes="YX",
            target=v1.TARGET_KIND_PAIRED_IMAGE,
            work={
                v1.JOB_KIND_TRAINING: Work(FakeParameters, "parfocal.runtime.training.loop:train"),
                v1.JOB_KIND_PREDICTION: Work(ImagePredictionParameters, "parfocal.runtime.prediction.job:predict"),
            },
            data="Pairs of two-dimensional grey images.",
            minimum_images=2,
            recommended_images=2,
            presets=quick(epochs=4),
            citation="None.",
            licence="BSD-3-Clause",
            documentation="docs/adding-a-method.md",
            implementation="fake:Fake2D",
            validate=check_patch,
        ),
    ),
)
