"""The files of boxes: tables, ImageJ regions, pictures, and annotations that can be corrected and trained on."""

from __future__ import annotations

import csv
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from example_data import save

from parfocal.runtime.datasets.boxes import check_boxes
from parfocal.runtime.images.files import Image, PixelSize
from parfocal.runtime.methods.outputs import Detections
from parfocal.runtime.prediction.box_files import BoxFiles, FoundBoxes, RunBoxes
from parfocal.runtime.prediction.imagej_boxes import rectangle_bytes
from parfocal.runtime.prediction.overlay import overlay_png
from parfocal.runtime.prediction.unit import Stack

NAMES = ("red cell", "platelet", "never")
FOUND = Detections(
    np.array([[4.25, 6, 20, 30.5], [0, 0, 8, 8]], np.float32), np.array([0, 1]), np.array([0.9, 0.4], np.float32)
)
SHAPE = (40, 60)


def write(folder: Path, stem: str, size: PixelSize | None = None) -> FoundBoxes:
    files = BoxFiles(folder, stem, Stack(), size, SHAPE)
    files.add(0, FOUND, NAMES)
    return files.finish()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_has_one_table_in_pixels_and_micrometres(tmp_path: Path) -> None:
    run = RunBoxes(tmp_path)
    run.add("a.tif", write(tmp_path, "a", PixelSize(0.5, 0.25)))
    run.add("b.png", write(tmp_path, "b"))
    table, _ = run.finish()
    assert table.name == "detections.csv"
    first, second, third, _ = rows(table)
    assert first == {
        "image": "a.tif",
        "plane": "0",
        "class": "red cell",
        "confidence": "0.9000",
        "x_px": "6.00",
        "y_px": "4.25",
        "width_px": "24.50",
        "height_px": "15.75",
        "x_um": "3.0000",
        "y_um": "1.0625",
        "width_um": "12.2500",
        "height_um": "3.9375",
    }
    assert (second["image"], second["class"]) == ("a.tif", "platelet")
    assert (third["image"], third["width_px"], third["width_um"]) == ("b.png", "24.50", "")


def test_a_run_without_boxes_has_no_files(tmp_path: Path) -> None:
    assert RunBoxes(tmp_path).finish() == []
    assert not list(tmp_path.iterdir())


def test_stacks_are_in_the_table_and_in_no_annotation(tmp_path: Path) -> None:
    files = BoxFiles(tmp_path, "t", Stack("T", (3,)), None, SHAPE)
    files.add(0, FOUND, NAMES)
    files.add(2, FOUND, NAMES)
    run = RunBoxes(tmp_path)
    run.add("t.tif", files.finish())
    (table,) = run.finish()
    assert [row["plane"] for row in rows(table)] == ["0", "0", "2", "2"]
    assert set(files.names) == {"detections", "rois"}
    assert files.counts == {"detections": 4, "class_red cell": 2, "class_platelet": 2, "class_never": 0}


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_what_was_predicted_can_be_trained_on(tmp_path: Path, form: str) -> None:
    run = RunBoxes(tmp_path / "result")
    for stem in ("a", "b"):
        save(tmp_path / "source" / f"{stem}.tif", np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE))
        run.add(f"{stem}.tif", write(tmp_path / "result", stem))
    _, coco = run.finish()
    target = tmp_path / "result" / "voc"
    if form == "coco":
        target = tmp_path / "target"
        target.mkdir()
        coco.rename(target / "coco.json")
    report = check_boxes(tmp_path / "source", target, axes="YX")
    for image in report.images:
        boxes = image.arrays(NAMES)
        np.testing.assert_allclose(boxes.corners, FOUND.corners, atol=1e-3)
        np.testing.assert_array_equal(boxes.classes, FOUND.classes)
    if form == "coco":
        content = json.loads((target / "coco.json").read_text())
        assert [each["score"] for each in content["annotations"]] == [0.9, 0.4] * 2
        assert [each["name"] for each in content["categories"]] == list(NAMES)
        assert content["images"][1] == {"id": 2, "file_name": "b.tif", "height": 40, "width": 60}


def decoded(content: bytes) -> dict[str, Any]:
    """Return what ImageJ reads of a region, by the places that its `RoiDecoder` documents."""
    magic, version, kind = struct.unpack_from(">4shB", content)
    x, y, width, height = struct.unpack_from(">4f", content, 18)
    (options,) = struct.unpack_from(">h", content, 50)
    position, second = struct.unpack_from(">2i", content, 56)
    place, length = struct.unpack_from(">2i", content, second + 16)
    return {
        "head": (magic, kind, version >= 223 and bool(options & 128)),
        "whole": struct.unpack_from(">4h", content, 8),
        "box": (x, y, width, height),
        "position": position,
        "name": content[place : place + 2 * length].decode("utf-16-be"),
        "group": content[second + 30],
    }


def test_regions_are_rectangles_with_fractions_that_imagej_reads(tmp_path: Path) -> None:
    assert decoded(rectangle_bytes("0002-00001", (6.5, 4.25, 30, 20), group=3, position=2)) == {
        "head": (b"Iout", 1, True),
        "whole": (4, 6, 20, 30),
        "box": (6.5, 4.25, 23.5, 15.75),
        "position": 2,
        "name": "0002-00001",
        "group": 3,
    }
    assert decoded(rectangle_bytes("a", (0, 0, 40_000, 5), group=256))["group"] == 0
    write(tmp_path, "a")
    with zipfile.ZipFile(tmp_path / "rois" / "a.zip") as archive:
        regions = [decoded(archive.read(name)) for name in archive.namelist()]
        assert archive.namelist() == ["0001-00001.roi", "0001-00002.roi"]
    assert [(each["name"], each["box"], each["group"], each["position"]) for each in regions] == [
        ("0001-00001", (6.0, 4.25, 24.5, 15.75), 1, 0),
        ("0001-00002", (0.0, 0.0, 8.0, 8.0), 2, 0),
    ]


@pytest.mark.parametrize(
    ("shape", "axes", "dtype"),
    [
        ((40, 60), "YX", np.uint16),
        ((3, 40, 60), "CYX", np.float32),
        ((40, 60, 3), "YXS", np.uint8),
        ((40, 60, 2), "YXS", np.uint8),
    ],
)
def test_pictures_show_boxes_in_the_colours_of_their_classes(shape: Any, axes: str, dtype: Any, tmp_path: Path) -> None:
    pixels = (np.random.default_rng(0).random(shape) * 250).astype(dtype)
    boxes = write(tmp_path, "a")
    picture = PIL.Image.open(io.BytesIO(overlay_png(Image(pixels, axes), boxes.marks)))
    assert (picture.mode, picture.size) == ("RGB", (60, 40))
    shown = np.asarray(picture)
    colours = {tuple(shown[19, 15].tolist()), tuple(shown[7, 4].tolist())}  # on the lower lines of both
    assert len(colours) == 2
    assert all(len(set(colour)) == 3 for colour in colours)


def test_large_pictures_are_reduced_and_one_without_contrast_is_drawn() -> None:
    picture = PIL.Image.open(io.BytesIO(overlay_png(Image(np.zeros((500, 4096), np.uint8), "YX"), [])))
    assert picture.size == (2048, 250)
