"""How far two sets of images are apart in what small parts of them look like: the sliced Wasserstein distance.

Karras, Aila, Laine and Lehtinen, "Progressive growing of GANs for improved quality, stability, and variation" (ICLR
2018), section 5, written here from the description. Images are split into bands of detail by a Laplacian pyramid; of
each band, small patches are drawn from both sets and compared as two clouds of points: projected on random directions
and sorted, their mean absolute difference is the Wasserstein distance in one dimension.

Patches are normalised by the mean and the standard deviation of each channel over all patches of a set, so brightness
and contrast of a whole set do not matter. The distance of two samples of the same images is above 0, the more so the
fewer patches there are: compare values with each other or with that of two halves of one set, never with 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.runtime.images.scratch import release

_BINOMIAL: Final = np.array([1, 4, 6, 4, 1], np.float64) / 16
_PATCH: Final = 7
_SMALLEST: Final = 16
_DIRECTIONS: Final = 512
_SCALE: Final = 1e3


def sliced_wasserstein(
    first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]], *, seed: int = 0, patches: int = 128
) -> float:
    """Return the distance of two sets of images: the mean over all bands, times 1000 as published.

    Parameters
    ----------
    first, second
        Images (Y, X, channels), finite, of any sizes from 16 pixels a side; all with the same number of channels.
    seed
        Of the places of patches and of the directions. The same images and seed give the same value.
    patches
        Patches drawn from each image and band.

    Raises
    ------
    ValueError
        A set is empty, an image is too small, or their channels differ.
    """
    distances = level_distances(first, second, seed=seed, patches=patches)
    return float(np.mean(distances))


def level_distances(
    first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]], *, seed: int = 0, patches: int = 128
) -> list[float]:
    """Return the distance in each band of detail, the finest first; parameters as for `sliced_wasserstein`.

    A band halves the image. There are as many as the smallest image has with 16 pixels a side or more.
    """
    images = [np.asarray(image, np.float64) for image in (*first, *second)]
    if not len(first) or not len(second):
        raise ValueError("a set of images is empty")
    if len({image.shape[2:] for image in images}) != 1 or images[0].ndim != 3:
        raise ValueError(f"images must be (Y, X, channels), with the same channels: {[each.shape for each in images]}")
    levels = _levels(min(min(image.shape[:2]) for image in images))
    pyramids = [_laplacian_pyramid(image, levels) for image in images]
    found = []
    for level in range(levels):
        rng = np.random.default_rng([seed, level])
        drawn = [_draw_patches(pyramid[level], patches, rng) for pyramid in pyramids]
        mine, theirs = (_normalised(np.concatenate(part)) for part in (drawn[: len(first)], drawn[len(first) :]))
        found.append(_SCALE * _sliced_distance(mine, theirs, rng))
    return found


class RealImages:
    """A set of images whose patches are drawn and projected once, so that many others can be compared with it.

    Parameters
    ----------
    images
        As for `sliced_wasserstein`.
    smallest
        Length in pixels of the shortest side of any image that will be compared; the bands follow from it.
    seed, patches
        As for `sliced_wasserstein`.

    Raises
    ------
    ValueError
        There are no images, their channels differ, or one is smaller than 16 pixels.
    """

    def __init__(self, images: Sequence[NDArray[Any]], *, smallest: int, seed: int = 0, patches: int = 128) -> None:
        if not len(images):
            raise ValueError("a set of images is empty")
        self._levels = _levels(min(smallest, *(min(image.shape[:2]) for image in images)))
        self._seed, self._patches = seed, patches
        self.channels = images[0].shape[2]
        length = self.channels * _PATCH**2
        self._directions = [_directions(length, self._rng(level, 1)) for level in range(self._levels)]
        self._sorted = self._projected(images, patches)

    def distance(self, images: Iterable[NDArray[Any]], patches: int | None = None) -> float:
        """Return the distance of other images with the same channels, the mean over all bands, times 1000.

        Images are taken one by one, and need not be in memory. `patches` of each image and band are drawn; if None, as
        many as of the images of the set.
        """
        found = []
        for ours, theirs in zip(self._projected(images, patches or self._patches), self._sorted, strict=True):
            quantiles = _middles(min(len(ours), len(theirs)))
            found.append(np.mean(np.abs(_quantiles(ours, quantiles) - _quantiles(theirs, quantiles))))
        return _SCALE * float(np.mean(found))

    def _projected(self, images: Iterable[NDArray[Any]], patches: int) -> list[NDArray[np.float64]]:
        """Return, for each band, the sorted projections (patches, directions) of patches of all images."""
        rngs = [self._rng(level, 0) for level in range(self._levels)]
        drawn: list[list[NDArray[np.float64]]] = [[] for _ in rngs]
        for image in images:
            if image.ndim != 3 or image.shape[2] != self.channels:
                raise ValueError(f"images must be (Y, X, {self.channels}), and not {image.shape}")
            for level, band in enumerate(_laplacian_pyramid(np.asarray(image, np.float64), self._levels)):
                drawn[level].append(_draw_patches(band, patches, rngs[level]))
            release(image)
        return [
            np.sort(_normalised(np.concatenate(each)) @ directions, axis=0)
            for each, directions in zip(drawn, self._directions, strict=True)
        ]

    def _rng(self, level: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, level, purpose])


def _levels(smallest: int) -> int:
    """Return how often an image of this side length can be halved and keep 16 pixels, and one."""
    if smallest < _SMALLEST:
        raise ValueError(f"an image is {smallest} pixels wide, {_SMALLEST} are needed")
    return int(np.log2(smallest / _SMALLEST)) + 1


def _laplacian_pyramid(image: NDArray[np.float64], levels: int) -> list[NDArray[np.float64]]:
    """Return what each halving of the image loses, and last what is left."""
    bands = []
    for _ in range(levels - 1):
        smaller = _smooth(image)[::2, ::2]
        grown = np.zeros_like(image)
        grown[::2, ::2] = smaller
        # Three of four pixels are 0.
        bands.append(image - 4 * _smooth(grown))
        image = smaller
    return [*bands, image]


def _smooth(image: NDArray[np.float64]) -> NDArray[np.float64]:
    for axis in (0, 1):
        image = ndimage.correlate1d(image, _BINOMIAL, axis=axis, mode="mirror")
    return image


def _draw_patches(band: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return patches (count, channels, 49) from random places."""
    windows = np.lib.stride_tricks.sliding_window_view(band, (_PATCH, _PATCH), axis=(0, 1))
    rows, columns = (rng.integers(length, size=count) for length in windows.shape[:2])
    return windows[rows, columns].reshape(count, band.shape[2], -1)


def _normalised(patches: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return patches as rows, each channel with mean 0 and standard deviation 1 over all of them."""
    centred = patches - patches.mean(axis=(0, 2), keepdims=True)
    spread = centred.std(axis=(0, 2), keepdims=True)
    return np.asarray(centred / np.where(spread > 0, spread, 1)).reshape(len(patches), -1)


def _sliced_distance(first: NDArray[np.float64], second: NDArray[np.float64], rng: np.random.Generator) -> float:
    directions = _directions(first.shape[1], rng)
    # Sets of different numbers are compared at as many quantiles as the smaller one has points.
    quantiles = _middles(min(len(first), len(second)))
    sorted_sets = [_quantiles(np.sort(each @ directions, axis=0), quantiles) for each in (first, second)]
    return float(np.mean(np.abs(sorted_sets[0] - sorted_sets[1])))


def _directions(length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return random directions of length 1, (length, directions)."""
    directions = rng.normal(size=(length, _DIRECTIONS))
    return np.asarray(directions / np.linalg.norm(directions, axis=0))


def _middles(count: int) -> NDArray[np.float64]:
    """Return the middles of so many equal parts of the range from 0 to 1."""
    return (np.arange(count) + 0.5) / count


def _quantiles(ordered: NDArray[np.float64], quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quantiles of each sorted column by Hazen's definition; this is far faster than `numpy.quantile`."""
    places = np.clip(len(ordered) * quantiles - 0.5, 0, len(ordered) - 1)
    below = np.floor(places).astype(np.intp)
    above = np.minimum(below + 1, len(ordered) - 1)
    part = (places - below)[:, np.newaxis]
    return np.asarray(ordered[below] * (1 - part) + ordered[above] * part)
