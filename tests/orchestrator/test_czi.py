"""CZI files, made by Zeiss' own library, on the way into the store."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support import mentions

from parfocal.client.convert import Part, convert, inspect_makers_format
from parfocal.client.datasets import check_folder
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import read_image

pytestmark = [
    pytest.mark.skipif(
        not all(find_spec(name) for name in ("bioio_czi", "pylibCZIrw")),
        reason="bioio-czi (extra `formats`) is not installed here",
    ),
    # Of the reader and of what it brings, not of this repository.
    pytest.mark.filterwarnings("default"),
]
SHAPE = (2, 2, 3, 64, 80)


def write_czi(path: Path, seed: int = 0, scenes: int = 1) -> NDArray[np.uint16]:
    """Write times, channels and planes of noise, and return those (T, C, Z, Y, X) of the first scene."""
    from pylibCZIrw import czi

    pixels = np.random.default_rng(seed).integers(100, 4000, SHAPE, dtype=np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    with czi.create_czi(str(path)) as document:
        for scene in range(scenes):
            for t, c, z in np.ndindex(SHAPE[:3]):
                plane = {"T": t, "C": c, "Z": z}
                data = pixels[t, c, z, ..., np.newaxis] + scene
                document.write(data, plane=plane, scene=scene, location=(200 * scene, 0))
        document.write_metadata(
            "slide", channel_names={0: "DAPI", 1: "GFP"}, scale_x=0.2e-6, scale_y=0.1e-6, scale_z=0.5e-6
        )
    return pixels


def test_all_of_a_file(tmp_path: Path) -> None:
    pixels = write_czi(tmp_path / "my slide.czi")
    made, notes = convert(tmp_path / "my slide.czi", tmp_path)
    image = read_image(made)
    assert (made.name, image.axes) == ("my slide.tif", "TCZYX")
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.pixel_size is not None
    assert (image.pixel_size.x, image.pixel_size.y, image.pixel_size.z) == pytest.approx((0.2, 0.1, 0.5))
    assert [note.detail for note in notes] == ["channels DAPI, GFP"]


def test_a_part_of_a_file(tmp_path: Path) -> None:
    pixels = write_czi(tmp_path / "a.czi")
    part = Part(channels=("GFP",), planes=(2, 3), frames=(2, 2))
    assert inspect_makers_format(tmp_path / "a.czi", part) == ("ZYX", (2, 64, 80))
    made, _ = convert(tmp_path / "a.czi", tmp_path, part)
    np.testing.assert_array_equal(read_image(made).pixels, pixels[1, 1, 1:])


def test_scenes_that_the_metadata_do_not_name_are_not_dropped(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", scenes=2)
    with pytest.raises(InvalidInputError) as caught:
        convert(tmp_path / "a.czi", tmp_path)
    assert mentions(caught.value.message, "a.czi", "2 images")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi")
    data = (tmp_path / "a.czi").read_bytes()
    (tmp_path / "a.czi").write_bytes(data[:1000])
    with pytest.raises(InvalidInputError, match=r"a\.czi"):
        convert(tmp_path / "a.czi", tmp_path)


def test_a_folder_becomes_a_dataset(tmp_path: Path) -> None:
    for number, place in enumerate(("train/source", "train/target", "test/source", "test/target")):
        write_czi(tmp_path / place / "a.czi", number)
    report = check_folder(tmp_path, "ZYX", kind="paired", part=Part(channels=("DAPI",), frames=(1, 1)))
    assert (len(report.train), report.train[0].shape) == (1, (3, 64, 80))
    assert any("channels DAPI; frames 1 to 1" in text for text in report.warnings)
