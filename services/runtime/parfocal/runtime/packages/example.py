"""The test tensors of a package: what the model here gives for the input must be what the package says it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.pixel_values import count_unusable
from parfocal.runtime.packages.package import Package
from parfocal.runtime.packages.steps import finished
from parfocal.runtime.prediction.loaded_model import LoadedModel
from parfocal.runtime.prediction.unit import ArrayUnit, Normalised

# Of the range of the output. Processors and versions differ in the last digits of float32.
_DIFFERENT: Final = 1e-3
# Of the pixels that may differ by more.
_FEW: Final = 1e-3
# Of the number of objects, whose probabilities are nearly the same.
_OBJECTS: Final = 0.01


@dataclass(frozen=True)
class Likeness:
    """How near the output of a model is to what a package says of it.

    Attributes
    ----------
    largest
        Largest difference, as a part of the range of the output; of label images the part of the pixels that are
        objects in one and background in the other.
    different
        Part of the pixels that differ by more than a thousandth of the range, or of label images as `largest`.
    objects
        Of label images: how many objects the model finds, and how many the package has.
    """

    largest: float
    different: float
    objects: tuple[int, int] | None = None

    @property
    def is_near(self) -> bool:
        """Whether it is the same network."""
        if self.objects is not None and abs(self.objects[0] - self.objects[1]) > _OBJECTS * self.objects[1]:
            return False
        return self.different <= _FEW

    def __str__(self) -> str:
        if self.objects is None:
            return (
                f"{_percent(self.different)} of its numbers differ by more than {_percent(_DIFFERENT)} of its range, "
                f"the largest difference is {_percent(self.largest)} of it"
            )
        found, said = self.objects
        return (
            f"{_percent(self.largest)} of its pixels differ, and it shows {said} objects where the model finds {found}"
        )


def try_example(package: Package, model: LoadedModel, *, own: bool) -> Likeness:
    """Run a model on the test input of a package and compare its output with the test output.

    Parameters
    ----------
    package
        What was imported.
    model
        What it became, computed in float32 on the processor.
    own
        Whether Parfocal wrote the package: then the model itself knows what follows the network. Else that is what the
        description says.

    Returns
    -------
    Likeness
        A near one.

    Raises
    ------
    InvalidInputError
        The model gives something else, or the tensors cannot be used.
    """
    description = package.description
    learner: Any = model.learner
    portable = model.implementation.portable(learner, model.view)
    raw, expected = package.example(description.input), package.example(description.output)
    axes, channels = model.view.axes, model.view.facts.input_channels
    if description.spatial != axes:
        raise InvalidInputError(f"The package's images have the axes {description.spatial}, those of the model {axes}.")
    if raw.shape[-1] != channels:
        raise InvalidInputError(f"The test input has {raw.shape[-1]} channels, and the model reads {channels}.")
    if count_unusable(raw) or count_unusable(expected):
        raise InvalidInputError("The test tensors hold values that are NaN, infinite or too large to compute with.")
    for axis, length, divisor in zip(axes, raw.shape, portable.divisor, strict=False):
        period = description.input.periods.get(axis.lower(), divisor)
        if length % divisor or period % divisor:
            raise InvalidInputError(
                f"The network takes multiples of {divisor} pixels along {axis}, and the package has an example of "
                f"{length} and steps of {period}: it is of another network."
            )
    unit = ArrayUnit(raw if channels > 1 else raw[..., 0], axes, raw.size)
    normalised = Normalised(unit, model.view.normaliser).whole()[np.newaxis]
    if own:
        found = portable.finish(learner.portable_reference(normalised))[0]
    else:
        # What other programs put into packages is the network as it is.
        found = finished(description.output, learner.predict_batch(normalised))[0]
    likeness = _compare(found, _on_grid(expected, found), labels=own and portable.labels)
    if not likeness.is_near:
        raise InvalidInputError(
            f"The model does not give what the package says of its example ({description.output.example}): {likeness}. "
            "Its weights, its configuration or its steps are not those of the package's network."
        )
    return likeness


def _on_grid(expected: NDArray[Any], found: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers of a test output at the pixels of a network whose output has fewer of them than its input."""
    steps = [whole // part for whole, part in zip(expected.shape[:-1], found.shape[:-1], strict=True)]
    kept = expected[tuple(slice(None, None, max(1, step)) for step in steps)]
    if kept.shape != found.shape:
        shapes = [" x ".join(map(str, each.shape)) for each in (expected, found)]
        raise InvalidInputError(
            f"The test output has {shapes[0]} numbers, and the model gives {shapes[1]}: they are of different networks."
        )
    return kept


def _compare(found: NDArray[Any], expected: NDArray[Any], *, labels: bool) -> Likeness:
    if labels:
        # Objects are numbered by their probability, and some have nearly the same.
        different = float(np.mean((found > 0) != (expected > 0)))
        return Likeness(different, different, (int(found.max()), int(expected.max())))
    spread = float(np.ptp(expected.astype(np.float64))) or 1.0
    difference = np.abs(found.astype(np.float64) - expected) / spread
    return Likeness(float(difference.max()), float(np.mean(difference > _DIFFERENT)))


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"
