"""What a TIFF file says of itself, checked against its own length before any pixel is decoded.

tifffile forgives a lot: strips that are missing are filled with zeros, a broken chain of directories is
cut short with a log line, and OME metadata may name other files. A training set cannot live with either, so
everything is checked here and a file that does not hold what it announces is refused with a `ValueError`,
whose text `parfocal.runtime.images.files` completes with the file's name and a cure.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from tifffile import PHOTOMETRIC, TiffFile, TiffPageSeries

# Their planes or positions are laid out in the makers' own ways; bioio reads them on the way in.
_VENDOR_KINDS = {
    "lsm",
    "stk",
    "ndtiff",
    "fluoview",
    "svs",
    "scn",
    "qpi",
    "ndpi",
    "bif",
    "avs",
    "eer",
    "philips",
}

_MICROMETRES = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "Å": 1e-4,
    "inch": 25400.0,
    "in": 25400.0,
}
# Beyond this a resolution tag is a printer's setting (72 dpi is 353 µm, 1200 dpi is 21 µm).
_LARGEST_PIXEL = 20.0
_MOST_DIRECTORIES = 2**22
_TYPE_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}


class FileFacts(NamedTuple):
    """Shape, axes (tifffile's letters), dtype and pixel size (x, y, z in micrometre) of the one image."""

    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype[Any]
    rgb: bool
    pixel_size: tuple[float, float, float | None] | None


def open_tiff(path: Path) -> TiffFile:
    """Open `path` without ever following references to other files."""
    return TiffFile(path, _multifile=False, is_mmstack=False, is_scanimage=False)


def describe_tiff(tif: TiffFile, max_pixels: int) -> FileFacts:
    """Read the headers of an open file.

    Raises
    ------
    ValueError
        The file is truncated, holds several images, is of a maker's own kind, or is larger than `max_pixels`.
    """
    vendor = sorted(kind for kind in _VENDOR_KINDS if getattr(tif, f"is_{kind}", False))
    if vendor:
        raise ValueError(f"it is a {vendor[0].upper()} file, a maker's own kind of TIFF")
    size = tif.filehandle.size
    with Path(tif.filehandle.path).open("rb") as handle:
        directories = _count_directories(handle, size)
    ome = None
    if tif.is_ome:
        ome = _parse_ome(tif, directories)
    series = _the_series(tif)
    if tif.is_ome and series.kind != "ome":
        raise ValueError("its OME metadata names other files or cannot be understood")
    shape = tuple(int(length) for length in series.get_shape(False))
    if math.prod(shape) <= max_pixels:  # else the caller's limit speaks first, without touching every page
        _check_extent(series, size)
    return FileFacts(
        shape=shape,
        axes=series.get_axes(False),
        dtype=series.dtype,
        rgb=series.keyframe.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR),
        pixel_size=_ome_pixel_size(ome) if ome is not None else _tagged_pixel_size(tif),
    )


def decode_tiff(tif: TiffFile, facts: FileFacts) -> NDArray[Any]:
    """Decode the image that `describe_tiff` described, in its full shape."""
    pixels: NDArray[Any] = np.asarray(_the_series(tif).asarray(squeeze=False))
    if pixels.size != math.prod(facts.shape):
        raise ValueError(f"it announces {facts.shape} and holds {pixels.shape}")
    return pixels.reshape(facts.shape)


def _the_series(tif: TiffFile) -> TiffPageSeries:
    series = [each for each in tif.series if not each.keyframe.is_reduced]
    if not series:
        raise ValueError("it holds no image")
    if len(series) > 1:
        shapes = ", ".join("x".join(str(length) for length in each.shape) for each in series[:4])
        raise ValueError(f"it holds {len(series)} separate images ({shapes})")
    return series[0]


def _count_directories(handle: BinaryIO, size: int) -> int:
    """Follow the chain of image directories to its end; what leads nowhere means a truncated file."""
    header = handle.read(16)
    order = "<" if header[:2] in (b"II", b"EP") else ">"
    big = struct.unpack(order + "H", header[2:4])[0] == 43
    word, count_size = ("Q", 8) if big else ("I", 2)
    entry = struct.Struct(f"{order}HH{word}{word}")  # tag, type, count, value or where it is
    link = struct.Struct(order + word)
    (offset,) = link.unpack_from(header, 8 if big else 4)
    seen: set[int] = set()
    while offset:
        if offset in seen or len(seen) >= _MOST_DIRECTORIES:
            raise ValueError("it is damaged: its directories lead in a circle")
        seen.add(offset)
        handle.seek(offset)
        (entries,) = struct.unpack(order + ("Q" if big else "H"), _exactly(handle, count_size))
        if offset + count_size + entries * entry.size + link.size > size:
            raise ValueError("it is truncated: the file ends inside a directory")
        for _, kind, count, place in entry.iter_unpack(_exactly(handle, entries * entry.size)):
            length = _TYPE_SIZES.get(kind, 0) * count
            if length > link.size and place + length > size:
                raise ValueError("it is truncated: a tag lies beyond the end of the file")
        (offset,) = link.unpack(_exactly(handle, link.size))
    return len(seen)


def _exactly(handle: BinaryIO, size: int) -> bytes:
    content = handle.read(size)
    if len(content) < size:
        raise ValueError("it is truncated: the file ends before its last directory")
    return content


def _check_extent(series: TiffPageSeries, size: int) -> None:
    """Refuse a series whose strips or tiles are missing or lie beyond the end of the file."""
    page = series.keyframe
    if page.is_tiled and page.tilewidth * page.tilelength * page.tiledepth > max(4 * page.size, 2**24):
        raise ValueError("it is damaged: its tiles are far larger than the image")  # a decoder would reserve them
    start = series.dataoffset
    if start is not None:  # one contiguous block, perhaps with a single directory (ImageJ above 4 GB)
        if start + math.prod(series.get_shape(False)) * series.dtype.itemsize > size:
            raise ValueError("it is truncated: pixels lie beyond the end of the file")
        return
    pages = list(series.pages)
    if page.size * len(pages) != math.prod(series.get_shape(False)) or None in pages:
        raise ValueError(f"it announces {series.get_shape(False)} and holds only {len(pages)} planes of that")
    segments = math.prod(page.chunked)
    for each in pages:
        assert each is not None
        offsets, counts = each.dataoffsets, each.databytecounts
        if len(offsets) < segments or len(counts) < segments:
            raise ValueError("it is incomplete: strips or tiles are missing")
        for offset, count in zip(offsets[:segments], counts[:segments], strict=True):
            if offset <= 0 or count <= 0:
                raise ValueError("it is incomplete: strips or tiles are empty")
            if offset + count > size:
                raise ValueError("it is truncated: pixels lie beyond the end of the file")


def _parse_ome(tif: TiffFile, directories: int) -> ElementTree.Element:
    """Parse OME-XML and refuse what would make tifffile reserve memory for planes that are not there."""
    text, page = tif.ome_metadata or "", tif.pages.first
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("its OME metadata contains entity definitions")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"its OME metadata cannot be read ({error})") from error
    if any("ModuloAlong" in element.tag for element in root.iter()):
        raise ValueError("its OME metadata folds further dimensions into the planes (Modulo)")
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        if name == "Pixels":
            sizes = {axis: int(element.attrib.get(f"Size{axis}", 1)) for axis in "XYZCT"}
            if (sizes["X"], sizes["Y"]) != (page.imagewidth, page.imagelength):
                raise ValueError("its OME metadata speaks of other images than the file holds")
            if sizes["Z"] * sizes["C"] * sizes["T"] > directories * page.samplesperpixel:
                raise ValueError("it is truncated: its OME metadata announces more planes than the file holds")
        elif name == "TiffData":
            named = [int(element.attrib.get(key, 0)) for key in ("PlaneCount", "NumPlanes", "IFD")]
            if max(named) > directories:
                raise ValueError("it is truncated: its OME metadata announces more planes than the file holds")
    return root


def _ome_pixel_size(root: ElementTree.Element) -> tuple[float, float, float | None] | None:
    for element in root.iter():
        if element.tag.rpartition("}")[2] == "Pixels":
            lengths = [
                _length(element.get(f"PhysicalSize{axis}"), element.get(f"PhysicalSize{axis}Unit", "µm"))
                for axis in "XYZ"
            ]
            return _as_size(lengths)
    return None


def _tagged_pixel_size(tif: TiffFile) -> tuple[float, float, float | None] | None:
    """ImageJ's `unit` and `spacing` with the resolution tags, or the resolution tags with their own unit."""
    tags = tif.pages.first.tags
    density = [_density(tags.valueof(code)) for code in (282, 283)]
    imagej = tif.imagej_metadata or {}
    unit = str(imagej.get("unit", "")).replace("\\u00B5", "µ").strip()
    if unit not in _MICROMETRES:
        unit = {2: "inch", 3: "cm"}.get(int(tags.valueof(296, 1)), "")
    lengths = [_length(1.0 / each if each else None, unit) for each in density]
    if any(length is not None and length > _LARGEST_PIXEL for length in lengths):
        return None
    return _as_size([*lengths, _length(imagej.get("spacing"), unit)])


def _as_size(lengths: Sequence[float | None]) -> tuple[float, float, float | None] | None:
    x, y, z = lengths
    if x is None and y is None:
        return None
    return x or y or 0.0, y or x or 0.0, z


def _density(value: object) -> float | None:
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0]) / float(value[1])
    return None


def _length(value: object, unit: str) -> float | None:
    """`value` in micrometre, or None when it is no positive length in a known unit."""
    if value is None or unit not in _MICROMETRES or not re.fullmatch(r"[-+0-9.eE]+", str(value)):
        return None
    length = float(str(value)) * _MICROMETRES[unit]
    return length if math.isfinite(length) and length > 0 else None
