"""Images of OME-Zarr, read block by block.

The arrays are read by `zarr` itself, which bioio brings: its plug-in for OME-Zarr knows neither plates nor labels, and
requires clients of several clouds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.client.formats.source import Source, number_of_scene, refusal
from parfocal.client.formats.zarr_metadata import images_of, labels_of, pixel_size, time_step
from parfocal.runtime.datasets.findings import count
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.images.notes import Note

_MOST_BLOCK_BYTES: Final = 2**32
# What only computes. Others may do more: "pickle" runs whatever a file wants.
_CODECS: Final = frozenset(
    {"bytes", "transpose", "sharding_indexed", "crc32c", "crc32", "adler32", "blosc", "zstd", "gzip", "zlib", "bz2"}
    | {"lzma", "lz4", "delta", "shuffle", "fixedscaleoffset", "quantize", "bitround"}
)


@contextmanager
def opened_zarr(path: Path, name: str, scene: str, labels: str) -> Iterator[Source]:
    """Give the chosen image of an OME-Zarr, or its only one, to be read; translate every failure.

    Parameters
    ----------
    path
        Its folder, or that of a field of a plate.
    name
        What messages call it.
    scene
        Name of the image, or its number from 1; "": the only one.
    labels
        Name of the label image that is read instead of the image that it belongs to; "": the image.

    Raises
    ------
    InvalidInputError
        It cannot be read, or it has several images of which none is chosen.
    """
    try:
        images = images_of(path, name)
        number = number_of_scene(name, [image.name for image in images], scene)
        image, scene = images[number], images[number].name if len(images) > 1 else ""
        if labels:
            image = images_of(labels_of(image.folder, labels, name), name)[0]
        array = _array(image.array, name)
        size, notes = pixel_size(image)
        ndim = len(array.shape)
        axes = image.axes or ("TCZYX" if ndim == 5 and image.array != path else "Q" * (ndim - 2) + "YX")
        if len(axes) != ndim or ndim < 2:
            text = f"its axes ({len(axes)}) do not fit its array, which has {count(ndim, 'dimension')}."
            raise refusal(name, f"{text} Export it again.")
        blocks = _Blocks(array, image.array, name)
        yield Source(
            name=name,
            axes=axes,
            shape=array.shape,
            dtype=array.dtype,
            read=blocks.read,
            steps=blocks.shape,
            scene=scene,
            channels=image.channels,
            pixel_size=size,
            seconds=time_step(image),
            notes=notes,
            # Where there are no labels, writers leave blocks out.
            faults=(lambda: ()) if labels else blocks.faults,
            unnamed=image.unnamed,
        )
    except (ParfocalError, MemoryError):
        raise
    except Exception as error:  # what is damaged raises anything
        raise refusal(name, f"it cannot be read ({error}). Copy or export it again.") from error


def _array(folder: Path, name: str) -> Any:
    """Return an array whose metadata were checked; nothing of its pixels is read."""
    try:
        path = next(path for path in (folder / "zarr.json", folder / ".zarray") if path.is_file())
    except StopIteration:
        text = f"it has no array {folder.name}, which its metadata name."
        raise refusal(name, f"{text} Copy it again, with all files in it.") from None
    content = json.loads(path.read_text(encoding="utf-8"))
    unknown = sorted({*_codecs(content)} - _CODECS)
    if unknown:
        text = f"its pixels are encoded by {', '.join(unknown)}, which is not read here."
        raise refusal(name, f"{text} Save it with another compression, for example Blosc.")
    import zarr

    array = zarr.open_array(str(folder), mode="r")
    if array.dtype.kind not in "buif":
        raise refusal(name, f"its pixels are of type {array.dtype}, not real numbers. Export it again.")
    block = math.prod(array.chunks) * array.dtype.itemsize
    if block > _MOST_BLOCK_BYTES:
        text = f"a block of it holds {block / 2**30:.1f} GiB, which must be decoded at once."
        raise refusal(name, f"{text} Save it in smaller blocks (chunks).")
    return array


def _codecs(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of all that encodes the pixels of an array, as Zarr 2 and 3 write them."""
    for each in (content.get("compressor"), *(content.get("filters") or ())):
        if each is not None:
            yield str(each["id"])
    for key in ("codecs", "index_codecs"):
        for each in content.get(key) or ():
            name = each if isinstance(each, str) else str(each["name"])
            yield name.removeprefix("numcodecs.")
            yield from _codecs({} if isinstance(each, str) else each.get("configuration") or {})


class _Blocks:
    """The blocks of an array: chunks, which are decoded, in files that hold one of them or, as shards, several."""

    def __init__(self, array: Any, folder: Path, name: str) -> None:
        self._array, self._folder, self._name = array, folder, name
        self.shape: tuple[int, ...] = tuple(array.chunks)
        self._stored: tuple[int, ...] = tuple(array.shards or array.chunks)
        self._there: dict[tuple[int, ...], bool] = {}

    def faults(self) -> tuple[Note, ...]:
        """Return what was found while blocks were read: how many have no file, so that they are the fill value."""
        missing = sum(not there for there in self._there.values())
        return (Note("blocks-missing", f"{missing} of {count(len(self._there), 'block')}"),) if missing else ()

    def read(self, window: tuple[slice, ...]) -> NDArray[Any]:
        """Return the pixels of a window."""
        numbers = [
            range(part.start // step, -(-part.stop // step)) for part, step in zip(window, self._stored, strict=True)
        ]
        for place in product(*numbers):
            if place not in self._there:
                self._there[place] = (self._folder / self._array.metadata.encode_chunk_key(place)).is_file()
        try:
            return np.asarray(self._array[window])
        except (ParfocalError, MemoryError):
            raise
        except Exception as error:  # a damaged block raises anything inside a decoder
            begin = ", ".join(str(part.start) for part in window)
            text = f"the block at ({begin}) of {self._folder.name} is damaged ({error}). Copy or export it again."
            raise refusal(self._name, text) from error
