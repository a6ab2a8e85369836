"""Localisation without training: local maxima of smoothed frames, each fitted with a Gaussian by itself.

Most programs for single molecules do this by default, and it works well where spots do not overlap. A frame is
smoothed with a Gaussian of 1 pixel minus one of 2 pixels; local maxima among 3 x 3 pixels above a threshold in standard
deviations of the noise are fitted by least squares with a Gaussian of free width on a constant background, in a window
of 7 x 7 pixels (Levenberg-Marquardt, all spots of a frame at once).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.qc.metrics.objects.localisations import match_stack
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import release
from parfocal.runtime.methods.localisation_matching import jaccard

THRESHOLDS: Final = (3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
_RADIUS: Final = 3
_ITERATIONS: Final = 12
_NORMAL: Final = 0.6744897501960817
_WIDTHS: Final = (0.5, 4.0)


@dataclass(frozen=True)
class SpotBaseline:
    """Local maxima above `threshold` standard deviations of the noise, and the Jaccard index that chose it, if any."""

    threshold: float
    jaccard: float | None = None
    frames: int = 0

    def find(self, frames: Iterable[NDArray[Any]]) -> Localisations:
        """Return the localisations of all frames (Y, X)."""
        return locate_spots(frames, self.threshold)

    def describe(self) -> dict[str, Any]:
        """Return what was chosen and how, as plain JSON types."""
        known: dict[str, Any] = {"name": "fit of local maxima", "threshold_sd": self.threshold}
        if self.jaccard is None:
            return known | {"chosen_by": "nothing: no frames with known emitters to choose it on"}
        return known | {"chosen_by": "Jaccard index", "jaccard": self.jaccard, "frames": self.frames}


def choose_spots(
    pairs: Sequence[tuple[NDArray[Any], Localisations]], pixel_nm: tuple[float, float], radius_nm: float
) -> SpotBaseline:
    """Return the baseline with the threshold whose Jaccard index is the highest.

    Parameters
    ----------
    pairs
        Training frames (Y, X) with their emitters.
    pixel_nm
        Height and width of a pixel in nm.
    radius_nm
        Largest distance, in nm, at which an emitter and a localisation are matched.

    Raises
    ------
    InvalidInputError
        There are no pairs.
    """
    if not pairs:
        raise InvalidInputError("There are no training frames to choose the threshold of the baseline on.")
    scores = []
    for threshold in THRESHOLDS:
        counts = np.zeros(3, np.int64)
        for frame, true in pairs:
            alone = Localisations(np.zeros(len(true.y), np.int64), true.y, true.x, true.intensity)
            found = match_stack(locate_spots([frame], threshold), alone, 1, pixel_nm, radius_nm)
            counts += found.tp[0], found.fp[0], found.fn[0]
        scores.append(jaccard(*counts.tolist()))
    best = int(np.argmax(scores))
    return SpotBaseline(THRESHOLDS[best], scores[best], len(pairs))


def locate_spots(frames: Iterable[NDArray[Any]], threshold: float) -> Localisations:
    """Return the fitted local maxima of frames (Y, X); the threshold is in standard deviations of the noise.

    The frames need not be in memory.
    """
    tables = []
    for number, frame in enumerate(frames):
        values = np.array(frame, np.float64)
        release(frame)
        y, x, amplitude = fit_spots(values, _maxima(values, threshold))
        inside = (y >= 0) & (y < values.shape[0]) & (x >= 0) & (x < values.shape[1]) & (amplitude > 0)
        tables.append((np.full(int(inside.sum()), number, np.int64), y[inside], x[inside]))
    columns = [np.concatenate(each) for each in zip(*tables, strict=True)] if tables else [np.zeros(0)] * 3
    return Localisations(columns[0].astype(np.int64), columns[1], columns[2], np.full(len(columns[0]), np.nan))


def _maxima(frame: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    band = ndimage.gaussian_filter(frame, 1.0) - ndimage.gaussian_filter(frame, 2.0)
    noise = float(np.median(np.abs(band - np.median(band)))) / _NORMAL
    peaks = (band == ndimage.maximum_filter(band, 3)) & (band > threshold * noise)
    return np.argwhere(peaks)


def fit_spots(
    frame: NDArray[np.float64], peaks: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fit a Gaussian around each peak, and return positions and amplitudes.

    Parameters
    ----------
    frame
        Grey values (Y, X).
    peaks
        Pixels at which the fits start, (N, 2) as y and x.

    Returns
    -------
    y, x : NDArray
        float64 (N,): positions in pixels; 0 is the corner of the first pixel. Where a fit leaves its window, the
        position is that of the peak.
    amplitude : NDArray
        float64 (N,): amplitudes in grey values.
    """
    if not len(peaks):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    padded = np.pad(frame, _RADIUS, mode="reflect")
    steps = np.arange(-_RADIUS, _RADIUS + 1)
    dy, dx = (each.ravel() for each in np.meshgrid(steps, steps, indexing="ij"))
    data = padded[peaks[:, :1] + _RADIUS + dy, peaks[:, 1:] + _RADIUS + dx]
    low = np.percentile(data, 20, axis=1)
    # y, x, amplitude, width, background
    values = np.column_stack([np.zeros((len(peaks), 2)), data.max(axis=1) - low, np.full(len(peaks), 1.2), low])
    damping = np.full(len(peaks), 1e-2)
    residual = data - _spot(values, dy, dx)[0]
    cost = (residual**2).sum(axis=1)
    for _ in range(_ITERATIONS):
        jacobian = _spot(values, dy, dx)[1]
        normal = np.einsum("npi,npj->nij", jacobian, jacobian)
        diagonal = np.einsum("nii->ni", normal)
        diagonal += damping[:, np.newaxis] * np.maximum(diagonal, 1e-9) + 1e-12
        step = np.linalg.solve(normal, np.einsum("npi,np->ni", jacobian, residual)[..., np.newaxis])[..., 0]
        tried = values + step
        tried[:, 3] = np.clip(tried[:, 3], *_WIDTHS)
        there = data - _spot(tried, dy, dx)[0]
        better = (there**2).sum(axis=1) < cost
        values = np.where(better[:, np.newaxis], tried, values)
        residual = np.where(better[:, np.newaxis], there, residual)
        cost = (residual**2).sum(axis=1)
        damping = np.clip(np.where(better, damping / 3, damping * 5), 1e-6, 1e6)
    lost = np.abs(values[:, :2]).max(axis=1) > _RADIUS
    places = peaks + 0.5 + np.where(lost[:, np.newaxis], 0, values[:, :2])
    y, x = np.asarray(places, np.float64).T
    return y, x, np.asarray(values[:, 2], np.float64)


def _spot(
    values: NDArray[np.float64], dy: NDArray[np.int64], dx: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Gaussians (N, pixels) and their derivatives (N, pixels, 5)."""
    y, x, amplitude, width, background = (values[:, index, np.newaxis] for index in range(5))
    off_y, off_x = dy - y, dx - x
    shape = np.exp(-(off_y**2 + off_x**2) / (2 * width**2))
    bright = amplitude * shape
    derivatives = np.stack(
        [
            bright * off_y / width**2,
            bright * off_x / width**2,
            shape,
            bright * (off_y**2 + off_x**2) / width**3,
            np.ones_like(shape),
        ],
        axis=-1,
    )
    return bright + background, derivatives
