"""Multi-scale SSIM: how well images agree in fine and in coarse structure, in one number.

Definition (Wang, Simoncelli and Bovik, Asilomar Conf. on Signals, Systems and Computers 2003, p. 1398)::

    MS-SSIM = mean(SSIM_M) ** w_M * product over j < M of mean(cs_j) ** w_j

with the contrast and structure terms ``cs`` of SSIM, see `parfocal.runtime.images.ssim`. Scale 1 is the image; each
further scale is the mean over 2x2 pixels of the one before (an odd last row or column is left out). Means leave out
the 5-pixel border. The weights are the published ones, 0.0448, 0.2856, 0.3001, 0.2363 and 0.1333. A mean below zero
counts as zero, because it has no such power.

Five scales need images of 176 pixels along each side, so that the window fits into the last. Smaller images use as
many scales as fit, with their weights scaled to the sum of all five. Such values must not be compared with those of
other numbers of scales, see `scale_count`.

Inside and outside a foreground the means are taken over its pixels, at each scale. A pixel of a coarse scale belongs to
the foreground to the part that the pixels it was made of do, and counts with this weight: the mask is halved as the
images are. So nothing vanishes, however thin it is (a line of one pixel has 1/16 of the pixels it crosses at the fifth
scale); a rule of "half of the pixels or more" would lose it there, one of "any pixel" would count a mesh of lines as
solid. The mean over the whole image is that of inside and outside, weighted by their pixels, at each scale, though not
of the product of the scales. Where at any scale nothing of a part lies within the border, its MS-SSIM is NaN: with one
scale less it would be another number. At the fifth scale the border is 80 pixels of the image wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import Float32
from parfocal.qc.metrics.bands import bands
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release
from parfocal.runtime.images.ssim import SSIM_BORDER, SSIM_WINDOW, SsimMeans, ssim_and_contrast_maps, ssim_map

_Floating = TypeVar("_Floating", bound=np.floating)

MS_SSIM_WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@dataclass(frozen=True)
class MultiscaleSSIM:
    """Multi-scale SSIM, 0..1, of the whole image, inside the foreground and outside; NaN where it has no value."""

    whole: float
    inside: float = math.nan
    outside: float = math.nan


def scale_count(shape: tuple[int, ...]) -> int:
    """Return the number of scales of an image of that shape, 1 to 5; at least 11 pixels along each side are needed."""
    return max(1, min(len(MS_SSIM_WEIGHTS), int(math.log2(min(shape) / SSIM_WINDOW)) + 1))


def multiscale_ssim(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> float:
    """Multi-scale SSIM of two images with a data range of 1, 0..1; see the module for the definition.

    Parameters
    ----------
    x, y
        Finite images of the same shape (Y, X), at least 11x11, scaled so that 0..1 is the data range.

    Raises
    ------
    InvalidInputError
        The shapes differ, or an image is not two-dimensional or smaller than the window.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).random((40, 40))
    >>> multiscale_ssim(image, image)
    1.0
    """
    return multiscale_from(*ssim_and_contrast_maps(x, y), x, y).whole


def multiscale_from(
    similarity: Float32,
    contrast: Float32,
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.floating],
    foreground: npt.NDArray[np.bool_] | None = None,
) -> MultiscaleSSIM:
    """As `multiscale_ssim` of images whose `ssim_and_contrast_maps` are known already.

    Parameters
    ----------
    similarity, contrast
        The two maps, float32 (Y, X).
    x, y
        The images.
    foreground
        bool (Y, X); None for no values inside and outside.
    """
    means = MultiscaleMeans(x.shape, foreground is not None)
    means.add(slice(0, len(x)), similarity, contrast, (x, y), foreground)
    return means.result()


class MultiscaleMeans:
    """Multi-scale SSIM of two images that come in bands of rows, each but the last of an even number of them.

    Parameters
    ----------
    shape
        Shape of the images (Y, X).
    with_foreground
        Whether there are values inside and outside a foreground.
    scratch
        Where the images of the further scales lie, a third of the images in float64.
    scales
        How many scales there are, this one included; by default as many as fit.
    """

    def __init__(
        self, shape: tuple[int, ...], with_foreground: bool, scratch: Scratch = IN_MEMORY, scales: int | None = None
    ) -> None:
        self._shape, self._scratch, self._with_foreground = shape, scratch, with_foreground
        self._scales = scale_count(shape) if scales is None else scales
        self._sums = SsimMeans(shape[0])
        self._smaller: list[npt.NDArray[Any]] = []

    def add(
        self,
        rows: slice,
        similarity: Float32,
        contrast: Float32,
        images: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]],
        foreground: npt.NDArray[np.bool_] | Float32 | None = None,
    ) -> None:
        """Add some rows: their `ssim_and_contrast_maps`, both images, and what of them is foreground."""
        self._sums.add(rows.start, similarity if self._scales == 1 else contrast, foreground)
        if self._scales == 1:
            return
        halves = [_halved(each) for each in images]
        if foreground is not None:
            halves.append(_halved(foreground.astype(np.float32, copy=False)))
        if not self._smaller:
            shape = tuple(length // 2 for length in self._shape)
            self._smaller = [self._scratch.zeros(shape, each.dtype) for each in halves]
        place = slice(rows.start // 2, rows.start // 2 + len(halves[0]))
        for smaller, half in zip(self._smaller, halves, strict=True):
            smaller[place] = half
            release(smaller)

    def result(self) -> MultiscaleSSIM:
        """Return the value of the rows that were added, which are all."""
        means = self._means()
        weights = MS_SSIM_WEIGHTS[: len(means)]
        exponents = np.array(weights) * (sum(MS_SSIM_WEIGHTS) / sum(weights))
        products = np.prod(np.maximum(means, 0.0) ** exponents[:, np.newaxis], axis=0)
        return MultiscaleSSIM(*map(float, products))

    def _means(self) -> list[tuple[float, ...]]:
        """Return the means of this scale and of those after it: whole, and inside and outside of a foreground."""
        own = (self._sums.whole, *(self._sums.by_part if self._with_foreground else ()))
        if self._scales == 1:
            return [own]
        x, y, *foreground = self._smaller
        following = MultiscaleMeans(x.shape, self._with_foreground, self._scratch, self._scales - 1)
        for band in bands(x.shape, SSIM_BORDER):
            pair = x[band.padded], y[band.padded]
            if self._scales == 2:  # the last scale is that of SSIM itself
                similarity = contrast = ssim_map(*pair, context=band.context)
            else:
                similarity, contrast = ssim_and_contrast_maps(*pair, context=band.context)
            part = foreground[0][band.rows] if foreground else None
            following.add(band.rows, similarity, contrast, (pair[0][band.core], pair[1][band.core]), part)
            for array in self._smaller:
                release(array)
        return [own, *following._means()]


def _halved(image: npt.NDArray[_Floating]) -> npt.NDArray[_Floating]:
    height, width = (size - size % 2 for size in image.shape)
    halved = image[0:height:2, 0:width:2] + image[1:height:2, 0:width:2]
    halved += image[0:height:2, 1:width:2]
    halved += image[1:height:2, 1:width:2]
    halved *= 0.25
    return halved
