"""Tile pyramids: every level against a slow reference, and memory that does not grow with the image."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Picture

from parfocal.runtime.images.files import Image, PixelSize, write_image
from parfocal.runtime.images.memmaps import decode_to_memmap
from parfocal.runtime.images.pyramid import (
    Pyramid,
    decode_tile,
    encode_tile,
    level_shapes,
    tile_name,
    tile_shape,
    tiles_digest,
)


def assembled(pyramid: Pyramid, level: int, t: int = 0, c: int = 0, z: int = 0) -> NDArray[Any]:
    """Put the tiles of one plane of a level together, as a viewer does."""
    height, width = pyramid.info("d")["sizes"]["y"], pyramid.info("d")["sizes"]["x"]
    tiles = {tile.name: tile.pixels for tile in pyramid.tiles()}
    rows, columns = (-(-length // 512) for length in level_shapes(height, width)[level])
    return np.block(
        [[tiles[tile_name(level, t, c, z, row, column)] for column in range(columns)] for row in range(rows)]
    )


def halved(plane: NDArray[Any]) -> NDArray[np.float64]:
    """Average pixel by pixel."""
    out = np.empty([-(-length // 2) for length in plane.shape])
    for y, x in np.ndindex(*out.shape):
        out[y, x] = plane[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
    return out


def test_levels_halve_until_a_tile_holds_them() -> None:
    assert level_shapes(512, 512) == [(512, 512)]
    assert level_shapes(513, 40) == [(513, 40), (257, 20)]
    assert level_shapes(16000, 12001)[-1] == (500, 376)
    assert tile_shape(513, 40, 0, 1, 0) == (1, 40)
    assert tile_shape(513, 40, 0, 2, 0) is None
    assert tile_shape(513, 40, 2, 0, 0) is None


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_intensities_are_kept_at_level_0_and_averaged_above(dtype: str) -> None:
    plane = np.random.default_rng(1).integers(0, 200, (1027, 533)).astype(dtype)
    pyramid = Pyramid(plane, "YX", PixelSize(0.1, 0.1))
    expected = plane.astype(np.float64)
    assert np.array_equal(assembled(pyramid, 0), plane)
    for level in (1, 2):
        expected = halved(expected)
        found = assembled(pyramid, level)
        assert found.dtype == (np.float32 if dtype == "int16" else plane.dtype)
        assert np.abs(found - expected).max() <= (0.51 if found.dtype.kind == "u" else 1e-4)
    assert pyramid.info("d")["levels"] == [[1027, 533], [514, 267], [257, 134]]


def test_labels_stay_labels_at_every_level() -> None:
    labels = np.random.default_rng(2).integers(0, 90_000, (700, 1300)).astype(np.uint32)
    pyramid = Pyramid(labels, "YX", labels=True)
    assert pyramid.labels
    assert np.array_equal(assembled(pyramid, 1), labels[::2, ::2])
    assert np.array_equal(assembled(pyramid, 2), labels[::4, ::4])


def test_labels_stored_as_decimal_numbers_become_whole_and_impossible_ones_intensities() -> None:
    whole = Pyramid(np.arange(12, dtype=np.float32).reshape(3, 4), "YX", labels=True)
    assert (whole.labels, whole.dtype) == (True, np.uint32)
    assert not Pyramid(np.full((3, 4), -1, np.int16), "YX", labels=True).labels
    assert not Pyramid(np.full((3, 4), 0.5, np.float32), "YX", labels=True).labels


def test_planes_of_all_axes_have_their_place() -> None:
    pixels = np.random.default_rng(3).integers(0, 4000, (2, 3, 4, 20, 30)).astype(np.uint16)
    pyramid = Pyramid(pixels, "TCZYX", PixelSize(0.1, 0.2, 0.5))
    info = pyramid.info("abc")
    assert info["sizes"] == {"t": 2, "c": 3, "z": 4, "y": 20, "x": 30}
    assert info["pixel_size_um"] == [0.1, 0.2, 0.5]
    for t, c, z in [(0, 0, 0), (1, 2, 3), (0, 2, 1)]:
        assert np.array_equal(assembled(pyramid, 0, t, c, z), pixels[t, c, z])
    colours = Pyramid(np.moveaxis(pixels[0, :, 0], 0, -1), "YXS")
    assert colours.info("d")["rgb"]
    assert [channel["name"] for channel in colours.info("d")["channels"]] == ["red", "green", "blue"]
    assert np.array_equal(assembled(colours, 0, c=2), pixels[0, 2, 0])
    stack = Pyramid(pixels[0, 0], "ZYX")
    assert np.array_equal(assembled(stack, 0, z=3), pixels[0, 0, 3])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32"])
def test_statistics_are_those_of_all_values(dtype: str) -> None:
    values = np.random.default_rng(4).gamma(2, 20, (2, 301, 307)).astype(dtype)
    (channel,) = Pyramid(values, "ZYX").info("d")["channels"]
    assert (channel["minimum"], channel["maximum"]) == (values.min(), values.max())
    expected = np.percentile(values, [0.1, 99.9], method="inverted_cdf")
    assert list(channel["percentiles"].values()) == pytest.approx(expected)
    assert sum(channel["histogram"]) == values.size
    assert channel["histogram"] == np.histogram(values, 256, (values.min(), values.max()))[0].tolist()


def test_values_that_are_no_numbers_are_left_out_of_statistics_and_kept_in_tiles() -> None:
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30).copy()
    values[0, 0], values[1, 1] = np.nan, np.inf
    pyramid = Pyramid(values, "YX")
    (channel,) = pyramid.info("d")["channels"]
    assert channel["maximum"] == 1
    assert sum(channel["histogram"]) == 598
    assert np.array_equal(assembled(pyramid, 0), values, equal_nan=True)
    assert Picture.open(io.BytesIO(pyramid.thumbnail())).size == (30, 20)
    nothing = Pyramid(np.full((4, 4), np.nan, np.float32), "YX").info("d")["channels"][0]
    assert nothing["percentiles"] == {"0.1": 0, "99.9": 0}


def test_tiles_come_back_as_they_were_and_equal_ones_are_equal_files() -> None:
    tile = np.random.default_rng(5).normal(size=(40, 512)).astype(">f4")
    data = encode_tile(tile)
    assert data == encode_tile(tile.copy())
    assert np.array_equal(decode_tile(data, (40, 512), "float32"), tile)


def test_a_digest_tells_labels_from_intensities() -> None:
    assert tiles_digest("ab", labels=True) != tiles_digest("ab", labels=False) != tiles_digest("ac", labels=False)


def test_thumbnails_are_small_pictures() -> None:
    grey = Pyramid(np.tile(np.arange(1000, dtype=np.uint16), (500, 1)), "YX").thumbnail()
    picture = np.asarray(Picture.open(io.BytesIO(grey)))
    assert max(picture.shape) <= 192
    assert picture[10, 0] < 10
    assert picture[10, -1] > 245
    colours = Pyramid(np.full((30, 40, 3), (10, 20, 200), np.uint8), "YXS").thumbnail()
    assert np.asarray(Picture.open(io.BytesIO(colours)))[3, 3].tolist() == [10, 20, 200]


@pytest.mark.parametrize("compress", [True, False], ids=["compressed", "plain"])
def test_memory_grows_neither_with_the_file_nor_with_the_image(tmp_path: Path, compress: bool) -> None:
    """An image of 32 MiB is decoded and cut with a few MiB; its height alone makes it so large."""
    pixels = np.random.default_rng(6).integers(0, 4000, (16384, 1024)).astype(np.uint16)
    path = tmp_path / "tall.tif"
    if compress:
        tifffile.imwrite(path, pixels, compression="zlib", rowsperstrip=512)
    else:
        write_image(path, Image(pixels, "YX"), compress=False)
    expected = pixels[12345, 678]
    tracemalloc.start()
    try:
        decoded = decode_to_memmap(path, tmp_path / "cache", "digest")
        for tile in Pyramid(decoded, "YX").tiles():
            encode_tile(tile.pixels)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoded[12345, 678] == expected
    assert most < 16 * 2**20
