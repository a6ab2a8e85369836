"""Checks before a training on objects: of targets that are not labels, of objects too large to be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from parfocal.runtime.datasets.classes import CLASS_ROLE
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.methods.roles import TrainingBase
from parfocal.runtime.store.manifests import DatasetManifest


class SeesFar(Protocol):
    """Parameters of a network of which is known how far it sees."""

    @property
    def patch_size(self) -> int:
        """Edge of a patch in Y and X in pixels."""

    @property
    def divisor(self) -> tuple[int, ...]:
        """Divisors of the side lengths of a patch, for each axis."""

    @property
    def field_of_view(self) -> tuple[int, ...]:
        """How far the network sees from a pixel in each direction, in pixels along each axis."""

    def patch_shape(self, axes: str) -> tuple[int, ...]:
        """Return the shape of a patch in pixels."""


def check_labels(parameters: TrainingBase, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if the targets of a training cannot be label or class images."""
    for role in parameters.roles(dataset).targets:
        wrong = [image for image in dataset.select("train", role) if not image.dtype.startswith(("int", "uint"))]
        if wrong:
            what = (
                "class images, whole numbers with the class of each object inside it and 0 where it is unknown"
                if role == CLASS_ROLE
                else "label images, whole numbers with 0 for background and one number for each object"
            )
            raise InvalidInputError(
                f"The target {wrong[0].file} has values of type {wrong[0].dtype}, and the method requires {what}. If "
                "these are such numbers, create the dataset again: whole numbers stored as decimal numbers then become "
                "labels, unchanged.",
                [Violation(image.file, f"has values of type {image.dtype}") for image in wrong],
            )


def large_objects(dataset: DatasetManifest, axes: str, choices: Sequence[SeesFar], name: str) -> list[str]:
    """Return a warning if training objects are larger than what a network sees or than its patches; else nothing.

    What the network sees is compared with the whole object, as stardist's own examples do: from a point near its border
    the opposite one must be seen.

    Parameters
    ----------
    dataset
        Dataset with the measured sizes of its objects.
    axes
        Axes of the method.
    choices
        The parameters, and then those with other values of the parameter `name`, with which the network sees farther.
    name
        Name of a parameter.
    """
    sizes, parameters = dataset.object_sizes.get("train"), choices[0]
    if sizes is None or len(sizes.largest) != len(axes):
        return []
    seen, patch = parameters.field_of_view, parameters.patch_shape(axes)
    unseen = any(size > most for size, most in zip(sizes.largest, seen, strict=True))
    uncut = any(size > length for size, length in zip(sizes.largest, patch, strict=True))
    if not unseen and not uncut:
        return []
    shown = [" x ".join(f"{length:g}" for length in each) for each in (sizes.largest, sizes.median, seen, patch)]
    text = (
        f"The largest object spans {shown[0]} pixels ({' x '.join(axes)}, in {sizes.largest_in}; median {shown[1]}). "
        f"The network sees {shown[2]} pixels far from each point, and patches are {shown[3]} pixels: larger objects "
        "are found in parts, as several false positives."
    )
    chosen, cures = parameters, []
    if unseen:
        chosen = next((each for each in choices[1:] if _fits(each, sizes.largest)), parameters)
        if chosen is not parameters:
            cures.append(f"{name} {getattr(chosen, name)}")
    if uncut:
        across = _rounded(max(sizes.largest[-2:]), math.lcm(16, chosen.divisor[-1]))
        if across > parameters.patch_size:
            cures.append(f"patch_size {across}")
        if "Z" in axes and sizes.largest[0] > patch[0]:
            cures.append(f"patch_depth {_rounded(sizes.largest[0], math.lcm(4, chosen.divisor[0]))}")
    factor = max(size / most for size, most in zip(sizes.largest, seen, strict=True))
    scaled = f"images made {math.ceil(factor)} times smaller" if factor > 1 else ""
    cure = " or ".join(filter(None, (" and ".join(cures), scaled)))
    return [f"{text} Take {cure}; or correct the label if it covers more than one object."]


def _fits(parameters: SeesFar, size: Sequence[int]) -> bool:
    """Return whether objects of a size are seen whole."""
    return all(length <= most for length, most in zip(size, parameters.field_of_view, strict=True))


def _rounded(length: int, step: int) -> int:
    return -(-length // step) * step
