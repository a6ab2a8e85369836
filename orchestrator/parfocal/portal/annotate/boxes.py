"""Operations on boxes: each gives a new tuple of boxes, so that steps are undone exactly."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from parfocal.portal.annotate.operations import AddBox, Delete, MoveBox, Reclassify
from parfocal.runtime.errors import InvalidInputError

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class DrawnBox:
    """One box: its number in the draft, its corners (x0, y0, x1, y1) in pixels, and the index of its class from 1."""

    number: int
    corners: Corners
    classed: int


@dataclass
class BoxEditor:
    """The boxes of one image, and what they were before each step.

    Attributes
    ----------
    boxes
        In the order in which they were found or drawn.
    shape
        (Y, X) of the image in pixels.
    classes
        How many classes there are.
    """

    boxes: tuple[DrawnBox, ...]
    shape: tuple[int, int]
    classes: int = 1
    _steps: list[tuple[DrawnBox, ...]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many operations were applied and can be undone."""
        return len(self._steps)

    def resolve(self, operation: Any) -> Any:
        """Return an operation with the number of a new box filled in, and corners in order and inside the image."""
        if isinstance(operation, AddBox | MoveBox):
            changes: dict[str, Any] = {"corners": self._inside(operation.corners)}
            if not operation.object:
                changes["object"] = max((box.number for box in self.boxes), default=0) + 1
            return operation.model_copy(update=changes)
        return operation

    def apply(self, operation: Any) -> None:
        """Apply an operation; raise InvalidInputError where it is about a box or class that there is not."""
        before = self.boxes
        match operation:
            case AddBox():
                self._check_class(operation.classed)
                box = DrawnBox(operation.object, self._inside(operation.corners), operation.classed)
                self.boxes = (*before, box)
            case MoveBox():
                self._put(replace(self._find(operation.object), corners=self._inside(operation.corners)))
            case Reclassify():
                self._check_class(operation.classed)
                self._put(replace(self._find(operation.object), classed=operation.classed))
            case Delete():
                gone = self._find(operation.object)
                self.boxes = tuple(box for box in before if box != gone)
            case _:
                raise InvalidInputError(f"{operation.do!r} is for labels, and these are boxes.")
        self._steps.append(before)

    def undo(self) -> None:
        """Undo the last step."""
        self.boxes = self._steps.pop()

    def _put(self, changed: DrawnBox) -> None:
        self.boxes = tuple(changed if box.number == changed.number else box for box in self.boxes)

    def _find(self, number: int) -> DrawnBox:
        for box in self.boxes:
            if box.number == number:
                return box
        raise InvalidInputError(f"There is no box {number} any more.")

    def _check_class(self, number: int) -> None:
        if not 1 <= number <= self.classes:
            raise InvalidInputError("Choose the class of the box first.")

    def _inside(self, corners: Corners) -> Corners:
        height, width = self.shape
        (x0, x1), (y0, y1) = sorted((corners[0], corners[2])), sorted((corners[1], corners[3]))
        x0, x1 = max(0.0, x0), min(float(width), x1)
        y0, y1 = max(0.0, y0), min(float(height), y1)
        if x1 - x0 < 1 or y1 - y0 < 1:
            raise InvalidInputError("The box is smaller than a pixel or lies outside of the image.")
        return x0, y0, x1, y1
