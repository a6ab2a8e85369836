"""Names of channels, times and dates: read, kept with the image, and left out where they are damaged or do not fit."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.images.acquired import UNKNOWN, Acquired, acquired, in_seconds
from parfocal.runtime.images.files import Image, inspect_image, read_image, write_image

KNOWN = Acquired(('DAPI <405> & "GFP"', "Ünicode"), 2.5, "2026-03-01T12:30:00")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    pixels = np.arange(3 * 2 * 20 * 24, dtype=np.uint16).reshape(3, 2, 20, 24)
    write_image(tmp_path / "a.tif", Image(pixels, "TCYX", acquired=KNOWN))
    assert read_image(tmp_path / "a.tif").acquired == KNOWN
    assert inspect_image(tmp_path / "a.tif").acquired == KNOWN


@pytest.mark.parametrize(
    ("axes", "shape", "left"),
    [
        ("YX", (20, 24), Acquired(date=KNOWN.date)),
        ("TYX", (3, 20, 24), Acquired((), 2.5, KNOWN.date)),
        ("CYX", (3, 20, 24), Acquired(date=KNOWN.date)),
        ("CYX", (2, 20, 24), Acquired(KNOWN.channels, None, KNOWN.date)),
    ],
)
def test_what_does_not_fit_the_axes_is_left_out(
    axes: str, shape: tuple[int, ...], left: Acquired, tmp_path: Path
) -> None:
    write_image(tmp_path / "a.tif", Image(np.zeros(shape, np.uint8), axes, acquired=KNOWN))
    assert read_image(tmp_path / "a.tif").acquired == left


def test_files_of_which_nothing_is_known_stay_the_same_bytes(tmp_path: Path) -> None:
    pixels = np.arange(480, dtype=np.uint16).reshape(20, 24)
    write_image(tmp_path / "a.tif", Image(pixels, "YX"))
    write_image(tmp_path / "b.tif", Image(pixels, "YX", acquired=Acquired(("one", "two"), 3.0)))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert read_image(tmp_path / "a.tif").acquired.channels == ()


def test_times_of_planes_and_of_imagej_are_read(tmp_path: Path) -> None:
    pixels = np.zeros((4, 20, 24), np.uint16)
    planes = {"DeltaT": [0, 500, 1000, 1500], "DeltaTUnit": ["ms"] * 4}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata={"axes": "TYX", "Plane": planes})
    assert read_image(tmp_path / "a.ome.tif").acquired.seconds == pytest.approx(0.5)
    tifffile.imwrite(tmp_path / "b.tif", pixels, imagej=True, metadata={"axes": "TYX", "finterval": 12.0})
    assert read_image(tmp_path / "b.tif").acquired == Acquired((), 12.0)


@pytest.mark.parametrize(
    ("value", "unit", "seconds"),
    [(2, "min", 120.0), ("3", "Second", 3.0), (0, "s", None), (-1, "s", None), ("nan", "s", None), (5, "px", None)],
)
def test_times_in_any_unit(value: Any, unit: str, seconds: float | None) -> None:
    assert in_seconds(value, unit) == seconds


def test_what_is_damaged_is_left_out() -> None:
    assert acquired(["a\x00\x1bb", "c" * 500]).channels == ("ab", "c" * 100)
    assert acquired(["", ""]) == UNKNOWN
    assert acquired(["x"] * 5000) == UNKNOWN
    assert acquired(date="yesterday") == UNKNOWN
    assert acquired(date=datetime(2026, 3, 1)).date == "2026-03-01T00:00:00"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("2026-03-01", "2026-03-01T00:00:00"),
        ("2026-W09-7", "2026-03-01T00:00:00"),
        ("20260301T123000", "2026-03-01T12:30:00"),
        ("2026-03-01T12:30", "2026-03-01T12:30:00"),
        ("2026-03-01T12:30:00.5Z", "2026-03-01T12:30:00.5Z"),
    ],
)
def test_dates_have_the_form_that_ome_tiff_knows(said: str, kept: str) -> None:
    assert acquired(date=said).date == kept


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_frame_with_a_number_that_none_can_have_is_passed_over(digits: int, tmp_path: Path) -> None:
    planes = "".join(
        f'<Plane TheT="{at}" TheC="0" TheZ="0" DeltaT="{2 * place}"/>'
        for place, at in enumerate([0, 1, 2, "9" * digits])
    )
    size = 'SizeX="24" SizeY="20" SizeC="1" SizeZ="1" SizeT="4"'
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        np.zeros((4, 20, 24), np.uint8),
        photometric="minisblack",
        metadata=None,
        description='<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" {size}>'
        f'<Channel ID="Channel:0:0"/><TiffData/>{planes}</Pixels></Image></OME>',
    )
    assert inspect_image(tmp_path / "a.ome.tif").acquired.seconds == 2.0


def test_a_dataset_keeps_the_names_of_channels(tmp_path: Path) -> None:
    (tmp_path / "train" / "source").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 99, (2, 40, 48)).astype(np.uint16)
    write_image(tmp_path / "train" / "source" / "a.tif", Image(pixels, "CYX", acquired=Acquired(("red", "green"))))
    report = check_folder(tmp_path, kind="sources", axes="CYX")
    report.items()[0].write(tmp_path / "out.tif")
    assert read_image(tmp_path / "out.tif").acquired.channels == ("red", "green")


@pytest.mark.parametrize(
    ("labels", "names"), [(["DAPI", "GFP"], ("DAPI", "GFP")), (["DAPI"], ()), (["a", "b", "c", "d"], ())]
)
def test_labels_that_fiji_gives_to_channels_are_their_names(
    tmp_path: Path, labels: list[str], names: tuple[str, ...]
) -> None:
    path = tmp_path / "composite.tif"
    pixels = np.zeros((2, 16, 20), np.uint16)
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "CYX", "Labels": labels})
    assert inspect_image(path).acquired.channels == names
