"""Images larger than memory should hold: the same results window by window, and files that are read window by window.

What counts as large is set to nothing here, so that small images take the way of large ones.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from parfocal import v1
from parfocal.runtime.errors import DiskFullError
from parfocal.runtime.images import _tiff_levels, scratch
from parfocal.runtime.images.files import Image, PixelSize, inspect_image, open_image, read_image, write_image
from parfocal.runtime.images.scratch import Scratch, blocks, copied, release
from parfocal.runtime.methods import normaliser
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import ModelView
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.service import load_service
from parfocal.runtime.prediction.loaded_model import LoadedModel, predict_image
from parfocal.runtime.prediction.outputs import Predicted
from parfocal.runtime.prediction.overlay import overlay_png
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import ModelManifest

RNG = np.random.default_rng(0)


def noise(*shape: int, dtype: str = "uint16") -> NDArray[Any]:
    return RNG.integers(0, 250, shape).astype(dtype)


def is_mapped(array: NDArray[Any]) -> bool:
    held: Any = array
    while isinstance(held, np.ndarray):
        if isinstance(held, np.memmap):
            return True
        held = held.base
    return False


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go through arrays in blocks of 500 pixels, and write planes of more than 5000 with levels."""
    monkeypatch.setattr(scratch.blocks, "__defaults__", (500,))
    monkeypatch.setattr(_tiff_levels, "LARGE_PLANE", 5000)
    monkeypatch.setattr(_tiff_levels, "_SMALLEST_LEVEL", 40)
    monkeypatch.setattr(_tiff_levels, "_TILE", 32)
    monkeypatch.setattr(_tiff_levels, "_BAND", 16)


@given(shape=st.lists(st.integers(1, 12), min_size=1, max_size=4), most=st.integers(1, 60))
def test_blocks_are_small_and_cover_an_array_once_in_its_order(shape: list[int], most: int) -> None:
    numbers = np.arange(np.prod(shape)).reshape(shape)
    parts = [numbers[window].ravel() for window in blocks(shape, most)]
    assert all(0 < part.size <= most for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), numbers.ravel())


def test_large_arrays_are_files_that_go_with_them(tmp_path: Path) -> None:
    place = Scratch(tmp_path / "arrays", most_bytes=100)
    assert not is_mapped(place.zeros((10, 10), np.uint8))
    array = place.zeros((11, 10), np.uint8)
    assert is_mapped(array)
    array[3:5] = 7
    release(array[2:])
    np.testing.assert_array_equal(array, np.repeat([0, 7, 0], [3, 2, 6])[:, np.newaxis] * np.ones((1, 10)))
    assert list((tmp_path / "arrays").iterdir()) == []
    np.testing.assert_array_equal(copied(array[::2, ::3]), np.array(array)[::2, ::3])


def test_private_mappings_keep_what_is_written_to_them(tmp_path: Path) -> None:
    np.arange(5000).tofile(tmp_path / "a")
    private = np.memmap(tmp_path / "a", np.int64, "c")
    private[:] = 3
    release(private)
    assert (private == 3).all()


def test_a_disk_without_room_is_said(tmp_path: Path) -> None:
    with pytest.raises((DiskFullError, OSError), match=r"No room|large"):
        Scratch(tmp_path, 0).zeros((2**30, 2**14), np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "zlib", "predictor": True},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"tile": (32, 48)},
        {"tile": (16, 16), "compression": "zlib", "bigtiff": True},
        {"tile": (32, 32), "byteorder": ">", "contiguous": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("axes", ["YX", "ZYX", "TZCYX", "YXS", "CYX"])
def test_every_layout_is_mapped_or_decoded_part_by_part(axes: str, options: dict[str, Any], tmp_path: Path) -> None:
    shape = tuple({"T": 2, "Z": 3, "C": 2, "Y": 50, "X": 70, "S": 3}[axis] for axis in axes)
    pixels = noise(*shape)
    kind = {"photometric": "rgb" if "S" in axes else "minisblack", "ome": True, "metadata": {"axes": axes}}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **{**kind, **options})
    whole, image = read_image(tmp_path / "a.tif"), open_image(tmp_path / "a.tif", Scratch(tmp_path / "arrays", 0))
    assert is_mapped(image.pixels)
    assert (image.axes, image.pixels.dtype, image.notes) == (whole.axes, whole.pixels.dtype, whole.notes)
    np.testing.assert_array_equal(image.pixels, whole.pixels)
    np.testing.assert_array_equal(image.pixels, pixels.swapaxes(1, 2) if axes == "TZCYX" else pixels)


def test_pixels_that_must_be_changed_are_changed(tmp_path: Path) -> None:
    colours = np.dstack([noise(30, 40, 3, dtype="uint8"), np.full((30, 40), 255, np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb", extrasamples=["unassalpha"])
    image = open_image(tmp_path / "a.tif", Scratch(tmp_path / "arrays", 0))
    np.testing.assert_array_equal(image.pixels, colours[..., :3])
    assert "alpha-dropped" in [note.code for note in image.notes]


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("axes", ["YX", "ZYX", "TCYX", "YXS"])
@pytest.mark.parametrize(("dtype", "labels"), [("uint16", False), ("float32", False), ("uint16", True)])
def test_large_planes_have_tiles_and_levels(axes: str, dtype: str, labels: bool, tmp_path: Path) -> None:
    shape = tuple({"T": 2, "Z": 3, "C": 2, "Y": 75, "X": 101, "S": 3}[axis] for axis in axes)
    pixels = noise(*shape, dtype=dtype)
    path = tmp_path / "a.tif"
    write_image(path, Image(pixels, axes, PixelSize(0.25, 0.5, 2.0)), labels=labels)
    again = read_image(path)
    np.testing.assert_array_equal(again.pixels, pixels)
    assert (again.axes, again.pixel_size, again.notes) == (axes, PixelSize(0.25, 0.5, 2.0), ())
    assert inspect_image(path).shape == shape
    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]
        assert [level.shape[axes.index("Y") :][:2] for level in series.levels] == [(75, 101), (38, 51), (19, 26)]
        assert series.levels[1].keyframe.is_reduced
        assert series.keyframe.tile == (32, 32)
        density = [level.keyframe.resolution[0] for level in series.levels]
        assert density == pytest.approx([4e4, 2e4, 1e4])
        small = series.levels[1].asarray().reshape(-1, 38, 51, *shape[len(axes.removesuffix("S")) :])
        planes = pixels.reshape(-1, 75, 101, *shape[len(axes.removesuffix("S")) :])
        assert tif.ome_metadata is not None
        sizes = ElementTree.fromstring(tif.ome_metadata).find(".//{*}Pixels")
        assert sizes is not None
        assert (sizes.get("SizeX"), sizes.get("SizeY"), sizes.get("PhysicalSizeX")) == ("101", "75", "0.25")
    for level, plane in zip(small, planes, strict=True):
        if labels:
            np.testing.assert_array_equal(level, plane[::2, ::2])
        else:
            four = [plane[row:74:2, column:100:2].astype(np.float64) for row in (0, 1) for column in (0, 1)]
            np.testing.assert_allclose(level[:37, :50], np.mean(four, axis=0), atol=0.51 if dtype == "uint16" else 1e-4)


@pytest.mark.usefixtures("all_large")
def test_equal_large_images_give_equal_files(tmp_path: Path) -> None:
    mapped = Scratch(tmp_path / "arrays", 0).zeros((80, 90), np.uint16)
    mapped[:] = noise(80, 90)
    write_image(tmp_path / "a.tif", Image(mapped, "YX"))
    write_image(tmp_path / "b.tif", Image(np.array(mapped), "YX"))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("rule", [Normaliser(), Normaliser(rule="z-score"), Normaliser(low=1, high=90)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_constants_do_not_depend_on_where_the_pixels_are(
    rule: Normaliser, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(3, 60, 70, dtype=dtype)
    expected = rule.fit(pixels, "ZYX")
    monkeypatch.setattr(normaliser, "BLOCK_PIXELS", 500)
    monkeypatch.setattr(scratch.blocks, "__defaults__", (500,))
    mapped = Scratch(tmp_path, 0).zeros(pixels.shape, dtype)
    mapped[:] = pixels
    found = rule.fit(mapped, "ZYX")
    if rule.rule == "percentile":
        assert found == expected  # bit for bit
    assert (*found.offset, *found.scale) == pytest.approx((*expected.offset, *expected.scale), rel=1e-12)
    np.testing.assert_array_equal(mapped, pixels)


def fake_model(name: str, folder: Path) -> LoadedModel:
    method = load_service("fake.outcomes").method(name)
    implementation = method.load(Device())
    facts = Facts(inputs=(Port(role="source", channels=3),)) if name == "gives-colours" else Facts()
    view = ModelView(method.parse(v1.JOB_KIND_TRAINING, {}), facts, implementation.normaliser, method.axes)
    np.savez(folder / "best.npz", factor=np.array([1.0]))
    learner = implementation.load(folder, view, "best")
    return LoadedModel(method, ModelManifest.model_construct(), view, implementation, learner)


def predictions(model: LoadedModel, image: Image, folder: Path, place: Scratch, **values: Any) -> Predicted:
    parameters = model.method.parse(v1.JOB_KIND_PREDICTION, {"tile_size": 24, **values})
    assert isinstance(parameters, PredictionParameters)
    return predict_image(model, image, parameters, folder, "a", scratch=place).finish()


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("name", ["gives-larger", "gives-colours", "gives-blends", "gives-classes", "gives-means"])
def test_predictions_are_those_of_the_image_in_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fake_model(name, tmp_path)
    axes = {"gives-colours": "YXS", "gives-means": "TYX"}.get(name, "YX")
    image = Image(noise(*({"T": 4, "S": 3}.get(axis, 61) for axis in axes)), axes, PixelSize(0.1, 0.2))
    large = predictions(model, image, tmp_path / "large", Scratch(tmp_path / "arrays", 0))
    monkeypatch.undo()
    small = predictions(model, image, tmp_path / "small", Scratch())
    assert large.images.keys() == small.images.keys()
    for kind, each in small.images.items():
        assert is_mapped(large.images[kind].pixels)
        assert (large.images[kind].axes, large.images[kind].pixel_size) == (each.axes, each.pixel_size)
        np.testing.assert_array_equal(large.images[kind].pixels, each.pixels)
    assert (large.clipped, large.labels) == (small.clipped, small.labels)


def test_the_memory_of_a_prediction_does_not_grow_with_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch.blocks, "__defaults__", (2**16,))
    monkeypatch.setattr(normaliser, "BLOCK_PIXELS", 2**16)
    monkeypatch.setattr(normaliser, "_MOST_PIXELS", 2**16)
    monkeypatch.setattr(_tiff_levels, "LARGE_PLANE", 2**18)
    model = fake_model("gives-classes", tmp_path)
    place = Scratch(tmp_path / "arrays", 2**16)
    peaks = []
    for side in (600, 600, 1800):  # the first time modules are loaded
        pixels = place.zeros((side, side), np.uint16)
        pixels[:] = np.arange(side)
        tracemalloc.start()
        try:
            predicted = predictions(model, Image(pixels, "YX"), tmp_path / "out", place, tile_size=128)
            for name, image in predicted.images.items():
                write_image(tmp_path / f"{name}.tif", image, labels=name in predicted.labels)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[2] < 1.05 * peaks[1]


@pytest.mark.parametrize("axes", ["YX", "YXS", "CYX"])
def test_a_picture_of_a_large_image_is_made_of_a_part_of_its_pixels(axes: str) -> None:
    shape = tuple({"Y": 4100, "X": 30, "S": 3, "C": 2}[axis] for axis in axes)
    png = overlay_png(Image(noise(*shape, dtype="uint8"), axes), [(0, "cell", (0, 0, 30, 4100))])
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[20:24], "big") == 2048
