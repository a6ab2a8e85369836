"""From emitters to the image that the network is trained to give, and back: one convention for coordinates.

Places are in pixels of the camera from the upper left corner of the frame; pixel i reaches from i to i + 1. A fine
pixel k of an image `upsampling` times as fine reaches from k / upsampling to (k + 1) / upsampling. An emitter belongs
to the fine pixel that it lies in, and a fine pixel stands for its centre, (k + 0.5) / upsampling.

Heat map and loss are those of Nehme, Weiss, Michaeli and Shechtman, Optica 5, 458-464 (2018),
doi:10.1364/OPTICA.5.000458: the target is 100 times the spikes convolved with a Gaussian of one fine pixel; the loss
convolves the output of the network with twice that Gaussian, so that a perfect spike is 50.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TARGET_WEIGHT: Final = 100.0
"""Sum of the heat map of one emitter."""
SPIKE: Final = TARGET_WEIGHT / 2
"""Output of a perfect network in the fine pixel of an emitter."""
_RADIUS: Final = 3


def kernel() -> NDArray[np.float32]:
    """Return the Gaussian along one axis, float32 (7,), standard deviation 1 fine pixel, whose sum is 1.

    The kernel of 7 x 7 fine pixels is its outer product with itself.
    """
    values = np.exp(-0.5 * np.arange(-_RADIUS, _RADIUS + 1) ** 2)
    return np.asarray(values / values.sum(), np.float32)


def spikes(
    y: NDArray[np.float64], x: NDArray[np.float64], shape: tuple[int, int], upsampling: int
) -> NDArray[np.bool_]:
    """Return the fine pixels that hold an emitter; several in one pixel count once.

    Parameters
    ----------
    y, x
        (N,): places in pixels of the camera; what lies outside is left out.
    shape
        Shape of the frame (Y, X) in camera pixels.
    upsampling
        Fine pixels along the side of a pixel of the camera.

    Returns
    -------
    NDArray
        bool (Y * upsampling, X * upsampling).
    """
    image = np.zeros((shape[0] * upsampling, shape[1] * upsampling), np.bool_)
    rows, columns = (np.floor(np.asarray(each) * upsampling).astype(np.int64) for each in (y, x))
    inside = (rows >= 0) & (rows < image.shape[0]) & (columns >= 0) & (columns < image.shape[1])
    image[rows[inside], columns[inside]] = True
    return image


def heat_map(
    y: NDArray[np.float64], x: NDArray[np.float64], shape: tuple[int, int], upsampling: int
) -> NDArray[np.float32]:
    """Return the target of a frame, float32 (Y * upsampling, X * upsampling); its peak is 15.92 for one emitter."""
    image = spikes(y, x, shape, upsampling).astype(np.float32) * np.float32(TARGET_WEIGHT)
    for axis in (0, 1):
        image = ndimage.convolve1d(image, kernel(), axis=axis, mode="constant")
    return image


def locate(
    output: NDArray[np.float32], upsampling: int, threshold: float, *, neighbourhood: int = 3, centroid: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the emitters that an output of the network shows.

    An emitter is a local maximum among its neighbours. Its confidence is the sum of 3 x 3 fine pixels around it, in
    perfect spikes: 1 where the network is sure of one emitter.

    Parameters
    ----------
    output
        (Y * upsampling, X * upsampling); values below 0 count as 0.
    upsampling
        Fine pixels along the side of a pixel of the camera.
    threshold
        Least confidence.
    neighbourhood
        Side length in fine pixels of the square in which a maximum must be the largest value; odd.
    centroid
        Place emitters at the centre of gravity of 3 x 3 fine pixels, else at the centre of the brightest.

    Returns
    -------
    y, x : NDArray
        float64 (N,): places in pixels of the camera.
    confidence : NDArray
        float64 (N,).
    """
    values = np.maximum(output, 0)
    before = np.zeros((neighbourhood, neighbourhood), np.bool_)
    before.flat[: before.size // 2] = True
    # Of equal values the first one in order of rows is the maximum, so that an emitter is found once.
    largest = [ndimage.maximum_filter(values, footprint=each, mode="constant") for each in (before, before[::-1, ::-1])]
    rows, columns = np.nonzero((values > 0) & (values > largest[0]) & (values >= largest[1]))
    padded = np.pad(values, 1)
    around = np.stack([padded[rows + dy, columns + dx] for dy in range(3) for dx in range(3)]).astype(np.float64)
    total = around.sum(axis=0)
    kept = total / SPIKE >= threshold
    rows, columns, around, total = rows[kept], columns[kept], around[:, kept], total[kept]
    y, x = rows + 0.5, columns + 0.5
    if centroid:
        steps = np.array([-1.0, 0.0, 1.0])
        y = y + (np.repeat(steps, 3) @ around) / total
        x = x + (np.tile(steps, 3) @ around) / total
    return y / upsampling, x / upsampling, total / SPIKE
