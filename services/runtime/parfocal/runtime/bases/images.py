"""Methods that turn images into images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import blocks, release
from parfocal.runtime.methods.implementation import Implementation, ModelView, Opened, ValidationImage
from parfocal.runtime.methods.normaliser import NormaliserConstants
from parfocal.runtime.methods.outputs import ImageSink, Outputs, Unit, Values, Window
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.portable import Portable, linear
from parfocal.runtime.prediction.tiling import Geometry, Pixels, TileLearner, Tiling, apply_tiled, per_axis
from parfocal.runtime.prediction.uncertainty import calibrate_uncertainty
from parfocal.runtime.prediction.unit import Normalised
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import UNCERTAINTY, UNCERTAINTY_FACTOR
from parfocal.runtime.training.data import PatchSettings, open_pairs

P = TypeVar("P", bound=PatchSettings)
L = TypeVar("L", bound=TileLearner)
_LARGEST_TILE = 2**20
# By how many pixels other programs let tiles overlap that are never exact.
_BLENDED = 32


@dataclass(frozen=True)
class Picture:
    """An image in a network's output.

    Attributes
    ----------
    pixels
        Pixels with the spatial axes of the output, followed by the channel axis if there is one.
    values
        Kind of the values, which decides whether they are brought back to the scale of the images.
    channel_axis
        Kind of the last axis: "S" for red, green and blue, "C" for other channels, "" if there is no channel axis.
    of_source
        Whether it shows the source again, and so has its scale, whatever the predictions of the method have.
    """

    pixels: NDArray[Any]
    values: Values = "intensity"
    channel_axis: Literal["", "C", "S"] = ""
    of_source: bool = False


def class_pictures(probability: NDArray[np.float32]) -> dict[str, Picture]:
    """Return the class of each pixel as the prediction, and the probabilities of all classes.

    Parameters
    ----------
    probability
        float32, with a last axis for the classes, the first of which is the background.
    """
    return {
        "prediction": Picture(np.argmax(probability, axis=-1).astype(np.uint8), "none"),
        "probability": Picture(probability, "none", "C"),
    }


class ImageImplementation(Implementation[P, L]):
    """A method that turns images into images, trained on pairs of them unless it overrides `open`.

    Its output may have another size and other axes than its input (`Geometry.scale`), and several images.

    Attributes
    ----------
    grey_values_of
        Images whose scale a prediction is brought back to: the "source" it was made from if both show the same signal
        (restoration), or the "target" images of the training if one kind of image is turned into another.
    """

    grey_values_of: ClassVar[Literal["source", "target"]] = "source"

    def open(self, data: DatasetView, parameters: P) -> Opened[P]:
        """Return paired images in patches."""
        return open_pairs(data, parameters, self.normaliser)

    @abstractmethod
    def geometry(self, parameters: P, facts: Facts) -> Geometry:
        """Return how the network of these parameters may be tiled."""

    def interpret(
        self,
        output: NDArray[np.float32],
        parameters: P,  # noqa: ARG002
        facts: Facts,
    ) -> dict[str, Picture]:
        """Return the named images in a raw output (channels last): by default one for each target, in their order.

        Large images come in parts: what becomes of a pixel must follow from the output at this pixel alone. The first
        is called "prediction", further ones as their targets. Each has the channels of its target, or of its input if
        the method has no targets.
        """
        pictures: dict[str, Picture] = {}
        start = 0
        ports = facts.targets or facts.inputs[:1]
        for name, port in zip(("prediction", *facts.target_roles[1:]), ports, strict=True):
            pixels = output[..., start : start + port.channels]
            pictures[name] = Picture(pixels if port.channel_axis else pixels[..., 0], channel_axis=port.channel_axis)
            start += port.channels
        return pictures

    def apply(self, learner: L, image: Pixels, parameters: P, facts: Facts, tiling: Tiling) -> dict[str, Picture]:
        """Return what `interpret` finds in the network's output for a normalised image of any size, channels last."""
        output = apply_tiled(learner, image, self.geometry(parameters, facts), tiling)
        return self.interpret(output, parameters, facts)

    def calibrate_uncertainty(
        self, learner: L, images: Iterable[ValidationImage], parameters: P, facts: Facts
    ) -> Facts:
        """Return the facts with the factor that makes the uncertainty as large as the errors on validation images."""

        def predict(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            found = self.apply(learner, image, parameters, facts, Tiling(_LARGEST_TILE))
            return found["prediction"].pixels, found[UNCERTAINTY].pixels

        return calibrate_uncertainty(predict, images, facts)

    def portable(self, learner: L, model: ModelView) -> Portable:
        """Return what the network's output is: the images of `interpret`, brought to grey values where these are known.

        A prediction on the scale of its source stays normalised: bioimage.io has no step that undoes the first one.
        """
        facts = model.facts
        geometry, ports = self.geometry(model.parameters, facts), facts.targets or facts.inputs[:1]
        names = _channel_names(("prediction", *facts.target_roles[1:]), [port.channels for port in ports])
        gain = [value for port in ports for value in port.scale or (1.0,) * port.channels]
        offset = [value for port in ports for value in port.offset or (0.0,) * port.channels]
        known = self.grey_values_of == "target" and any(port.scale for port in ports)
        if not known:
            gain, offset = [1.0] * len(names), [0.0] * len(names)
        meaning = "The predicted image, in the grey values of the targets it was trained on."
        if not known:
            meaning = (
                "The predicted image on the scale of the normalised input: multiply by the difference of the input's "
                "two percentiles (or by its standard deviation) and add the lower one (or the mean) to have its grey "
                "values back."
            )
        if len(names) < geometry.output_channels:
            names = [*names, *(f"{UNCERTAINTY}{each}" for each in _numbers(geometry.output_channels - len(names)))]
            factor = model.facts.measured.get(UNCERTAINTY_FACTOR, 1.0)
            gain += [factor * each for each in gain[: len(names) - len(gain)]]
            offset += [0.0] * (len(names) - len(offset))
            meaning += (
                " The channels that follow are its uncertainty: how wide the distribution of the true value is, "
                "calibrated on validation images."
            )
        spatial = len(model.axes)
        if set(per_axis(geometry.scale, spatial)) != {1}:
            return super().portable(learner, model)
        return Portable(
            channels=names,
            meaning=meaning,
            divisor=per_axis(geometry.divisor, spatial),
            overlap=per_axis(geometry.overlap if geometry.exact else _BLENDED, spatial),
            steps=[linear(gain, offset)] if set(gain) != {1.0} or set(offset) != {0.0} else [],
        )

    def predict(
        self, learner: L, unit: Unit, model: ModelView, parameters: PredictionParameters, outputs: Outputs
    ) -> None:
        """Hand over the images that the model makes of one, on the scale of the images they show."""
        source = Normalised(unit, model.normaliser)
        output = apply_tiled(learner, source, self.geometry(model.parameters, model.facts), Tiling.of(unit))

        def pictures(window: Window) -> dict[str, Picture]:
            found = self.interpret(output[window], model.parameters, model.facts)
            if parameters.wants_uncertainty and UNCERTAINTY not in found:
                raise InvalidInputError(f"The model makes no {UNCERTAINTY}: it was trained without it.")
            if not parameters.wants_uncertainty:
                found.pop(UNCERTAINTY, None)
            release(output)
            return found

        self.hand_over(pictures, output.shape[:-1], source.constants, unit, model, outputs)

    def hand_over(
        self,
        pictures: Callable[[Window], Mapping[str, Picture]],
        shape: tuple[int, ...],
        constants: NormaliserConstants,
        unit: Unit,
        model: ModelView,
        outputs: Outputs,
    ) -> None:
        """Hand over images on the scale of the images they show, in parts if they are large.

        Parameters
        ----------
        pictures
            Returns the same named images for each window of the spatial axes of the output.
        shape
            Spatial shape of the output in pixels.
        constants
            Those of the source.
        """
        scales = dict(zip(unit.axes, self.geometry(model.parameters, model.facts).scales(unit.axes), strict=True))
        axes = "".join(axis for axis in unit.axes if scales[axis])
        spatial = [scales[axis] for axis in axes if axis in "ZYX"]
        sinks: dict[str, ImageSink] = {}
        for window in blocks(shape):
            for name, picture in pictures(window).items():
                pixels = self._restored(name, picture, model, constants)
                channels = picture.pixels.shape[-1:] if picture.channel_axis else ()
                every = (slice(None),) * len(channels)
                lengths, named, place = (*shape, *channels), axes + picture.channel_axis, (*window, *every)
                if picture.channel_axis == "C":
                    pixels = np.moveaxis(pixels, -1, 0)
                    lengths, named, place = (*channels, *shape), "C" + axes, (*every, *window)
                if name not in sinks:
                    sinks[name] = outputs.image(
                        name, shape=lengths, axes=named, dtype=pixels.dtype, scale=spatial, values=picture.values
                    )
                sinks[name].write(pixels, place)

    def _restored(self, name: str, picture: Picture, model: ModelView, constants: NormaliserConstants) -> NDArray[Any]:
        """Return an image on the scale of the images it shows."""
        if picture.values == "none":
            return picture.pixels
        if self.grey_values_of == "target" and not picture.of_source:
            port = model.facts.targets[0] if name in ("prediction", UNCERTAINTY) else model.facts.target(name)
            constants = _constants(port.offset, port.scale, picture.pixels.ndim)
        pixels = picture.pixels
        if name == UNCERTAINTY:
            pixels = pixels * np.float32(model.facts.measured.get(UNCERTAINTY_FACTOR, 1.0))
        undo = model.normaliser.undo if picture.values == "intensity" else model.normaliser.undo_width
        return undo(pixels, constants)


def _channel_names(names: Iterable[str], channels: Iterable[int]) -> list[str]:
    """Return a name for each channel of several images."""
    return [f"{name}{each}" for name, count in zip(names, channels, strict=True) for each in _numbers(count)]


def _numbers(count: int) -> list[str]:
    """Return what tells the channels of an image apart: nothing where it has a single one."""
    return [""] if count == 1 else [f"_{number}" for number in range(1, count + 1)]


def _constants(offset: tuple[float, ...], scale: tuple[float, ...], dimensions: int) -> NormaliserConstants:
    """Return recorded constants, of several channels for an image that has them in its last axis."""
    return NormaliserConstants(offset=offset, scale=scale, channel_axis=dimensions - 1 if len(offset) > 1 else None)
