"""Label images as targets: whole numbers, 0 for background and one number for all pixels of an object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.classes import MOST_CLASSES
from parfocal.runtime.datasets.findings import count, file_name, some
from parfocal.runtime.datasets.objects import Pieces, count_pieces, object_extents, without_soft_edges
from parfocal.runtime.errors import Violation
from parfocal.runtime.images.files import Image
from parfocal.runtime.images.scratch import blocks, release
from parfocal.runtime.store.manifests import ObjectSizes

# Of pixels amid others, those unlike all neighbours: 0.02 % at most in label images of cells and nuclei, 10 % at least
# in grey images of microscopes, and 2 to 70 % once these are blurred and rounded to 8 bit.
_ISOLATED: Final = 0.05
# Fewer may be slips of the pen, whatever their share.
_FEWEST_ISOLATED: Final = 100
# From which on it is looked whether they are the edges of a mask.
_FEWEST_SOFT: Final = 20
# Pixels that are looked at of an image: an edge of a plane, and planes.
_LOOKED_AT: Final = 2048
_PLANES: Final = 8
# Neighbours inside objects are of one object; in grey images they mostly differ.
_EVEN: Final = 0.6
# Pieces for each value of a plane: about one for labels, more for a class that several objects have.
_PIECES: Final = 1.5
# Far more than cells cut apart by those above them, or drawn with gaps, ever show.
_MANY_PIECES: Final = 3.0
_FEWEST_PIECES: Final = 2
# Label images number objects, so that a dataset of them has more values.
_FEW_VALUES: Final = 20
_CURE: Final = (
    "A label image has whole numbers, 0 for background and one number for all pixels of an object: put such images "
    "into target, or choose a method for grey images"
)
_LOSSLESS: Final = (
    "Export labels, masks and classes as TIFF or PNG from the program that made them: converting the compressed file "
    "does not restore them"
)
# What is no background covers less, as a rule, or leaves a border free.
_MOST: Final = 0.5

COMPONENTS_HINT: Final = (
    "If each region is an object of its own, have the regions numbered: `parfocal dataset create … --label-components`"
)


def label_problem(labels: NDArray[Any]) -> str:
    """Return why an image cannot be a label image and how to put it right; "" if it can.

    In an image of grey values, unlike in one of objects, many pixels differ from all their neighbours. Only pixels
    whose four neighbours in their plane are no background count, so that marks of a pixel each are labels too.

    Parameters
    ----------
    labels
        Image (Y, X) or (Z, Y, X); of a large one the middle and some planes are looked at.
    """
    if labels.dtype.kind == "f" and not all(np.array_equal(part, np.floor(part)) for part in _parts(labels)):
        return f"has fractions, like grey values and probabilities. {_CURE}"
    if labels.dtype.kind not in "iuf":
        return f"has values of type {labels.dtype}: save labels as 16-bit whole numbers, 0 for background"
    amid = isolated = 0
    for plane in _parts(labels):
        middle = plane[1:-1, 1:-1]
        neighbours = plane[:-2, 1:-1], plane[2:, 1:-1], plane[1:-1, :-2], plane[1:-1, 2:]
        inside = np.logical_and.reduce([each > 0 for each in (middle, *neighbours)])
        amid += int(np.count_nonzero(inside))
        isolated += int(np.count_nonzero(np.logical_and.reduce([inside, *(each != middle for each in neighbours)])))
    if isolated >= _FEWEST_SOFT and all(without_soft_edges(part) is not None for part in _parts(labels) if part.any()):
        return f"is a mask with soft edges, as antialiasing and resizing make them. {COMPONENTS_HINT}"
    if isolated < max(_FEWEST_ISOLATED, _ISOLATED * amid):
        return ""
    return f"has grey values instead of labels: its numbers change from one pixel to the next. {_CURE}"


def _parts(image: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the middle of some planes, which is enough to see what kind of image it is."""
    window = tuple(
        slice(max(0, (length - _LOOKED_AT) // 2), max(0, (length - _LOOKED_AT) // 2) + _LOOKED_AT)
        for length in image.shape[-2:]
    )
    planes = image.reshape(-1, *image.shape[-2:])
    for number in sorted({*np.linspace(0, len(planes) - 1, _PLANES).round().astype(int).tolist()}):
        yield np.asarray(planes[number][window])


def _is_even(image: NDArray[Any]) -> bool:
    """Return whether neighbours along X above 0 are mostly equal, as in objects and classes.

    The most frequent value, which may be a background that is not 0, does not count. `label_problem` alone is passed by
    grey images with large even parts.
    """
    pairs = even = 0
    parts = list(_parts(image))
    values, counts = _values(np.concatenate([part.ravel() for part in parts]))
    frequent = values[np.argmax(counts)]
    for part in parts:
        left, right = part[:, :-1], part[:, 1:]
        inside = (left > 0) & (right > 0) & ((left != frequent) | (right != frequent))
        pairs += int(np.count_nonzero(inside))
        even += int(np.count_nonzero(inside & (left == right)))
    return even >= _EVEN * pairs


@dataclass
class TargetLook:
    """Looks at each target image of a dataset and tells of which kind they are.

    Attributes
    ----------
    grey
        Files of grey values, and the reason why each is not a label image.
    objects
        Labels in all images.
    pixels
        Pixels of each value, as long as there are no more values than classes could have.
    extents
        For each image: its file, and the extent of each label along each axis in pixels.
    fragmented
        Images in which labels lie in several separate regions, and the numbers of both in the planes looked at.
    filling, below
        Images, with details, in which a label covers most and reaches all borders, as a background does; and those
        with numbers below 0.
    """

    grey: list[Violation] = field(default_factory=list)
    objects: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    extents: list[tuple[str, NDArray[np.int64]]] = field(default_factory=list)
    fragmented: list[tuple[str, Pieces]] = field(default_factory=list)
    filling: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)
    _images: int = 0
    _even: int = 0
    _pieces: int = 0
    _values: int = 0
    _many: bool = False

    def __call__(self, path: Path, image: Image) -> bool:
        """Look at one decoded target, and return whether it is one of labels or classes."""
        self._images += 1
        pixels = image.pixels
        if any(note.code == "lossy" for note in image.notes):
            self.grey.append(Violation(file_name(path), f"is compressed as JPEG, which changes numbers. {_LOSSLESS}"))
            return False
        if problem := label_problem(pixels):
            self.grey.append(Violation(file_name(path), problem))
            return False
        if pixels.dtype.kind not in "iu":
            self.grey.append(Violation(file_name(path), f"has values of type {pixels.dtype} beyond those of labels"))
            return False
        even = _is_even(pixels)
        self._even += int(even)
        values, counts = _values(pixels)
        self.objects += int(np.count_nonzero(values > 0))
        if not self._many:
            self.pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            self._many = len(self.pixels) > MOST_CLASSES
        found = [count_pieces(part) for part in _parts(pixels)]
        seen = Pieces(sum(each.pieces for each in found), sum(each.labels for each in found))
        if not self._many:
            self._pieces += seen.pieces
            self._values += seen.labels
        # In single planes of volumes, dented objects lie in several regions.
        if seen.pieces > (seen.labels if pixels.ndim == 2 else max(_FEWEST_PIECES, _PIECES * seen.labels)):
            self.fragmented.append((file_name(path), seen))
        extents = object_extents(pixels)
        self.extents.append((file_name(path), extents))
        inside = values > 0
        whole = np.all(extents == pixels.shape, axis=1) & (counts[inside] > _MOST * pixels.size)
        for label, number in zip(values[inside][whole], counts[inside][whole], strict=True):
            self.filling.append(f"{file_name(path)} ({label} in {100 * number / pixels.size:.0f} % of the pixels)")
        if below := int(counts[values < 0].sum()):
            self.below.append(f"{file_name(path)} ({100 * below / pixels.size:.2g} % of the pixels)")
        return even

    def add(self, other: TargetLook) -> TargetLook:
        """Return what two looks have seen together."""
        return TargetLook(
            [*self.grey, *other.grey],
            self.objects + other.objects,
            self.pixels + other.pixels,
            [*self.extents, *other.extents],
            [*self.fragmented, *other.fragmented],
            [*self.filling, *other.filling],
            [*self.below, *other.below],
            self._images + other._images,
            self._even + other._even,
            self._pieces + other._pieces,
            self._values + other._values,
            self._many or other._many or len(self.pixels + other.pixels) > MOST_CLASSES,
        )

    @property
    def few_grey(self) -> bool:
        """Whether only a few images have grey values, so that they may be mistakes among labels."""
        return 0 < len(self.grey) < self._images / 2 and self._even >= self._images - len(self.grey)

    def why_grey(self) -> str:
        """Return why the targets are grey values, for people."""
        if not self.grey:
            return "the targets have grey values"
        first = self.grey[0]
        return f"{first.field} {first.description.split('. ')[0].split(': ')[0]}"

    def kind(self) -> Literal["paired", "labels", "classes"]:
        """Return the most likely kind of the dataset.

        Targets are labels or classes if none of them has grey values. Classes are few values, and most planes show
        several regions of each, because many objects have the same.
        """
        if self.grey or self._even < self._images or not self.objects:
            return "paired"
        return "classes" if self._few_values and self._pieces > _PIECES * self._values else "labels"

    @property
    def _few_values(self) -> bool:
        values = [value for value in self.pixels if value]
        return not self._many and len(values) <= _FEW_VALUES and min(values, default=0) >= 0

    def problems(self, kind: str) -> list[Violation]:
        """Return why the targets cannot be of the stated kind."""
        if kind not in {"labels", "classes"}:
            return []
        if kind == "classes" and not self.grey and self._many:
            text = f"it has more than {MOST_CLASSES} values: a class image has the number of a class in each pixel."
            return [Violation("target", f"{text} Are these label images (--kind labels)?")]
        if kind == "labels" and not self.grey and self._few_values and self._pieces > _MANY_PIECES * self._values:
            name, seen = self.fragmented[0]
            text = (
                f"these are masks, not label images: many separate regions share one number ({name}: {seen.pieces} "
                f"regions, {count(seen.labels, 'number')}), and all of them would count as one object. "
                f"{COMPONENTS_HINT}, or add --kind classes if single objects are not required."
            )
            return [Violation("target", text)]
        return self.grey

    def piece_warnings(self) -> list[str]:
        """Return a warning if some label images have labels in several separate regions."""
        if not self.fragmented:
            return []
        shown = [f"{name} ({seen.pieces} regions, {count(seen.labels, 'number')})" for name, seen in self.fragmented]
        return [
            f"Label images in which several separate regions share one number and count as one object: {len(shown)} "
            f"({some(shown)}). {COMPONENTS_HINT}."
        ]

    def label_warnings(self) -> list[str]:
        """Return what is suspicious about the numbers of label images."""
        warnings = []
        if self._images and not self.objects:
            warnings.append("There is no object in any of the label images: every pixel is background.")
        if self.filling:
            warnings.append(
                "Label images in which one object covers most of the image and reaches all its borders, as a "
                f"background does: {len(self.filling)} ({some(self.filling)}). Background must be 0: if these are "
                "inverted masks or have another background, change that."
            )
        if self.below:
            warnings.append(
                "Label images with numbers below 0, whose pixels count neither as objects nor as background: "
                f"{len(self.below)} ({some(self.below)}). If they are background, make them 0."
            )
        return warnings

    def sizes(self) -> ObjectSizes | None:
        """Return how large the objects are; None without objects."""
        known = [(name, extents) for name, extents in self.extents if len(extents)]
        if not known:
            return None
        every = np.concatenate([extents for _, extents in known])
        return ObjectSizes(
            objects=len(every),
            median=tuple(np.median(every, axis=0).tolist()),
            largest=tuple(every.max(axis=0).tolist()),
            largest_in=max(known, key=lambda item: int(item[1].max()))[0],
        )


def _values(pixels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the values of an image of whole numbers and how many pixels have each."""
    found = []
    for window in blocks(pixels.shape):
        found.append(_values_of_part(pixels[window]))
        release(pixels)
    if len(found) == 1:
        return found[0]
    every, counts = (np.concatenate(each) for each in zip(*found, strict=True))
    values, places = np.unique(every, return_inverse=True)
    return values, np.bincount(places, weights=counts).astype(np.int64)


def _values_of_part(pixels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        counts = np.bincount(pixels.ravel())
        values = np.flatnonzero(counts)
        return values, counts[values]
    return np.unique(pixels, return_counts=True)
