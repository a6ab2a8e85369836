"""Pearson's correlation of images, and the rounding below which differences of values mean nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images.pixel_values import value_range


def pearson_of(pieces: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> float:
    """Pearson's r of two sets of values that come in pieces; NaN of fewer than two values, or of constant ones.

    Parameters
    ----------
    pieces
        Pieces of both sets, of any integer or floating type. They are gone through twice, so that none need be kept.
    """
    count, sums, limits = 0, np.zeros(2), [0.0, 0.0]
    for pair in pieces:
        if pair[0].size:
            count += pair[0].size
            sums += [float(values.sum(dtype=np.float64)) for values in pair]
            limits = [max(limit, resolution(values)) for limit, values in zip(limits, pair, strict=True)]
    if count < 2:
        return math.nan
    means, products, spreads = sums / count, np.zeros(3), [0.0, 0.0]
    for pair in pieces:
        if pair[0].size:
            x, y = (values.astype(np.float64) - mean for values, mean in zip(pair, means, strict=True))
            products += dot(x, y), dot(x, x), dot(y, y)
            spreads = [max(s, float(v.max()), -float(v.min())) for s, v in zip(spreads, (x, y), strict=True)]
    if any(spread <= limit for spread, limit in zip(spreads, limits, strict=True)):
        return math.nan
    return max(-1.0, min(1.0, float(products[0] / math.sqrt(products[1] * products[2]))))


def dot(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Sum of products; einsum rather than BLAS, so that the last bit does not depend on a thread count."""
    return float(np.einsum("i,i->", x.ravel(), y.ravel()))


def resolution(image: NDArray[Any]) -> float:
    """Differences up to this are rounding of the image's own type."""
    if image.dtype.kind != "f":
        return 0.0
    return 4 * float(np.finfo(image.dtype.char).eps) * max(abs(float(value)) for value in value_range(image))
