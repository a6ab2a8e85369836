"""Estimates of emitters and camera from a stack of frames, however crowded it is.

Nothing is fitted to single spots, which may all overlap. Differences of frames that are far apart in time contain no
static background and no structure, only emitters that blink independently of each other. Their power spectrum is

    P(f) = A exp(-4 pi² sigma² f²) sinc²(fy) sinc²(fx) + N

with the width of spots sigma, A = density x photons² (in grey values), pixels that gather light over their area, and
the white noise N. The three are found by maximum likelihood for periodograms (Whittle, J. R. Stat. Soc. B 15, 125-139
(1953)). With the mean intensity above the background m = density x photons follow the photons A / m and the density
m² / A. The gain of the camera is the slope of the noise over the mean intensity in blocks of the frames, where the
noise is what lies beyond the resolution of the microscope.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import minimize

_MOST_PAIRS: Final = 200
_LARGEST: Final = 256
_BLOCK: Final = 16
_BEYOND: Final = 0.55
"""Cycles per pixel from which a spectrum holds noise alone, in the corners of that of a pixel grid."""
_BACKGROUND: Final = 1.0
"""Percentile of places, means of 3 x 3 pixels, at which no emitter shines: in crowded frames there are few."""
_BELOW: Final = 2.326
"""Standard deviations by which this percentile lies below the mean of a normal distribution."""
_LEAST_SIGNAL: Final = 4.0
_MOST_CROWDED: Final = 10.0
"""Emitters in a pixel beyond which nothing blinks that could be seen."""
_BINS: Final = 12


@dataclass(frozen=True)
class Estimate:
    """Estimates; None where the frames do not allow one.

    Attributes
    ----------
    psf_sigma
        Pixels.
    photons
        Mean of an emitter in one frame, without the spread of photons taken into account.
    density
        Emitters in a pixel of a frame, likewise.
    gain
        Grey values of one photon.
    read_noise, offset
        Standard deviation and mean of the grey values where no emitter shines.
    """

    psf_sigma: float | None
    photons: float | None
    density: float | None
    gain: float | None
    read_noise: float
    offset: float


def estimate_scene(stack: NDArray[Any], photons_spread: float = 0.0, gain: float | None = None) -> Estimate:
    """Return what a stack says of its emitters.

    Parameters
    ----------
    stack
        Frames (T, Y, X), which may be memory-mapped: single frames are read.
    photons_spread
        Standard deviation of the photons of emitters, in parts of their mean.
    gain
        Grey values of one photon, where they are known.
    """
    pairs = [(np.asarray(first, np.float64), np.asarray(second, np.float64)) for first, second in _pairs(stack)]
    smooth = np.stack([ndimage.uniform_filter(first, 3) for first, _ in pairs])
    darkest = float(np.percentile(smooth, _BACKGROUND))
    slope, noise_at = _noise(pairs)
    offset = darkest + _BELOW * noise_at(darkest) / 3
    read_noise = noise_at(offset)
    average = np.mean([first + second for first, second in pairs], axis=0) / 2 - offset
    mean = float(average.mean())
    # What lies in the middle of the frames counts more in the spectrum, and must here.
    seen = _window(average.shape) ** 2
    weighted = float((seen * average).sum() / seen.sum())
    gain = gain or slope
    differences = [first - second for first, second in pairs]
    if not any(each.any() for each in differences):
        return Estimate(None, None, None, gain, read_noise, offset)
    sigma, power, noise = _fit_spectrum(differences)
    clear = min(mean, weighted) > 0 and power > max(_LEAST_SIGNAL * noise, mean**2 / _MOST_CROWDED)
    if not clear:
        return Estimate(None, None, None, gain, read_noise, offset)
    brightness = power / (weighted * (1 + photons_spread**2))
    photons = None if gain is None else brightness / gain
    return Estimate(sigma, photons, mean / brightness, gain, read_noise, offset)


def _pairs(stack: NDArray[Any]) -> Sequence[tuple[NDArray[Any], NDArray[Any]]]:
    """Return pairs of frames half a stack apart, the central part of large ones; of a single frame, with its mean."""
    window = tuple(
        slice(max(0, (length - _LARGEST) // 2), max(0, (length - _LARGEST) // 2) + _LARGEST)
        for length in stack.shape[1:]
    )
    if len(stack) < 2:
        only = np.asarray(stack[0][window], np.float64)
        # The difference of two independent frames has twice the power of one.
        return [(only, only - np.sqrt(2) * (only - only.mean()))]
    lag = len(stack) // 2
    there = len(stack) - lag
    numbers = np.unique(np.linspace(0, there - 1, min(there, _MOST_PAIRS)).round().astype(int)).tolist()
    return [(stack[number][window], stack[number + lag][window]) for number in numbers]


def _window(shape: Sequence[int]) -> NDArray[np.float64]:
    """Return a Hann window (Y, X), without the zeros at its ends."""
    return np.asarray(np.outer(*(np.hanning(length + 2)[1:-1] for length in shape)))


def _spectrum(differences: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the mean power spectrum of differences of frames (Y, X), per frame and pixel."""
    shape = differences[0].shape
    window = _window(shape)
    norm = 2 * (window**2).sum()
    return np.asarray(np.mean([np.abs(np.fft.fft2(window * each)) ** 2 for each in differences], axis=0) / norm)


def _fit_spectrum(differences: Sequence[NDArray[np.float64]]) -> tuple[float, float, float]:
    """Return width of spots in pixels, power of emitters and power of noise."""
    power = _spectrum(differences)
    fy, fx = np.meshgrid(*(np.fft.fftfreq(length) for length in power.shape), indexing="ij")
    squared, pixel = fy**2 + fx**2, (np.sinc(fy) * np.sinc(fx)) ** 2
    # Not the mean and what the window mixes with it: there the total brightness of frames differs.
    used = squared > (2.5 / min(power.shape)) ** 2
    power, squared, pixel = power[used], squared[used], pixel[used]
    noise = float(np.median(power[squared > 0.2]))
    signal = max(float(power[squared <= np.percentile(squared, 5)].mean()) - noise, 1e-3 * noise + 1e-12)

    def cost(logs: NDArray[np.float64]) -> float:
        sigma, amplitude, floor = np.exp(logs)
        model = amplitude * np.exp(-4 * np.pi**2 * sigma**2 * squared) * pixel + floor
        return float(np.mean(np.log(model) + power / model))

    starts = [np.log([sigma, signal, max(noise, 1e-12)]) for sigma in (0.8, 1.3, 2.0)]
    best = min((minimize(cost, start, method="Nelder-Mead") for start in starts), key=lambda found: found.fun)
    sigma, amplitude, floor = np.exp(best.x).tolist()
    return sigma, amplitude, floor


def _noise(
    pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[float | None, Callable[[float], float]]:
    """Return the slope of noise variance over intensity, None if there is none, and the noise at an intensity."""
    shape = pairs[0][0].shape
    side = min(_BLOCK, *shape)
    window = _window((side, side))
    fy, fx = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    corner = np.hypot(fy, fx) > _BEYOND
    norm = 2 * (window**2).sum()
    weights = window**2 / (window**2).sum()
    means, variances = [], []
    for first, second in pairs:
        for top in range(0, shape[0] - side + 1, side):
            for left in range(0, shape[1] - side + 1, side):
                block = np.s_[top : top + side, left : left + side]
                spectrum = np.abs(np.fft.fft2(window * (first[block] - second[block]))) ** 2
                variances.append(float(spectrum[corner].mean()) / norm)
                # Weighted as the spectrum weights the noise of pixels.
                means.append(float((weights * (first[block] + second[block])).sum()) / 2)
    x, y = np.array(means), np.array(variances)
    order = np.argsort(x)
    bins = [each for each in np.array_split(order, _BINS) if len(each)]
    x, y = (np.array([values[each].mean() for each in bins]) for values in (x, y))
    slope, level = np.polyfit(x, y, 1) if len(x) > 1 and np.ptp(x) > 0 else (0.0, float(y.mean()))
    least = 0.05 * float(y.min())

    def noise_at(intensity: float) -> float:
        return math.sqrt(max(float(slope * intensity + level), least))

    # Where noise does not grow with the light, grey values are no counts of photons.
    grows = slope > 0 and slope * np.ptp(x) > 2 * least
    return (float(slope) if grows else None), noise_at
