"""Simulated images to try the U-Nets with: `python -m parfocal.unet.example FOLDER METHOD`.

Fields of cells of different brightness that touch, with dark membranes between them and dark vesicles inside, seen
with noise and blur, each with a mask: 0 for membranes, 255 for cells. A threshold takes vesicles and dim cells for
membranes. They show that the method works, not how well it does on anyone's images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from parfocal.runtime.images.files import Image, PixelSize, write_image

_IMAGES: Final = {"train": 12, "test": 4}
_SHAPES: Final = {"unet-2d": (192, 192), "unet-3d": (16, 96, 96)}
_SEED: Final = 1
_PIXEL_SIZE: Final = {"unet-2d": PixelSize(0.05, 0.05), "unet-3d": PixelSize(0.05, 0.05, 0.1)}
_CELL: Final = 24.0
_MEMBRANE: Final = 2.0


def simulate_cells(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Return an image of cells (Y, X) or (Z, Y, X) and its mask: 0 in membranes, 255 in cells.

    Cells are the regions around random middles, about 24 pixels wide (12 planes), that are nearest to each of them;
    membranes reach 2 pixels to either side of the faces between them, and let half of the light through. Vesicles are
    balls with a radius of 2 to 4 pixels, as dark as membranes. Photons are counted with Poisson statistics, 10 grey
    values each, above an offset of 100.
    """
    spacing = np.array([2.0, 1.0, 1.0][-len(shape) :])
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * spacing
    extent = np.array(shape) * spacing
    middles = rng.uniform(-_CELL, extent + _CELL, (round(float(np.prod((extent + 2 * _CELL) / _CELL))), len(shape)))
    distances, nearest = cKDTree(middles).query(places, k=2)
    apart = np.linalg.norm(middles[nearest[..., 1]] - middles[nearest[..., 0]], axis=-1)
    membrane = (distances[..., 1] ** 2 - distances[..., 0] ** 2) / (2 * apart) < _MEMBRANE
    photons = 30 * rng.uniform(0.5, 1.5, len(middles))[nearest[..., 0]]
    photons[membrane] *= 0.5
    for middle in rng.uniform(0, extent, (2 * round(float(np.prod(extent / _CELL))), len(shape))):
        inside = ((places - middle) ** 2).sum(axis=-1) < rng.uniform(2, 4) ** 2
        photons[inside & ~membrane] *= 0.5
    ground = 1 + 0.3 * _unit(gaussian_filter(rng.standard_normal(shape), 40 / spacing))
    pixels = 100 + 10 * rng.poisson(gaussian_filter(photons * ground, 1 / spacing))
    return pixels.astype(np.uint16), np.where(membrane, 0, 255).astype(np.uint8)


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values scaled so that the largest is 1 without its sign."""
    return np.asarray(values / np.abs(values).max())


def write_dataset(folder: Path, method: str) -> None:
    """Write ``{train,test}/{source,target}/cells_NN.tif``, 192 x 192 pixels or 16 x 96 x 96 voxels each."""
    rng = np.random.default_rng(_SEED)
    shape = _SHAPES[method]
    for split, count in _IMAGES.items():
        for number in range(1, count + 1):
            images: tuple[NDArray[Any], ...] = simulate_cells(rng, shape)
            for role, pixels in zip(("source", "target"), images, strict=True):
                path = folder / split / role / f"cells_{number:02d}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, Image(pixels, "ZYX"[-len(shape) :], _PIXEL_SIZE[method]))


if __name__ == "__main__":
    write_dataset(Path(sys.argv[1]), sys.argv[2])
