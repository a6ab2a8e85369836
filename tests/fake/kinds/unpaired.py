"""Unpaired images: two networks against two judges, two optimisers, and a pool of earlier images, as CycleGAN has."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fake.kinds.learner import NumpyLearner, Values
from fake.kinds.parameters import UnpairedParameters
from parfocal.runtime.bases.images import ImageImplementation
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.methods.arrays import load_arrays, save_arrays
from parfocal.runtime.methods.implementation import Arrays, Batch, ModelView, Opened, Selection
from parfocal.runtime.prediction.tiling import Geometry
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.data import open_unpaired

_POOL = 8


class Line(NumpyLearner):
    """A gain and an offset, trained on gradients that the caller computes."""

    given: Values

    def losses(self, batch: Batch, *, training: bool) -> tuple[dict[str, float], Values]:  # noqa: ARG002
        """Return no loss, and the gradients that were given."""
        return {}, self.given

    def apply(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return gain times values plus offset."""
        return np.asarray(self.values["line"][0] * values + self.values["line"][1])

    def step(self, batch: Batch, gradient: NDArray[np.float64]) -> None:
        """Take a step."""
        self.given = {"line": gradient}
        self.train_batch(batch)


class CycleLearner:
    """There and back by a line each, and a judge: a line that tells means of real images from those of made ones."""

    def __init__(self, parameters: UnpairedParameters) -> None:
        rng = np.random.default_rng(parameters.seed)
        self._parts = {
            name: Line({"line": np.array([1.0, 0.0]) + rng.normal(0, 0.1, 2)}, parameters.seed, 0.0)
            for name in ("there", "back", "judge")
        }
        self._seed, self._pause = parameters.seed, parameters.pause_seconds
        self._rng = rng
        self._pool = np.zeros((0,))

    def begin_epoch(self, epoch: int, learning_rate: float) -> None:
        """Set the learning rate of all optimisers, that of the judge twice as high, and reseed."""
        self._rng = np.random.default_rng([self._seed, epoch, 1])
        for name, part in self._parts.items():
            part.begin_epoch(epoch, learning_rate * (2 if name == "judge" else 1))

    def train_batch(self, batch: Batch) -> dict[str, float]:
        """Let the lines, then the judge, take a step."""
        there, back, judge = self._parts.values()
        source, target = batch.inputs["source"], batch.inputs["target"]
        made = there.apply(source)
        returned = back.apply(made)
        cycle = returned - source
        # The judge says 1 to real means; the generator wants to hear it of its own.
        gain = judge.values["line"][0]
        heard = judge.apply(made.mean()) - 1
        back.step(batch, np.array([2 * np.mean(cycle * made), 2 * cycle.mean()]))
        slope = 2 * cycle * back.values["line"][0] + 2 * heard * gain
        there.step(batch, np.array([np.mean(slope * source), slope.mean()]))
        known, real = self._from_pool(float(made.mean())), float(target.mean())
        wrong, right = judge.apply(np.array(known)), judge.apply(np.array(real)) - 1
        judge.step(batch, np.array([2 * (wrong * known + right * real), 2 * (wrong + right)]))
        time.sleep(self._pause)
        return {
            "cycle": float(np.mean(cycle**2)),
            "generator": float(heard**2),
            "judge": float(wrong**2 + right**2),
        }

    def validate_batch(self, batch: Batch) -> dict[str, float]:
        """Return how well images come back."""
        there, back, _ = self._parts.values()
        source = batch.inputs["source"]
        return {"cycle": float(np.mean((back.apply(there.apply(source)) - source) ** 2))}

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the first line makes of a batch."""
        return self._parts["there"].apply(inputs).astype(np.float32)

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the weights of all parts."""
        return {f"{name} {key}": value for name, part in self._parts.items() for key, value in part.weights().items()}

    def set_weights(self, weights: Arrays) -> None:
        """Replace the weights of all parts."""
        for name, part in self._parts.items():
            part.set_weights(_of(name, weights))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the optimisers' variables and of the pool."""
        states = {f"{name} {key}": value for name, part in self._parts.items() for key, value in part.state().items()}
        return states | {"pool": self._pool.copy()}

    def set_state(self, state: Arrays) -> None:
        """Replace the optimisers' variables and the pool."""
        for name, part in self._parts.items():
            part.set_state(_of(name, state))
        self._pool = np.array(state["pool"])

    def _from_pool(self, value: float) -> float:
        """Return a value or, every second time, one of the pool, whose place it takes."""
        if len(self._pool) < _POOL:
            self._pool = np.append(self._pool, value)
            return value
        if self._rng.random() < 0.5:
            return value
        place = int(self._rng.integers(_POOL))
        earlier, self._pool[place] = float(self._pool[place]), value
        return earlier


def _of(part: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(f"{part} "): value for key, value in arrays.items() if key.startswith(f"{part} ")}


class TinyUnpaired(ImageImplementation[UnpairedParameters, CycleLearner]):
    """Turns images of one kind into those of another without having seen pairs."""

    kept: ClassVar[Mapping[str, Selection]] = {"best-cycle": Selection("val_cycle")}
    grey_values_of = "target"

    def open(self, data: DatasetView, parameters: UnpairedParameters) -> Opened[UnpairedParameters]:
        """Return two sets of images."""
        return open_unpaired(data, parameters, self.normaliser)

    def build(self, parameters: UnpairedParameters, facts: Facts) -> CycleLearner:  # noqa: ARG002
        """Return a learner that knows nothing."""
        return CycleLearner(parameters)

    def geometry(self, parameters: UnpairedParameters, facts: Facts) -> Geometry:  # noqa: ARG002
        """Return that pixels do not see each other."""
        return Geometry(divisor=1, overlap=0, output_channels=1)

    def save(self, folder: Path, parameters: UnpairedParameters, facts: Facts, weights: Mapping[str, Arrays]) -> None:  # noqa: ARG002
        """Write arrays."""
        for name, arrays in weights.items():
            save_arrays(folder / f"{name}.npz", arrays)

    def load(self, folder: Path, model: ModelView, weights: str) -> CycleLearner:
        """Return the saved learner."""
        learner = self.build(model.parameters, model.facts)
        learner.set_weights(load_arrays(folder / f"{weights}.npz"))
        return learner
