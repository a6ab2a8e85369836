"""YOLO: one text file for each image, and one file with the names of the classes for all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from parfocal.runtime.datasets.annotations.box import (
    Annotation,
    Box,
    class_name,
    lines_of,
    number,
    read_text,
    refusal,
    stem_of,
)
from parfocal.runtime.datasets.findings import Notes
from parfocal.runtime.errors import Violation
from parfocal.runtime.numbers import whole_number

CLASS_FILES: Final = ("classes.txt", "obj.names", "data.yaml", "data.yml")
"""Files that name the classes, in the order in which they are looked for."""
_MOST_BYTES: Final = 2**24
_ENTRY: Final = re.compile(r"""(?:(?P<key>\d+)\s*:|-)\s*(?P<name>.+)""")


def find_class_file(folders: Iterable[Path]) -> Path | None:
    """Return the first file that names classes in these folders; None if there is none."""
    places = (folder / name for folder in folders for name in CLASS_FILES)
    return next((path for path in places if path.is_file()), None)


def read_class_names(path: Path, name: str) -> tuple[str, ...]:
    """Return the names of the classes in the order of their numbers, from 0.

    Parameters
    ----------
    path
        A text file with one name in each line, or a YAML file with `names:`.
    name
        Name of the file, for error messages.

    Raises
    ------
    InvalidInputError
        It has no names, or one twice.
    """
    text = read_text(path, name, _MOST_BYTES)
    try:
        found = _yaml_names(text) if path.suffix in {".yaml", ".yml"} else [line for _, line in lines_of(text)]
        names = tuple(class_name(each) for each in found)
    except ValueError as error:
        raise refusal(name, f"cannot be used: {error}. Write a classes.txt with one name in each line.") from error
    if not names:
        raise refusal(name, "names no class: write one name in each line.")
    if twice := sorted({each for each in names if names.count(each) > 1}):
        raise refusal(name, f"has the class {twice[0]!r} twice: rename one.")
    return names


def parse_yolo(
    path: Path, name: str, classes: Sequence[str], shape: tuple[int, int], notes: Notes
) -> tuple[Annotation, list[Violation]]:
    """Return the boxes of one image, and what is wrong with single lines.

    Parameters
    ----------
    path
        A text file with lines `class x_centre y_centre width height`, lengths as fractions of the image; an outline
        `class x1 y1 x2 y2 x3 y3 …` becomes the box around it.
    name
        Name of the file, for error messages.
    classes
        The names of the classes.
    shape
        The image's size in pixels (Y, X).
    notes
        Is told what was converted.
    """
    boxes: list[Box] = []
    problems: list[Violation] = []
    for position, line in lines_of(read_text(path, name, _MOST_BYTES)):
        where = f"line {position}"
        try:
            index, *values = (number(text, f"value {place}") for place, text in enumerate(line.split(), 1))
            if index != int(index) or not 0 <= index < len(classes):
                raise ValueError(f"there is no class {index:g}: numbers are 0 to {len(classes) - 1}")
            if len(values) > 4 and len(values) % 2 == 0 and len(values) >= 6:
                xs, ys = values[::2], values[1::2]
                left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
                notes.add("Outlines were converted to the boxes around them", name)
            elif len(values) == 4:
                x, y, width, height = values
                left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
            else:
                raise ValueError(
                    f"it has {len(values) + 1} values instead of 5 (class, x, y, width, height)"
                    + ("; predictions with a confidence cannot be used" if len(values) == 5 else "")
                )
            if max(abs(value) for value in (left, top, right, bottom)) > 2:
                raise ValueError("its lengths are not fractions of the image: divide pixels by width and height")
        except ValueError as error:
            problems.append(Violation(name, f"{where}: {error}."))
            continue
        corners = (left * shape[1], top * shape[0], right * shape[1], bottom * shape[0])
        boxes.append(Box(classes[int(index)], corners, where=where))
    return Annotation(stem_of(path.name), name, tuple(boxes)), problems


def _yaml_names(text: str) -> list[str]:
    """Return what follows `names:` in one of the three forms that programs write; other YAML is not understood."""
    lines = [line.split(" #")[0].rstrip() for line in text.splitlines()]
    at = next((number for number, line in enumerate(lines) if re.match("names\\s*:", line)), None)
    if at is None:
        raise ValueError("it has no names:")
    first = lines[at].partition(":")[2].strip()
    if first.startswith("[") and first.endswith("]"):
        return [_unquoted(part) for part in first[1:-1].split(",") if part.strip()]
    if first:
        raise ValueError("its names: is not a list")
    names: dict[int, str] = {}
    for line in lines[at + 1 :]:
        if not line.strip():
            continue
        entry = _ENTRY.fullmatch(line.strip())
        if entry is None:
            break
        number = whole_number(entry["key"]) if entry["key"] else len(names)
        names[-1 if number is None else number] = _unquoted(entry["name"])
    if sorted(names) != list(range(len(names))):
        raise ValueError("its classes are not numbered from 0 without gaps")
    return [names[index] for index in range(len(names))]


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
