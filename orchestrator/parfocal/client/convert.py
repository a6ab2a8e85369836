"""Microscope makers' formats, turned into OME-TIFF once, on the way into the store.

bioio reads what its installed plugins can (`bioio-czi`, `bioio-nd2`, `bioio-lif`, …); it is imported only when
such a file is met, because that takes a second.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.files import IMAGE_SUFFIXES, Image, PixelSize, image_stem, write_image

MAKERS_SUFFIXES = (
    *(".czi", ".nd2", ".lif", ".lsm", ".stk", ".dv", ".r3d", ".oib", ".oif", ".ims", ".sldy"),
    *(".vsi", ".flex", ".mrc", ".ome.zarr"),
)


def is_makers_format(path: Path) -> bool:
    """Return whether services cannot read this kind of file, but a conversion may help."""
    name = path.name.lower()
    return name[0] != "." and name.endswith(MAKERS_SUFFIXES) and not name.endswith(IMAGE_SUFFIXES)


def converted_stem(path: Path) -> str:
    """Return the name that the converted image has, without suffix."""
    if path.name.lower().endswith(".ome.zarr"):
        return unicodedata.normalize("NFC", path.name[: -len(".ome.zarr")])
    return image_stem(path)


def convert(path: Path, folder: Path) -> Path:
    """Write the image in `path` to `folder` as OME-TIFF and return the new file. Values and pixel size are kept.

    Raises
    ------
    InvalidInputError
        No installed reader can read it, or it holds several images.
    """
    with _opened(path) as image:
        sizes = image.physical_pixel_sizes
        pixels = image.get_image_data(image.dims.order)
        axes, shape = _without_single_axes(image.dims.order, pixels.shape)
    size = PixelSize(sizes.X, sizes.Y, sizes.Z) if sizes.X and sizes.Y else None
    target = folder / f"{converted_stem(path)}.tif"
    write_image(target, Image(pixels.reshape(shape), axes, size))
    return target


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

    suffix = path.suffix.lower().removeprefix(".")
    try:
        image = BioImage(path)
        if len(image.scenes) > 1:
            raise _refusal(path, f"it holds {len(image.scenes)} images: export the one you need as TIFF.")
        yield image
    except UnsupportedFileFormatError as error:
        raise _refusal(
            path,
            f"no reader for {suffix} files is installed. Export it as TIFF from the microscope's software or Fiji, or "
            f"ask the facility to install bioio-{suffix}.",
        ) from error
    except InvalidInputError:
        raise
    except Exception as error:  # readers of foreign formats raise anything
        raise _refusal(path, f"it cannot be read ({error}). Export it as TIFF.") from error


def _refusal(path: Path, text: str) -> InvalidInputError:
    name = f"{path.parent.name}/{path.name}"
    return InvalidInputError(f"{name} cannot be used: {text}", [Violation(name, text)])
