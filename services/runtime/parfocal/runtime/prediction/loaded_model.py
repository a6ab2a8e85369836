"""A published model in memory, and what it makes of one image.

A stack given to a two-dimensional method is predicted plane by plane, each plane as if it had come alone: so
single images, stacks and parts of them give the same grey values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image
from parfocal.runtime.methods.implementation import (
    UNCERTAINTY,
    Channels,
    ImageImplementation,
    Implementation,
    Learner,
    ObjectImplementation,
    Tiling,
    model_channels,
    wanted_outputs,
)
from parfocal.runtime.methods.normaliser import Normaliser, NormaliserConstants
from parfocal.runtime.methods.objects import Objects, stack_classes, stack_labels
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.service import Method
from parfocal.runtime.prediction.tiling import choose_tile, predict_tiled
from parfocal.runtime.store.manifests import UNCERTAINTY_FACTOR, ModelManifest

# A U-Net with 32 first filters keeps about eight full-size float32 layers of them while it predicts.
_BYTES_PER_PIXEL = 32 * 4 * 8
_SMALLEST_TILE, _LARGEST_TILE = 256**2, 2048**2


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to predict."""

    method: Method
    manifest: ModelManifest
    parameters: Any
    implementation: Implementation
    channels: Channels
    learner: Learner
    normaliser: Normaliser


def load_model(method: Method, manifest: ModelManifest, folder: Path, *, weights: str, precision: str) -> LoadedModel:
    """Return the model whose published files lie in `folder`."""
    parameters = method.parse(v1.JOB_KIND_TRAINING, {**manifest.parameters, "precision": precision})
    implementation: Implementation = method.load()
    channels = model_channels(manifest)
    return LoadedModel(
        method=method,
        manifest=manifest,
        parameters=parameters,
        implementation=implementation,
        channels=channels,
        learner=implementation.load(folder, parameters, channels, weights),
        normaliser=Normaliser.model_validate(manifest.normaliser),
    )


@dataclass(frozen=True)
class Predicted:
    """What was made of one image: images by name, and for methods that find them the objects of each plane."""

    images: dict[str, Image]
    objects: tuple[Objects, ...] = ()


def predict_image(
    model: LoadedModel,
    image: Image,
    parameters: PredictionParameters,
    *,
    on_tile: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Return what these parameters ask for of one image: float32 in grey values, or labels.

    Raises
    ------
    InvalidInputError
        The image has other axes than the method can take.
    """
    channels, method = model.channels.inputs, model.method
    method.needs.check(image.axes, image.pixels.shape, channels)
    pixels, axes = image.pixels, image.axes
    letter = method.needs.channel_axis(axes, channels)
    if letter:
        pixels, axes = np.moveaxis(pixels, axes.index(letter), -1), axes.replace(letter, "")
    shape = pixels.shape[:-1] if letter else pixels.shape
    depth = len(method.axes) + bool(letter)
    planes = pixels.reshape(-1, *pixels.shape[pixels.ndim - depth :])
    collected: dict[str, list[NDArray[np.float32]]] = {}
    objects: list[Objects] = []
    for number, plane in enumerate(planes):
        report = None
        if on_tile is not None:

            def report(done: int, total: int, number: int = number) -> None:
                on_tile(number * total + done, len(planes) * total)

        if isinstance(model.implementation, ObjectImplementation):
            objects.append(_find_objects(model, model.implementation, plane, parameters, report))
            continue
        assert isinstance(model.implementation, ImageImplementation)
        for name, output in _predict_plane(model, model.implementation, plane, parameters, report).items():
            collected.setdefault(name, []).append(output)
    if objects:
        found = {"prediction": stack_labels(objects)}
        for role in model.channels.targets[1:]:
            found[role] = stack_classes(objects)
        return Predicted(
            {name: replace(image, pixels=each.reshape(shape), axes=axes) for name, each in found.items()},
            tuple(objects),
        )
    wanted = wanted_outputs(parameters, model.channels)
    missing = [name for name in wanted if name not in collected]
    if missing:
        raise InvalidInputError(f"The model makes no {missing[0]}: it was trained without it.")
    return Predicted(
        {name: replace(image, pixels=np.stack(collected[name]).reshape(shape), axes=axes) for name in wanted}
    )


def _find_objects(
    model: LoadedModel,
    implementation: ObjectImplementation,
    plane: NDArray[Any],
    parameters: PredictionParameters,
    report: Callable[[int, int], None] | None,
) -> Objects:
    several = plane.ndim > len(model.method.axes)
    constants = model.normaliser.fit(plane, model.method.axes + "C" * several)
    tiling = Tiling(_most_pixels(model, parameters), report)
    return implementation.find_objects(model.learner, model.normaliser.apply(plane, constants), parameters, tiling)


def _predict_plane(
    model: LoadedModel,
    implementation: ImageImplementation,
    plane: NDArray[Any],
    parameters: PredictionParameters,
    report: Callable[[int, int], None] | None,
) -> dict[str, NDArray[np.float32]]:
    spatial = model.method.axes
    several = plane.ndim > len(spatial)
    constants = model.normaliser.fit(plane, spatial + "C" * several)
    normalised = model.normaliser.apply(plane, constants)
    output = raw_output(
        implementation,
        model.learner,
        normalised if several else normalised[..., np.newaxis],
        model.parameters,
        model.channels,
        _most_pixels(model, parameters),
        report,
    )
    images = implementation.interpret(output, model.parameters, model.channels)
    restored = {}
    for name, (pixels, with_offset) in images.items():
        if implementation.grey_values_of == "target":
            role = model.channels.targets[0] if name == "prediction" else name
            recorded = model.manifest.target_constants[role]
            constants = NormaliserConstants(offset=(recorded["offset"],), scale=(recorded["scale"],))
        if name == UNCERTAINTY:
            pixels = pixels * np.float32(model.manifest.calibration.get(UNCERTAINTY_FACTOR, 1.0))
        restored[name] = (model.normaliser.undo if with_offset else model.normaliser.undo_width)(pixels, constants)
    return restored


def raw_output(
    implementation: ImageImplementation,
    learner: Learner,
    image: NDArray[np.float32],
    parameters: Any,
    channels: Channels,
    most_pixels: int,
    report: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Return what a network makes of one normalised image of any size, channels last.

    Parameters
    ----------
    image
        Of the method's axes, with a channel axis at the end.
    parameters
        Those of the training.
    most_pixels
        Of a tile.
    """
    geometry = implementation.geometry(parameters, channels)
    return predict_tiled(
        learner.predict_batch,
        image,
        tile_shape=choose_tile(image.shape[:-1], geometry.divisor, most_pixels),
        overlap=geometry.overlap,
        divisor=geometry.divisor,
        output_channels=geometry.output_channels,
        progress=report,
    )


def _most_pixels(model: LoadedModel, parameters: PredictionParameters) -> int:
    """Return the pixels of a tile that were asked for or that the free memory allows; half of it stays free."""
    if parameters.tile_size:
        return int(parameters.tile_size ** len(model.method.axes))
    affordable = psutil.virtual_memory().available // 2 // _BYTES_PER_PIXEL
    return max(_SMALLEST_TILE, min(_LARGEST_TILE, affordable))
