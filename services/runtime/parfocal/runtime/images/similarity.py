"""Images that show the same: pixel for pixel, or almost."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image
from parfocal.runtime.images.pixel_values import count_unusable, value_range
from parfocal.runtime.images.scratch import BLOCK_PIXELS, blocks, release

SIDE: Final = 32
_BACKGROUND: Final = 4.0
_DEGREE: Final = 4
_AT_ONCE: Final = 2**22


def pixel_digest(image: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an image's shape, type and pixels, in hexadecimal; metadata do not count.

    It need not be in memory.
    """
    digest = hashlib.sha256(f"{image.shape} {image.dtype.str}".encode())
    for window in blocks(image.shape, BLOCK_PIXELS):
        digest.update(np.ascontiguousarray(image[window]).data)
        release(image)
    return digest.hexdigest()


Read = Callable[[slice, slice], npt.NDArray[Any]]
"""Returns a window of a plane, rows and columns."""


def fingerprint(image: npt.NDArray[Any]) -> npt.NDArray[np.float32] | None:
    """Return what an image shows in 32x32 numbers, whatever its size, brightness and contrast.

    Means of 32x32 blocks without the polynomial of fourth degree that fits them best, and then without their
    surroundings (Gaussian, sigma 4 blocks), so that illumination alone makes no two images alike; scaled to mean 0 and
    length 1, so that the scalar product of two is Pearson's correlation.

    Parameters
    ----------
    image
        Finite grey values (Y, X), or (Z, Y, X), of which the mean over Z is taken; at least 32x32 pixels.

    Returns
    -------
    numpy.ndarray or None
        float32 (1024,); None where the blocks are all alike.

    Raises
    ------
    InvalidInputError
        Other axes, smaller, not numeric or not finite.
    """
    if image.ndim not in (2, 3) or min(image.shape[-2:]) < SIDE:
        raise InvalidInputError(
            f"A fingerprint needs an image (Y, X) or (Z, Y, X) of {SIDE}x{SIDE}; not {image.shape}."
        )
    return _fingerprint(image, "ZYX"[-image.ndim :], None)


def _fingerprint(
    image: npt.NDArray[Any], axes: str, precision: type[np.float32] | None
) -> npt.NDArray[np.float32] | None:
    """Return the fingerprint of the mean over all axes but Y and X, which is taken in `precision`."""
    if image.dtype.kind not in "buif" or count_unusable(image):
        raise InvalidInputError("A fingerprint needs finite grey values.")
    others = tuple(number for number, axis in enumerate(axes) if axis not in "YX")

    def read(rows: slice, columns: slice) -> npt.NDArray[Any]:
        window = {"Y": rows, "X": columns}
        part = image[tuple(window.get(axis, slice(None)) for axis in axes)]
        return part.mean(axis=others, dtype=precision) if others else part

    blocks = _block_means(image, axes, read)
    # Loaded only now: it would be most of the time that a server takes to start.
    from scipy import ndimage

    smooth = _smooth_surfaces()
    blocks -= (smooth @ (smooth.T @ blocks.ravel())).reshape(SIDE, SIDE)
    blocks -= ndimage.gaussian_filter(blocks, _BACKGROUND)
    blocks -= blocks.mean()
    length = float(np.linalg.norm(blocks))
    if length <= 1e-9 * max(1.0, *(abs(float(value)) for value in value_range(image))):
        return None
    result: npt.NDArray[np.float32] = (blocks.ravel() / length).astype(np.float32)
    return result


def _block_means(image: npt.NDArray[Any], axes: str, read: Read) -> npt.NDArray[np.float64]:
    """Return the means of 32 x 32 blocks of a plane of an image, of which `read` makes some million pixels at a time.

    The numbers are those of the plane in one piece, for each column is summed up by itself.
    """
    height, width = image.shape[axes.index("Y")], image.shape[axes.index("X")]
    depth = image.size // (height * width)
    sums = np.empty((SIDE, width), np.float64)
    edges = [*(np.arange(SIDE) * height // SIDE).tolist(), height]
    for block, (top, bottom) in enumerate(itertools.pairwise(edges)):
        step = max(1, BLOCK_PIXELS // ((bottom - top) * depth))
        for left in range(0, width, step):
            part = read(slice(top, bottom), slice(left, left + step))
            sums[block, left : left + step] = np.add.reduceat(part, [0], axis=0, dtype=np.float64)[0]
            release(image)
    sums /= np.diff(edges)[:, np.newaxis]
    edges = [*(np.arange(SIDE) * width // SIDE).tolist(), width]
    means: npt.NDArray[np.float64] = np.add.reduceat(sums, edges[:-1], axis=1, dtype=np.float64) / np.diff(edges)
    return means


def pattern_of(image: Image) -> npt.NDArray[np.float32] | None:
    """Return the fingerprint of an image with any axes besides Y and X, over which the mean is taken.

    None where the image is too small or too even to be told from others. It need not be in memory.
    """
    if min(length for length, axis in zip(image.pixels.shape, image.axes, strict=True) if axis in "YX") < SIDE:
        return None
    return _fingerprint(image.pixels, image.axes, np.float32)


def alike(fingerprints: npt.NDArray[np.float32], least: float) -> Iterator[tuple[int, int, float]]:
    """Yield all pairs of fingerprints, first < second, that correlate by `least` or more, with their correlation.

    Parameters
    ----------
    fingerprints
        (images, 1024); may be memory-mapped, as only some thousand rows are held at a time.
    least
        Correlation from -1 to 1.
    """
    rows = max(1, _AT_ONCE // max(1, len(fingerprints)))
    for start in range(0, len(fingerprints), rows):
        block = np.asarray(fingerprints[start : start + rows])
        products = block @ np.asarray(fingerprints[start:]).T
        for first, second in np.argwhere(np.triu(products >= least, k=1)):
            yield int(start + first), int(start + second), float(products[first, second])


@lru_cache(maxsize=1)
def _smooth_surfaces() -> npt.NDArray[np.float64]:
    """Return an orthonormal basis of the polynomials in Y and X up to the fourth degree, (1024, 15)."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    powers = [(y**i * x**j).ravel() for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]
    basis: npt.NDArray[np.float64] = np.linalg.qr(np.stack(powers, axis=1))[0]
    return basis
