"""Images as OME-Zarr, on the way out of the store: with smaller levels, pixel size and axes, block by block.

Version 0.5 lies in Zarr 3, version 0.4 in Zarr 2, which older programs read. Every level has half as many rows and
columns as the one before: means of intensities, single pixels of labels.
"""

from __future__ import annotations

import errno
import math
import shutil
import uuid
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.errors import DiskFullError
from parfocal.runtime.images.files import Image
from parfocal.runtime.images.levels import as_type, halved, level_shapes
from parfocal.runtime.images.scratch import release

Version = Literal["0.4", "0.5"]
"""Versions of OME-Zarr that are written."""

_SIDE: Final = 512
_SMALLEST: Final = 512
_DEPTH: Final = 8
_TYPES: Final = {"T": "time", "C": "channel"}
_CONTRAST: Final = (0.5, 99.8)
_OF_CHANNELS: Final = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
_COLOURS: Final = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))


def write_zarr(folder: Path, image: Image, *, name: str, labels: bool = False, version: Version = "0.5") -> None:
    """Write an image as a folder of OME-Zarr, whole or not at all.

    Parameters
    ----------
    folder
        The folder to write; one that exists is replaced.
    image
        Axes from ``TCZYXS``; pixels that are mapped from a file are read block by block. Colours become channels.
    name
        Name of the image in its metadata.
    labels
        Whether the values are numbers of objects or classes: then it is a label image, which viewers show in colours.
        Labels that are stored as decimal numbers are an image.
    version
        Of OME-Zarr.

    Raises
    ------
    DiskFullError
        There is no room.
    """
    partial = folder.with_name(f".{uuid.uuid4().hex[:12]}.partial")
    try:
        _write(partial, image, name, labels and image.pixels.dtype.kind in "ui", version)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"No room to write {folder}: free space on this disk, then try again.") from error
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(folder: Path, image: Image, name: str, labels: bool, version: Version) -> None:
    import zarr

    rgb = image.axes.endswith("S")
    axes, pixels = image.axes, image.pixels
    if rgb:
        # Before rows and columns, behind the time: where channels stand.
        axes = axes.removesuffix("S").replace("T", "TC") if "T" in axes else f"C{axes.removesuffix('S')}"
        pixels = np.moveaxis(pixels, -1, axes.index("C"))
    group = zarr.open_group(str(folder), mode="w", zarr_format=3 if version == "0.5" else 2)
    shapes = level_shapes(pixels.shape[-2], pixels.shape[-1], _SMALLEST)
    larger: Any = pixels
    for level, shape in enumerate(shapes):
        whole = (*pixels.shape[:-2], *shape)
        array = _create(group, str(level), whole, pixels.dtype, axes, version)
        _fill(array, larger, reduced=level > 0, labels=labels)
        larger = array
    content: dict[str, Any] = {"multiscales": [_multiscale(image, axes, name, len(shapes), version)]}
    if labels:
        content["image-label"] = {} if version == "0.5" else {"version": version}
    if rgb:
        content["omero"] = {"channels": [_channel(*each, _whole_range(pixels.dtype)) for each in _COLOURS]}
    elif not labels:
        content["omero"] = {"channels": _channels(image, axes, larger)}
    group.attrs.update({"ome": {"version": version, **content}} if version == "0.5" else content)


def _create(group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], axes: str, version: Version) -> Any:
    """Return a new array of blocks that are read and written at once."""
    from zarr.codecs import BloscCname, BloscCodec, BloscShuffle

    steps = {"Y": _SIDE, "X": _SIDE, "Z": _DEPTH}
    chunks = tuple(min(steps.get(axis, 1), length) for axis, length in zip(axes, shape, strict=True))
    if version == "0.5":
        own: dict[str, Any] = {
            "compressors": BloscCodec(cname=BloscCname.zstd, clevel=3, shuffle=BloscShuffle.shuffle),
            "dimension_names": list(axes.lower()),
        }
    else:
        from numcodecs import Blosc

        own = {
            "compressors": Blosc(cname="zstd", clevel=3, shuffle=Blosc.SHUFFLE),
            "chunk_key_encoding": {"name": "v2", "separator": "/"},
        }
    return group.create_array(name, shape=shape, dtype=dtype, chunks=chunks, fill_value=0, **own)


def _fill(array: Any, larger: Any, *, reduced: bool, labels: bool) -> None:
    """Write an array from one of the same size or, if it is `reduced`, of twice as many rows and columns."""
    steps = array.chunks
    counts = [-(-length // step) for length, step in zip(array.shape, steps, strict=True)]
    for place in np.ndindex(*counts):
        window = tuple(
            slice(at * step, min((at + 1) * step, length))
            for at, step, length in zip(place, steps, array.shape, strict=True)
        )
        if not reduced:
            array[window] = np.ascontiguousarray(larger[window])
            release(larger)
            continue
        *leading, rows, columns = window
        twice = (*leading, *(slice(2 * part.start, 2 * part.stop) for part in (rows, columns)))
        block = np.asarray(larger[twice])
        array[window] = block[..., ::2, ::2] if labels else _smaller(block)


def _smaller(block: NDArray[Any]) -> NDArray[Any]:
    """Return the means of 2 x 2 pixels of planes (…, Y, X) in their own type."""
    rows, columns = (-(-length // 2) for length in block.shape[-2:])
    small = np.empty((*block.shape[:-2], rows, columns), block.dtype)
    for place in np.ndindex(block.shape[:-2]):
        small[place] = as_type(halved(block[place]), block.dtype)
    return small


def _multiscale(image: Image, axes: str, name: str, levels: int, version: Version) -> dict[str, Any]:
    """Return the description of an image and its levels."""
    size = image.pixel_size
    lengths = {} if size is None else {"X": size.x, "Y": size.y, "Z": size.z}
    lengths["T"] = image.acquired.seconds
    described = []
    for axis in axes:
        unit = {"unit": "second" if axis == "T" else "micrometer"} if lengths.get(axis) is not None else {}
        described.append({"name": axis.lower(), "type": _TYPES.get(axis, "space"), **unit})
    datasets = []
    for level in range(levels):
        scale = [(lengths.get(axis) or 1.0) * (2**level if axis in "YX" else 1) for axis in axes]
        # A pixel of a smaller level lies in the middle of those that it stands for.
        shift = [scale[at] * (1 - 2.0**-level) / 2 if axis in "YX" else 0.0 for at, axis in enumerate(axes)]
        moved = [{"type": "translation", "translation": shift}] if level else []
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}, *moved]})
    found = {"name": name, "axes": described, "datasets": datasets}
    return found if version == "0.5" else {"version": version, **found}


def _channels(image: Image, axes: str, smallest: Any) -> list[dict[str, Any]]:
    """Return name, colour and contrast of each channel: from dark to bright pixels of the smallest level."""
    count = smallest.shape[axes.index("C")] if "C" in axes else 1
    names = image.acquired.fitting(image.axes, image.pixels.shape).channels or tuple(map(str, range(1, count + 1)))
    colours = ["FFFFFF"] if count == 1 else _OF_CHANNELS
    found = []
    for number, name in enumerate(names):
        # The middle of planes and frames stands for all of them.
        place = {"C": number, "Z": smallest.shape[axes.index("Z")] // 2 if "Z" in axes else 0}
        place["T"] = smallest.shape[axes.index("T")] // 2 if "T" in axes else 0
        plane = np.asarray(smallest[tuple(slice(None) if axis in "YX" else place[axis] for axis in axes)])
        start, end = (float(value) for value in np.percentile(plane, _CONTRAST))
        limits = float(plane.min()), float(plane.max())
        lowest, highest = _whole_range(plane.dtype) if plane.dtype.kind in "ui" else limits
        if not all(map(math.isfinite, (start, end, lowest, highest))):
            start, end, lowest, highest = 0, 1, 0, 1
        window = (lowest, highest, start, end if end > start else start + 1)
        found.append(_channel(name, colours[number % len(colours)], window))
    return found


def _whole_range(dtype: np.dtype[Any]) -> tuple[float, ...]:
    return (0, int(np.iinfo(dtype).max)) if dtype.kind in "ui" else (0, 1)


def _channel(label: str, hexadecimal: str, limits: tuple[float, ...]) -> dict[str, Any]:
    """Return the description of a channel; `limits` are its lowest and highest value, and those that are shown."""
    window = dict(zip(("min", "max", "start", "end"), (*limits[:2], *limits[-2:]), strict=True))
    return {"label": label, "color": hexadecimal, "active": True, "window": window}
