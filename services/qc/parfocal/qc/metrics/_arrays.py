"""Requirements of every metric on its arrays: checks with clear messages, exact percentiles, rounding limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.pixel_values import LARGEST_VALUE, count_unusable

Array = npt.NDArray[np.generic]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@contextmanager
def naming(name: str | None) -> Iterator[None]:
    """Put the name of the image before the text of an error."""
    try:
        yield
    except InvalidInputError as error:
        if name is None:
            raise
        raise InvalidInputError(f"{name}: {error.message}", error.violations) from error


def percentiles(values: Array, *percents: float) -> list[float]:
    """Percentiles with linear interpolation, as numpy's, but exact in the type of the values.

    Integers of up to 16 bits are counted instead of sorted, which is several times faster.
    """
    positions = [percent / 100 * (values.size - 1) for percent in percents]
    ranks = sorted({int(p) for p in positions} | {min(int(p) + 1, values.size - 1) for p in positions})
    if values.dtype.kind in "bu" and values.dtype.itemsize <= 2:
        cumulative = np.bincount(values.ravel()).cumsum()
        ordered = dict(zip(ranks, map(float, np.searchsorted(cumulative, ranks, side="right")), strict=True))
    else:
        part = np.partition(values.ravel(), ranks)
        ordered = {rank: float(part[rank]) for rank in ranks}
    result = []
    for position in positions:
        below, above = ordered[int(position)], ordered[min(int(position) + 1, values.size - 1)]
        result.append(below + (above - below) * (position - int(position)))
    return result


def check_pair(image: Array, target_scaled: Array) -> None:
    check_values(image, "image")
    if image.shape != target_scaled.shape:
        raise InvalidInputError(
            f"The image has shape {image.shape} and its target {target_scaled.shape}. "
            "Compare images of the same field and the same number of pixels."
        )


def check_values(values: Array, what: str) -> None:
    if values.size == 0:
        raise InvalidInputError(f"The {what} has no pixels.")
    if values.dtype.kind not in "buif":
        raise InvalidInputError(
            f"The {what} has data type {values.dtype}; integer or floating-point grey values are required."
        )
    if bad := count_unusable(values):
        raise InvalidInputError(
            f"The {what} has {bad} of {values.size} values that are NaN, infinite or beyond {LARGEST_VALUE:.0e}. "
            "Repair or leave out the image; if the model made it, its training has diverged."
        )
