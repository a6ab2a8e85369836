"""Targets with colours or channels of their own: checked, admitted, cut into patches, and given back as images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import save
from fake import SERVICE

from parfocal import v1
from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.datasets.pairs import check_pairs
from parfocal.runtime.datasets.view import FolderView
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.jobs.admission import check_dataset
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.parameters import TrainingParameters
from parfocal.runtime.methods.roles import Roles
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import DatasetManifest, ImageEntry
from parfocal.runtime.training.batches import targets_last
from parfocal.runtime.training.data import open_pairs, open_unpaired

METHOD = replace(SERVICE.method("fake-2d"), target=v1.TARGET_KIND_PAIRED_IMAGE)
SHAPE = (40, 50)


@pytest.fixture(params=["YXS", "CYX"])
def axes(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def channels_of(axes: str) -> int:
    return 3 if "S" in axes else 2


def write(folder: Path, axes: str, stems: str = "abcd") -> Path:
    """Write grey sources of 16 bits and targets whose channels are multiples of them."""
    rng = np.random.default_rng(0)
    for stem in stems:
        source = rng.integers(0, 60, SHAPE)
        target = np.stack([source * (number + 1) for number in range(channels_of(axes))], axis=-1)
        save(folder / "train" / "source" / f"{stem}.tif", source.astype(np.uint16))
        kept = target if "S" in axes else np.moveaxis(target, -1, 0)
        save(folder / "train" / "target" / f"{stem}.tif", kept.astype(np.uint8 if "S" in axes else np.uint16), axes)
    return folder


def view(folder: Path, kind: str) -> FolderView:
    report = check_folder(folder, kind=kind)
    entries = []
    for item in report.items():
        (folder / "copy" / item.file).parent.mkdir(parents=True, exist_ok=True)
        entries.append(item.write(folder / "copy" / item.file))
    manifest = report.manifest((), entries, project="p", dataset="d", version=1)
    place = folder / "copy"
    return FolderView(manifest=manifest, axes="YX", minimum_images=1, scratch=folder / "scratch", folder=place)


def parameters(**values: Any) -> TrainingParameters:
    return TrainingParameters(**{"patch_size": 16, "batch_size": 3, "validation_fraction": 0.25, **values})


def test_a_folder_may_have_targets_in_colour_if_they_are_said_to_be_images(tmp_path: Path, axes: str) -> None:
    write(tmp_path, axes)
    report = check_folder(tmp_path, kind="paired")
    assert {image.axes for image in report.images["train", "target"]} == {axes}
    with pytest.raises(InvalidInputError) as caught:
        check_folder(tmp_path)
    assert {violation.field for violation in caught.value.violations} == {f"train/target/{stem}.tif" for stem in "abcd"}


def test_partners_are_compared_along_the_axes_they_share(tmp_path: Path, axes: str) -> None:
    folder = write(tmp_path, axes) / "train"
    report = check_pairs(folder / "source", folder / "target", axes="YX", target_axes=axes)
    assert {pair.shape for pair in report.pairs} == {SHAPE}
    save(folder / "source" / "b.tif", np.random.default_rng(0).integers(0, 60, (40, 48)).astype(np.uint16))
    with pytest.raises(InvalidInputError) as caught:
        check_pairs(folder / "source", folder / "target", axes="YX", target_axes=axes)
    assert [violation.field for violation in caught.value.violations] == ["source/b.tif"]


def test_channels_of_targets_come_last_in_batches_and_validation_images(tmp_path: Path, axes: str) -> None:
    opened = open_pairs(view(write(tmp_path, axes), "paired"), parameters(augment_angle=30), Normaliser())
    count = channels_of(axes)
    (port,) = opened.facts.targets
    assert (port.channels, port.channel_axis) == (count, "S" if "S" in axes else "C")
    assert len(port.scale) == len(port.offset) == count
    assert port.scale[1] == pytest.approx(2 * port.scale[0])
    assert opened.facts.output_channels == count
    for batch in (opened.batches.batch(1, 0), opened.batches.validation_batch(0)):
        assert batch.input.shape == (batch.size, 16, 16, 1)
        assert batch.targets.shape == (batch.size, 16, 16, count)
        # Every channel is a multiple of the source, so all are the same on their own scales.
        for channel in range(count):
            np.testing.assert_allclose(batch.targets[..., channel], batch.input[..., 0], atol=1e-4)
    for image in opened.validation_images():
        assert image.targets.shape == (*image.input.shape[:2], count)
        np.testing.assert_allclose(image.targets[..., -1], image.input[..., 0], atol=1e-4)


def test_unpaired_sets_have_channels_of_their_own_and_statistics_of_both(tmp_path: Path, axes: str) -> None:
    opened = open_unpaired(view(write(tmp_path, axes), "unpaired"), parameters(), Normaliser())
    back = opened.facts.directed(backwards=True)
    assert (back.input_channels, back.output_channels) == (channels_of(axes), 1)
    assert (back.source, back.target_roles) == ("target", ("source",))
    assert opened.facts.directed(backwards=False) == opened.facts
    assert opened.facts.measured["target_statistics"]["images"] == 4


def entry(role: str, stem: str, shape: tuple[int, ...], axes: str) -> ImageEntry:
    return ImageEntry(
        split="train", role=role, stem=stem, file=f"train/{role}/{stem}.tif", shape=shape, dtype="uint8", axes=axes
    )


def fields(method: Any, *images: ImageEntry) -> list[str]:
    manifest = DatasetManifest(project="p", dataset="d", version=1, images=images)
    try:
        check_dataset(method, manifest, Roles())
    except InvalidInputError as error:
        return [violation.field for violation in error.violations]
    return []


def test_methods_say_whether_their_targets_may_have_channels() -> None:
    grey = [entry("source", stem, (40, 50), "YX") for stem in "ab"]
    colours = [entry("target", stem, (40, 50, 3), "YXS") for stem in "ab"]
    assert fields(METHOD, *grey, *colours) == ["train/target/a.tif", "train/target/b.tif"]
    coloured = replace(METHOD, target_channel_axes="SC")
    assert fields(coloured, *grey, *colours) == []
    other = entry("target", "b", (2, 40, 50), "CYX")
    assert fields(coloured, *grey, colours[0], other) == ["train/target/b.tif"]
    smaller = entry("target", "b", (40, 48, 3), "YXS")
    assert fields(coloured, *grey, colours[0], smaller) == ["train/source/b.tif"]


def test_targets_follow_one_another_along_the_last_axis() -> None:
    first, second = np.zeros((2, 3, 4, 5)), np.ones((2, 3, 4, 5))
    joined = targets_last([first, second], "BCYX")
    assert joined.shape == (2, 4, 5, 6)
    np.testing.assert_array_equal(joined[0, 0, 0], [0, 0, 0, 1, 1, 1])
    assert targets_last([first[:, 0], second[:, 0]], "BYX").shape == (2, 4, 5, 2)


def test_each_picture_has_the_channels_of_its_target() -> None:
    from fake.kinds.sources import TinySources

    ports = (Port(role="target", channels=3, channel_axis="S"), Port(role="target_B"))
    output = np.arange(4 * 5 * 4, dtype=np.float32).reshape(4, 5, 4)
    pictures = TinySources().interpret(output, None, Facts(targets=ports))  # type: ignore[arg-type]
    assert {name: (each.pixels.shape, each.channel_axis) for name, each in pictures.items()} == {
        "prediction": ((4, 5, 3), "S"),
        "target_B": ((4, 5), ""),
    }
    np.testing.assert_array_equal(pictures["target_B"].pixels, output[..., 3])


def test_a_training_on_kinds_of_image_that_do_not_show_as_much_is_warned_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stripes = 100 + 100 * (np.sin(np.arange(SHAPE[1]) / 2) > 0) + np.zeros(SHAPE)
    for number in range(3):
        noise = rng.normal(0, 5, (2, *SHAPE))
        save(tmp_path / "train" / "source" / f"a{number}.tif", (100 + noise[0]).astype(np.uint16))
        save(tmp_path / "train" / "target" / f"b{number}.tif", (stripes + noise[1]).astype(np.uint16))
    said: list[str] = []
    open_unpaired(replace(view(tmp_path, "unpaired"), warn=said.append), parameters(), Normaliser())
    assert [warning for warning in said if warning.startswith("Structure covers")]
    said.clear()
    for path in (tmp_path / "train" / "source").iterdir():
        save(path, (stripes + rng.normal(0, 5, SHAPE)).astype(np.uint16))
    open_unpaired(replace(view(tmp_path, "unpaired"), warn=said.append), parameters(), Normaliser())
    assert not [warning for warning in said if warning.startswith("Structure covers")]
