"""Class images: the probability of each class in a pixel from its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fake.kinds.learner import NumpyLearner, Values, neighbours
from fake.kinds.parameters import SmallParameters
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.methods.arrays import load_arrays, save_arrays
from parfocal.runtime.methods.implementation import Arrays, Batch, Implementation, ModelView, Opened
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.data import open_classes


class ClassLearner(NumpyLearner):
    """A multinomial regression."""

    def losses(self, batch: Batch, *, training: bool) -> tuple[dict[str, float], Values]:  # noqa: ARG002
        """Return the cross entropy, classes weighted as the facts say, and the share of wrong pixels."""
        wanted, weight = batch.targets
        views = neighbours(batch.input)
        value = views @ self.values["filters"] + self.values["offsets"]
        value = np.exp(value - value.max(axis=-1, keepdims=True))
        probability = value / value.sum(axis=-1, keepdims=True)
        known = np.eye(probability.shape[-1])[wanted]
        error = (probability - known) * weight[..., np.newaxis] / weight.sum()
        entropy = -np.sum(np.log((probability * known).sum(axis=-1) + 1e-9) * weight) / weight.sum()
        wrong = np.mean(probability.argmax(axis=-1) != wanted)
        gradients = {"filters": np.tensordot(views, error, ((0, 1, 2), (0, 1, 2))), "offsets": error.sum((0, 1, 2))}
        return {"loss": float(entropy), "wrong": float(wrong)}, gradients


class TinyClasses(Implementation[SmallParameters, ClassLearner]):
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

    def save(self, folder: Path, parameters: SmallParameters, facts: Facts, weights: Mapping[str, Arrays]) -> None:  # noqa: ARG002
        """Write arrays."""
        for name, arrays in weights.items():
            save_arrays(folder / f"{name}.npz", arrays)

    def load(self, folder: Path, model: ModelView, weights: str) -> ClassLearner:
        """Return the saved learner."""
        learner = self.build(model.parameters, model.facts)
        learner.set_weights(load_arrays(folder / f"{weights}.npz"))
        return learner
