"""PASCAL VOC: one XML file for each image. It is the form in which published datasets hold boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from parfocal.runtime.datasets.annotations.box import Annotation, Box, class_name, number, refusal, stem_of
from parfocal.runtime.datasets.annotations.xml import MOST_BYTES, parse_xml
from parfocal.runtime.datasets.findings import Notes
from parfocal.runtime.errors import Violation

_CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")


def parse_voc(path: Path, name: str, notes: Notes) -> tuple[Annotation, list[Violation]]:
    """Return what one file says, and what is wrong with single objects.

    Parameters
    ----------
    path
        The file. It is taken for hostile: no entity is expanded and no other file is read.
    name
        Name of the file, for error messages.
    notes
        Is told what was left out.

    Raises
    ------
    InvalidInputError
        The file is no annotation at all.
    """
    try:
        with path.open("rb") as file:
            root = parse_xml(file.read(MOST_BYTES + 1))
    except ValueError as error:
        raise refusal(name, f"cannot be used: {error}.") from error
    except OSError as error:
        raise refusal(name, f"cannot be read ({error.strerror}): check the file.") from error
    if root.tag != "annotation":
        raise refusal(
            name, f"is not a PASCAL VOC annotation: its first element is <{root.tag[:40]}>, not <annotation>."
        )
    boxes: list[Box] = []
    problems: list[Violation] = []
    for position, element in enumerate(root.findall("object"), 1):
        where = f"object {position}"
        try:
            boxes.append(_box(element, where))
        except ValueError as error:
            problems.append(Violation(name, f"{where}: {error}. Correct or remove it."))
        if parts := len(element.findall("part")):
            notes.add("Boxes of parts of objects were left out", name, parts)
    return Annotation(stem_of(path.name), name, tuple(boxes), _shape(root)), problems


def voc_bytes(file: str, shape: tuple[int, int], boxes: tuple[Box, ...]) -> bytes:
    """Return the annotation of one image as a file.

    Parameters
    ----------
    file
        The image's name.
    shape
        Size of the image in pixels (Y, X).
    boxes
        Boxes of the image; none for an image of background.
    """
    root = Element("annotation")
    SubElement(root, "filename").text = file
    size = SubElement(root, "size")
    for key, length in (("width", shape[1]), ("height", shape[0])):
        SubElement(size, key).text = str(length)
    for box in boxes:
        element = SubElement(root, "object")
        SubElement(element, "name").text = box.name
        SubElement(element, "truncated").text = str(int(box.truncated))
        SubElement(element, "difficult").text = str(int(box.difficult))
        corners = SubElement(element, "bndbox")
        for key, value in zip(_CORNERS, box.corners, strict=True):
            SubElement(corners, key).text = f"{value:.10g}"
    indent(root)
    data: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return data


def _box(element: Element, where: str) -> Box:
    name = class_name(element.findtext("name") or "")
    corners = element.find("bndbox")
    if corners is None:
        raise ValueError("it has no <bndbox>, only upright boxes can be used")
    x0, y0, x1, y1 = (number(corners.findtext(key), key) for key in _CORNERS)
    return Box(name, (x0, y0, x1, y1), _flag(element, "difficult"), _flag(element, "truncated"), where)


def _flag(element: Element, key: str) -> bool:
    text = (element.findtext(key) or "0").strip().lower()
    if text in {"", "false", "no", "unspecified"}:
        return False
    return text in {"true", "yes"} or number(text, key) > 0


def _shape(root: Element) -> tuple[int, int] | None:
    """Return (Y, X) of the image; None where it is missing or, as some programs write it, 0."""
    try:
        height, width = (int(number(root.findtext(f"size/{key}"), key)) for key in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None
