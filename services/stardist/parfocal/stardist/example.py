"""A small real dataset to try StarDist 2D and SplineDist 2D with: `python -m parfocal.stardist.example FOLDER METHOD`.

The nuclei image that comes with the stardist package (BSD-3-Clause), cut into tiles: twelve to train on, four to be
judged by. All are of one field, so a good score says that it works, not that the model suits other images.
"""

from __future__ import annotations

import sys
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from parfocal.runtime.images.files import Image, read_image, write_image

_TILE = 128
_TEST = (3, 6, 9, 12)  # one in each row and column of tiles


def write_dataset(folder: Path) -> None:
    """Write ``{train,test}/{source,target}/nuclei_NN.tif``, 128 x 128 pixels each."""
    images = files("stardist") / "data" / "images"
    with as_file(images / "img2d.tif") as image, as_file(images / "mask2d.tif") as mask:
        source, target = read_image(image).pixels, read_image(mask).pixels
    rows, columns = (length // _TILE for length in source.shape)
    for number, (row, column) in enumerate(np.ndindex(rows, columns)):
        window = slice(row * _TILE, (row + 1) * _TILE), slice(column * _TILE, (column + 1) * _TILE)
        for role, pixels in (("source", source), ("target", target.astype(np.uint16))):
            path = folder / ("test" if number in _TEST else "train") / role / f"nuclei_{number + 1:02d}.tif"
            write_image(path, Image(np.ascontiguousarray(pixels[window]), "YX", None))


if __name__ == "__main__":
    # Nothing for volumes: training on them takes longer on two processors than a demonstration may.
    if sys.argv[2] in ("stardist-2d", "splinedist-2d"):
        write_dataset(Path(sys.argv[1]))
