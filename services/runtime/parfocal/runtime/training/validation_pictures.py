"""Pictures of one validation image while a training goes on: what goes in, what comes out, what it should be.

They are made between two epochs with the weights as they are then, and never change the training: a learner that
predicts keeps its weights and state, and what is random in it is seeded anew at the beginning of each epoch.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from parfocal import v1
from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.errors import CancelledError, StaleWorkerError
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.methods.implementation import Implementation, ModelView, Opened, ValidationImage
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outputs import Column, Detections, Values, Window
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.prediction.unit import ArrayUnit
from parfocal.runtime.training.drawing import Drawn, draw_boxes, draw_grey, draw_numbers, middle_plane, to_png

_log = logging.getLogger(__name__)
# Of the image: as many pixels as some patches have, so that it takes about as long as a few steps.
_SIDES: Final[dict[int, tuple[int, ...]]] = {2: (384, 384), 3: (16, 128, 128)}
_MOST_PIXELS: Final = 2**22
# They come more rarely the longer a training takes.
_PAUSE_SHARE: Final = 0.1
# What the first one takes nobody knows: a network is compiled for it, and it is about as large as two steps.
_GUESSED_SECONDS, _GUESSED_STEPS = 1.5, 2.0
_CANDIDATES: Final = 64


class ValidationPictures:
    """Makes the pictures whenever there is time for them.

    Parameters
    ----------
    context, implementation, opened
        The training.
    """

    def __init__(self, context: JobContext, implementation: Implementation[Any, Any], opened: Opened[Any]) -> None:
        self._context = context
        self._implementation = implementation
        self._opened = opened
        self._share = context.settings.preview_share
        self._image: ValidationImage | None = None
        self._trained, self._spent, self._last = 0.0, 0.0, 0.0
        self._next = 0.0

    def after_epoch(self, learner: Any, epoch: int, seconds: float) -> None:
        """Make pictures, if there is time for them; where that is not possible the training goes on without.

        Parameters
        ----------
        learner
            With the weights after the epoch.
        epoch
            How many are completed.
        seconds
            Time that the epoch took.
        """
        self._trained += seconds
        step = seconds / self._opened.batches.steps_per_epoch
        cost = self._last or max(_GUESSED_SECONDS, _GUESSED_STEPS * step)
        soon = self._trained < self._next or self._spent + cost > self._share * self._trained
        if self._share < 1 and soon:
            return
        begin = time.monotonic()
        try:
            self._make(learner, epoch)
        except (CancelledError, StaleWorkerError):
            raise
        except Exception:
            # Whatever it is, people would rather have their model.
            _log.warning("there are no pictures of this training", exc_info=True)
            self._share = -1.0
        self._last = time.monotonic() - begin
        self._spent += self._last
        self._next = self._trained + _PAUSE_SHARE * self._trained

    def _make(self, learner: Any, epoch: int) -> None:
        if self._image is None:
            found = next(iter(self._opened.validation_images()), None)
            self._image = None if found is None else _part(found, self._context.method.axes)
        image = self._image
        if image is None:
            self._share = -1.0
            return
        method, facts = self._context.method, self._opened.facts
        pixels = image.input if image.input.shape[-1] > 1 else image.input[..., 0]
        unit = ArrayUnit(pixels, method.axes, _MOST_PIXELS, on_tile=lambda _done, _all: self._context.check_cancelled())
        # Validation images are normalised already.
        model = ModelView(self._opened.parameters, facts, Normaliser(rule="none"), method.axes)
        parameters: Any = method.parse(v1.JOB_KIND_PREDICTION, {})
        assert isinstance(parameters, PredictionParameters)
        drawn = _Drawing(unit)
        self._implementation.predict(learner, unit, model, parameters, drawn)
        source = draw_grey(middle_plane(image.input, len(method.axes)))
        prediction = drawn.prediction(source)
        if prediction is None:
            self._share = -1.0
            return
        pictures = {"input": source, "prediction": prediction}
        target = _target(image.targets, facts.targets[0].kind if facts.targets else "", source)
        if target is not None:
            pictures["target"] = target
        self._context.save_preview(epoch, image.name, {name: to_png(each) for name, each in pictures.items()})


def _part(image: ValidationImage, axes: str) -> ValidationImage | None:
    """Return the part of an image that shows most; the image where targets have another shape; None if it is large."""
    shape, targets = image.input.shape[: len(axes)], image.targets
    if image.input.ndim != len(axes) + 1 or len(axes) not in _SIDES or "T" in axes:
        return None
    sides = tuple(min(*pair) for pair in zip(shape, _SIDES[len(axes)], strict=True))
    is_array = isinstance(targets, np.ndarray)
    if not (targets is None or isinstance(targets, Boxes) or (is_array and targets.shape[: len(axes)] == shape)):
        return image if image.input.size <= _MOST_PIXELS else None
    windows = list(itertools.islice(_windows(shape, sides), _CANDIDATES))
    window = max(windows, key=lambda window: float(image.input[window].std()))
    inputs = {role: np.ascontiguousarray(each[window]) for role, each in image.inputs.items()}
    if isinstance(targets, Boxes):
        start, stop = ([getattr(each, name) for each in window] for name in ("start", "stop"))
        moved = targets.corners - np.array([*start, *start], np.float32)
        moved = np.clip(moved, 0, np.tile(np.subtract(stop, start), 2)).astype(np.float32)
        seen = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        return replace(image, inputs=inputs, targets=replace(targets, corners=moved).select(seen))
    return replace(image, inputs=inputs, targets=np.ascontiguousarray(targets[window]) if is_array else None)


def _windows(shape: Sequence[int], sides: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield windows side by side, beginning in the middle of what is left over along each axis."""
    starts = [range(length % side // 2, length - side + 1, side) for length, side in zip(shape, sides, strict=True)]
    for start in itertools.product(*starts):
        yield tuple(slice(begin, begin + side) for begin, side in zip(start, sides, strict=True))


def _target(targets: Any, kind: str, source: Drawn) -> Drawn | None:
    """Return the picture of a target; None where it has none."""
    if isinstance(targets, Boxes):
        return draw_boxes(source, targets.corners, targets.classes)
    if not isinstance(targets, np.ndarray):
        return None
    plane = middle_plane(targets, targets.ndim - 1)
    if kind in {"labels", "classes"}:
        return draw_numbers(plane[..., 0])
    return draw_grey(plane)


class _Sink:
    """An image that is being filled."""

    def __init__(self, shape: Sequence[int], axes: str, dtype: DTypeLike) -> None:
        self.pixels: NDArray[Any] = np.zeros(shape, dtype)
        self.axes = axes

    def write(self, pixels: NDArray[Any], window: Window | None = None) -> None:
        self.pixels[... if window is None else window] = pixels


class _NoTable:
    """Takes the rows of a table, which is not shown."""

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        for _ in rows:
            pass


class _Drawing:
    """Takes what a method makes of the image, as `parfocal.runtime.methods.outputs.Outputs`."""

    def __init__(self, unit: ArrayUnit) -> None:
        self._unit = unit
        self._image: _Sink | None = None
        self._labels: NDArray[Any] | None = None
        self._boxes: tuple[NDArray[Any], NDArray[Any]] | None = None

    def prediction(self, source: Drawn) -> Drawn | None:
        """Return the picture of what is predicted; None if nothing can be shown."""
        if self._labels is not None:
            return draw_numbers(middle_plane(self._labels[..., np.newaxis], self._labels.ndim)[..., 0])
        if self._boxes is not None:
            return draw_boxes(source, *self._boxes)
        if self._image is None:
            return None
        pixels, axes = self._image.pixels, self._image.axes
        letter = next((axis for axis in axes if axis in "CS"), "")
        pixels = np.moveaxis(pixels, axes.index(letter), -1) if letter else pixels[..., np.newaxis]
        plane = middle_plane(pixels, pixels.ndim - 1)
        return draw_numbers(plane[..., 0]) if pixels.dtype.kind in "iu" else draw_grey(plane)

    def image(
        self,
        name: str,  # noqa: ARG002
        *,
        shape: Sequence[int] | None = None,
        axes: str | None = None,
        dtype: DTypeLike = np.float32,
        scale: float | Sequence[float] = 1,  # noqa: ARG002
        values: Values = "intensity",  # noqa: ARG002
    ) -> _Sink:
        sink = _Sink(shape or self._unit.shape, axes or self._unit.axes, dtype)
        # The first is what the method is for.
        self._image = self._image or sink
        return sink

    def table(self, name: str, columns: Sequence[Column]) -> _NoTable:  # noqa: ARG002
        return _NoTable()

    def objects(self, objects: Objects, *, name: str = "prediction", class_role: str = "") -> None:  # noqa: ARG002
        self._labels = objects.labels

    def detections(self, detections: Detections, names: Sequence[str]) -> None:  # noqa: ARG002
        self._boxes = detections.corners, detections.classes

    def localisations(self, found: Localisations) -> None:
        pass
