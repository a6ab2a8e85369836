"""Datasets of images that memory does not hold: the same findings, files and batches, and memory that does not grow.

What counts as large is set to nothing here, so that small images take the way of large ones.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from parfocal.runtime.datasets.findings import Reading, examine
from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.datasets.labels import TargetLook
from parfocal.runtime.datasets.view import FolderView
from parfocal.runtime.images import scratch, similarity
from parfocal.runtime.images.files import DEFAULT_LIMITS, read_image
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.store.manifests import FileEntry
from parfocal.runtime.training.data import open_classes, open_labels, open_pairs
from parfocal.runtime.training.preview import PreviewParameters
from parfocal.runtime.training.sampler import _pixel_above
from parfocal.runtime.training.split import Region, parts

RNG = np.random.default_rng(0)


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Map every image from a file and go through it in blocks of 500 pixels."""
    monkeypatch.setattr(scratch.blocks, "__defaults__", (500,))
    monkeypatch.setattr(similarity, "BLOCK_PIXELS", 500)
    monkeypatch.setattr(Scratch, "holds", lambda self, *_: self.folder is None)


def grains(*shape: int) -> NDArray[np.uint16]:
    """Return numbered squares of 8 pixels on a grid of 12."""
    place = np.indices(shape) // 12
    inside = np.all(np.indices(shape)[-2:] % 12 < 8, axis=0)
    numbers = np.ravel_multi_index(tuple(place), tuple(length // 12 + 1 for length in shape)) + 1
    return (numbers * inside).astype(np.uint16)


IMAGES: dict[str, tuple[str, NDArray[Any]]] = {
    "grey": ("YX", RNG.integers(100, 4096, (71, 90)).astype(np.uint16)),
    "volume": ("ZYX", RNG.normal(5, 1, (5, 40, 60)).astype(np.float32)),
    "colours": ("YXS", RNG.integers(0, 256, (50, 64, 3)).astype(np.uint8)),
    "bad": ("YX", np.where(np.arange(70 * 80).reshape(70, 80) == 3333, np.nan, 1.0).astype(np.float32)),
    "even": ("YX", np.full((70, 80), 7, np.int32)),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_findings_are_those_of_the_image_in_memory(
    name: str, compression: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes, pixels = IMAGES[name]
    path = tmp_path / "image.tif"
    photometric = "rgb" if axes.endswith("S") else "minisblack"
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": axes}, compression=compression, photometric=photometric)
    whole = examine(path, axes, None, DEFAULT_LIMITS, allow_constant=False)
    monkeypatch.setattr(scratch.blocks, "__defaults__", (500,))
    monkeypatch.setattr(similarity, "BLOCK_PIXELS", 500)
    reading = Reading(scratch=Scratch(tmp_path / "arrays", 0))
    found = examine(path, axes, None, DEFAULT_LIMITS, allow_constant=False, reading=reading)
    assert found == whole
    if whole[0] is not None:
        assert found[0] is not None
        np.testing.assert_array_equal(found[0].pattern, whole[0].pattern)


def test_label_images_are_looked_at_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, labels in enumerate((grains(90, 70), grains(5, 50, 40), grains(60, 60).astype(np.int32) * 70_000 - 1)):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, labels, compression="zlib")
        whole, large = TargetLook(), TargetLook()
        whole(path, read_image(path, labels=True))
        with monkeypatch.context() as changed:
            changed.setattr(scratch.blocks, "__defaults__", (500,))
            large(path, Reading(labels=True, scratch=Scratch(tmp_path / "arrays", 0)).read(path))
        np.testing.assert_array_equal(whole.extents[0][1], large.extents[0][1])
        assert len(whole.extents[0][1]) > 10
        assert (whole.pixels, whole.objects, whole.below) == (large.pixels, large.objects, large.below)


def test_the_memory_of_a_dataset_does_not_grow_with_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch.blocks, "__defaults__", (2**16,))
    monkeypatch.setattr(similarity, "BLOCK_PIXELS", 2**16)
    monkeypatch.setattr("parfocal.runtime.images._tiff_levels.LARGE_PLANE", 2**18)
    monkeypatch.setattr("parfocal.runtime.images._tiff_pixels._READ_AHEAD", 2**14)
    monkeypatch.setattr("parfocal.runtime.datasets.labels._LOOKED_AT", 512)
    peaks = []
    for number, side in enumerate((600, 600, 1800)):  # the first time modules are loaded
        folder = tmp_path / str(number)
        for role, step in (("source", 1), ("target", 2)):
            (folder / role).mkdir(parents=True)
            pixels = np.tile(np.arange(0, 100 * step, step, dtype=np.uint16).reshape(10, 10), (side // 10, side // 10))
            tifffile.imwrite(folder / role / "a.tif", pixels, tile=(128, 128), compression="zlib", maxworkers=1)
        tracemalloc.start()
        try:
            report = check_folder(folder, kind="paired", scratch=Scratch(tmp_path / "arrays", 2**16))
            for item in report.items():
                item.write(tmp_path / "out.tif")
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1]


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("axes", ["YXZ", "CYXT"])
def test_axes_in_another_order_are_written_in_ours(axes: str, tmp_path: Path) -> None:
    lengths = {"C": 2, "Z": 3, "T": 3, "Y": 20, "X": 24}
    pixels = RNG.integers(0, 9, tuple(lengths[axis] for axis in axes)).astype(np.uint16)
    (tmp_path / "train" / "source").mkdir(parents=True)
    path = tmp_path / "train" / "source" / "a.tif"
    tifffile.imwrite(path, pixels, metadata={"axes": axes}, photometric="minisblack")
    wanted = "".join(sorted(axes, key="TCZYXS".index))
    report = check_folder(tmp_path, kind="sources", axes=wanted, scratch=Scratch(tmp_path / "arrays"))
    report.items()[0].write(tmp_path / "out.tif")
    np.testing.assert_array_equal(
        read_image(tmp_path / "out.tif").pixels, pixels.transpose([axes.index(axis) for axis in wanted])
    )


def opened(how: str, folder: Path, scratch_folder: Path) -> Any:
    """Return a dataset as a training opens it."""
    kind = {"pairs": "paired"}.get(how, how)
    report = check_folder(folder, kind=kind)
    entries = [item.write(folder / "written.tif") for item in report.items()]
    files = [FileEntry(name=item.file, size=1, sha256="0" * 64) for item in report.items()]
    manifest = report.manifest(files, entries, project="p", dataset="d", version=1)
    view = FolderView(manifest=manifest, axes="YX", minimum_images=1, scratch=scratch_folder, folder=folder)
    parameters = PreviewParameters(patch_size=16, batch_size=2, patches_per_image=4)
    if how == "labels":
        return open_labels(view, parameters, Normaliser(), lambda labels: labels, lambda given, _: given)
    return (open_classes if how == "classes" else open_pairs)(view, parameters, Normaliser())


@pytest.mark.parametrize("how", ["pairs", "labels", "classes"])
def test_training_sees_the_same_of_images_that_are_mapped(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(number: int) -> tuple[NDArray[Any], NDArray[Any]]:
        source = np.random.default_rng(number).integers(0, 900, (60 + number, 70)).astype(np.uint16)
        target = source // 2 if how == "pairs" else grains(60 + number, 70)
        return source, target % 3 if how == "classes" else target

    folder = tmp_path / "data"
    for number in range(3):
        for role, pixels in zip(("source", "target"), make(number), strict=True):
            (folder / "train" / role).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / "train" / role / f"{number}.tif", pixels, compression="zlib")
    whole = opened(how, folder, tmp_path / "whole")
    monkeypatch.setattr(scratch.blocks, "__defaults__", (500,))
    monkeypatch.setattr(similarity, "BLOCK_PIXELS", 500)
    monkeypatch.setattr("parfocal.runtime.training.sampler._MAPPED_BYTES", 0)
    monkeypatch.setattr(Scratch, "holds", lambda self, *_: self.folder is None)
    large = opened(how, folder, tmp_path / "large")
    assert large.facts == whole.facts
    assert large.record.statistics == whole.record.statistics
    for step in range(whole.batches.steps_per_epoch):
        one, other = whole.batches.batch(1, step), large.batches.batch(1, step)
        np.testing.assert_array_equal(one.inputs["source"], other.inputs["source"])
        np.testing.assert_array_equal(one.targets, other.targets)
    for mine, theirs in zip(whole.validation_images(), large.validation_images(), strict=True):
        np.testing.assert_array_equal(mine.input, theirs.input)
        np.testing.assert_array_equal(mine.targets, theirs.targets)


@settings(deadline=None)
@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple),
    most=st.integers(1, 200),
    start=st.integers(0, 5),
)
def test_parts_are_small_and_cover_a_region_once(shape: tuple[int, ...], most: int, start: int) -> None:
    region = Region(index=3, stem="a", start=(start,) * len(shape), stop=tuple(start + each for each in shape))
    seen = np.zeros(region.stop, int)
    found = list(parts([region], most))
    for part in found:
        assert 1 <= np.prod(part.shape) <= most
        assert (part.index, part.stem) == (3, "a")
        seen[tuple(map(slice, part.start, part.stop))] += 1
    assert seen.sum() == np.prod(shape)
    assert seen[tuple(map(slice, region.start, region.stop))].all()
    assert (len(found) == 1) == (np.prod(shape) <= most)


@pytest.mark.usefixtures("all_large")
def test_a_rare_pixel_is_drawn_as_from_the_image_in_memory() -> None:
    labels = np.where(RNG.random((40, 50)) < 0.01, 5, 0)
    for seed in range(20):
        places = np.flatnonzero(labels)
        drawn = places[np.random.default_rng(seed).integers(len(places))]
        found = _pixel_above(labels, 1, np.random.default_rng(seed))
        assert found is not None
        assert tuple(found) == np.unravel_index(drawn, labels.shape)
    assert _pixel_above(labels, 6, np.random.default_rng(0)) is None
