"""The baseline every image translation is compared with: the best linear function of the input's pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import Float32
from parfocal.qc.metrics.bands import blocks
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release


@dataclass(frozen=True)
class LinearPredictor:
    """``target = sum(coefficients * channels) + intercept``, for every pixel by itself.

    Attributes
    ----------
    coefficients
        One for each channel of the input, in target grey values per source grey value.
    intercept
        Intercept in grey values of the target.
    images
        Number of images it was fitted to.
    pairs
        Whether it was fitted to pairs.
    """

    coefficients: tuple[float, ...]
    intercept: float
    images: int
    pairs: bool = True

    def apply(self, source: npt.NDArray[Any], scratch: Scratch = IN_MEMORY) -> Float32:
        """Return the prediction for one image: the spatial axes of `source`, whose channels come first if several.

        It lies in `scratch`; neither it nor the source need be in memory.
        """
        several = len(self.coefficients) > 1
        channels = source if several else source[np.newaxis]
        result: Float32 = scratch.zeros(channels.shape[1:], np.float32)
        for window in blocks(result.shape):
            part = channels[(slice(None), *window)].astype(np.float64)
            result[window] = np.tensordot(np.asarray(self.coefficients), part, 1) + self.intercept
            release(source)
            release(result)
        return result

    def describe(self) -> dict[str, Any]:
        """Return what was fitted and to what, as plain JSON types."""
        return {
            "name": "linear predictor",
            "coefficients": list(self.coefficients),
            "intercept": self.intercept,
            "chosen_on": "training images",
            "images": self.images,
            "pairs": self.pairs,
        }


def fit_linear_predictor(pairs: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> LinearPredictor:
    """Fit the linear predictor with the least squared error over all pixels of all images.

    Fit it to the images that the model was trained on, so that both know the same data.

    Parameters
    ----------
    pairs
        ``(source, target)``, taken one by one: any number fits in memory. The target is (Y, X) or (Z, Y, X); the
        source has the same shape, or a leading channel axis besides.

    Raises
    ------
    InvalidInputError
        There are no pairs, or shapes do not fit.
    """
    squares: npt.NDArray[np.float64] | None = None
    products: npt.NDArray[np.float64] | None = None
    count = 0
    for source, target in pairs:
        channels = source.shape[0] if source.ndim > target.ndim else 1
        columns = source.reshape(channels, -1).astype(np.float64)
        if columns.shape[1] != target.size:
            raise InvalidInputError(
                f"A pair has shapes {source.shape} and {target.shape}, which do not match. Use pairs of the same size."
            )
        rows = np.vstack([columns, np.ones(target.size)])
        weight = 1.0 / target.size  # every image counts alike
        if squares is None or products is None:
            squares, products = np.zeros((len(rows), len(rows))), np.zeros(len(rows))
        squares += weight * rows @ rows.T
        products += weight * rows @ target.reshape(-1).astype(np.float64)
        count += 1
    if squares is None or products is None:
        raise InvalidInputError("There are no training images to fit the linear predictor to.")
    # Least norm where channels repeat each other.
    solution = np.linalg.lstsq(squares, products, rcond=None)[0]
    return LinearPredictor(tuple(solution[:-1].tolist()), float(solution[-1]), count)


def match_moments(
    sources: Iterable[npt.NDArray[Any]], targets: Iterable[npt.NDArray[Any]], dimensions: int
) -> LinearPredictor:
    """Return the linear function that gives sources the mean and the standard deviation of targets.

    The least that a model trained without pairs must surpass: without pairs, no better linear function can be told.

    Parameters
    ----------
    sources, targets
        Images, taken one by one, every one of which counts alike. Of sources with a channel axis in front, the channels
        count alike.
    dimensions
        Axes of a target.

    Raises
    ------
    InvalidInputError
        There are no images of one kind.
    """
    channels, count = 1, 0
    moments: list[list[tuple[float, float]]] = [[], []]
    for source in sources:
        values = source.astype(np.float64)
        if values.ndim > dimensions:
            channels, values = len(values), values.mean(axis=0)
        moments[0].append((float(values.mean()), float((values**2).mean())))
        count += 1
    for target in targets:
        values = target.astype(np.float64)
        moments[1].append((float(values.mean()), float((values**2).mean())))
    if not all(moments):
        raise InvalidInputError("There are no training images to fit the linear predictor to.")
    (mean, square), (wanted, wanted_square) = (np.mean(each, axis=0) for each in moments)
    spread = float(np.sqrt(max(square - mean**2, 0.0)))
    gain = float(np.sqrt(max(wanted_square - wanted**2, 0.0))) / spread if spread > 0 else 0.0
    return LinearPredictor((gain / channels,) * channels, float(wanted - gain * mean), count, pairs=False)
