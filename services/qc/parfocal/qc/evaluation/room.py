"""Whether the memory holds the images that are to be judged, told before it is full: a killed worker tells nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parfocal.qc.evaluation.inputs import ImageToScore
from parfocal.qc.metrics.parallel import workers_for
from parfocal.runtime.errors import OutOfMemoryError
from parfocal.runtime.jobs.memory import available_memory

_GIB = 2**30


@dataclass(frozen=True)
class Held:
    """What is in memory at a time of an image that is gone through in parts, as measured.

    Attributes
    ----------
    pixels
        From how many pixels on an image takes no more memory.
    planes
        Planes of a stack that are needed together, however large they are.
    """

    pixels: int
    planes: int

    def of(self, shape: Sequence[int]) -> int:
        """Return how many pixels of an image are in memory at a time."""
        together = self.planes * math.prod(shape[-2:]) if len(shape) > 2 else 0
        return min(math.prod(shape), max(self.pixels, together))


def workers_that_fit(items: Sequence[ImageToScore], pixel_bytes: int, held: Held | None = None) -> int:
    """Return how many images are scored at once.

    Parameters
    ----------
    items
        What is to be scored.
    pixel_bytes
        Memory for each pixel of an image in bytes; 0 if unknown, which checks nothing.
    held
        What of an image is in memory at a time; None: all of it, because spectra, distances or filters need it.

    Raises
    ------
    OutOfMemoryError
        The largest image does not fit into the memory that is free.
    """
    workers = workers_for(item.shape for item in items)
    free = available_memory()
    if not items or free is None or not pixel_bytes:
        return workers

    def pixels(item: ImageToScore) -> int:
        return math.prod(item.shape) if held is None else held.of(item.shape)

    largest = max(items, key=pixels)
    needed = pixel_bytes * pixels(largest)
    if needed > free:
        size = " x ".join(map(str, largest.shape))
        side = math.isqrt(free // pixel_bytes // 100) * 10
        raise OutOfMemoryError(
            f"{largest.label} has {size} pixels: judging it takes about {needed / _GIB:.1f} GiB of memory, and "
            f"{free / _GIB:.1f} GiB are free. Test on crops (up to {side} x {side} pixels fit now), or on a machine "
            "with more memory."
        )
    return min(workers, free // needed)
