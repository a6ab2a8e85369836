"""Methods that find objects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.methods.implementation import Implementation, Learner, ModelView, Opened
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.prediction.tiling import Tiling
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
        """Return the objects in one normalised image (channels last, if it has any)."""

    def predict_plane(
        self,
        learner: L,
        plane: NDArray[Any],
        model: ModelView,
        parameters: PredictionParameters,
        tiling: Tiling,
    ) -> Objects:
        """Return the objects in one image."""
        constants = model.normaliser.fit(plane, model.axes + "C" * (plane.ndim > len(model.axes)))
        return self.find_objects(learner, model.normaliser.apply(plane, constants), parameters, tiling)
