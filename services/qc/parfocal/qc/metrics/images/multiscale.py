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
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import Float32
from parfocal.runtime.images.ssim import (
    SSIM_WINDOW,
    mean_ssim,
    mean_ssim_by_part,
    ssim_and_contrast_maps,
    ssim_map,
)

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
    count = scale_count(x.shape)
    exponents = np.array(MS_SSIM_WEIGHTS[:count]) * (sum(MS_SSIM_WEIGHTS) / sum(MS_SSIM_WEIGHTS[:count]))
    values = similarity if count == 1 else contrast
    means = [_means(values, foreground)]
    part = None if foreground is None else foreground.astype(np.float32)
    for scale in range(2, count + 1):
        x, y = _halved(x), _halved(y)
        part = None if part is None else _halved(part)
        values = ssim_map(x, y) if scale == count else ssim_and_contrast_maps(x, y)[1]
        means.append(_means(values, part))
    products = np.prod(np.maximum(means, 0.0) ** exponents[:, np.newaxis], axis=0)
    return MultiscaleSSIM(*map(float, products))


def _means(values: Float32, part: npt.NDArray[np.bool_] | Float32 | None) -> tuple[float, ...]:
    """Return the mean of the whole map, and those inside the foreground and outside if there is one."""
    return (mean_ssim(values), *(mean_ssim_by_part(values, part) if part is not None else ()))


def _halved(image: npt.NDArray[_Floating]) -> npt.NDArray[_Floating]:
    height, width = (size - size % 2 for size in image.shape)
    halved = image[0:height:2, 0:width:2] + image[1:height:2, 0:width:2]
    halved += image[0:height:2, 1:width:2]
    halved += image[1:height:2, 1:width:2]
    halved *= 0.25
    return halved
