"""What can be done to labels and boxes, as it is sent, checked and kept: plain JSON objects.

Points are [x, y] in pixels, see `shapes`. `z` and `t` say in which plane something is drawn; what concerns an object as
a whole (merge, delete, reclassify) concerns all its planes of that time.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from parfocal.runtime.errors import InvalidInputError, Violation

MOST_POINTS: Final = 20_000
LARGEST_LABEL: Final = 2**32 - 1

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Points = Annotated[tuple[tuple[Coordinate, Coordinate], ...], Field(min_length=1, max_length=MOST_POINTS)]
Label = Annotated[int, Field(ge=1, le=LARGEST_LABEL)]
ClassNumber = Annotated[int, Field(ge=0, le=100)]
Index = Annotated[int, Field(ge=0, le=10**6)]


class _Operation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    z: Index = 0
    t: Index = 0


class Draw(_Operation):
    """Add an area to an object, or make a new one of it.

    `shape` is "polygon" (closed, filled) or "brush" (a path as thick as `size`). `object` is the number of the object;
    0 asks for a new one, whose number is filled in before the operation is kept. With `protect` the pixels of other
    objects stay theirs. `classed` is the class of a new object, 0 where it has none.
    """

    do: Literal["draw"] = "draw"
    shape: Literal["polygon", "brush"]
    points: Points
    size: Annotated[float, Field(gt=0, le=4096)] = 1.0
    object: Annotated[int, Field(ge=0, le=LARGEST_LABEL)] = 0
    protect: bool = True
    classed: ClassNumber = 0


class Erase(_Operation):
    """Take an area away from an object, or from all where `object` is 0."""

    do: Literal["erase"] = "erase"
    shape: Literal["polygon", "brush"] = "brush"
    points: Points
    size: Annotated[float, Field(gt=0, le=4096)] = 1.0
    object: Annotated[int, Field(ge=0, le=LARGEST_LABEL)] = 0


class Split(_Operation):
    """Divide an object along a path. The largest part keeps the number; `parts` are those of the others."""

    do: Literal["split"] = "split"
    points: Points
    object: Label
    parts: tuple[Label, ...] = ()


class Merge(_Operation):
    """Make several objects one, which keeps the number of the first."""

    do: Literal["merge"] = "merge"
    object: Label
    others: Annotated[tuple[Label, ...], Field(min_length=1, max_length=1000)]


class Fill(_Operation):
    """Fill the holes of an object in one plane; other objects in them stay."""

    do: Literal["fill"] = "fill"
    object: Label
    at: tuple[Coordinate, Coordinate] | None = None


class Delete(_Operation):
    """Remove an object; of class images the area around the point `at`."""

    do: Literal["delete"] = "delete"
    object: Label
    at: tuple[Coordinate, Coordinate] | None = None


class Reclassify(_Operation):
    """Say of which class an object is; of class images what the area around the point `at` is."""

    do: Literal["reclassify"] = "reclassify"
    object: Label
    classed: ClassNumber
    at: tuple[Coordinate, Coordinate] | None = None


class Replace(_Operation):
    """Take the label image that was corrected in another program, a file of the draft."""

    do: Literal["replace"] = "replace"
    file: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class AddBox(_Operation):
    """Add a box with corners (x0, y0, x1, y1); `object` is its number, 0 asks for one."""

    do: Literal["box"] = "box"
    corners: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    object: Annotated[int, Field(ge=0, le=LARGEST_LABEL)] = 0
    classed: ClassNumber = 0


class MoveBox(_Operation):
    """Give a box other corners."""

    do: Literal["move"] = "move"
    object: Label
    corners: tuple[Coordinate, Coordinate, Coordinate, Coordinate]


Operation = Annotated[
    Draw | Erase | Split | Merge | Fill | Delete | Reclassify | Replace | AddBox | MoveBox, Field(discriminator="do")
]
_ADAPTER: Final[TypeAdapter[Any]] = TypeAdapter(Operation)


def parse(content: Any) -> Any:
    """Return an operation from JSON, as text or read already.

    Raises
    ------
    InvalidInputError
        It is none; the message says which field is wrong.
    """
    try:
        if isinstance(content, str | bytes):
            return _ADAPTER.validate_json(content)
        return _ADAPTER.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "operation"
        raise InvalidInputError(
            f"This cannot be done: {field}: {first['msg']}.", [Violation(field, first["msg"])]
        ) from error


def to_text(operation: BaseModel) -> str:
    """Return an operation as it is kept: JSON without what is as usual."""
    content = operation.model_dump(mode="json", exclude_defaults=True)
    return json.dumps({"do": operation.do, **content}, separators=(",", ":"))  # type: ignore[attr-defined]
