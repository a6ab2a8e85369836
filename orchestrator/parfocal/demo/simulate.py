"""A simulated fluorescence microscope: pairs of noisy and clean images of cells for the demo and the benchmarks.

What is simulated, in this order
1. Filaments, as worm-like chains (steps of a third of a pixel whose direction diffuses and is forgotten over the
   persistence length): half of them grow out of the organising centre of a cell, half lie anywhere. Label density
   varies along each of them. Spots, as points of exponentially distributed brightness. A soft haze around each cell.
2. The optics: structures are blurred by a Gaussian of `psf_sigma` pixels; a third of them lie out of focus and are
   blurred four times as much.
3. The camera: photons arrive with Poisson statistics, reading adds Gaussian noise, and electrons are counted with a
   gain and an offset, rounded to uint16.

The clean image is the exact expectation of the noisy one, in the same camera units. Numbers and brightness of
structures vary from image to image. Nothing here is fitted to a particular instrument: results on these images show
that a method works, not how well it does on anyone's data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images.files import Image, PixelSize, write_image

_STEP = 1 / 3  # pixels along a filament
_PIXEL_SIZE = PixelSize(0.1, 0.1)


def simulate_pair(
    shape: tuple[int, int],
    seed: int | Sequence[int],
    *,
    photons: float = 8.0,
    read_noise: float = 1.6,
    background: float = 1.5,
    psf_sigma: float = 1.3,
    density: float = 1.0,
    gain: float = 4.0,
    offset: float = 100.0,
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Simulate one field of view, once through the camera and once without noise.

    Parameters
    ----------
    shape
        Rows and columns in pixels.
    seed
        Equal seeds and settings give equal images.
    photons
        Expected photons per pixel on a bright structure (the 99.5 percentile above background) of an average image;
        single images have between two thirds and one and a half times of that.
    read_noise
        Standard deviation of the camera's read noise in electrons.
    background
        Photons per pixel where there is nothing.
    psf_sigma
        Width of the in-focus point spread function in pixels.
    density
        Amount of structure; 1 is about 40 filaments and 25 spots per 256 x 256 pixels, varied by a factor of 1.6.
    gain, offset
        Camera counts per electron, and counts in the dark.

    Returns
    -------
    noisy : NDArray
        uint16 camera counts.
    clean : NDArray
        float32 expectation of `noisy` in counts.
    """
    rng = np.random.default_rng(seed)
    brightness = photons * float(np.exp(rng.uniform(-1, 1) * np.log(1.5)))
    amount = density * float(np.exp(rng.uniform(-1, 1) * np.log(1.6))) * shape[0] * shape[1] / 256**2
    cells = rng.uniform(0.15, 0.85, (max(1, round(1.5 * amount)), 2)) * shape
    sharp, soft = np.zeros(shape), np.zeros(shape)
    for number in range(max(2, round(40 * amount))):
        start = cells[rng.integers(len(cells))] + rng.normal(0, 4, 2) if number % 2 else rng.uniform(0, shape)
        _draw_filament(soft if rng.random() < 1 / 3 else sharp, rng, start)
    for _ in range(round(25 * amount)):
        place = cells[rng.integers(len(cells))] + rng.normal(0, 0.25 * min(shape), 2)
        _splat(soft if rng.random() < 1 / 3 else sharp, place[np.newaxis], np.array([1 + rng.exponential(4)]))
    signal = blur(sharp, psf_sigma) + blur(soft, 4 * psf_sigma)
    signal *= brightness / max(1e-9, float(np.percentile(signal, 99.5)))
    haze = np.zeros(shape)
    _splat(haze, cells, rng.uniform(0.5, 1.0, len(cells)))
    haze = blur(haze, 0.18 * min(shape))
    expected = background + signal + background * haze / max(1e-9, float(haze.max()))
    electrons = rng.poisson(expected) + rng.normal(0, read_noise, shape)
    noisy = np.clip(np.rint(offset + gain * electrons), 0, 65535).astype(np.uint16)
    return noisy, (offset + gain * expected).astype(np.float32)


def write_dataset(folder: Path, n_train: int, n_test: int, size: int, seed: int) -> None:
    """Write a paired dataset: ``{train,test}/{source,target}/field_NNN.tif``, 0.1 µm per pixel.

    Parameters
    ----------
    folder
        Where to write; files of the same names are replaced.
    n_train, n_test
        Number of pairs; all images differ.
    size
        Rows and columns in pixels.
    seed
        Equal seeds give equal files.
    """
    for number in range(n_train + n_test):
        part = "train" if number < n_train else "test"
        noisy, clean = simulate_pair((size, size), (seed, number))
        for kind, pixels in (("source", noisy), ("target", clean)):
            path = folder / part / kind / f"field_{number + 1:03d}.tif"
            write_image(path, Image(pixels, "YX", _PIXEL_SIZE))


def blur(image: NDArray[np.floating], sigma: float) -> NDArray[np.float64]:
    """Blur a two-dimensional image with a Gaussian of `sigma` pixels, cut off at 4 sigma; outside there is nothing."""
    radius = max(1, round(4 * sigma))
    profile = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = profile / profile.sum()
    values = np.asarray(image, np.float64)
    for axis in (0, 1):
        padded = [length + (2 * radius if other == axis else 0) for other, length in enumerate(values.shape)]
        spectrum = np.fft.rfft(values, padded[axis], axis=axis)
        window = np.fft.rfft(kernel, padded[axis])
        product = spectrum * (window[:, np.newaxis] if axis == 0 else window)
        full = np.fft.irfft(product, padded[axis], axis=axis)
        values = np.take(full, range(radius, radius + values.shape[axis]), axis=axis)
    return values


def _draw_filament(canvas: NDArray[np.float64], rng: np.random.Generator, start: NDArray[np.float64]) -> None:
    steps = round(rng.uniform(0.3, 1.1) * min(canvas.shape) / _STEP)
    persistence = rng.uniform(60, 250)  # pixels
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, np.sqrt(_STEP / persistence), steps))
    path = start + _STEP * np.cumsum(np.stack([np.sin(angles), np.cos(angles)], axis=1), axis=0)
    knots = rng.gamma(6, 1 / 6, max(2, steps // 25))
    label = np.interp(np.linspace(0, len(knots) - 1, steps), np.arange(len(knots)), knots)
    _splat(canvas, path, rng.uniform(0.5, 1.5) * _STEP * label)


def _splat(canvas: NDArray[np.float64], places: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
    """Add points at sub-pixel places, each shared between its four neighbouring pixels."""
    base = np.floor(places).astype(int)
    rest = places - base
    for down in (0, 1):
        for right in (0, 1):
            y, x = base[:, 0] + down, base[:, 1] + right
            share = np.abs(1 - down - rest[:, 0]) * np.abs(1 - right - rest[:, 1])
            inside = (y >= 0) & (y < canvas.shape[0]) & (x >= 0) & (x < canvas.shape[1])
            np.add.at(canvas, (y[inside], x[inside]), (weights * share)[inside])
