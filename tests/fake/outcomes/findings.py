"""Objects with classes, boxes, and places of emitters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from fake.outcomes.fixed import Fixed, FixedLearner
from parfocal.runtime.bases.objects import ObjectImplementation
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.methods.implementation import ModelView, Opened
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outputs import Column, Detections, Outputs, Unit
from parfocal.runtime.methods.parameters import PredictionParameters, TrainingParameters
from parfocal.runtime.prediction.tiling import Tiling
from parfocal.runtime.training.data import open_pairs

CLASSES = ("small", "large")


class _Findings(Fixed):
    def open(self, data: DatasetView, parameters: TrainingParameters) -> Opened[TrainingParameters]:
        """Return pairs: nothing is trained on them."""
        return open_pairs(data, parameters, self.normaliser)


class Connected(Fixed, ObjectImplementation[TrainingParameters, FixedLearner]):
    """What hangs together above the middle, and whether it is large."""

    def find_objects(
        self,
        learner: FixedLearner,  # noqa: ARG002
        image: NDArray[np.float32],
        parameters: PredictionParameters,  # noqa: ARG002
        tiling: Tiling,
    ) -> Objects:
        """Return the objects."""
        labels, count = label(image > 0.5)
        large = np.bincount(labels.ravel(), minlength=count + 1)[1:] > 20
        probability = np.stack([np.full(count, 0.1), np.where(large, 0.2, 0.7), np.where(large, 0.7, 0.2)], axis=-1)
        if tiling.on_tile is not None:
            tiling.on_tile(1, 1)
        return Objects(labels, np.linspace(0.9, 0.5, count).astype(np.float32), (), probability.astype(np.float32))


class Boxed(_Findings):
    """The boxes around what hangs together above 100, with a table of their areas."""

    def predict(
        self,
        learner: FixedLearner,
        unit: Unit,
        model: ModelView,  # noqa: ARG002
        parameters: PredictionParameters,  # noqa: ARG002
        outputs: Outputs,
    ) -> None:
        """Hand over boxes and areas."""
        windows = find_objects(label(unit.read() > 100)[0])
        corners = [[y.start, x.start, y.stop, x.stop] for y, x in windows]
        boxes = np.array(corners, np.float32).reshape(-1, 4)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        confidence = np.full(len(boxes), 0.75 * learner.factor[0], np.float32)
        outputs.detections(Detections(boxes, (areas > 20).astype(np.int64), confidence), CLASSES)
        outputs.table("areas", [Column("box"), Column("area_px", "px")]).write(enumerate(areas.astype(int).tolist()))
        unit.report(1, 1)


class Placed(_Findings):
    """The brightest pixel of every frame, and eightfold finer images of all of them."""

    def predict(
        self,
        learner: FixedLearner,
        unit: Unit,
        model: ModelView,  # noqa: ARG002
        parameters: PredictionParameters,  # noqa: ARG002
        outputs: Outputs,
    ) -> None:
        """Hand over places frame by frame, and at the end the image."""
        frames, height, width = unit.shape
        fine = np.zeros((8 * height, 8 * width), np.float32)
        sink = outputs.image("prediction", shape=fine.shape, axes="YX", scale=8, values="none")
        for number in range(frames):
            frame = unit.read((slice(number, number + 1), slice(0, height), slice(0, width)))[0]
            y, x = np.unravel_index(int(np.argmax(frame)), frame.shape)
            fine[8 * y + 4, 8 * x + 4] += 1
            one = np.array([1.0])
            outputs.localisations(
                Localisations(
                    np.array([number]),
                    (y + 0.5) * one,
                    (x + 0.5) * one,
                    one * frame.max(),
                    one * learner.factor[0] / 10,
                )
            )
            unit.report(number + 1, frames)
        sink.write(fine)
