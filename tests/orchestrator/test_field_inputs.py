"""What is said of images before a model is applied to them, and of formats that are converted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile

from parfocal import v1
from parfocal.cli._errors import unsaid
from parfocal.client.convert import convert
from parfocal.client.formats.bioio_reader import PACKAGES, pixel_size
from parfocal.client.results import find_inputs, passed_over, unsuitable_inputs
from parfocal.runtime.errors import InvalidInputError, Violation, refusal
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.store.manifests import ModelManifest

PLANE = np.arange(256, dtype=np.uint16).reshape(16, 16)
METHOD = v1.Method(title="M", data_requirements=v1.DataRequirements(axes="ZYX"))
MODEL = ModelManifest(
    project="p",
    model="m",
    version=1,
    service="s",
    method="m",
    job="j",
    axes="ZYX",
    dataset_uri="",
    normaliser={},
    parameters={},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stack = np.stack([PLANE] * 4)
    tifffile.imwrite(tmp_path / "good.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "channels.tif", stack, imagej=True, metadata={"axes": "CYX"})
    (tmp_path / "broken.tif").write_text("broken")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    (tmp_path / "masks").mkdir()
    return tmp_path


def test_one_unreadable_file_is_left_out_and_named(folder: Path) -> None:
    unfit = unsuitable_inputs(METHOD, MODEL, find_inputs(folder))
    assert {path.name for path in unfit} == {"broken.tif", "channels.tif"}
    assert {each.field for each in unfit.values()} == {"broken.tif", "channels.tif"}


def test_given_axes_replace_those_of_the_file(folder: Path) -> None:
    unfit = unsuitable_inputs(METHOD, MODEL, find_inputs(folder), "ZYX")
    assert {path.name for path in unfit} == {"broken.tif"}


def test_what_is_passed_over_is_named(folder: Path) -> None:
    assert passed_over(folder) == ["a.gif", "masks/", "notes.txt"]
    assert passed_over(folder / "good.tif") == []


@pytest.mark.parametrize("suffix", [".btf", ".tf8", ".ome.btf", ".bmp"])
def test_inputs_of_every_ending_are_taken(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert [path.name for path in find_inputs(tmp_path)] == [f"a{suffix}"]


def test_violations_are_not_listed_a_second_time() -> None:
    problems = [Violation(f"a{number}.tif", f"has {number} faults") for number in range(40)]
    assert unsaid(refusal("No good:", problems).message, problems) == []
    assert len(unsaid("No good.", [*problems, problems[0]])) == 40


@pytest.mark.parametrize(("name", "package"), [("a.czi", "bioio-czi"), ("a.vsi", "bioio-bioformats")])
def test_the_right_package_is_named(tmp_path: Path, name: str, package: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x")
    assert "bioio-czi" in PACKAGES.values()
    with pytest.raises(InvalidInputError) as caught:
        convert(path, tmp_path)
    assert package in caught.value.message or "cannot be read" in caught.value.message  # if a reader is installed


def opened(x: float | None, y: float | None, z: float | None, unit: str | None = None) -> Any:
    """Return what readers of bioio say of an image: sizes without units, and the units beside them."""
    axes = {axis: SimpleNamespace(unit=unit) for axis in "XYZ"}
    return SimpleNamespace(
        physical_pixel_sizes=SimpleNamespace(X=x, Y=y, Z=z), dimension_properties=SimpleNamespace(**axes)
    )


def test_units_of_readers() -> None:
    size, notes = pixel_size(opened(65.0, 65.0, 300.0, "nanometer"))
    assert size is not None
    assert (size.x, size.y, size.z) == pytest.approx((0.065, 0.065, 0.3))
    assert notes == ()
    size, notes = pixel_size(opened(0.1, 0.1, None))
    assert size == PixelSize(0.1, 0.1, None)
    assert notes == ()
    size, notes = pixel_size(opened(0.1, 0.1, None, "furlong"))
    assert size is None
    assert [note.code for note in notes] == ["unit-unknown"]
