"""Operations on label and class images: pure functions of arrays, with exact undo."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from parfocal.portal.annotate import shapes
from parfocal.portal.annotate.operations import (
    LARGEST_LABEL,
    Delete,
    Draw,
    Erase,
    Fill,
    Merge,
    Reclassify,
    Replace,
    Split,
)
from parfocal.portal.annotate.shapes import Area
from parfocal.runtime.errors import InvalidInputError

SMALLEST_PART: Final = 4
"""Pixels that a part must have to become an object of its own when one is split; smaller ones stay with it."""

Labels = NDArray[np.uint32]
Window = tuple[slice, slice, slice, slice]


@dataclass(frozen=True)
class Step:
    """What an operation changed: the pixels in a window (T, Z, Y, X) and the classes of objects, before it."""

    window: Window
    before: Labels
    classes: dict[int, int]


@dataclass
class LabelEditor:
    """The labels of one image, and the steps by which they became what they are.

    Attributes
    ----------
    labels
        (T, Z, Y, X) uint32, changed in place: 0 is background.
    areas
        Whether the numbers are those of classes: then nothing gets a number of its own, and what is said of an object
        concerns the area around a point.
    classes
        The class of each object that has one, by its number.
    load
        Returns the label image of a file of the draft in the shape of `labels`.
    """

    labels: Labels
    areas: bool = False
    classes: dict[int, int] = field(default_factory=dict)
    load: Callable[[str], Labels] | None = None
    _steps: list[Step] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many operations were applied and can be undone."""
        return len(self._steps)

    def resolve(self, operation: Any) -> Any:
        """Return an operation with the numbers of the objects that it makes filled in."""
        if isinstance(operation, Draw) and not operation.object and not self.areas:
            return operation.model_copy(update={"object": self._free()})
        if isinstance(operation, Split) and not operation.parts:
            parts = self._parts(operation)
            first = self._free(len(parts))
            return operation.model_copy(update={"parts": tuple(range(first, first + len(parts)))})
        return operation

    def apply(self, operation: Any) -> Window:
        """Apply an operation and return the window of what changed.

        Raises
        ------
        InvalidInputError
            It changes nothing, or is about an object or plane that there is not; the labels are as before.
        """
        classes = dict(self.classes)
        match operation:
            case Draw():
                step = self._draw(operation)
            case Erase():
                step = self._erase(operation)
            case Split():
                step = self._split(operation)
            case Merge():
                step = self._merge(operation)
            case Fill():
                step = self._fill(operation)
            case Delete():
                step = self._renumber(operation, 0)
                if not self.areas:
                    self.classes.pop(operation.object, None)
            case Reclassify():
                step = self._reclassify(operation)
            case Replace():
                step = self._replace(operation)
            case _:
                raise InvalidInputError(f"{operation.do!r} is for boxes, and these are labels.")
        window, before = step
        self._steps.append(Step(window, before, classes))
        return window

    def undo(self) -> Window:
        """Undo the last step and return the window of what changed."""
        step = self._steps.pop()
        self.labels[step.window] = step.before
        self.classes = dict(step.classes)
        return step.window

    def _free(self, wanted: int = 1) -> int:
        number = max(int(self.labels.max(initial=0)), max(self.classes, default=0)) + 1
        if number + wanted - 1 > LARGEST_LABEL:
            raise InvalidInputError("There is no number left for another object.")
        return number

    def _plane(self, operation: Any) -> Labels:
        times, depth = self.labels.shape[:2]
        if operation.t >= times or operation.z >= depth:
            raise InvalidInputError(f"There is no plane z {operation.z} at time {operation.t}.")
        plane: Labels = self.labels[operation.t, operation.z]
        return plane

    def _area(self, operation: Draw | Erase) -> Area:
        plane = self._plane(operation)
        if operation.shape == "polygon":
            return shapes.polygon(operation.points, plane.shape)
        return shapes.stroke(operation.points, operation.size, plane.shape)

    def _draw(self, operation: Draw) -> tuple[Window, Labels]:
        if not operation.object:
            raise InvalidInputError("Choose the class of the area first.")
        plane, area = self._plane(operation), self._area(operation)
        part = plane[area.window]
        wanted = area.mask & (part != operation.object)
        if operation.protect:
            wanted &= part == 0
        if not wanted.any():
            raise InvalidInputError("Nothing was drawn: there is no free pixel of the image below it.")
        if operation.classed and not self.areas:
            self.classes[operation.object] = operation.classed
        return self._write(operation, area, wanted, operation.object)

    def _erase(self, operation: Erase) -> tuple[Window, Labels]:
        plane, area = self._plane(operation), self._area(operation)
        part = plane[area.window]
        wanted = area.mask & ((part == operation.object) if operation.object else (part != 0))
        if not wanted.any():
            raise InvalidInputError("Nothing was erased: there is no object below it.")
        return self._write(operation, area, wanted, 0)

    def _write(self, operation: Any, area: Area, wanted: NDArray[np.bool_], number: int) -> tuple[Window, Labels]:
        rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        window: Window = (
            slice(operation.t, operation.t + 1),
            slice(operation.z, operation.z + 1),
            slice(int(area.y + top), int(area.y + bottom)),
            slice(int(area.x + left), int(area.x + right)),
        )
        before = self.labels[window].copy()
        self.labels[window][0, 0][wanted[top:bottom, left:right]] = number
        return window, before

    def _split(self, operation: Split) -> tuple[Window, Labels]:
        parts = self._parts(operation)
        if len(parts) != len(operation.parts):
            raise InvalidInputError(f"The line divides object {operation.object} into {len(parts) + 1} parts.")
        window = (slice(operation.t, operation.t + 1), slice(operation.z, operation.z + 1), slice(None), slice(None))
        rows, columns = self._extent(self._plane(operation) == operation.object)
        window = (*window[:2], rows, columns)
        before = self.labels[window].copy()
        for number, mask in zip(operation.parts, parts, strict=True):
            self.labels[window][0, 0][mask] = number
            if operation.object in self.classes:
                self.classes[number] = self.classes[operation.object]
        return window, before

    def _parts(self, operation: Split) -> list[NDArray[np.bool_]]:
        """Return all parts into which a line divides an object but the largest one, as masks of its extent."""
        if self.areas:
            raise InvalidInputError("Areas of classes have no numbers and cannot be split: erase or draw over them.")
        plane = self._plane(operation)
        inside = plane == operation.object
        if not inside.any():
            raise self._absent(operation.object)
        rows, columns = self._extent(inside)
        inside = inside[rows, columns]
        cut = np.zeros(plane.shape, bool)
        drawn = shapes.line(operation.points, plane.shape)
        cut[drawn.window] = drawn.mask
        cut = cut[rows, columns]
        pieces, count = _pieces(inside & ~cut, cut)
        beside = ndimage.binary_dilation(cut & inside, np.ones((3, 3), bool))
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        touched = np.unique(pieces[beside & (pieces > 0)])
        touched = touched[sizes[touched] >= SMALLEST_PART]
        if len(touched) < 2:
            raise InvalidInputError(
                f"The line does not divide object {operation.object}. Begin and end it outside of the object."
            )
        # The largest first; of equal ones that which comes first in the image.
        order = sorted(touched, key=lambda piece: (-sizes[piece], piece))
        return [pieces == piece for piece in order[1:]]

    def _merge(self, operation: Merge) -> tuple[Window, Labels]:
        if self.areas:
            raise InvalidInputError("Areas of classes have no numbers: draw between them to join them.")
        volume = self._time(operation.t)
        for number in (operation.object, *operation.others):
            if not (volume == number).any():
                raise self._absent(number)
        if operation.object in operation.others:
            raise InvalidInputError("Choose two different objects to merge.")
        wanted = np.isin(volume, np.array(operation.others, np.uint32))
        for number in operation.others:
            self.classes.pop(number, None)
        return self._set(operation.t, wanted, operation.object)

    def _fill(self, operation: Fill) -> tuple[Window, Labels]:
        inside = self._region(operation)[operation.z]
        holes = ndimage.binary_fill_holes(inside) & (self._plane(operation) == 0)
        if not holes.any():
            raise InvalidInputError(f"Object {operation.object} has no holes in this plane.")
        return self._write(operation, Area(0, 0, holes), holes, operation.object)

    def _reclassify(self, operation: Reclassify) -> tuple[Window, Labels]:
        if self.areas:
            if operation.classed == operation.object:
                raise InvalidInputError("The area has this class already.")
            return self._renumber(operation, operation.classed)
        if self.classes.get(operation.object, 0) == operation.classed:
            raise InvalidInputError(f"Object {operation.object} has this class already.")
        window, before = self._set(operation.t, self._region(operation), operation.object)
        if operation.classed:
            self.classes[operation.object] = operation.classed
        else:
            self.classes.pop(operation.object, None)
        return window, before

    def _renumber(self, operation: Delete | Reclassify, number: int) -> tuple[Window, Labels]:
        return self._set(operation.t, self._region(operation), number)

    def _replace(self, operation: Replace) -> tuple[Window, Labels]:
        if self.load is None:
            raise InvalidInputError("Label images cannot be brought back here.")
        loaded = self.load(operation.file)
        before = self.labels.copy()
        if (loaded == before).all():
            raise InvalidInputError("These labels are the same as those here: nothing was changed.")
        self.labels[...] = loaded
        if not self.areas:
            there = set(np.unique(loaded).tolist())
            self.classes = {number: name for number, name in self.classes.items() if number in there}
        return (slice(None), slice(None), slice(None), slice(None)), before

    def _region(self, operation: Fill | Delete | Reclassify) -> NDArray[np.bool_]:
        """Return the pixels (Z, Y, X) of an object, or of the area of a class around a point."""
        volume = self._time(operation.t)
        self._plane(operation)
        inside: NDArray[np.bool_] = volume == operation.object
        if not self.areas:
            if not inside.any():
                raise self._absent(operation.object)
            return inside
        if operation.at is None:
            raise InvalidInputError("Say which area is meant: click on it.")
        column, row = math.floor(operation.at[0]), math.floor(operation.at[1])
        height, width = volume.shape[1:]
        if not (0 <= row < height and 0 <= column < width and inside[operation.z, row, column]):
            raise InvalidInputError("There is no area of this class at that place any more.")
        pieces, _ = ndimage.label(inside, np.ones((3, 3, 3), bool))
        return np.asarray(pieces == pieces[operation.z, row, column])

    def _time(self, t: int) -> Labels:
        if t >= len(self.labels):
            raise InvalidInputError(f"There is no time {t}.")
        volume: Labels = self.labels[t]
        return volume

    def _set(self, t: int, wanted: NDArray[np.bool_], number: int) -> tuple[Window, Labels]:
        """Give pixels (Z, Y, X) of one time a number."""
        planes = np.flatnonzero(wanted.any(axis=(1, 2)))
        rows, columns = self._extent(np.asarray(wanted.any(axis=0)))
        window: Window = (slice(t, t + 1), slice(int(planes[0]), int(planes[-1]) + 1), rows, columns)
        before = self.labels[window].copy()
        self.labels[window][0][wanted[window[1:]]] = number
        return window, before

    @staticmethod
    def _extent(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    @staticmethod
    def _absent(number: int) -> InvalidInputError:
        return InvalidInputError(f"There is no object {number} any more.")


def _pieces(inside: NDArray[np.bool_], cut: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return what hangs together at sides or corners, with numbers in order of the image, and how many there are.

    Two pixels that touch at a corner do not hang together where the cut passes between them.
    """
    sides, count = ndimage.label(inside)
    pairs = []
    for one, other, between, beside in (
        (sides[:-1, :-1], sides[1:, 1:], cut[:-1, 1:], cut[1:, :-1]),
        (sides[:-1, 1:], sides[1:, :-1], cut[:-1, :-1], cut[1:, 1:]),
    ):
        joined = (one > 0) & (other > 0) & (one != other) & ~(between & beside)
        pairs.append(np.stack([one[joined], other[joined]]))
    first, second = np.concatenate(pairs, axis=1)
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(count + 1, count + 1))
    _, groups = connected_components(links, directed=False)
    # The background is a group of its own; numbers follow the first pixel of each piece.
    numbers = np.zeros(int(groups.max(initial=0)) + 1, np.int32)
    found = 0
    for side in range(1, count + 1):
        if not numbers[groups[side]]:
            found += 1
            numbers[groups[side]] = found
    table = numbers[groups]
    table[0] = 0
    return np.asarray(table[sides]), found
