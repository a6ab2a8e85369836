"""COCO: one JSON file for all images of a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from parfocal.runtime.datasets.annotations.box import (
    Annotation,
    Box,
    class_name,
    number,
    read_text,
    refusal,
    stem_of,
)
from parfocal.runtime.datasets.findings import Notes
from parfocal.runtime.errors import Violation

_MOST_BYTES: Final = 2**29
_LISTS: Final = ("images", "annotations", "categories")


def parse_coco(path: Path, name: str, notes: Notes) -> tuple[list[Annotation], tuple[str, ...], list[Violation]]:
    """Return the boxes of each image, the classes in the order of their numbers, and what is wrong.

    Parameters
    ----------
    path
        The file.
    name
        Name of the file, for error messages.
    notes
        Collects what was left out or converted.

    Raises
    ------
    InvalidInputError
        The file is not a COCO file.
    """
    try:
        content = json.loads(read_text(path, name, _MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise refusal(name, f"is not JSON ({error}): export it again.") from error
    if not isinstance(content, dict) or any(not isinstance(content.get(key), list) for key in _LISTS):
        raise refusal(name, f"is not a COCO file: it lacks some of the lists {', '.join(_LISTS)}.")
    problems: list[Violation] = []
    classes = _classes(content["categories"], name, problems)
    images: dict[Any, tuple[str, tuple[int, int] | None]] = {}
    known: dict[str, Any] = {}
    for position, item in enumerate(content["images"], 1):
        try:
            key, file, shape = _image(item)
        except ValueError as error:
            problems.append(Violation(name, f"images, entry {position}: {error}."))
            continue
        stem = stem_of(file)
        if key in images or known.setdefault(stem, key) != key:
            problems.append(Violation(name, f"images, entry {position}: {file} or its id occurs twice: keep one."))
        images[key] = (stem, shape)
    boxes: dict[Any, list[Box]] = {key: [] for key in images}
    for position, item in enumerate(content["annotations"], 1):
        where = f"annotations, entry {position}"
        try:
            key, box = _box(item, classes, images, where)
        except ValueError as error:
            problems.append(Violation(name, f"{where}: {error}."))
            continue
        boxes[key].append(box)
        if box.difficult:
            notes.add("Boxes around crowds (iscrowd) were marked as difficult", name)
        if item.get("segmentation"):
            notes.add("Outlines of objects (segmentation) were left out, their boxes were kept", name)
    found = [Annotation(stem, name, tuple(boxes[key]), shape) for key, (stem, shape) in images.items()]
    return found, tuple(dict.fromkeys(classes.values())), problems


def coco_bytes(
    images: Mapping[str, tuple[tuple[int, int], Sequence[tuple[Box, float]]]], classes: Sequence[str]
) -> bytes:
    """Return the boxes of images as the content of a COCO file.

    Parameters
    ----------
    images
        By file name: size of the image in pixels (Y, X), and its boxes with their scores (0 to 1).
    classes
        The names of the classes; their numbers count from 1.
    """
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    annotations: list[dict[str, Any]] = []
    for image, (_, boxes) in enumerate(images.values(), start=1):
        for box, score in boxes:
            x0, y0, x1, y1 = (round(value, 3) for value in box.corners)
            lengths = [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": numbers[box.name],
                    "bbox": lengths,
                    "area": round(lengths[2] * lengths[3], 3),
                    "iscrowd": int(box.difficult),
                    "score": round(score, 4),
                }
            )
    content = {
        "images": [
            {"id": number, "file_name": name, "height": shape[0], "width": shape[1]}
            for number, (name, (shape, _)) in enumerate(images.items(), start=1)
        ],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "annotations": annotations,
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _classes(items: list[Any], name: str, problems: list[Violation]) -> dict[int, str]:
    classes: dict[int, str] = {}
    for position, item in enumerate(items, 1):
        try:
            known = _mapping(item)
            key = _identifier(known.get("id"), "id")
            text = class_name(str(known.get("name") or ""))
            if key in classes or text in classes.values():
                raise ValueError(f"the class {text!r} or its id occurs twice")
            classes[key] = text
        except ValueError as error:
            problems.append(Violation(name, f"categories, entry {position}: {error}."))
    return dict(sorted(classes.items()))


def _image(item: Any) -> tuple[int, str, tuple[int, int] | None]:
    known = _mapping(item)
    file = known.get("file_name")
    if not isinstance(file, str) or not stem_of(file):
        raise ValueError("it has no file_name")
    height, width = known.get("height"), known.get("width")
    shape = (int(number(height, "height")), int(number(width, "width"))) if height and width else None
    return _identifier(known.get("id"), "id"), file, shape


def _box(
    item: Any, classes: Mapping[int, str], images: Mapping[int, tuple[str, tuple[int, int] | None]], where: str
) -> tuple[int, Box]:
    known = _mapping(item)
    image = _identifier(known.get("image_id"), "image_id")
    category = _identifier(known.get("category_id"), "category_id")
    if image not in images:
        raise ValueError(f"image_id {image} is not among the images")
    if category not in classes:
        raise ValueError(f"category_id {category} is not among the categories")
    box = known.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError("bbox is not a list of four numbers (x, y, width, height)")
    x, y, width, height = (number(value, f"bbox[{place}]") for place, value in enumerate(box))
    return image, Box(
        classes[category], (x, y, x + width, y + height), difficult=bool(known.get("iscrowd")), where=where
    )


def _mapping(item: Any) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise ValueError("it is not a JSON object")
    return item


def _identifier(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{what} is {str(value)[:40]!r}, not a whole number")
    return value
