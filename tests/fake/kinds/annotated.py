"""Annotated images: boxes counted and measured in each patch, and emitters found pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from fake.kinds.learner import NumpyLearner, Values, neighbours
from fake.kinds.parameters import SmallParameters
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.methods.arrays import load_arrays, save_arrays
from parfocal.runtime.methods.implementation import Arrays, Batch, Implementation, ModelView, Opened, Selection
from parfocal.runtime.methods.outputs import Detections, Outputs, Unit
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.prediction.unit import Normalised
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.annotated import open_boxes, open_coordinates


class CountLearner(NumpyLearner):
    """The number of boxes in a patch, and their mean side length in anchors, from its brightness."""

    def losses(self, batch: Batch, *, training: bool) -> tuple[dict[str, float], Values]:  # noqa: ARG002
        """Return squared errors of number and size."""
        bright = batch.input.mean(axis=(1, 2, 3)).astype(np.float64)
        count, size = batch.targets
        wrong = self.count(bright) - count
        far = self.values["size"][0] - size
        gradients = {
            "count": np.array([2 * np.mean(wrong * bright), 2 * wrong.mean()]),
            "size": np.array([2 * far.mean()]),
        }
        return {"count": float(np.mean(wrong**2)), "size": float(np.mean(far**2))}, gradients

    def count(self, bright: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the number of boxes in patches of a mean brightness."""
        return np.asarray(self.values["count"][0] * bright + self.values["count"][1])


class EmitterLearner(NumpyLearner):
    """Whether an emitter lies in a pixel, from it and its neighbours."""

    def losses(self, batch: Batch, *, training: bool) -> tuple[dict[str, float], Values]:  # noqa: ARG002
        """Return the squared error."""
        views = neighbours(batch.input)
        error = self.probability(batch.input) - batch.targets
        gradients = {
            "filter": np.tensordot(error, views, 3) * 2 / error.size,
            "offset": np.array([2 * error.mean()]),
        }
        return {"loss": float(np.mean(error**2))}, gradients

    def probability(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return how probable an emitter is in each pixel of a batch (B, Y, X, 1)."""
        return np.asarray(neighbours(inputs) @ self.values["filter"] + self.values["offset"][0])


L = TypeVar("L", bound=NumpyLearner)


class _Saved(Implementation[SmallParameters, L]):
    """What both have in common."""

    def save(self, folder: Path, parameters: SmallParameters, facts: Facts, weights: Mapping[str, Arrays]) -> None:  # noqa: ARG002
        """Write arrays."""
        for name, arrays in weights.items():
            save_arrays(folder / f"{name}.npz", arrays)

    def load(self, folder: Path, model: ModelView, weights: str) -> L:
        """Return the saved learner."""
        learner = self.build(model.parameters, model.facts)
        learner.set_weights(load_arrays(folder / f"{weights}.npz"))
        return learner


class TinyBoxes(_Saved[CountLearner]):
    """Counts boxes; the anchor is measured before training."""

    kept: ClassVar[Mapping[str, Selection]] = {"best": Selection("val_count")}

    def open(self, data: DatasetView, parameters: SmallParameters) -> Opened[SmallParameters]:
        """Return images with boxes, and the mean side length of those that are held out."""
        opened = open_boxes(data, parameters, self.normaliser)
        corners = np.concatenate([image.targets.corners for image in opened.validation_images()])
        anchor = float(np.mean(corners[:, 2:] - corners[:, :2]))
        return replace(opened, facts=opened.facts.with_measured(anchor=anchor))

    def prepare(self, batch: Batch, parameters: SmallParameters, facts: Facts, rng: np.random.Generator) -> Batch:  # noqa: ARG002
        """Return the number of boxes of each patch and their mean size in anchors, 1 where there are none."""
        sizes = [boxes.corners[:, 2:] - boxes.corners[:, :2] for boxes in batch.targets]
        mean = [float(size.mean()) / facts.measured["anchor"] if len(size) else 1.0 for size in sizes]
        return replace(batch, targets=(np.array([len(size) for size in sizes]), np.array(mean)))

    def build(self, parameters: SmallParameters, facts: Facts) -> CountLearner:  # noqa: ARG002
        """Return a learner that knows nothing."""
        return CountLearner({"count": np.zeros(2), "size": np.zeros(1)}, parameters.seed, parameters.pause_seconds)

    def predict(
        self,
        learner: CountLearner,
        unit: Unit,
        model: ModelView,
        parameters: PredictionParameters,  # noqa: ARG002
        outputs: Outputs,
    ) -> None:
        """Hand over as many boxes as there may be, around the brightest pixels."""
        image = Normalised(unit, model.normaliser).whole()[..., 0]
        count = max(0, round(float(learner.count(np.array([image.mean()], np.float64))[0])))
        places = np.column_stack(np.unravel_index(np.argsort(-image, axis=None)[:count], image.shape))
        half = model.facts.measured["anchor"] * learner.values["size"][0] / 2
        corners = np.concatenate([places - half, places + half], axis=1).astype(np.float32)
        confidence = np.full(len(corners), 0.5, np.float32)
        outputs.detections(Detections(corners, np.zeros(len(corners), np.int64), confidence), ("object",))
        unit.report(1, 1)


class TinyCoordinates(_Saved[EmitterLearner]):
    """Finds emitters."""

    def open(self, data: DatasetView, parameters: SmallParameters) -> Opened[SmallParameters]:
        """Return frames with their emitters."""
        return open_coordinates(data, parameters, self.normaliser)

    def prepare(self, batch: Batch, parameters: SmallParameters, facts: Facts, rng: np.random.Generator) -> Batch:  # noqa: ARG002
        """Return images that are 1 in the pixels of emitters."""
        image = np.zeros(batch.input.shape[:-1])
        for number, located in enumerate(batch.targets):
            image[number, located.y.astype(int), located.x.astype(int)] = 1
        return replace(batch, targets=image)

    def build(self, parameters: SmallParameters, facts: Facts) -> EmitterLearner:  # noqa: ARG002
        """Return a learner that knows nothing."""
        return EmitterLearner({"filter": np.zeros(9), "offset": np.zeros(1)}, parameters.seed, parameters.pause_seconds)

    def predict(
        self,
        learner: EmitterLearner,
        unit: Unit,
        model: ModelView,
        parameters: PredictionParameters,  # noqa: ARG002
        outputs: Outputs,
    ) -> None:
        """Hand over the centres of all pixels in which an emitter is as probable as not."""
        probability = learner.probability(Normalised(unit, model.normaliser).whole()[np.newaxis])[0]
        y, x = (places.astype(np.float64) + 0.5 for places in np.nonzero(probability > 0.5))
        outputs.localisations(Localisations(np.zeros(len(y), np.int64), y, x, np.full(len(y), np.nan)))
        unit.report(1, 1)
