"""Whether the memory holds the images that are to be judged, told before it is full: a killed worker tells nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from parfocal.qc.evaluation.inputs import ImageToScore
from parfocal.qc.metrics.parallel import workers_for
from parfocal.runtime.errors import OutOfMemoryError
from parfocal.runtime.jobs.memory import available_memory

_GIB = 2**30


def workers_that_fit(items: Sequence[ImageToScore], pixel_bytes: int, held_pixels: int | None = None) -> int:
    """Return how many images are scored at once.

    Parameters
    ----------
    items
        What is to be scored.
    pixel_bytes
        Memory for each pixel of an image in bytes; 0 if unknown, which checks nothing.
    held_pixels
        From how many pixels on an image takes no more memory, because it is gone through in parts; None where it is
        held whole while it is scored.

    Raises
    ------
    OutOfMemoryError
        The largest image does not fit into the memory that is free.
    """
    workers = workers_for(item.shape for item in items)
    free = available_memory()
    if not items or free is None or not pixel_bytes:
        return workers
    largest = max(items, key=lambda item: math.prod(item.shape))
    pixels = math.prod(largest.shape)
    needed = pixel_bytes * (pixels if held_pixels is None else min(pixels, held_pixels))
    if needed > free:
        size = " x ".join(map(str, largest.shape))
        side = math.isqrt(free // pixel_bytes // 100) * 10
        raise OutOfMemoryError(
            f"{largest.label} has {size} pixels: judging it takes about {needed / _GIB:.1f} GiB of memory, and "
            f"{free / _GIB:.1f} GiB are free. Test on crops (up to {side} x {side} pixels fit now), or on a machine "
            "with more memory."
        )
    return min(workers, free // needed)
