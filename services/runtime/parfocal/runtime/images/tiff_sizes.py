"""The size of a pixel as a TIFF file says it: in OME metadata, in those of ImageJ, or as a resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from xml.etree import ElementTree

from tifffile import TiffFile

from parfocal.runtime.images.notes import Note
from parfocal.runtime.images.units import UNCALIBRATED, is_length, length_in_micrometres, micrometres

# Beyond this a resolution tag is a printer's setting (72 dpi is 353 µm, 1200 dpi is 21 µm).
_LARGEST_PIXEL = 20.0
_PLAUSIBLE: Final = (1e-6, 1e4)  # µm: a tenth of an electron microscope's best, and ten times a dissecting microscope's
_PRINTED: Final = 1e4  # µm; units of printers are a centimetre and more


def elements(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Yield the elements of a name, whatever version of OME their namespace is."""
    return (element for element in root.iter() if element.tag.rpartition("}")[2] == name)


def ome_pixel_size(root: ElementTree.Element, notes: list[Note]) -> tuple[float, float, float | None] | None:
    """Return the lengths of a pixel along X, Y and Z in µm, as OME metadata say them; what is left out is noted."""
    for element in elements(root, "Pixels"):
        units = [element.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XYZ"]
        values = [element.get(f"PhysicalSize{axis}") for axis in "XYZ"]
        if any(value is not None and not unit.strip() for unit, value in zip(units, values, strict=True)):
            notes.append(Note("unit-guessed"))
        return _as_size(_lengths(values, [unit.strip() or "µm" for unit in units], notes), notes)
    return None


def has_size(root: ElementTree.Element) -> bool:
    """Return whether OME metadata say anything of the size of a pixel in its plane."""
    first = next(elements(root, "Pixels"), None)
    return first is not None and any(first.get(f"PhysicalSize{axis}") is not None for axis in "XY")


def tagged_pixel_size(tif: TiffFile, notes: list[Note], series: int = 0) -> tuple[float, float, float | None] | None:
    """Return the lengths of a pixel along X, Y and Z in µm, as resolutions of one of the images in a file say them.

    They have ImageJ's units and its `spacing` for Z beside them, or the unit of the tags. What is left out is noted.
    """
    tags = (tif.series[series].keyframe if series else tif.pages.first).tags
    density = [_density(tags.valueof(code)) for code in (282, 283)]
    imagej = tif.imagej_metadata or {}
    named = [str(imagej.get(key, "")).strip() for key in ("unit", "xunit", "yunit", "zunit")]
    unit = named[1] or named[0]
    tagged = not unit or (micrometres(unit) or 0) >= _PRINTED
    if not unit:
        unit = {2: "inch", 3: "cm", 4: "mm", 5: "µm"}.get(int(tags.valueof(296, 1)), "")
    # An image without a unit along X has no pixel size, whatever stands at the other axes.
    units = [unit, named[2] or unit, named[3] or unit]
    values = [*(1.0 / each if each else None for each in density), imagej.get("spacing")]
    lengths = _lengths(values, units, notes)
    if tagged and any(length is not None and length > _LARGEST_PIXEL for length in lengths[:2]):
        notes.append(Note("resolution-ignored", f"{max(each or 0 for each in density):.4g} pixels per {unit}"))
        return None
    return _as_size(lengths, notes)


def _lengths(values: Sequence[object], units: Sequence[str], notes: list[Note]) -> list[float | None]:
    """Return lengths along X, Y and Z in micrometres, and note what is left out of them.

    A unit that says that there is no pixel size, and a length of 0, which programs write for the same, are no faults.
    """
    there = [(axis, value, unit) for axis, value, unit in zip("XYZ", values, units, strict=True) if value is not None]
    unknown = {unit for _, _, unit in there if micrometres(unit) is None and unit.casefold() not in UNCALIBRATED}
    notes += [Note("unit-unknown", unit[:40]) for unit in sorted(unknown)]
    unreadable = [
        f"{axis}: {str(value)[:40]}"
        for axis, value, unit in there
        if micrometres(unit) is not None and not is_length(value)
    ]
    if unreadable:
        notes.append(Note("size-unreadable", ", ".join(unreadable)))
    return [length_in_micrometres(value, unit) for value, unit in zip(values, units, strict=True)]


def _as_size(lengths: Sequence[float | None], notes: list[Note]) -> tuple[float, float, float | None] | None:
    x, y, z = lengths
    if x is None and y is None:
        return None
    if x is None or y is None:
        notes.append(Note("size-guessed", "Y for X" if x is None else "X for Y"))
    if strange := [each for each in lengths if each is not None and not _PLAUSIBLE[0] <= each <= _PLAUSIBLE[1]]:
        notes.append(Note("size-implausible", f"{strange[0]:.4g} µm"))
    return x or y or 0.0, y or x or 0.0, z


def _density(value: object) -> float | None:
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0]) / float(value[1])
    return None
