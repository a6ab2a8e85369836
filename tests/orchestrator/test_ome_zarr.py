"""OME-Zarr on the way into the store: images, labels and plates as other programs write them."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from support import mentions
from zarrs import axes_of, write_array, write_group, write_image, write_labels, write_plate

from parfocal.client.convert import (
    WHOLE,
    Part,
    convert,
    converted_stem,
    images_in,
    inspect_part,
    part_of_options,
    taken_again,
)
from parfocal.client.datasets import check_folder
from parfocal.client.results import find_inputs, input_name, input_stem, passed_over
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, PixelSize, inspect_image, read_image

VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])
STACK = np.arange(2 * 3 * 5 * 70 * 90, dtype=np.uint16).reshape(2, 3, 5, 70, 90)
PLANE = np.arange(70 * 90, dtype=np.uint16).reshape(70, 90)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def converted(path: Path, out: Path, part: Part = WHOLE, axes: str = "") -> tuple[Image, dict[str, str]]:
    """Return the image that was made of a file, and the notes with their details."""
    made, notes = convert(path, out, part, axes)
    image = read_image(made)
    assert inspect_part(path, part, axes) == (image.axes, image.pixels.shape)
    return image, {note.code: note.detail for note in notes}


def problem(path: Path, out: Path, part: Part = WHOLE, axes: str = "") -> str:
    with pytest.raises(InvalidInputError) as caught:
        convert(path, out, part, axes)
    return caught.value.message


@VERSIONS
def test_pixels_axes_size_and_channels_are_kept(tmp_path: Path, out: Path, version: str) -> None:
    path = write_image(
        tmp_path / "a field.ome.zarr",
        STACK,
        "TCZYX",
        version,
        scale=(1.0, 1.0, 0.5, 0.1, 0.2),
        channels=("DAPI", "GFP", "phase"),
    )
    image, notes = converted(path, out)
    assert (out / "a field.tif").is_file()
    assert image.axes == "TCZYX"
    np.testing.assert_array_equal(image.pixels, STACK)
    assert image.pixel_size == PixelSize(0.2, 0.1, 0.5)
    assert image.acquired.channels == ("DAPI", "GFP", "phase")
    assert notes == {"converted": "channels DAPI, GFP, phase"}


@VERSIONS
def test_channels_planes_and_frames_are_chosen(tmp_path: Path, out: Path, version: str) -> None:
    path = write_image(
        tmp_path / "a.zarr", STACK, "TCZYX", version, channels=("DAPI", "GFP", "phase"), chunks=(1, 3, 4, 64, 64)
    )
    part = Part(channels=("phase", "1"), planes=(2, 4), frames=(2, 2))
    image, notes = converted(path, out, part)
    assert image.axes == "CZYX"
    np.testing.assert_array_equal(image.pixels, STACK[1, [2, 0], 1:4])
    assert notes["converted"] == "channels phase, DAPI; planes 2 to 4; frames 2 to 2"
    assert mentions(problem(path, out, Part(channels=("CFP",))), "a.zarr", "'CFP'", "DAPI, GFP, phase")
    assert mentions(problem(path, out, Part(planes=(3, 6))), "5 planes")


def test_axes_in_any_order_and_of_length_one(tmp_path: Path, out: Path) -> None:
    pixels = np.arange(4 * 30 * 1 * 20, dtype=np.float32).reshape(4, 30, 1, 20)
    image, _ = converted(write_image(tmp_path / "a.zarr", pixels, "CYZX"), out)
    assert image.axes == "CYX"
    np.testing.assert_array_equal(image.pixels, pixels[:, :, 0])


@pytest.mark.parametrize(
    ("units", "scale", "size", "codes"),
    [
        ("nanometer", 65.0, 0.065, set()),
        ("micrometer", 0.065, 0.065, set()),
        ("millimeter", 6.5e-5, 0.065, set()),
        ("angstrom", 650.0, 0.065, set()),
        ("", 0.065, 0.065, {"unit-guessed"}),
        ("", 1.0, None, set()),
        ("furlong", 1.0, None, {"unit-unknown"}),
        ("micrometer", 0.0, None, set()),
    ],
)
def test_pixel_sizes_in_any_unit(
    tmp_path: Path, out: Path, units: str, scale: float, size: float | None, codes: set[str]
) -> None:
    axes = axes_of("YX", {"y": units, "x": units})
    image, notes = converted(write_image(tmp_path / "a.zarr", PLANE, "YX", axes=axes, scale=(scale, scale)), out)
    found = image.pixel_size
    assert (None if found is None else found.x) == (None if size is None else pytest.approx(size))
    assert set(notes) - {"converted"} == codes


def test_the_scale_of_the_image_counts_as_well(tmp_path: Path, out: Path) -> None:
    path = write_image(tmp_path / "a.zarr", PLANE, "YX", scale=(0.5, 0.5))
    content = json.loads((path / ".zattrs").read_text())
    content["multiscales"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [0.2, 0.4]}]
    (path / ".zattrs").write_text(json.dumps(content))
    assert converted(path, out)[0].pixel_size == PixelSize(0.2, 0.1)


@pytest.mark.parametrize("axes", [None, ["t", "c", "z", "y", "x"]])
def test_versions_before_axes_had_units(tmp_path: Path, out: Path, axes: list[str] | None) -> None:
    path = write_image(tmp_path / "a.zarr", STACK, "TCZYX")
    content = json.loads((path / ".zattrs").read_text())["multiscales"][0]
    del content["datasets"][0]["coordinateTransformations"]
    content = {**content, "axes": axes} if axes else {key: value for key, value in content.items() if key != "axes"}
    (path / ".zattrs").write_text(json.dumps({"multiscales": [content]}))
    image, _ = converted(path, out)
    assert (image.axes, image.pixel_size) == ("TCZYX", None)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(">u2", "uint16"), (">f4", "float32"), ("<f2", "float32"), ("|b1", "uint8"), ("<i8", "int32"), ("<u8", "uint32")],
)
def test_types_that_ome_tiff_does_not_know(tmp_path: Path, out: Path, dtype: str, stored: str) -> None:
    pixels = (PLANE % 2 if dtype == "|b1" else PLANE % 2000).astype(dtype)
    image, _ = converted(write_image(tmp_path / "a.zarr", pixels, "YX"), out)
    assert image.pixels.dtype.name == stored
    np.testing.assert_array_equal(image.pixels, pixels.astype(stored))


def test_numbers_of_64_bits_that_do_not_fit_are_refused(tmp_path: Path, out: Path) -> None:
    path = write_image(tmp_path / "a.zarr", PLANE.astype(np.int64) + 2**40, "YX")
    assert mentions(problem(path, out), "a.zarr", "64-bit", str(2**40))


def test_complex_numbers_are_refused(tmp_path: Path, out: Path) -> None:
    assert "complex64" in problem(write_image(tmp_path / "a.zarr", PLANE.astype(np.complex64), "YX"), out)


def test_shards_are_read(tmp_path: Path, out: Path) -> None:
    path = write_image(tmp_path / "a.zarr", STACK[0, 0], "ZYX", "0.5", chunks=(1, 16, 16), shards=(2, 64, 64))
    image, notes = converted(path, out)
    np.testing.assert_array_equal(image.pixels, STACK[0, 0])
    assert "blocks-missing" not in notes


@VERSIONS
def test_several_images_in_one(tmp_path: Path, out: Path, version: str) -> None:
    path = tmp_path / "slide.zarr"
    write_group(path, {"bioformats2raw.layout": 3}, version)
    for number in range(2):
        write_image(path / str(number), PLANE + number, "YX", version)
    assert mentions(problem(path, out), "2 images", "Image:0, Image:1", "--scene")
    for scene in ("2", "Image:1"):
        image, notes = converted(path, out, Part(scene))
        np.testing.assert_array_equal(image.pixels, PLANE + 1)
        assert notes["converted"] == "image Image:1"
    assert "'third'" in problem(path, out, Part("third"))


def test_names_of_images_choose_them(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "slide.zarr"
    write_group(path, {"bioformats2raw.layout": 3})
    write_group(path / "OME", {"series": ["1", "0"]})
    for number, name in enumerate(("detail", "overview")):
        write_image(path / str(number), PLANE + number, "YX", name=name)
    np.testing.assert_array_equal(converted(path, out, Part("overview"))[0].pixels, PLANE + 1)
    np.testing.assert_array_equal(converted(path, out, Part("1"))[0].pixels, PLANE + 1)


def test_given_axes_replace_those_of_the_file(tmp_path: Path, out: Path) -> None:
    frames = write_image(tmp_path / "a.zarr", STACK[0, 0], "TYX")
    image, notes = converted(frames, out, axes="ZYX")
    assert (image.axes, notes["axes-overridden"]) == ("ZYX", "TYX as ZYX")
    axes = [{"name": "angle", "type": "other"}, *axes_of("YX")]
    angles = write_image(tmp_path / "b.zarr", STACK[0, 0], "ZYX", axes=axes)
    assert mentions(problem(angles, out), "angle", "--axes ZYX")
    assert converted(angles, out, axes="ZYX")[0].axes == "ZYX"
    colours = write_image(tmp_path / "c.zarr", STACK[0, :, 0].astype(np.uint8), "CYX")
    assert converted(colours, out)[0].axes == "CYX"
    image, _ = converted(colours, out, axes="YXS")
    assert image.axes == "YXS"
    np.testing.assert_array_equal(image.pixels, np.moveaxis(STACK[0, :, 0].astype(np.uint8), 0, -1))


def test_an_array_alone_is_an_image_without_metadata(tmp_path: Path, out: Path) -> None:
    write_array(tmp_path / "plane.zarr", PLANE)
    assert converted(tmp_path / "plane.zarr", out)[1] == {"converted": ""}
    write_array(tmp_path / "stack.zarr", STACK[0, 0], "0.5")
    image, notes = converted(tmp_path / "stack.zarr", out)
    assert (image.axes, "axes-guessed" in notes) == ("ZYX", True)
    assert converted(tmp_path / "stack.zarr", out, axes="TYX")[0].axes == "TYX"
    write_array(tmp_path / "more.zarr", STACK[0])
    assert "--axes" in problem(tmp_path / "more.zarr", out)


def test_a_choice_is_remembered_as_options() -> None:
    part = Part("a b", ("DAPI", "2"), (2, 3), (1, 1), ("B*",), ("C03",), "nuclei")
    assert part.options == (
        "--scene 'a b' --channel DAPI --channel 2 --z 2-3 --t 1-1 --well 'B*' --test-well C03 --labels nuclei"
    )
    assert part_of_options(part.options) == part
    assert part.words == (
        "image a b; channels DAPI, 2; planes 2 to 3; frames 1 to 1; wells B*; test wells C03; labels nuclei"
    )
    assert WHOLE.options == WHOLE.words == ""


def test_a_choice_is_taken_again_where_files_have_it(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.ome.zarr", STACK, "TCZYX", channels=("DAPI", "GFP", "phase"))
    part = Part(channels=("GFP", "DAPI"), planes=(1, 2), frames=(1, 1), wells=("B*",), labels="nuclei")
    again = Part(channels=("GFP", "DAPI"), planes=(1, 2), frames=(1, 1), if_there=True)
    words = "channels GFP, DAPI; planes 1 to 2; frames 1 to 1"
    assert taken_again(part.options, [path]) == (again, words)
    other = write_image(tmp_path / "b.ome.zarr", STACK, "TCZYX", channels=("DAPI", "green", "phase"))
    assert taken_again(part.options, [other, tmp_path / "c.tif", path]) == (again, words)
    with pytest.raises(InvalidInputError, match="'GFP'"):
        inspect_part(other, again)
    assert taken_again(part.options, [other]) == (WHOLE, "")
    assert taken_again("", [path]) == (WHOLE, "")


def test_a_link_is_followed(tmp_path: Path, out: Path) -> None:
    write_image(tmp_path / "elsewhere" / "x.zarr", PLANE, "YX")
    (tmp_path / "my link.ome.zarr").symlink_to(tmp_path / "elsewhere" / "x.zarr")
    np.testing.assert_array_equal(converted(tmp_path / "my link.ome.zarr", out)[0].pixels, PLANE)
    assert (out / "my link.tif").is_file()


@VERSIONS
def test_a_zarr_by_another_name_is_told(tmp_path: Path, version: str) -> None:
    path = write_image(tmp_path / "field", PLANE, "YX", version)
    for use in (find_inputs, check_folder):
        with pytest.raises(InvalidInputError, match=r"field\.ome\.zarr"):
            use(path)
    assert len(find_inputs(path.rename(tmp_path / "field.zarr"))) == 1


def test_blocks_that_are_missing_are_counted(tmp_path: Path, out: Path) -> None:
    path = write_image(tmp_path / "a.zarr", PLANE + 1, "YX", fill_value=9)
    (path / "0" / "1.0").unlink()
    image, notes = converted(path, out)
    assert notes["blocks-missing"] == "1 of 4 blocks"
    assert (image.pixels[64:, :64] == 9).all()
    np.testing.assert_array_equal(image.pixels[:64], PLANE[:64] + 1)


def _without_metadata(path: Path) -> None:
    (path / ".zattrs").unlink()


def _no_json(path: Path) -> None:
    (path / ".zattrs").write_text("{")


def _without_level(path: Path) -> None:
    shutil.rmtree(path / "0")


def _other_shape(path: Path) -> None:
    content = json.loads((path / ".zattrs").read_text())
    content["multiscales"][0]["axes"].pop()
    (path / ".zattrs").write_text(json.dumps(content))


def _out_of_the_folder(path: Path) -> None:
    content = json.loads((path / ".zattrs").read_text())
    content["multiscales"][0]["datasets"][0]["path"] = "../b.zarr/0"
    (path / ".zattrs").write_text(json.dumps(content))


def _no_datasets(path: Path) -> None:
    (path / ".zattrs").write_text(json.dumps({"multiscales": [{"datasets": []}]}))


def _cut_off(path: Path) -> None:
    block = path / "0" / "0.1"
    block.write_bytes(block.read_bytes()[:40])


def _altered(path: Path) -> None:
    block = path / "0" / "0.1"
    block.write_bytes(b"\xff" * 40)


def _other_codec(path: Path) -> None:
    content = json.loads((path / "0" / ".zarray").read_text())
    content["compressor"] = {"id": "imagecodecs_jpegxl"}
    (path / "0" / ".zarray").write_text(json.dumps(content))


def _huge_block(path: Path) -> None:
    content = json.loads((path / "0" / ".zarray").read_text())
    content |= {"chunks": [2**20, 2**20], "shape": [2**20, 2**20]}
    (path / "0" / ".zarray").write_text(json.dumps(content))


def _empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def _a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_without_metadata, ("0, 1", "multiscales")),
        (_no_json, ("metadata",)),
        (_without_level, ("no array 0",)),
        (_other_shape, ("axes",)),
        (_out_of_the_folder, ("below its folder",)),
        (_no_datasets, ("metadata",)),
        (_cut_off, ("block at (0, 0)", "damaged")),
        (_altered, ("block at (0, 0)", "damaged")),
        (_other_codec, ("imagecodecs_jpegxl",)),
        (_huge_block, ("block",)),
        (_empty, ("no Zarr",)),
        (_a_file, ("no Zarr",)),
    ],
)
def test_what_is_damaged_is_refused_by_name(
    tmp_path: Path, out: Path, spoil: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    path = write_image(tmp_path / "a.zarr", PLANE, "YX")
    write_image(tmp_path / "b.zarr", PLANE, "YX")
    spoil(path)
    assert mentions(problem(path, out), f"{tmp_path.name}/a.zarr", *words)
    assert not list(out.iterdir())


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trapped"),)


@VERSIONS
def test_no_code_of_a_file_is_run(tmp_path: Path, out: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_image(tmp_path / "a.zarr", PLANE, "YX", version)
    described = path / "0" / (".zarray" if version == "0.4" else "zarr.json")
    content = json.loads(described.read_text())
    if version == "0.4":
        content |= {"compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}
    else:
        content["codecs"] = [{"name": "numcodecs.pickle", "configuration": {}}, *content["codecs"]]
    described.write_text(json.dumps(content))
    for block in (path / "0").rglob("*[0-9]"):
        if block.is_file():
            block.write_bytes(pickle.dumps(_Trap()))
    assert "encoded by pickle" in problem(path, out)
    assert not (tmp_path / "trapped").exists()


LABELS = np.zeros((70, 90), np.int64)
LABELS[5:20, 5:20], LABELS[30:50, 30:60] = 70_000, 3


@VERSIONS
def test_labels_of_images_become_targets_with_their_numbers(tmp_path: Path, version: str) -> None:
    rng = np.random.default_rng(1)
    for split, numbers in (("train", range(2)), ("test", range(2, 3))):
        for number in numbers:
            path = tmp_path / "set" / split / "source" / f"f{number}.zarr"
            pixels = rng.integers(0, 4000, (2, 70, 90), dtype=np.uint16)
            write_image(path, pixels, "CYX", version, channels=("DAPI", "GFP"))
            write_labels(path, "nuclei", LABELS * (number + 1), "YX", version)
    report = check_folder(tmp_path / "set", part=Part(channels=("GFP",), labels="nuclei"))
    assert (report.kind, len(report.train), len(report.test)) == ("labels", 2, 1)
    assert report.counts["train"]["objects"] == 4
    assert any("labels nuclei" in text for text in report.warnings)
    with pytest.raises(InvalidInputError) as caught:
        check_folder(tmp_path / "set", part=Part(channels=("GFP",), labels="cells"))
    assert mentions(caught.value.message, str(tmp_path / "set"), "'cells'", "nuclei")


def test_labels_keep_their_numbers(tmp_path: Path, out: Path) -> None:
    path = write_image(tmp_path / "a.zarr", PLANE, "YX")
    write_labels(path, "nuclei", LABELS, "YX")
    image, notes = converted(path, out, Part(channels=("7",), labels="nuclei"))
    assert image.pixels.dtype == np.int32
    np.testing.assert_array_equal(image.pixels, LABELS)
    assert notes == {"converted": "labels nuclei"}


def test_labels_beside_other_targets_or_images_are_refused(pairs_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pairs_folder, tmp_path / "mine"))
    with pytest.raises(InvalidInputError) as caught:
        check_folder(folder, part=Part(labels="nuclei"))
    assert mentions(caught.value.message, str(folder), "train/target", "train/source/field0.tif")


@VERSIONS
def test_fields_of_a_plate_are_images_with_names_of_their_own(tmp_path: Path, out: Path, version: str) -> None:
    plate = tmp_path / "my plate.zarr"
    made = write_plate(plate, ["B/3", "B/12", "C/3"], 2, version)
    found = find_inputs(plate)
    names = ["B03_f0", "B03_f1", "B12_f0", "B12_f1", "C03_f0", "C03_f1"]
    assert [input_stem(path) for path in found] == [f"my plate_{name}" for name in names]
    assert input_name(found[2]) == "my plate.zarr/B/12/0"
    image, _ = converted(found[3], out)
    assert image.pixel_size == PixelSize(0.2, 0.2)
    np.testing.assert_array_equal(image.pixels, made["B/12/1"])
    for pattern, count in (("B03", 2), ("B3", 2), ("B/3", 2), ("B*", 4), ("*_f1", 3), ("C03_f0", 1)):
        assert len(find_inputs(plate, (pattern,))) == count, pattern
    assert [converted_stem(path) for path in images_in(plate, ("B*",), ("*_f0",))] == [
        "my plate_B03_f1",
        "my plate_B12_f1",
    ]
    with pytest.raises(InvalidInputError) as caught:
        find_inputs(plate, ("B03", "D*"))
    assert mentions(caught.value.message, "'D*'", "B3, B12, C3")


def test_a_plate_among_other_inputs(tmp_path: Path) -> None:
    write_plate(tmp_path / "p.zarr", ["A/1"], 2)
    write_image(tmp_path / "single.ome.zarr", PLANE, "YX")
    (tmp_path / "notes.txt").touch()
    assert [input_stem(path) for path in find_inputs(tmp_path)] == ["p_A01_f0", "p_A01_f1", "single"]
    assert passed_over(tmp_path) == ["notes.txt"]
    with pytest.raises(InvalidInputError, match="no plate"):
        find_inputs(tmp_path / "single.ome.zarr", ("A01",))


def test_wells_of_what_is_no_plate_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "source" / "a.zarr", PLANE, "YX")
    with pytest.raises(InvalidInputError, match="no plate"):
        check_folder(tmp_path, part=Part(wells=("B*",)))


def test_a_well_that_is_missing_is_named_if_it_is_wanted(tmp_path: Path) -> None:
    write_plate(tmp_path / "p.zarr", ["A/1", "A/2"], 1)
    shutil.rmtree(tmp_path / "p.zarr" / "A" / "2")
    with pytest.raises(InvalidInputError) as caught:
        find_inputs(tmp_path / "p.zarr")
    assert mentions(caught.value.message, "p.zarr/A/2", "--well")
    assert len(find_inputs(tmp_path / "p.zarr", ("A01",))) == 1


def test_a_plate_becomes_a_dataset(tmp_path: Path) -> None:
    plate = tmp_path / "p.zarr"
    write_plate(plate, ["A/1", "A/2", "B/1"], 2)
    for field in images_in(plate):
        write_labels(field, "nuclei", LABELS[:64, :80], "YX")
    report = check_folder(plate, part=Part(labels="nuclei", test_wells=("B*",)))
    assert [image.stem for image in report.train] == ["p_A01_f0", "p_A01_f1", "p_A02_f0", "p_A02_f1"]
    assert [image.stem for image in report.test] == ["p_B01_f0", "p_B01_f1"]
    assert report.kind == "labels"
    report = check_folder(plate, part=Part(wells=("A*_f0",)))
    assert (report.kind, len(report.train), len(report.test)) == ("sources", 2, 0)


def test_plates_in_a_folder_are_split_by_their_wells(tmp_path: Path) -> None:
    write_plate(tmp_path / "p.zarr", ["A/1", "B/1"], 2)
    for split in ("train", "test"):
        (tmp_path / "set" / split / "source").mkdir(parents=True)
        (tmp_path / "set" / split / "source" / "p.zarr").symlink_to(tmp_path / "p.zarr")
    report = check_folder(tmp_path / "set", part=Part(wells=("A01",), test_wells=("B01",)))
    assert [image.stem for image in report.train] == ["p_A01_f0", "p_A01_f1"]
    assert [image.stem for image in report.test] == ["p_B01_f0", "p_B01_f1"]


def test_large_images_are_copied_block_by_block(tmp_path: Path, out: Path) -> None:
    """Above 32 MiB pixels lie in a file; the windows must meet."""
    pixels: NDArray[np.uint16] = (
        (np.arange(4200 * 4300, dtype=np.uint32) % 65_521).astype(np.uint16).reshape(4200, 4300)
    )
    path = write_image(tmp_path / "a.zarr", pixels, "YX", chunks=(1000, 700))
    made, _ = convert(path, out)
    np.testing.assert_array_equal(read_image(made).pixels, pixels)
    assert [each.name for each in out.iterdir()] == ["a.tif"]
    assert inspect_image(made).axes == "YX"
    assert zarr.open_array(str(path / "0"), mode="r").nchunks > 20
