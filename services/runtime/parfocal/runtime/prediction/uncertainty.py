"""Whether an uncertainty that a network predicts for each pixel is as large as its errors, and how to make it so.

A network that learns the scale ``b`` of a Laplace distribution besides its value says: with probability ``level`` the
true value lies within ``b * ln(1 / (1 - level))`` of the prediction. Networks trained on few images are surer of
themselves than they may be. One factor, chosen on the validation images, mends the width: temperature scaling of
a regression (Laves et al., Well-calibrated regression uncertainty in medical imaging with deep learning, MIDL 2020),
here by the interval that matters to people instead of by the likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.methods.implementation import UNCERTAINTY, Channels, ImageImplementation, Learner
from parfocal.runtime.prediction.loaded_model import raw_output
from parfocal.runtime.store.manifests import UNCERTAINTY_FACTOR

LEVEL: Final = 0.9
"""Probability of the interval that is made true."""

_MOST_PIXELS: Final = 2**24
_LARGEST_TILE: Final = 2**20


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
    implementation: ImageImplementation,
    learner: Learner,
    parameters: Any,
    channels: Channels,
    images: Iterable[tuple[NDArray[np.float32], NDArray[Any]]],
) -> dict[str, float]:
    """Return the factor for the calibration of a model; nothing where there are no validation images.

    Parameters
    ----------
    images
        The validation images with their targets, both normalised; of many images about 16 million pixels are taken.
    """
    ratios: list[NDArray[np.floating[Any]]] = []
    pixels = 0
    for image, target in images:
        if ratios and pixels + target.size > _MOST_PIXELS:
            break
        image = image if image.ndim > target.ndim else image[..., np.newaxis]
        output = raw_output(implementation, learner, image, parameters, channels, _LARGEST_TILE)
        found = implementation.interpret(output, parameters, channels)
        prediction, scale = found["prediction"][0], found[UNCERTAINTY][0]
        ratios.append((np.abs(target - prediction) / scale).ravel())
        pixels += target.size
    return {UNCERTAINTY_FACTOR: round(calibration_factor(np.concatenate(ratios)), 4)} if ratios else {}
