"""What a U-Net is trained on: classes and their weights, what is not annotated, and what parameters must fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import save
from support import nuclei_pair

from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.datasets.view import FolderView
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.manifests import DatasetManifest
from parfocal.unet.parameters import Unet2DParameters, Unet3DParameters, check_dataset, class_values

# By the seed of the parameters.
HELD_OUT = 2
PATCHES: dict[str, Any] = {"patch_size": 16, "patches_per_image": 2, "batch_size": 2}


def write(folder: Path, change: Any, count: int = 5) -> Path:
    """Write images of nuclei with targets made of their labels."""
    rng = np.random.default_rng(3)
    for number in range(count):
        source, labels = nuclei_pair(rng, (48, 64))
        save(folder / "train" / "source" / f"field{number}.tif", source)
        save(folder / "train" / "target" / f"field{number}.tif", change(labels))
    return folder


def view(folder: Path, kind: str, tmp_path: Path, warnings: list[str] | None = None) -> FolderView:
    report = check_folder(folder, kind=kind)
    place, entries = folder / "copy", []
    for item in report.items():
        (place / item.file).parent.mkdir(parents=True, exist_ok=True)
        entries.append(item.write(place / item.file))
    manifest = report.manifest((), entries, project="p", dataset="d", version=1)
    warn = (lambda _: None) if warnings is None else warnings.append
    return FolderView(
        manifest=manifest, axes="YX", minimum_images=1, scratch=tmp_path / "scratch", folder=place, warn=warn
    )


def opened(folder: Path, kind: str, tmp_path: Path, warnings: list[str] | None = None, **asked: Any) -> Any:
    from parfocal.unet.network import UnetOfImages

    return UnetOfImages().open(view(folder, kind, tmp_path, warnings), Unet2DParameters(**PATCHES, **asked))


def test_masks_are_opened_with_their_values_and_balanced_weights(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", lambda labels: np.where(labels > 0, 255, 0).astype(np.uint8))
    data = opened(folder, "classes", tmp_path, loss="cross-entropy")
    assert data.facts.measured["class_values"] == [0, 255]
    assert data.facts.targets[0].classes == 1
    trained = [region.stem for region in data.batches.sampler.regions]
    assert len(trained) == 4
    share = np.mean(
        [
            image.mean()
            for region in data.batches.sampler.regions
            for image in data.batches.sampler.targets[region.index]
        ]
    )
    assert data.facts.measured["class_weights"] == pytest.approx([0.5 / (1 - share), 0.5 / share])
    assert "class_weights" not in opened(folder, "classes", tmp_path).facts.measured
    assert "class_weights" in opened(folder, "classes", tmp_path, class_weights="balanced").facts.measured


def test_the_foreground_may_be_the_lower_value(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", lambda labels: np.where(labels > 0, 0, 255).astype(np.uint8))
    data = opened(folder, "classes", tmp_path, foreground_value=0)
    assert data.facts.measured["class_values"] == [255, 0]
    image = next(data.validation_images())
    usual = next(opened(folder, "classes", tmp_path).validation_images())
    np.testing.assert_array_equal(image.targets, 1 - usual.targets)


def test_of_label_images_every_object_is_foreground_and_numbers_below_0_are_not_known(tmp_path: Path) -> None:
    def labelled(labels: Any) -> Any:
        changed = labels.astype(np.int16)
        changed[:4] = -1
        return changed

    data = opened(write(tmp_path / "data", labelled), "labels", tmp_path)
    assert data.facts.measured["class_values"] == [0, 255]
    targets = next(data.validation_images()).targets
    assert np.unique(targets).tolist() == [-1, 0, 1]
    assert (targets[:4] == -1).all()


def test_strokes_are_enough_and_patches_show_them(tmp_path: Path) -> None:
    def strokes(labels: Any) -> Any:
        drawn = np.zeros(labels.shape, np.uint8)
        drawn[20:22, 30:40] = np.where(labels[20:22, 30:40] > 0, 2, 1)
        drawn[21, 30], drawn[21, 31] = 1, 2  # both classes in each image
        return drawn

    folder = write(tmp_path / "data", strokes)
    data = opened(folder, "classes", tmp_path, ignore_value=0, foreground_fraction=1.0)
    assert data.facts.measured["class_values"] == [1, 2]
    assert data.facts.measured["ignore_value"] == 0
    for step in range(data.batches.steps_per_epoch):
        batch = data.batches.batch(0, step)
        assert all((patch >= 0).any() for patch in batch.targets)
        assert (batch.targets < 0).any()


def test_a_class_that_only_other_images_have_is_told(tmp_path: Path) -> None:
    counter = iter(range(99))

    def rare(labels: Any) -> Any:
        # The one image that is held out has the third class.
        return np.where(labels > 0, 1 + (next(counter) == HELD_OUT), 0).astype(np.uint8)

    warnings: list[str] = []
    data = opened(write(tmp_path / "data", rare), "classes", tmp_path, warnings)
    assert [region["stem"] for region in data.record.split["validation"]] == [f"field{HELD_OUT}"]
    assert any("class 2" in text for text in warnings)


def dataset(*values: int, kind: str = "classes") -> DatasetManifest:
    return DatasetManifest(project="p", dataset="d", version=1, images=(), kind=kind, class_values=values)


@pytest.mark.parametrize(
    ("values", "asked", "expected"),
    [
        ((0, 255), {}, (0, 255)),
        ((0, 255), {"foreground_value": 0}, (255, 0)),
        ((0, 1, 2), {"ignore_value": 0}, (1, 2)),
        ((0, 1, 2), {"ignore_value": 0, "foreground_value": 1}, (2, 1)),
        ((1, 2, 5), {"ignore_value": 255}, (1, 2, 5)),
    ],
)
def test_classes_begin_with_the_background(values: Any, asked: Any, expected: Any) -> None:
    assert class_values(Unet2DParameters(**asked), dataset(*values)) == expected


@pytest.mark.parametrize(
    ("values", "asked", "field"),
    [
        ((0, 255), {"ignore_value": 0}, "ignore_value"),
        ((7,), {}, "ignore_value"),
        ((0, 1, 2), {"foreground_value": 1}, "foreground_value"),
        ((0, 255), {"foreground_value": 1}, "foreground_value"),
        ((), {"foreground_value": 1}, "foreground_value"),
        ((), {"ignore_value": 1}, "ignore_value"),
    ],
)
def test_values_that_tell_nothing_apart_are_refused(values: Any, asked: Any, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        class_values(Unet2DParameters(**asked), dataset(*values))
    assert [violation.field for violation in caught.value.violations] == [field]


def test_class_images_beside_labels_do_not_decide() -> None:
    assert class_values(Unet2DParameters(), dataset(1, 2, 3, kind="labels")) == ()


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        (Unet2DParameters(patch_size=100, poolings=3), "patch_size"),
        (Unet3DParameters(patch_size=20, poolings=3), "patch_size"),
        (Unet3DParameters(patch_depth=6, z_poolings=2), "patch_depth"),
        (Unet3DParameters(patch_depth=16, poolings=2, z_poolings=3), "z_poolings"),
    ],
)
def test_patches_must_fit_the_network(parameters: Any, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_dataset(parameters, dataset(0, 1))
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize(
    ("anisotropy", "depth", "asked", "expected"),
    [
        (1.0, 16, None, ((1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8))),
        (2.1, 16, None, ((1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8))),
        (40.0, 16, None, ((1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8))),
        (1.0, 6, None, ((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8))),
        (0.4, 5, None, ((1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8))),
        (4.0, 16, 3, ((1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8))),
    ],
)
def test_planes_far_apart_and_thin_patches_are_pooled_less(
    anisotropy: float, depth: int, asked: int | None, expected: Any
) -> None:
    resolved = Unet3DParameters(patch_depth=depth, z_poolings=asked).resolved(anisotropy)
    assert resolved.scales == expected
    assert resolved.resolved(1.0) == resolved


def test_the_network_is_asked_for_no_more_planes_than_a_patch_has() -> None:
    import torch

    from parfocal.unet.modules import Unet3D
    from parfocal.unet.network import UnetOfVolumes

    parameters = Unet3DParameters(patch_depth=6, patch_size=16, first_filters=2).resolved(1.0)
    module = UnetOfVolumes().network(parameters, 2, 3)
    assert isinstance(module, Unet3D)
    assert module(torch.zeros((1, 2, 6, 16, 16))).shape == (1, 3, 6, 16, 16)


def test_a_page_of_validation_images_is_drawn(tmp_path: Path) -> None:
    from parfocal.unet.figures import Overlay, validation_figure

    rng = np.random.default_rng(0)
    target = rng.integers(-1, 3, (5, 30, 40))
    classes = rng.integers(0, 3, (5, 30, 40)).astype(np.uint8)
    volume = Overlay("a $x$", rng.random((5, 30, 40, 1), np.float32), target, classes)
    wrong = ((target != classes) & (target >= 0)).sum(axis=(1, 2))
    assert volume.plane.name.endswith(str(int(wrong.argmax())))
    figure = validation_figure([volume], {"class_values": [0, 5, 9]})
    figure.savefig(tmp_path / "several.png")
    colours = Overlay("b", rng.random((30, 40, 3), np.float32), target[0] > 0, classes[0] > 0)  # type: ignore[arg-type]
    curve = np.linspace(0, 1, 99).tolist()
    two = {"class_values": [0, 255], "threshold": 0.4, "iou_by_threshold": curve}
    figure = validation_figure([colours, colours], two)
    figure.savefig(tmp_path / "two.png")
    drawn = [axes for part in figure.subfigs for axes in part.axes]  # type: ignore[attr-defined]
    assert len(drawn) == 1 + 2 * 3
