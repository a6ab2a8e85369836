"""Boxes in the formats in which people have them, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import COUNTS, SHAPE, coco, save, voc, voc_object, write_kind
from support import mentions

from parfocal.runtime.datasets.annotations.voc import parse_voc, voc_bytes
from parfocal.runtime.datasets.annotations.xml import parse_xml
from parfocal.runtime.datasets.annotations.yolo import read_class_names
from parfocal.runtime.datasets.boxes import Boxes, BoxReport, check_boxes, class_names, read_boxes
from parfocal.runtime.datasets.findings import Notes
from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.errors import InvalidInputError, Violation

CELL = voc_object("cell", 10, 20, 30, 40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images in source, and an empty folder target."""
    rng = np.random.default_rng(0)
    for stem in "abc":
        save(tmp_path / "source" / f"{stem}.tif", rng.integers(0, 9999, SHAPE).astype(np.uint16))
    (tmp_path / "target").mkdir()
    return tmp_path


def write(folder: Path, **files: str) -> Path:
    """Write files into target by stem; "a__xml" is a.xml."""
    for name, text in files.items():
        (folder / "target" / name.replace("__", ".")).write_text(text)
    return folder


def check(folder: Path, **options: Any) -> BoxReport:
    return check_boxes(folder / "source", folder / "target", axes="YX", **options)


def problems(folder: Path, **options: Any) -> tuple[Violation, ...]:
    with pytest.raises(InvalidInputError) as caught:
        check(folder, **options)
    return caught.value.violations


def boxes_of(report: BoxReport, stem: str) -> Boxes:
    names, _ = class_names({"train": report})
    return next(boxed for boxed in report.images if boxed.image.stem == stem).arrays(names)


def test_all_formats_give_the_same_boxes(folder: Path) -> None:
    write(folder, a__xml=voc(CELL, voc_object("spot", 1, 2, 3.5, 4)), b__xml=voc(CELL), c__xml=voc())
    expected = check(folder)
    for path in (folder / "target").iterdir():
        path.unlink()
    boxes = {"a.jpg": [("cell", 10, 20, 20, 20), ("spot", 1, 2, 2.5, 2)], "b.png": [("cell", 10, 20, 20, 20)]}
    write(folder, instances__json=coco(boxes))
    for path in (folder / "target").iterdir():
        from_coco = check(folder)
        path.unlink()

    def line(index: int, x0: float, y0: float, x1: float, y1: float) -> str:
        return f"{index} {(x0 + x1) / 160!r} {(y0 + y1) / 128!r} {(x1 - x0) / 80!r} {(y1 - y0) / 64!r}\n"

    cell = line(0, 10, 20, 30, 40)
    write(folder, a__txt=cell + line(1, 1, 2, 3.5, 4), b__txt=cell, classes__txt="cell\nspot\n")
    from_yolo = check(folder)
    for report in (from_coco, from_yolo):
        assert report.class_counts == expected.class_counts == {"cell": 2, "spot": 1}
        for stem in "abc":
            one, other = boxes_of(report, stem), boxes_of(expected, stem)
            assert one.corners.dtype == np.float32
            assert np.allclose(one.corners, other.corners, atol=1e-4)
            assert one.classes.tolist() == other.classes.tolist()
    assert boxes_of(expected, "a").corners.tolist() == [[20, 10, 40, 30], [2, 1, 4, 3.5]]
    assert boxes_of(expected, "c").corners.shape == (0, 4)


def test_published_files_read_back_as_they_were(folder: Path, tmp_path: Path) -> None:
    flags = "<difficult>1</difficult><truncated>0.4</truncated>"
    write(folder, a__xml=voc(CELL, voc_object("red &amp; <![CDATA[<old>]]>", 0, 0.25, 80, 64, flags)))
    boxed = check(folder).images[0]
    path = tmp_path / "stored.xml"
    path.write_bytes(boxed.to_voc())
    names = ("cell", "red & <old>")
    read = read_boxes(path, names, SHAPE)
    assert read.corners.tolist() == [[20, 10, 40, 30], [0.25, 0, 64, 80]]
    assert (read.classes.tolist(), read.difficult.tolist(), read.truncated.tolist()) == (
        [0, 1],
        [False, True],
        [False, True],
    )
    with pytest.raises(InvalidInputError, match="cell"):
        read_boxes(path, names[1:], SHAPE)
    with pytest.raises(InvalidInputError, match="64 x 80"):
        read_boxes(path, names, (SHAPE[0], SHAPE[1] + 1))


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        (voc_object("cell", 30, 20, 10, 40), "object 2"),
        (voc_object("cell", 10, 40, 30, 20), "object 2"),
        (voc_object("cell", 0.1, 0.2, 0.5, 0.9), "fractions"),
        (voc_object("cell", 10, 20, "far", 40), "xmax"),  # type: ignore[arg-type]
        (voc_object("cell", 10, 20, float("nan"), 40), "xmax"),
        (voc_object("cell", 10, 20, float("inf"), 40), "xmax"),
        (voc_object(" ", 10, 20, 30, 40), "class"),
        ("<object><name>cell</name></object>", "bndbox"),
        (voc_object("cell", 10, 20, 30, 40, "<difficult>perhaps</difficult>"), "difficult"),
    ],
)
def test_a_box_that_cannot_be_is_named_with_its_file_and_place(folder: Path, objects: str, words: str) -> None:
    write(folder, a__xml=voc(CELL, objects), b__xml=voc(CELL))
    (violation,) = problems(folder)
    assert violation.field == "target/a.xml"
    assert "object 2" in violation.description
    assert words in violation.description


def test_all_that_is_wrong_is_told_at_once(folder: Path) -> None:
    write(
        folder,
        a__xml=voc(voc_object("cell", 30, 20, 10, 40)),
        b__xml="no XML",
        c__xml=voc(CELL, shape=(64, 60)),
        field12__xml=voc(CELL),
    )
    assert [violation.field for violation in problems(folder)] == [
        f"target/{name}.xml" for name in ("b", "a", "c", "field12")
    ]


def test_what_is_left_out_or_changed_is_counted_once(folder: Path) -> None:
    part = "<part><name>nucleus</name><bndbox><xmin>1</xmin></bndbox></part>"
    write(
        folder,
        a__xml=voc(
            voc_object("cell", 70, 50, 90, 70),
            voc_object("cell", 5, 5, 5, 9),
            voc_object("cell", 5, 5, 9, 5),
            voc_object("cell", 80, 20, 95, 40),
            voc_object("cell", -20, 20, 0, 40),
            voc_object("cell", 20, 64, 40, 90),
            CELL,
            CELL,
            voc_object("cell", 11, 20, 30, 40, part),
        ),
        b__xml=voc(voc_object("cell", -3, 5, 6, 9)),
    )
    report = check(folder)
    assert boxes_of(report, "a").corners.tolist() == [[50, 70, 64, 80], [20, 10, 40, 30], [20, 11, 40, 30]]
    assert boxes_of(report, "b").corners.tolist() == [[5, 0, 9, 6]]
    assert sorted(text.split(": ")[1] for text in report.warnings) == [
        "1 (source/c.tif).",  # without an annotation
        "1 (target/a.xml).",  # parts
        "1 (target/a.xml).",  # twice
        "2 (target/a.xml).",  # without area
        "2 (target/a.xml, target/b.xml).",  # at the border
        "3 (target/a.xml).",  # outside
    ]


def test_images_without_boxes_are_background_but_not_all_of_them(folder: Path) -> None:
    write(folder, a__xml=voc(), b__xml=voc(CELL))
    texts = " ".join(check(folder).warnings)
    assert "source/a.tif" in texts
    assert "source/c.tif" in texts
    write(folder, b__xml=voc())
    assert [violation.field for violation in problems(folder)] == ["target"]


def test_an_annotation_without_an_image_names_the_one_that_it_may_be_of(folder: Path) -> None:
    (folder / "source" / "c.tif").rename(folder / "source" / "slide 12.tif")
    write(folder, a__xml=voc(CELL), slide_12__xml=voc(CELL))
    (violation,) = problems(folder)
    assert violation.field == "target/slide_12.xml"
    assert "slide 12.tif" in violation.description


def test_a_size_of_zero_is_taken_for_none(folder: Path) -> None:
    write(folder, a__xml=voc(CELL, shape=(0, 0)), b__xml="<annotation>" + CELL + "</annotation>")
    assert check(folder).class_counts == {"cell": 2}


# --- classes ---------------------------------------------------------------------------------------------------------


def test_classes_are_in_alphabetical_order_unless_a_file_says_another(folder: Path) -> None:
    write(folder, a__xml=voc(voc_object("b", 1, 1, 5, 5), voc_object("A", 1, 1, 6, 5), CELL))
    assert class_names({"train": check(folder)}) == (("A", "b", "cell"), ())
    write(folder, classes__txt="cell\nghost\nb\nA\n")
    names, warnings = class_names({"train": check(folder)})
    assert names == ("cell", "b", "A")
    assert ["ghost" in text for text in warnings] == [True]


def test_a_class_that_is_not_declared_is_named(folder: Path) -> None:
    write(folder, a__xml=voc(CELL), classes__txt="cel\n")
    (violation,) = problems(folder)
    assert violation.field == "target/a.xml"
    assert "'cell'" in violation.description
    assert "cel" in violation.description
    (folder / "target" / "classes.txt").unlink()
    assert [violation.field for violation in problems(folder, classes=("spot",))] == ["target/a.xml"]


def test_names_that_are_almost_the_same_are_told(folder: Path) -> None:
    write(folder, a__xml=voc(voc_object("White cell", 1, 1, 5, 5), voc_object("white_cell", 1, 1, 6, 5)))
    names, (warning,) = class_names({"train": check(folder)})
    assert len(names) == 2
    assert mentions(warning, "White cell", "white_cell")


def test_classes_of_test_images_alone_are_told(tmp_path: Path) -> None:
    write_kind(tmp_path, "boxes")
    (tmp_path / "test" / "target" / "field0.xml").write_text(voc(voc_object("rare", 1, 1, 5, 5)))
    report = check_folder(tmp_path)
    assert report.classes == ("large", "rare", "small")
    assert report.class_counts["train"]["rare"] == 0
    assert any("rare" in text and "cannot find" in text for text in report.warnings)


# --- hostile and damaged XML -----------------------------------------------------------------------------------------

_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;">]>'
    "<annotation><object><name>&lol2;</name></object></annotation>"
)
_OUTSIDE = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    "<annotation><object><name>&x;</name></object></annotation>"
)


@pytest.mark.parametrize(
    "text",
    [
        _LAUGHS,
        _OUTSIDE,
        '<!DOCTYPE annotation SYSTEM "http://example.org/a.dtd"><annotation/>',
        "<annotation>" + "<a>" * 10_000,
        "<annotation><object>&undefined;</object></annotation>",
        "<annotation>",
        "",
        '<?xml version="1.0" encoding="of another world"?><annotation/>',
        "<html><body/></html>",
        "<annotation>" + " " * (17 * 2**20) + "</annotation>",
    ],
    ids=["laughs", "outside", "dtd", "deep", "undefined", "cut", "empty", "encoding", "html", "large"],
)
def test_hostile_and_damaged_xml_is_refused_by_name(folder: Path, text: str) -> None:
    write(folder, a__xml=text, b__xml=voc(CELL))
    (violation,) = problems(folder)
    assert violation.field == "target/a.xml"


def test_text_in_other_encodings_is_read() -> None:
    text = '<?xml version="1.0" encoding="{}"?><annotation><filename>Zelle_ä</filename></annotation>'
    for encoding in ("utf-8", "utf-16", "iso-8859-1"):
        assert parse_xml(text.format(encoding).encode(encoding)).findtext("filename") == "Zelle_ä"


def test_what_is_written_is_plain_voc(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(voc_bytes("a.tif", (5, 7), ()))
    annotation, wrong = parse_voc(path, "a.xml", Notes())
    assert (annotation.shape, annotation.boxes, wrong) == ((5, 7), (), [])


# --- COCO ------------------------------------------------------------------------------------------------------------

_GOOD = coco({"train/a.jpg": [("cell", 10, 20, 20, 20)], "b.tif": []})


def changed(**lists: Any) -> str:
    content = json.loads(_GOOD)
    for key, value in lists.items():
        content[key] = value if not isinstance(value, dict) else [{**content[key][0], **value}, *content[key][1:]]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (changed(annotations={"bbox": [1, 2, 3]}), "bbox"),
        (changed(annotations={"bbox": [1, 2, None, 4]}), "bbox[2]"),
        (changed(annotations={"bbox": [1, 2, 1e999, 4]}), "bbox[2]"),
        (changed(annotations={"bbox": [1, 10**400, 3, 4]}), "bbox[1]"),
        (changed(annotations={"bbox": [30, 20, -20, 5]}), "lower right"),
        (changed(annotations={"category_id": 99}), "category_id 99"),
        (changed(annotations={"image_id": 7}), "image_id 7"),
        (changed(annotations={"image_id": "0"}), "image_id"),
        (changed(annotations=["text"]), "annotations, entry 1"),
        (changed(images={"file_name": 5}), "file_name"),
        (changed(images={"file_name": "elsewhere.jpg"}), "elsewhere"),
        (changed(images={"height": 10}), "10 x 80"),
        (changed(categories={"name": ""}), "categories, entry 1"),
        (changed(categories=[]), "category_id"),
        (changed(images=[{"id": 0, "file_name": "a.jpg"}, {"id": 1, "file_name": "a.png"}]), "twice"),
        ('{"images": [], "annotations": []}', "categories"),
        ("[1, 2", "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"shapes": [], "imagePath": "a.jpg"}', "images"),
    ],
)
def test_what_is_wrong_in_a_coco_file_is_named(folder: Path, text: str, words: str) -> None:
    write(folder, all__json=text)
    found = problems(folder)
    assert {violation.field for violation in found} == {"target/all.json"}
    assert any(words in violation.description for violation in found)


def test_crowds_are_difficult_and_outlines_are_left_out(folder: Path) -> None:
    write(folder, all__json=changed(annotations={"iscrowd": 1, "segmentation": [[1, 2, 3, 4, 5, 6]]}))
    report = check(folder)
    assert boxes_of(report, "a").difficult.tolist() == [True]
    assert sum("target/all.json" in text for text in report.warnings) == 2


def test_several_coco_files_are_refused(folder: Path) -> None:
    write(folder, one__json=_GOOD, two__json=_GOOD)
    assert [violation.field for violation in problems(folder)] == ["target"]


# --- YOLO ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5"),
        ("0 0.5 0.5 0.1", "4 values"),
        ("0 0.5 0.5 0.1 0.1 0.98", "confidence"),
        ("0 0.5 0.5 wide 0.1", "'wide'"),
        ("0 40 32 20 20", "fractions"),
        ("0 0.5 0.5 -0.1 0.1", "lower right"),
    ],
)
def test_what_is_wrong_in_a_yolo_file_is_named_with_its_line(folder: Path, line: str, words: str) -> None:
    write(folder, a__txt=f"0 0.5 0.5 0.1 0.1\n\n{line}\n", classes__txt="cell\nspot\n")
    (violation,) = problems(folder)
    assert violation.field == "target/a.txt"
    assert "line 3" in violation.description
    assert words in violation.description


def test_outlines_become_boxes_which_is_said(folder: Path) -> None:
    write(folder, a__txt="0 0.25 0.5 0.5 0.25 0.75 0.75\n", classes__txt="cell\n")
    report = check(folder)
    assert boxes_of(report, "a").corners.tolist() == [[16, 20, 48, 60]]
    assert any("Outlines" in text and "target/a.txt" in text for text in report.warnings)


def test_yolo_without_names_of_classes_says_where_they_belong(folder: Path) -> None:
    write(folder, a__txt="0 0.5 0.5 0.1 0.1\n")
    (violation,) = problems(folder)
    assert violation.field == "target"
    assert "target/classes.txt" in violation.description


@pytest.mark.parametrize(
    "text",
    [
        "names: [red cell, 'white cell']\nnc: 2\n",
        'path: ..\nnames:\n  - red cell\n  - "white cell"\nnc: 2\n',
        "nc: 2 # two\nnames: # of them\n  1: white cell\n\n  0: red cell\ntrain: x\n",
    ],
)
def test_the_names_of_classes_are_read_from_yaml(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(text)
    assert read_class_names(path, "data.yaml") == ("red cell", "white cell")


@pytest.mark.parametrize(
    "text",
    [
        *("", "nc: 2\n", "names: red\n", "names:\n  1: a\n  2: b\n", "names: [a, a]\n"),
        f"names:\n  0: a\n  {'1' * 5000}: b\n",
    ],
)
def test_yaml_without_usable_names_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInputError) as caught:
        read_class_names(path, "target/data.yaml")
    assert [violation.field for violation in caught.value.violations] == ["target/data.yaml"]


def test_names_of_classes_may_lie_above_the_splits(tmp_path: Path) -> None:
    write_kind(tmp_path, "boxes")
    for path in tmp_path.glob("*/target/*.xml"):
        path.unlink()
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.1 0.1\n1 0.4 0.5 0.1 0.1\n")
    (tmp_path / "data.yaml").write_text("names: [spot, cell]\n")
    report = check_folder(tmp_path)
    assert (report.kind, report.classes) == ("boxes", ("spot", "cell"))
    assert report.class_counts == {split: {"spot": count, "cell": count} for split, count in COUNTS.items()}


def test_files_of_several_formats_are_refused(folder: Path) -> None:
    write(folder, a__xml=voc(CELL), all__json=_GOOD)
    assert [violation.field for violation in problems(folder)] == ["target"]


@pytest.mark.parametrize("boxes", ["annotations", "labels"])
@pytest.mark.parametrize("split", ["train", ""])
def test_folders_may_be_called_as_programs_for_annotation_call_them(folder: Path, boxes: str, split: str) -> None:
    write(folder, a__xml=voc(CELL), b__xml=voc(CELL), c__xml=voc())
    place = folder / "called" / split
    place.mkdir(parents=True)
    (folder / "source").rename(place / "images")
    (folder / "target").rename(place / boxes)
    report = check_folder(folder / "called")
    assert report.kind == "boxes"
    assert report.counts["train"] == {"images": 3, "boxes": 2, "images without a box": 1}
    assert sorted(item.file for item in report.items())[0] == "train/source/a.tif"
    assert not any("were ignored" in text for text in report.warnings)
    # Parfocal's own names come first.
    (place / "source").mkdir()
    with pytest.raises(InvalidInputError) as caught:
        check_folder(folder / "called")
    assert "source" in " ".join(each.field for each in caught.value.violations)
