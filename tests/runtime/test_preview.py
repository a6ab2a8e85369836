"""Previews of datasets of every kind: drawn without a framework, from what a training would see."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import write_kind
from matplotlib.figure import Figure
from PIL import Image as Picture
from support import nuclei_volumes, write_pairs

from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.datasets.view import FolderView
from parfocal.runtime.store.publish import file_entry
from parfocal.runtime.training.preview import PreviewParameters, preview_figure


def view(folder: Path, place: Path, kind: str = "", axes: str = "") -> FolderView:
    report = check_folder(folder, kind=kind, axes=axes)
    files, entries = [], []
    for item in report.items():
        path = place / item.file
        path.parent.mkdir(parents=True, exist_ok=True)
        entries.append(item.write(path))
        files.append(file_entry(path, item.file))
    manifest = report.manifest(files, entries, project="default", dataset="a$b_c", version=1)
    return FolderView(manifest=manifest, axes=axes or "YX", minimum_images=1, scratch=place / "scratch", folder=place)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def pixels(figure: Figure) -> Any:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Picture.open(buffer).convert("RGB"))


# What is shown of one image of each kind.
PANELS = {
    "paired": ("source", "target"),
    "labels": ("source", "target: "),
    "classes": ("source", "target: "),
    "sources": ("source",),
    "unpaired": ("source", "target"),
    "boxes": ("source",),
    "coordinates": ("source",),
}


@pytest.mark.parametrize("kind", PANELS)
def test_every_kind_is_drawn_with_what_belongs_to_it(kind: str, tmp_path: Path) -> None:
    data = view(write_kind(tmp_path / "images", kind), tmp_path / "laid", kind)
    parameters = PreviewParameters(patch_size=32, augment_angle=45, augment_angle_probability=1)
    figure = preview_figure(data, parameters, images=1, patches=2, augmented=True)
    found, wanted = titles(figure), PANELS[kind]
    assert len(found) == len(wanted) * 5  # an image, and two patches before and after
    assert all(title.startswith(start) for title, start in zip(found, wanted * 5, strict=True))
    assert sum("augmented" in title for title in found) == 2 * len(wanted)
    drawn = pixels(figure)
    assert drawn.std() > 10
    axes = figure.axes[0]
    if kind == "boxes":
        assert axes.patches
        assert {text.get_text() for text in axes.get_legend().get_texts()} <= {"small", "large"}
    if kind == "coordinates":
        assert len(axes.collections[0].get_offsets()) == 4
    coloured = np.abs(drawn[..., 0].astype(int) - drawn[..., 2]).max() > 40
    assert coloured == (kind in {"labels", "classes", "boxes", "coordinates"})


def test_volumes_show_one_plane(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "images", nuclei_volumes, (16, 40, 48))
    figure = preview_figure(view(folder, tmp_path / "laid", axes="ZYX"), PreviewParameters(), images=1, augmented=True)
    assert "plane" in titles(figure)[0]


def test_patches_are_those_of_the_seed_and_larger_than_no_image(tmp_path: Path) -> None:
    data = view(write_kind(tmp_path / "images", "labels"), tmp_path / "laid", "labels")
    pictures = [
        pixels(preview_figure(data, PreviewParameters(patch_size=4096, seed=seed), augmented=True))
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert pictures[0].shape == pictures[2].shape
    assert np.any(pictures[0] != pictures[2])


def test_what_does_not_change_patches_is_passed_over() -> None:
    values = {"epochs": 3, "batch_size": 4, "augment_zoom": 0.5, "patch_size": 96, "network_depth": 2}
    parameters = PreviewParameters.of(values)
    assert (parameters.augment_zoom, parameters.patch_size, parameters.batch_size) == (0.5, 96, 16)
