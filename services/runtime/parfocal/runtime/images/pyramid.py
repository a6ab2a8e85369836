"""Tile pyramids: an image cut so that a browser can show any part of it at any zoom, in the grey values that it has.

Level 0 has all pixels of each plane; every further level half as many rows and columns (rounded up), until both are at
most 512. Intensities are averaged over the pixels that become one; labels, which cannot be averaged, keep the pixel in
the upper left. A tile is 512 x 512 pixels, cropped at the lower and right border, and lies at
``<level>/<t>/<c>/<z>/<row>/<column>``: C order, little-endian uint8, uint16 or uint32 as in the image, float32 for
every other type, compressed by gzip. Colours are three channels.

Planes are read in bands of 512 rows, and the pages of a mapped array that lie behind are released, so memory grows with
the width of an image alone.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images import levels
from parfocal.runtime.images._raster import encode_png
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.images.scratch import release

TILE: Final = 512
"""Side length of a tile in pixels."""
FORMAT: Final = 1
"""Version of the tiles and of what is said of them: raised when either changes, so that all are made again."""
INFO: Final = "info.json"
"""Name of the description; it is written last, so that tiles are complete where it exists."""
THUMBNAIL: Final = "thumbnail.png"
"""Name of the small picture; it is written first."""
PERCENTILES: Final = (0.1, 99.9)
"""Where contrast begins and ends at first."""

_THUMBNAIL_SIDE: Final = 192
_BINS: Final = 256
_SAMPLED: Final = 2**22
_KEPT: Final = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32))
_PLANES: Final = "TCZYX"
_COLOURS: Final = ("red", "green", "blue")


@dataclass(frozen=True)
class Tile:
    """One tile: its name below the folder of its image, and its pixels (Y, X) in the type in which they are stored."""

    name: str
    pixels: NDArray[Any]


def tiles_digest(sha256: str, *, labels: bool) -> str:
    """Return the name of the folder with the tiles of an image.

    Parameters
    ----------
    sha256
        Digest of the image file in hexadecimal.
    labels
        Whether its values are numbers of objects or classes, which must not be averaged.
    """
    kind = "labels" if labels else "intensities"
    return hashlib.sha256(f"tiles {FORMAT} {kind} {sha256}".encode()).hexdigest()


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Return the rows and columns of each level of a plane, the full size first."""
    return levels.level_shapes(height, width, TILE)


def tile_shape(height: int, width: int, level: int, row: int, column: int) -> tuple[int, int] | None:
    """Return the rows and columns of one tile of a plane; None where there is no such tile."""
    shapes = level_shapes(height, width)
    if not 0 <= level < len(shapes) or row < 0 or column < 0:
        return None
    lengths = [min(TILE, length - TILE * index) for length, index in zip(shapes[level], (row, column), strict=True)]
    return (lengths[0], lengths[1]) if min(lengths) > 0 else None


def tile_name(level: int, t: int, c: int, z: int, row: int, column: int) -> str:
    """Return the name of a tile below the folder of its image."""
    return f"{level}/{t}/{c}/{z}/{row}/{column}"


def encode_tile(pixels: NDArray[Any]) -> bytes:
    """Return a tile as it is stored: little-endian, C order, compressed; equal pixels give equal bytes."""
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    return gzip.compress(little.tobytes(), compresslevel=1, mtime=0)


def decode_tile(data: bytes, shape: tuple[int, int], dtype: str) -> NDArray[Any]:
    """Return the pixels of a stored tile."""
    return np.frombuffer(gzip.decompress(data), np.dtype(dtype).newbyteorder("<")).reshape(shape)


class Pyramid:
    """An image as tiles.

    Parameters
    ----------
    pixels
        With these axes; a memory-mapped array is read in bands.
    axes
        Letters of ``TCZYXS`` in this order.
    pixel_size
        None where it is unknown.
    labels
        Whether the values are numbers of objects or classes. Where they cannot be (negative or decimal ones), the image
        is taken as intensities.
    """

    def __init__(
        self, pixels: NDArray[Any], axes: str, pixel_size: PixelSize | None = None, *, labels: bool = False
    ) -> None:
        if len(axes) != pixels.ndim or axes.removesuffix("S")[-2:] != "YX" or {"C", "S"} <= set(axes):
            raise ValueError(f"axes {axes!r} do not describe planes of an array of shape {pixels.shape}")
        self.axes, self.shape, self.pixel_size = axes, pixels.shape, pixel_size
        self.source_dtype = pixels.dtype.newbyteorder("=")
        # Without a copy: colours become channels, and axes that are not there have length 1.
        named = axes.replace("S", "C")
        ordered = pixels.transpose([named.index(axis) for axis in _PLANES if axis in named])
        self._planes = ordered[tuple(slice(None) if axis in named else None for axis in _PLANES)]
        self._channels = [_measure(self._planes[:, channel]) for channel in range(self._planes.shape[1])]
        self.labels = labels and all(channel.countable for channel in self._channels)
        whole = np.dtype(np.uint32 if self.labels else np.float32)
        self.dtype = self.source_dtype if self.source_dtype in _KEPT else whole

    def info(self, digest: str) -> dict[str, Any]:
        """Return what viewers are told of the image, as plain JSON types.

        Parameters
        ----------
        digest
            Of the folder with the tiles, see `tiles_digest`.
        """
        times, channels, depth, height, width = self._planes.shape
        size = self.pixel_size
        return {
            "format": FORMAT,
            "state": "ready",
            "digest": digest,
            "kind": "labels" if self.labels else "intensities",
            "axes": self.axes,
            "shape": list(self.shape),
            "dtype": self.source_dtype.name,
            "tile_dtype": self.dtype.name,
            "tile": TILE,
            "sizes": {"t": times, "c": channels, "z": depth, "y": height, "x": width},
            "levels": [list(shape) for shape in level_shapes(height, width)],
            "pixel_size_um": None if size is None else [size.x, size.y, size.z],
            "rgb": self.axes.endswith("S"),
            "channels": [
                {"name": _COLOURS[index] if self.axes.endswith("S") else "", **channel.json()}
                for index, channel in enumerate(self._channels)
            ],
        }

    def tiles(self) -> Iterator[Tile]:
        """Yield all tiles of all planes and levels; the last planes are those of the last time."""
        times, channels, depth, height, width = self._planes.shape
        shapes = level_shapes(height, width)
        for t, c, z in np.ndindex(times, channels, depth):
            for level, row, column, pixels in _Level(shapes, 0, self.labels).cut(self._bands(t, c, z)):
                yield Tile(tile_name(level, t, c, z, row, column), levels.as_type(pixels, self.dtype))

    def thumbnail(self) -> bytes:
        """Return a small PNG, at most 192 pixels long: the first channel or the colours, the middle plane and time.

        Intensities run from black to white between the percentiles of the first contrast; every object of a label
        image has one of some grey values.
        """
        times, channels, depth, height, width = self._planes.shape
        step = max(1, -(-max(height, width) // _THUMBNAIL_SIDE))
        shown = range(channels) if self.axes.endswith("S") else range(1)
        layers = []
        for c in shown:
            # Single rows are read, so that a large plane is not; noise does not matter at this size.
            small = np.asarray(self._planes[times // 2, c, depth // 2, step // 2 :: step, step // 2 :: step])
            small = small if small.size else np.asarray(self._planes[times // 2, c, depth // 2, :1, :1])
            if self.labels:
                values = np.where(small > 0, 80 + (small.astype(np.int64) * 37) % 176, 0)
            else:
                black, white = (0.0, 255.0) if self._as_displayed else self._channels[c].percentiles
                with np.errstate(invalid="ignore"):
                    scaled = (small.astype(np.float64) - black) / max(white - black, 1e-30)
                values = np.nan_to_num(255 * np.clip(scaled, 0, 1))
            layers.append(values.astype(np.uint8))
        picture = np.stack(layers, axis=-1) if len(layers) == 3 else layers[0]
        with io.BytesIO() as file:
            encode_png(np.ascontiguousarray(picture), file)
            return file.getvalue()

    @property
    def _as_displayed(self) -> bool:
        """Whether the values are those of a display: colours of 8 bits."""
        return self.axes.endswith("S") and self.source_dtype == np.uint8

    def _bands(self, t: int, c: int, z: int) -> Iterator[NDArray[Any]]:
        plane = self._planes[t, c, z]
        for start in range(0, plane.shape[0], TILE):
            yield plane[start : start + TILE]
            release(plane)


@dataclass(frozen=True)
class _Channel:
    """What was measured in one channel over all planes and times; `bins` count the values between the extremes."""

    minimum: float
    maximum: float
    percentiles: tuple[float, float]
    bins: tuple[int, ...]
    countable: bool
    """Whether all values are whole numbers from 0 to 2^32 - 1."""

    def json(self) -> dict[str, Any]:
        """Return it as plain JSON types; whole numbers stay whole."""
        low, high = self.percentiles
        return {
            "minimum": _number(self.minimum),
            "maximum": _number(self.maximum),
            "percentiles": {str(PERCENTILES[0]): _number(low), str(PERCENTILES[1]): _number(high)},
            "histogram": list(self.bins),
        }


class _Level:
    """One level of a plane, which is fed in bands of at most 512 rows and hands on what the next level is made of."""

    def __init__(self, shapes: list[tuple[int, int]], level: int, labels: bool) -> None:
        self._level, self._labels, self._row = level, labels, 0
        self._next = _Level(shapes, level + 1, labels) if level + 1 < len(shapes) else None
        self._waiting: NDArray[Any] | None = None

    def cut(self, bands: Iterator[NDArray[Any]]) -> Iterator[tuple[int, int, int, NDArray[Any]]]:
        """Yield (level, row, column, pixels) of the tiles of this level and all below it."""
        for band in bands:
            yield from self._feed(band)
        yield from self._finish()

    def _feed(self, band: NDArray[Any]) -> Iterator[tuple[int, int, int, NDArray[Any]]]:
        for column in range(-(-band.shape[1] // TILE)):
            yield self._level, self._row, column, band[:, column * TILE : (column + 1) * TILE]
        self._row += 1
        if self._next is None:
            return
        half = band[::2, ::2] if self._labels else levels.halved(band)
        # 512 rows become 256: two bands of this level make one of the next.
        if self._waiting is None:
            self._waiting = np.array(half)
        else:
            joined, self._waiting = np.concatenate((self._waiting, half)), None
            yield from self._next._feed(joined)

    def _finish(self) -> Iterator[tuple[int, int, int, NDArray[Any]]]:
        if self._next is not None:
            if self._waiting is not None:
                yield from self._next._feed(self._waiting)
            yield from self._next._finish()


def _measure(planes: NDArray[Any]) -> _Channel:
    """Return what there is to say of the values (T, Z, Y, X) of one channel.

    Of integers of up to 16 bits all values are counted. Of others, extremes are exact; histogram and percentiles are
    those of every k-th value, four million at most. NaN and infinite values are left out.
    """
    integer = planes.dtype.kind in "ui"
    if integer and planes.dtype.itemsize <= 2:
        lowest = int(np.iinfo(planes.dtype).min)
        counts = np.zeros(2 ** (8 * planes.dtype.itemsize), np.int64)
        for chunk in _chunks(planes):
            counts += np.bincount(chunk.reshape(-1).astype(np.int64) - lowest, minlength=counts.size)
        there = np.flatnonzero(counts)
        values, weights = there + float(lowest), counts[there]
        minimum, maximum = values[0], values[-1]
        whole = True
    else:
        step = max(1, planes.size // _SAMPLED) | 1  # odd, so that it does not meet the same columns again and again
        minimum, maximum, whole, sampled = math.inf, -math.inf, True, []
        for chunk in _chunks(planes):
            flat = chunk.reshape(-1)
            finite = flat if integer else flat[np.isfinite(flat)]
            whole = whole and finite.size == flat.size and (integer or np.array_equal(finite, np.rint(finite)))
            if finite.size:
                minimum, maximum = min(minimum, float(finite.min())), max(maximum, float(finite.max()))
                sampled.append(finite[::step].astype(np.float64))
        if not sampled:
            return _Channel(0.0, 0.0, (0.0, 0.0), (0,) * _BINS, countable=False)
        values = np.sort(np.concatenate(sampled))
        weights = np.ones(values.size, np.int64)
    total = np.cumsum(weights)
    ranks = np.searchsorted(total, [math.ceil(total[-1] * each / 100) for each in PERCENTILES])
    low, high = (float(values[rank]) for rank in ranks)
    span = (minimum, maximum) if maximum > minimum else (minimum, minimum + 1)
    bins, _ = np.histogram(values, _BINS, span, weights=weights)
    countable = whole and minimum >= 0 and maximum < 2**32
    return _Channel(float(minimum), float(maximum), (low, high), tuple(int(each) for each in bins), countable)


def _chunks(planes: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for t, z in np.ndindex(planes.shape[:2]):
        for start in range(0, planes.shape[2], TILE):
            yield np.ascontiguousarray(planes[t, z, start : start + TILE])
            release(planes)


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() else value
