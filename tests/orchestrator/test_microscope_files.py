"""CZI files, made by Zeiss' own library, and LIF files, made by hand, on the way into the store."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support import mentions

from parfocal.client.convert import Part, convert, inspect_part
from parfocal.client.datasets import check_folder
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import read_image

# Warnings of the readers and of what they bring.
pytestmark = pytest.mark.filterwarnings("default")
CZI = pytest.mark.skipif(
    not all(find_spec(name) for name in ("bioio_czi", "pylibCZIrw")),
    reason="bioio-czi (extra `formats`) is not installed here",
)
LIF = pytest.mark.skipif(find_spec("bioio_lif") is None, reason="bioio-lif (extra `formats`) is not installed here")
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


@CZI
def test_all_of_a_file(tmp_path: Path) -> None:
    pixels = write_czi(tmp_path / "my slide.czi")
    made, notes = convert(tmp_path / "my slide.czi", tmp_path)
    image = read_image(made)
    assert (made.name, image.axes) == ("my slide.tif", "TCZYX")
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.pixel_size is not None
    assert (image.pixel_size.x, image.pixel_size.y, image.pixel_size.z) == pytest.approx((0.2, 0.1, 0.5))
    assert [note.detail for note in notes] == ["channels DAPI, GFP"]


@CZI
def test_a_part_of_a_file(tmp_path: Path) -> None:
    pixels = write_czi(tmp_path / "a.czi")
    part = Part(channels=("GFP",), planes=(2, 3), frames=(2, 2))
    assert inspect_part(tmp_path / "a.czi", part) == ("ZYX", (2, 64, 80))
    made, _ = convert(tmp_path / "a.czi", tmp_path, part)
    np.testing.assert_array_equal(read_image(made).pixels, pixels[1, 1, 1:])


@CZI
def test_scenes_that_the_metadata_do_not_name_are_not_dropped(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", scenes=2)
    with pytest.raises(InvalidInputError) as caught:
        convert(tmp_path / "a.czi", tmp_path)
    assert mentions(caught.value.message, "a.czi", "2 images")


@CZI
def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi")
    data = (tmp_path / "a.czi").read_bytes()
    (tmp_path / "a.czi").write_bytes(data[:1000])
    with pytest.raises(InvalidInputError, match=r"a\.czi"):
        convert(tmp_path / "a.czi", tmp_path)


@CZI
def test_a_folder_becomes_a_dataset(tmp_path: Path) -> None:
    for number, place in enumerate(("train/source", "train/target", "test/source", "test/target")):
        write_czi(tmp_path / place / "a.czi", number)
    report = check_folder(tmp_path, "ZYX", kind="paired", part=Part(channels=("DAPI",), frames=(1, 1)))
    assert (len(report.train), report.train[0].shape) == (1, (3, 64, 80))
    assert any("channel DAPI; frames 1 to 1" in text for text in report.warnings)


def write_lif(path: Path) -> list[NDArray[np.uint16]]:
    """Write two images, each of three planes with two channels (Z, C, Y, X), in a container of version 2."""
    planes, channels, rows, columns = 3, 2, 64, 80
    rng = np.random.default_rng(0)
    images = [rng.integers(100, 4000, (planes, channels, rows, columns), dtype=np.uint16) for _ in range(2)]
    elements = ""
    for number, (name, image) in enumerate(zip(("first", "second"), images, strict=True)):
        described = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" NameOfMeasuredQuantity="" Min="0" '
            f'Max="65535" Unit="" LUTName="{colour}" IsLUTInverted="0" BytesInc="{at * rows * columns * 2}" '
            'BitInc="0"/>'
            for at, colour in enumerate(("Green", "Red"))
        )
        sizes = ((columns, 0.2, 2), (rows, 0.1, columns * 2), (planes, 0.5, channels * rows * columns * 2))
        dimensions = "".join(
            f'<DimensionDescription DimID="{axis}" NumberOfElements="{count}" Origin="0" '
            f'Length="{length * 1e-6 * (count - 1):.9e}" Unit="m" BitInc="0" BytesInc="{step}"/>'
            for axis, (count, length, step) in enumerate(sizes, 1)
        )
        elements += (
            f'<Element Name="{name}" Visibility="1" CopyOption="1" UniqueID="id{number}"><Data>'
            '<Image TextDescription="">'
            f"<ImageDescription><Channels>{described}</Channels><Dimensions>{dimensions}</Dimensions></ImageDescription>"
            f'</Image></Data><Memory Size="{image.nbytes}" MemoryBlockID="MemBlock_{number}"/><Children/></Element>'
        )
    xml = (
        '<LMSDataContainerHeader Version="2">'
        f'<Element Name="{path.name}" Visibility="1" CopyOption="1" UniqueID="root">'
        f'<Data><Experiment Path="{path.name}" IsSavedFlag="1"/></Data><Memory Size="0" MemoryBlockID="MemBlock_r"/>'
        f"<Children>{elements}</Children></Element></LMSDataContainerHeader>"
    )
    text = xml.encode("utf-16-le")
    content = struct.pack("<II", 0x70, 5 + len(text)) + b"*" + struct.pack("<I", len(xml)) + text
    for name, data in (("MemBlock_r", b""), *((f"MemBlock_{at}", image.tobytes()) for at, image in enumerate(images))):
        encoded = name.encode("utf-16-le")
        content += struct.pack("<II", 0x70, 14 + len(encoded)) + b"*" + struct.pack("<Q", len(data)) + b"*"
        content += struct.pack("<I", len(name)) + encoded + data
    path.write_bytes(content)
    return images


@LIF
def test_an_image_of_a_lif_is_chosen(tmp_path: Path) -> None:
    _, second = write_lif(tmp_path / "a.lif")
    with pytest.raises(InvalidInputError) as caught:
        convert(tmp_path / "a.lif", tmp_path)
    assert mentions(caught.value.message, "2 images", "first, second", "--scene")
    for part, expected in (
        (Part("second"), second.transpose(1, 0, 2, 3)),
        (Part("2", ("Red",), (2, 3)), second[1:, 1]),
    ):
        made, notes = convert(tmp_path / "a.lif", tmp_path, part)
        image = read_image(made)
        np.testing.assert_array_equal(image.pixels, expected)
        assert image.pixel_size is not None
        assert (image.pixel_size.x, image.pixel_size.y, image.pixel_size.z) == pytest.approx((0.2, 0.1, 0.5))
        assert "image second; channels" in notes[0].detail
