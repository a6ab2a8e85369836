"""OME-TIFF of large planes: tile by tile, with levels of smaller size in SubIFDs.

This is the form of a pyramid that the OME-TIFF specification describes since 6.0, and that Bio-Formats, Fiji, QuPath
and napari read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

import numpy as np
import tifffile
from numpy.typing import NDArray

from parfocal.runtime.images.levels import as_type, halved, level_shapes
from parfocal.runtime.images.scratch import Scratch, release

CLASSIC_TIFF_BYTES: Final = 2**32 - 2**25
"""What fits a classic TIFF, in bytes, with room for its headers."""
LARGE_PLANE: Final = 2**24
"""Pixels of the largest plane that is written in one piece and without smaller levels."""

_TILE: Final = 512
_SMALLEST_LEVEL: Final = 1024
# Rows of a level that are reduced at a time.
_BAND: Final = 128


def is_large(shape: Sequence[int], axes: str) -> bool:
    """Return whether the planes of an image are written in tiles and levels."""
    lengths = dict(zip(axes, shape, strict=True))
    return lengths["Y"] * lengths["X"] > LARGE_PLANE


def planes_of(pixels: NDArray[Any], axes: str) -> Iterator[NDArray[Any]]:
    """Yield the planes (Y, X, …) of an image in C order; of a mapped array, the memory of those behind is released."""
    leading = pixels.ndim - 2 - int(axes.endswith("S"))
    for place in np.ndindex(pixels.shape[:leading]):
        yield pixels[place]
        release(pixels)


def write_levels(
    handle: BinaryIO,
    pixels: NDArray[Any],
    axes: str,
    options: Mapping[str, Any],
    *,
    labels: bool,
    scratch: Scratch,
) -> None:
    """Write an image and its levels, each half as long as the one before, without having them in memory.

    Parameters
    ----------
    handle
        An empty file.
    pixels, axes
        Axes end in YX or YXS; an array mapped from a file is read tile by tile.
    options
        Of `tifffile.TiffWriter.write`, among them the metadata; levels have those that are not metadata.
    labels
        Whether a pixel of a level is the upper left one of four, else it is their mean.
    scratch
        Where the levels lie meanwhile: a third of the image.
    """
    colours = int(axes.endswith("S"))
    planes = pixels.reshape(-1, *pixels.shape[pixels.ndim - 2 - colours :])
    shapes = level_shapes(planes.shape[1], planes.shape[2], _SMALLEST_LEVEL)
    leading = pixels.shape[: pixels.ndim - 2 - colours]
    with tifffile.TiffWriter(handle, ome=True, bigtiff=pixels.nbytes * 4 / 3 > CLASSIC_TIFF_BYTES) as tif:
        for number, shape in enumerate(shapes):
            if number:
                planes = _reduced(planes, shape, labels, scratch)
            whole = (*leading, *planes.shape[1:])
            tiles = _tiles(planes)
            own: dict[str, Any] = {"subifds": len(shapes) - 1, **options}
            if number:
                density = options["resolution"]
                reduced = density and tuple(each / 2**number for each in density)
                own = {**options, "metadata": None, "resolution": reduced, "subfiletype": 1}
            tif.write(tiles, shape=whole, dtype=pixels.dtype, tile=(_TILE, _TILE), maxworkers=1, **own)


def _tiles(planes: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the tiles (512, 512, …) of planes (N, Y, X, …), filled up with 0 beyond the borders."""
    for plane in planes:
        for row in range(0, plane.shape[0], _TILE):
            for column in range(0, plane.shape[1], _TILE):
                part = plane[row : row + _TILE, column : column + _TILE]
                if part.shape[:2] == (_TILE, _TILE):
                    yield np.ascontiguousarray(part)
                    continue
                tile = np.zeros((_TILE, _TILE, *part.shape[2:]), part.dtype)
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile
            release(planes)


def _reduced(planes: NDArray[Any], shape: tuple[int, int], labels: bool, scratch: Scratch) -> NDArray[Any]:
    """Return planes (N, Y, X, …) of half the rows and columns."""
    out = scratch.zeros((planes.shape[0], *shape, *planes.shape[3:]), planes.dtype)
    for plane, small in zip(planes, out, strict=True):
        for row in range(0, plane.shape[0], _BAND):
            band = plane[row : row + _BAND]
            half = band[::2, ::2] if labels else as_type(halved(band), planes.dtype)
            small[row // 2 : row // 2 + len(half)] = half
            release(planes)
            release(out)
    return out
