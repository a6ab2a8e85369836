"""Shift in pixels between two images of one field, and whether it can be measured."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.signal.windows import tukey
from skimage.registration import phase_cross_correlation

from parfocal.qc.metrics._arrays import check_values
from parfocal.runtime.errors import InvalidInputError

_STEPS: Final = 50  # per pixel
_BAND: Final = (1.5, 8.0)
_LARGEST: Final = {2: (1024, 1024), 3: (48, 384, 384)}
_SMALLEST_PART: Final = 24
_AGREEMENT: Final = 1.0


@dataclass(frozen=True)
class Shift:
    """How far the content of one image lies from that of another.

    Attributes
    ----------
    vector
        Pixels along each axis by which the content of the first image must be moved to lie on the second; None where
        this cannot be told.
    spread
        Largest distance, in pixels, between the shift of the whole image and those of its parts that decided; None
        where there are no parts.
    reason
        Reason why there is no estimate; "" if there is one.
    """

    vector: tuple[float, ...] | None
    spread: float | None = None
    reason: str = ""

    @property
    def distance(self) -> float | None:
        """Length of the vector in pixels."""
        return None if self.vector is None else float(np.hypot.reduce(self.vector))


def estimate_shift(moving: npt.NDArray[Any], fixed: npt.NDArray[Any]) -> Shift:
    """Estimate the shift between two images of one field, to a fiftieth of a pixel.

    Both images are reduced to structures of 1.5 to 8 pixels (difference of Gaussians) and tapered at their borders;
    the shift is the place of the largest cross-correlation, refined by a matrix Fourier transform (Guizar-Sicairos
    et al., Optics Letters 33, 156, 2008, in `skimage.registration.phase_cross_correlation`). The spectrum is not
    whitened: that would give noise the same weight as structure.

    Any two images have a largest cross-correlation, so the estimate is repeated in the parts of the image, its halves
    along each axis (quarters of an image, eighths of a volume). Shifts that noise or unlike structures
    suggest differ from part to part; only if more than half of the parts, and three at least, come within a pixel of
    the whole is there an estimate. Where the images show the same structures with inverted contrast, the largest
    negative correlation would be meant; it is tried where the positive one finds no agreement.

    Parameters
    ----------
    moving, fixed
        Finite grey values (Y, X) or (Z, Y, X), of the same shape. Of large images the centre is used: 1024x1024
        pixels, 48x384x384 of volumes.

    Returns
    -------
    Shift
        `vector` is None with a reason where the images are too small, constant, or do not agree.

    Raises
    ------
    InvalidInputError
        Different shapes, other numbers of axes, not numeric or not finite.
    """
    for values, what in ((moving, "first image"), (fixed, "second image")):
        check_values(values, what)
    if moving.shape != fixed.shape or moving.ndim not in _LARGEST:
        raise InvalidInputError(
            f"A shift is estimated between images (Y, X) or (Z, Y, X) of one shape, not {moving.shape} and "
            f"{fixed.shape}."
        )
    window = tuple(
        slice(max(0, (length - most) // 2), max(0, (length - most) // 2) + most)
        for length, most in zip(moving.shape, _LARGEST[moving.ndim], strict=True)
    )
    moving, fixed = moving[window], fixed[window]
    if min(moving.shape[-2:]) < 2 * _SMALLEST_PART:
        return Shift(None, reason="the images are too small")
    if moving.min() == moving.max() or fixed.min() == fixed.max():
        return Shift(None, reason="an image is constant")
    first, second = _band(moving), _band(fixed)
    found = _agreed(first, second)
    if found.vector is None:
        inverted = _agreed(-first, second)
        return inverted if inverted.vector is not None else found
    return found


def _agreed(moving: npt.NDArray[np.float32], fixed: npt.NDArray[np.float32]) -> Shift:
    whole = _shift(moving, fixed)
    parts = [
        _shift(moving[window], fixed[window])
        for window in _parts(moving.shape)
        if moving[window].any() and fixed[window].any()
    ]
    distances = sorted(float(np.linalg.norm(part - whole)) for part in parts)
    agreeing = [distance for distance in distances if distance <= _AGREEMENT]
    if len(agreeing) < max(3, len(parts) // 2 + 1):
        text = f"only {len(agreeing)} of {len(parts)} parts of the image agree on a shift"
        return Shift(None, reason=text if agreeing else "no two parts of the image agree on a shift")
    return Shift(tuple(float(value) for value in whole), agreeing[-1])


def _shift(moving: npt.NDArray[np.float32], fixed: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the shift between two images; tapers draw it towards zero, so it is taken again where they overlap."""
    vector = _correlated(moving, fixed)
    steps = np.rint(vector).astype(int)
    overlap = [length - abs(step) for length, step in zip(moving.shape, steps, strict=True)]
    if not steps.any() or any(2 * left < length for left, length in zip(overlap, moving.shape, strict=True)):
        return vector
    first = tuple(slice(max(0, -step), max(0, -step) + left) for step, left in zip(steps, overlap, strict=True))
    second = tuple(slice(max(0, step), max(0, step) + left) for step, left in zip(steps, overlap, strict=True))
    return steps + _correlated(moving[first], fixed[second])


def _correlated(moving: npt.NDArray[np.float32], fixed: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    taper = [tukey(length, 0.5).astype(np.float32) for length in moving.shape]
    for axis, values in enumerate(taper):
        shape = [1] * moving.ndim
        shape[axis] = -1
        moving, fixed = moving * values.reshape(shape), fixed * values.reshape(shape)
    vector, _, _ = phase_cross_correlation(fixed, moving, upsample_factor=_STEPS, normalization=None)
    return np.asarray(vector, np.float64)


def _band(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    pixels = (image - np.asarray(image.min(), np.float64)).astype(np.float32)
    # Planes of a volume are farther apart than pixels: along Z only the finest scale is left alone.
    narrow, wide = ((0.0,) * (pixels.ndim - 2) + (sigma, sigma) for sigma in _BAND)
    band: npt.NDArray[np.float32] = ndimage.gaussian_filter(pixels, narrow) - ndimage.gaussian_filter(pixels, wide)
    # To one scale, because products of sums over large images leave the range of float32 else.
    band /= float(np.std(band, dtype=np.float64)) or 1.0
    return band


def _parts(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    halves = [
        (slice(0, length // 2), slice(length // 2, length)) if length >= 2 * _SMALLEST_PART else (slice(None),)
        for length in shape
    ]
    return list(itertools.product(*halves))
