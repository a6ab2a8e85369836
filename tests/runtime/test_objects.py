"""Objects: the label image, the table and the ImageJ regions say the same."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.methods.objects import Objects, compact_labels
from parfocal.runtime.prediction.object_files import ObjectFiles, class_image
from parfocal.runtime.prediction.outputs import Predicted, ResultOutputs
from parfocal.runtime.prediction.unit import Stack


def plane(*windows: tuple[int, int, int, int], shape: tuple[int, ...] = (20, 30)) -> Objects:
    labels = np.zeros(shape, np.int32)
    for number, (top, bottom, left, right) in enumerate(windows, start=1):
        labels[..., top:bottom, left:right] = number
    return Objects(labels, np.linspace(0.9, 0.5, len(windows)).astype(np.float32))


def write(
    folder: Path, planes: Sequence[Objects], pixel_size: PixelSize | None = None, stack: Stack | None = None
) -> ObjectFiles:
    files = ObjectFiles(folder, "a", stack or Stack("Z", (len(planes),)), pixel_size)
    for number, each in enumerate(planes):
        files.add(number, each)
    files.close()
    return files


def predicted(folder: Path, planes: Sequence[Objects], class_role: str = "") -> Predicted:
    outputs = ResultOutputs(folder, "a", "YX", Stack("Z", (len(planes),)), None)
    for number, each in enumerate(planes):
        outputs.unit(number, each.labels.shape).objects(each, class_role=class_role)
    return outputs.finish()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_centroid_and_area_in_pixels_and_micrometres(tmp_path: Path) -> None:
    write(tmp_path, [plane((0, 4, 0, 6), (10, 12, 20, 30))], PixelSize(0.5, 0.25, None))
    first, second = rows(tmp_path / "objects" / "a.csv")
    assert {name: first[name] for name in list(first)[:9]} == {
        "plane": "0",
        "label": "1",
        "y_px": "1.500",
        "x_px": "2.500",
        "area_px": "24",
        "y_um": "0.3750",
        "x_um": "1.2500",
        "area_um2": "3",
        "probability": "0.9000",
    }
    assert (second["label"], second["area_px"]) == ("2", "20")


def test_without_a_pixel_size_there_are_no_micrometres(tmp_path: Path) -> None:
    write(tmp_path, [plane((0, 4, 0, 6))])
    assert list(rows(tmp_path / "objects" / "a.csv")[0]) == [
        *("plane", "label", "y_px", "x_px", "area_px", "probability"),
        *("perimeter_px", "major_axis_px", "minor_axis_px", "eccentricity", "solidity"),
    ]


def measured(folder: Path, objects: Objects, pixels: Any, size: PixelSize | None = None) -> list[dict[str, float]]:
    files = ObjectFiles(folder, "a", Stack(), size)
    files.add(0, objects, pixels)
    files.close()
    assert [column.name for column in files.columns] == list(rows(folder / "objects" / "a.csv")[0])
    return [{name: float(value or "nan") for name, value in row.items()} for row in rows(folder / "objects" / "a.csv")]


def test_intensities_are_those_of_the_image_in_each_channel(tmp_path: Path) -> None:
    objects = plane((0, 4, 0, 6), (10, 12, 20, 30))
    image = np.random.default_rng(0).integers(0, 65536, (20, 30, 2), np.uint16)
    for one_channel in (True, False):
        pixels = image[..., 0] if one_channel else image
        for row in measured(tmp_path, objects, pixels):
            for channel in range(1 if one_channel else 2):
                inside = image[..., channel][objects.labels == row["label"]].astype(float)
                suffix = "" if one_channel else f"_channel_{channel + 1}"
                expected = {"mean": inside.mean(), "min": inside.min(), "max": inside.max(), "integrated": inside.sum()}
                for name, value in expected.items():
                    assert row[f"intensity_{name}{suffix}"] == pytest.approx(value, rel=1e-6), (name, channel)


def disc(radii: tuple[float, ...], shape: tuple[int, ...]) -> Objects:
    places = np.indices(shape)
    middle = [length // 2 for length in shape]
    inside = sum(((place - at) / radius) ** 2 for place, at, radius in zip(places, middle, radii, strict=True)) <= 1
    return Objects(inside.astype(np.int32), np.ones(1, np.float32))


def test_shapes_are_measured_in_pixels_and_micrometres(tmp_path: Path) -> None:
    (row,) = measured(tmp_path, disc((10, 20), (50, 50)), None, PixelSize(0.5, 0.5, None))
    assert row["major_axis_px"] == pytest.approx(40, rel=0.02)
    assert row["minor_axis_px"] == pytest.approx(20, rel=0.02)
    assert row["eccentricity"] == pytest.approx(np.sqrt(1 - 0.25), abs=0.01)
    assert row["perimeter_px"] == pytest.approx(96.9, rel=0.05)  # Ramanujan's approximation for an ellipse
    assert 0.9 < row["solidity"] < 1
    for name in ("major_axis", "minor_axis", "perimeter"):
        assert row[f"{name}_um"] == pytest.approx(row[f"{name}_px"] / 2, rel=1e-4)


def test_a_round_object_in_oblong_pixels_has_equal_axes_in_micrometres(tmp_path: Path) -> None:
    (row,) = measured(tmp_path, disc((10, 20), (50, 50)), None, PixelSize(0.5, 1.0, None))
    assert row["major_axis_um"] == pytest.approx(20, rel=0.02)
    assert row["minor_axis_um"] == pytest.approx(20, rel=0.02)
    assert np.isnan(row["perimeter_um"])
    (row,) = measured(tmp_path, disc((4, 12, 12), (15, 40, 40)), None, PixelSize(1.0, 1.0, 3.0))
    assert row["major_axis_um"] == pytest.approx(24, rel=0.05)
    assert row["minor_axis_um"] == pytest.approx(24, rel=0.1)
    assert row["minor_axis_px"] == pytest.approx(8, rel=0.1)


def test_single_pixels_and_lines_are_measured(tmp_path: Path) -> None:
    line, dot = measured(tmp_path, plane((3, 4, 2, 9), (8, 9, 8, 9)), np.ones((20, 30)))
    assert (line["minor_axis_px"], line["eccentricity"], line["solidity"]) == (0, 1, 1)
    assert (dot["major_axis_px"], dot["perimeter_px"], dot["intensity_integrated"]) == (0, 0, 1)
    (flat,) = measured(tmp_path, Objects(np.pad(np.ones((1, 4, 4), np.int32), 3), np.ones(1, np.float32)), None)
    assert flat["minor_axis_px"] == 0


def test_volumes_have_a_third_coordinate(tmp_path: Path) -> None:
    write(tmp_path, [plane((0, 4, 0, 6), shape=(5, 20, 30))], PixelSize(1.0, 1.0, 2.0))
    (row,) = rows(tmp_path / "objects" / "a.csv")
    assert (row["z_px"], row["z_um"], row["volume_px"], row["volume_um3"]) == ("2.000", "4.0000", "120", "240")


def test_every_plane_of_a_stack_counts_from_one(tmp_path: Path) -> None:
    planes = [plane((0, 4, 0, 6), (10, 12, 20, 30)), plane(), plane((5, 9, 5, 9))]
    result = predicted(tmp_path, planes)
    labels = result.images["prediction"]
    assert (labels.axes, labels.pixels.dtype) == ("ZYX", np.uint16)
    assert [int(each.max()) for each in labels.pixels] == [2, 0, 1]
    assert result.counts == {"objects": 3}
    assert [(row["plane"], row["label"]) for row in rows(tmp_path / "objects" / "a.csv")] == [
        ("0", "1"),
        ("0", "2"),
        ("2", "1"),
    ]


@pytest.mark.parametrize("seen", [1, 2])
def test_an_object_that_others_cover_is_not_counted(seen: int, tmp_path: Path) -> None:
    covered = Objects(plane((0, 4, 0, 6)).labels * seen, np.array([0.9, 0.4], np.float32))
    assert write(tmp_path, [covered]).counts == {"objects": 1}
    assert [row["label"] for row in rows(tmp_path / "objects" / "a.csv")] == [str(seen)]


def with_classes(objects: Objects, *probabilities: tuple[float, ...]) -> Objects:
    return replace(objects, class_probability=np.array(probabilities, np.float32).reshape(-1, 3))


def test_the_class_of_an_object_is_in_table_image_and_counts(tmp_path: Path) -> None:
    windows = (0, 4, 0, 6), (10, 12, 20, 30), (5, 9, 5, 9)
    planes = [
        with_classes(plane(*windows), (0.1, 0.2, 0.7), (0.5, 0.3, 0.2), (0.0, 0.1, 0.9)),
        with_classes(plane()),
        with_classes(plane((5, 9, 5, 9)), (0, 1, 0)),
    ]
    result = predicted(tmp_path, planes, "target_class")
    found = [(row["class"], row["class_probability"]) for row in rows(tmp_path / "objects" / "a.csv")]
    assert found == [("2", "0.7000"), ("0", "0.5000"), ("2", "0.9000"), ("1", "1.0000")]
    image = result.images["target_class"].pixels
    assert (image.shape, image.dtype) == ((3, 20, 30), np.uint8)
    assert [int(image[0, top, left]) for top, _, left, _ in windows] == [2, 0, 2]
    assert image[1].sum() == 0
    assert (image[2] == 1).sum() == 16
    assert result.counts == {"objects": 4, "class_1": 1, "class_2": 2, "class_0": 1}
    with pytest.raises(ValueError, match="no classes"):
        class_image(plane())


def test_a_covered_object_is_not_counted_with_its_class(tmp_path: Path) -> None:
    covered = Objects(plane((0, 4, 0, 6)).labels * 2, np.array([0.9, 0.4], np.float32))
    counts = write(tmp_path, [with_classes(covered, (0, 1, 0), (0, 0, 1))]).counts
    assert counts == {"objects": 1, "class_1": 0, "class_2": 1, "class_0": 0}


def test_more_objects_than_16_bits_count_take_32(tmp_path: Path) -> None:
    many = Objects(np.arange(1, 70_001).reshape(200, 350), np.ones(70_000, np.float32))
    planes = [plane((0, 4, 0, 6), shape=(200, 350)), many]
    pixels = predicted(tmp_path, planes).images["prediction"].pixels
    assert pixels.dtype == np.uint32
    for found, expected in zip(pixels, planes, strict=True):
        np.testing.assert_array_equal(found, expected.labels)


@pytest.mark.parametrize("planes", [1, 3])
def test_no_objects_at_all_make_an_empty_table(planes: int, tmp_path: Path) -> None:
    write(tmp_path, [plane()] * planes, PixelSize(1.0, 1.0, None))
    assert rows(tmp_path / "objects" / "a.csv") == []


def test_trackmate_gets_frames_names_and_places_in_micrometres(tmp_path: Path) -> None:
    frames = [plane((0, 4, 0, 6), (10, 12, 20, 30)), plane(), plane((5, 9, 5, 9))]
    write(tmp_path, frames, PixelSize(0.5, 0.25, None), Stack("T", (3,)))
    first, second, third = rows(tmp_path / "trackmate" / "a.csv")
    assert first == {
        "frame": "0",
        "id": "1",
        "name": "0001-00001",
        "x": "1.2500",
        "y": "0.3750",
        "z": "0.0000",
        "radius": f"{np.sqrt(24 * 0.5 * 0.25 / np.pi):.4f}",
        "quality": "0.9000",
    }
    assert [(row["frame"], row["id"], row["name"]) for row in (second, third)] == [
        ("0", "2", "0001-00002"),
        ("2", "3", "0003-00001"),
    ]


def test_trackmate_gets_pixels_where_the_image_says_no_size(tmp_path: Path) -> None:
    write(tmp_path, [plane(), plane((0, 4, 0, 6))], None, Stack("T", (2,)))
    (row,) = rows(tmp_path / "trackmate" / "a.csv")
    assert (row["frame"], row["x"], row["y"], row["z"]) == ("1", "2.5000", "1.5000", "0.0000")


@pytest.mark.parametrize(("depth", "expected"), [(3.0, ["0.0000", "6.0000"]), (None, ["0.0000", "2.0000"])])
def test_planes_of_a_frame_have_a_depth_for_trackmate(depth: float | None, expected: list[str], tmp_path: Path) -> None:
    planes = [plane()] * 3 + [plane((0, 4, 0, 6)), plane(), plane((0, 4, 0, 6))]
    write(tmp_path, planes, PixelSize(1.0, 1.0, depth), Stack("TZ", (2, 3)))
    found = rows(tmp_path / "trackmate" / "a.csv")
    assert [row["frame"] for row in found] == ["1", "1"]
    assert [row["z"] for row in found] == expected


def test_volumes_have_their_depth_and_radius_for_trackmate(tmp_path: Path) -> None:
    frames = [plane((0, 4, 0, 6), shape=(5, 20, 30)), plane((2, 6, 1, 7), shape=(5, 20, 30))]
    write(tmp_path, frames, PixelSize(0.5, 0.5, 2.0), Stack("T", (2,)))
    found = rows(tmp_path / "trackmate" / "a.csv")
    assert [row["frame"] for row in found] == ["0", "1"]
    assert [(row["x"], row["y"], row["z"]) for row in found] == [
        ("1.2500", "0.7500", "4.0000"),
        ("1.7500", "1.7500", "4.0000"),
    ]
    # 120 voxels of half a cubic micrometre, as one ball.
    assert float(found[0]["radius"]) == pytest.approx((3 * 60 / (4 * np.pi)) ** (1 / 3), abs=1e-4)


@pytest.mark.parametrize(
    ("ids", "dtype", "expected"),
    [
        ([0, 3_000_000_000, 5, 4_294_967_295], np.uint32, [0, 2, 1, 3]),
        ([0, 2**63 + 7, 2**63 + 8, 9], np.uint64, [0, 2, 3, 1]),
        ([-(2**31), 0, 2**31 - 1, -7], np.int32, [-1, 0, 1, -1]),
        ([-(2**63), 2**62, 2**62 + 1, 0], np.int64, [-1, 1, 2, 0]),
        ([4, 4, 2, 2], np.uint8, [2, 2, 1, 1]),
        ([-1, -2, -1, -2], np.int8, [-1, -1, -1, -1]),
    ],
)
def test_ids_of_any_size_become_numbers_from_one(ids: list[int], dtype: type, expected: list[int]) -> None:
    labels = np.array(ids, dtype).reshape(2, 2)
    compact = compact_labels(labels)
    assert compact.dtype == np.int32
    np.testing.assert_array_equal(compact, np.reshape(expected, (2, 2)))
