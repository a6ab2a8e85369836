"""Scores inside and outside the foreground of the target, so that empty background cannot make a score.

Definition

1. The foreground is what lies above Otsu's threshold (IEEE Trans. Systems, Man, and Cybernetics 9 (1979) 62) in the
   target, scaled by its 0.1 and 99.9 percentiles and clipped to 0..1, in a histogram of 256 bins
   (`skimage.filters.threshold_otsu`). Scaling first makes it independent of brightness and offset of the target and of
   single hot pixels. Of a volume there is one threshold over all voxels, with the volume's percentiles.
2. The image is fitted and mapped once, as for the whole image. SSIM inside is the mean of the SSIM map over the
   foreground, without the 5-pixel border; NRMSE inside is the root of the mean of the squared error map over the
   foreground, PSNR follows from it; the same outside. So the whole image's SSIM and squared NRMSE are the means of
   inside and outside, weighted by their pixels, to the rounding of the maps. MS-SSIM and MicroSSIM have maps of their
   own (see `multiscale` and `microssim`), whose means are taken in the same way.
3. Pearson's r inside and outside is that of the unclipped values there.
4. ``SNR = -10 log10(1 - r^2)`` in dB, with r of at least 0, is the variance of the target there over the mean squared
   difference that remains when the image is fitted to it *there*. It is what the verdict rests on, because neither
   PSNR nor SSIM inside is free of the background: the fit of the whole image improves inside too when only the
   background is cleaned, and the windows of SSIM reach beyond the edges of structures.

Of a volume as a whole the same holds, with its one fit and SSIM in three dimensions (see `volume`).

What has no value is NaN: SSIM of a part that lies in the border alone, r of a part in which image or target is
constant (the background of a simulated target), everything of a part without pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from skimage.filters import threshold_otsu

from parfocal.qc.metrics._arrays import check_values, naming
from parfocal.qc.metrics.bands import bands, blocks, by_blocks
from parfocal.qc.metrics.images.fit import psnr_of, target_range
from parfocal.qc.metrics.images.restoration import RestorationMaps
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.correlation import pearson_of
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release
from parfocal.runtime.images.ssim import SsimMeans

FOREGROUND_METHOD: Final = "Otsu's threshold of the target (scaled by its 0.1 and 99.9 percentiles, 256 bins)"
_BINS: Final = 256


@dataclass(frozen=True)
class Foreground:
    """The foreground of a target.

    Attributes
    ----------
    mask
        bool, in the shape of the target; true where the target lies above the threshold.
    threshold
        Threshold in units of the target's range: 0 is its 0.1 percentile, 1 its 99.9 percentile.
    grey_value
        The same threshold in grey values of the target.
    fraction
        Fraction of the pixels that are foreground, 0..1.
    """

    mask: npt.NDArray[np.bool_]
    threshold: float
    grey_value: float
    fraction: float


@dataclass(frozen=True)
class RegionScore:
    """Scores over a part of an image, `psnr` and `snr` in dB, both at most 100; NaN where one has no value."""

    nrmse: float
    psnr: float
    ssim: float
    pearson: float
    snr: float


def find_foreground(target: npt.NDArray[Any], *, name: str | None = None, scratch: Scratch = IN_MEMORY) -> Foreground:
    """Find the foreground of a target; see the module for the definition.

    Parameters
    ----------
    target
        Finite grey values of any integer or floating type, (Y, X) or (Z, Y, X), which need not be in memory.
    name
        Name of the image, for the error message.
    scratch
        Where the mask lies.

    Raises
    ------
    InvalidInputError
        The target is empty, not numeric, not finite, or (almost) constant.

    Examples
    --------
    >>> import numpy as np
    >>> target = np.zeros((20, 20))
    >>> target[:5] = 7.0
    >>> find_foreground(target).fraction
    0.25
    """
    with naming(name):
        check_values(target, "target")
        if target.ndim not in (2, 3):
            raise InvalidInputError(f"The target has {target.ndim} axes; (Y, X) or (Z, Y, X) is required.")
        low, high = target_range(target)
    counts = np.zeros(_BINS, np.int64)
    for window in blocks(target.shape):
        scaled = target[window].astype(np.float64)
        scaled -= low
        scaled *= _BINS / (high - low)
        bins = np.clip(scaled, 0, _BINS - 1, out=scaled).astype(np.uint8)
        counts += np.bincount(bins.ravel(), minlength=_BINS)
        release(target)
    # The value of a bin is its upper edge: the bins up to the threshold are background as a whole.
    edges = np.arange(1, _BINS + 1) / _BINS
    threshold = float(threshold_otsu(hist=(counts, edges)))
    grey_value = low + threshold * (high - low)
    mask = above(target, grey_value, scratch)
    inside = sum(int(np.count_nonzero(mask[window])) for window in blocks(mask.shape))
    return Foreground(mask, threshold, grey_value, inside / mask.size)


def above(target: npt.NDArray[Any], threshold: float, scratch: Scratch = IN_MEMORY) -> npt.NDArray[np.bool_]:
    """Return where a target reaches a threshold in grey values, as the mask of its `Foreground`."""
    return by_blocks(lambda part: part >= threshold, [target], bool, scratch)


def score_regions(
    maps: RestorationMaps,
    image: npt.NDArray[Any],
    target: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
) -> tuple[RegionScore, RegionScore]:
    """Score an image (Y, X) inside and outside the foreground.

    Parameters
    ----------
    maps
        Maps of the whole image, from `parfocal.qc.metrics.images.restoration.score_scaled`.
    image
        The scored image, as it was given there.
    target
        Target of the image, scaled or not.
    mask
        The foreground.

    Returns
    -------
    inside, outside : RegionScore

    Raises
    ------
    InvalidInputError
        The shapes differ.
    """
    if not maps.ssim.shape == image.shape == target.shape == mask.shape or mask.ndim != 2:
        raise InvalidInputError(
            f"Maps, image, target and foreground must be of one shape (Y, X); they are {maps.ssim.shape}, "
            f"{image.shape}, {target.shape} and {mask.shape}."
        )
    ssim = SsimMeans(len(target))
    squares, pixels = np.zeros(2), np.zeros(2, np.int64)
    for band in bands(target.shape):
        square, part = np.square(maps.rse[band.rows], dtype=np.float64), mask[band.rows]
        squares += square.sum(where=part), square.sum(where=~part)
        inside = int(np.count_nonzero(part))
        pixels += inside, part.size - inside
        ssim.add(band.rows.start, maps.ssim[band.rows], part)
        for array in (maps.rse, maps.ssim, mask):
            release(array)
    parts = []
    for number, similarity in enumerate(ssim.by_part):
        nrmse = math.sqrt(float(squares[number]) / int(pixels[number])) if pixels[number] else math.nan
        pearson = pearson_of(PartOfPixels(image, target, mask, inside=number == 0))
        parts.append(RegionScore(nrmse, psnr_of(nrmse), similarity, pearson, snr_of(pearson)))
    return parts[0], parts[1]


@dataclass(frozen=True)
class PartOfPixels:
    """The values of image and target inside or outside the foreground, band by band; of stacks some planes at once."""

    image: npt.NDArray[Any]
    target: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_]
    inside: bool

    def __iter__(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        for band in bands(self.target.shape):
            part = self.mask[band.rows] if self.inside else ~self.mask[band.rows]
            yield self.image[band.rows][part], self.target[band.rows][part]
            for array in (self.image, self.target, self.mask):
                release(array)


def snr_of(pearson: float) -> float:
    """SNR in dB of a correlation, see the module; NaN of NaN."""
    return psnr_of(math.sqrt(1 - max(pearson, 0.0) ** 2))
