"""Proprietary formats of microscopes, read by what is installed of bioio (`bioio-czi`, `bioio-nd2`, `bioio-lif`, …).

It is imported only when such a file is met, because that takes a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from tifffile import TiffFile

from parfocal.client.formats.source import Source, number_of_scene, refusal
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.images.notes import Note
from parfocal.runtime.images.tiff_sizes import tagged_pixel_size
from parfocal.runtime.images.units import UNCALIBRATED, length_in_micrometres, micrometres

# It warns of each reader that it tries in vain before the right one: for every plain TIFF file.
logging.getLogger("bioio.bio_image").setLevel(logging.ERROR)

PACKAGES: Final = {
    **{".czi": "bioio-czi", ".nd2": "bioio-nd2", ".lif": "bioio-lif", ".dv": "bioio-dv", ".r3d": "bioio-dv"},
    ".sldy": "bioio-sldy",
}
_IN_EXTRA: Final = ("bioio-czi", "bioio-lif", "bioio-nd2")
_OTHER_PACKAGE: Final = "bioio-bioformats"
"""Reads what has no reader of its own; it needs Java."""


@contextmanager
def opened_by_bioio(path: Path, name: str, scene: str) -> Iterator[Source]:
    """Give the chosen image of a file, or its only one, to be read; translate every failure.

    Parameters
    ----------
    path
        The file.
    name
        What messages call it.
    scene
        Name of the image, or its number from 1; "": the only one.

    Raises
    ------
    InvalidInputError
        There is no reader, the file cannot be read, or it has several images of which none is chosen.
    """
    from bioio import BioImage
    from bioio_base.exceptions import UnsupportedFileFormatError  # type: ignore[import-not-found,unused-ignore]

    try:
        image = BioImage(path)
        scenes = [str(each) for each in image.scenes]
        if path.suffix.lower() == ".czi":
            _check_scenes(path, name, scenes)
        number = number_of_scene(name, scenes, scene)
        if number:
            image.set_scene(number)
        size = _tagged(path, number) if _is_plain_tiff(image) else pixel_size(image)
        yield _source(image, name, scenes[number] if len(scenes) > 1 else "", *size)
    except UnsupportedFileFormatError as error:
        suffix = path.suffix.lower()
        raise refusal(
            name,
            f"no reader for {suffix} files is installed. Export it as TIFF from the microscope's software or Fiji, or "
            f"{_cure(suffix)}.",
        ) from error
    except (ParfocalError, MemoryError):
        raise
    except Exception as error:  # readers of foreign formats raise anything
        raise refusal(name, f"it cannot be read ({error}). Export it as TIFF.") from error


def _check_scenes(path: Path, name: str, scenes: Sequence[str]) -> None:
    """Refuse a CZI file with images that its metadata do not name: the reader would give the first one alone."""
    if find_spec("pylibCZIrw") is None:
        return
    from pylibCZIrw import czi

    with czi.open_czi(str(path)) as document:
        there = len(document.scenes_bounding_rectangle)
    if there > max(1, len(scenes)):
        text = f"it holds {there} images (scenes), but its metadata name {len(scenes)}, so that none can be chosen."
        raise refusal(name, f"{text} Save each scene as a file of its own, or export the one you need as TIFF.")


def _source(image: Any, name: str, scene: str, size: PixelSize | None, notes: tuple[Note, ...]) -> Source:
    axes, shape = str(image.dims.order), tuple(int(length) for length in image.shape)
    interval = _said(lambda: image.time_interval)
    seconds = interval.total_seconds() if isinstance(interval, timedelta) else interval
    lazy = image.get_image_dask_data(axes)
    return Source(
        name=name,
        axes=axes,
        shape=shape,
        dtype=np.dtype(image.dtype),
        read=lambda window: np.asarray(lazy[window].compute(scheduler="synchronous")),
        # Readers decode whole planes.
        steps=tuple(length if letter in "YXS" else 1 for letter, length in zip(axes, shape, strict=True)),
        scene=scene,
        channels=tuple(str(each) for each in image.channel_names or ()),
        pixel_size=size,
        seconds=seconds,
        date=_said(lambda: image.standard_metadata.imaging_datetime) or "",
        notes=notes,
        rgb="S" in axes,
    )


def _said(ask: Callable[[], Any]) -> Any:
    """Return what a file says of itself; None where its reader does not know, or stumbles over it."""
    try:
        return ask()
    except Exception:  # readers of foreign formats raise anything
        return None


def pixel_size(image: Any) -> tuple[PixelSize | None, tuple[Note, ...]]:
    """Return the pixel size in µm; readers give numbers alone, and say their units beside them or not at all."""
    sizes = image.physical_pixel_sizes
    lengths, notes = [], []
    for axis in "XYZ":
        value = getattr(sizes, axis)
        unit = str(getattr(getattr(image.dimension_properties, axis), "unit", None) or "")
        lengths.append(length_in_micrometres(value, unit or "µm"))
        # Without a unit, readers of proprietary formats give micrometres.
        if value and micrometres(unit) is None and unit.casefold() not in UNCALIBRATED:
            notes.append(Note("unit-unknown", unit[:40]))
    x, y, z = lengths
    return (PixelSize(x or y or 0.0, y or x or 0.0, z) if x or y else None), tuple(dict.fromkeys(notes))


def _is_plain_tiff(image: Any) -> bool:
    """Return whether an image is of a TIFF file without OME metadata, whose reader takes any resolution for a size."""
    return str(type(image.reader).__module__).startswith("bioio_tifffile")


def _tagged(path: Path, number: int) -> tuple[PixelSize | None, tuple[Note, ...]]:
    """Return the pixel size in µm that the tags of an image in a TIFF file say, as of a file that is read whole."""
    notes: list[Note] = []
    with TiffFile(path) as tif:
        found = tagged_pixel_size(tif, notes, number)
    return (None if found is None else PixelSize(*found)), tuple(notes)


def _cure(suffix: str) -> str:
    """Return what installs a reader."""
    package = PACKAGES.get(suffix, _OTHER_PACKAGE)
    extra = " (`parfocal[formats]` has it)" if package in _IN_EXTRA else ""
    return f"install {package} beside Parfocal{extra}"
