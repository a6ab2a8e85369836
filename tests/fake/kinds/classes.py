"""Class images: the probability of each class in a pixel from its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fake.kinds.learner import NumpyLearner, Values, neighbours
from fake.kinds.parameters import SmallParameters
from parfocal.runtime.bases.images import ImageImplementation, Picture, class_pictures
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.methods.arrays import load_arrays, save_arrays
from parfocal.runtime.methods.implementation import Arrays, Batch, ModelView, Opened
from parfocal.runtime.prediction.tiling import Geometry
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.data import open_classes


class ClassLearner(NumpyLearner):
    """A multinomial regression."""

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of each class."""
        return self._probability(inputs).astype(np.float32)

    def losses(self, batch: Batch, *, training: bool) -> tuple[dict[str, float], Values]:  # noqa: ARG002
        """Return the cross entropy, classes weighted as the facts say, and the share of wrong pixels."""
        wanted, weight = batch.targets
        views, probability = neighbours(batch.input), self._probability(batch.input)
        known = np.eye(probability.shape[-1])[wanted]
        error = (probability - known) * weight[..., np.newaxis] / weight.sum()
        entropy = -np.sum(np.log((probability * known).sum(axis=-1) + 1e-9) * weight) / weight.sum()
        wrong = np.mean(probability.argmax(axis=-1) != wanted)
        gradients = {"filters": np.tensordot(views, error, ((0, 1, 2), (0, 1, 2))), "offsets": error.sum((0, 1, 2))}
        return {"loss": float(entropy), "wrong": float(wrong)}, gradients

    def _probability(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        value = neighbours(inputs) @ self.values["filters"] + self.values["offsets"]
        value = np.exp(value - value.max(axis=-1, keepdims=True))
        return np.asarray(value / value.sum(axis=-1, keepdims=True))


class TinyClasses(ImageImplementation[SmallParameters, ClassLearner]):
    """Tells classes apart; how frequent each is is measured before training."""

    def open(self, data: DatasetView, parameters: SmallParameters) -> Opened[SmallParameters]:
        """Return images with class images, and a weight for each class."""
        opened = open_classes(data, parameters, self.normaliser)
        classes = 1 + opened.facts.targets[0].classes
        count = sum(np.bincount(each.targets.ravel(), minlength=classes) for each in opened.validation_images())
        weights = (np.sum(count) / (classes * np.maximum(count, 1))).tolist()
        return replace(opened, facts=opened.facts.with_measured(class_weights=weights))

    def prepare(self, batch: Batch, parameters: SmallParameters, facts: Facts, rng: np.random.Generator) -> Batch:  # noqa: ARG002
        """Return the class of each pixel and its weight."""
        classes = batch.targets[..., 0]
        return replace(batch, targets=(classes, np.array(facts.measured["class_weights"])[classes]))

    def build(self, parameters: SmallParameters, facts: Facts) -> ClassLearner:
        """Return a learner that knows nothing."""
        classes = 1 + facts.targets[0].classes
        first = {"filters": np.zeros((9, classes)), "offsets": np.zeros(classes)}
        return ClassLearner(first, parameters.seed, parameters.pause_seconds)

    def geometry(self, parameters: SmallParameters, facts: Facts) -> Geometry:  # noqa: ARG002
        """Return the reach of the filters."""
        return Geometry(divisor=1, overlap=1, output_channels=1 + facts.targets[0].classes)

    def interpret(
        self,
        output: NDArray[np.float32],
        parameters: SmallParameters,  # noqa: ARG002
        facts: Facts,  # noqa: ARG002
    ) -> dict[str, Picture]:
        """Return classes and their probabilities."""
        return class_pictures(output)

    def save(self, folder: Path, parameters: SmallParameters, facts: Facts, weights: Mapping[str, Arrays]) -> None:  # noqa: ARG002
        """Write arrays."""
        for name, arrays in weights.items():
            save_arrays(folder / f"{name}.npz", arrays)

    def load(self, folder: Path, model: ModelView, weights: str) -> ClassLearner:
        """Return the saved learner."""
        learner = self.build(model.parameters, model.facts)
        learner.set_weights(load_arrays(folder / f"{weights}.npz"))
        return learner
