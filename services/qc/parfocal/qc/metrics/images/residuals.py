"""Scores of a restored image without a target: what was taken away from the input should be noise and nothing else.

The prediction is fitted to its input by least squares, ``a * prediction + b``, because a restoration is free in
brightness and offset; the residual is the input less the fitted prediction. If the camera's noise is independent from
pixel to pixel, the residual of a perfect restoration is white noise, whose strength may follow the brightness. This is
checked in three ways:

- its autocorrelation at neighbouring pixels is 0 (residual whiteness);
- smoothed with a Gaussian of 2 pixels it varies no more than white noise of its own local strength would. Where it
  does, structure was taken away from the image or put into it. The strength is estimated from the finest scale alone,
  by the filter of Immerkaer (Computer Vision and Image Understanding 64, 300, 1996), which leaves little of structures;
- the fine structure of the prediction is as strong as that of the input, once the noise's part of the latter is taken
  off: the residual is uncorrelated with the signal.

Noise that neighbouring pixels share (interpolated, binned or compressed images) looks like lost structure here. And
false structure within the noise leaves no trace in the residual: only targets can reveal it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from parfocal.qc.metrics._arrays import Float32, Float64, check_values
from parfocal.qc.metrics.bands import bands
from parfocal.qc.metrics.images.fit import CONSTANT_PREDICTION, CONTRAST_INVERTED
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.correlation import dot
from parfocal.runtime.images.noise import noise_sigma
from parfocal.runtime.images.pixel_values import value_range
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release

SMOOTHING: Final = 2.0
"""Sigma in pixels of the Gaussian under which the residual is compared with noise."""

LARGEST_DEVIATION: Final = 4.0
"""Standard deviations up to which prediction and input agree; white noise exceeds them in 6 of 100,000 pixels."""

_BLOCK: Final = 16
# Over which the strength of the noise is averaged, and below which part of its mean it is not believed.
_LOCAL: Final = 8.0
_WEAKEST: Final = 0.05
_FINE, _COARSE = 1.0, 4.0
_SMALLEST: Final = 8
# Rows that the widest filter needs, and the filter before it.
_AROUND: Final = math.ceil(4 * _LOCAL) + 1
# Sum of the squared weights of Immerkaer's filter: its gain on the variance of white noise.
_GAIN: Final = 36.0


class NoNoiseError(InvalidInputError):
    """An input shows no noise, so that there is nothing its residual could be compared with; `why` in two words."""

    def __init__(self, message: str, why: str = "no noise") -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True)
class ResidualScore:
    """Scores of the residual of one image. The autocorrelation is 0 if nothing was removed.

    Attributes
    ----------
    agreement
        Part of the pixels, 0..1, in which prediction and input agree within `LARGEST_DEVIATION`.
    structure
        Standard deviation of the smoothed residual in the third of the image with the most structure, divided by that
        of smoothed white noise: 1 for noise alone, more where structure was lost or added, less where noise was left.
    noise_left
        Noise of the fitted prediction divided by that of its input: 0 where none is left, 1 for the input itself.
        Where most pixels of the input show no noise at all, the finest scales of both are compared.
    neighbours
        Autocorrelation of the residual at the next pixel, -1..1, after division by the local strength of the noise.
    sharpness
        Fine structure of the fitted prediction by that of the input without noise, in the same third: root mean square
        between Gaussians of 1 and 4 pixels. Below 1 where structures were blurred or weakened, above 1 where they were
        sharpened, or false structure was added; NaN if the input shows no structure beyond its noise.
    scale
        Factor `a` of the fit.
    clipped
        Part of the pixels, 0..1, at the smallest or largest grey value of the input, where noise is cut off.
    failed
        `CONTRAST_INVERTED` (only beyond what chance gives), `CONSTANT_PREDICTION`, or None.
    """

    agreement: float
    structure: float
    noise_left: float
    neighbours: float
    sharpness: float
    scale: float
    clipped: float
    failed: str | None = None


@dataclass(frozen=True)
class ResidualMaps:
    """Residual in grey values of the input, and its deviation; float32, of the shape of the image.

    The deviation is the smoothed residual in standard deviations of smoothed noise: beyond `LARGEST_DEVIATION` the
    prediction contradicts its input.
    """

    residual: Float32
    deviation: Float32


def score_residual(
    source: npt.NDArray[Any], prediction: npt.NDArray[Any], *, name: str, scratch: Scratch = IN_MEMORY
) -> tuple[ResidualScore, ResidualMaps]:
    """Score a restored image by what was taken away from its input.

    Parameters
    ----------
    source, prediction
        Grey values of one shape, (Y, X), or (…, Y, X) for stacks, which are scored plane by plane and averaged; sides
        of 8 pixels at least. They need not be in memory.
    name
        Name of the image, for errors.
    scratch
        Where the maps lie.

    Raises
    ------
    InvalidInputError
        Shapes differ, or values are not finite.
    NoNoiseError
        The input is constant, free of noise, or too small for it to be told.
    """
    if source.shape != prediction.shape:
        raise InvalidInputError(
            f"{name}: the prediction has shape {prediction.shape} and its input {source.shape}. Compare a prediction "
            "with the image it was made from."
        )
    if source.ndim < 2 or min(source.shape[-2:]) < _SMALLEST:
        raise NoNoiseError(
            f"{name} is too small to tell noise from structure: at least {_SMALLEST}x{_SMALLEST} pixels are required, "
            f"and this image has {source.shape}.",
            "too small",
        )
    for what, values in (("input", source), ("prediction", prediction)):
        check_values(values, f"{what} {name}")
    shape = (-1, *source.shape[-2:])
    maps = ResidualMaps(scratch.zeros(source.shape, np.float32), scratch.zeros(source.shape, np.float32))
    arrays = [each.reshape(shape) for each in (source, prediction, maps.residual, maps.deviation)]
    known = []
    for pixels, predicted, *into in zip(*arrays, strict=True):
        if (score := _score(pixels, predicted, ResidualMaps(*into), scratch)) is not None:
            known.append(score)
    if not known:
        raise NoNoiseError(
            f"{name}: the input shows no noise, so that there is nothing to compare a residual with. Judge such images "
            "by targets."
        )
    return _mean(known), maps


def _score(
    source: npt.NDArray[Any], prediction: npt.NDArray[Any], maps: ResidualMaps, scratch: Scratch
) -> ResidualScore | None:
    """Score one plane band by band, and fill its maps; None where its input shows no noise."""
    size, edge = source.size, min(_BLOCK, *source.shape)
    parts = list(bands(source.shape, _AROUND, edge))
    total = 0.0
    for band in parts:
        total += float(_fine_power(source[band.padded].astype(np.float64))[band.core].sum())
        release(source)
    mean_power = total / size
    if not mean_power > 0:
        return None
    failed, fit = _fit(source, prediction)
    noise = noise_sigma(source, scratch=scratch)
    least = max(_WEAKEST**2 * mean_power, _rounding(source))
    smallest, largest = value_range(source)
    blocks, neighbours = _Blocks(edge), _Neighbours()
    agreeing = clipped = 0
    power_left = 0.0
    for band in parts:
        values = source[band.padded].astype(np.float64)
        fitted = fit.apply(prediction[band.padded])
        residual = values - fitted
        variance = _local_variance(residual, least)
        strength = np.sqrt(variance)
        deviation = _smooth(residual) / (strength * math.sqrt(_gain(_smooth)))
        core = band.core
        maps.residual[band.rows], maps.deviation[band.rows] = residual[core], deviation[core]
        agreeing += int(np.count_nonzero(np.abs(deviation[core]) <= LARGEST_DEVIATION))
        clipped += int(np.count_nonzero((values[core] == smallest) | (values[core] == largest)))
        blocks.add(
            gaussian_filter(fitted, 1.0)[core],
            *(each[core] for each in (deviation**2, _band(values) ** 2, variance, _band(fitted) ** 2)),
        )
        neighbours.add((residual / strength)[core.start : core.stop + 1], core.stop - core.start)
        if not noise > 0:
            power_left += float(_fine_power(fitted)[core].sum())
        for array in (source, prediction, maps.residual, maps.deviation):
            release(array)
    structure, band_of_source, of_noise, band_of_fitted = blocks.means()
    return ResidualScore(
        agreement=agreeing / size,
        structure=math.sqrt(structure),
        noise_left=(
            # That of the fitted prediction.
            abs(fit.scale) * noise_sigma(prediction, clipped=source, scratch=scratch) / noise
            if noise > 0
            else math.sqrt(power_left / size / mean_power)
        ),
        neighbours=neighbours.correlation(),
        sharpness=_ratio(band_of_fitted, band_of_source - _gain(_band) * of_noise),
        scale=fit.scale,
        clipped=clipped / size,
        failed=failed,
    )


@dataclass(frozen=True)
class _Fit:
    """Least-squares fit of a prediction to its input: ``scale * (prediction - mean) + level``."""

    scale: float
    mean: float
    level: float

    def apply(self, prediction: npt.NDArray[Any]) -> Float64:
        """Return a part of the prediction as it is fitted."""
        fitted: Float64 = prediction.astype(np.float64)
        fitted -= self.mean
        fitted *= self.scale
        fitted += self.level
        return fitted


def _fit(source: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> tuple[str | None, _Fit]:
    """Return why the prediction failed, and its fit."""
    pair = (source, prediction)
    sums = np.zeros(2)
    for band in bands(source.shape):
        sums += [float(each[band.rows].sum(dtype=np.float64)) for each in pair]
        for each in pair:
            release(each)
    level, mean = (sums / source.size).tolist()
    products = np.zeros(3)
    for band in bands(source.shape):
        x, y = prediction[band.rows] - np.float64(mean), source[band.rows] - np.float64(level)
        products += dot(x, x), dot(x, y), dot(y, y)
        for each in pair:
            release(each)
    spread, covariance, variance = (products / source.size).tolist()
    brightest = max(abs(float(value)) for value in value_range(prediction))
    if spread <= (1e-7 * brightest) ** 2:
        return CONSTANT_PREDICTION, _Fit(0.0, mean, level)
    scale = covariance / spread
    # Where there is nothing but noise, half of all predictions correlate with it negatively by chance.
    chance = LARGEST_DEVIATION * math.sqrt(variance) / math.sqrt(spread * source.size)
    return CONTRAST_INVERTED if scale < -chance else None, _Fit(scale, mean, level)


def _fine_power(values: Float64) -> Float64:
    """Return the square of Immerkaer's filter at each pixel, scaled so that its mean on white noise is the variance."""
    for axis in (-1, -2):
        values = np.diff(values, n=2, axis=axis)
    return np.pad(values**2 / _GAIN, 1, mode="edge")


def _local_variance(residual: Float64, least: float) -> Float64:
    variance: Float64 = np.maximum(gaussian_filter(_fine_power(residual), _LOCAL), least)
    return variance


def _rounding(source: npt.NDArray[Any]) -> float:
    """Return the variance of rounding to whole grey values: integers never have less noise."""
    return 1 / 12 if source.dtype.kind in "ui" else 0.0


def _smooth(values: Float64) -> Float64:
    smoothed: Float64 = gaussian_filter(values, SMOOTHING)
    return smoothed


def _band(values: Float64) -> Float64:
    """Return the fine structure of an image."""
    fine: Float64 = gaussian_filter(values, _FINE) - gaussian_filter(values, _COARSE)
    return fine


@cache
def _gain(linear: Callable[[Float64], Float64]) -> float:
    """Return the variance of white noise of strength 1 after a linear filter."""
    point = np.zeros((65, 65))
    point[32, 32] = 1.0
    return float((linear(point) ** 2).sum())


def _ratio(power: float, of: float) -> float:
    return math.sqrt(power / of) if of > 0 else math.nan


class _Blocks:
    """The square blocks of a plane, of which the third that varies most is called structured.

    Parameters
    ----------
    edge
        Side length in pixels; what is left at the end of rows and columns belongs to no block.
    """

    def __init__(self, edge: int) -> None:
        self._edge = edge
        self._spread: list[Float64] = []
        self._means: list[Float64] = []

    def add(self, image: Float64, *others: Float64) -> None:
        """Add the next rows of the image that tells where structures are, and of others that are averaged there."""
        self._spread.append(self._of(image).std(axis=(1, 2)))
        self._means.append(np.stack([self._of(each).mean(axis=(1, 2)) for each in others]))

    def means(self) -> list[float]:
        """Return the means of the others over the structured blocks."""
        spread, means = np.concatenate(self._spread), np.concatenate(self._means, axis=1)
        structured = np.argsort(spread, kind="stable")[-max(1, len(spread) // 3) :]
        found: list[float] = means[:, structured].mean(axis=1).tolist()
        return found

    def _of(self, image: Float64) -> Float64:
        edge = self._edge
        rows, columns = (length // edge for length in image.shape)
        cut = image[: rows * edge, : columns * edge].reshape(rows, edge, columns, edge)
        return cut.swapaxes(1, 2).reshape(-1, edge, edge)


class _Neighbours:
    """Correlation of neighbouring pixels along Y and X, of a plane that comes from top to bottom."""

    def __init__(self) -> None:
        self._sums = np.zeros(2)
        # Along each axis: number of pairs, sums of their first and of their second values, and of their products.
        self._pairs = np.zeros((2, 4))
        self._size = 0

    def add(self, values: Float64, rows: int) -> None:
        """Add the next rows; `values` has the row below them too, where there is one."""
        mine = values[:rows]
        self._size += mine.size
        self._sums += mine.sum(), dot(mine, mine)
        for axis, (one, other) in enumerate(((values[:-1], values[1:]), (mine[:, :-1], mine[:, 1:]))):
            self._pairs[axis] += one.size, one.sum(), other.sum(), dot(one, other)

    def correlation(self) -> float:
        """Return the mean of both."""
        mean = self._sums[0] / self._size
        power = self._sums[1] / self._size - mean**2
        count, first, second, products = self._pairs.T
        along = (products - mean * (first + second)) / count + mean**2
        return float(along.mean() / power) if power > 0 else 0.0


def _mean(scores: Sequence[ResidualScore]) -> ResidualScore:
    """Average the planes of a stack; one that failed fails the stack."""
    if len(scores) == 1:
        return scores[0]
    means: dict[str, float] = {}
    for field in fields(ResidualScore):
        if field.name != "failed":
            known = [value for each in scores if not math.isnan(value := getattr(each, field.name))]
            means[field.name] = float(np.mean(known)) if known else math.nan
    return ResidualScore(**means, failed=next((each.failed for each in scores if each.failed), None))
