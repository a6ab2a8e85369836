"""Multi-scale SSIM: how well images agree in fine and in coarse structure, in one number.

Definition (Wang, Simoncelli and Bovik, Asilomar Conf. on Signals, Systems and Computers 2003, p. 1398)::

    MS-SSIM = mean(SSIM_M) ** w_M * product over j < M of mean(cs_j) ** w_j

with the contrast and structure terms ``cs`` of SSIM, see `parfocal.qc.metrics.ssim`. Scale 1 is the image; each
further scale is the mean over 2x2 pixels of the one before (an odd last row or column is left out). Means leave out
the 5-pixel border. The weights are the published ones, 0.0448, 0.2856, 0.3001, 0.2363 and 0.1333. A mean below zero
counts as zero, because it has no such power.

Five scales need images of 176 pixels along each side, so that the window fits into the last. Smaller images use as
many scales as fit, with their weights scaled to the sum of all five. Such values must not be compared with those of
other numbers of scales, see `scale_count`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import Float32
from parfocal.qc.metrics.ssim import SSIM_WINDOW, mean_ssim, ssim_and_contrast_maps, ssim_map

MS_SSIM_WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


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
    return multiscale_from(*ssim_and_contrast_maps(x, y), x, y)


def multiscale_from(
    similarity: Float32, contrast: Float32, x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]
) -> float:
    """As `multiscale_ssim` of images whose `ssim_and_contrast_maps` are known already."""
    count = scale_count(x.shape)
    weights = np.array(MS_SSIM_WEIGHTS[:count]) * (sum(MS_SSIM_WEIGHTS) / sum(MS_SSIM_WEIGHTS[:count]))
    means = [mean_ssim(similarity if count == 1 else contrast)]
    for scale in range(2, count + 1):
        x, y = _halved(x), _halved(y)
        means.append(mean_ssim(ssim_map(x, y) if scale == count else ssim_and_contrast_maps(x, y)[1]))
    return float(np.prod(np.maximum(means, 0.0) ** weights))


def _halved(image: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    height, width = (size - size % 2 for size in image.shape)
    halved = image[0:height:2, 0:width:2] + image[1:height:2, 0:width:2]
    halved += image[0:height:2, 1:width:2]
    halved += image[1:height:2, 1:width:2]
    halved *= 0.25
    return halved
