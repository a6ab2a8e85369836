"""Methods that turn images into images of the same size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.methods.implementation import Implementation, ModelView, Opened, ValidationImage
from parfocal.runtime.methods.normaliser import NormaliserConstants
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.prediction.loaded_model import raw_output
from parfocal.runtime.prediction.tiling import Geometry, TileLearner, Tiling
from parfocal.runtime.prediction.uncertainty import calibrate_uncertainty
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import UNCERTAINTY, UNCERTAINTY_FACTOR
from parfocal.runtime.training.data import PatchSettings, open_pairs

P = TypeVar("P", bound=PatchSettings)
L = TypeVar("L", bound=TileLearner)
_LARGEST_TILE = 2**20


class ImageImplementation(Implementation[P, L]):
    """A method that turns images into images, trained on pairs of them unless it overrides `open`.

    Attributes
    ----------
    grey_values_of
        Whose scale a prediction is brought back to: that of the "source" it was made from, where both show the
        same light (restoration), or that of the training's "target" images (where one kind of image is turned
        into another).
    """

    grey_values_of: ClassVar[Literal["source", "target"]] = "source"

    def open(self, data: DatasetView, parameters: P) -> Opened[P]:
        """Return paired images in patches."""
        return open_pairs(data, parameters, self.normaliser)

    @abstractmethod
    def geometry(self, parameters: P, facts: Facts) -> Geometry:
        """Return how the network of these parameters may be tiled."""

    @abstractmethod
    def interpret(
        self, output: NDArray[np.float32], parameters: P, facts: Facts
    ) -> dict[str, tuple[NDArray[np.float32], bool]]:
        """Return the named images in a raw output (channels last), first the prediction.

        The flag says whether the offset applies when grey values are restored: it does for intensities, not for
        widths such as an uncertainty. With several targets the first is the "prediction"; the others are named as
        in `facts.targets`.
        """

    def apply(
        self, learner: L, image: NDArray[np.float32], parameters: P, facts: Facts, tiling: Tiling
    ) -> dict[str, tuple[NDArray[np.float32], bool]]:
        """Return what `interpret` finds in the network's output for a normalised image of any size, channels last."""
        output = raw_output(learner, image, self.geometry(parameters, facts), tiling)
        return self.interpret(output, parameters, facts)

    def calibrate_uncertainty(
        self, learner: L, images: Iterable[ValidationImage], parameters: P, facts: Facts
    ) -> Facts:
        """Return the facts with the factor that makes the uncertainty as large as the errors on validation images."""

        def predict(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            found = self.apply(learner, image, parameters, facts, Tiling(_LARGEST_TILE))
            return found["prediction"][0], found[UNCERTAINTY][0]

        return calibrate_uncertainty(predict, images, facts)

    def predict_plane(
        self,
        learner: L,
        plane: NDArray[Any],
        model: ModelView,
        parameters: PredictionParameters,  # noqa: ARG002
        tiling: Tiling,
    ) -> dict[str, NDArray[np.float32]]:
        """Return the images that the model makes of one, in grey values."""
        several = plane.ndim > len(model.axes)
        constants = model.normaliser.fit(plane, model.axes + "C" * several)
        normalised = model.normaliser.apply(plane, constants)
        image = normalised if several else normalised[..., np.newaxis]
        restored = {}
        for name, (pixels, with_offset) in self.apply(learner, image, model.parameters, model.facts, tiling).items():
            if self.grey_values_of == "target":
                port = model.facts.targets[0] if name == "prediction" else model.facts.target(name)
                constants = NormaliserConstants(offset=port.offset, scale=port.scale)
            if name == UNCERTAINTY:
                pixels = pixels * np.float32(model.facts.measured.get(UNCERTAINTY_FACTOR, 1.0))
            restored[name] = (model.normaliser.undo if with_offset else model.normaliser.undo_width)(pixels, constants)
        return restored
