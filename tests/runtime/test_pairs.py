"""Pairs: everything that is wrong with a folder is said at once, by file name and with a cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import mentions

from parfocal.runtime.datasets.pairs import check_images, check_pairs, find_images
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, PixelSize, write_image


def picture(seed: int = 0, shape: tuple[int, ...] = (32, 40), dtype: str = "uint16") -> NDArray[Any]:
    values: NDArray[Any] = np.random.default_rng(seed).integers(0, 200, shape)
    return values.astype(dtype)


def save(path: Path, pixels: NDArray[Any], axes: str = "YX", size: PixelSize | None = None) -> None:
    write_image(path, Image(pixels, axes, size))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three good pairs."""
    for number in (1, 2, 10):
        save(tmp_path / "source" / f"cell{number}.tif", picture(number))
        save(tmp_path / "target" / f"cell{number}.tif", picture(100 + number))
    return tmp_path / "source", tmp_path / "target"


def problems(source: Path, target: Path, **options: Any) -> dict[str, str]:
    with pytest.raises(InvalidInputError) as caught:
        check_pairs(source, target, axes="YX", **options)
    return {violation.field: violation.description for violation in caught.value.violations}


def test_good_pairs_come_in_natural_order_without_warnings(folders: tuple[Path, Path]) -> None:
    report = check_pairs(*folders, axes="YX", min_size={"Y": 32, "X": 32}, min_images=3)
    assert [pair.stem for pair in report.pairs] == ["cell1", "cell2", "cell10"]
    assert report.pairs[0].shape == (32, 40)
    assert report.pairs[0].dtypes == ("uint16", "uint16")
    assert report.warnings == ()


def test_hidden_and_other_files_are_passed_over(folders: tuple[Path, Path]) -> None:
    (folders[0] / ".DS_Store").write_bytes(b"x")
    (folders[0] / "._cell1.tif").write_bytes(b"x")
    (folders[0] / "notes.txt").write_text("x")
    (folders[0] / "sub.tif").mkdir()
    assert list(find_images(folders[0])) == ["cell1", "cell2", "cell10"]


def test_stems_of_ome_tiff_lose_both_endings(tmp_path: Path) -> None:
    save(tmp_path / "a.ome.tif", picture())
    assert find_images(tmp_path) == {"a": tmp_path / "a.ome.tif"}


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", picture())
    save(tmp_path / "a.png", picture())
    with pytest.raises(InvalidInputError, match=r"a\.tif: a\.png .*same name"):
        find_images(tmp_path)


def test_pairs_may_be_of_different_kinds_of_file(tmp_path: Path) -> None:
    save(tmp_path / "source" / "a.png", picture(1))
    save(tmp_path / "target" / "a.ome.tif", picture(2))
    assert [pair.stem for pair in check_pairs(tmp_path / "source", tmp_path / "target", axes="YX").pairs] == ["a"]


def test_a_missing_partner_is_named_on_either_side_with_the_nearest_name(folders: tuple[Path, Path]) -> None:
    source, target = folders
    (source / "cell1.tif").rename(source / "cell1_noisy.tif")
    found = problems(source, target)
    assert mentions(found["source/cell1_noisy.tif"], "cell1_noisy in target", "(is it cell1.tif?)")
    assert mentions(found["target/cell1.tif"], "cell1 in source", "(is it cell1_noisy.tif?)")


def test_another_number_is_never_suggested(folders: tuple[Path, Path]) -> None:
    (folders[0] / "cell1.tif").rename(folders[0] / "cell3.tif")
    said = problems(*folders)["source/cell3.tif"]
    assert "cell3 in target" in said
    assert "is it" not in said


def test_all_problems_are_collected(folders: tuple[Path, Path]) -> None:
    source, target = folders
    save(source / "cell1.tif", picture(1, (32, 41)))
    (target / "cell2.tif").write_bytes((target / "cell2.tif").read_bytes()[:-40])
    save(source / "cell10.tif", picture(1, (32, 40, 3), "uint8"), "YXS")
    found = problems(source, target)
    assert mentions(found["source/cell1.tif"], "32 x 41", "target/cell1.tif is 32 x 40")
    assert "truncated" in found["target/cell2.tif"]
    assert "colour (RGB) image" in found["source/cell10.tif"]
    assert len(found) == 3


def test_the_message_shows_ten_problems_and_counts_the_rest(folders: tuple[Path, Path]) -> None:
    for number in range(20, 34):
        save(folders[0] / f"single{number}.tif", picture(number))
    with pytest.raises(InvalidInputError) as caught:
        check_pairs(*folders, axes="YX")
    assert len(caught.value.violations) == 14
    assert caught.value.message.count("\n- ") == 11
    assert caught.value.message.endswith("- and 4 more")


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((4, 32, 40), "ZYX", "it is a stack"),
        ((4, 32, 40), "TYX", "it is a stack"),
        ((2, 32, 40), "CYX", "one of its 2 channels"),
        ((2, 2, 3, 32, 40), "TCZYX", "axes TCZYX"),
    ],
)
def test_other_axes_are_refused(shape: tuple[int, ...], axes: str, expected: str, folders: tuple[Path, Path]) -> None:
    save(folders[0] / "cell1.tif", picture(1, shape), axes)
    assert expected in problems(*folders)["source/cell1.tif"]


def test_a_plane_is_no_stack(folders: tuple[Path, Path]) -> None:
    with pytest.raises(InvalidInputError, match=r"axes YX .*ZYX.*single plane"):
        check_pairs(*folders, axes="ZYX")


def test_what_cannot_be_computed_with_is_refused(folders: tuple[Path, Path]) -> None:
    pixels = picture(1, dtype="float32")
    pixels[0, :3] = np.nan, np.inf, 1e35
    save(folders[0] / "cell1.tif", pixels)
    assert "3 pixels NaN" in problems(*folders)["source/cell1.tif"]


def test_constant_images_are_refused_unless_targets_may_be(folders: tuple[Path, Path]) -> None:
    save(folders[1] / "cell1.tif", np.zeros((32, 40), np.uint16))
    assert "every pixel is 0" in problems(*folders)["target/cell1.tif"]
    assert len(check_pairs(*folders, axes="YX", constant_targets=True).pairs) == 3


def test_images_smaller_than_the_patch_are_refused(folders: tuple[Path, Path]) -> None:
    found = problems(*folders, min_size={"Y": 48, "X": 40})
    assert mentions(found["source/cell1.tif"], "32 pixels along Y", "48")


def test_empty_and_missing_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.czi").write_bytes(b"x")
    found = problems(tmp_path / "source", tmp_path / "target")
    assert "a.czi" in found["source"]
    assert "there is no folder" in found["target"]


def test_too_few_pairs_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "source" / "a.tif", picture(1))
    save(tmp_path / "target" / "a.tif", picture(2))
    found = problems(tmp_path / "source", tmp_path / "target", min_images=2)
    assert found["source"] == "1 pair found, 2 required: add images."


def warnings_of(folders: tuple[Path, Path]) -> str:
    return "\n".join(check_pairs(*folders, axes="YX").warnings)


def test_mixed_types_and_pixel_sizes_are_warnings(folders: tuple[Path, Path]) -> None:
    save(folders[0] / "cell1.tif", picture(1, dtype="uint8"), size=PixelSize(0.1, 0.1))
    text = warnings_of(folders)
    assert mentions(text, "source images", "types: uint8, uint16", "pixel sizes", "0.1 x 0.1 µm, unknown")


def test_saturation_is_a_warning_but_not_for_binary_images(folders: tuple[Path, Path]) -> None:
    pixels = picture(1)
    pixels[:10] = 4095  # a 12-bit camera
    save(folders[0] / "cell1.tif", pixels)
    save(folders[1] / "cell2.tif", np.where(picture(3) > 100, 255, 0).astype(np.uint8))
    text = warnings_of(folders)
    assert "saturated" in text
    assert "source/cell1.tif (31 %)" in text
    assert "target/cell2.tif (" not in text


def test_duplicates_and_targets_equal_to_sources_are_warnings(folders: tuple[Path, Path]) -> None:
    save(folders[0] / "cell2.tif", picture(1))
    save(folders[1] / "cell10.tif", picture(10))
    text = warnings_of(folders)
    assert "source/cell2.tif = source/cell1.tif" in text
    assert "source/cell10.tif and target/cell10.tif" in text


def test_stacks_are_accepted_for_prediction_where_allowed(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", picture(1, (3, 32, 40)), "ZYX")
    save(tmp_path / "b.tif", picture(2))
    report = check_images(tmp_path, axes="YX", allow_stacks=True)
    assert [(image.stem, image.axes) for image in report.images] == [("a", "ZYX"), ("b", "YX")]
    with pytest.raises(InvalidInputError, match="it is a stack"):
        check_images(tmp_path, axes="YX")


def test_channels_are_no_stack(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", picture(1, (3, 32, 40)), "CYX")
    with pytest.raises(InvalidInputError, match="channels"):
        check_images(tmp_path, axes="YX", allow_stacks=True)


def test_a_blank_image_does_not_stop_a_batch(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", np.zeros((32, 32), np.uint8))
    report = check_images(tmp_path, axes="YX")
    (warning,) = report.warnings
    assert mentions(warning, "same value", f"{tmp_path.name}/a.tif")


def test_headers_only_still_finds_truncated_files(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", picture(1))
    save(tmp_path / "b.tif", picture(2))
    assert len(check_images(tmp_path, axes="YX", headers_only=True).images) == 2
    (tmp_path / "b.tif").write_bytes((tmp_path / "b.tif").read_bytes()[:-40])
    with pytest.raises(InvalidInputError, match="truncated"):
        check_images(tmp_path, axes="YX", headers_only=True)


COMPOSED, APART = "B\u00e4r", "Ba\u0308r"  # the same name as Linux or Windows and as macOS store it


def test_names_stored_by_macos_and_by_others_are_partners(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    source, target = tmp_path / "source" / f"{APART}.tif", tmp_path / "target" / f"{COMPOSED}.tif"
    for path, image in ((source, pixels), (target, pixels[::-1])):
        path.parent.mkdir()
        write_image(path, Image(image, "YX"))
    (pair,) = check_pairs(source.parent, target.parent, axes="YX").pairs
    assert (pair.stem, pair.source, pair.target) == (COMPOSED, source, target)


def test_two_files_whose_names_only_look_different_to_the_computer_are_refused(tmp_path: Path) -> None:
    for name in (COMPOSED, APART):
        write_image(tmp_path / f"{name}.tif", Image(np.eye(8, dtype=np.uint16), "YX"))
    with pytest.raises(InvalidInputError, match="accented letters"):
        find_images(tmp_path)
