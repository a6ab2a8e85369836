"""Scores of a whole Z stack: NRMSE, PSNR and three-dimensional SSIM.

As for images (see `restoration`), with one pair of percentiles and one fit for all voxels. Scores
plane by plane, each with its own fit, cannot see a wrong brightness from plane to plane; these can.

SSIM has a window of 11x11x11 voxels, a Gaussian of sigma 1.5 voxels cut at five, K1 = 0.01, K2 = 0.03, a data range of
1 and population variances; its mean leaves out the border of five voxels at all six faces. That is what
`skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)`
gives for a volume, to 1e-6. The window is one of voxels, however far the planes are apart. Stacks of fewer than eleven
planes have no such SSIM: NaN.

Inside and outside the foreground the scores are those of `foreground`, with this fit and this SSIM.

Memory: planes are scaled and clipped one by one, and only the moments of eleven planes are kept, 16 bytes per pixel
and plane.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import Float32, Float64, check_pair, check_values, naming
from parfocal.qc.metrics.images.fit import AffineFit, failure_of, psnr_of, target_range
from parfocal.qc.metrics.images.foreground import PartOfPixels, RegionScore, snr_of
from parfocal.qc.metrics.parallel import map_bounded, workers_for_planes
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images._window_moments import (
    BAND_PIXELS,
    SSIM_BORDER,
    SSIM_K2,
    SSIM_WINDOW,
    add_weighted_mean,
    moments,
    similarity,
    window_moments,
)
from parfocal.runtime.images.correlation import dot, pearson_of, resolution
from parfocal.runtime.images.ssim import sum_and_difference

Pair = tuple[Float64, Float64]
_Moments = tuple[Float32, Float32, Float32, Float32]


@dataclass(frozen=True)
class VolumeScore:
    """How well a stack agrees with its target as a volume; the fields are those of `RestorationScore`.

    `ssim` is NaN for fewer than eleven planes. `inside` and `outside` are the scores of foreground and background,
    None where no foreground was given.
    """

    nrmse: float
    psnr: float
    ssim: float
    scale: float
    offset: float
    pearson: float
    failed: str | None = None
    inside: RegionScore | None = None
    outside: RegionScore | None = None


def score_volume(
    image: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    mask: npt.NDArray[np.bool_] | None = None,
    name: str | None = None,
    workers: int | None = None,
) -> VolumeScore:
    """Score a stack (Z, Y, X) as one volume; see the module for the definition.

    Parameters
    ----------
    image, target
        Finite grey values of one shape, of any integer or floating type, at least 11x11 in each plane.
    mask
        The foreground, of the shape of the target; None for no scores inside and outside.
    name
        Name of the stack, for the error message.
    workers
        Threads, each for one plane at a time; by default one for each processor, fewer for large planes.

    Raises
    ------
    InvalidInputError
        Different shapes, not three axes, planes smaller than 11x11, not numeric, NaN or infinite, or a constant target.
    """
    with naming(name):
        check_values(target, "target")
        check_pair(image, target)
        if image.ndim != 3 or min(image.shape[1:]) < SSIM_WINDOW:
            raise InvalidInputError(
                f"A volume must have three axes (Z, Y, X) and planes of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels; "
                f"this one has shape {image.shape}."
            )
        if mask is not None and mask.shape != target.shape:
            raise InvalidInputError(f"The foreground has shape {mask.shape} and the target {target.shape}.")
        low, high = target_range(target)
    fit, image_mean, target_mean = _fit(image, target, low, high)
    prepare = partial(_prepared, image, target, (low, high), fit.scale, image_mean, target_mean)
    errors, similarities = np.zeros((3, 2)), np.zeros((3, 2))
    ring: deque[_Moments] = deque(maxlen=SSIM_WINDOW)
    with_ssim = len(image) >= SSIM_WINDOW
    of_plane = partial(_of_plane, prepare, with_ssim, mask)
    threads = workers_for_planes(target.shape) if workers is None else workers
    for index, (error, plane_moments) in enumerate(map_bounded(of_plane, range(len(image)), threads)):
        errors += error
        if plane_moments is not None:
            ring.append(plane_moments)
            if len(ring) == SSIM_WINDOW:
                similarities += _ssim_of_middle(ring, None if mask is None else mask[index - SSIM_BORDER])
    nrmse = math.sqrt(_mean(errors[0]))
    parts = [
        None
        if mask is None
        else _region(PartOfPixels(image, target, mask, inside=number == 1), errors[number], similarities[number])
        for number in (1, 2)
    ]
    return VolumeScore(
        nrmse=nrmse,
        psnr=psnr_of(nrmse),
        ssim=_mean(similarities[0]),
        scale=fit.scale,
        offset=fit.offset,
        pearson=fit.pearson,
        failed=failure_of(fit),
        inside=parts[0],
        outside=parts[1],
    )


def _region(part: PartOfPixels, error: Float64, similarity: Float64) -> RegionScore:
    nrmse, pearson = math.sqrt(_mean(error)), pearson_of(part)
    return RegionScore(nrmse, psnr_of(nrmse), _mean(similarity), pearson, snr_of(pearson))


def _sums(values: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_] | None) -> Float64:
    """Sum and number of values: of all, and of those inside and outside the foreground; float64 (3, 2)."""
    result = np.zeros((3, 2))
    result[0] = values.sum(dtype=np.float64), values.size
    if mask is not None:
        for row, part in enumerate((mask, ~mask), start=1):
            chosen = np.flatnonzero(part)  # twice as fast as sums over a mask
            result[row] = values.ravel().take(chosen).sum(dtype=np.float64), chosen.size
    return result


def _mean(sums: Float64) -> float:
    total, count = map(float, sums)
    return total / count if count else math.nan


def _fit(image: npt.NDArray[Any], target: npt.NDArray[Any], low: float, high: float) -> tuple[AffineFit, float, float]:
    """Least-squares fit of all voxels, and the means of image and scaled target; plane by plane in float64."""
    image_mean = float(np.mean([plane.mean(dtype=np.float64) for plane in image]))
    target_mean = float(np.mean([(plane.mean(dtype=np.float64) - low) / (high - low) for plane in target]))
    variance = covariance = target_variance = spread = 0.0
    for plane, target_plane in zip(image, target, strict=True):
        x = plane.astype(np.float64) - image_mean
        y = (target_plane.astype(np.float64) - low) / (high - low) - target_mean
        variance += dot(x, x)
        covariance += dot(x, y)
        target_variance += dot(y, y)
        spread = max(spread, float(x.max()), -float(x.min()))
    if spread <= resolution(image):
        return AffineFit(scale=0.0, offset=target_mean, pearson=0.0, constant=True), image_mean, target_mean
    scale = covariance / variance
    pearson = covariance / math.sqrt(variance * target_variance)
    fit = AffineFit(scale, target_mean - scale * image_mean, max(-1.0, min(1.0, pearson)))
    return fit, image_mean, target_mean


def _prepared(
    image: npt.NDArray[Any],
    target: npt.NDArray[Any],
    limits: tuple[float, float],
    scale: float,
    image_mean: float,
    target_mean: float,
    index: int,
) -> Pair:
    """Fitted image and scaled target of one plane, both clipped to 0..1."""
    fitted = (image[index].astype(np.float64) - image_mean) * scale
    fitted += target_mean
    scaled = (target[index].astype(np.float64) - limits[0]) / (limits[1] - limits[0])
    return np.clip(fitted, 0, 1, out=fitted), np.clip(scaled, 0, 1, out=scaled)


def _of_plane(
    prepare: partial[Pair], with_ssim: bool, mask: npt.NDArray[np.bool_] | None, index: int
) -> tuple[Float64, _Moments | None]:
    """Return the sums of the squared errors of a plane, and the moments in its windows of 11x11 pixels."""
    fitted, target = prepare(index)
    squares = fitted - target
    squares *= squares
    error = _sums(squares, None if mask is None else mask[index])
    return error, _plane_moments(fitted, target) if with_ssim else None


def _plane_moments(x: Float64, y: Float64) -> _Moments:
    """Mean and variance of x + y, then of x - y, where the window lies within the plane."""
    height, width = x.shape
    row = width + 2 * SSIM_BORDER
    rows_at_once = max(1, BAND_PIXELS // row)
    results = [np.empty((height - 2 * SSIM_BORDER, width - 2 * SSIM_BORDER), np.float32) for _ in range(4)]
    workspace = np.empty((6, rows_at_once * row), np.float32)
    flat = sum_and_difference(x, y)
    for top in range(SSIM_BORDER, height - SSIM_BORDER, rows_at_once):
        rows = min(rows_at_once, height - SSIM_BORDER - top)
        band = list(workspace[:, : rows * row])
        needed = slice(top * row, (top + rows + 2 * SSIM_BORDER) * row)
        for values, (mean, variance) in zip(flat, (results[:2], results[2:]), strict=True):
            window_moments(values[needed], row, band[0], band[1], band[2:])
            for result, computed in ((mean, band[0]), (variance, band[1])):
                inner = computed.reshape(rows, row)[:, SSIM_BORDER : width - SSIM_BORDER]
                result[top - SSIM_BORDER : top - SSIM_BORDER + rows] = inner
    return results[0], results[1], results[2], results[3]


def _ssim_of_middle(ring: Sequence[_Moments], mask: npt.NDArray[np.bool_] | None) -> Float64:
    """Return the sums of SSIM over the middle one of eleven planes, from the moments in each, and its mask."""
    size = ring[0][0].size
    flat = [tuple(part.ravel() for part in plane) for plane in ring]
    inner = None if mask is None else mask[SSIM_BORDER:-SSIM_BORDER, SSIM_BORDER:-SSIM_BORDER].ravel()
    total = np.zeros((3, 2))
    workspace = np.empty((6, min(size, BAND_PIXELS)), np.float32)
    for part in _bands(size):
        band = list(workspace[:, : part.stop - part.start])
        for offset in (0, 2):
            mean, variance = band[offset : offset + 2]
            moments([plane[offset][part] for plane in flat], mean, variance, band[4], band[5])
            add_weighted_mean([plane[offset + 1][part] for plane in flat], variance, band[4])
        ssim, _ = similarity((band[0], band[1]), (band[2], band[3]), band[4:], SSIM_K2**2, False)
        total += _sums(ssim, None if inner is None else inner[part])
    return total


def _bands(size: int) -> Iterator[slice]:
    for start in range(0, size, BAND_PIXELS):
        yield slice(start, min(start + BAND_PIXELS, size))
