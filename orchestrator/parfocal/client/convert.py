"""Microscope makers' formats, turned into OME-TIFF once, on the way into the store.

bioio reads what its installed plugins can (`bioio-czi`, `bioio-nd2`, `bioio-lif`, …); it is imported only when
such a file is met, because that takes a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
_OTHER_PACKAGE = "bioio-bioformats"
"""Reads what has no reader of its own; it needs Java."""


def is_makers_format(path: Path) -> bool:
    """Return whether services cannot read this kind of file, but a conversion may help."""
    name = path.name.lower()
    return name[0] != "." and name.endswith(MAKERS_SUFFIXES) and not name.endswith(IMAGE_SUFFIXES)


def converted_stem(path: Path) -> str:
    """Return the name that the converted image has, without suffix."""
    return image_stem(path)


def convert(path: Path, folder: Path) -> tuple[Path, tuple[Note, ...]]:
    """Write the image in `path` to `folder` as OME-TIFF, values and pixel size kept.

    Returns
    -------
    tuple
        The new file, and what was left out or guessed.

    Raises
    ------
    InvalidInputError
        No installed reader can read it, or it holds several images.
    """
    with _opened(path) as image:
        size, notes = _pixel_size(path, image)
        pixels = image.get_image_data(image.dims.order)
        axes, shape = _without_single_axes(image.dims.order, pixels.shape)
    target = folder / f"{converted_stem(path)}.tif"
    write_image(target, Image(pixels.reshape(shape), axes, size))
    return target, notes


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
            elif zarr:  # readers of microscope makers' formats give micrometres
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
    with _opened(path) as image:
        return _without_single_axes(image.dims.order, image.shape)


def _without_single_axes(letters: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    kept = [axis for axis, letter in enumerate(letters) if shape[axis] > 1 or letter in "YX"]
    return "".join(letters[axis] for axis in kept), tuple(shape[axis] for axis in kept)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Give the one image of a file to be read; translate every failure."""
    from bioio import BioImage
    from bioio_base.exceptions import UnsupportedFileFormatError  # type: ignore[import-not-found,unused-ignore]

    try:
        image = BioImage(path)
        if len(image.scenes) > 1:
            raise _refusal(path, f"it holds {len(image.scenes)} images: export the one you need as TIFF.")
        yield image
    except UnsupportedFileFormatError as error:
        raise _refusal(
            path,
            f"no reader for {path.suffix.lower()} files is installed. Export it as TIFF from the microscope's software "
            f"or Fiji, or ask the facility to install {_PACKAGES.get(path.suffix.lower(), _OTHER_PACKAGE)} beside "
            "Parfocal.",
        ) from error
    except InvalidInputError:
        raise
    except Exception as error:  # readers of foreign formats raise anything
        raise _refusal(path, f"it cannot be read ({error}). Export it as TIFF.") from error


def _refusal(path: Path, text: str) -> InvalidInputError:
    name = f"{path.parent.name}/{path.name}"
    return InvalidInputError(f"{name} cannot be used: {text}", [Violation(name, text)])
