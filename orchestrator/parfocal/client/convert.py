"""Proprietary formats of microscopes, turned into OME-TIFF once, on the way into the store.

bioio reads what its installed plugins can (`bioio-czi`, `bioio-nd2`, `bioio-lif`, …); it is imported only when
such a file is met, because that takes a second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.runtime.datasets.findings import some
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.files import IMAGE_SUFFIXES, Image, PixelSize, image_stem, write_image
from parfocal.runtime.images.notes import Note
from parfocal.runtime.images.units import UNCALIBRATED, length_in_micrometres, micrometres

MAKERS_SUFFIXES = (
    *(".czi", ".nd2", ".lif", ".lsm", ".stk", ".dv", ".r3d", ".oib", ".oif", ".ims", ".sldy"),
    *(".vsi", ".flex", ".mrc", ".zarr"),
)
_PACKAGES = {
    **{".czi": "bioio-czi", ".nd2": "bioio-nd2", ".lif": "bioio-lif", ".dv": "bioio-dv", ".r3d": "bioio-dv"},
    **{".sldy": "bioio-sldy", ".zarr": "bioio-ome-zarr"},
}
_IN_EXTRA = ("bioio-czi", "bioio-lif", "bioio-nd2")
_OTHER_PACKAGE = "bioio-bioformats"
"""Reads what has no reader of its own; it needs Java."""


@dataclass(frozen=True)
class Part:
    """What is taken of files that hold several images, channels, planes or frames.

    Attributes
    ----------
    scene
        Name of the image, or its number from 1; "": the only one.
    channels
        Names of channels, or their numbers from 1, in the order in which they are taken; empty: all.
    planes, frames
        First and last along Z and T, counted from 1; None: all.
    """

    scene: str = ""
    channels: tuple[str, ...] = ()
    planes: tuple[int, int] | None = None
    frames: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        """Whether anything is chosen."""
        return self != Part()


WHOLE = Part()


def parse_range(text: str, option: str) -> tuple[int, int] | None:
    """Return first and last of "3" or "2-9", counted from 1, and None for "".

    Raises
    ------
    InvalidInputError
        It is none of these; `option` is named.
    """
    if not text:
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise InvalidInputError(f"{option} is {text!r}: give a number from 1, or a range such as 2-9.")
    return int(match[1]), int(match[2] or match[1])


def is_makers_format(path: Path) -> bool:
    """Return whether services cannot read this kind of file, but a conversion may help."""
    name = path.name.lower()
    return name[0] != "." and name.endswith(MAKERS_SUFFIXES) and not name.endswith(IMAGE_SUFFIXES)


def converted_stem(path: Path) -> str:
    """Return the name that the converted image has, without suffix."""
    return image_stem(path)


def convert(path: Path, folder: Path, part: Part = WHOLE) -> tuple[Path, tuple[Note, ...]]:
    """Write the image in `path` to `folder` as OME-TIFF, values and pixel size kept.

    Parameters
    ----------
    path
        A file of a proprietary format.
    folder
        Where the new file goes.
    part
        What is taken of it.

    Returns
    -------
    tuple
        The new file, and what was chosen, left out or guessed: where channels have names or something was chosen, the
        note "converted" says which.

    Raises
    ------
    InvalidInputError
        No installed reader can read it, it holds several images of which none is chosen, or lacks what is chosen.
    """
    with _opened(path, part.scene) as image:
        size, notes = _pixel_size(path, image)
        order = image.dims.order
        chosen, detail = _chosen(path, image, part)
        pixels = np.asarray(image.get_image_data(order))
        for letter, numbers in chosen.items():
            pixels = pixels.take(numbers, axis=order.index(letter))
        axes, shape = _without_single_axes(order, pixels.shape)
    target = folder / f"{converted_stem(path)}.tif"
    write_image(target, Image(pixels.reshape(shape), axes, size))
    return target, (Note("converted", detail), *notes)


def _chosen(path: Path, image: Any, part: Part) -> tuple[dict[str, list[int]], str]:
    """Return which numbers, from 0, are taken along each axis of which something is chosen, and all of it in words."""
    order, shape = image.dims.order, image.shape
    lengths = dict(zip(order, shape, strict=True))
    chosen: dict[str, list[int]] = {}
    words = [f"image {image.current_scene}"] if part.scene else []
    names = [str(name) for name in image.channel_names or ()]
    if part.channels:
        chosen["C"] = [_channel(path, names, lengths.get("C", 1), each) for each in part.channels]
    taken = chosen.get("C", range(len(names)))
    if part.channels or (len(names) > 1 and lengths.get("C", 1) > 1):
        words.append(f"channels {', '.join(names[number] if names else str(number + 1) for number in taken)}")
    for letter, title, span in (("Z", "planes", part.planes), ("T", "frames", part.frames)):
        if span is None:
            continue
        first, last = span
        if last > lengths.get(letter, 1):
            raise _refusal(path, f"it has {lengths.get(letter, 1)} {title} and {title} {first} to {last} were chosen.")
        if letter in lengths:
            chosen[letter] = list(range(first - 1, last))
        words.append(f"{title} {first} to {last}")
    return {letter: numbers for letter, numbers in chosen.items() if letter in lengths}, "; ".join(words)


def _channel(path: Path, names: list[str], count: int, wanted: str) -> int:
    """Return the number, from 0, of a channel that is named, or numbered from 1."""
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and 1 <= int(wanted) <= count:
        return int(wanted) - 1
    raise _refusal(path, f"it has no channel {wanted!r}: there are {', '.join(names) or f'{count} without names'}.")


def _pixel_size(path: Path, image: Any) -> tuple[PixelSize | None, tuple[Note, ...]]:
    """Return the pixel size in µm; readers give numbers alone, and say their units beside them or not at all."""
    sizes = image.physical_pixel_sizes
    zarr = path.name.lower().endswith(".zarr")
    units = _zarr_units(path) if zarr else {}
    lengths, notes = [], []
    for axis in "XYZ":
        value = getattr(sizes, axis)
        unit = units.get(axis) or str(getattr(getattr(image.dimension_properties, axis), "unit", None) or "")
        length = length_in_micrometres(value, unit or "µm")
        if value and micrometres(unit) is None:
            if unit.casefold() not in UNCALIBRATED:
                notes.append(Note("unit-unknown", unit[:40]))
            elif zarr:  # readers of proprietary formats give micrometres
                notes.append(Note("unit-guessed"))
        lengths.append(length)
    x, y, z = lengths
    # Without a unit a scale of 1 is what writers set that know of none.
    if zarr and not units and {sizes.X, sizes.Y} <= {None, 1.0}:
        return None, ()
    return (PixelSize(x or y or 0.0, y or x or 0.0, z) if x or y else None), tuple(dict.fromkeys(notes))


def _zarr_units(folder: Path) -> dict[str, str]:
    """Return the unit of each axis of an OME-Zarr (0.4 or 0.5) by its letter, as far as it says them."""
    for name, keys in ((".zattrs", ()), ("zarr.json", ("attributes", "ome")), ("zarr.json", ("attributes",))):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            for key in keys:
                found = found[key]
            axes = found["multiscales"][0]["axes"]
            return {str(axis["name"]).upper(): str(axis.get("unit", "")) for axis in axes if axis.get("unit")}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
    return {}


def inspect_makers_format(path: Path) -> tuple[str, tuple[int, ...]]:
    """Return axes and shape that the converted image will have, from the headers alone; raises as `convert` does."""
    with _opened(path, "") as image:
        return _without_single_axes(image.dims.order, image.shape)


def _without_single_axes(letters: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    kept = [axis for axis, letter in enumerate(letters) if shape[axis] > 1 or letter in "YX"]
    return "".join(letters[axis] for axis in kept), tuple(shape[axis] for axis in kept)


@contextmanager
def _opened(path: Path, scene: str) -> Iterator[Any]:
    """Give the chosen image of a file, or its only one, to be read; translate every failure."""
    from bioio import BioImage
    from bioio_base.exceptions import UnsupportedFileFormatError  # type: ignore[import-not-found,unused-ignore]

    try:
        image = BioImage(path)
        scenes = [str(name) for name in image.scenes]
        if scene:
            image.set_scene(_scene(path, scenes, scene))
        elif len(scenes) > 1:
            raise _refusal(
                path,
                f"it holds {len(scenes)} images ({some(scenes)}): choose one with --scene where images are made a "
                "dataset, or export the one you need as TIFF.",
            )
        yield image
    except UnsupportedFileFormatError as error:
        raise _refusal(
            path,
            f"no reader for {path.suffix.lower()} files is installed. Export it as TIFF from the microscope's software "
            f"or Fiji, or {_cure(path.suffix.lower())}.",
        ) from error
    except InvalidInputError:
        raise
    except Exception as error:  # readers of foreign formats raise anything
        raise _refusal(path, f"it cannot be read ({error}). Export it as TIFF.") from error


def _cure(suffix: str) -> str:
    """Return what installs a reader."""
    package = _PACKAGES.get(suffix, _OTHER_PACKAGE)
    extra = " (`parfocal[formats]` has it)" if package in _IN_EXTRA else ""
    return f"install {package} beside Parfocal{extra}"


def _scene(path: Path, scenes: list[str], wanted: str) -> int:
    """Return the number, from 0, of an image that is named, or numbered from 1."""
    if wanted in scenes:
        return scenes.index(wanted)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(scenes):
        return int(wanted) - 1
    raise _refusal(path, f"it has no image {wanted!r}: there are {some(scenes)}.")


def _refusal(path: Path, text: str) -> InvalidInputError:
    name = f"{path.parent.name}/{path.name}"
    return InvalidInputError(f"{name} cannot be used: {text}", [Violation(name, text)])
