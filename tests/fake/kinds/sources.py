"""Images without targets: hidden pixels are predicted from their neighbours, as Noise2Void does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fake.kinds.learner import NumpyLearner, Values, neighbours
from fake.kinds.parameters import SourceParameters
from parfocal.runtime.bases.images import ImageImplementation
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.methods.arrays import load_arrays, save_arrays
from parfocal.runtime.methods.implementation import Arrays, Batch, ModelView, Opened
from parfocal.runtime.prediction.tiling import Geometry
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.data import open_sources


class BlindLearner(NumpyLearner):
    """A pixel from its eight neighbours."""

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the predicted pixels of a batch."""
        return self._apply(inputs)[..., np.newaxis].astype(np.float32)

    def losses(self, batch: Batch, *, training: bool) -> tuple[dict[str, float], Values]:  # noqa: ARG002
        """Return the squared error in the hidden pixels."""
        original, hidden = batch.targets
        error = (self._apply(batch.input) - original) * hidden
        count = max(1, int(hidden.sum()))
        return {"loss": float((error**2).sum() / count)}, {
            "filter": np.tensordot(error, neighbours(batch.input), 3) * 2 / count * _RING
        }

    def _apply(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(neighbours(inputs) @ (self.values["filter"] * _RING))


_RING = np.array([1.0, 1, 1, 1, 0, 1, 1, 1, 1])


class TinySources(ImageImplementation[SourceParameters, BlindLearner]):
    """Restores images without having seen better ones."""

    def open(self, data: DatasetView, parameters: SourceParameters) -> Opened[SourceParameters]:
        """Return images without targets."""
        return open_sources(data, parameters, self.normaliser)

    def prepare(self, batch: Batch, parameters: SourceParameters, facts: Facts, rng: np.random.Generator) -> Batch:  # noqa: ARG002
        """Hide a tenth of the pixels behind a neighbour."""
        pixels = batch.input[..., 0]
        hidden = rng.random(pixels.shape) < 0.1
        masked = np.where(hidden, np.roll(pixels, int(rng.integers(1, 4)), axis=2), pixels)
        return Batch({"source": masked[..., np.newaxis]}, (pixels, hidden), batch.size)

    def build(self, parameters: SourceParameters, facts: Facts) -> BlindLearner:  # noqa: ARG002
        """Return a learner that knows nothing."""
        first = np.random.default_rng(parameters.seed).normal(0, 0.1, 9)
        return BlindLearner({"filter": first}, parameters.seed, parameters.pause_seconds)

    def geometry(self, parameters: SourceParameters, facts: Facts) -> Geometry:  # noqa: ARG002
        """Return the reach of the filter."""
        return Geometry(divisor=1, overlap=1, output_channels=1)

    def save(self, folder: Path, parameters: SourceParameters, facts: Facts, weights: Mapping[str, Arrays]) -> None:  # noqa: ARG002
        """Write arrays."""
        for name, arrays in weights.items():
            save_arrays(folder / f"{name}.npz", arrays)

    def load(self, folder: Path, model: ModelView, weights: str) -> BlindLearner:
        """Return the saved learner."""
        learner = self.build(model.parameters, model.facts)
        learner.set_weights(load_arrays(folder / f"{weights}.npz"))
        return learner
