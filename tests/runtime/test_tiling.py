"""Tiling: the result does not show that there were tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from parfocal.runtime.errors import OutOfMemoryError
from parfocal.runtime.prediction.tiling import choose_tile, predict_tiled


def identity(batch: NDArray[Any]) -> NDArray[Any]:
    return batch


def box_filter(radius: int, axes: tuple[int, ...]) -> Any:
    """A true convolution with zero padding, as a network would do, on a batch."""

    def predict(batch: NDArray[Any]) -> NDArray[Any]:
        values = batch.astype(np.float64)
        for axis in axes:
            pad = [(0, 0)] * values.ndim
            pad[axis] = (radius + 1, radius)
            total = np.cumsum(np.pad(values, pad), axis=axis)
            width, length = 2 * radius + 1, batch.shape[axis]
            upper = np.take(total, range(width, width + length), axis=axis)
            values = (upper - np.take(total, range(length), axis=axis)) / width
        return values.astype(np.float32)

    return predict


def picture(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).normal(100, 30, shape).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.lists(st.integers(1, 70), min_size=2, max_size=3),
    tile=st.integers(16, 48),
    overlap=st.integers(0, 3),
    divisor=st.sampled_from([1, 2, 4, 8]),
    batch_size=st.integers(1, 5),
)
def test_an_identity_gives_the_image_back(
    shape: list[int], tile: int, overlap: int, divisor: int, batch_size: int
) -> None:
    image = picture(*shape)
    done: list[tuple[int, int]] = []
    result = predict_tiled(
        identity,
        image,
        tile_shape=(max(tile, 3 * overlap + divisor),) * len(shape),
        overlap=overlap,
        divisor=divisor,
        batch_size=batch_size,
        progress=lambda *step: done.append(step),
    )
    np.testing.assert_allclose(result, image, rtol=1e-6)
    assert result.dtype == np.float32
    assert done[-1][0] == done[-1][1]
    assert [step for step, _ in done] == sorted({step for step, _ in done})


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(3, 150), width=st.integers(3, 150), radius=st.integers(1, 6), divisor=st.sampled_from([1, 4, 8])
)
def test_a_convolution_gives_the_same_tiled_and_whole(height: int, width: int, radius: int, divisor: int) -> None:
    image = picture(height, width)
    predict = box_filter(radius, (1, 2))
    options: dict[str, Any] = {"overlap": radius, "divisor": divisor, "batch_size": 3}
    tiled = predict_tiled(predict, image, tile_shape=(40, 48), **options)
    whole = predict_tiled(predict, image, tile_shape=(160, 160), **options)
    np.testing.assert_allclose(tiled, whole, rtol=1e-5)


def test_a_convolution_of_a_volume_gives_the_same_tiled_and_whole() -> None:
    image = picture(20, 61, 50)
    predict = box_filter(2, (1, 2, 3))
    options: dict[str, Any] = {"overlap": (2, 3, 3), "divisor": (2, 4, 4), "batch_size": 2}
    tiled = predict_tiled(predict, image, tile_shape=(12, 24, 24), **options)
    whole = predict_tiled(predict, image, tile_shape=image.shape, **options)
    np.testing.assert_allclose(tiled, whole, rtol=1e-5)


def test_too_small_an_overlap_shows(  # the test above could not fail otherwise
) -> None:
    image = picture(100, 100)
    predict = box_filter(6, (1, 2))
    tiled = predict_tiled(predict, image, tile_shape=(32, 32), overlap=1, divisor=1)
    whole = predict_tiled(predict, image, tile_shape=(100, 100), overlap=1, divisor=1)
    assert np.abs(tiled - whole).max() > 1


def test_pooling_sees_the_same_groups_of_pixels_tiled_and_whole() -> None:
    def predict(batch: NDArray[Any]) -> NDArray[Any]:
        count, height, width = batch.shape
        pooled = batch.reshape(count, height // 8, 8, width // 8, 8).max((2, 4))
        return np.repeat(np.repeat(pooled, 8, 1), 8, 2)

    image = picture(133, 90)
    options: dict[str, Any] = {"overlap": 7, "divisor": 8}
    tiled = predict_tiled(predict, image, tile_shape=(48, 40), **options)
    np.testing.assert_allclose(tiled, predict_tiled(predict, image, tile_shape=(256, 256), **options), rtol=1e-6)


def test_every_tile_and_batch_has_one_shape() -> None:
    shapes = set()

    def predict(batch: NDArray[Any]) -> NDArray[Any]:
        shapes.add(batch.shape)
        return batch

    predict_tiled(predict, picture(101, 203), tile_shape=(32, 30), overlap=3, divisor=4, batch_size=4)
    assert len(shapes) == 1
    assert shapes.pop()[1:] == (32, 32)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (1, 40), (2, 9, 9)])
def test_images_smaller_than_a_tile_are_padded_by_reflection(shape: tuple[int, ...]) -> None:
    image, seen = picture(*shape), []

    def predict(batch: NDArray[Any]) -> NDArray[Any]:
        seen.append(batch[0])
        return batch

    result = predict_tiled(predict, image, tile_shape=(64,) * len(shape), overlap=4, divisor=8)
    np.testing.assert_array_equal(result, image)
    padding = [
        ((padded - length) // 2, padded - length - (padded - length) // 2)
        for length, padded in zip(shape, seen[0].shape, strict=True)
    ]
    assert all(length % 8 == 0 for length in seen[0].shape)
    np.testing.assert_array_equal(seen[0], np.pad(image, padding, mode="reflect"))


def test_channels_in_and_out() -> None:
    image = picture(50, 60, 3)
    result = predict_tiled(
        lambda batch: np.stack([batch[..., 0], batch.sum(-1)], -1),
        image,
        tile_shape=(32, 32),
        overlap=2,
        divisor=4,
        output_channels=2,
    )
    assert result.shape == (50, 60, 2)
    np.testing.assert_allclose(result[..., 0], image[..., 0], rtol=1e-6)
    np.testing.assert_allclose(result[..., 1], image.sum(-1), rtol=1e-5)


@pytest.mark.parametrize("error", [MemoryError, lambda: OutOfMemoryError("no memory")])
def test_batches_then_tiles_are_halved_when_memory_runs_out(error: Any) -> None:
    image, tried = picture(200, 150), []

    def predict(batch: NDArray[Any]) -> NDArray[Any]:
        tried.append(batch.shape)
        if batch.size > 50 * 50:
            raise error()
        return batch

    result = predict_tiled(predict, image, tile_shape=(128, 128), overlap=4, divisor=8, batch_size=4)
    np.testing.assert_allclose(result, image, rtol=1e-6)
    assert tried[0] == (4, 128, 128)
    assert tried[1] == (2, 128, 128)
    assert tried[-1][0] == 1
    assert tried[-1][1] * tried[-1][2] <= 50 * 50


def test_running_out_of_memory_at_the_smallest_tile_is_reported() -> None:
    def predict(batch: NDArray[Any]) -> NDArray[Any]:
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match="24 x 24"):
        predict_tiled(predict, picture(200, 200), tile_shape=(64, 64), overlap=4, divisor=8)


def test_a_tile_too_small_for_its_overlap_is_made_larger() -> None:
    seen: set[tuple[int, ...]] = set()

    def predict(batch: NDArray[Any]) -> NDArray[Any]:
        seen.add(batch.shape[1:])
        return identity(batch)

    image = picture(500, 500)
    predicted = predict_tiled(predict, image, tile_shape=(1, 128), overlap=104, divisor=8)
    np.testing.assert_allclose(predicted, image, rtol=1e-6)
    assert seen == {(232, 232)}


@pytest.mark.parametrize("exact", [True, False])
def test_an_output_may_be_larger_and_lack_an_axis(exact: bool) -> None:
    image = picture(3, 101, 90)

    def predict(batch: NDArray[Any]) -> NDArray[Any]:
        mean = batch.mean(1)
        return np.repeat(np.repeat(mean, 8, 1), 2, 2)

    options: dict[str, Any] = {"overlap": (9, 2, 2), "divisor": (1, 4, 4), "scale": (0, 8, 2), "exact": exact}
    tiled = predict_tiled(predict, image, tile_shape=(1, 32, 40), **options)
    assert tiled.shape == (808, 180)
    np.testing.assert_allclose(tiled, np.repeat(np.repeat(image.mean(0), 8, 0), 2, 1), rtol=1e-5)


def test_memory_is_not_saved_along_an_axis_that_collapses() -> None:
    tried = []

    def predict(batch: NDArray[Any]) -> NDArray[Any]:
        tried.append(batch.shape[1:])
        if batch.size > 64 * 32 * 32:
            raise MemoryError
        return batch.mean(1)

    image = picture(64, 64, 64)
    result = predict_tiled(predict, image, tile_shape=(64, 64, 64), overlap=1, divisor=1, scale=(0, 1, 1))
    np.testing.assert_allclose(result, image.mean(0), rtol=1e-4)
    assert {shape[0] for shape in tried} == {64}
    assert tried[-1] == (64, 32, 32)


def test_tiles_that_are_not_exact_hide_their_differences() -> None:
    ramp = np.tile(np.linspace(0, 100, 400, dtype=np.float32), (150, 1))

    def lose_mean(batch: NDArray[Any]) -> NDArray[Any]:
        return batch - batch.mean((1, 2), keepdims=True)

    def seam(pixels: NDArray[Any]) -> float:
        return float(np.abs(np.diff(pixels, n=2, axis=1)).max())

    options: dict[str, Any] = {"tile_shape": (64, 64), "overlap": 4, "divisor": 4}
    soft, hard = (predict_tiled(lose_mean, ramp, exact=exact, **options) for exact in (False, True))
    assert seam(soft) < seam(hard) / 10
    same = predict_tiled(identity, ramp, exact=False, **options)
    np.testing.assert_allclose(same, ramp, rtol=1e-5, atol=1e-4)


def test_only_the_windows_of_tiles_are_read() -> None:
    image, read = picture(100, 120), []

    class Watched:
        shape = image.shape

        def __getitem__(self, window: tuple[slice, ...]) -> NDArray[Any]:
            read.append(tuple(along.stop - along.start for along in window))
            return image[window]

    result = predict_tiled(identity, Watched(), tile_shape=(32, 32), overlap=2, divisor=8)
    np.testing.assert_allclose(result, image, rtol=1e-6)
    assert max(max(lengths) for lengths in read) <= 32


def test_a_network_of_another_shape_is_a_defect() -> None:
    with pytest.raises(ValueError, match="expected"):
        predict_tiled(lambda batch: batch[:, :-2], picture(40, 40), tile_shape=(16, 16), overlap=1, divisor=1)


def test_a_tile_counts_the_pixels_that_come_out_of_it() -> None:
    assert choose_tile((256, 256), 4, 256**2) == (256, 256)
    assert choose_tile((256, 256), 4, 256**2, scale=8) == (32, 32)
    assert choose_tile((20, 256, 256), 1, 20 * 128**2, scale=(0, 1, 1)) == (20, 128, 128)


@given(
    shape=st.lists(st.integers(1, 5000), min_size=2, max_size=3),
    divisor=st.sampled_from([1, 4, 16]),
    limit=st.integers(4096, 10**7),
)
def test_a_chosen_tile_is_legal_and_within_the_limit(shape: list[int], divisor: int, limit: int) -> None:
    tile = choose_tile(shape, divisor, limit)
    assert all(length % divisor == 0 for length in tile)
    assert int(np.prod(tile, dtype=np.int64)) <= limit
    if int(np.prod([-(-length // divisor) * divisor for length in shape], dtype=np.int64)) <= limit:
        assert all(length >= wanted for length, wanted in zip(tile, shape, strict=True))
