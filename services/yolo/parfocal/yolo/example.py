"""Simulated images to try YOLOv2 with: `python -m parfocal.yolo.example FOLDER METHOD`.

Fields of round and of elongated cells on uneven ground, seen by a camera with noise, each with the boxes around its
cells as PASCAL VOC. They show that the method works, not how well it does on anyone's images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from parfocal.runtime.datasets.annotations.box import Box
from parfocal.runtime.datasets.annotations.voc import voc_bytes
from parfocal.runtime.images.files import Image, PixelSize, write_image

_IMAGES: Final = {"train": 16, "test": 6}
_SHAPE: Final = (256, 256)
_CELLS: Final = (12, 22)
_SEED: Final = 1
_PIXEL_SIZE: Final = PixelSize(0.65, 0.65)


def simulate_cells(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[NDArray[np.uint16], tuple[Box, ...]]:
    """Return an image (Y, X) of cells that do not overlap, and the boxes around them.

    Round cells have diameters of 16 to 24 pixels. Elongated ones are 26 to 38 pixels long, two fifths as wide, of any
    direction, and brighter. Photons are counted with Poisson statistics, 4 grey values each, above an offset of 100.
    """
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    ground = gaussian_filter(rng.standard_normal(shape), 40, mode="wrap")
    photons = 10 + 4 * ground / np.abs(ground).max()
    taken, boxes = np.zeros(shape, bool), []
    for _ in range(int(rng.integers(*_CELLS))):
        elongated = rng.random() < 0.4
        half_length = rng.uniform(13, 19) if elongated else rng.uniform(8, 12)
        half_width = 0.4 * half_length if elongated else half_length * rng.uniform(0.9, 1)
        angle = rng.uniform(0, np.pi)
        row, column = (rng.uniform(half_length, length - half_length) for length in shape)
        along = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
        across = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
        distance = np.hypot(along / half_length, across / half_width)
        inside = distance <= 1
        if (taken & (distance <= 1.3)).any():
            continue
        taken |= inside
        photons += inside * (32 if elongated else 20) * rng.uniform(0.8, 1.2) * (1 - 0.5 * np.minimum(distance, 1))
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        corners = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        boxes.append(Box("elongated" if elongated else "round", corners))
    pixels = 100 + 4 * rng.poisson(gaussian_filter(photons, 1))
    return pixels.astype(np.uint16), tuple(boxes)


def write_dataset(folder: Path) -> None:
    """Write ``{train,test}/source/cells_NN.tif``, 256 x 256 pixels each, and their boxes in ``target``."""
    rng = np.random.default_rng(_SEED)
    for split, count in _IMAGES.items():
        for number in range(1, count + 1):
            pixels, boxes = simulate_cells(rng, _SHAPE)
            source, target = (folder / split / role / f"cells_{number:02d}" for role in ("source", "target"))
            for path in (source, target):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_image(source.with_suffix(".tif"), Image(pixels, "YX", _PIXEL_SIZE))
            target.with_suffix(".xml").write_bytes(voc_bytes(f"{source.name}.tif", _SHAPE, boxes))


if __name__ == "__main__":
    write_dataset(Path(sys.argv[1]))
