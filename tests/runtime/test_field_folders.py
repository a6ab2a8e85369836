"""Folders as they come from the field: whatever lies beside the images of a dataset is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.datasets.report import FolderReport
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.manifests import DatasetManifest

RNG = np.random.default_rng(0)


def dataset(folder: Path) -> Path:
    """Write two pairs for training and one for tests."""
    for split, count in (("train", 2), ("test", 1)):
        for role in ("source", "target"):
            (folder / split / role).mkdir(parents=True)
            for number in range(count):
                pixels = RNG.integers(50, 900, (32, 32)).astype(np.uint16)
                tifffile.imwrite(folder / split / role / f"{split}{number}.tif", pixels, metadata=None)
    return folder


def beside(report: FolderReport) -> list[str]:
    return [text for text in report.warnings if "were ignored" in text]


@pytest.mark.parametrize("name", ["masks", "GT", "labels"])
def test_targets_under_another_name_are_not_lost_silently(tmp_path: Path, name: str) -> None:
    folder = dataset(tmp_path)
    for split in ("train", "test"):
        (folder / split / "target").rename(folder / split / name)
    report = check_folder(folder)
    assert report.kind == "sources"
    (told,) = beside(report)
    assert f"2 (train/{name}/, test/{name}/)" in told


@pytest.mark.parametrize("name", ["Test", "val", "testing"])
def test_folders_that_are_no_split_are_named(tmp_path: Path, name: str) -> None:
    folder = dataset(tmp_path)
    (folder / "test").rename(folder / name)
    (told,) = beside(check_folder(folder))
    assert f"1 ({name}/)" in told


@pytest.mark.parametrize("place", ["train/target 2", "train/target-dapi", "train/sources", "other"])
def test_folders_that_are_no_role_are_named(tmp_path: Path, place: str) -> None:
    folder = dataset(tmp_path)
    (folder / place).mkdir()
    (told,) = beside(check_folder(folder))
    assert f"1 ({place}/)" in told


def test_files_of_the_system_and_about_the_whole_are_not_named(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    for name in ("README.md", "LICENSE", "classes.txt", ".DS_Store", "Thumbs.db", "train/.DS_Store"):
        (folder / name).touch()
    (folder / "train" / "source" / "._train0.tif").touch()
    assert beside(check_folder(folder)) == []


def test_images_whose_name_begins_with_a_dot_are_named(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    for role in ("source", "target"):
        (folder / "train" / role / "train1.tif").rename(folder / "train" / role / ".train1.tif")
    (told,) = beside(check_folder(folder))
    assert "2 (source/.train1.tif, target/.train1.tif)" in told


@pytest.mark.parametrize("roles", [("source",), ("source", "target")])
def test_links_to_nowhere_are_refused(tmp_path: Path, roles: tuple[str, ...]) -> None:
    folder = dataset(tmp_path)
    for role in roles:
        path = folder / "train" / role / "train1.tif"
        path.unlink()
        path.symlink_to(tmp_path / "nowhere.tif")
    with pytest.raises(InvalidInputError) as caught:
        check_folder(folder)
    named = {each.field for each in caught.value.violations if "link" in each.description}
    assert named == {f"train/{role}/train1.tif" for role in roles}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    with pytest.raises(InvalidInputError, match="is a file"):
        check_folder(folder / "train" / "source" / "train0.tif")


@pytest.mark.parametrize("change", [lambda path: path.with_suffix(".TIF"), lambda path: path.with_suffix(".ome.tif")])
def test_endings_do_not_part_pairs(tmp_path: Path, change: Callable[[Path], Path]) -> None:
    folder = dataset(tmp_path)
    for path in (folder / "train" / "source").iterdir():
        path.rename(change(path))
    assert [image.stem for image in check_folder(folder).train] == ["train0", "train1"]


@pytest.mark.parametrize(("target", "told"), [(5e4, True), (1e5, False), (None, False)])
def test_pixel_sizes_of_source_and_target_are_compared(tmp_path: Path, target: float | None, told: bool) -> None:
    folder = dataset(tmp_path)
    for role, density in (("source", 1e5), ("target", target)):
        path = folder / "train" / role / "train0.tif"
        resolution = None if density is None else (density, density)
        tifffile.imwrite(path, tifffile.imread(path), metadata=None, resolution=resolution, resolutionunit="CENTIMETER")
    found = [text for text in check_folder(folder).warnings if "but different pixel sizes" in text]
    assert len(found) == told
    assert all("1 (source/train0.tif and target/train0.tif)" in text for text in found)


def test_names_that_are_not_utf8_are_named_and_stored(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    for place in ("train/source", "train", "."):
        (folder / place / os.fsdecode(b"fl\xe4che.txt")).touch()
    report = check_folder(folder)
    assert [text.count("fl?che.txt") for text in beside(report)] == [2, 1]
    manifest = report.manifest((), (), project="p", dataset="d", version=1)
    assert DatasetManifest.model_validate_json(manifest.to_bytes()).warnings == report.warnings
