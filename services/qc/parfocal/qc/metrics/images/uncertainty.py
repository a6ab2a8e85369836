"""Whether a predicted uncertainty is calibrated: how many true values lie within its intervals."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import Float64, check_values, naming
from parfocal.qc.metrics.bands import bands
from parfocal.qc.metrics.images.fit import with_range
from parfocal.qc.metrics.images.restoration import RestorationScore
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.pixel_values import value_range
from parfocal.runtime.images.scratch import release
from parfocal.runtime.prediction.uncertainty import interval_width

LEVELS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Probabilities of the intervals that are looked at."""


def coverage(
    target: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    uncertainty: npt.NDArray[Any],
    score: RestorationScore,
    foreground: npt.NDArray[np.bool_],
    *,
    name: str,
) -> Float64:
    """Return the part of the pixels whose true value lies within the predicted interval.

    The uncertainty is taken as the scale of a Laplace distribution, so the interval of a level is ``scale * ln(1 / (1 -
    level))`` on either side of the prediction. Prediction and uncertainty are brought to the target's scale by the fit
    of the score. A calibrated uncertainty has a coverage equal to the level.

    Parameters
    ----------
    target, prediction, uncertainty
        Images of one plane (Y, X); prediction and uncertainty in the same grey values.
    score
        Score of the prediction; its scale must be above 0.
    foreground
        The foreground of the target, of the same shape: an uncertainty that is only true of empty background is none.
    name
        Name of the image, for errors.

    Returns
    -------
    numpy.ndarray
        float64 (3, levels), 0..1: of all pixels, of those inside the foreground and of those outside, for each of
        `LEVELS`; NaN where a part has no pixels.

    Raises
    ------
    InvalidInputError
        The uncertainty has another shape, or values that are negative or not finite.
    """
    with naming(name):
        check_values(uncertainty, "uncertainty")
        if uncertainty.shape != prediction.shape:
            raise InvalidInputError(
                f"The uncertainty has shape {uncertainty.shape} and its prediction {prediction.shape}."
            )
        if float(value_range(uncertainty)[0]) < 0:
            raise InvalidInputError("The uncertainty has values below 0, which cannot be a width.")
        scaled = with_range(target)
    covered, pixels = np.zeros((3, len(LEVELS)), np.int64), np.zeros((3, 1), np.int64)
    for band in bands(target.shape):
        fitted = score.scale * prediction[band.rows].astype(np.float64) + score.offset
        error = np.abs(scaled.rows(band.rows) - fitted)
        width, inside = score.scale * uncertainty[band.rows].astype(np.float64), foreground[band.rows]
        pixels[:, 0] += [inside.size, int(np.count_nonzero(inside)), int(np.count_nonzero(~inside))]
        for column, level in enumerate(LEVELS):
            within = error <= interval_width(level) * width
            parts = within, within & inside, within & ~inside
            covered[:, column] += [int(np.count_nonzero(part)) for part in parts]
        for array in (target, prediction, uncertainty, foreground):
            release(array)
    fractions: Float64 = np.full(covered.shape, np.nan)
    np.divide(covered, pixels, out=fractions, where=pixels > 0)
    return fractions
