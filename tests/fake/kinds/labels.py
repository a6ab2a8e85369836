"""Label images: a logistic regression of foreground with dropout, two selections of weights, and a threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from fake.kinds.learner import NumpyLearner, Values, neighbours
from fake.kinds.parameters import LabelParameters
from parfocal.runtime.bases.objects import ObjectImplementation
from parfocal.runtime.methods.arrays import load_arrays, save_arrays
from parfocal.runtime.methods.implementation import Arrays, Batch, ModelView, Selection, ValidationImage
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.prediction.tiling import Tiling
from parfocal.runtime.store.facts import Facts


class ForegroundLearner(NumpyLearner):
    """The probability of foreground from a pixel and its neighbours, a tenth of which is left out in training."""

    threshold = 0.5

    def probability(self, inputs: NDArray[np.float32], kept: NDArray[np.float64] | float = 1.0) -> NDArray[np.float64]:
        """Return the probability for a batch (B, Y, X, 1)."""
        value = (neighbours(inputs) * kept) @ self.values["filter"] + self.values["offset"][0]
        return np.asarray(1 / (1 + np.exp(-value)))

    def losses(self, batch: Batch, *, training: bool) -> tuple[dict[str, float], Values]:
        """Return cross entropy, and the Brier score beside it."""
        kept = (self.rng.random(9) > 0.1) / 0.9 if training else np.ones(9)
        found, wanted = self.probability(batch.input, kept), batch.targets
        error = found - wanted
        entropy = -np.mean(np.log(np.where(wanted > 0, found, 1 - found) + 1e-9))
        views = neighbours(batch.input) * kept
        gradients = {"filter": np.tensordot(error, views, 3) / error.size, "offset": np.array([error.mean()])}
        return {"loss": float(entropy), "brier": float(np.mean(error**2))}, gradients


class TinyLabels(ObjectImplementation[LabelParameters, ForegroundLearner]):
    """Objects are what hangs together above a threshold."""

    kept: ClassVar[Mapping[str, Selection]] = {"best": Selection(), "best-dice": Selection("dice", "higher")}

    def prepare(self, batch: Batch, parameters: LabelParameters, facts: Facts, rng: np.random.Generator) -> Batch:  # noqa: ARG002
        """Return foreground as the target."""
        return replace(batch, targets=(batch.targets[..., 0] > 0).astype(np.float64))

    def build(self, parameters: LabelParameters, facts: Facts) -> ForegroundLearner:  # noqa: ARG002
        """Return a learner that knows nothing."""
        first = np.random.default_rng(parameters.seed).normal(0, 0.1, 9)
        return ForegroundLearner({"filter": first, "offset": np.zeros(1)}, parameters.seed, parameters.pause_seconds)

    def assess_every(self, parameters: LabelParameters) -> int:  # noqa: ARG002
        """Return that every second epoch is assessed."""
        return 2

    def assess(
        self,
        learner: ForegroundLearner,
        images: Iterator[ValidationImage],
        parameters: LabelParameters,  # noqa: ARG002
        facts: Facts,  # noqa: ARG002
    ) -> dict[str, float]:
        """Return the Dice coefficient of foreground."""
        return {"dice": _dice(learner, list(images), 0.5)}

    def calibrate(
        self,
        learner: ForegroundLearner,
        images: Iterator[ValidationImage],
        parameters: LabelParameters,  # noqa: ARG002
        facts: Facts,
    ) -> Facts:
        """Return the facts with the threshold that gives the best Dice coefficient."""
        kept = list(images)
        return facts.with_measured(threshold=max((0.3, 0.5, 0.7), key=lambda level: _dice(learner, kept, level)))

    def save(self, folder: Path, parameters: LabelParameters, facts: Facts, weights: Mapping[str, Arrays]) -> None:  # noqa: ARG002
        """Write arrays."""
        for name, arrays in weights.items():
            save_arrays(folder / f"{name}.npz", arrays)

    def load(self, folder: Path, model: ModelView, weights: str) -> ForegroundLearner:
        """Return the saved learner with its threshold."""
        learner = self.build(model.parameters, model.facts)
        learner.set_weights(load_arrays(folder / f"{weights}.npz"))
        learner.threshold = model.facts.measured["threshold"]
        return learner

    def find_objects(
        self,
        learner: ForegroundLearner,
        image: NDArray[np.float32],
        parameters: PredictionParameters,  # noqa: ARG002
        tiling: Tiling,
    ) -> Objects:
        """Return what hangs together."""
        probability = learner.probability(image[np.newaxis, ..., np.newaxis])[0]
        labels, count = label(probability > learner.threshold)
        if tiling.on_tile is not None:
            tiling.on_tile(1, 1)
        sure = [float(probability[labels == number + 1].mean()) for number in range(count)]
        return Objects(labels, np.array(sure, np.float32))


def _dice(learner: ForegroundLearner, images: list[ValidationImage], threshold: float) -> float:
    """Return the Dice coefficient of foreground over some images; nan where there is none."""
    both = total = 0
    for image in images:
        found, wanted = learner.probability(image.input[np.newaxis])[0] > threshold, image.targets[..., 0] > 0
        both += int(np.count_nonzero(found & wanted))
        total += int(np.count_nonzero(found) + np.count_nonzero(wanted))
    return 2 * both / total if total else float("nan")
