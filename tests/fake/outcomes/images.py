"""Images: of another size, with several channels, of several rules of intensity, blended, and classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fake.outcomes.fixed import Fixed, FixedLearner
from parfocal.runtime.bases.images import ImageImplementation, Picture, class_pictures
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.parameters import TrainingParameters
from parfocal.runtime.prediction.tiling import Geometry
from parfocal.runtime.store.facts import Facts


class _Images(Fixed, ImageImplementation[TrainingParameters, FixedLearner]):
    """A network that hands its input on, pixel by pixel."""

    channels = 1

    def geometry(self, parameters: TrainingParameters, facts: Facts) -> Geometry:  # noqa: ARG002
        """Return that pixels know nothing of each other."""
        return Geometry(divisor=1, overlap=1, output_channels=self.channels)


class Larger(_Images):
    """An image of twice the size, a tenth of it as a width, and where it is above the 50th percentile."""

    normaliser = Normaliser(low=0, high=50)

    def apply_tile(self, tile: NDArray[np.float32]) -> NDArray[Any]:
        """Repeat every pixel."""
        return np.repeat(np.repeat(tile, 2, axis=1), 2, axis=2)

    def geometry(self, parameters: TrainingParameters, facts: Facts) -> Geometry:  # noqa: ARG002
        """Return that every pixel becomes four."""
        return Geometry(divisor=4, overlap=2, output_channels=1, scale=2)

    def interpret(self, output: NDArray[np.float32], parameters: Any, facts: Facts) -> dict[str, Picture]:
        """Return one image of each rule."""
        images = super().interpret(output, parameters, facts)
        bright = (output[..., 0] > 1).astype(np.uint8)
        return images | {"spread": Picture(output[..., 0] / 10, "width"), "bright": Picture(bright, "none")}


class Colours(_Images):
    """A colour image as it came."""

    channels = 3

    def interpret(self, output: NDArray[np.float32], parameters: Any, facts: Facts) -> dict[str, Picture]:  # noqa: ARG002
        """Return red, green and blue, each on the scale of its own channel."""
        return {"prediction": Picture(output, channel_axis="S")}


class Blended(_Images):
    """What a network with instance normalisation does: each tile loses its mean."""

    normaliser = Normaliser(rule="none")

    def apply_tile(self, tile: NDArray[np.float32]) -> NDArray[Any]:
        """Subtract the mean."""
        return np.asarray(tile - tile.mean(axis=(1, 2), keepdims=True))

    def geometry(self, parameters: TrainingParameters, facts: Facts) -> Geometry:  # noqa: ARG002
        """Return that tiles are not exact."""
        return Geometry(divisor=4, overlap=4, output_channels=1, exact=False)


class Mean(_Images):
    """The mean of all frames."""

    def apply_tile(self, tile: NDArray[np.float32]) -> NDArray[Any]:
        """Return the mean along T."""
        return np.asarray(tile.mean(axis=1))

    def geometry(self, parameters: TrainingParameters, facts: Facts) -> Geometry:  # noqa: ARG002
        """Return that T collapses."""
        return Geometry(divisor=1, overlap=1, output_channels=1, scale=(0, 1, 1))


class Classes(_Images):
    """Dark, middle and bright."""

    channels = 3

    def apply_tile(self, tile: NDArray[np.float32]) -> NDArray[Any]:
        """Return the probability of each."""
        near = np.exp(-8 * (tile - np.array([0, 0.5, 1], np.float32)) ** 2)
        return np.asarray(near / near.sum(axis=-1, keepdims=True))

    def interpret(self, output: NDArray[np.float32], parameters: Any, facts: Facts) -> dict[str, Picture]:  # noqa: ARG002
        """Return classes and probabilities."""
        return class_pictures(output)
