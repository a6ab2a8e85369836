"""The pixels of a TIFF file whose headers were checked: all at once, or strip by strip and tile by tile."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tifffile import PLANARCONFIG, TiffFile

from parfocal.runtime.images._tiff import FileFacts, UnusableError, the_series, transparent
from parfocal.runtime.images.scratch import Scratch, blocks, release

_READ_AHEAD: Final = 2**22  # bytes of the file that wait to be decoded
_RELEASED: Final = 2**24  # bytes of a mapped array that are decoded before its memory is released


def decode_tiff(tif: TiffFile, facts: FileFacts) -> NDArray[Any]:
    """Decode the image that `opened_tiff` described, in its full shape."""
    series = the_series(tif)
    pixels: NDArray[Any] = np.asarray(series.asarray(squeeze=False))
    if facts.alpha:
        place = facts.axes.index("S")
        pixels = pixels.reshape(series.get_shape(False))
        grey, alpha = (np.take(pixels, [channel], axis=place) for channel in (0, 1))
        if np.any(alpha != (np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else 1)):
            raise transparent()
        pixels = grey
    page = series.keyframe
    if facts.rgb and page.samplesperpixel == 4 and page.planarconfig == PLANARCONFIG.SEPARATE:
        alphas = np.take(pixels.reshape(facts.shape), 3, axis=facts.axes.index("S"))
        if np.any(alphas != (np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else 1)):
            raise transparent(planes=True)
    if pixels.size != math.prod(facts.shape):
        raise UnusableError(f"it announces {facts.shape} and holds {pixels.shape}")
    if facts.inverted:
        pixels = facts.inverted - pixels.astype(np.uint8)
    return pixels.reshape(facts.shape)


def map_tiff(tif: TiffFile, facts: FileFacts, scratch: Scratch) -> NDArray[Any]:
    """Return the image that `opened_tiff` described in its full shape and native byte order, where it `is_plain`.

    Pixels that lie in the file as they are in memory are mapped from it, others are decoded to an array of `scratch`.
    """
    mapped = _mapped(tif)
    if mapped is not None and mapped.dtype.isnative and mapped.flags.aligned:
        return mapped.reshape(facts.shape)
    out = scratch.zeros(facts.shape, facts.dtype.newbyteorder("="))
    decode_tiff_into(tif, out)
    return out


def decode_tiff_into(tif: TiffFile, out: NDArray[Any]) -> None:
    """Decode the image that `opened_tiff` described strip by strip or tile by tile into an array of the same size.

    Only where it `is_plain`: nothing is left to be changed in the pixels.
    """
    series = the_series(tif)
    mapped = _mapped(tif)
    if mapped is not None:
        whole = out.reshape(mapped.shape)
        for window in blocks(mapped.shape):
            whole[window] = mapped[window]
            release(mapped)
            release(out)
        return
    pages = list(series.pages)
    waiting = 0
    for page, plane in zip(pages, out.reshape(len(pages), *series.keyframe.shaped), strict=True):
        assert page is not None
        for segment, (sample, depth, row, column, _), shape in page.segments(buffersize=_READ_AHEAD):
            place = plane[sample, depth : depth + shape[0], row : row + shape[1], column : column + shape[2]]
            if segment is not None:  # cropped, for tiles may reach beyond the image
                place[...] = segment[: place.shape[0], : place.shape[1], : place.shape[2]]
            waiting += place.nbytes
            if waiting > _RELEASED:
                release(out)
                waiting = 0
    release(out)


def _mapped(tif: TiffFile) -> NDArray[Any] | None:
    """Return the image mapped from the file, in the file's byte order; None where pixels lie there in another way."""
    series = the_series(tif)
    if (begin := series.dataoffset) is None:
        return None
    stored = np.dtype(series.dtype).newbyteorder(tif.byteorder)
    path = Path(tif.filehandle.path)
    return np.memmap(path, stored, "r", begin, tuple(int(length) for length in series.get_shape(False)))


def is_plain(facts: FileFacts) -> bool:
    """Return whether the pixels of a file are those of the image as they are decoded."""
    return not (facts.alpha or facts.inverted or facts.dtype.kind == "b" or (facts.rgb and 4 in facts.shape))
