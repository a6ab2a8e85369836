"""Small pictures of images, for the sheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from parfocal.qc.metrics import bands
from parfocal.qc.metrics.objects.labels import Kind
from parfocal.runtime.images.scratch import release

_THUMBNAIL: Final = 160
# Light blue and orange of Okabe and Ito's palette.
_OUTLINE: Final = (86, 180, 233)
_MARKED: Final = (230, 159, 0)


def thumbnail(
    pixels: npt.NDArray[Any], source: npt.NDArray[Any] | None, kind: Kind, marked: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """Return a small picture of an image; of labels and masks their outlines on the source.

    Parameters
    ----------
    pixels, source
        (Y, X), or (Z, Y, X), of which the middle plane is shown; without a source labels are shown as grey values.
    kind
        Kind of the pixels of the image.
    marked
        Numbers of objects whose outline is drawn in another colour.

    Returns
    -------
    numpy.ndarray
        uint8 (Y, X), or (Y, X, RGB) with outlines; at most 160 pixels long.
    """
    if kind == "image" or source is None or source.shape[-2:] != pixels.shape[-2:]:
        return _reduced(pixels if pixels.ndim == 2 else pixels[pixels.shape[0] // 2])
    plane, under = (image if image.ndim == 2 else image[image.shape[0] // 2] for image in (pixels, source))
    step = max(1, -(-max(plane.shape) // _THUMBNAIL))
    picture = np.repeat((0.8 * _reduced(under))[..., np.newaxis], 3, axis=-1)
    numbers = plane[: picture.shape[0] * step : step, : picture.shape[1] * step : step]
    outline = (numbers > 0) & (numbers != ndimage.minimum_filter(numbers, 3))
    outline |= (numbers > 0) & (numbers != ndimage.maximum_filter(numbers, 3))
    picture[outline] = _OUTLINE
    picture[outline & np.isin(numbers, marked)] = _MARKED
    return picture.astype(np.uint8)


def _reduced(plane: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return a plane in means of square blocks, at most 160 pixels long, black and white at 0.1 and 99.9 percent."""
    step = max(1, -(-max(plane.shape) // _THUMBNAIL))
    rows, columns = (max(1, length // step) for length in plane.shape)
    step_y, step_x = min(step, plane.shape[0]), min(step, plane.shape[1])
    blocks = np.empty((rows, columns))
    at_once = max(1, bands.BAND_PIXELS // (step_y * plane.shape[1]))
    for first in range(0, rows, at_once):
        last = min(first + at_once, rows)
        part = plane[first * step_y : last * step_y, : columns * step_x]
        blocks[first:last] = part.reshape(last - first, step_y, columns, step_x).mean(axis=(1, 3))
        release(plane)
    low, high = np.percentile(blocks, [0.1, 99.9])
    scaled = np.clip((blocks - low) / (high - low if high > low else 1), 0, 1)
    return np.asarray(255 * scaled, np.uint8)
