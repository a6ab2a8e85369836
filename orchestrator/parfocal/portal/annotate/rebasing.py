"""Corrections from two windows: which of them can follow the others because they do not touch the same.

A window says what it has seen of an image by a digest of the operations that counted then. What came after them in
another window is compared with what the window sends now: by the objects, and by the area in which something is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from parfocal.portal.annotate.operations import (
    AddBox,
    Delete,
    Draw,
    Erase,
    Fill,
    Merge,
    MoveBox,
    Reclassify,
    Replace,
    Split,
    parse,
)


@dataclass(frozen=True)
class Touched:
    """What an operation touches.

    Attributes
    ----------
    objects
        Numbers of objects; a new one has none yet.
    area
        Where it draws: plane (t, z), and corners (x0, y0, x1, y1); None where it concerns whole objects.
    any_object
        Whether it may change any object in its area, or in the image where it has none.
    """

    objects: frozenset[int] = frozenset()
    area: tuple[int, int, float, float, float, float] | None = None
    any_object: bool = False

    def meets(self, other: Touched) -> bool:
        """Return whether both may change the same pixels or the same object."""
        if self.objects & other.objects:
            return True
        if self.area is not None and other.area is not None:
            return _overlap(self.area, other.area)
        # One of them concerns whole objects, whose place is not known here.
        return self.any_object or other.any_object


@dataclass(frozen=True)
class Seen:
    """What a window had seen of an image: a digest of the operations that counted, and those of its own since then."""

    digest: str
    own: frozenset[str] = frozenset()

    def missed(self, operations: Sequence[str]) -> list[str] | None:
        """Return the operations of others since then; None where what it has seen does not count any more."""
        digest = hashlib.sha256()
        for number in range(len(operations) + 1):
            if _short(digest) == self.digest:
                return [text for text in operations[number:] if digest_of([text]) not in self.own]
            if number < len(operations):
                _add(digest, operations[number])
        return None


def digest_of(operations: Iterable[str]) -> str:
    """Return what names operations in this order."""
    digest = hashlib.sha256()
    for text in operations:
        _add(digest, text)
    return _short(digest)


def _add(digest: hashlib._Hash, text: str) -> None:
    digest.update(text.encode() + b"\n")


def _short(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:32]


def can_follow(kind: str, sent: Sequence[Any], others: Sequence[str]) -> bool:
    """Return whether operations can be applied after others that their window has not seen.

    Parameters
    ----------
    kind
        What is drawn: "labels", "classes" or "boxes".
    sent
        Operations as the window sends them.
    others
        Operations as they are kept.
    """
    mine = [touched(kind, parse(each)) for each in sent]
    theirs = [touched(kind, parse(each)) for each in others]
    return not any(one.meets(other) for one in mine for other in theirs)


def touched(kind: str, operation: Any) -> Touched:
    """Return what an operation touches."""
    match operation:
        case Draw(object=number, protect=protect):
            area = _area(operation, operation.size if operation.shape == "brush" else 0.0)
            return Touched(_numbers(kind, number), area, any_object=not protect)
        case Erase(object=number):
            area = _area(operation, operation.size if operation.shape == "brush" else 0.0)
            return Touched(_numbers(kind, number), area, any_object=not number or kind == "classes")
        case Split(object=number, parts=parts):
            return Touched(frozenset({number, *parts}), None, any_object=kind == "classes")
        case Merge(object=number, others=others):
            return Touched(frozenset({number, *others}), None, any_object=kind == "classes")
        case Fill(object=number) | Delete(object=number) | Reclassify(object=number):
            return Touched(frozenset({number}), None, any_object=kind == "classes")
        case AddBox(corners=(x0, y0, x1, y1)):
            return Touched(area=(0, 0, min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
        case MoveBox(object=number):
            return Touched(frozenset({number}))
        case Replace():
            return Touched(any_object=True)
    raise AssertionError(operation)


def _numbers(kind: str, number: int) -> frozenset[int]:
    """Return the object that is drawn; in class images the number is that of a class, which others may draw as well."""
    return frozenset() if kind == "classes" or not number else frozenset({number})


def _area(operation: Draw | Erase, size: float) -> tuple[int, int, float, float, float, float]:
    xs, ys = zip(*operation.points, strict=True)
    margin = size / 2 + 1
    return operation.t, operation.z, min(xs) - margin, min(ys) - margin, max(xs) + margin, max(ys) + margin


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    (t, z, x0, y0, x1, y1), (t2, z2, x2, y2, x3, y3) = one, other
    return (t, z) == (t2, z2) and x0 < x3 and x2 < x1 and y0 < y3 and y2 < y1
