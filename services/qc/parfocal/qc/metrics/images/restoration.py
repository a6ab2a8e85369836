"""Scores of a restored image against its target: NRMSE, PSNR, SSIM and their maps.

Definition, for two-dimensional images (a stack is scored slice by slice):

1. The target is scaled by its own 0.1 and 99.9 percentiles (`scale_target`).
2. The image is fitted to the scaled target by least squares, ``a * image + b`` (`affine_fit`), because a
   restoration is free in brightness and offset. The fit sees the target unclipped: an image that equals its
   target up to brightness and offset therefore scores perfectly.
3. Both are clipped to 0..1, so that the data range of 1 used by PSNR and SSIM is true.
4. ``NRMSE = sqrt(mean((target - fitted)^2))``, ``PSNR = 20 log10(1 / NRMSE)`` in dB, the RSE map is
   ``|target - fitted|``, and SSIM is as in `parfocal.runtime.images.ssim`, averaged without its border.

The fit would hide an inverted image, so ``a``, ``b`` and Pearson's r are part of the score, and ``a <= 0`` marks
the image as failed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import (
    Float32,
    Float64,
    check_pair,
    naming,
)
from parfocal.qc.metrics.bands import bands
from parfocal.qc.metrics.images.fit import (
    AffineFit,
    ImagePair,
    ScaledTarget,
    failure_of,
    fit_of,
    fitted_to_target,
    has_range,
    psnr_of,
    with_range,
)
from parfocal.qc.metrics.images.multiscale import MultiscaleMeans
from parfocal.qc.metrics.parallel import map_bounded, workers_for_planes
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.correlation import dot
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release
from parfocal.runtime.images.ssim import SSIM_BORDER, SsimMeans, check_windowed, ssim_and_contrast_maps, ssim_map

__all__ = [
    "RestorationMaps",
    "RestorationScore",
    "maps_within",
    "score_restoration",
    "score_scaled",
    "score_stack",
    "ssim_map",
]


@dataclass(frozen=True)
class RestorationScore:
    """How well one two-dimensional image agrees with its target; every number is finite, unless it was left out.

    Attributes
    ----------
    nrmse
        Root mean square error as a fraction of the target's data range (0.1 to 99.9 percentile).
    psnr
        Peak signal-to-noise ratio in dB, at most `PSNR_CEILING`.
    ssim
        Mean structural similarity, -1..1.
    scale, offset, pearson
        The fit, see `AffineFit`.
    nrmse_zerocost
        The "NRMSE" of the ZeroCostDL4Mic notebooks, the square root of the mean *absolute* difference of their
        own arrays (nothing clipped, slope = covariance with ddof 1 over variance with ddof 0). It is no root mean
        square error; it is given for comparison with old results only.
    failed
        `CONTRAST_INVERTED`, `CONSTANT_PREDICTION`, or None. The other numbers of a failed image describe the fit
        and do not redeem it.
    ms_ssim
        Multi-scale SSIM, 0..1, see `parfocal.qc.metrics.images.multiscale`; NaN where it was not computed.
    ms_ssim_inside, ms_ssim_outside
        The same inside and outside the foreground; NaN where none was given, or it has no value there. The other
        metrics have theirs from the maps, see `parfocal.qc.metrics.images.foreground.score_regions`.
    """

    nrmse: float
    psnr: float
    ssim: float
    scale: float
    offset: float
    pearson: float
    nrmse_zerocost: float
    failed: str | None = None
    ms_ssim: float = math.nan
    ms_ssim_inside: float = math.nan
    ms_ssim_outside: float = math.nan


@dataclass(frozen=True)
class RestorationMaps:
    """Maps of the agreement of an image with its target: `ssim` (-1..1), and `rse`, the absolute difference (0..1).

    Both are float32 and have the shape of the image, (Y, X) or (Z, Y, X).
    """

    ssim: Float32
    rse: Float32


def score_restoration(
    image: npt.NDArray[Any], target: npt.NDArray[Any], *, name: str | None = None, scratch: Scratch = IN_MEMORY
) -> tuple[RestorationScore, RestorationMaps]:
    """Score one image (Y, X) against its target; see the module for the definition.

    Parameters
    ----------
    image
        Prediction (or input, or baseline): finite grey values of any integer or floating type, at least 11x11.
    target
        Grey values of the same shape, of any integer or floating type.
    name
        Name of the image, put before the text of an error.
    scratch
        Where the maps lie; the images need not be in memory either.

    Raises
    ------
    InvalidInputError
        Different shapes, not two axes, smaller than 11x11, not numeric, NaN or infinite, or a constant target.

    Examples
    --------
    >>> import numpy as np
    >>> target = np.add.outer(np.arange(32), np.arange(32))
    >>> score, maps = score_restoration(3 * target + 100, target)
    >>> score.psnr, round(score.ssim, 6), round(score.pearson, 6), score.failed
    (100.0, 1.0, 1.0, None)
    >>> score_restoration(255 - target, target)[0].failed
    'contrast inverted'
    """
    with naming(name):
        check_windowed(image, target)
    return score_scaled(image, with_range(target, name=name), name=name, scratch=scratch)


def score_scaled(
    image: npt.NDArray[Any],
    target_scaled: Float64 | ScaledTarget,
    *,
    foreground: npt.NDArray[np.bool_] | None = None,
    name: str | None = None,
    scratch: Scratch = IN_MEMORY,
) -> tuple[RestorationScore, RestorationMaps]:
    """As `score_restoration`, with a target that is scaled already, or whose range is known.

    Saves time where input, baseline and prediction are scored against the same target. `foreground` is that of the
    target, bool (Y, X), for MS-SSIM inside and outside of it. None of the arrays need be in memory, and the maps lie in
    `scratch`: images are gone through in bands, see `parfocal.qc.metrics.bands`.
    """
    target = target_scaled if isinstance(target_scaled, ScaledTarget) else ScaledTarget(target_scaled)
    with naming(name):
        check_windowed(image, target.pixels)
        check_pair(image, target.pixels)
        _check_foreground(foreground, target.pixels)
        pair = ImagePair(image, target)
        fit, means = fit_of(pair)
        maps = RestorationMaps(scratch.zeros(image.shape, np.float32), scratch.zeros(image.shape, np.float32))
        ssim, scales = SsimMeans(len(image)), MultiscaleMeans(image.shape, foreground is not None, scratch)
        squares = apart = 0.0
        for band in bands(image.shape, SSIM_BORDER):
            x, y = pair.centred(band.padded, means)
            fitted = np.clip(fitted_to_target(x, fit, means), 0, 1)
            # The notebooks divide a covariance with ddof 1 by a variance with ddof 0.
            x *= fit.scale * image.size / (image.size - 1)
            y -= x
            apart += float(np.abs(y, out=y)[band.core].sum())
            clipped = np.clip(pair.target(band.padded), 0, 1)
            similarity, contrast = ssim_and_contrast_maps(fitted, clipped, context=band.context)
            part = None if foreground is None else foreground[band.rows]
            ssim.add(band.rows.start, similarity)
            fitted, clipped = fitted[band.core], clipped[band.core]
            scales.add(band.rows, similarity, contrast, (fitted, clipped), part)
            residual = np.subtract(clipped, fitted, out=clipped)
            np.abs(residual, out=residual)
            squares += dot(residual, residual)
            maps.ssim[band.rows], maps.rse[band.rows] = similarity, residual
            pair.release()
            release(maps.ssim)
            release(maps.rse)
        ms_ssim = scales.result()
        nrmse = math.sqrt(squares / image.size)
        score = RestorationScore(
            nrmse=nrmse,
            psnr=psnr_of(nrmse),
            ssim=ssim.whole,
            scale=fit.scale,
            offset=fit.offset,
            pearson=fit.pearson,
            nrmse_zerocost=math.sqrt(apart / image.size),
            failed=failure_of(fit),
            ms_ssim=ms_ssim.whole,
            ms_ssim_inside=ms_ssim.inside,
            ms_ssim_outside=ms_ssim.outside,
        )
        return score, maps


def maps_within(
    image: npt.NDArray[Any], target: ScaledTarget, score: RestorationScore, window: tuple[slice, slice]
) -> RestorationMaps:
    """Return the maps of a window of an image (Y, X) whose score is known, at the cost of the window alone."""
    padded = tuple(
        slice(max(0, part.start - SSIM_BORDER), min(length, part.stop + SSIM_BORDER))
        for part, length in zip(window, image.shape, strict=True)
    )
    core = tuple(
        slice(part.start - around.start, part.stop - around.start) for part, around in zip(window, padded, strict=True)
    )
    fit = AffineFit(score.scale, score.offset, score.pearson)
    fitted = np.clip(fitted_to_target(image[padded].astype(np.float64), fit, (0.0, score.offset)), 0, 1)
    clipped = np.clip(ScaledTarget(target.pixels[padded], target.low, target.high).rows(slice(None)), 0, 1)
    similarity, residual = ssim_map(fitted, clipped), np.abs(clipped - fitted).astype(np.float32)
    return RestorationMaps(similarity[core], residual[core])


def score_stack(
    image: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    foreground: npt.NDArray[np.bool_] | None = None,
    name: str | None = None,
    workers: int | None = None,
    scratch: Scratch = IN_MEMORY,
) -> tuple[tuple[RestorationScore | None, ...], RestorationMaps]:
    """Score a stack (Z, Y, X) slice by slice, each with its own percentiles, fit and two-dimensional SSIM.

    The score of the stack is the mean over its slices. As one volume it is scored by
    `parfocal.qc.metrics.images.volume.score_volume`.

    Parameters
    ----------
    image, target
        Images as for `score_restoration`, with a leading Z axis.
    foreground
        Foreground of the target, bool (Z, Y, X), for MS-SSIM inside and outside of it; None for none.
    name
        Name of the stack, put before the text of an error.
    workers
        Threads, each for one slice at a time; by default one for each processor, fewer for large slices.
    scratch
        Where the maps lie; the images need not be in memory either.

    Returns
    -------
    scores
        One per slice. None where the target's slice is constant, or nearly (empty planes above or below the sample):
        such a slice has no score and is left out of the mean.
    maps
        float32 (Z, Y, X); NaN in slices without a score.

    Raises
    ------
    InvalidInputError
        As `score_restoration`, naming the slice; or every slice of the target is constant.
    """
    label = name or "stack"
    with naming(name):
        if image.shape != target.shape or image.ndim != 3:
            raise InvalidInputError(
                "A stack must have three axes (Z, Y, X) and a target of the same shape; the image has shape "
                f"{image.shape} and the target {target.shape}."
            )
        _check_foreground(foreground, target)
    maps = RestorationMaps(scratch.zeros(image.shape, np.float32), scratch.zeros(image.shape, np.float32))

    def score(z: int) -> RestorationScore | None:
        plane = f"{label}, slice {z}"
        if not has_range(target[z], name=plane):
            maps.ssim[z] = maps.rse[z] = np.nan
            return None
        scaled, mask = with_range(target[z], name=plane), None if foreground is None else foreground[z]
        score, plane_maps = score_scaled(image[z], scaled, foreground=mask, name=plane, scratch=scratch)
        for band in bands(target[z].shape):
            maps.ssim[z, band.rows], maps.rse[z, band.rows] = plane_maps.ssim[band.rows], plane_maps.rse[band.rows]
            for array in (maps.ssim, maps.rse, plane_maps.ssim, plane_maps.rse):
                release(array)
        return score

    threads = workers_for_planes(target.shape) if workers is None else workers
    scores = tuple(map_bounded(score, range(len(image)), threads))
    if all(score is None for score in scores):
        raise InvalidInputError(f"{label}: the target is constant in every slice; leave it out of the test set.")
    return scores, maps


def _check_foreground(foreground: npt.NDArray[np.bool_] | None, target: npt.NDArray[Any]) -> None:
    if foreground is not None and foreground.shape != target.shape:
        raise InvalidInputError(f"The foreground has shape {foreground.shape} and the target {target.shape}.")
