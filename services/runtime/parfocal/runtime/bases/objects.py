"""Methods that find objects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.methods.implementation import Implementation, Learner, ModelView, Opened
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outputs import Outputs, Unit, Window
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.prediction.object_tiling import find_in_blocks
from parfocal.runtime.prediction.tiling import Tiling
from parfocal.runtime.prediction.unit import Normalised
from parfocal.runtime.training.data import PatchSettings, open_labels

P = TypeVar("P", bound=PatchSettings)
L = TypeVar("L", bound=Learner)


class ObjectImplementation(Implementation[P, L]):
    """A method that finds objects, trained on label images unless it overrides `open`."""

    def open(self, data: DatasetView, parameters: P) -> Opened[P]:
        """Return images and label images in patches."""
        return open_labels(data, parameters, self.normaliser, self.clean_labels, self.resolve)

    def resolve(self, parameters: P, labels: Iterable[NDArray[Any]]) -> P:  # noqa: ARG002
        """Return the parameters with what was left to be measured on the label images of the training set."""
        return parameters

    def clean_labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return a label image as the network is trained on it, of the same shape and dtype."""
        return labels

    @abstractmethod
    def find_objects(
        self, learner: L, image: NDArray[np.float32], parameters: PredictionParameters, tiling: Tiling
    ) -> Objects:
        """Return the objects in one normalised image (channels last, if it has any) or in a block of a larger one."""

    def predict(
        self, learner: L, unit: Unit, model: ModelView, parameters: PredictionParameters, outputs: Outputs
    ) -> None:
        """Hand over the objects in one image, with their classes where the model tells them apart."""
        source = Normalised(unit, model.normaliser)

        def find(window: Window, on_tile: Callable[[int, int], None]) -> Objects:
            pixels = source[window]
            image = pixels if unit.channels > 1 else pixels[..., 0]
            return self.find_objects(learner, image, parameters, Tiling(unit.most_pixels, on_tile))

        objects = find_in_blocks(find, unit.shape, unit.report, unit.scratch, steps=unit.steps)
        outputs.objects(objects, class_role=next(iter(model.facts.target_roles[1:]), ""))
