"""Plates of OME-Zarr (HCS): each field of each well is an image with a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from parfocal.client.formats.source import refusal
from parfocal.client.formats.zarr_metadata import inside, read_node
from parfocal.runtime.datasets.findings import some
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.files import image_stem

ZARR = ".zarr"


def is_zarr(path: Path) -> bool:
    """Return whether a path has the name of an OME-Zarr."""
    return path.name.lower().endswith(ZARR)


def check_name_of_zarr(path: Path) -> None:
    """Raise InvalidInputError for a folder that is a Zarr, but has not the name of one."""
    if not is_zarr(path) and any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
        text = f"it is a Zarr, and its name does not end in {ZARR}. Rename it, for example to {path.name}.ome{ZARR}."
        raise refusal(path.name, text)


def is_plate(path: Path) -> bool:
    """Return whether an OME-Zarr is a plate."""
    try:
        return is_zarr(path) and "plate" in read_node(path).attributes
    except (ValueError, OSError):
        return False  # what is wrong with it is told where it is read


def plate_of(path: Path) -> Path | None:
    """Return the plate that has a field at this path, by the names of the folders alone; else None."""
    above = path.parents[2] if len(path.parents) > 2 else None
    return above if above is not None and is_zarr(above) and not is_zarr(path) else None


def field_stem(path: Path) -> str:
    """Return the name, without suffix, of a field: "plate_B03_f2" for plate.zarr/B/3/2."""
    plate = plate_of(path)
    assert plate is not None
    return f"{image_stem(plate)}_{_field_name(path)}"


def _field_name(path: Path) -> str:
    return f"{_well_name(path)}_f{path.name}"


def _well_name(path: Path) -> str:
    return f"{path.parent.parent.name}{path.parent.name.zfill(2)}"


def fields_of(plate: Path, wells: Sequence[str] = (), without: Sequence[str] = ()) -> list[Path]:
    """Return the images of a plate, in its order.

    Parameters
    ----------
    plate
        The OME-Zarr of the plate.
    wells
        Patterns of what is taken: wells ("B03", "B3", "B*"), or fields ("B03_f2", "*_f0"); none: all.
    without
        Patterns of what is left out.

    Raises
    ------
    InvalidInputError
        A pattern fits nothing, wells are missing, or the metadata cannot be read.
    """
    try:
        content = read_node(plate).attributes["plate"]
        found = [
            field
            for well in content["wells"]
            if (folder := inside(plate, well["path"])).parent.parent == plate
            for field in _fields(folder, plate, wells, without)
        ]
        known = [str(well["path"]) for well in content["wells"]]
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise refusal(plate.name, f"its metadata of a plate cannot be read ({error}). Copy it again.") from error
    for pattern in wells:
        if not any(_fits(field, (pattern,)) for field in found):
            text = f"no well or field fits {pattern!r}: there are {some([each.replace('/', '') for each in known])}."
            raise refusal(plate.name, f"{text} Wells are written B03, fields B03_f0, and * stands for any characters.")
    if not found:
        raise refusal(plate.name, "the plate has no field that could be taken.")
    return found


def _fields(well: Path, plate: Path, wells: Sequence[str], without: Sequence[str]) -> list[Path]:
    """Return the chosen fields of a well; one that is not chosen need not be there."""
    try:
        images = read_node(well).attributes["well"]["images"]
    except (LookupError, TypeError) as error:
        names = (f"{well.parent.name}{well.name.zfill(2)}", f"{well.parent.name}{well.name}")
        if wells and not any(fnmatchcase(name, pattern.partition("_")[0]) for name in names for pattern in wells):
            return []
        name = f"{plate.name}/{well.parent.name}/{well.name}"
        text = "the plate names this well, but it is not there. Copy the plate again, or choose others with --well."
        raise InvalidInputError(f"{name} cannot be used: {text}", [Violation(name, text)]) from error
    fields = [inside(well, image["path"]) for image in images]
    fields = [field for field in fields if field.parent == well]
    return [field for field in fields if (not wells or _fits(field, wells)) and not _fits(field, without)]


def _fits(field: Path, patterns: Sequence[str]) -> bool:
    """Return whether a pattern fits the name of a field, or that of its well."""
    short = f"{field.parent.parent.name}{field.parent.name}"
    names = (_field_name(field), _well_name(field), short, f"{short}_f{field.name}")
    return any(fnmatchcase(name, pattern.replace("/", "")) for name in names for pattern in patterns)
