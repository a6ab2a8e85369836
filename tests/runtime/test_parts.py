"""An image that several jobs share: what their parts give together is what one job gives, to the last bit."""

from __future__ import annotations

import re
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.runtime.errors import DamagedError, InvalidInputError, OutOfMemoryError
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outlines import trace_outlines
from parfocal.runtime.methods.outputs import Detections
from parfocal.runtime.methods.steps import PartDoneError, Steps, require_alone
from parfocal.runtime.prediction.box_tiling import find_boxes
from parfocal.runtime.prediction.object_tiling import find_in_blocks
from parfocal.runtime.prediction.parts import MergedSteps, PartFile, Parts, Share
from parfocal.runtime.prediction.tiling import Tiling, predict_tiled

Work = Callable[[Steps | None], Any]


def in_parts(folder: Path, count: int, work: Work, *, unit: int = 0, turn: int = 0) -> Any:
    """Return what some work gives whose steps several jobs share."""
    paths = [folder / f"{number}.zip" for number in range(count)]
    for number, path in enumerate(paths):
        with PartFile(path, Share(number, count).turned(turn)) as file, pytest.raises(PartDoneError):
            work(file.steps(unit))
    with Parts(paths, "a.tif", turn) as parts:
        return work(MergedSteps(parts, unit))


def field_of(shape: tuple[int, ...], smooth: float, seed: int) -> NDArray[np.float32]:
    """Return random blobs with values between 0 and 1, 0 around them."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    inside = noise > 0.6 * noise.std()
    return np.where(inside, 0.5 + 0.5 * noise / np.abs(noise).max(), 0).astype(np.float32)


def finder(image: NDArray[np.float32]) -> Callable[..., Objects]:
    """Return what finds the blobs in a window, with outlines, classes and splines in planes."""

    def find(window: tuple[slice, ...], on_tile: Callable[[int, int], None]) -> Objects:
        part = image[window]
        labels, count = ndimage.label(part > 0)
        on_tile(1, 1)
        numbers = np.arange(1, count + 1)
        probability = np.asarray(ndimage.mean(part, labels, numbers), np.float32).reshape(count)
        classes = np.stack([1 - probability, probability], axis=-1)
        if part.ndim == 3:
            return Objects(labels, probability, (), classes)
        outlines = trace_outlines(labels)
        splines = [outline[np.linspace(0, len(outline) - 1, 5).astype(int)] for outline in outlines]
        made = np.stack(splines).astype(np.float32) if splines else np.zeros((0, 5, 2), np.float32)
        return Objects(labels, probability, outlines, classes, made)

    return find


def assert_equal(found: Objects, expected: Objects) -> None:
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.probability, expected.probability)
    assert len(found.outlines) == len(expected.outlines)
    for one, other in zip(found.outlines, expected.outlines, strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("class_probability", "splines"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@given(count=st.integers(2, 64), steps=st.integers(0, 1000), turn=st.integers(0, 100))
def test_shares_are_every_step_once_and_alike(count: int, steps: int, turn: int) -> None:
    shares = [Share(number, count).turned(turn).of_steps(steps) for number in range(count)]
    assert sorted(step for share in shares for step in share) == list(range(steps))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_images_of_one_step_take_turns() -> None:
    owners = [[number for number in range(3) if Share(number, 3).turned(image).of_steps(1)] for image in range(6)]
    assert sorted(owner for (owner,) in owners) == [0, 0, 1, 1, 2, 2]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.one_of(st.tuples(*[st.integers(1, 70)] * 2), st.tuples(*[st.integers(1, 24)] * 3)),
    count=st.integers(2, 6),
    turn=st.integers(0, 5),
    smooth=st.sampled_from([0.8, 1.5, 4.0]),
    seed=st.integers(0, 10**6),
)
def test_objects_of_parts_are_those_of_one_job(
    tmp_path: Path, shape: Any, count: int, turn: int, smooth: float, seed: int
) -> None:
    """Blobs lie in one block, over one seam, two, three, or many."""
    find = finder(field_of(shape, smooth, seed))

    def work(steps: Steps | None) -> Objects:
        return find_in_blocks(find, shape, steps=steps, block_pixels=600, margin=5)

    assert_equal(in_parts(tmp_path, count, work, turn=turn), work(None))


@pytest.mark.parametrize(
    ("row", "column"), [(48, 20), (20, 48), (48, 48), (48, 76)], ids=["row", "column", "corner", "T"]
)
@pytest.mark.parametrize("radius", [4, 14, 40])
def test_an_object_on_a_seam_of_two_parts_exists_once(tmp_path: Path, row: int, column: int, radius: int) -> None:
    y, x = np.mgrid[:100, :100]
    image = np.where((y - row) ** 2 + (x - column) ** 2 <= radius**2, 0.75, 0).astype(np.float32)

    def work(steps: Steps | None) -> Objects:
        return find_in_blocks(finder(image), image.shape, steps=steps, block_pixels=40**2, margin=6)

    for count in (2, 3, 4):
        found = in_parts(tmp_path, count, work)
        np.testing.assert_array_equal(found.labels, image > 0)
        assert len(found.probability) == len(found.outlines) == len(found.splines) == 1


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_grey_values_of_parts_are_those_of_one_job(tmp_path: Path, count: int, exact: bool, scale: int) -> None:
    image = np.random.default_rng(0).normal(size=(130, 90)).astype(np.float32)

    def predict(batch: NDArray[Any]) -> NDArray[Any]:
        values = ndimage.gaussian_filter(batch, (0, 1, 1), truncate=3) - batch.mean()
        return np.repeat(np.repeat(values, scale, 1), scale, 2)

    def work(steps: Steps | None) -> NDArray[np.float32]:
        return predict_tiled(
            predict, image, tile_shape=(32, 32), overlap=3, divisor=4, scale=scale, exact=exact, steps=steps
        )

    found = in_parts(tmp_path, count, work)
    np.testing.assert_array_equal(found, work(None))
    assert found.shape == (130 * scale, 90 * scale)


def test_boxes_of_parts_are_those_of_one_job(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    image = np.zeros((300, 260, 1), np.float32)
    for y, x in rng.integers(0, 250, (60, 2)):
        image[y : y + 9, x : x + 8] = rng.uniform(0.5, 1)

    def detect(tile: NDArray[np.float32]) -> Detections:
        labels, _ = ndimage.label(tile[..., 0] > 0.4)
        boxes = ndimage.find_objects(labels)
        corners = np.array([[y.start, x.start, y.stop, x.stop] for y, x in boxes], np.float32).reshape(-1, 4)
        confidence = np.array([tile[box][..., 0].max() for box in boxes], np.float32)
        return Detections(corners, (confidence > 0.75).astype(np.int64), confidence)

    def work(steps: Steps | None) -> Detections:
        tiling = Tiling(80 * 96, steps=steps)
        return find_boxes(detect, image, tiling, divisor=16, margin=32, most_overlap=0.3)

    found, expected = in_parts(tmp_path, 3, work), work(None)
    assert len(expected.confidence) > 20
    for name in ("corners", "classes", "confidence"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_each_unit_of_a_stack_has_its_steps(tmp_path: Path) -> None:
    planes = [field_of((60, 50), 2.0, seed) for seed in range(4)]

    def work(unit: int) -> Work:
        return lambda steps: find_in_blocks(finder(planes[unit]), (60, 50), steps=steps, block_pixels=600, margin=5)

    paths = [tmp_path / f"{number}.zip" for number in range(2)]
    for number, path in enumerate(paths):
        with PartFile(path, Share(number, 2)) as file:
            for unit in range(4):
                with pytest.raises(PartDoneError):
                    work(unit)(file.steps(unit))
            assert file.described == 4
    with Parts(paths, "a.tif") as parts:
        for unit in range(4):
            assert_equal(work(unit)(MergedSteps(parts, unit)), work(unit)(None))


def test_progress_of_a_part_runs_from_nothing_to_all(tmp_path: Path) -> None:
    image = field_of((100, 100), 2.0, 0)
    for number in range(3):
        told: list[float] = []
        with PartFile(tmp_path / "part.zip", Share(number, 3)) as file:
            steps = file.steps(0)

            def tell(done: int, total: int, steps: Steps = steps, told: list[float] = told) -> None:
                told.append(np.divide(*steps.own(done, total)))

            with pytest.raises(PartDoneError):
                find_in_blocks(finder(image), image.shape, tell, steps=steps, block_pixels=40**2, margin=6)
        assert 0 <= told[0] < 0.5
        assert told == sorted(told)
        assert told[-1] == 1


def test_parts_of_another_division_are_refused(tmp_path: Path) -> None:
    image = field_of((60, 60), 2.0, 0)

    def work(margin: int) -> Work:
        return lambda steps: find_in_blocks(finder(image), image.shape, steps=steps, block_pixels=600, margin=margin)

    in_parts(tmp_path, 2, work(5))
    with (
        Parts([tmp_path / "0.zip", tmp_path / "1.zip"], "a.tif") as parts,
        pytest.raises(InvalidInputError, match=r"a\.tif"),
    ):
        work(6)(MergedSteps(parts, 0))


def test_two_passes_over_an_image_are_refused(tmp_path: Path) -> None:
    image = field_of((60, 60), 2.0, 0)

    def work(steps: Steps | None) -> Objects:
        find_in_blocks(finder(image), image.shape, steps=steps, block_pixels=600, margin=5)
        return find_in_blocks(finder(image), image.shape, steps=steps, block_pixels=600, margin=5)

    with pytest.raises(InvalidInputError):
        in_parts(tmp_path, 2, work)


@pytest.mark.parametrize("damage", ["cut", "no zip", "step", "pickle", "index", "encrypted", "packing"])
def test_a_damaged_part_is_said_to_be_one(tmp_path: Path, damage: str) -> None:
    image = field_of((60, 60), 2.0, 0)

    def work(steps: Steps | None) -> Objects:
        return find_in_blocks(finder(image), image.shape, steps=steps, block_pixels=600, margin=5)

    in_parts(tmp_path, 2, work)
    path = tmp_path / "1.zip"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "no zip":
        path.write_bytes(b"labels")
    elif damage in {"encrypted", "packing"}:
        data = bytearray(path.read_bytes())
        # In each entry of the directory: the lowest bit of the flags, or the method of compression.
        for entry in re.finditer(b"PK\x01\x02", bytes(data)):
            data[entry.start() + (8 if damage == "encrypted" else 10)] |= 1 if damage == "encrypted" else 99
        path.write_bytes(data)
    else:
        kept = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
        first = next(name for name in kept if name.endswith("labels.npy"))
        if damage == "step":
            kept = {name: data for name, data in kept.items() if name.split("/")[:2] != first.split("/")[:2]}
        elif damage == "pickle":
            with (tmp_path / "objects.npy").open("wb") as file:
                np.save(file, np.array([{}], object), allow_pickle=True)
            kept[first] = (tmp_path / "objects.npy").read_bytes()
        else:
            kept["index.json"] = b"[]"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in kept.items():
                archive.writestr(name, data)
    with pytest.raises(DamagedError, match=r"a\.tif"), Parts([tmp_path / "0.zip", path], "a.tif") as parts:
        work(MergedSteps(parts, 0))


def replaced(path: Path, name: str, array: NDArray[Any]) -> None:
    """Put another array into a part, in place of the first whose name ends so; it is packed as labels are."""
    with zipfile.ZipFile(path) as archive:
        kept = {each: archive.read(each) for each in archive.namelist()}
    with (path.parent / "array.npy").open("wb") as file:
        np.save(file, array)
    kept[next(each for each in kept if each.endswith(name))] = (path.parent / "array.npy").read_bytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, data in kept.items():
            archive.writestr(each, data)


@pytest.mark.parametrize("kind", ["tiles", "objects", "boxes"])
def test_no_more_is_unpacked_than_the_image_can_give(tmp_path: Path, kind: str) -> None:
    image = field_of((64, 64), 2.0, 0)

    def tiles(steps: Steps | None) -> Any:
        return predict_tiled(lambda batch: batch, image, tile_shape=(32, 32), overlap=4, divisor=4, steps=steps)

    def objects(steps: Steps | None) -> Any:
        return find_in_blocks(finder(image), image.shape, steps=steps, block_pixels=600, margin=5)

    def boxes(steps: Steps | None) -> Any:
        none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
        return find_boxes(
            lambda _: none, image[..., np.newaxis], Tiling(32 * 32, steps=steps), divisor=16, margin=4, most_overlap=0.3
        )

    work = {"tiles": tiles, "objects": objects, "boxes": boxes}[kind]
    in_parts(tmp_path, 2, work)
    paths = [tmp_path / f"{number}.zip" for number in range(2)]
    replaced(paths[1], ".npy", np.zeros(2**25, np.int64))
    assert paths[1].stat().st_size < 2**20, "256 MiB of zeros"
    tracemalloc.start()
    with pytest.raises(DamagedError, match="at most"), Parts(paths, "a.tif") as parts:
        work(MergedSteps(parts, 0))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_step_that_gives_more_than_is_read_back_is_refused_at_once(tmp_path: Path) -> None:
    def find(window: tuple[slice, ...], on_tile: Callable[[int, int], None]) -> Objects:
        labels = np.zeros([along.stop - along.start for along in window], np.int32)
        return Objects(labels, np.zeros(0, np.float32), splines=np.zeros((2**16, 5, 2), np.float32))

    with pytest.raises(InvalidInputError, match="one job"), PartFile(tmp_path / "part.zip", Share(0, 2)) as file:
        find_in_blocks(find, (60, 60), steps=file.steps(0), block_pixels=600, margin=5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2**15,)])
def test_a_tile_of_another_size_is_no_part_of_the_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.ones((64, 64), np.float32)

    def work(steps: Steps | None) -> NDArray[np.float32]:
        return predict_tiled(lambda batch: batch, image, tile_shape=(32, 32), overlap=4, divisor=4, steps=steps)

    in_parts(tmp_path, 2, work)
    path = tmp_path / "1.zip"
    replaced(path, ".npy", np.zeros(shape, np.float32))
    with pytest.raises(DamagedError, match="does not fit"), Parts([tmp_path / "0.zip", path], "a.tif") as parts:
        work(MergedSteps(parts, 0))


def test_tiles_that_jobs_share_do_not_become_smaller(tmp_path: Path) -> None:
    def full(batch: NDArray[Any]) -> NDArray[Any]:
        raise MemoryError

    image = np.zeros((100, 100), np.float32)
    with pytest.raises(OutOfMemoryError, match="tile_size"), PartFile(tmp_path / "part.zip", Share(0, 2)) as file:
        predict_tiled(full, image, tile_shape=(32, 32), overlap=2, divisor=4, steps=file.steps(0))
    with zipfile.ZipFile(tmp_path / "part.zip") as archive:
        assert "index.json" not in archive.namelist()


def test_memory_of_a_merge_does_not_grow_with_the_image(tmp_path: Path) -> None:
    peaks = []
    for rows in (400, 1600):
        image = np.zeros((rows, 400), np.float32)
        image[:400] = np.tile(field_of((100, 400), 2.0, 3), (4, 1))
        folder = tmp_path / str(rows)

        def work(steps: Steps | None, image: NDArray[np.float32] = image, folder: Path = folder) -> int:
            scratch = Scratch(folder / "arrays", 0)
            found = find_in_blocks(
                lambda window, on_tile: Objects(**{**vars(finder(image)(window, on_tile)), "outlines": ()}),
                image.shape,
                scratch=scratch,
                steps=steps,
                block_pixels=200 * 200,
                margin=10,
            )
            return len(found.probability)

        paths = [folder / f"{number}.zip" for number in range(3)]
        for number, path in enumerate(paths):
            with PartFile(path, Share(number, 3)) as file, pytest.raises(PartDoneError):
                work(file.steps(0))
        with Parts(paths, "a.tif") as parts:
            tracemalloc.start()
            assert work(MergedSteps(parts, 0)) > 400
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    # Four times the image with the same objects, whose tables are held; its labels alone would be 2.5 MB.
    assert peaks[1] < 1.5 * peaks[0]


def test_what_one_job_has_to_do_is_refused_to_several(tmp_path: Path) -> None:
    require_alone(None, "It has to be whole.")
    with PartFile(tmp_path / "part.zip", Share(0, 2)) as file, pytest.raises(InvalidInputError, match="one job"):
        require_alone(file.steps(0), "It has to be whole.")
