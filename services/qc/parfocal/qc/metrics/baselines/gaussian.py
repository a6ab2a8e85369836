"""The baseline every restoration is compared with: a Gaussian filter, with the sigma chosen on validation images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from parfocal.qc.metrics._arrays import Float32, Float64
from parfocal.qc.metrics.bands import filtered
from parfocal.qc.metrics.images.fit import fitted_psnr, has_range, scale_target
from parfocal.qc.metrics.parallel import map_bounded
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch

DEFAULT_SIGMAS: Final = (*np.arange(0.5, 3.0, 0.25).tolist(), *np.arange(3.0, 6.5, 0.5).tolist())
"""Candidate sigmas in pixels, 0.5 to 6, closer where filters are narrow."""
_TRUNCATED: Final = 4.0
"""Where the filter ends, in sigmas."""


@dataclass(frozen=True)
class BaselineChoice:
    """The Gaussian filter that suits the validation images best.

    Attributes
    ----------
    sigma
        Standard deviation in pixels: the top of the parabola through the best candidate and its two neighbours, so that
        it may lie between candidates.
    mean_psnr
        ``(sigma, mean PSNR in dB over the validation images)`` of every candidate, by rising sigma.
    images
        Number of validation images.
    chosen_on
        Description of the images, e.g. "the training images".
    """

    sigma: float
    mean_psnr: tuple[tuple[float, float], ...]
    images: int
    chosen_on: str = "validation images"

    def apply(self, source: npt.NDArray[Any], scratch: Scratch = IN_MEMORY) -> Float32:
        """Return the filtered source, which lies in `scratch`."""
        return gaussian_baseline(source, self.sigma, scratch)

    def describe(self) -> dict[str, Any]:
        """Return what was chosen and how, as plain JSON types."""
        return {
            "name": "Gaussian filter",
            "filter": "gaussian",
            "sigma_pixels": self.sigma,
            "chosen_on": self.chosen_on,
            "images": self.images,
            "candidates": [{"sigma_pixels": sigma, "mean_psnr_db": psnr} for sigma, psnr in self.mean_psnr],
        }


class NothingToFitError(InvalidInputError):
    """No image has what a baseline is chosen by."""


def best_gaussian_sigma(
    pairs: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]],
    sigmas: Sequence[float] = DEFAULT_SIGMAS,
    workers: int | None = None,
) -> BaselineChoice:
    """Choose the sigma whose filtered inputs have the highest mean PSNR after the fit.

    Give validation images only. A sigma chosen on the test images would make the baseline too strong, as a
    model tuned on them would be.

    Parameters
    ----------
    pairs
        ``(source, target)``, (Y, X) or (Z, Y, X), taken one by one: any number fits in memory. A stack counts as one
        image; its slices are filtered and fitted one by one. Images and slices whose target is constant, or nearly, as
        parts of sparse images are, are left out.
    sigmas
        Candidates in pixels, rising.
    workers
        Number of threads; by default one for each processor this process may use.

    Raises
    ------
    InvalidInputError
        A pair cannot be scored (see `score_restoration`).
    NothingToFitError
        There are no pairs, or no target has any contrast.
    """
    candidates = tuple(float(sigma) for sigma in sigmas)
    if not candidates or candidates[0] <= 0 or any(a >= b for a, b in pairwise(candidates)):
        raise ValueError(f"sigmas must be positive and rising: {candidates}")

    def psnr_of_candidates(pair: tuple[npt.NDArray[Any], npt.NDArray[Any]]) -> Float64 | None:
        planes = [(plane, scale_target(target)) for plane, target in _planes(*pair)]
        if not planes:
            return None
        psnr = [
            [fitted_psnr(gaussian_baseline(plane, sigma), target) for sigma in candidates] for plane, target in planes
        ]
        mean: Float64 = np.array(psnr, np.float64).mean(axis=0)
        return mean

    total = np.zeros(len(candidates))
    images = 0
    for values in map_bounded(psnr_of_candidates, pairs, workers):
        if values is not None:
            total += values
            images += 1
    if images == 0:
        raise NothingToFitError(
            "There are no images with any contrast in their targets to choose the Gaussian baseline on. Give the "
            "model's validation pairs."
        )
    mean = total / images
    return BaselineChoice(
        sigma=_refined(candidates, mean),
        mean_psnr=tuple(zip(candidates, mean.tolist(), strict=True)),
        images=images,
    )


def gaussian_baseline(image: npt.NDArray[Any], sigma: float, scratch: Scratch = IN_MEMORY) -> Float32:
    """Filter an image (Y, X) or each slice of a stack (Z, Y, X) with a Gaussian of `sigma` pixels.

    A stack is filtered within its planes only, because it is scored slice by slice and its Z step is not its
    pixel size. Edges are mirrored; the filter ends at four sigma. The result is float32 and lies in `scratch`; neither
    it nor the image need be in memory.
    """
    if image.ndim not in (2, 3):
        raise InvalidInputError(f"The image has {image.ndim} axes; (Y, X) or (Z, Y, X) is required.")

    def smoothed(part: npt.NDArray[Any]) -> Float32:
        smooth: Float32 = gaussian_filter(part.astype(np.float32), sigma, mode="reflect", truncate=_TRUNCATED)
        return smooth

    return filtered(image, smoothed, math.ceil(_TRUNCATED * sigma), scratch)


def _planes(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    if source.shape != target.shape or source.ndim not in (2, 3):
        raise InvalidInputError(
            f"A validation pair has shapes {source.shape} and {target.shape}; both must be the same, "
            "(Y, X) or (Z, Y, X)."
        )
    pairs = [(source, target)] if source.ndim == 2 else list(zip(source, target, strict=True))
    return [(plane, wanted) for plane, wanted in pairs if has_range(wanted)]


def _refined(sigmas: Sequence[float], psnr: Float64) -> float:
    """Top of the parabola through the best candidate and its neighbours; the best candidate at either end."""
    best = int(psnr.argmax())
    if best in (0, len(sigmas) - 1):
        return float(sigmas[best])
    x = np.array(sigmas[best - 1 : best + 2])
    y = psnr[best - 1 : best + 2]
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    curvature = (right - left) / (x[2] - x[0])
    if not curvature < 0:
        return float(x[1])
    top = (x[0] + x[1]) / 2 - left / (2 * curvature)
    return float(np.clip(top, x[0], x[2]))
