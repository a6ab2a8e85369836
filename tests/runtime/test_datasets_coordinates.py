"""Tables of localisations beside stacks of frames, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import PIXEL_NM, STACK, save
from support import mentions

from parfocal.runtime.datasets.coordinates import CoordinateReport, check_coordinates, read_localisations
from parfocal.runtime.errors import InvalidInputError, Violation

HEADER = "id,frame,x [nm],y [nm],sigma [nm],intensity [photon],uncertainty [nm]\n"
ROW = "1,1,150.5,1050,110,2000,12\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One stack of frames in source, and an empty folder target."""
    write_stack(tmp_path / "source" / "a.tif")
    (tmp_path / "target").mkdir()
    return tmp_path


def write_stack(path: Path, axes: str = "TYX", pixel_nm: float | None = PIXEL_NM) -> None:
    stack = np.random.default_rng(len(path.stem)).integers(90, 300, STACK).astype(np.uint16)
    save(path, stack if len(axes) == 3 else stack[0], axes, pixel_nm)


def check(folder: Path, text: str = HEADER + ROW, **options: Any) -> CoordinateReport:
    (folder / "target" / "a.csv").write_text(text)
    return check_coordinates(folder / "source", folder / "target", **options)


def problems(folder: Path, text: str = HEADER + ROW, **options: Any) -> tuple[Violation, ...]:
    with pytest.raises(InvalidInputError) as caught:
        check(folder, text, **options)
    return caught.value.violations


def test_places_are_pixels_from_the_corner(folder: Path) -> None:
    (stack,) = check(folder, HEADER + "2,3,0,3199.9,1,10,1\n" + ROW).stacks
    found = stack.localisations()
    assert found.frame.tolist() == [0, 2]
    assert found.x.tolist() == [1.505, 0]
    assert found.y.tolist() == pytest.approx([10.5, 31.999])
    assert found.intensity.tolist() == [2000, 10]
    assert found.uncertainty is not None
    assert found.uncertainty.tolist() == pytest.approx([0.12, 0.01])
    later = found.of_frame(2)
    assert (later.frame.tolist(), later.x.tolist()) == ([2], [0])
    assert later.uncertainty is not None
    assert found.of_frame(1).x.size == 0
    assert np.shares_memory(later.x, found.x)


def test_what_a_table_does_not_say_is_not_made_up(folder: Path) -> None:
    (stack,) = check(folder, '"frame","x [nm]","y [nm]"\n1,150,1050\n').stacks
    found = stack.localisations()
    assert np.isnan(found.intensity).all()
    assert found.uncertainty is None


def test_spaces_around_the_names_of_columns_cost_no_time(folder: Path) -> None:
    gap = " " * 5000
    (stack,) = check(folder, f'frame,{gap}"x{gap}[{gap}nm]"{gap},y [nm],{gap}]\n1,150,1050,0\n').stacks
    assert stack.localisations().x.tolist() == [1.5]


def test_published_tables_are_in_nm_and_by_frame(folder: Path, tmp_path: Path) -> None:
    text = "x [px];y [um];frame;intensity [photon];chi2\n20;1.5;5;7;0\n3;2.5;2;8;0\n"
    (stack,) = check(folder, text).stacks
    path = tmp_path / "stored.csv"
    path.write_bytes(stack.to_csv())
    assert path.read_text() == ('"frame","x [nm]","y [nm]","intensity [photon]"\n2,300,2500,8\n5,2000,1500,7\n')
    read, own = read_localisations(path, (0.1, 0.1), STACK), stack.localisations()
    for name in ("frame", "y", "x", "intensity"):
        assert getattr(read, name).tolist() == pytest.approx(getattr(own, name).tolist())
    with pytest.raises(InvalidInputError) as caught:
        read_localisations(path, (0.1, 0.1), (3, *STACK[1:]))
    assert {violation.field for violation in caught.value.violations} == {f"{tmp_path.name}/stored.csv"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,frame,x [nm]\n1,1,5\n", "y [nm]"),
        ("id,x [nm],y [nm]\n1,1,5\n", "frame"),
        ("frame,x,y\n1,1,5\n", "no unit"),
        ("frame,x [inch],y [nm]\n1,1,5\n", "inch"),
        ("frame,x [nm],x [px],y [nm]\n1,1,5,5\n", "twice"),
        ("frame,x [nm],y [nm]\n1,150,105\n2,far,5\n", "'far' in line 3"),
        ("frame,x [nm],y [nm]\n1,150,105\n2,5\n", "line 3"),
        ("frame,x [nm],y [nm]\n1,150,105\n2,nan,5\n", "line 3"),
        ("frame,x [nm],y [nm]\n1.5,150,105\n", "line 2"),
        ("frame,x [nm],y [nm]\n7,150,105\n1,150,105\n", "frame 7 of 6"),
        ("frame,x [nm],y [nm]\n-1,150,105\n1,150,105\n", "frame: 1 row"),
        ("frame,x [nm],y [nm]\n1,4200,105\n", "x: 1 row"),
        ("frame,x [nm],y [nm]\n1,105,-200\n", "y: 1 row"),
        ("", "frame"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(folder: Path, text: str, words: str) -> None:
    (violation,) = problems(folder, text)
    assert violation.field == "target/a.csv"
    assert words in violation.description


@pytest.mark.parametrize(("rows", "told"), [(3, True), (2, False)])
def test_pixels_said_to_be_nm_are_told(folder: Path, rows: int, told: bool) -> None:
    places = [(1.5, 2.5), (3.5, 30), (12, 7.25)][:rows]
    text = "frame,x [nm],y [nm]\n" + "".join(f"{n},{x},{y}\n" for n, (x, y) in enumerate(places, 1))
    assert any(mentions(warning, "corner", "unit") for warning in check(folder, text).warnings) == told
    inside = check(folder, text + "4,800,900\n")
    assert not any("corner" in warning for warning in inside.warnings)


def test_a_table_that_is_no_text_is_refused(folder: Path) -> None:
    check(folder)
    (folder / "target" / "a.csv").write_bytes(b"\xff\xfe\x00frame\x80")
    with pytest.raises(InvalidInputError) as caught:
        check_coordinates(folder / "source", folder / "target")
    assert [violation.field for violation in caught.value.violations] == ["target/a.csv"]


def test_what_is_left_out_converted_or_guessed_is_counted(folder: Path) -> None:
    text = "frame,x [px],y [nm],offset [photon]\n0,1,100,5\n0,39.9,3290,5\n0,2,-50,5\n2,2,50,5\n"
    report = check(folder, text)
    assert report.stacks[0].objects == 2
    empty, converted, outside, counted, column = sorted(report.warnings)
    assert mentions(empty, "Frames", "4 (target/a.csv: 2, 4, 5, 6)")
    assert mentions(converted, "nm from px")
    assert mentions(outside, "outside", ": 2 (target/a.csv)")
    assert mentions(counted, "frames from 0")
    assert mentions(column, "offset [photon]")


def test_the_pixel_size_must_be_known(folder: Path) -> None:
    write_stack(folder / "source" / "a.tif", pixel_nm=None)
    (violation,) = problems(folder)
    assert violation.field == "source/a.tif"
    assert "--pixel-size" in violation.description
    (stack,) = check(folder, pixel_size_nm=50).stacks
    assert stack.localisations().x.tolist() == [3.01]


def test_a_pixel_size_that_is_given_rules_which_is_said(folder: Path) -> None:
    report = check(folder, pixel_size_nm=200)
    assert report.stacks[0].localisations().x.tolist() == [0.7525]
    assert any("100 x 100 nm" in text for text in report.warnings)
    assert not any("pixel size" in text for text in check(folder, pixel_size_nm=100).warnings)


def test_planes_are_taken_for_frames_which_is_said(folder: Path) -> None:
    write_stack(folder / "source" / "a.tif", axes="ZYX")
    report = check(folder)
    assert report.stacks[0].image.axes == "TYX"
    assert any("frames" in text and "source/a.tif" in text for text in report.warnings)


def test_a_single_frame_is_no_stack(folder: Path) -> None:
    write_stack(folder / "source" / "a.tif", axes="YX")
    assert [violation.field for violation in problems(folder)] == ["source/a.tif"]


def test_partners_that_are_missing_are_named(folder: Path) -> None:
    write_stack(folder / "source" / "bb.tif")
    (folder / "target" / "c.csv").write_text(HEADER + ROW)
    assert [violation.field for violation in problems(folder)] == ["target/c.csv", "source/bb.tif"]


def test_a_stack_without_emitters_has_an_empty_table_but_not_all_of_them(folder: Path) -> None:
    write_stack(folder / "source" / "bb.tif")
    (folder / "target" / "bb.csv").write_text(HEADER)
    assert [stack.objects for stack in check(folder).stacks] == [1, 0]
    assert [violation.field for violation in problems(folder, HEADER)] == ["target"]
