"""How well two ways of counting agree (Bland and Altman, The Lancet 327, 307-310, 1986)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

_FEWEST: Final = 3
_WIDTH: Final = 1.96


@dataclass(frozen=True)
class Agreement:
    """The differences of pairs of counts.

    Attributes
    ----------
    images
        Number of pairs.
    bias
        Mean difference, predicted minus annotated.
    sd
        Sample standard deviation of the differences; None for one pair.
    lower, upper
        Limits of agreement, bias ± 1.96 sd, between which 95 % of the differences lie if they are normal; None for
        fewer than three pairs.
    bias_interval, lower_interval, upper_interval
        95 % confidence intervals of the three, from Student's t; None for fewer than three pairs.
    """

    images: int
    bias: float
    sd: float | None = None
    lower: float | None = None
    upper: float | None = None
    bias_interval: tuple[float, float] | None = None
    lower_interval: tuple[float, float] | None = None
    upper_interval: tuple[float, float] | None = None


def bland_altman(predicted: npt.NDArray[np.floating], annotated: npt.NDArray[np.floating]) -> Agreement:
    """Return how well two counts of the same images agree.

    The standard error of the bias is sd / sqrt(n), and that of the limits about sd * sqrt(3 / n).

    Parameters
    ----------
    predicted, annotated
        (N,): one number for each image, at least one image.
    """
    difference = np.asarray(predicted, np.float64) - np.asarray(annotated, np.float64)
    images, bias = difference.size, float(difference.mean())
    if images == 1:
        return Agreement(images, bias)
    sd = float(difference.std(ddof=1))
    if images < _FEWEST:
        return Agreement(images, bias, sd)
    t = float(stats.t.ppf(0.975, images - 1))
    lower, upper = bias - _WIDTH * sd, bias + _WIDTH * sd
    of_bias, of_limits = t * sd / images**0.5, t * sd * (3 / images) ** 0.5
    return Agreement(
        images,
        bias,
        sd,
        lower,
        upper,
        (bias - of_bias, bias + of_bias),
        (lower - of_limits, lower + of_limits),
        (upper - of_limits, upper + of_limits),
    )
