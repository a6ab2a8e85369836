"""How strong the noise of an image is, without a clean version of it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images.pixel_values import value_range
from parfocal.runtime.images.scratch import BLOCK_PIXELS, IN_MEMORY, Scratch, release

_MEDIAN_OF_NORMAL: Final = 0.6744897501960817  # of the absolute value of a standard normal variable


def noise_sigma(pixels: NDArray[Any], *, clipped: NDArray[Any] | None = None, scratch: Scratch = IN_MEMORY) -> float:
    """Return the standard deviation of the noise of an image, in grey values.

    The image is filtered with the difference of two Laplacians of Immerkaer (Computer Vision and Image Understanding
    64, 300, 1996), which removes planes and leaves little of edges; instead of his mean, the median of the absolute
    values divided by 0.6745 is taken (Hampel, JASA 69, 383, 1974), because structures are a minority of the pixels.
    Pixels at the smallest and largest value of the image are left out unless they are all there are: clipped pixels
    have no noise. Noise that depends on the signal (photons) is that of the typical pixel, mostly background. Noise
    that neighbouring pixels share, as after interpolation or JPEG, is underestimated. Grey values rounded to
    steps coarser than the noise give 0.

    Parameters
    ----------
    pixels
        Finite grey values (Y, X), or (Z, Y, X), whose planes are filtered each by itself; at least 3x3 pixels. They
        need not be in memory.
    clipped
        Image of the same shape whose smallest and largest values mark the clipped pixels, when `pixels` were made
        from it and no longer show them; by default `pixels`.
    scratch
        Where the filtered values lie, 4 bytes for each pixel.
    """
    extremes = pixels if clipped is None else clipped
    lowest, smallest, largest = value_range(pixels)[0], *value_range(extremes)
    planes, marks = (each.reshape(-1, *each.shape[-2:]) for each in (pixels, extremes))
    height, width = planes.shape[1] - 2, planes.shape[2] - 2
    step = max(1, BLOCK_PIXELS // (width + 2))
    kept = scratch.zeros((len(planes) * height * width,), np.float32)

    def differences(*, all_of_them: bool) -> NDArray[np.float32]:
        count = 0
        for plane, mark in zip(planes, marks, strict=True):
            for start in range(0, height, step):
                rows = slice(start, min(start + step, height) + 2)
                # Without the offset, so that float32 keeps the digits that matter.
                values = (plane[rows] - np.asarray(lowest, np.float64)).astype(np.float32)
                for axis in (-1, -2):
                    values = np.diff(values, n=2, axis=axis)
                inner = mark[rows][1:-1, 1:-1]
                chosen = values.ravel() if all_of_them else values[(inner > smallest) & (inner < largest)]
                kept[count : count + chosen.size] = chosen
                count += chosen.size
                release(pixels)
                release(extremes)
                release(kept)
        return kept[:count]

    found = differences(all_of_them=False)
    found = found if found.size else differences(all_of_them=True)
    # 6 is the gain of these differences on white noise.
    return float(np.median(np.abs(found, out=found), overwrite_input=True)) / (6 * _MEDIAN_OF_NORMAL)


def noise_correlation(pixels: NDArray[Any], axis: int, lags: int = 10) -> NDArray[np.float64] | None:
    """Return how the noise of pixels is correlated with that of pixels 1, 2, … further along Y or X.

    The fourth difference along the other of the two axes removes what is smooth along it, which is nearly everything
    but noise where images are sampled as finely as the optics resolve, and leaves the correlation along `axis` as it
    is. It is taken in blocks of 32 x 64 pixels; of these the darker half by variance counts, in which fine structures
    are rare, and of that the median. White noise gives 0; values up to 0.05 are chance.

    Parameters
    ----------
    pixels
        Finite grey values (Y, X), or (Z, Y, X), whose planes are filtered each by itself.
    axis
        -1 for X, -2 for Y.
    lags
        How many pixels further the last one is.

    Returns
    -------
    NDArray or None
        (lags,), from -1 to 1; None where the image is too small or nothing varies.
    """
    values = np.moveaxis(pixels.reshape(-1, *pixels.shape[-2:]), axis, -1)
    # Without the offset, so that float32 keeps the digits that matter.
    values = np.diff((values - np.asarray(values.min(), np.float64)).astype(np.float32), n=4, axis=-2)
    rows, columns = (min(length, most) for length, most in zip(values.shape[-2:], (32, 64), strict=True))
    if rows < 4 or columns <= 2 * lags:
        return None
    down, across = values.shape[-2] // rows, values.shape[-1] // columns
    blocks = values[:, : down * rows, : across * columns].reshape(-1, down, rows, across, columns)
    blocks = blocks.swapaxes(2, 3).reshape(-1, rows, columns)
    variance = np.asarray(np.mean(blocks**2, axis=(1, 2), dtype=np.float64))
    chosen = variance > 0
    if not chosen.any():
        return None
    chosen &= variance <= np.median(variance[chosen])
    kept = blocks[chosen]
    found = [
        np.mean(kept[..., :-lag] * kept[..., lag:], axis=(1, 2), dtype=np.float64) / variance[chosen]
        for lag in range(1, lags + 1)
    ]
    return np.asarray(np.median(found, axis=1))
