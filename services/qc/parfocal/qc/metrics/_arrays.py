"""Requirements of every metric on its arrays: checks with clear messages, exact percentiles, rounding limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics import bands
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.pixel_values import LARGEST_VALUE, count_unusable
from parfocal.runtime.images.scratch import release

_DIGIT = 16
"""Bits that one pass over a large image tells of the values at some ranks."""

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

    Integers of up to 16 bits are counted instead of sorted, which is several times faster. Images that need not be in
    memory are gone through block by block.
    """
    positions = [percent / 100 * (values.size - 1) for percent in percents]
    ranks = sorted({int(p) for p in positions} | {min(int(p) + 1, values.size - 1) for p in positions})
    if values.dtype.kind in "bu" and values.dtype.itemsize <= 2:
        cumulative = _counted(values).cumsum()
        ordered = dict(zip(ranks, map(float, np.searchsorted(cumulative, ranks, side="right")), strict=True))
    elif values.size <= bands.BAND_PIXELS:
        part = np.partition(values.ravel(), ranks)
        ordered = {rank: float(part[rank]) for rank in ranks}
    else:
        ordered = _at_ranks(values, ranks)
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


def _counted(values: Array) -> npt.NDArray[np.int64]:
    """Return how many pixels have each value, of unsigned integers of up to 16 bits."""
    counts = np.zeros(2 ** (8 * values.dtype.itemsize), np.int64)
    for window in bands.blocks(values.shape):
        counts += np.bincount(values[window].ravel(), minlength=len(counts))
        release(values)
    return counts


def _at_ranks(values: Array, ranks: Sequence[int]) -> dict[int, float]:
    """Return the values at places of the rising order: their digits one after the other, from the highest on."""
    bits = 8 * values.dtype.itemsize
    digit = min(_DIGIT, bits)
    size = 2**digit
    heads, left = dict.fromkeys(ranks, 0), {rank: rank for rank in ranks}
    for done in range(digit, bits + 1, digit):
        counts = {head: np.zeros(size, np.int64) for head in heads.values()}
        for window in bands.blocks(values.shape):
            keys = _keys(values[window]).ravel() >> np.uint64(bits - done)
            for head, counted in counts.items():
                mine = keys if done == digit else keys[keys >> np.uint64(digit) == np.uint64(head)]
                counted += np.bincount((mine & np.uint64(size - 1)).astype(np.intp), minlength=size)
            release(values)
        for rank, head in heads.items():
            upto = counts[head].cumsum()
            place = int(np.searchsorted(upto, left[rank], side="right"))
            left[rank] -= int(upto[place - 1]) if place else 0
            heads[rank] = (head << digit) | place
    return {rank: _value(head, values.dtype) for rank, head in heads.items()}


def _keys(values: Array) -> npt.NDArray[np.uint64]:
    """Return unsigned integers in the order of the values."""
    bits = 8 * values.dtype.itemsize
    keys = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").astype(np.uint64)
    sign = np.uint64(1 << (bits - 1))
    if values.dtype.kind == "i":
        keys ^= sign
    elif values.dtype.kind == "f":
        # Of floats below zero, the larger ones have the smaller digits.
        keys ^= np.where(keys & sign, np.uint64((1 << bits) - 1), sign)
    return keys


def _value(key: int, dtype: np.dtype[np.generic]) -> float:
    """Return the value that has a key."""
    bits = 8 * dtype.itemsize
    sign = 1 << (bits - 1)
    if dtype.kind == "i":
        key ^= sign
    elif dtype.kind == "f":
        key ^= sign if key & sign else (1 << bits) - 1
    return float(np.array(key, f"u{dtype.itemsize}").view(dtype)[()])
