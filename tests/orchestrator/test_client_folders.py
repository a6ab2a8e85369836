"""What is wrong with folders of images, found before anything is uploaded."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from support import mentions

from parfocal.client.convert import Part, convert, inspect_part, part_of_image, taken_again
from parfocal.client.datasets import check_folder, checked_folder
from parfocal.client.results import find_inputs
from parfocal.client.transfer import check_output, for_each
from parfocal.runtime.datasets.folder import NO_TEST_IMAGES
from parfocal.runtime.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from parfocal.runtime.images.acquired import Acquired
from parfocal.runtime.images.files import Image, inspect_image, read_image, write_image
from parfocal.runtime.images.notes import Note


@pytest.fixture
def folder(pairs_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pairs_folder, tmp_path / "mine"))


def problem(folder: Path) -> str:
    with pytest.raises(InvalidInputError) as caught:
        check_folder(folder)
    return caught.value.message


def test_a_good_folder(folder: Path) -> None:
    report = check_folder(folder)
    assert (len(report.train), len(report.test), report.warnings) == (5, 3, ())


def test_label_images_without_objects_are_taken_with_a_warning(folder: Path) -> None:
    write_image(folder / "train" / "target" / "field2.tif", Image(np.zeros((64, 80), np.uint16), "YX"))
    report = check_folder(folder)
    assert len(report.train) == 5
    assert any("target/field2.tif" in warning and "label images" in warning for warning in report.warnings)


@pytest.mark.parametrize("pixels", [np.full((64, 80), 7, np.uint16), np.zeros((64, 80), np.float32)])
def test_other_targets_without_contrast_are_refused(folder: Path, pixels: NDArray[Any]) -> None:
    write_image(folder / "train" / "target" / "field2.tif", Image(pixels, "YX"))
    assert "target/field2.tif" in problem(folder)


def with_roles(folder: Path, *roles: str) -> Path:
    for split in ("train", "test"):
        for role in roles:
            shutil.copytree(folder / split / role.partition("_")[0], folder / split / role)
    return folder


def test_further_targets_and_sources_stand_in_folders_beside_the_first(folder: Path) -> None:
    with_roles(folder, "target_DAPI", "source_zstack")
    for split in ("train", "test"):
        for path in (folder / split / "source_zstack").iterdir():
            write_image(path, Image(np.stack([read_image(path).pixels] * 3), "ZYX"))
    report = check_folder(folder)
    assert {role for _, role in report.images} == {"source", "target", "target_DAPI", "source_zstack"}
    assert [image.stem for image in report.images["train", "target_DAPI"]] == [image.stem for image in report.train]


def test_what_is_wrong_in_a_further_folder_is_named(folder: Path) -> None:
    with_roles(folder, "target_DAPI")
    (folder / "train" / "target_DAPI" / "field1.tif").unlink()
    assert "target_DAPI" in problem(folder)


def test_a_further_folder_with_an_impossible_name_is_refused(folder: Path) -> None:
    with_roles(folder, "target_my stain")
    assert "target_my stain" in problem(folder)


def test_folders_that_only_the_training_images_have_are_warned_about(folder: Path) -> None:
    shutil.copytree(folder / "train" / "target", folder / "train" / "target_DAPI")
    assert any(mentions(warning, "train and test", "folders") for warning in check_folder(folder).warnings)


def test_a_missing_partner_is_named(folder: Path) -> None:
    (folder / "train" / "target" / "field2.tif").unlink()
    assert "field2" in problem(folder)


def test_different_shapes_are_named_with_their_sizes(folder: Path) -> None:
    write_image(folder / "train" / "target" / "field1.tif", Image(np.eye(32, dtype=np.uint16), "YX"))
    text = problem(folder)
    assert "field1" in text
    assert "32 x 32" in text


def test_a_truncated_tiff_is_named(folder: Path) -> None:
    path = folder / "test" / "source" / "field0.tif"
    path.write_bytes(path.read_bytes()[:300])
    assert "test/source/field0.tif" in problem(folder)


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    (folder / "train" / "source" / "field0.tif").write_text("not an image")
    assert "field0.tif" in problem(folder)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.arange(64 * 80 * 3, dtype=np.uint8).reshape(64, 80, 3), "colour"),
        (np.arange(2 * 3 * 4 * 64 * 80, dtype=np.uint16).reshape(2, 3, 4, 64, 80), "YX is required"),
    ],
)
def test_other_axes_are_named(folder: Path, pixels: np.ndarray, words: str) -> None:
    path = folder / "train" / "source" / "field3.tif"
    if pixels.ndim == 3:
        tifffile.imwrite(path, pixels, photometric="rgb")
    else:
        tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "TCZYX"})
    text = problem(folder)
    assert "field3.tif" in text
    assert words in text


def test_not_a_number_is_found(folder: Path) -> None:
    pixels = np.ones((64, 80), np.float32)
    pixels[3, 4] = np.nan
    write_image(folder / "train" / "source" / "field4.tif", Image(pixels, "YX"))
    assert "NaN" in problem(folder)


def test_a_constant_image_is_found(folder: Path) -> None:
    write_image(folder / "train" / "target" / "field4.tif", Image(np.full((64, 80), 7, np.uint16), "YX"))
    assert "every pixel is 7" in problem(folder)


def test_all_problems_of_both_parts_are_told_at_once(folder: Path) -> None:
    (folder / "train" / "target" / "field2.tif").unlink()
    (folder / "test" / "source" / "field1.tif").write_text("broken")
    text = problem(folder)
    assert "train/" in text
    assert "test/" in text


def test_an_empty_folder_is_explained(tmp_path: Path) -> None:
    assert "train/source" in problem(tmp_path)


def test_empty_image_folders_are_explained(tmp_path: Path) -> None:
    for role in ("source", "target"):
        (tmp_path / "train" / role).mkdir(parents=True)
    assert "no TIFF" in problem(tmp_path)


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        check_folder(tmp_path / "nowhere")


def test_one_single_pair_is_allowed_with_a_warning(folder: Path) -> None:
    for path in folder.glob("train/*/field[1-9].tif"):
        path.unlink()
    report = check_folder(folder)
    assert len(report.train) == 1
    assert any("one training pair" in text for text in report.warnings)


def test_source_and_target_alone_are_accepted_with_a_warning(folder: Path) -> None:
    report = check_folder((folder / "train").rename(folder / "alone"))
    assert (len(report.train), len(report.test)) == (5, 0)
    assert NO_TEST_IMAGES in report.warnings


def test_a_makers_format_without_a_reader_says_what_to_do(folder: Path) -> None:
    (folder / "train" / "source" / "field0.tif").rename(folder / "train" / "source" / "field0.czi")
    assert "bioio-czi" in problem(folder) or "as TIFF" in problem(folder)


def test_a_makers_format_is_converted_without_loss(folder: Path) -> None:
    path = folder / "train" / "source" / "field0.tif"
    pixels = read_image(path).pixels
    path.unlink()
    tifffile.imwrite(path.with_suffix(".lsm"), pixels)
    assert len(check_folder(folder).train) == 5


# Of the reader of OME-TIFF, which gives its parser a keyword that has no effect.
_OLD_KEYWORD = pytest.mark.filterwarnings("ignore:As of version 0.4.0, the parser argument")


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A file of two images, the second with three named channels of two planes each."""
    path = tmp_path / "slide.ome.tif"
    pixels = np.arange(2 * 3 * 24 * 28, dtype=np.uint16).reshape(2, 3, 24, 28)
    size = {"PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.1, "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(pixels[0, 0], metadata={"axes": "YX", "Name": "overview"}, photometric="minisblack")
        metadata = {"axes": "ZCYX", "Name": "detail", "Channel": {"Name": ["DAPI", "GFP", "phase"]}, **size}
        writer.write(pixels, metadata=metadata, photometric="minisblack")
    return path


@_OLD_KEYWORD
def test_scene_channels_and_planes_of_a_file_are_chosen_and_named(several: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    made, notes = convert(several, tmp_path / "out", Part("Image:1", ("phase", "1"), planes=(2, 2)))
    image = read_image(made)
    stored = tifffile.imread(several, series=1)
    assert image.axes == "CYX"
    np.testing.assert_array_equal(image.pixels, stored[1, [2, 0]])
    assert image.pixel_size is not None
    assert (image.pixel_size.x, image.pixel_size.y) == pytest.approx((0.2, 0.1))
    assert notes[0].detail == "image Image:1; channels phase, DAPI; planes 2 to 2"
    _, all_channels = convert(several, tmp_path / "out", Part("2"))
    assert "channels DAPI, GFP, phase" in all_channels[0].detail


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, None),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.5),
    ],
)
def test_the_pixel_size_of_a_scene_of_a_plain_tiff_is_what_its_tags_say(
    tmp_path: Path, tags: dict[str, Any], expected: float | None
) -> None:
    (tmp_path / "out").mkdir()
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(np.zeros((3, 20, 20), np.uint16), photometric="minisblack")
        writer.write(np.arange(30 * 40, dtype=np.uint16).reshape(30, 40), **tags)
    image = read_image(convert(tmp_path / "a.tif", tmp_path / "out", Part("2"))[0])
    assert image.pixels.shape == (30, 40)
    assert (image.pixel_size and image.pixel_size.x) == expected


def test_the_same_scene_is_taken_of_sources_and_of_targets_that_have_several(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in folder.glob("*/*/*.tif"):
        pixels = read_image(path).pixels
        with tifffile.TiffWriter(path) as writer:
            writer.write(np.zeros((3, 20, 20), np.uint16), photometric="minisblack")
            writer.write(pixels, photometric="minisblack")
    with checked_folder(folder, "", "", None, False, Part("2")) as report:
        assert {image.shape for image in report.train} == {(64, 80)}
    # Nothing is wrong with these files.
    assert not caplog.records


@_OLD_KEYWORD
@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Part(), ("2 separate images", "--scene")),
        (Part("third"), ("'third'", "Image:0")),
        (Part("Image:1", ("CFP",)), ("'CFP'", "DAPI, GFP, phase")),
        (Part("Image:1", planes=(2, 3)), ("2 planes", "2 to 3")),
        (Part("Image:0", frames=(2, 2)), ("one of its frames",)),
    ],
)
def test_a_choice_that_a_file_does_not_have_is_refused_with_what_it_has(
    several: Path, tmp_path: Path, part: Part, said: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        convert(several, tmp_path, part)
    assert mentions(caught.value.message, "slide.ome.tif", *said)


@pytest.fixture
def composites(folder: Path) -> Path:
    """The folder with sources as Fiji saves composites: a second channel, with planes of noise before it."""
    for path in folder.glob("*/source/*.tif"):
        pixels = read_image(path).pixels
        noise = np.random.default_rng(0).integers(0, 99, pixels.shape, np.uint16)
        tifffile.imwrite(path, np.stack([noise, pixels]), imagej=True, metadata={"axes": "CYX"})
    return folder


def test_a_channel_is_taken_of_composites(composites: Path, pairs_folder: Path) -> None:
    assert mentions(problem(composites), "source/field0.tif")
    with checked_folder(composites, "", "", None, False, Part(channels=("2",))) as report:
        assert {image.axes for image in report.train} == {"YX"}
        converted = next(text for text in report.warnings if text.startswith(Note("converted").sentence))
        assert mentions(converted, "8", "train/source/field0.tif", "channel 2")
        # Targets without channels stay as they are.
        assert "target" not in converted
        image = next(item for item in report.items() if item.file == "train/source/field0.tif")
        image.write(composites / "taken.tif")
    expected = read_image(pairs_folder / "train" / "source" / "field0.tif").pixels
    np.testing.assert_array_equal(read_image(composites / "taken.tif").pixels, expected)


@pytest.mark.parametrize(
    ("axes", "part", "left"),
    [
        ("ZYX", Part(channels=("2",)), "ZYX"),
        ("CZYX", Part(channels=("2",), planes=(1, 5)), "ZYX"),
        ("", Part(channels=("2",), planes=(3, 3)), "YX"),
        ("CZYX", Part(channels=("2",), planes=(3, 3)), "YX"),
        ("CYX", Part(channels=("2", "1"), planes=(3, 3)), "CYX"),
    ],
)
def test_of_stacks_of_several_channels_volumes_and_planes_are_taken(
    tmp_path: Path, axes: str, part: Part, left: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 9999, (3, 5, 2, 32, 40)).astype(np.uint16)
    for role in ("source", "target"):
        folder = tmp_path / "train" / role
        folder.mkdir(parents=True)
        for number, stack in enumerate(pixels):
            # Targets lack the channels, and do not say what their axes are.
            if role == "source":
                tifffile.imwrite(folder / f"{number}.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
            else:
                own = stack[:, 0] if "Z" in left else stack[0, 0]
                tifffile.imwrite(folder / f"{number}.tif", own, photometric="minisblack", metadata=None)
    with checked_folder(tmp_path, axes, "paired", None, False, part) as report:
        assert {image.axes for image in report.train} == {left}


@pytest.mark.parametrize("sources_too", [True, False])
def test_channels_of_targets_that_do_not_say_their_axes_are_taken_as_the_message_says(
    folder: Path, pairs_folder: Path, sources_too: bool
) -> None:
    for path in folder.glob("*/*/*.tif"):
        if sources_too or path.parent.name == "target":
            pixels = read_image(path).pixels
            tifffile.imwrite(path, np.stack([pixels, pixels[::-1]]), photometric="minisblack", metadata=None)
    said = problem(folder)
    assert mentions(said, "target/field0.tif", "what its 2 planes are", "--axes CYX --channel 1")
    assert ("source/field0.tif" in said) == sources_too
    with checked_folder(folder, "CYX", "", None, False, Part(channels=("1",))) as report:
        for item in report.items():
            item.write(folder / "taken.tif")
            expected = read_image(pairs_folder / item.file).pixels
            np.testing.assert_array_equal(read_image(folder / "taken.tif").pixels, expected)
    # Nothing has two channels.
    with pytest.raises(InvalidInputError, match="Leave the choice out"):
        check_folder(pairs_folder, part=Part(channels=("2",)))


def test_axes_that_no_image_has_are_refused_before_a_part_is_taken(composites: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_folder(composites, axes="YXC", part=Part(channels=("2",)))
    assert [violation.field for violation in caught.value.violations] == ["axes"]


def test_a_channel_that_composites_lack_is_refused_with_what_they_have(composites: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_folder(composites, part=Part(channels=("3",)))
    assert mentions(caught.value.message, "source/field0.tif", "'3'", "2 without names")
    with pytest.raises(InvalidInputError, match=r"source/field0\.tif"):
        check_folder(composites, part=Part(channels=("1",), frames=(2, 3)))


def test_labels_of_images_without_labels_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="Leave the choice out"):
        check_folder(folder, part=Part(wells=("A01",)))


def test_a_prediction_takes_the_channel_that_the_training_took(composites: Path) -> None:
    paths = find_inputs(composites / "test" / "source")
    assert taken_again("--channel 2", paths) == (Part(channels=("2",), if_there=True), "channel 2")
    assert taken_again("--channel DAPI", paths) == (Part(), "")
    # What was the second channel of the training is the first one here.
    swapped = Image(np.zeros((2, 64, 80), np.uint16), "CYX", acquired=Acquired(("DAPI", "GFP")))
    write_image(paths[0].with_name("swapped.tif"), swapped)
    part, words = taken_again("--channel 2", [paths[0].with_name("swapped.tif")], names=("DAPI",))
    assert (part.names, words) == (("DAPI",), "channel DAPI")
    assert [inspect_part(path, Part(channels=("2",))) for path in paths] == [("YX", (64, 80))] * 3
    # Planes may be cut already, and what has no channels is no composite.
    assert part_of_image(paths[0], Part(channels=("2",), planes=(3, 9), if_there=True)).planes is None
    write_image(paths[1], Image(read_image(paths[1]).pixels[1], "YX"))
    assert not part_of_image(paths[1], Part(channels=("2",), if_there=True)).of_images


def test_what_is_seen_in_the_pixels_alone_is_told_of_a_part_too(tmp_path: Path) -> None:
    path, pixels = tmp_path / "colours.tif", np.full((3, 16, 20, 4), 255, np.uint8)
    pixels[1, ..., 0] = 7
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"], metadata={"axes": "ZYXS"})
    (tmp_path / "out").mkdir()
    made, notes = convert(path, tmp_path / "out", Part(planes=(2, 2)))
    np.testing.assert_array_equal(read_image(made).pixels, pixels[1, ..., :3])
    assert Note("alpha-dropped") in notes


def test_named_axes_are_those_of_the_file_of_which_a_channel_is_taken(tmp_path: Path) -> None:
    path, pixels = tmp_path / "plain.tif", np.arange(2 * 3 * 16 * 20, dtype=np.uint16).reshape(2, 3, 16, 20)
    tifffile.imwrite(path, pixels, photometric="minisblack")
    (tmp_path / "out").mkdir()
    made, _ = convert(path, tmp_path / "out", Part(channels=("2",), planes=(2, 3)), axes="CZYX")
    image = read_image(made)
    assert image.axes == "ZYX"
    np.testing.assert_array_equal(image.pixels, pixels[1, 1:])


def test_an_image_beside_its_export_is_refused(folder: Path) -> None:
    path = folder / "train" / "source" / "field0.tif"
    tifffile.imwrite(path.with_suffix(".lsm"), read_image(path).pixels)
    assert mentions(problem(folder), "source/field0.lsm: field0.tif", "same name")


@pytest.mark.parametrize("shape", [(64, 80), (3, 64, 80)])
def test_the_headers_of_a_makers_format_say_what_it_is_converted_to(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "field.lsm"
    tifffile.imwrite(path, np.arange(np.prod(shape), dtype=np.uint16).reshape(shape), photometric="minisblack")
    converted = inspect_image(convert(path, tmp_path)[0])
    assert inspect_part(path) == (converted.axes, converted.shape)


def test_inputs_are_the_images_of_a_folder(folder: Path) -> None:
    (folder / "test" / "source" / "notes.txt").write_text("not an image")
    assert len(find_inputs(folder / "test" / "source")) == 3


def test_a_name_that_is_not_utf8_is_refused(folder: Path) -> None:
    for part, other in (("train", "target"), ("test", "source")):
        path = folder / part / other / "field0.tif"
        path.rename(os.fsdecode(bytes(path).replace(b"field0", b"fl\xe4che")))
    assert mentions(problem(folder), "train/target/fl?che.tif", "test/source/fl?che.tif", "UTF-8")
    with pytest.raises(InvalidInputError, match=r"fl\?che\.tif: .*UTF-8"):
        find_inputs(folder / "test" / "source")


def test_inputs_whose_results_would_collide_are_refused(folder: Path) -> None:
    source = folder / "test" / "source"
    write_image(source / "field0.png", read_image(source / "field0.tif"))
    with pytest.raises(InvalidInputError, match="same name"):
        find_inputs(source)


def test_a_folder_for_results_is_looked_at_beforehand(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "folder", ["report.pdf"], overwrite=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "report.pdf").touch()
    check_output(tmp_path, ["report.pdf"], overwrite=True)
    with pytest.raises(AlreadyExistsError, match=r"report\.pdf already"):
        check_output(tmp_path, ["report.pdf"], overwrite=False)
    with pytest.raises(InvalidInputError, match="is a file"):
        check_output(tmp_path / "report.pdf", ["summary.json"], overwrite=False)
    with pytest.raises(InvalidInputError, match="cannot be written"):
        check_output(Path("/proc/nothing"), ["summary.json"], overwrite=False)


def test_the_first_failure_of_a_transfer_ends_it() -> None:
    begun: list[int] = []

    def action(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise InvalidInputError("no")
        time.sleep(0.01)  # without it the threads may be through before the failure is seen

    with pytest.raises(InvalidInputError):
        for_each([(str(number), number) for number in range(1000)], action)
    assert len(begun) < 1000
