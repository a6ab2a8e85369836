"""Objects found block by block: each once, whole, and the same as in the whole image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.runtime.images import scratch
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outlines import trace_outlines
from parfocal.runtime.prediction.object_measures import measure_objects
from parfocal.runtime.prediction.object_tiling import find_in_blocks
from parfocal.runtime.prediction.outputs import ResultOutputs
from parfocal.runtime.prediction.unit import Stack


def components(image: NDArray[Any], outlined: bool = False) -> Callable[..., Objects]:
    """Return what finds the connected components of a mask in a window; the probability is their mean."""

    def find(window: tuple[slice, ...], on_tile: Callable[[int, int], None]) -> Objects:
        part = image[window]
        labels, count = ndimage.label(part > 0)
        on_tile(1, 1)
        numbers = np.arange(1, count + 1)
        probability = np.asarray(ndimage.mean(part, labels, numbers), np.float32).reshape(count)
        classes = np.stack([1 - probability, probability], axis=-1)
        return Objects(labels, probability, trace_outlines(labels) if outlined else (), classes)

    return find


def assert_same_objects(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """Assert that two label images differ in their numbers alone."""
    np.testing.assert_array_equal(found > 0, expected > 0)
    pairs = np.unique(np.stack([found[found > 0], expected[found > 0]]), axis=1)
    assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.one_of(st.tuples(*[st.integers(1, 60)] * 2), st.tuples(*[st.integers(1, 24)] * 3)),
    most=st.sampled_from([300, 900, 2500]),
    margin=st.integers(2, 8),
    smooth=st.sampled_from([0.8, 1.5, 3.0]),
    seed=st.integers(0, 10**6),
)
def test_objects_of_any_size_exist_once(shape: Any, most: int, margin: int, smooth: float, seed: int) -> None:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    image = (field > field.std() * 0.6).astype(np.float32)
    whole = components(image)(tuple(slice(0, length) for length in shape), lambda *_: None)
    found = find_in_blocks(components(image), shape, block_pixels=most, margin=margin)
    assert_same_objects(found.labels, whole.labels)
    assert len(found.probability) == len(whole.probability) == found.labels.max(initial=0)
    assert found.class_probability is None or len(found.class_probability) == len(found.probability)


def discs(side: int, radius: int, step: int) -> NDArray[np.float32]:
    image = np.zeros((side, side), np.float32)
    y, x = np.mgrid[:side, :side]
    for row in range(radius + 2, side, step):
        for column in range(radius + 2, side, step):
            image[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = 0.5 + (row * 7 + column) % 400 / 1000
    return image


def test_an_object_that_blocks_see_otherwise_exists_once() -> None:
    """Every block sees all objects moved a bit, as networks see them that lack context."""
    image = discs(200, 6, 25)
    rng = np.random.default_rng(0)

    def find(window: tuple[slice, ...], on_tile: Callable[[int, int], None]) -> Objects:
        moved = ndimage.shift(image[window], rng.integers(-1, 2, 2), order=0)
        return components(moved, outlined=True)(tuple(slice(0, length) for length in moved.shape), on_tile)

    found = find_in_blocks(find, image.shape, block_pixels=60**2, margin=16)
    real, _ = ndimage.label(image > 0)
    centres = ndimage.center_of_mass(found.labels > 0, found.labels, range(1, len(found.probability) + 1))
    assert len(centres) == real.max() == len(found.outlines)
    assert sorted(int(real[round(y), round(x)]) for y, x in centres) == list(range(1, real.max() + 1))
    for outline, centre in zip(found.outlines, centres, strict=True):
        np.testing.assert_allclose(outline.mean(axis=0), centre, atol=1.5)


def test_an_object_larger_than_several_blocks_is_one() -> None:
    image = np.zeros((150, 150), np.float32)
    image[70:80, 5:145] = image[5:145, 70:80] = 0.75
    steps: list[tuple[int, int]] = []
    found = find_in_blocks(
        components(image, outlined=True),
        image.shape,
        lambda *step: steps.append(step),
        block_pixels=50**2,
        margin=8,
    )
    np.testing.assert_array_equal(found.labels, image > 0)
    assert found.probability.tolist() == [0.75]
    assert len(found.outlines) == 1
    assert (found.outlines[0].min(), found.outlines[0].max()) == (4.5, 144.5)
    assert steps[-1][0] == steps[-1][1] == len(steps) > 9


def test_a_small_image_is_what_the_method_finds() -> None:
    image = discs(60, 5, 20)
    whole = components(image)((slice(0, 60), slice(0, 60)), lambda *_: None)
    found = find_in_blocks(components(image), image.shape)
    np.testing.assert_array_equal(found.labels, whole.labels)
    np.testing.assert_array_equal(found.probability, whole.probability)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_files_of_mapped_objects_are_those_of_objects_in_memory(
    dimensions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (90, 100) if dimensions == 2 else (12, 30, 40)
    rng = np.random.default_rng(0)
    labels, count = ndimage.label(ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0.05)
    pixels = rng.integers(0, 4000, (*shape, 2)).astype(np.uint16)
    probability = rng.random(count).astype(np.float32)
    outlines = trace_outlines(labels) if dimensions == 2 else ()
    size = PixelSize(0.2, 0.2, 0.5)

    def files(folder: Path, place: Scratch) -> dict[str, bytes]:
        mapped = place.zeros(shape, np.int32)
        mapped[...] = labels
        result = ResultOutputs(folder, "a", "ZYX"[-dimensions:], Stack(), size, scratch=place)
        result.unit(0, shape, pixels).objects(Objects(mapped, probability, outlines))
        predicted = result.finish()
        np.testing.assert_array_equal(predicted.images["prediction"].pixels, labels)
        return {"objects": (folder / predicted.files["objects"]).read_bytes()}

    expected = files(tmp_path / "small", Scratch())
    monkeypatch.setattr(scratch.blocks, "__defaults__", (700,))
    assert files(tmp_path / "large", Scratch(tmp_path / "arrays", 0)) == expected
    assert len(measure_objects(labels, pixels, (0.5, 0.2, 0.2)[-dimensions:])) == count
