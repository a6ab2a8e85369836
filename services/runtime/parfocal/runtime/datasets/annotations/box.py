"""One box, the boxes of one image, and what is said of annotation files in any format."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parfocal.runtime.errors import InvalidInputError, Violation

_LONGEST_NAME: Final = 100


@dataclass(frozen=True)
class Box:
    """One object of an image.

    Attributes
    ----------
    name
        The name of its class.
    corners
        (x0, y0, x1, y1) in pixels from the upper left corner of the image, whose lower right one is (X, Y).
    difficult, truncated
        Flags of PASCAL VOC: hard to recognise, and truncated by the border of the image.
    where
        Place in the file, for error messages, e.g. "object 3".
    """

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool = False
    truncated: bool = False
    where: str = ""


@dataclass(frozen=True)
class Annotation:
    """The boxes of one image as an annotation file has them.

    Attributes
    ----------
    stem
        The name of the image without suffix.
    file
        The annotation file, for messages, for example "target/a.xml".
    boxes
        The boxes in the order of the file.
    shape
        (Y, X) in pixels of the image that the boxes were drawn in, None where the file does not say.
    """

    stem: str
    file: str
    boxes: tuple[Box, ...]
    shape: tuple[int, int] | None = None


def stem_of(name: str) -> str:
    """Return the stem of an image that an annotation names, in the composed form (NFC) that images' stems have."""
    stem = Path(name.replace("\\", "/")).stem
    return unicodedata.normalize("NFC", stem[:-4] if stem.lower().endswith(".ome") else stem)


def class_name(text: str) -> str:
    """Return the name of a class without spaces around it; raise ValueError if it is none."""
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    if not name:
        raise ValueError("the class has no name")
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise ValueError(f"{name[:20]!r} cannot be the name of a class: it is too long or holds unprintable characters")
    return name


def number(text: object, what: str) -> float:
    """Return a finite number; `what` names it in the ValueError if it is none."""
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value) or isinstance(text, bool):
        raise ValueError(f"{what} is {str(text)[:40]!r}, not a number")
    return value


def read_text(path: Path, name: str, most_bytes: int) -> str:
    """Return a text file (UTF-8); raise InvalidInputError naming it as `name`, also where it is too large."""
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise refusal(name, f"has more than {most_bytes // 2**20} MiB: split it.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(name, "is not text in UTF-8: save it again as UTF-8.") from error
    except OSError as error:
        raise refusal(name, f"cannot be read ({error.strerror}): check the file.") from error


def refusal(name: str, text: str) -> InvalidInputError:
    """Return the error that the file `name` has one problem."""
    return InvalidInputError(f"{name} {text}", [Violation(name, text)])


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, stripped, with their numbers from 1."""
    for position, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield position, line.strip()
