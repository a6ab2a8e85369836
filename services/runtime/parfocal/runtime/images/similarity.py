"""Images that show the same: pixel for pixel, or almost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image
from parfocal.runtime.images.pixel_values import count_unusable

SIDE: Final = 32
_BACKGROUND: Final = 4.0
_DEGREE: Final = 4
_AT_ONCE: Final = 2**22


def pixel_digest(image: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an image's shape, type and pixels, in hexadecimal; metadata do not count."""
    digest = hashlib.sha256(f"{image.shape} {image.dtype.str}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


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
    # Loaded only now: it would be most of the time that a server takes to start.
    from scipy import ndimage

    if image.dtype.kind not in "buif" or count_unusable(image):
        raise InvalidInputError("A fingerprint needs finite grey values.")
    if image.ndim not in (2, 3) or min(image.shape[-2:]) < SIDE:
        raise InvalidInputError(
            f"A fingerprint needs an image (Y, X) or (Z, Y, X) of {SIDE}x{SIDE}; not {image.shape}."
        )
    blocks = image if image.ndim == 2 else image.mean(axis=0)
    for axis, length in enumerate(blocks.shape):
        edges = np.arange(SIDE) * length // SIDE
        sizes = np.diff([*edges, length]).reshape((-1, 1) if axis == 0 else (1, -1))
        blocks = np.add.reduceat(blocks, edges, axis=axis, dtype=np.float64) / sizes
    smooth = _smooth_surfaces()
    blocks -= (smooth @ (smooth.T @ blocks.ravel())).reshape(SIDE, SIDE)
    blocks -= ndimage.gaussian_filter(blocks, _BACKGROUND)
    blocks -= blocks.mean()
    length = float(np.linalg.norm(blocks))
    if length <= 1e-9 * max(1.0, float(np.abs(image).max())):
        return None
    result: npt.NDArray[np.float32] = (blocks.ravel() / length).astype(np.float32)
    return result


def pattern_of(image: Image) -> npt.NDArray[np.float32] | None:
    """Return the fingerprint of an image with any axes besides Y and X, over which the mean is taken.

    None where the image is too small or too even to be told from others.
    """
    others = tuple(number for number, axis in enumerate(image.axes) if axis not in "YX")
    plane = image.pixels.mean(axis=others, dtype=np.float32) if others else image.pixels
    return fingerprint(plane) if min(plane.shape) >= SIDE else None


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
