"""Simulated images to try Cellpose 2D with: `python -m parfocal.cellpose.example FOLDER METHOD`.

Fields of cells with dents and lobes, some of them touching, seen by a camera with noise, each with its label image.
They show that the method works, not how well it does on anyone's images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from parfocal.runtime.images.files import Image, PixelSize, write_image

_IMAGES: Final = {"train": 14, "test": 4}
_SHAPE: Final = (160, 160)
_CELLS: Final = 14
_SEED: Final = 1
_PIXEL_SIZE: Final = PixelSize(0.65, 0.65)
_LEAST_PIXELS: Final = 150


def simulate_cells(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return an image (Y, X) of cells and its label image.

    The outline of a cell is a circle of 10 to 15 pixels whose radius varies by up to 35 % in two to four lobes. Photons
    are counted with Poisson statistics, 4 grey values each, above an offset of 100; cells are darker at their borders.
    """
    y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint16)
    photons = np.full(shape, 6.0)
    for _ in range(_CELLS):
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        lobes, phase = int(rng.integers(2, 5)), rng.uniform(0, 2 * np.pi)
        angle = np.arctan2(y - row, x - column)
        radius = rng.uniform(10, 15) * (1 + rng.uniform(0.1, 0.35) * np.cos(lobes * angle + phase))
        distance = np.hypot(y - row, x - column) / radius
        inside = (distance <= 1) & (labels == 0)
        if inside.sum() < _LEAST_PIXELS:
            continue
        labels[inside] = labels.max() + 1
        photons[inside] = rng.uniform(20, 40) * (1 - 0.6 * distance[inside] ** 2)
    seen: Any = rng.poisson(gaussian_filter(photons, 1.0))
    return (100 + 4 * seen).astype(np.uint16), labels


def write_dataset(folder: Path) -> None:
    """Write ``{train,test}/{source,target}/cells_NN.tif``, 160 x 160 pixels each."""
    rng = np.random.default_rng(_SEED)
    for split, count in _IMAGES.items():
        for number in range(1, count + 1):
            for role, pixels in zip(("source", "target"), simulate_cells(rng, _SHAPE), strict=True):
                write_image(folder / split / role / f"cells_{number:02d}.tif", Image(pixels, "YX", _PIXEL_SIZE))


if __name__ == "__main__":
    # Nothing for volumes: two processors need longer to find objects in them than a demonstration may take.
    if sys.argv[2] == "cellpose-2d":
        write_dataset(Path(sys.argv[1]))
