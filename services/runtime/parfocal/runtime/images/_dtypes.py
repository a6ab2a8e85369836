"""From one type of pixel to another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def convert_dtype(pixels: NDArray[Any], like: DTypeLike) -> tuple[NDArray[Any], float]:
    """Convert pixels to another data type by rounding and clipping.

    Parameters
    ----------
    pixels
        Any real array.
    like
        The wanted type. For a floating point type nothing is rounded or clipped.

    Returns
    -------
    tuple
        The converted array and the fraction of pixels (0 to 1) that did not fit and were clipped; NaN counts
        as clipped and becomes 0.
    """
    wanted = np.dtype(like)
    if wanted.kind == "f" or wanted == pixels.dtype:
        return pixels.astype(wanted), 0.0
    if wanted.kind == "b":
        lowest, highest, wanted = 0, 1, np.dtype(np.uint8)
    else:
        info = np.iinfo(wanted)
        lowest, highest = int(info.min), int(info.max)
    out = np.empty(pixels.shape, wanted)
    source, flat, clipped, block = np.ascontiguousarray(pixels).reshape(-1), out.reshape(-1), 0, 2**22
    for start in range(0, source.size, block):  # in blocks: float64 copies of a whole volume are large
        values = np.rint(source[start : start + block].astype(np.float64))
        low, high, lost = values < lowest, values >= highest + 1.0, np.isnan(values)
        unfit = low | high | lost
        clipped += int(np.count_nonzero(unfit))
        values[unfit] = 0
        part = values.astype(wanted)
        part[low], part[high] = lowest, highest
        flat[start : start + block] = part
    return out, clipped / max(1, source.size)


def whole_numbers(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return labels that are stored as decimal numbers as whole ones, none changed; others as they are.

    Parameters
    ----------
    pixels
        Any real array. Floating ones become uint16, uint32 where there are labels above 65,535, or int32 where
        there are negative ones, if all are whole numbers that 32 bits can hold.
    """
    if pixels.dtype.kind != "f" or pixels.size == 0:
        return pixels
    lowest, highest = float(pixels.min()), float(pixels.max())
    fitting = (np.uint16, np.uint32) if lowest >= 0 else (np.int32,)
    kind = next((each for each in fitting if np.iinfo(each).min <= lowest and highest <= np.iinfo(each).max), None)
    if kind is None or not np.array_equal(pixels, np.floor(pixels)):
        return pixels
    return pixels.astype(kind)


def storable(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the pixels in a type that OME-TIFF knows, no value changed; ValueError if there is none."""
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8)
    if pixels.dtype == np.float16:
        return pixels.astype(np.float32)
    if pixels.dtype in (np.int64, np.uint64):
        narrow = np.dtype(np.int32 if pixels.dtype.kind == "i" else np.uint32)
        lowest, highest = (int(pixels.min()), int(pixels.max())) if pixels.size else (0, 0)
        if lowest < np.iinfo(narrow).min or highest > np.iinfo(narrow).max:
            raise ValueError(f"its values {lowest} to {highest} need 64-bit integers")
        return pixels.astype(narrow)
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))
