"""Flow targets: computed once for each image, and turned with the patches that training cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import nuclei_pair, nuclei_volumes

from parfocal.cellpose import CELLPOSE_2D, CELLPOSE_3D
from parfocal.cellpose.flows import flow_field, turn_flows
from parfocal.cellpose.network import Cellpose2D, Cellpose3D
from parfocal.cellpose.planes import cut_planes
from parfocal.runtime.datasets.view import FolderView
from parfocal.runtime.errors import CancelledError
from parfocal.runtime.images.files import Image, PixelSize, write_image
from parfocal.runtime.store.manifests import DatasetManifest, ImageEntry
from parfocal.runtime.training.augmentation import View, Warp, warp_array


def folder_view(folder: Path, axes: str, **more: Any) -> FolderView:
    """Return a dataset of ten simulated images or three volumes."""
    rng, entries = np.random.default_rng(0), []
    shape: tuple[int, ...] = (96, 96) if axes == "YX" else (12, 96, 96)
    for number in range(10 if axes == "YX" else 3):
        pair: Any = nuclei_pair(rng, (96, 96)) if axes == "YX" else nuclei_volumes(rng, (12, 96, 96))
        for role, pixels in zip(("source", "target"), pair, strict=True):
            path = folder / "train" / role / f"a{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, Image(pixels, axes, PixelSize(0.1, 0.1, None if axes == "YX" else 0.3)))
            entries.append(
                ImageEntry(
                    split="train",
                    role=role,
                    stem=f"a{number}",
                    file=f"train/{role}/a{number}.tif",
                    shape=shape,
                    dtype="uint16",
                    axes=axes,
                )
            )
    manifest = DatasetManifest(project="p", dataset="d", version=1, images=tuple(entries))
    return FolderView(manifest=manifest, axes=axes, minimum_images=1, scratch=folder / "scratch", folder=folder, **more)


def opened(method: Any, implementation: Any, view: FolderView, **parameters: Any) -> Any:
    from parfocal import v1

    values = {"patch_size": 32, "first_filters": 2, "batch_size": 4, **parameters}
    return implementation.open(view, method.parse(v1.JOB_KIND_TRAINING, values))


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_turned_flows_are_those_of_the_turned_labels(swap: bool, elastic: bool) -> None:
    y, x = np.indices((96, 96))
    labels = (((y - 44) / 22) ** 2 + ((x - 50) / 22) ** 2 <= 1).astype(np.int32)
    turn = np.deg2rad(35)
    matrix = 0.8 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    numbers = np.random.default_rng(0).uniform(-2, 2, (2, 5, 5)) if elastic else None
    view = View(swap=swap, mirror_y=True, warp=Warp((96, 96), matrix, np.array([1.0, -2.0]), numbers))
    window, region = (slice(0, 96), slice(0, 96)), ((0, 96), (0, 96))

    def seen(array: Any, *, nearest: bool) -> Any:
        assert view.warp is not None
        return view.turn(warp_array(array, "YX", window, region, view.warp, nearest=nearest, fill=0.0), "YX")

    moved = np.stack([seen(each, nearest=False) for each in flow_field(labels)], axis=-1)
    found = turn_flows(moved, view)
    shown = seen(labels, nearest=True)
    expected = np.moveaxis(flow_field(shown), 0, -1)
    # Away from the middle, where directions change from pixel to pixel, and from the border.
    place = np.argwhere(shown).mean(axis=0)
    distance = np.hypot(*(np.indices(shown.shape) - place[:, None, None]))
    ring = (distance > 8) & (distance < 22) & (shown > 0)
    cosine = (found * expected).sum(axis=-1)[ring] / np.maximum(np.linalg.norm(found, axis=-1)[ring], 1e-9)
    assert ring.sum() > 300
    assert np.mean(cosine) > (0.95 if elastic else 0.98)
    assert np.mean((moved * expected).sum(axis=-1)[ring]) < 0.8  # not turned they would be wrong


def test_batches_have_objects_of_the_mean_diameter_and_flows_of_length_one(tmp_path: Path) -> None:
    said: list[str] = []
    data = opened(
        CELLPOSE_2D, Cellpose2D(), folder_view(tmp_path, "YX", progress=said.append), mean_diameter=26, patch_size=64
    )
    diameter = data.facts.measured["diameter"]
    assert 10 < diameter < 16
    assert [text for text in said if "flows" in text][-1].endswith("10 of 10")
    assert data.batches.patches.sampler.magnification == pytest.approx(26 / diameter)
    first, again = (data.batches.batch(1, 0) for _ in range(2))
    np.testing.assert_array_equal(first.targets, again.targets)
    labels, flows = first.targets[..., 0], first.targets[..., 1:]
    inside = np.linalg.norm(flows, axis=-1)[labels > 0]
    assert np.median(inside) == pytest.approx(1, abs=0.05)
    batch = Cellpose2D().prepare(first, data.parameters, data.facts, np.random.default_rng(0))
    cell, targets, known = batch.targets
    np.testing.assert_array_equal(cell, labels > 0)
    assert known.all()
    assert not targets[:, :, ~(labels > 0)[0]][0].any()
    held_out = data.batches.validation_batch(0)
    sizes = np.unique(held_out.targets[..., 0][held_out.targets[..., 0] > 0], return_counts=True)[1]
    assert np.sqrt(sizes.max()) * 2 / np.sqrt(np.pi) > 1.3 * diameter


def test_computing_flows_can_be_cancelled(tmp_path: Path) -> None:
    calls = 0

    def cancelled() -> None:
        nonlocal calls
        calls += 1
        if calls > 35:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        opened(CELLPOSE_2D, Cellpose2D(), folder_view(tmp_path, "YX", check_cancelled=cancelled))


def test_volumes_give_planes_of_three_orientations_with_equal_distances(tmp_path: Path) -> None:
    data = opened(CELLPOSE_3D, Cellpose3D(), folder_view(tmp_path, "ZYX"), patch_depth=12, batch_size=2)
    assert data.facts.measured["anisotropy"] == pytest.approx(3.0, abs=0.01)
    batch = data.batches.batch(0, 0)
    made = Cellpose3D().prepare(batch, data.parameters, data.facts, np.random.default_rng(0))
    assert made.size == len(made.input) == 6
    assert made.input.shape[1:] == (32, 32, 1)
    assert made.targets[1].shape == (6, 2, 32, 32)


def test_what_a_short_block_leaves_empty_is_not_known() -> None:
    block = np.ones((4, 32, 32, 1), np.float32)
    planes = list(cut_planes(block, np.ones((4, 32, 32), np.int32), 3.0, np.random.default_rng(0)))
    assert [plane.shape for plane, _ in planes] == [(32, 32, 1)] * 3
    assert [int((labels == 1).sum()) for _, labels in planes] == [32 * 32, 12 * 32, 12 * 32]
    assert all(np.all((labels == 1) == (plane[..., 0] == 1)) for plane, labels in planes)
    assert planes[1][1][20:].max() == -1
