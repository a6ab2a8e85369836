"""Whether the memory holds the images that are to be judged, told before it is full: a killed worker tells nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from parfocal.qc.metrics.parallel import workers_for
from parfocal.runtime.errors import OutOfMemoryError
from parfocal.runtime.jobs.memory import available_memory
from parfocal.runtime.store.manifests import ImageEntry

_GIB = 2**30


class Sized(Protocol):
    """What is known of an image before it is read: its name, and its shape in pixels, which ends in (Y, X)."""

    @property
    def label(self) -> str:
        """The name."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in pixels."""
        ...


SizedT = TypeVar("SizedT", bound=Sized)


@dataclass(frozen=True)
class SizedImage:
    """The size of an image that is no item of an evaluation, or of a part of one."""

    label: str
    shape: tuple[int, ...]


def size_of(image: ImageEntry, label: str) -> SizedImage:
    """Return the size of an image of a dataset, its channels or colours in front."""
    lengths = zip(image.axes, image.shape, strict=True)
    return SizedImage(label, tuple(length for _, length in sorted(lengths, key=lambda each: each[0] in "YX")))


@dataclass(frozen=True)
class Held:
    """What is in memory at a time of an image that is gone through in parts, as measured.

    Attributes
    ----------
    pixels
        From how many pixels on an image takes no more memory.
    planes
        Planes of a stack that are needed together, however large they are.
    banded
        Whether an image of a single plane is gone through in bands; else it is needed whole, as a plane of a stack is.
    """

    pixels: int
    planes: int
    banded: bool = True

    def of(self, shape: Sequence[int]) -> int:
        """Return how many pixels of an image are in memory at a time."""
        stacked = len(shape) > 2 or not self.banded
        together = self.planes * math.prod(shape[-2:]) if stacked else 0
        return min(math.prod(shape), max(self.pixels, together))


def workers_that_fit(
    items: Sequence[SizedT],
    pixel_bytes: int | Callable[[SizedT], int],
    held: Held | None = None,
    *,
    what: str = "judging it",
) -> int:
    """Return how many images are scored at once.

    Parameters
    ----------
    items
        What is to be scored.
    pixel_bytes
        Memory for each pixel of an image in bytes, or what returns it; 0 if unknown, which checks nothing.
    held
        What of an image is in memory at a time; None: all of it, because spectra, distances or filters need it.
    what
        What takes the memory, for the error.

    Raises
    ------
    OutOfMemoryError
        The largest image does not fit into the memory that is free.
    """
    workers = workers_for(item.shape for item in items)
    free = available_memory()
    if not items or free is None or not pixel_bytes:
        return workers

    def bytes_of(item: SizedT) -> int:
        return pixel_bytes(item) if callable(pixel_bytes) else pixel_bytes

    def pixels(item: SizedT) -> int:
        return math.prod(item.shape) if held is None else held.of(item.shape)

    largest = max(items, key=lambda item: bytes_of(item) * pixels(item))
    needed = bytes_of(largest) * pixels(largest)
    if needed > free:
        size = " x ".join(map(str, largest.shape))
        together = max(1, pixels(largest) // math.prod(largest.shape[-2:]))
        side = math.isqrt(free // (bytes_of(largest) * together) // 100) * 10
        raise OutOfMemoryError(
            f"{largest.label} has {size} pixels: {what} takes about {needed / _GIB:.1f} GiB of memory, and "
            f"{free / _GIB:.1f} GiB are free. Use crops (up to {side} x {side} pixels fit now), or a machine with more "
            "memory."
        )
    return min(workers, free // max(1, needed))
