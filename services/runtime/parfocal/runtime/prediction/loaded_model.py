"""A published model in memory, and what it makes of one image.

A stack given to a two-dimensional method is predicted plane by plane, each plane as if it had come alone: so
single images, stacks and parts of them give the same grey values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image
from parfocal.runtime.methods.implementation import Learner, ModelView
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.objects import Objects, stack_classes, stack_labels
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.service import Method
from parfocal.runtime.prediction.tiling import Geometry, TileLearner, Tiling, choose_tile, predict_tiled
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import UNCERTAINTY, ModelManifest

# A U-Net with 32 first filters keeps about eight full-size float32 layers of them while it predicts.
_BYTES_PER_PIXEL = 32 * 4 * 8
_SMALLEST_TILE, _LARGEST_TILE = 256**2, 2048**2


Plane = Objects | dict[str, NDArray[np.float32]]
"""What is made of one image of a method's axes: its objects, or images by name in grey values."""


class Predicting(Protocol):
    """What prediction asks of an implementation besides loading it."""

    def predict_plane(
        self,
        learner: Any,
        plane: NDArray[Any],
        model: ModelView,
        parameters: PredictionParameters,
        tiling: Tiling,
    ) -> Plane:
        """Return what the model makes of one image of the method's axes, channels last if it has any."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to predict."""

    method: Method
    manifest: ModelManifest
    view: ModelView
    implementation: Predicting
    learner: Learner

    @property
    def facts(self) -> Facts:
        """What the network was built for."""
        return self.view.facts


def load_model(method: Method, manifest: ModelManifest, folder: Path, *, weights: str, precision: str) -> LoadedModel:
    """Return the model whose published files lie in `folder`."""
    view = ModelView(
        parameters=method.parse(v1.JOB_KIND_TRAINING, {**manifest.parameters, "precision": precision}),
        facts=manifest.facts,
        normaliser=Normaliser.model_validate(manifest.normaliser),
        axes=method.axes,
    )
    implementation = method.load()
    return LoadedModel(method, manifest, view, implementation, implementation.load(folder, view, weights))


def wanted_outputs(parameters: PredictionParameters, facts: Facts) -> list[str]:
    """Return the names of the outputs that these parameters ask for, the prediction first."""
    uncertainty = [UNCERTAINTY] if getattr(parameters, UNCERTAINTY, False) else []
    return ["prediction", *facts.target_roles[1:], *uncertainty]


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
    channels, method = model.facts.input_channels, model.method
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

        tiling = Tiling(_most_pixels(model, parameters), report)
        made = model.implementation.predict_plane(model.learner, plane, model.view, parameters, tiling)
        if isinstance(made, Objects):
            objects.append(made)
            continue
        for name, output in made.items():
            collected.setdefault(name, []).append(output)
    if objects:
        found = {"prediction": stack_labels(objects)}
        for role in model.facts.target_roles[1:]:
            found[role] = stack_classes(objects)
        return Predicted(
            {name: replace(image, pixels=each.reshape(shape), axes=axes) for name, each in found.items()},
            tuple(objects),
        )
    wanted = wanted_outputs(parameters, model.facts)
    missing = [name for name in wanted if name not in collected]
    if missing:
        raise InvalidInputError(f"The model makes no {missing[0]}: it was trained without it.")
    return Predicted(
        {name: replace(image, pixels=np.stack(collected[name]).reshape(shape), axes=axes) for name in wanted}
    )


def raw_output(
    learner: TileLearner, image: NDArray[np.float32], geometry: Geometry, tiling: Tiling
) -> NDArray[np.float32]:
    """Return what a network makes of one normalised image of any size, of the method's axes and channels last."""
    return predict_tiled(
        learner.predict_batch,
        image,
        tile_shape=choose_tile(image.shape[:-1], geometry.divisor, tiling.most_pixels),
        overlap=geometry.overlap,
        divisor=geometry.divisor,
        output_channels=geometry.output_channels,
        progress=tiling.on_tile,
    )


def _most_pixels(model: LoadedModel, parameters: PredictionParameters) -> int:
    """Return the pixels of a tile that were asked for or that the free memory allows; half of it stays free."""
    if parameters.tile_size:
        return int(parameters.tile_size ** len(model.method.axes))
    affordable = psutil.virtual_memory().available // 2 // _BYTES_PER_PIXEL
    return max(_SMALLEST_TILE, min(_LARGEST_TILE, affordable))
