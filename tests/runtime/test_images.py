"""Images: every kind of file is read with its axes and pixel size; damaged or hostile ones are refused."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from parfocal.runtime.errors import DiskFullError, InvalidInputError
from parfocal.runtime.images._files import partial_path
from parfocal.runtime.images.files import (
    Image,
    ImageLimits,
    PixelSize,
    image_stem,
    inspect_image,
    read_image,
    write_image,
)
from parfocal.runtime.images.memmaps import decode_to_memmap


def noise(*shape: int, dtype: str = "uint16", seed: int = 0) -> NDArray[Any]:
    values: NDArray[Any] = np.random.default_rng(seed).integers(0, 200, shape)
    return values.astype(dtype)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "zlib": {"compression": "zlib", "rowsperstrip": 8},
    "tiled": {"tile": (16, 16), "compression": "lzw"},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
    "big": {"bigtiff": True, "metadata": None},
    "bare": {"metadata": None, "byteorder": ">"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_stacks_of_every_kind_of_tiff_are_read(kind: str, tmp_path: Path) -> None:
    pixels = noise(5, 30, 40)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", **KINDS[kind])
    image = read_image(path)
    assert image.axes == "ZYX"
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.pixels.dtype == np.uint16
    assert image.pixels.dtype.isnative


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(keep=st.floats(0.0, 1.0, exclude_max=True))
def test_a_truncated_tiff_is_refused_wherever_it_was_cut(
    kind: str, keep: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    pixels = noise(5, 30, 40)
    tifffile.imwrite(folder / "whole.tif", pixels, photometric="minisblack", **KINDS[kind])
    whole = (folder / "whole.tif").read_bytes()
    path = folder / "cut.tif"
    path.write_bytes(whole[: int(keep * len(whole))])
    if keep < 0.99:
        with pytest.raises(InvalidInputError, match=r"cut\.tif cannot"):
            read_image(path)
        return
    with suppress(InvalidInputError):  # the last bytes of a TIFF may be padding: then all pixels are there
        np.testing.assert_array_equal(read_image(path).pixels, pixels)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_tiff_is_read_or_refused_but_never_anything_else(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("bad")
    path = folder / "bad.tif"
    tifffile.imwrite(path, noise(2, 16, 16), photometric="minisblack", **KINDS[kind])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    limits = ImageLimits(max_pixels=2**16, max_bytes=2**20)
    try:
        image = read_image(path, limits=limits)
    except InvalidInputError:
        return
    assert len(image.axes) == image.pixels.ndim
    assert image.pixels.size <= limits.max_pixels


def test_singleton_axes_are_dropped_but_never_rows_or_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, noise(1, 1, 3, 1, 20), ome=True, metadata={"axes": "TCZYX"})
    assert (inspect_image(path).axes, inspect_image(path).shape) == ("ZYX", (3, 1, 20))


def test_axes_come_out_in_one_order(tmp_path: Path) -> None:
    pixels = noise(4, 2, 3, 16, 16)  # ImageJ's own order
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "TZCYX"})
    image = read_image(path)
    assert image.axes == "TCZYX"
    np.testing.assert_array_equal(image.pixels, pixels.transpose(0, 2, 1, 3, 4))


def test_colour_images_have_samples_last(tmp_path: Path) -> None:
    pixels = noise(20, 30, 3, dtype="uint8")
    tifffile.imwrite(tmp_path / "together.tif", pixels, photometric="rgb")
    tifffile.imwrite(tmp_path / "planes.tif", pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    for name in ("together.tif", "planes.tif", "a.png"):
        image = read_image(tmp_path / name)
        assert image.axes == "YXS"
        np.testing.assert_array_equal(image.pixels, pixels)


def test_an_opaque_alpha_channel_is_left_out_and_a_meaningful_one_refused(tmp_path: Path) -> None:
    pixels = noise(20, 30, 4, dtype="uint8")
    pixels[..., 3] = 255
    PIL.Image.fromarray(pixels).save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "opaque.png").pixels.shape == inspect_image(tmp_path / "opaque.png").shape
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png").pixels, pixels[..., :3])
    pixels[3, 3, 3] = 0
    PIL.Image.fromarray(pixels).save(tmp_path / "glass.png")
    with pytest.raises(InvalidInputError, match="transparency"):
        read_image(tmp_path / "glass.png")


def test_samples_that_are_no_colours_are_channels(tmp_path: Path) -> None:
    pixels = noise(20, 30, 5)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig", metadata=None)
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "CYX"
    np.testing.assert_array_equal(image.pixels, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_grey_png_keeps_its_depth(dtype: str, tmp_path: Path) -> None:
    pixels = noise(20, 30, dtype=dtype) * np.asarray(1 if dtype == "uint8" else 300, dtype)
    write_image(tmp_path / "a.png", Image(pixels, "YX"))
    image = read_image(tmp_path / "a.png")
    assert image.pixels.dtype == dtype
    np.testing.assert_array_equal(image.pixels, pixels)


def test_jpeg_is_read(tmp_path: Path) -> None:
    PIL.Image.fromarray(noise(20, 30, 3, dtype="uint8")).save(tmp_path / "a.jpg")
    assert inspect_image(tmp_path / "a.jpg").shape == (20, 30, 3)
    assert read_image(tmp_path / "a.jpg").axes == "YXS"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_png_and_jpeg_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    PIL.Image.fromarray(noise(64, 64, 3, dtype="uint8")).save(path)
    whole = path.read_bytes()
    for keep in range(1, len(whole) - 24, 97):  # a PNG whose closing chunk alone is missing is complete
        path.write_bytes(whole[:keep])
        with pytest.raises(InvalidInputError):
            read_image(path)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("axes", ["YX", "ZYX", "TCZYX"])
def test_what_is_written_is_read_back_exactly(dtype: str, axes: str, tmp_path: Path) -> None:
    pixels = noise(*range(2, 2 + len(axes)), dtype=dtype)
    original = Image(pixels, axes, PixelSize(0.1, 0.2, 0.5))
    write_image(tmp_path / "a.tif", original)
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels, pixels)
    assert (image.axes, image.pixel_size, image.pixels.dtype) == (axes, original.pixel_size, pixels.dtype)


def test_colour_is_written_and_read_back(tmp_path: Path) -> None:
    pixels = noise(12, 14, 3, dtype="uint8")
    write_image(tmp_path / "a.tif", Image(pixels, "YXS"))
    assert read_image(tmp_path / "a.tif").axes == "YXS"
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pixels)


def test_equal_images_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        write_image(tmp_path / name, Image(noise(20, 20), "YX", PixelSize(0.1, 0.1)))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_64_bit_labels_are_narrowed_only_where_they_fit(tmp_path: Path) -> None:
    labels = noise(8, 8, dtype="int64")
    write_image(tmp_path / "a.tif", Image(labels, "YX"))
    assert read_image(tmp_path / "a.tif").pixels.dtype == np.int32
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, labels)
    labels[0, 0] = 2**40
    with pytest.raises(InvalidInputError, match="64-bit"):
        write_image(tmp_path / "b.tif", Image(labels, "YX"))
    assert not (tmp_path / "b.tif").exists()


def test_a_png_of_floats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"float32 YX .*PNG"):
        write_image(tmp_path / "a.png", Image(noise(8, 8, dtype="float32"), "YX"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (1e5, 5e4), "resolutionunit": "CENTIMETER"}, PixelSize(0.1, 0.2)),
        ({"resolution": (254000, 254000), "resolutionunit": "INCH"}, PixelSize(0.1, 0.1)),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),  # a print setting
        ({"resolution": (10, 10), "resolutionunit": "NONE"}, None),
        (
            {
                "imagej": True,
                "resolution": (10, 5),
                "metadata": {"unit": "um", "spacing": 0.7, "axes": "ZYX"},
            },
            PixelSize(0.1, 0.2, 0.7),
        ),
        ({"imagej": True, "resolution": (1, 1), "metadata": {"unit": "pixel", "axes": "ZYX"}}, None),
        (
            {
                "ome": True,
                "metadata": {
                    "axes": "ZYX",
                    "PhysicalSizeX": 65,
                    "PhysicalSizeXUnit": "nm",
                    "PhysicalSizeZ": 0.3,
                },
            },
            PixelSize(0.065, 0.065, 0.3),
        ),
    ],
)
def test_pixel_size_is_in_micrometre_or_unknown(
    options: dict[str, Any], expected: PixelSize | None, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(3, 8, 8), photometric="minisblack", **options)
    found = inspect_image(tmp_path / "a.tif").pixel_size
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert (found.x, found.y) == pytest.approx((expected.x, expected.y))
        assert found.z == (None if expected.z is None else pytest.approx(expected.z))


def test_limits_apply_before_pixels_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_image(path, Image(np.zeros((100, 100), np.uint16), "YX"))
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        strip = tif.pages.first.dataoffsets[0]
    content[strip : strip + 8] = b"garbage!"  # decoding would fail
    path.write_bytes(bytes(content))
    with pytest.raises(InvalidInputError, match=r"10000 pixels .*limit"):
        read_image(path, limits=ImageLimits(max_pixels=9_999))
    with pytest.raises(InvalidInputError, match=r"10000 pixels .*limit"):
        inspect_image(path, limits=ImageLimits(max_bytes=19_999))
    with pytest.raises(InvalidInputError, match="damaged"):
        read_image(path)


def test_a_giant_png_is_refused_from_its_header(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 2**30, 2**30, 8, 0, 0, 0, 0)
    PIL.Image.fromarray(noise(4, 4, dtype="uint8")).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    chunk = b"IHDR" + header
    forged = content[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]
    (tmp_path / "a.png").write_bytes(forged)
    with pytest.raises(InvalidInputError, match=rf"{2**60} pixels .*limit"):
        inspect_image(tmp_path / "a.png")


def test_missing_strips_are_refused_instead_of_read_as_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(32, 32), compression="zlib", rowsperstrip=8)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tag = tif.pages.first.tags[279]
        tag.overwrite((0, *tag.value[1:]))
    with pytest.raises(InvalidInputError, match="incomplete"):
        inspect_image(path)


def test_ome_metadata_cannot_reach_other_files(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "secret.tif", noise(16, 16), ome=True)
    xml = tifffile.tiffcomment(tmp_path / "secret.tif")
    assert isinstance(xml, str)
    foreign = xml.replace(
        '<TiffData IFD="0" PlaneCount="1"/>',
        '<TiffData IFD="0" PlaneCount="1"><UUID FileName="../secret.tif">urn:uuid:1</UUID></TiffData>',
    )
    assert foreign != xml
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "a.tif"
    tifffile.imwrite(path, np.zeros((16, 16), np.uint16), description=foreign, metadata=None)
    with pytest.raises(InvalidInputError, match="one of 2 files"):
        read_image(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('SizeZ="1"', 'SizeZ="1000000000"'),
        ('PlaneCount="1"', 'PlaneCount="1000000000"'),
        ('SizeX="16"', 'SizeX="1000000000"'),
    ],
)
def test_boastful_ome_metadata_is_left_out_at_once(old: str, new: str, tmp_path: Path) -> None:
    image = read_image(boastful(tmp_path / "a.tif", old, new))
    np.testing.assert_array_equal(image.pixels, noise(16, 16))
    assert [note.code for note in image.notes] == ["metadata-ignored"]


def test_ome_metadata_with_entities_are_refused(tmp_path: Path) -> None:
    path = boastful(tmp_path / "a.tif", "<OME ", "<!DOCTYPE x [<!ENTITY a 'aaaa'>]><OME ")
    with pytest.raises(InvalidInputError, match="entity"):
        inspect_image(path)


def boastful(path: Path, old: str, new: str) -> Path:
    """Write an image whose OME metadata have something else in one place."""
    tifffile.imwrite(path, noise(16, 16), ome=True)
    xml = tifffile.tiffcomment(path)
    assert isinstance(xml, str)
    assert old in xml
    tifffile.imwrite(path, noise(16, 16), description=xml.replace(old, new), metadata=None)
    return path


def test_several_images_in_one_file_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(noise(16, 16), metadata=None)
        writer.write(noise(32, 32), metadata=None)
    with pytest.raises(InvalidInputError, match="2 separate images"):
        inspect_image(tmp_path / "a.tif")


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 8, dtype="complex64"))
    with pytest.raises(InvalidInputError, match="complex64"):
        inspect_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"not an image at all", "no TIFF"),
        (b"\x80\x04K\x01.", "no TIFF"),
    ],
)
def test_other_files_are_refused_by_name(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InvalidInputError, match=expected) as caught:
        inspect_image(tmp_path / "a.tif")
    assert caught.value.violations[0].field == "a.tif"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"gone\.tif .*no such file"):
        inspect_image(tmp_path / "gone.tif")


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.tif", "a"), ("a.ome.tif", "a"), ("a.b.tiff", "a.b"), ("A.OME.TIF", "A"), ("x.png", "x")],
)
def test_image_stem(name: str, stem: str) -> None:
    assert image_stem(Path(name)) == stem


def test_a_decoded_image_is_mapped_read_only_and_decoded_once(tmp_path: Path) -> None:
    pixels = noise(3, 20, 20)
    write_image(tmp_path / "a.tif", Image(pixels, "ZYX"))
    first = decode_to_memmap(tmp_path / "a.tif", tmp_path / "cache", "abc")
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable
    (tmp_path / "a.tif").unlink()
    np.testing.assert_array_equal(decode_to_memmap(tmp_path / "a.tif", tmp_path / "cache", "abc"), pixels)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["abc.npy"]


def test_a_damaged_cache_file_is_decoded_again(tmp_path: Path) -> None:
    pixels = noise(20, 20)
    write_image(tmp_path / "a.tif", Image(pixels, "YX"))
    decode_to_memmap(tmp_path / "a.tif", tmp_path, "abc")
    (tmp_path / "abc.npy").write_bytes((tmp_path / "abc.npy").read_bytes()[:200])
    np.testing.assert_array_equal(decode_to_memmap(tmp_path / "a.tif", tmp_path, "abc"), pixels)


def test_a_key_cannot_leave_the_cache_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digest"):
        decode_to_memmap(tmp_path / "a.tif", tmp_path, "../abc")


@pytest.mark.parametrize("name", ["abc.npy", "a.tif", "a.png"])
def test_a_full_disk_is_reported_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    image = Image(noise(300, 300), "YX")
    write_image(tmp_path / "in" / "a.tif", image)
    target = tmp_path / "out" / name
    target.parent.mkdir()
    partial_path(target).symlink_to("/dev/full")  # a real device without room

    def fill() -> None:
        if name.endswith(".npy"):
            decode_to_memmap(tmp_path / "in" / "a.tif", target.parent, "abc")
        else:
            write_image(target, image)

    with pytest.raises(DiskFullError, match="No room"):
        fill()
    assert list(target.parent.iterdir()) == []


def test_a_map_of_floats_can_be_left_uncompressed(tmp_path: Path) -> None:
    image = Image(np.zeros((4, 60, 70), np.float32), "TYX", PixelSize(0.2, 0.3))
    for name, compress in (("packed", True), ("plain", False)):
        write_image(tmp_path / f"{name}.tif", image, compress=compress)
        read = read_image(tmp_path / f"{name}.tif")
        np.testing.assert_array_equal(read.pixels, image.pixels)
        assert (read.axes, read.pixel_size) == (image.axes, image.pixel_size)
    assert (tmp_path / "packed.tif").stat().st_size < image.pixels.nbytes < (tmp_path / "plain.tif").stat().st_size


def test_booleans_are_read_as_zero_and_one(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((20, 30)) > 0.5
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, mask)
    image = read_image(path)
    assert inspect_image(path).dtype == image.pixels.dtype == np.uint8
    np.testing.assert_array_equal(image.pixels, mask)
