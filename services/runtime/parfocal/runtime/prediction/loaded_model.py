"""A published model in memory, and what it makes of one image.

A stack given to a two-dimensional method is predicted plane by plane, each plane as if it had come alone: so
single images, stacks and parts of them give the same grey values.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal import v1
from parfocal.runtime.images.files import Image, PixelSize
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import Implementation, Learner, ModelView
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.service import Method
from parfocal.runtime.methods.steps import PartDoneError
from parfocal.runtime.prediction.outputs import ResultOutputs
from parfocal.runtime.prediction.unit import OnTile, SharedSteps, split_units
from parfocal.runtime.store.manifests import ModelManifest


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to predict."""

    method: Method
    manifest: ModelManifest
    view: ModelView
    implementation: Implementation[Any, Any]
    learner: Learner


def load_model(
    method: Method, manifest: ModelManifest, folder: Path, *, weights: str, device: Device | None = None
) -> LoadedModel:
    """Return the model whose published files lie in `folder`, on a device, by default the processor in float32.

    Raises
    ------
    PreconditionError
        A newer version of Parfocal made it, in a way that this one does not know.
    """
    manifest.facts.require_known()
    view = ModelView(
        parameters=method.parse(v1.JOB_KIND_TRAINING, manifest.parameters),
        facts=manifest.facts,
        normaliser=Normaliser.of_record(manifest.normaliser),
        axes=method.axes,
    )
    implementation: Implementation[Any, Any] = method.load(device)
    return LoadedModel(method, manifest, view, implementation, implementation.load(folder, view, weights))


class KeptModel:
    """The model that was loaded last, for a process that may be asked for it again.

    What a model makes of an image does not depend on the images before, so it makes no difference who has used it.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._model: LoadedModel | None = None

    def get(self, key: object, load: Callable[[], LoadedModel]) -> LoadedModel:
        """Return the kept model if `key` is equal to that it was loaded for, else load another one and keep that."""
        if self._model is None or key != self._key:
            # The former model goes first: two may not fit the memory.
            self._key = self._model = None
            gc.collect()
            self._model = load()
            self._key = key
        return self._model


def predict_image(
    model: LoadedModel,
    image: Image,
    parameters: PredictionParameters,
    folder: Path,
    stem: str,
    *,
    on_tile: OnTile | None = None,
    scratch: Scratch = IN_MEMORY,
    steps: SharedSteps | None = None,
) -> ResultOutputs:
    """Return the outputs of one image, to be finished by the caller.

    Parameters
    ----------
    model
        What predicts.
    image
        One image of the method's axes, or a stack of them.
    parameters
        Those of the prediction.
    folder, stem
        Where tables and other files are written, and what the image is called.
    on_tile
        Called with what is done of the image and all of it; may raise to end the prediction.
    scratch
        Where arrays lie that are as large as the image.
    steps
        Returns what does the steps of a unit where several jobs share the image. There are no outputs of units whose
        steps are not all here.

    Raises
    ------
    InvalidInputError
        The image has other axes than the method can take, or the model does not make what is asked for.
    """
    facts = model.view.facts.directed(backwards=parameters.backwards)
    stack, units = split_units(
        model.method, facts.input_channels, image, parameters, model.implementation.device, on_tile, scratch, steps
    )
    outputs = ResultOutputs(
        folder,
        stem,
        model.view.axes,
        stack,
        image.pixel_size,
        usual_pixel_size=_pixel_size(model.manifest),
        like=image.pixels.dtype if parameters.like_input else None,
        scratch=scratch,
    )
    try:
        for number, unit in enumerate(units):
            with contextlib.suppress(PartDoneError):
                model.implementation.predict(
                    model.learner, unit, model.view, parameters, outputs.unit(number, unit.shape, unit.pixels)
                )
    except BaseException:
        outputs.close()
        raise
    return outputs


def _pixel_size(model: ModelManifest) -> PixelSize | None:
    x, y, z = model.pixel_size_um or (None, None, None)
    return PixelSize(x, y, z) if x and y else None
