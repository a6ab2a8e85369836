"""What an OME-Zarr says of itself: images, labels, plates; read from its JSON files, no pixel is touched.

Versions 0.1 to 0.5 are read, of Zarr 2 and 3. Folders are named by others, so that no path in the metadata may lead out
of the folder that it stands in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from parfocal.client.formats.source import refusal
from parfocal.runtime.datasets.findings import some
from parfocal.runtime.images.acquired import in_seconds
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.images.notes import Note
from parfocal.runtime.images.units import UNCALIBRATED, length_in_micrometres, micrometres

_TYPES: Final = {"time": "T", "channel": "C"}
_DEFAULT_AXES: Final = "TCZYX"  # of versions that name none


@dataclass(frozen=True)
class Node:
    """A group or array of Zarr: `kind` is "group", "array" or "" for any other folder."""

    kind: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Multiscale:
    """An image of an OME-Zarr.

    Attributes
    ----------
    name
        Its own name, or "".
    folder
        Its group, or the array where this stands alone.
    array
        Folder of the array with the full resolution.
    axes
        A letter for each dimension, "?" for names that mean nothing here; "" if the file says none.
    unnamed
        The names of the axes "?".
    scale
        Size of a pixel along each dimension, in `units`.
    units
        Unit along each dimension; "" where there is none.
    channels
        Names of the channels.
    """

    name: str
    folder: Path
    array: Path
    axes: str
    unnamed: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    units: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


def read_node(folder: Path) -> Node:
    """Return what a folder is, with the attributes of OME; raises ValueError where they are no JSON."""
    if (path := folder / "zarr.json").is_file():
        content = _mapping(json.loads(path.read_text(encoding="utf-8")))
        attributes = _mapping(content.get("attributes"))
        return Node(str(content.get("node_type", "")), _mapping(attributes.get("ome", attributes)))
    kind = next((kind for kind in ("array", "group") if (folder / f".z{kind}").is_file()), "")
    attributes = {}
    if (path := folder / ".zattrs").is_file():
        attributes = _mapping(json.loads(path.read_text(encoding="utf-8")))
    return Node(kind or ("group" if attributes else ""), attributes)


def images_of(folder: Path, name: str) -> list[Multiscale]:
    """Return the images of an OME-Zarr: one, or several where it has more, as bioformats2raw writes them.

    A folder that is an array and no group has one without metadata.

    Raises
    ------
    InvalidInputError
        There are none, or the metadata cannot be read.
    """
    try:
        return _images_of(folder, name)
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise refusal(name, f"its metadata cannot be read ({error}). Copy or export it again.") from error


def _images_of(folder: Path, name: str) -> list[Multiscale]:
    node = read_node(folder)
    if node.kind == "array":
        return [Multiscale("", folder, folder, "")]
    if multiscales := node.attributes.get("multiscales"):
        found = [_multiscale(folder, each, node.attributes) for each in multiscales]
    elif node.attributes.get("bioformats2raw.layout"):
        found = [image for each in _series(folder) for image in _images_of(each, name)]
    else:
        raise refusal(name, _nothing(folder, node))
    names = [image.name for image in found]
    if len(found) > 1 and ("" in names or len({*names}) < len(names) or any(each.isdecimal() for each in names)):
        names = [f"Image:{number}" for number in range(len(found))]
    return [replace(each, name=own) for own, each in zip(names, found, strict=True)]


def _nothing(folder: Path, node: Node) -> str:
    """Return why a folder has no image."""
    if not node.kind:
        return "it is no Zarr: it has neither zarr.json nor .zgroup. Copy it again, with all files in it."
    inside = sorted(each.name for each in folder.iterdir() if each.is_dir() and read_node(each).kind)
    what = f"it has {some(inside)}, but" if inside else "it is empty:"
    return (
        f"{what} no metadata of an OME-Zarr image (multiscales). Name one of its arrays or images, or export it again."
    )


def _series(folder: Path) -> list[Path]:
    """Return the folders of the images that bioformats2raw has written, in order."""
    named = (folder / "OME").is_dir() and read_node(folder / "OME").attributes.get("series")
    if named:
        return [inside(folder, each) for each in named]
    numbers = sorted(int(each.name) for each in folder.iterdir() if each.is_dir() and each.name.isdecimal())
    return [folder / str(number) for number in numbers]


def _multiscale(folder: Path, content: Any, attributes: Mapping[str, Any]) -> Multiscale:
    content = _mapping(content)
    level = _mapping(content["datasets"][0])
    axes, unnamed, units = _axes(content.get("axes"))
    own, shared = _scale(level.get("coordinateTransformations")), _scale(content.get("coordinateTransformations"))
    if own and shared and len(own) == len(shared):
        own = tuple(a * b for a, b in zip(own, shared, strict=True))
    channels = _mapping(attributes.get("omero")).get("channels") or ()
    return Multiscale(
        name=str(content.get("name") or "").strip("/"),
        folder=folder,
        array=inside(folder, level["path"]),
        axes=axes,
        unnamed=unnamed,
        scale=own or shared,
        units=units,
        channels=tuple(str(_mapping(each).get("label") or number) for number, each in enumerate(channels, 1)),
    )


def _axes(content: Any) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return letters, the names that mean nothing here, and units of axes, as any version writes them."""
    letters, unnamed, units = "", [], []
    for each in content or ():
        axis = each if isinstance(each, Mapping) else {"name": each}
        name = str(axis.get("name", ""))
        letter = name.upper() if name.upper() in _DEFAULT_AXES and len(name) == 1 else ""
        letter = letter or _TYPES.get(str(axis.get("type", "")), "?")
        letters += letter
        unnamed += [name] if letter == "?" else []
        units.append(str(axis.get("unit") or ""))
    return letters, tuple(unnamed), tuple(units)


def _scale(transformations: Any) -> tuple[float, ...]:
    for each in transformations or ():
        if _mapping(each).get("type") == "scale" and isinstance(each.get("scale"), Sequence):
            return tuple(float(value) for value in each["scale"])
    return ()


def time_step(image: Multiscale) -> float | None:
    """Return the time between two frames in seconds; None where it has no unit."""
    place = image.axes.find("T")
    if place < 0 or len(image.scale) != len(image.axes) or len(image.units) != len(image.axes):
        return None
    return in_seconds(image.scale[place], image.units[place])


def pixel_size(image: Multiscale) -> tuple[PixelSize | None, tuple[Note, ...]]:
    """Return the pixel size in µm, and what was guessed or left out."""
    if not image.axes or len(image.scale) != len(image.axes):
        return None, ()
    sizes = {axis: (value, unit) for axis, value, unit in zip(image.axes, image.scale, image.units, strict=True)}
    # Without a unit a scale of 1 is what writers set that know of none.
    if not any(unit for _, unit in sizes.values()) and {sizes.get(axis, (1.0, ""))[0] for axis in "XY"} == {1.0}:
        return None, ()
    lengths: dict[str, float | None] = {}
    notes = []
    for axis in "XYZ":
        value, unit = sizes.get(axis, (math.nan, ""))
        lengths[axis] = length_in_micrometres(value, unit or "µm")
        if axis in sizes and micrometres(unit) is None:
            if unit.casefold() in UNCALIBRATED:
                notes.append(Note("unit-guessed"))
            else:
                notes.append(Note("unit-unknown", unit[:40]))
    x, y = lengths["X"], lengths["Y"]
    size = PixelSize(x or y or 0.0, y or x or 0.0, lengths["Z"]) if x or y else None
    return size, tuple(dict.fromkeys(notes))


def labels_of(folder: Path, wanted: str, name: str) -> Path:
    """Return the folder of the label image `wanted` that belongs to the image in a folder.

    Raises
    ------
    InvalidInputError
        There is none of this name.
    """
    try:
        there = [str(each) for each in read_node(folder / "labels").attributes.get("labels") or ()]
        if wanted not in there:
            # Some writers list none.
            there = sorted({*there, *(each.name for each in (folder / "labels").glob("*") if read_node(each).kind)})
        if wanted in there:
            return inside(folder / "labels", wanted)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise refusal(name, f"its labels cannot be read ({error}). Copy or export it again.") from error
    raise refusal(name, f"it has no labels {wanted!r}: there are {some(there) if there else 'none'}.")


def inside(folder: Path, path: object) -> Path:
    """Return a path below a folder that metadata name; raise ValueError if it leads elsewhere."""
    parts = PurePosixPath(str(path)).parts
    if not parts or any(part in ("..", "/") or "\\" in part for part in parts):
        raise ValueError(f"{path!r} is no path below its folder")
    return folder.joinpath(*parts)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
