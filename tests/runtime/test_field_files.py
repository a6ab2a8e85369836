"""Files as they come from the field: nothing is dropped, converted or guessed without being named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
from numpy.typing import NDArray

from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.datasets.report import FolderReport
from parfocal.runtime.errors import InvalidInputError, Violation, refusal
from parfocal.runtime.images.files import Image, inspect_image, read_image, write_image

RNG = np.random.default_rng(0)
PLANES = RNG.integers(50, 900, (12, 20, 30)).astype(np.uint16)
OWN, OTHER = (f"urn:uuid:00000000-0000-0000-0000-00000000000{number}" for number in (1, 2))


def xml(
    size: tuple[int, int] = (30, 20), planes: dict[str, int] | None = None, inside: str = "", root: str = ""
) -> str:
    """Return OME metadata of one image of (X, Y) pixels."""
    counts = {"Z": 1, "C": 1, "T": 1, **(planes or {})}
    sizes = " ".join(f'Size{axis}="{count}"' for axis, count in counts.items())
    return (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{root}>'
        '<Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="{size[0]}" SizeY="{size[1]}" {sizes} '
        f'PhysicalSizeX="100" PhysicalSizeXUnit="nm" PhysicalSizeY="100" PhysicalSizeYUnit="nm">'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{inside}</Pixels></Image></OME>'
    )


def pages(path: Path, planes: Iterable[NDArray[Any]], description: str | None = None) -> Path:
    """Write planes as pages of their own, the description in the first one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as writer:
        for number, plane in enumerate(planes):
            text = description if number == 0 else None
            writer.write(plane, photometric="minisblack", metadata=None, description=text)
    return path


def codes(path: Path, **how: Any) -> list[str]:
    return [note.code for note in read_image(path, **how).notes]


@pytest.mark.parametrize(
    "metadata",
    [
        xml(inside='<TiffData IFD="0" PlaneCount="1"/>'),
        xml(planes={"Z": 4}, inside='<TiffData IFD="0" PlaneCount="4"/>'),
        xml(inside='<TiffData FirstC="0" IFD="0" PlaneCount="1"/><TiffData FirstC="1" IFD="1" PlaneCount="1"/>'),
        "ImageJ=1.54f\nimages=4\nslices=4\n",
    ],
)
def test_planes_that_metadata_leave_out_are_refused_unless_somebody_says_what_they_are(
    tmp_path: Path, metadata: str
) -> None:
    path = pages(tmp_path / "a.ome.tif", PLANES, metadata)
    with pytest.raises(InvalidInputError, match=r"a\.ome\.tif.*12"):
        inspect_image(path)
    image = read_image(path, axes="ZYX")
    np.testing.assert_array_equal(image.pixels, PLANES)
    assert "metadata-ignored" in [note.code for note in image.notes]


@pytest.mark.parametrize(
    ("metadata", "count"),
    [
        (xml((5920, 5680), {"C": 3}, '<TiffData IFD="0" PlaneCount="3"/>'), 1),
        (xml(planes={"C": 3}, inside='<TiffData IFD="0" PlaneCount="3"/>'), 1),
        (xml(planes={"T": 40}, inside='<TiffData IFD="0" PlaneCount="40"/>'), 5),
    ],
)
def test_metadata_of_the_original_are_left_out_of_a_crop(tmp_path: Path, metadata: str, count: int) -> None:
    path = pages(tmp_path / "crop.tif", PLANES[:count], metadata)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, PLANES[:count].squeeze())
    assert image.notes[-1 if count == 1 else 0].code == "metadata-ignored" or "metadata-ignored" in codes(path)
    assert image.pixel_size is not None
    assert (image.pixel_size.x, image.pixel_size.y) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("metadata", ["ImageJ=1.54f\nimages=30\nslices=30\n", '{"shape": [3, 20, 30]}'])
def test_other_metadata_that_do_not_fit_are_named(tmp_path: Path, metadata: str) -> None:
    path = pages(tmp_path / "a.tif", PLANES, metadata)
    np.testing.assert_array_equal(read_image(path).pixels, PLANES)
    assert {"metadata-ignored", "reader"} & set(codes(path))


def test_a_cut_block_of_planes_is_refused(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.tif", tmp_path / "cut.tif"
    text = "ImageJ=1.54f\nimages=12\nslices=12\n"
    planes = np.zeros((12, 64, 64), np.uint16)
    tifffile.imwrite(whole, planes[0], description=text, metadata=None)
    with whole.open("ab") as file:
        file.write(planes[1:].tobytes())
    assert read_image(whole).pixels.shape == planes.shape
    cut.write_bytes(whole.read_bytes()[:-10_000])
    with pytest.raises(InvalidInputError, match="truncated"):
        inspect_image(cut)


def test_a_cut_copy_is_no_crop(tmp_path: Path) -> None:
    whole = pages(tmp_path / "whole.tif", PLANES, xml(planes={"Z": 12}, inside='<TiffData IFD="0" PlaneCount="12"/>'))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[:-3000])
    with pytest.raises(InvalidInputError, match="truncated"):
        inspect_image(cut)


@pytest.mark.parametrize(("axis", "count"), [("C", 2), ("T", 320), ("Z", 7)])
def test_one_file_of_a_set_names_the_others(tmp_path: Path, axis: str, count: int) -> None:
    data = "".join(
        f'<TiffData First{axis}="{number}" IFD="0" PlaneCount="1"><UUID FileName="part{number}.ome.tif">'
        f"urn:uuid:{number}</UUID></TiffData>"
        for number in range(count)
    )
    path = pages(
        tmp_path / "renamed.ome.tif", PLANES[:1], xml(planes={axis: count}, inside=data, root=' UUID="urn:uuid:0"')
    )
    with pytest.raises(InvalidInputError) as caught:
        inspect_image(path)
    assert f"one of {count} files" in caught.value.message
    assert "part1.ome.tif" in caught.value.message
    assert "part0.ome.tif" not in caught.value.message
    image = read_image(path, axes="YX")
    np.testing.assert_array_equal(image.pixels, PLANES[0])
    assert "metadata-ignored" in [note.code for note in image.notes]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["UNASSALPHA", "ASSOCALPHA"])
def test_an_opaque_alpha_channel_of_a_grey_tiff_is_dropped_and_named(tmp_path: Path, dtype: str, kind: str) -> None:
    path = tmp_path / "a.tif"
    grey = (PLANES[0] % 200).astype(dtype)
    opaque = np.full_like(grey, 1 if dtype == "float32" else np.iinfo(dtype).max)
    how: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(path, np.dstack([grey, opaque]), extrasamples=[kind], **how)
    np.testing.assert_array_equal(read_image(path).pixels, grey)
    assert inspect_image(path).axes == "YX"
    assert codes(path) == ["alpha-dropped"]
    opaque[0, 0] = 0
    tifffile.imwrite(path, np.dstack([grey, opaque]), extrasamples=[kind], **how)
    with pytest.raises(InvalidInputError, match="transparency"):
        read_image(path)
    tifffile.imwrite(path, np.dstack([grey, opaque]), extrasamples=["UNSPECIFIED"], **how)
    assert read_image(path).axes == "CYX"


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_white_is_the_highest_value_of_images_of_few_bits(tmp_path: Path, bits: int) -> None:
    if bits > 1:
        pytest.importorskip("imagecodecs", "2026.3", reason="older versions cannot write such images, only read them")
    white = 2**bits - 1
    shown = RNG.integers(0, white + 1, (20, 32)).astype(np.uint8)
    stored = tmp_path / "stored.tif"
    values = (white - shown).astype(bool) if bits == 1 else white - shown
    how: dict[str, Any] = {} if bits == 1 else {"bitspersample": bits}
    tifffile.imwrite(stored, values, photometric="miniswhite", metadata=None, **how)
    np.testing.assert_array_equal(read_image(stored).pixels, shown)
    assert codes(stored) == ["white-is-zero"]
    values = shown.astype(bool) if bits == 1 else shown
    tifffile.imwrite(stored, values, photometric="minisblack", metadata=None, **how)
    np.testing.assert_array_equal(read_image(stored).pixels, shown)
    assert codes(stored) == []


def test_an_inverted_table_of_whole_bytes_changes_no_value_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANES[0], photometric="miniswhite", metadata=None)
    np.testing.assert_array_equal(read_image(path).pixels, PLANES[0])
    assert codes(path) == ["inverted-table"]


@pytest.mark.parametrize("declared", ["CYX", "TYX", "ZYX"])
@pytest.mark.parametrize("given", ["CYX", "TYX", "ZYX"])
def test_axes_that_somebody_gives_replace_those_of_the_file(tmp_path: Path, declared: str, given: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANES, imagej=True, metadata={"axes": declared})
    image = read_image(path, axes=given)
    assert image.axes == given
    np.testing.assert_array_equal(image.pixels, PLANES)
    assert [note.detail for note in image.notes] == ([] if given == declared else [f"{declared} as {given}"])
    assert read_image(path, axes="YX").axes == declared  # another number of axes says nothing


def test_a_guess_about_planes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANES, photometric="minisblack", metadata=None)
    assert codes(path) == ["axes-guessed"]
    assert codes(path, axes="ZYX") == []


def test_lossy_compression_is_named(tmp_path: Path) -> None:
    PIL.Image.fromarray((PLANES[0] % 256).astype(np.uint8)).save(tmp_path / "a.jpg")
    assert codes(tmp_path / "a.jpg") == ["lossy"]
    tifffile.imwrite(tmp_path / "a.tif", (PLANES[0] % 256).astype(np.uint8), compression="jpeg", metadata=None)
    assert codes(tmp_path / "a.tif") == ["lossy"]


# Folders


def folder_of(folder: Path, suffix: str = ".tif", count: int = 3) -> Path:
    """Write pairs of grey images; the last one ends in `suffix`."""
    for split, numbers in (("train", range(count)), ("test", (9,))):
        for role in ("source", "target"):
            (folder / split / role).mkdir(parents=True, exist_ok=True)
            for number in numbers:
                end = suffix if number == count - 1 else ".tif"
                pixels = np.random.default_rng(number + 50 * (role == "target")).integers(0, 250, (32, 32))
                path = folder / split / role / f"f{number}{end}"
                if end == ".bmp":
                    PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)
                else:
                    tifffile.imwrite(path, pixels.astype(np.uint16), metadata=None)
    return folder


@pytest.mark.parametrize("suffix", [".btf", ".tf8", ".tf2", ".ome.btf", ".ome.tf8", ".BTF", ".bmp"])
def test_every_ending_of_images_is_read(tmp_path: Path, suffix: str) -> None:
    report = check_folder(folder_of(tmp_path, suffix))
    assert [image.stem for image in report.train] == ["f0", "f1", "f2"]


@pytest.mark.parametrize("name", ["f7.gif", "f7.npy", "notes.txt", "f7.tif.bak", "masks/"])
def test_what_is_passed_over_is_named_once(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path)
    for role in ("source", "target"):
        path = folder / "train" / role / name
        path.mkdir() if name.endswith("/") else path.write_bytes(b"x")
    told = [text for text in check_folder(folder).warnings if "were ignored" in text]
    assert len(told) == 1
    assert ": 2 (" in told[0]
    assert f"source/{name}" in told[0]


def test_the_same_finding_of_many_files_is_one_sentence(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, count=8)
    for path in sorted((folder / "train" / "source").iterdir()):
        pages(path, [read_image(path).pixels], xml((99, 99)))
    told = [text for text in check_folder(folder).warnings if "metadata" in text]
    assert len(told) == 1
    assert ": 8 (" in told[0]
    assert "3 more" in told[0]


def test_a_refusal_says_the_same_fault_of_many_files_once() -> None:
    problems = [Violation(f"a{number}.tif", "is torn") for number in range(30)] + [Violation("b.tif", "is wet")]
    error = refusal("No good:", problems)
    assert error.message.count("is torn") == 1
    assert "27 more" in error.message
    assert len(error.violations) == 31


def test_a_part_of_a_dataset_is_not_taken_for_one(tmp_path: Path) -> None:
    folder_of(tmp_path)
    with pytest.raises(InvalidInputError, match="folder above"):
        check_folder(tmp_path / "train")


def stacks(folder: Path, axis: str) -> Path:
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        for role in ("source", "target"):
            (folder / split / role).mkdir(parents=True, exist_ok=True)
            for number in numbers:
                pixels = np.random.default_rng(number + 50 * (role == "target")).integers(0, 900, (6, 24, 24))
                path = folder / split / role / f"v{number}.tif"
                tifffile.imwrite(path, pixels.astype(np.uint16), imagej=True, metadata={"axes": f"{axis}YX"})
    return folder


@pytest.mark.parametrize("axis", ["C", "T"])
def test_planes_declared_as_something_else(tmp_path: Path, axis: str) -> None:
    folder = stacks(tmp_path, axis)
    with pytest.raises(InvalidInputError, match="--axes ZYX"):
        check_folder(folder)
    report: FolderReport = check_folder(folder, axes="ZYX")
    for item in report.items():
        entry = item.write(tmp_path / "out.tif")
        assert entry.axes == "ZYX"  # type: ignore[union-attr]
        assert read_image(tmp_path / "out.tif").axes == "ZYX"
    assert sum("replaced" in text for text in report.warnings) == 2  # one for each split


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("INCH", 0.1), ("CENTIMETER", 0.1), ("MILLIMETER", 0.1), ("MICROMETER", 0.1), ("NONE", None)],
)
def test_every_unit_of_a_resolution_is_known(tmp_path: Path, unit: str, expected: float | None) -> None:
    a_tenth = {"INCH": 254000.0, "CENTIMETER": 1e5, "MILLIMETER": 1e4}.get(unit, 10.0)
    tifffile.imwrite(tmp_path / "a.tif", PLANES[0], metadata=None, resolution=(a_tenth, a_tenth), resolutionunit=unit)
    size = read_image(tmp_path / "a.tif").pixel_size
    assert (None if size is None else (size.x, size.y)) == (expected and pytest.approx((expected, expected)))


def sized(path: Path, sizes: str, resolution: float = 0.0) -> Path:
    """Write a stack whose OME metadata say of the size of a pixel what `sizes` says."""
    text = xml(planes={"Z": 12}, inside='<TiffData IFD="0" PlaneCount="12"/>')
    start, end = text.index("PhysicalSizeX"), text.index("><Channel")
    how: dict[str, Any] = {"resolution": (resolution,) * 2, "resolutionunit": "CENTIMETER"} if resolution else {}
    with tifffile.TiffWriter(path) as writer:
        for number, plane in enumerate(PLANES):
            description = (text[:start] + sizes + text[end:]).encode() if number == 0 else None
            writer.write(plane, photometric="minisblack", metadata=None, description=description, **how)
    return path


@pytest.mark.parametrize(
    ("sizes", "expected", "told"),
    [
        ('PhysicalSizeX="0" PhysicalSizeY="0.2"', (0.2, 0.2), {"size-guessed"}),
        ('PhysicalSizeX="0.2"', (0.2, 0.2), {"size-guessed"}),
        ('PhysicalSizeX="0" PhysicalSizeY="0"', None, set()),
        ('PhysicalSizeX="0.2 µm" PhysicalSizeY="0.2 µm"', None, {"size-unreadable"}),
        ('PhysicalSizeX="INF" PhysicalSizeY="NaN"', None, {"size-unreadable"}),
        ('PhysicalSizeX="0,2" PhysicalSizeY="-0.2"', (0.2, 0.2), set()),
        (
            'PhysicalSizeX="0.2" PhysicalSizeXUnit="" PhysicalSizeY="0.2" PhysicalSizeYUnit=""',
            (0.2, 0.2),
            {"unit-guessed"},
        ),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"', None, set()),
    ],
)
def test_sizes_that_are_left_out_or_guessed_are_named(
    tmp_path: Path, sizes: str, expected: tuple[float, float] | None, told: set[str]
) -> None:
    image = read_image(sized(tmp_path / "a.ome.tif", sizes))
    assert (image.pixel_size and (image.pixel_size.x, image.pixel_size.y)) == (expected and pytest.approx(expected))
    assert {note.code for note in image.notes} == told


def test_the_resolution_counts_where_ome_metadata_say_nothing(tmp_path: Path) -> None:
    size = read_image(sized(tmp_path / "a.ome.tif", "", resolution=1e5)).pixel_size
    assert size is not None
    assert (size.x, size.y) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("spacing", ["0.3 um", "1 000,5", "NaN"])
def test_a_distance_of_planes_that_is_no_number_is_named(tmp_path: Path, spacing: str) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for number, plane in enumerate(PLANES):
            text = f"ImageJ=1.54f\nimages=12\nslices=12\nunit=um\nspacing={spacing}\n" if number == 0 else None
            writer.write(plane, photometric="minisblack", metadata=None, description=text, resolution=(10.0, 10.0))
    image = read_image(path)
    assert image.pixel_size is not None
    assert image.pixel_size.z is None
    assert [note.code for note in image.notes] == ["size-unreadable"]


@pytest.mark.parametrize("unit", ["inch", "inches", "cm"])
def test_printed_resolutions_are_no_pixel_sizes_in_imagej_either(tmp_path: Path, unit: str) -> None:
    density = 72.0 if unit.startswith("inch") else 28.35
    text = f"ImageJ=1.54f\nunit={unit}\n"
    tifffile.imwrite(tmp_path / "a.tif", PLANES[0], metadata=None, description=text, resolution=(density, density))
    assert read_image(tmp_path / "a.tif").pixel_size is None
    assert codes(tmp_path / "a.tif") == ["resolution-ignored"]


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr"])
def test_colours_that_are_not_red_green_and_blue_are_refused(tmp_path: Path, mode: str) -> None:
    PIL.Image.fromarray(RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)).convert(mode).save(tmp_path / "a.tif")
    for axes in ("", "CYX"):
        with pytest.raises(InvalidInputError, match=f"(?i){mode}"):
            inspect_image(tmp_path / "a.tif", axes=axes)


def test_colours_of_jpeg_inside_tiff_are_red_green_and_blue(tmp_path: Path) -> None:
    flat = np.full((64, 64, 3), (200, 60, 30), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", flat, photometric="rgb", compression="jpeg", metadata=None)
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "YXS"
    assert np.abs(image.pixels.astype(int) - flat).max() <= 4
    assert [note.code for note in image.notes] == ["lossy"]


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_booleans_that_python_writes_are_one_where_they_are_true(tmp_path: Path, name: str) -> None:
    mask = PLANES[0] > 600
    tifffile.imwrite(tmp_path / name, mask)
    np.testing.assert_array_equal(read_image(tmp_path / name, labels=True).pixels, mask)


def test_pictures_that_are_to_be_turned_are_named(tmp_path: Path) -> None:
    turned = [(274, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "a.tif", PLANES[0], metadata=None, photometric="minisblack", extratags=turned)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, PLANES[0])
    exif = PIL.Image.Exif()
    exif[274] = 3
    PIL.Image.fromarray(PLANES[0].astype(np.uint8)).save(tmp_path / "b.jpg", exif=exif)
    assert codes(tmp_path / "a.tif") == ["orientation"]
    assert codes(tmp_path / "b.jpg") == ["lossy", "orientation"]


def test_a_thumbnail_is_another_image_and_no_plane(tmp_path: Path) -> None:
    for name, kind in (("plain.tif", 0), ("declared.tif", 1)):
        with tifffile.TiffWriter(tmp_path / name) as writer:
            writer.write(PLANES[0], metadata=None)
            writer.write(PLANES[0, ::2, ::2], metadata=None, subfiletype=kind)
    for axes in ("", "ZYX"):
        with pytest.raises(InvalidInputError, match="20x30, 10x15"):
            inspect_image(tmp_path / "plain.tif", axes=axes)
    np.testing.assert_array_equal(read_image(tmp_path / "declared.tif").pixels, PLANES[0])


@pytest.mark.parametrize(
    "metadata",
    [
        xml(planes={"Z": 12}).replace("XYCZT", "XYABC"),
        xml(planes={"Z": 12}).replace('DimensionOrder="XYCZT" ', ""),
        xml(planes={"Z": 12}).replace("</Image>", ""),
        "ImageJ=1.54f\nimages=12\nslices=many\n",
    ],
)
def test_metadata_that_no_reader_understands_can_be_left_out(tmp_path: Path, metadata: str) -> None:
    path = pages(tmp_path / "a.tif", PLANES, metadata)
    with pytest.raises(InvalidInputError, match="--axes") as caught:
        inspect_image(path)
    assert "damaged" not in caught.value.message
    np.testing.assert_array_equal(read_image(path, axes="ZYX").pixels, PLANES)
    assert "metadata-ignored" in codes(path, axes="ZYX")


def test_planes_that_a_program_took_for_colours_are_what_somebody_says(tmp_path: Path) -> None:
    # Three or four planes of a stack are colours to tifffile unless it is told otherwise.
    three, four = PLANES[:3].astype(np.uint8), PLANES.reshape(3, 4, 20, 30)
    tifffile.imwrite(tmp_path / "three.tif", three, photometric="rgb", planarconfig="separate", metadata=None)
    tifffile.imwrite(
        tmp_path / "four.tif", four, photometric="rgb", planarconfig="separate", extrasamples=["unassalpha"]
    )
    assert inspect_image(tmp_path / "three.tif").axes == "YXS"
    for axes in ("ZYX", "CYX"):
        image = read_image(tmp_path / "three.tif", axes=axes)
        assert image.axes == axes
        np.testing.assert_array_equal(image.pixels, three)
    with pytest.raises(InvalidInputError, match="four planes"):
        read_image(tmp_path / "four.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "four.tif", axes="TZYX").pixels, four)


@pytest.mark.parametrize("axes", ["PYX", "HYX"])
def test_axes_that_nobody_knows_can_be_said(tmp_path: Path, axes: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANES, photometric="minisblack", metadata={"axes": axes})
    with pytest.raises(InvalidInputError, match="--axes"):
        inspect_image(path)
    np.testing.assert_array_equal(read_image(path, axes="ZYX").pixels, PLANES)


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".tif")
    write_image(path, Image(PLANES[0], "YX"))
    np.testing.assert_array_equal(read_image(path).pixels, PLANES[0])


def test_an_empty_file_is_to_be_copied_again(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    with pytest.raises(InvalidInputError, match="empty") as caught:
        inspect_image(tmp_path / "a.tif")
    assert "proprietary" not in caught.value.message
    assert "makers" not in caught.value.message


@pytest.mark.parametrize("metadata", ["ImageJ=1.54f\nimages=4\nslices=4\n", "ImageJ=1.54f\nimages=1\n", "shape", ""])
def test_planes_in_a_block_behind_one_directory_are_not_dropped_silently(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "a.tif"
    if metadata == "shape":
        tifffile.imwrite(path, PLANES, photometric="minisblack", metadata={"axes": "ZYX"}, truncate=True)
        np.testing.assert_array_equal(read_image(path).pixels, PLANES)
        path.write_bytes(path.read_bytes().replace(b"[12, 20, 30]", b"[ 6, 20, 30]"))
    else:
        tifffile.imwrite(path, PLANES[0], description=metadata or None, metadata=None)
        with path.open("ab") as file:
            file.write(PLANES[1:].tobytes())
    if metadata:
        with pytest.raises(InvalidInputError, match="12 planes"):
            inspect_image(path)
    else:
        assert [(note.code, "11" in note.detail) for note in read_image(path).notes] == [("bytes-left-out", True)]


@pytest.mark.parametrize("tags", [[], [(65000, "s", 0, "x" * 20_000, True)]])
def test_metadata_behind_the_pixels_are_no_planes(tmp_path: Path, tags: list[Any]) -> None:
    # As most programs write: pixels first, then what describes them.
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANES[0], metadata=None, extratags=tags)
    PIL.Image.fromarray(PLANES[0]).save(tmp_path / "b.tif", description="y" * 20_000)
    assert codes(path) == codes(tmp_path / "b.tif") == []


@pytest.mark.parametrize("compression", ["jpeg2000", "jpegxl"])
def test_compression_that_may_lose_values_is_named(tmp_path: Path, compression: str) -> None:
    pixels = np.tile(PLANES[0].astype(np.uint8), (4, 4))
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression, photometric="minisblack", metadata=None)
    assert codes(tmp_path / "a.tif") == ["perhaps-lossy"]


def test_what_viewers_show_otherwise_than_it_is_stored_is_named(tmp_path: Path) -> None:
    pixels = np.arange(35, dtype=np.uint16).reshape(5, 7)
    signed = {"cf": 0, "c0": -32768.0, "c1": 1.0}
    for metadata, expected in (
        (signed, ["calibration-ignored"]),
        ({"cf": 20, "vunit": "OD"}, ["calibration-ignored"]),
        ({"cf": 0, "c0": 0.0, "c1": 1.0}, []),
        ({}, []),
    ):
        tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata=metadata)
        assert codes(tmp_path / "a.tif") == expected
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pixels)
    picture = PIL.Image.fromarray(pixels.astype(np.uint8))
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    assert codes(tmp_path / "a.png") == ["orientation"]
    picture.save(tmp_path / "b.png", transparency=17)
    assert codes(tmp_path / "b.png") == ["transparent-value"]
    np.testing.assert_array_equal(read_image(tmp_path / "b.png").pixels, pixels)
    picture.save(tmp_path / "c.png")
    assert codes(tmp_path / "c.png") == []


@pytest.mark.parametrize(("value", "told"), [("65000", True), ("1e-8", True), ("0.065", False), ("500", False)])
def test_pixel_sizes_of_no_microscope_are_named(value: str, told: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    sizes = {"PhysicalSizeX": value, "PhysicalSizeY": value}
    tifffile.imwrite(path, np.zeros((8, 9), np.uint8), ome=True, metadata={"axes": "YX", **sizes})
    assert ("size-implausible" in codes(path)) == told
