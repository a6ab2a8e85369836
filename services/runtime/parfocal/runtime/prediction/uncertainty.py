"""Whether an uncertainty that a network predicts for each pixel is as large as its errors, and how to make it so.

A network that learns the scale ``b`` of a Laplace distribution besides its value says: with probability ``level`` the
true value lies within ``b * ln(1 / (1 - level))`` of the prediction. Networks trained on few images are surer of
themselves than they may be. One factor, chosen on the validation images, mends the width: temperature scaling of
a regression (Laves et al., Well-calibrated regression uncertainty in medical imaging with deep learning, MIDL 2020),
here by the interval that matters to people instead of by the likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.methods.implementation import ValidationImage
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import UNCERTAINTY_FACTOR

LEVEL: Final = 0.9
"""Probability of the interval that is made true."""

_MOST_PIXELS: Final = 2**24


def interval_width(level: float) -> float:
    """Return half the width of the interval of a probability, in scales of the Laplace distribution."""
    return math.log(1 / (1 - level))


def calibration_factor(ratios: NDArray[np.floating[Any]]) -> float:
    """Return what a scale must be multiplied with, so that the interval of `LEVEL` holds as many values as it says.

    Parameters
    ----------
    ratios
        Absolute errors divided by the scales predicted for them.
    """
    return float(np.quantile(ratios, LEVEL)) / interval_width(LEVEL)


def calibrate_uncertainty(
    predict: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]],
    images: Iterable[ValidationImage],
    facts: Facts,
) -> Facts:
    """Return the facts with the factor for the uncertainty; unchanged where there are no validation images.

    Parameters
    ----------
    predict
        Returns the prediction and its uncertainty for a normalised image, channels last.
    images
        The validation images; of many, about 16 million pixels are taken.
    """
    ratios: list[NDArray[np.floating[Any]]] = []
    pixels = 0
    for image in images:
        target = image.targets[..., 0]
        if ratios and pixels + target.size > _MOST_PIXELS:
            break
        prediction, scale = predict(image.input)
        ratios.append((np.abs(target - prediction) / scale).ravel())
        pixels += target.size
    if not ratios:
        return facts
    return facts.with_measured(**{UNCERTAINTY_FACTOR: round(calibration_factor(np.concatenate(ratios)), 4)})
