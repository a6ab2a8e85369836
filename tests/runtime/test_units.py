"""Lengths in files: every unit in every spelling is the same length, along each axis by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from parfocal.runtime.images.files import PixelSize, read_image
from parfocal.runtime.images.units import length_in_micrometres, micrometres

STACK = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16)


@pytest.mark.parametrize(
    ("spellings", "length"),
    [
        (("pm", "picometer"), 1e-6),
        (("Å", "Å", "angstrom", "Angstroms"), 1e-4),
        (("nm", "NM", "nanometer", "nanometers", "Nanometre"), 1e-3),
        (
            ("µm", "μm", "um", "\\u00B5m", "\\u03bcm", "micron", "Microns", "MICROMETER", "micrometres", "Âµm", " um "),
            1.0,
        ),
        (("mm", "MM", "millimeter", "millimetres"), 1e3),
        (("cm", "centimeter"), 1e4),
        (("in", "inch", "inches", '"'), 25400.0),
        (("m", "meter", "metres"), 1e6),
        (("Mm",), 1e12),
        (("pixel", "pixels", "px", "", "sec", "reference frame", "furlong"), None),
    ],
)
def test_spellings_of_units(spellings: tuple[str, ...], length: float | None) -> None:
    for spelling in spellings:
        assert micrometres(spelling) == (None if length is None else pytest.approx(length)), spelling


@pytest.mark.parametrize(
    ("value", "length"),
    [(0.3, 0.3), ("0.3", 0.3), ("-0.3", 0.3), ("0,3", 0.3), ("3e-1", 0.3), (0, None), ("nan", None), ("x", None)],
)
def test_values_with_signs_and_commas(value: object, length: float | None) -> None:
    assert length_in_micrometres(value, "µm") == (None if length is None else pytest.approx(length))


@pytest.mark.parametrize(
    ("metadata", "per_unit", "size"),
    [
        ({"unit": "nm", "yunit": "nm", "zunit": "micron", "spacing": 0.3}, 0.01, (0.1, 0.1, 0.3)),
        ({"unit": "micron", "zunit": "nm", "spacing": 300.0}, 10, (0.1, 0.1, 0.3)),
        ({"unit": "\\u00B5m", "spacing": -0.3}, 10, (0.1, 0.1, 0.3)),
        ({"unit": "mm", "yunit": "\\u00B5m", "zunit": "um", "spacing": 2}, 2, (500.0, 0.5, 2.0)),
        ({"unit": "micron", "zunit": "pixel", "spacing": 3}, 10, (0.1, 0.1, None)),
        ({"unit": "pixel", "spacing": 3}, 10, None),
    ],
)
def test_imagej_says_units_for_each_axis(
    tmp_path: Path, metadata: dict[str, Any], per_unit: float, size: tuple[float, ...] | None
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, STACK, imagej=True, resolution=(per_unit, per_unit), metadata={"axes": "ZYX", "loop": False, **metadata}
    )
    found = read_image(path).pixel_size
    if size is None:
        assert found is None
    else:
        assert found is not None
        assert (found.x, found.y) == pytest.approx(size[:2])
        assert found.z == (None if size[2] is None else pytest.approx(size[2]))


@pytest.mark.parametrize(("unit", "value"), [("nm", "65"), ("Å", "650"), ("mm", "-6.5e-5"), ("inch", "2.5590551e-6")])
def test_ome_says_units(tmp_path: Path, unit: str, value: str) -> None:
    path = tmp_path / "a.ome.tif"
    size = {f"PhysicalSize{axis}": value for axis in "XYZ"}
    units = {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
    tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "ZYX", **size, **units})
    found = read_image(path).pixel_size
    assert found is not None
    assert (found.x, found.y, found.z) == pytest.approx((0.065, 0.065, 0.065))


def test_unknown_units_and_printers_resolutions_are_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, imagej=True, resolution=(10, 10), metadata={"axes": "ZYX", "unit": "furlong"})
    image = read_image(path)
    assert image.pixel_size is None
    assert [(note.code, note.detail) for note in image.notes] == [("unit-unknown", "furlong")]
    tifffile.imwrite(path, STACK[0], resolution=(72, 72), resolutionunit="INCH", metadata=None)
    image = read_image(path)
    assert image.pixel_size is None
    assert [note.code for note in image.notes] == ["resolution-ignored"]
    tifffile.imwrite(path, STACK[0], resolution=(1e5, 2e5), resolutionunit="CENTIMETER", metadata=None)
    assert read_image(path).pixel_size == PixelSize(pytest.approx(0.1), pytest.approx(0.05))  # type: ignore[arg-type]
