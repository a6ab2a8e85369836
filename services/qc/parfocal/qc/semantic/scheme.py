"""Classes of the pixels of targets and predictions, and the values that stand for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import Inputs, Item
from parfocal.qc.metrics.bands import by_blocks
from parfocal.qc.metrics.objects.semantic import foreground
from parfocal.qc.semantic.parameters import SemanticParameters
from parfocal.runtime.datasets.classes import UNANNOTATED, class_indices
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch
from parfocal.runtime.store.manifests import ModelManifest


@dataclass(frozen=True)
class Scheme:
    """The classes of an evaluation.

    Attributes
    ----------
    values
        The value of each class in class images, the background first; empty where masks or label images tell foreground
        from background.
    ignored
        The value of pixels that are not annotated in targets; None if all are.
    """

    values: tuple[int, ...] = ()
    ignored: int | None = None

    @property
    def count(self) -> int:
        """How many classes there are."""
        return len(self.values) or 2

    @property
    def binary(self) -> bool:
        """Whether foreground is told from background and nothing else."""
        return self.count == 2

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes: their values, or background and foreground."""
        return tuple(map(str, self.values)) or ("background", "foreground")

    @property
    def sentence(self) -> str:
        """Sentence on the values of the classes; evaluations are compared only if it is the same."""
        if not self.values:
            return "Every pixel above 0 is foreground."
        return f"Classes are the values {self.names[0]} (background), {', '.join(self.names[1:])}."

    def target(self, pixels: NDArray[Any], *, name: str, scratch: Scratch = IN_MEMORY) -> NDArray[np.int8]:
        """Return the index of the class of each pixel of a target, below 0 where it is not annotated, in `scratch`.

        Raises
        ------
        InvalidInputError
            It has values that are no class.
        """

        def of_block(pixels: NDArray[Any]) -> NDArray[Any]:
            if self.values:
                return class_indices(pixels, self.values, self.ignored)
            mask = foreground(pixels, name=name)
            return np.where(pixels < 0, UNANNOTATED, mask)

        return by_blocks(of_block, [pixels], np.int8, scratch)

    def prediction(self, pixels: NDArray[Any], *, name: str, scratch: Scratch = IN_MEMORY) -> NDArray[np.int8]:
        """Return the index of the class of each pixel of a predicted class image or mask, in `scratch`.

        Raises
        ------
        InvalidInputError
            It has values that are no class.
        """
        return by_blocks(partial(self._of_prediction, name=name), [pixels], np.int8, scratch)

    def _of_prediction(self, pixels: NDArray[Any], *, name: str) -> NDArray[Any]:
        if self.binary:
            if not self.values or self.values[0] == 0:
                return foreground(pixels, name=name)
            return np.where(pixels != self.values[0], 1, 0)
        if wrong := sorted(set(np.unique(pixels).tolist()) - set(self.values)):
            raise InvalidInputError(
                f"{name} has the value {wrong[0]:g}, and the classes of the dataset have {', '.join(self.names)}. "
                "Predict images of these classes."
            )
        return class_indices(pixels, self.values)


def choose_scheme(inputs: Inputs[Item], parameters: SemanticParameters) -> Scheme:
    """Return the classes of the test images, and which of two is the foreground.

    Raises
    ------
    InvalidInputError
        The parameters name a foreground that is not one of two classes, or any value for label images; or less than two
        classes are left.
    """
    known = inputs.dataset.image_class_values if inputs.dataset is not None else ()
    asked = parameters.foreground_value
    if not known:
        for name in ("foreground_value", "ignore_value"):
            if getattr(parameters, name) is not None:
                text = (
                    "is for class images, and the targets are label images, of which every object is foreground and "
                    "numbers below 0 are not annotated"
                )
                raise InvalidInputError(f"{name} {text}. Leave it out.", [Violation(name, text)])
        return Scheme()
    of_model = _measured(inputs.model)
    ignored = parameters.ignore_value if parameters.ignore_value is not None else of_model.get("ignore_value")
    values = tuple(value for value in known if value != ignored)
    if len(values) < 2:
        raise InvalidInputError(
            f"The test images have the classes {', '.join(map(str, known))}, of which less than two are left, and two "
            "are required. Correct ignore_value, or name another dataset."
        )
    if asked is not None and (len(values) > 2 or asked not in values):
        text = f"says which of two values is the foreground, and there are {', '.join(map(str, values))}"
        raise InvalidInputError(f"foreground_value {asked} {text}.", [Violation("foreground_value", text)])
    trained = tuple(of_model.get("class_values", ()))
    if asked is None and len(values) == 2 and set(trained) == set(values):
        return Scheme(trained, ignored)
    return Scheme(values[::-1] if asked is not None and asked == values[0] else values, ignored)


def _measured(model: ModelManifest | None) -> dict[str, Any]:
    return dict(model.facts.measured) if model is not None else {}
