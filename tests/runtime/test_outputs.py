"""What collects the outputs of an image: parts, stacks, scales, and tables that grow on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, PixelSize
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outputs import Column, Detections
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.service import Method
from parfocal.runtime.prediction.outputs import ResultOutputs
from parfocal.runtime.prediction.unit import ArrayUnit, Normalised, Stack, split_units


def outputs(folder: Path, stack: Stack | None = None, axes: str = "YX", **options: Any) -> ResultOutputs:
    return ResultOutputs(folder, "a", axes, stack or Stack(), PixelSize(0.2, 0.4, 0.6), **options)


def method(axes: str = "YX", channel_axes: str = "") -> Method:
    return Method("m", "M", 1, "", axes, 1, {}, "", "", "", "", channel_axes=channel_axes)


def test_an_image_may_come_in_parts(tmp_path: Path) -> None:
    result = outputs(tmp_path, Stack("T", (2,)))
    pixels = np.random.default_rng(0).random((2, 6, 8)).astype(np.float32)
    for number, plane in enumerate(pixels):
        sink = result.unit(number, (6, 8)).image("prediction")
        for top in (0, 3):
            for left in (0, 4):
                window = slice(top, top + 3), slice(left, left + 4)
                sink.write(plane[window], window)
    image = result.finish().images["prediction"]
    assert image.axes == "TYX"
    np.testing.assert_array_equal(image.pixels, pixels)


def test_clipped_pixels_are_counted_over_all_parts(tmp_path: Path) -> None:
    result = outputs(tmp_path, like=np.dtype(np.uint8))
    sink = result.unit(0, (4, 4)).image("prediction")
    sink.write(np.full((2, 4), 300, np.float32), (slice(0, 2), slice(0, 4)))
    sink.write(np.full((2, 4), 7, np.float32), (slice(2, 4), slice(0, 4)))
    predicted = result.finish()
    assert predicted.clipped == 0.5
    assert predicted.images["prediction"].pixels[:, 0].tolist() == [255, 255, 7, 7]


@pytest.mark.parametrize(
    ("axes", "shape", "scale", "expected"),
    [
        ("YX", (16, 16), 4, (0.05, 0.1, 0.6)),
        ("CYX", (3, 4, 4), 1, (0.2, 0.4, 0.6)),
        ("ZYX", (2, 8, 4), (2, 2, 1), (0.2, 0.2, 0.3)),
        ("YX", (2, 2), 0.5, (0.4, 0.8, 0.6)),
    ],
)
def test_the_pixel_size_follows_the_scale(
    tmp_path: Path, axes: str, shape: tuple[int, ...], scale: Any, expected: tuple[float, ...]
) -> None:
    result = outputs(tmp_path)
    result.unit(0, (4, 4)).image("prediction", shape=shape, axes=axes, scale=scale)
    size = result.finish().images["prediction"].pixel_size
    assert size is not None
    assert (size.x, size.y, size.z) == pytest.approx(expected)


def test_a_stack_of_what_is_a_stack_itself_is_refused(tmp_path: Path) -> None:
    unit = outputs(tmp_path, Stack("Z", (2,))).unit(0, (4, 4))
    with pytest.raises(InvalidInputError, match="along Z"):
        unit.image("prediction", shape=(3, 4, 4), axes="ZYX")
    # An axis of length 1 is none.
    single = outputs(tmp_path, Stack("Z", (1,)))
    single.unit(0, (4, 4)).image("prediction", shape=(3, 4, 4), axes="ZYX")
    assert single.finish().images["prediction"].axes == "ZYX"


@pytest.mark.parametrize(("shape", "axes"), [((4, 4), "CYX"), ((4, 4), "XY"), ((3, 4, 4), "CCX"), ((4,), "X")])
def test_axes_that_make_no_image_are_a_defect(tmp_path: Path, shape: tuple[int, ...], axes: str) -> None:
    with pytest.raises(ValueError, match="axes"):
        outputs(tmp_path).unit(0, (4, 4)).image("prediction", shape=shape, axes=axes)


def test_units_whose_outputs_differ_are_a_defect(tmp_path: Path) -> None:
    result = outputs(tmp_path, Stack("T", (2,)))
    result.unit(0, (4, 4)).image("prediction")
    result.unit(0, (4, 4)).table("t", [Column("a")])
    with pytest.raises(ValueError, match="another shape"):
        result.unit(1, (4, 4)).image("prediction", shape=(8, 8))
    with pytest.raises(ValueError, match="other columns"):
        result.unit(1, (4, 4)).table("t", [Column("b")])
    result.close()


def test_an_image_and_a_table_of_one_name_are_a_defect(tmp_path: Path) -> None:
    result = outputs(tmp_path)
    result.unit(0, (4, 4)).image("areas")
    result.unit(0, (4, 4)).table("areas", [Column("a")])
    with pytest.raises(ValueError, match="areas"):
        result.finish()


def test_rows_are_on_disk_before_the_table_is_complete(tmp_path: Path) -> None:
    result = outputs(tmp_path, Stack("T", (2,)))
    result.unit(0, (4, 4)).table("t", [Column("a"), Column("b")]).write([number, number**2] for number in range(5000))
    assert len((tmp_path / "t" / "a.csv").read_text().splitlines()) > 4000
    result.unit(1, (4, 4)).table("t", [Column("a"), Column("b")]).write([["x", 1.5]])
    table = result.finish().tables["t"]
    lines = (tmp_path / table.file).read_text().splitlines()
    assert [lines[0], lines[1], lines[5000], lines[5001]] == ["plane,a,b", "0,0,0", "0,4999,24990001", "1,x,1.5"]
    assert table.columns == (Column("plane"), Column("a"), Column("b"))


def test_a_row_of_another_length_is_a_defect(tmp_path: Path) -> None:
    result = outputs(tmp_path)
    with pytest.raises(ValueError, match="3 columns"):
        result.unit(0, (4, 4)).table("t", [Column("a"), Column("b")]).write([[1, 2, 3]])
    result.close()


def test_images_without_any_box_have_an_empty_table_and_annotation(tmp_path: Path) -> None:
    result = outputs(tmp_path)
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
    result.unit(0, (4, 6)).detections(nothing, ("cell", "dividing"))
    predicted = result.finish()
    assert predicted.counts == {"detections": 0, "class_cell": 0, "class_dividing": 0}
    assert len((tmp_path / predicted.files["detections"]).read_text().splitlines()) == 1
    assert "<object>" not in (tmp_path / predicted.files["voc"]).read_text()


def test_what_goes_wrong_behind_is_told_at_the_end(tmp_path: Path) -> None:
    result = outputs(tmp_path, Stack("T", (2,)))
    labels = np.ones((4, 4), np.int32)
    result.unit(0, (4, 4)).objects(Objects(labels, np.ones(1, np.float32)))
    # The second unit has classes, for which the table has no columns.
    result.unit(1, (4, 4)).objects(Objects(labels, np.ones(1, np.float32), (), np.ones((1, 2), np.float32)))
    with pytest.raises(ValueError, match="columns"):
        result.finish()


def test_a_label_image_may_stand_beside_another_prediction(tmp_path: Path) -> None:
    result = outputs(tmp_path)
    unit = result.unit(0, (4, 4))
    unit.image("prediction", dtype=np.uint8, values="none").write(np.full((4, 4), 255, np.uint8))
    unit.objects(Objects(np.ones((4, 4), np.int32), np.ones(1, np.float32)), name="instances")
    predicted = result.finish()
    assert {name: int(image.pixels.max()) for name, image in predicted.images.items()} == {
        "prediction": 255,
        "instances": 1,
    }
    assert predicted.files["objects"] == "objects/a.csv"


def test_a_unit_says_the_pixel_size_of_its_image() -> None:
    image = Image(np.zeros((2, 4, 5)), "TYX", PixelSize(0.1, 0.2))
    _, units = split_units(method(), 1, image, PredictionParameters(), Device())
    assert [unit.pixel_size for unit in units] == [PixelSize(0.1, 0.2)] * 2


def test_units_are_the_planes_of_a_stack_in_their_order() -> None:
    pixels = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    done: list[tuple[int, int]] = []
    image = Image(pixels, "TZYX")
    stack, units = split_units(
        method(), 1, image, PredictionParameters(tile_size=7), Device(), lambda *step: done.append(step)
    )
    assert (stack.axes, stack.lengths, len(stack)) == ("TZ", (2, 3), 6)
    assert stack.place(4) == {"T": 1, "Z": 1}
    for number, unit in enumerate(units):
        assert (unit.axes, unit.shape, unit.channels, unit.most_pixels) == ("YX", (4, 5), 1, 49)
        np.testing.assert_array_equal(unit.read(), pixels[number // 3, number % 3])
        np.testing.assert_array_equal(unit.read((slice(1, 3), slice(0, 2))), unit.read()[1:3, :2])
        unit.report(1, 2)
    assert done == [(2 * number + 1, 12) for number in range(6)]


def test_channels_come_last_wherever_they_are_in_the_file() -> None:
    pixels = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    stack, units = split_units(method(channel_axes="C"), 3, Image(pixels, "TCYX"), PredictionParameters(), Device())
    assert stack.axes == "T"
    for number, unit in enumerate(units):
        assert (unit.shape, unit.channels) == ((4, 5), 3)
        np.testing.assert_array_equal(unit.read(), np.moveaxis(pixels[number], 0, -1))


@pytest.mark.parametrize("channels", [1, 3])
def test_parts_are_normalised_with_the_constants_of_the_whole(channels: int) -> None:
    shape = (20, 30) if channels == 1 else (20, 30, channels)
    pixels = np.random.default_rng(0).integers(0, 5000, shape).astype(np.uint16)
    normalised = Normalised(ArrayUnit(pixels, "YX", 10**6), Normaliser())
    constants = Normaliser().fit(pixels, "YX" + "C" * (channels > 1))
    whole = Normaliser().apply(pixels, constants).reshape(20, 30, channels)
    assert normalised.shape == (20, 30, channels)
    np.testing.assert_array_equal(normalised.whole(), whole)
    np.testing.assert_array_equal(normalised[slice(3, 9), slice(2, 30)], whole[3:9, 2:30])
