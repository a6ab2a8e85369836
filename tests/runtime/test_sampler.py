"""Sampler: a batch depends on (seed, epoch, step) alone, and never leaves its region."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.training.augmentation import Augmentation
from parfocal.runtime.training.sampler import PatchSampler, fixed_patches
from parfocal.runtime.training.split import Region


def numbered(index: int, shape: tuple[int, ...] = (50, 60)) -> NDArray[np.float64]:
    """An image whose every pixel tells its image and its place."""
    size = int(np.prod(shape))
    return (np.arange(size).reshape(shape) + index * size).astype(np.float64)


IMAGES = [numbered(index) for index in range(4)]
REGIONS = [Region(index=i, stem=f"cell{i}", start=(0, 0), stop=(50, 60)) for i in range(4)]


def sampler(**options: Any) -> PatchSampler:
    given: dict[str, Any] = {
        "sources": IMAGES,
        "targets": [image + 0.5 for image in IMAGES],
        "regions": REGIONS,
        "patch_shape": (16, 16),
        "patches_per_image": 5,
        "batch_size": 3,
        "seed": 7,
    }
    return PatchSampler(**(given | options))


@settings(max_examples=50)
@given(
    epoch=st.integers(0, 1000), step=st.integers(0, 6), others=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)))
)
def test_a_batch_does_not_depend_on_what_was_drawn_before(epoch: int, step: int, others: list[tuple[int, int]]) -> None:
    used = sampler(augmentation=Augmentation())
    for other in others:
        used.batch(*other)
    fresh = sampler(augmentation=Augmentation())
    for mine, theirs in zip(used.batch(epoch, step), fresh.batch(epoch, step), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_another_process_draws_the_same_batch(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES[0])
    code = """
import numpy as np, sys
from parfocal.runtime.training.augmentation import Augmentation
from parfocal.runtime.training.sampler import PatchSampler
from parfocal.runtime.training.split import Region
made = PatchSampler(
    sources=[np.load(sys.argv[1], mmap_mode="r")], targets=None, patch_shape=(16, 16), patches_per_image=20,
    regions=[Region(index=0, stem="a", start=(0, 0), stop=(50, 60))], batch_size=4, seed=7, augmentation=Augmentation(),
)
if __name__ == "__main__":
    sys.stdout.buffer.write(made.batch(3, 2)[0].tobytes())
"""
    theirs = subprocess.run([sys.executable, "-c", code, tmp_path / "a.npy"], capture_output=True, check=True).stdout
    mine = sampler(
        sources=[np.load(tmp_path / "a.npy", mmap_mode="r")],
        targets=None,
        regions=REGIONS[:1],
        patches_per_image=20,
        batch_size=4,
        augmentation=Augmentation(),
    )
    assert mine.batch(3, 2)[0].tobytes() == theirs


def test_epochs_steps_and_seeds_differ() -> None:
    made = sampler()
    batches = [made.batch(0, 0), made.batch(0, 1), made.batch(1, 0), sampler(seed=8).batch(0, 0)]
    assert len({source.tobytes() for source, _ in batches}) == 4


def test_every_image_gives_its_patches_in_every_epoch() -> None:
    made = sampler(batch_size=4)
    assert made.steps_per_epoch == 5
    orders = []
    for epoch in range(3):
        images = [int(patch.min()) // 3000 for step in range(5) for patch in made.batch(epoch, step)[0]]
        assert sorted(images) == sorted(list(range(4)) * 5)
        orders.append(tuple(images))
    assert len(set(orders)) == 3


def test_the_last_batch_is_filled_up() -> None:
    made = sampler(batch_size=3)  # 20 patches
    assert made.steps_per_epoch == 7
    assert made.batch(0, 6)[0].shape == (3, 16, 16)
    with pytest.raises(ValueError, match="step 7"):
        made.batch(0, 7)


def test_a_batch_may_be_larger_than_an_epoch() -> None:
    assert sampler(patches_per_image=1, batch_size=11).batch(0, 0)[0].shape == (11, 16, 16)


@settings(deadline=None)  # the machine may be busy
@given(
    start=st.tuples(st.integers(0, 20), st.integers(0, 20)), size=st.tuples(st.integers(16, 30), st.integers(16, 40))
)
def test_patches_stay_in_their_region_and_reach_its_edges(start: tuple[int, int], size: tuple[int, int]) -> None:
    stop = (start[0] + size[0], start[1] + size[1])
    made = sampler(
        sources=[np.indices((50, 60))[0] * 1000 + np.indices((50, 60))[1]],
        targets=None,
        regions=[Region(index=0, stem="a", start=start, stop=stop)],
        patches_per_image=1000,
        batch_size=1000,
    )
    corners = made.batch(0, 0)[0][:, 0, 0]
    rows, columns = corners // 1000, corners % 1000
    for found, low, high in ((rows, start[0], stop[0] - 16), (columns, start[1], stop[1] - 16)):
        assert (found.min(), found.max()) == (low, high)


def test_source_and_target_show_the_same_place_after_augmentation() -> None:
    made = sampler(augmentation=Augmentation())
    for step in range(made.steps_per_epoch):
        source, target = made.batch(0, step)
        assert isinstance(target, np.ndarray)
        np.testing.assert_array_equal(target - source, 0.5)


def test_augmentation_does_not_change_where_patches_come_from() -> None:
    plain, turned = sampler().batch(2, 3)[0], sampler(augmentation=Augmentation()).batch(2, 3)[0]
    assert [sorted(patch.ravel()) for patch in plain] == [sorted(patch.ravel()) for patch in turned]
    assert not np.array_equal(plain, turned)


def test_patches_are_normalised_with_the_constants_of_their_whole_image() -> None:
    rule = Normaliser()
    constants = [rule.fit(image, "YX") for image in IMAGES]
    raw, _ = sampler().batch(0, 0)
    source, target = sampler(normaliser=rule, source_constants=constants).batch(0, 0)
    for patch, before in zip(source, raw, strict=True):
        image = int(before.min()) // 3000
        np.testing.assert_allclose(patch, rule.apply(before, constants[image]), atol=1e-5)
    assert isinstance(target, np.ndarray)
    assert target.max() > 100  # without constants the target stays as it is


def test_labels_keep_their_type() -> None:
    labels = [image.astype(np.int32) for image in IMAGES]
    assert sampler(targets=labels).batch(0, 0)[1].dtype == np.int32  # type: ignore[union-attr]


def test_several_targets_per_source() -> None:
    rule = Normaliser()
    targets = [(image + 0.5, image.astype(np.uint16)) for image in IMAGES]
    constants = [(rule.fit(image, "YX"), None) for image in IMAGES]
    source, made = sampler(targets=targets, target_constants=constants).batch(0, 0)
    assert isinstance(made, tuple)
    assert made[0].dtype == np.float32
    assert made[0].max() < 3
    np.testing.assert_array_equal(made[1], source.astype(np.uint16))


def test_colour_sources_with_label_targets() -> None:
    sources = [np.stack([image, image, image], -1).astype(np.uint16) for image in IMAGES]
    source, target = sampler(sources=sources, targets=IMAGES, axes="YXS", augmentation=Augmentation()).batch(0, 0)
    assert source.shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(source[..., 1], target)


def test_volumes() -> None:
    volume = numbered(0, (12, 30, 40))
    region = Region(index=0, stem="a", start=(0, 0, 0), stop=(12, 30, 40))
    made = sampler(sources=[volume], targets=None, regions=[region], patch_shape=(4, 16, 16), axes="ZYX")
    source, target = made.batch(0, 0)
    assert source.shape == (3, 4, 16, 16)
    assert target is None


def test_only_patches_are_read_from_a_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    large = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(2**15, 2**15))  # 1 GiB, sparse
    large.flush()
    region = Region(index=0, stem="a", start=(0, 0), stop=(2**15, 2**15))
    made = sampler(sources=[np.load(path, mmap_mode="r")], targets=None, regions=[region], patches_per_image=9)
    before = resident_kib()
    for step in range(made.steps_per_epoch):
        made.batch(0, step)
    assert resident_kib() - before < 100_000


def resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_a_region_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="cell9: its part of"):
        sampler(regions=[Region(index=0, stem="cell9", start=(0, 0), stop=(15, 60))])


def test_validation_patches_are_the_same_every_time_and_do_not_overlap() -> None:
    made = sampler(augmentation=Augmentation())
    fixed = made.validation_batches(REGIONS[:2])
    assert len(fixed) == 6  # 2 images of 3 x 3 patches
    for step in range(len(fixed)):
        np.testing.assert_array_equal(fixed.batch(step)[0], made.validation_batches(REGIONS[:2]).batch(step)[0])
    pixels = np.concatenate([fixed.batch(step)[0].ravel() for step in range(len(fixed))])
    assert len(np.unique(pixels)) == pixels.size
    assert pixels.max() == IMAGES[1].max()  # from edge to edge
    with pytest.raises(ValueError, match="step 6"):
        fixed.batch(6)


def test_validation_is_bounded_in_whole_batches_from_all_regions() -> None:
    fixed = sampler().validation_batches(REGIONS, max_patches=11)
    assert len(fixed.patches) == 9
    assert {patch.image for patch in fixed.patches} == {0, 1, 2, 3}
    assert len(sampler(batch_size=64).validation_batches(REGIONS[:1]).patches) == 9


@given(
    shape=st.tuples(st.integers(8, 90), st.integers(8, 90)),
    start=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    most=st.integers(1, 40),
)
def test_grids_lie_in_their_region(shape: tuple[int, int], start: tuple[int, int], most: int) -> None:
    region = Region(index=2, stem="a", start=start, stop=(start[0] + shape[0], start[1] + shape[1]))
    patches = fixed_patches([region], (8, 8), most)
    assert 1 <= len(patches) <= most
    assert len(set(patches)) == len(patches)
    for patch in patches:
        assert patch.image == 2
        assert all(low <= at <= high - 8 for low, at, high in zip(region.start, patch.corner, region.stop, strict=True))


@pytest.mark.parametrize(("fraction", "least", "most"), [(1.0, 1.0, 1.0), (0.5, 0.4, 0.75), (0.0, 0.0, 0.3)])
def test_patches_are_asked_to_hold_an_object(fraction: float, least: float, most: float) -> None:
    labels = np.zeros((120, 120), np.uint16)
    labels[50:58, 60:68] = 3
    used = PatchSampler(
        sources=[labels.astype(np.float32)],
        targets=[(labels,)],
        regions=[Region(index=0, stem="a", start=(0, 0), stop=(120, 120))],
        patch_shape=(24, 24),
        patches_per_image=60,
        batch_size=60,
        seed=1,
        foreground_fraction=fraction,
    )
    _, (targets,) = used.batch(0, 0)
    assert targets.dtype == np.uint16
    assert least <= np.mean(targets.any(axis=(1, 2))) <= most
    np.testing.assert_array_equal(targets, used.batch(0, 0)[1][0])


def test_patches_may_be_asked_for_anything_annotated() -> None:
    classes = np.full((120, 120), -1, np.int8)
    classes[50:52, 60:62] = 0
    used = sampler(
        sources=[classes.astype(np.float32)],
        targets=[(classes,)],
        regions=[Region(index=0, stem="a", start=(0, 0), stop=(120, 120))],
        foreground_fraction=1.0,
        least_label=0,
    )
    _, (targets,) = used.batch(0, 0)
    assert (targets == 0).any(axis=(1, 2)).all()


def test_an_image_without_objects_is_drawn_from_all_the_same() -> None:
    blank = np.zeros((40, 40), np.uint8)
    used = sampler(
        sources=[blank],
        targets=[(blank,)],
        regions=[Region(index=0, stem="a", start=(0, 0), stop=(40, 40))],
        foreground_fraction=1.0,
    )
    assert used.batch(0, 0)[0].shape == (3, 16, 16)
