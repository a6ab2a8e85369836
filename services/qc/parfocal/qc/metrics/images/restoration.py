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
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import (
    Array,
    Float32,
    Float64,
    check_pair,
    check_values,
    naming,
    percentiles,
)
from parfocal.qc.metrics.images.multiscale import multiscale_from
from parfocal.qc.metrics.parallel import map_bounded
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.correlation import dot, resolution
from parfocal.runtime.images.ssim import check_windowed, mean_ssim, ssim_and_contrast_maps, ssim_map

__all__ = [
    "CONSTANT_PREDICTION",
    "CONTRAST_INVERTED",
    "PSNR_CEILING",
    "AffineFit",
    "RestorationMaps",
    "RestorationScore",
    "affine_fit",
    "fitted_psnr",
    "has_range",
    "psnr_of",
    "scale_target",
    "score_restoration",
    "score_scaled",
    "score_stack",
    "ssim_map",
    "target_range",
]

LOW_PERCENTILE: Final = 0.1
HIGH_PERCENTILE: Final = 99.9

PSNR_CEILING: Final = 100.0
"""PSNR in dB of an image without error, and the most that is reported: 100 dB is an RMSE of 1e-5 of the data
range, less than one step of a 16-bit camera, and a finite number keeps means and tables finite."""

CONTRAST_INVERTED: Final = "contrast inverted"
CONSTANT_PREDICTION: Final = "prediction is constant"


@dataclass(frozen=True)
class AffineFit:
    """Least-squares fit ``scale * image + offset`` of an image to a scaled target.

    `scale` is in data ranges of the target per grey value of the image, `offset` in data ranges, `pearson` in
    -1..1. Of a constant image the scale is undefined: `scale` and `pearson` are 0 then, `offset` is the target's
    mean and `constant` is true.
    """

    scale: float
    offset: float
    pearson: float
    constant: bool = False


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


def scale_target(target: npt.NDArray[Any], *, name: str | None = None) -> Float64:
    """Scale a target so that its 0.1 and 99.9 percentiles become 0 and 1; nothing is clipped.

    Parameters
    ----------
    target
        Finite grey values of any integer or floating type, any shape.
    name
        Name of the image, for the error message.

    Returns
    -------
    numpy.ndarray
        float64 of the same shape.

    Raises
    ------
    InvalidInputError
        The target is empty, not numeric, not finite, or (almost) constant.
    """
    with naming(name):
        check_values(target, "target")
        low, high = target_range(target)
        scaled = target.astype(np.float64)
        scaled -= low
        scaled /= high - low
        return scaled


def target_range(target: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the 0.1 and 99.9 percentiles of a target; InvalidInputError if they are one value."""
    low, high = percentiles(target, LOW_PERCENTILE, HIGH_PERCENTILE)
    if not high - low > resolution(target):
        raise InvalidInputError(
            f"The target is constant, or nearly: its {LOW_PERCENTILE} and {HIGH_PERCENTILE} percentiles are both "
            f"{low:g}. An image cannot be compared with it; leave it out of the test set."
        )
    return low, high


def has_range(target: npt.NDArray[Any], *, name: str | None = None) -> bool:
    """Return whether a target can be scaled: planes of a stack that cannot are above or below the sample.

    Raises
    ------
    InvalidInputError
        The target is empty, not numeric or not finite.
    """
    with naming(name):
        check_values(target, "target")
    low, high = percentiles(target, LOW_PERCENTILE, HIGH_PERCENTILE)
    return high - low > resolution(target)


def affine_fit(image: npt.NDArray[Any], target_scaled: Float64, *, name: str | None = None) -> AffineFit:
    """Fit an image to its scaled target by least squares.

    Parameters
    ----------
    image
        Finite grey values of any integer or floating type.
    target_scaled
        Result of `scale_target`, of the same shape.
    name
        Name of the image, for the error message.

    Raises
    ------
    InvalidInputError
        The image is empty, not numeric, not finite or not of the target's shape.
    """
    with naming(name):
        check_pair(image, target_scaled)
        return _centred_fit(image, target_scaled)[0]


def score_restoration(
    image: npt.NDArray[Any], target: npt.NDArray[Any], *, name: str | None = None
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
    return score_scaled(image, scale_target(target, name=name), name=name)


def score_scaled(
    image: npt.NDArray[Any],
    target_scaled: Float64,
    *,
    foreground: npt.NDArray[np.bool_] | None = None,
    name: str | None = None,
) -> tuple[RestorationScore, RestorationMaps]:
    """As `score_restoration`, with a target that `scale_target` has scaled already.

    Saves time where input, baseline and prediction are scored against the same target. `foreground` is that of the
    target, bool (Y, X), for MS-SSIM inside and outside of it.
    """
    with naming(name):
        check_windowed(image, target_scaled)
        check_pair(image, target_scaled)
        _check_foreground(foreground, target_scaled)
        fit, image_centred, target_centred = _centred_fit(image, target_scaled)
        fitted, target = _clipped(fit, image_centred, target_scaled)

        # The notebooks divide a covariance with ddof 1 by a variance with ddof 0.
        image_centred *= fit.scale * image.size / (image.size - 1)
        target_centred -= image_centred
        nrmse_zerocost = math.sqrt(np.abs(target_centred, out=target_centred).mean())

        similarity, contrast = ssim_and_contrast_maps(fitted, target)
        ms_ssim = multiscale_from(similarity, contrast, fitted, target, foreground)
        residual = np.subtract(target, fitted, out=target)
        np.abs(residual, out=residual)
        nrmse = math.sqrt(dot(residual, residual) / residual.size)
        score = RestorationScore(
            nrmse=nrmse,
            psnr=psnr_of(nrmse),
            ssim=mean_ssim(similarity),
            scale=fit.scale,
            offset=fit.offset,
            pearson=fit.pearson,
            nrmse_zerocost=nrmse_zerocost,
            failed=failure_of(fit),
            ms_ssim=ms_ssim.whole,
            ms_ssim_inside=ms_ssim.inside,
            ms_ssim_outside=ms_ssim.outside,
        )
        return score, RestorationMaps(ssim=similarity, rse=residual.astype(np.float32))


def score_stack(
    image: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    foreground: npt.NDArray[np.bool_] | None = None,
    name: str | None = None,
    workers: int | None = None,
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
        Threads, each for one slice at a time; by default one for each processor.

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
    maps = RestorationMaps(np.full(image.shape, np.nan, np.float32), np.full(image.shape, np.nan, np.float32))

    def score(z: int) -> RestorationScore | None:
        plane = f"{label}, slice {z}"
        if not has_range(target[z], name=plane):
            return None
        scaled, mask = scale_target(target[z], name=plane), None if foreground is None else foreground[z]
        score, plane_maps = score_scaled(image[z], scaled, foreground=mask, name=plane)
        maps.ssim[z], maps.rse[z] = plane_maps.ssim, plane_maps.rse
        return score

    scores = tuple(map_bounded(score, range(len(image)), workers))
    if all(score is None for score in scores):
        raise InvalidInputError(f"{label}: the target is constant in every slice; leave it out of the test set.")
    return scores, maps


def fitted_psnr(image: npt.NDArray[Any], target_scaled: Float64) -> float:
    """PSNR in dB of an image fitted to a scaled target, without the cost of maps and SSIM."""
    check_pair(image, target_scaled)
    fit, image_centred, _ = _centred_fit(image, target_scaled)
    fitted, target = _clipped(fit, image_centred, target_scaled)
    target -= fitted
    return psnr_of(math.sqrt(dot(target, target) / target.size))


def _check_foreground(foreground: npt.NDArray[np.bool_] | None, target: npt.NDArray[Any]) -> None:
    if foreground is not None and foreground.shape != target.shape:
        raise InvalidInputError(f"The foreground has shape {foreground.shape} and the target {target.shape}.")


def _centred_fit(image: Array, target_scaled: Float64) -> tuple[AffineFit, Float64, Float64]:
    """Fit, and the two arrays without their means; means and sums in float64."""
    image_centred = image.astype(np.float64)
    image_mean = float(image_centred.mean())
    image_centred -= image_mean
    target_mean = float(target_scaled.mean())
    target_centred = target_scaled - target_mean
    variance = dot(image_centred, image_centred)
    spread = max(float(image_centred.max()), -float(image_centred.min()))
    if variance <= 0 or spread <= resolution(image):
        fit = AffineFit(scale=0.0, offset=target_mean, pearson=0.0, constant=True)
    else:
        covariance = dot(image_centred, target_centred)
        scale = covariance / variance
        target_norm = math.sqrt(dot(target_centred, target_centred))
        pearson = covariance / (math.sqrt(variance) * target_norm) if target_norm > 0 else 0.0
        fit = AffineFit(scale, target_mean - scale * image_mean, max(-1.0, min(1.0, pearson)))
    return fit, image_centred, target_centred


def _clipped(fit: AffineFit, image_centred: Float64, target_scaled: Float64) -> tuple[Float64, Float64]:
    """Fitted image and target, both clipped to 0..1; new arrays."""
    # The fitted image has the mean of the target: adding it to the centred image loses fewer digits than `offset`.
    fitted = image_centred * fit.scale
    fitted += target_scaled.mean()
    return np.clip(fitted, 0, 1, out=fitted), np.clip(target_scaled, 0, 1)


def failure_of(fit: AffineFit) -> str | None:
    """Return why an image with this fit has failed, or None."""
    if fit.constant:
        return CONSTANT_PREDICTION
    return CONTRAST_INVERTED if fit.scale <= 0 else None


def psnr_of(nrmse: float) -> float:
    """PSNR in dB of a root mean square error in data ranges, at most `PSNR_CEILING`; NaN of NaN."""
    if math.isnan(nrmse):
        return math.nan
    return min(PSNR_CEILING, 0.0 - 20 * math.log10(nrmse)) if nrmse > 0 else PSNR_CEILING
