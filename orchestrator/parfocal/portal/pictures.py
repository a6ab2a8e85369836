"""Images of microscopes as small PNG pictures, for lists and for browsers that show no more."""

from __future__ import annotations

import colorsys
import io
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from parfocal.runtime.images.files import Image, ImageLimits, read_image

_LIMITS: Final = ImageLimits(max_pixels=2**27, max_bytes=2**29)
_LOW, _HIGH = 0.1, 99.9
_AT_ONCE = threading.BoundedSemaphore(2)
_COLOURS: Final = np.array(
    [(0, 0, 0)]
    + [[round(255 * part) for part in colorsys.hsv_to_rgb(n * 0.618034 % 1, 0.65, 0.95)] for n in range(1, 256)],
    dtype=np.uint8,
)


def picture_of(path: Path, side: int, *, labels: bool = False) -> bytes:
    """Return an image file as PNG, see `picture`; only two are decoded at a time.

    Raises
    ------
    InvalidInputError
        The file is no image, or too large to be decoded for a picture.
    """
    with _AT_ONCE:
        image = read_image(path, limits=_LIMITS, labels=labels)
        return picture(image, side, labels=labels)


def picture(image: Image, side: int, *, labels: bool = False, limits: tuple[float, float] | None = None) -> bytes:
    """Return one plane of an image as PNG.

    Parameters
    ----------
    image
        Its middle plane and middle frame are shown, and of channels the first.
    side
        Most pixels along the longer side; smaller images are not enlarged.
    labels
        Each value gets a colour of its own, 0 is black.
    limits
        The grey values of black and white; None: the percentiles 0.1 and 99.9 of the plane.
    """
    plane = middle_plane(image)
    step = max(1, max(plane.shape[:2]) // (4 * side))
    plane = plane[::step, ::step]
    if labels and plane.ndim == 2 and plane.dtype.kind in "iub":
        values = plane.astype(np.int64)
        drawn = Pillow.fromarray(_COLOURS[np.where(values == 0, 0, (values - 1) % 255 + 1)])
        resample = Pillow.Resampling.NEAREST
    else:
        drawn = Pillow.fromarray(_grey(plane, limits or display_limits(plane)))
        resample = Pillow.Resampling.BOX
    largest = max(drawn.size)
    if largest > side:
        drawn = drawn.resize((max(1, drawn.width * side // largest), max(1, drawn.height * side // largest)), resample)
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG")
    return buffer.getvalue()


def middle_plane(image: Image) -> NDArray[Any]:
    """Return one plane (Y, X) or (Y, X, S) of an image."""
    plane = image.pixels
    for axis in image.axes[: plane.ndim - (3 if image.axes.endswith("S") else 2)]:
        plane = plane[0 if axis == "C" else len(plane) // 2]
    return plane


def display_limits(plane: NDArray[Any]) -> tuple[float, float]:
    """Return the grey values that are shown as black and white."""
    values = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, (_LOW, _HIGH))
    return float(low), float(high)


def _grey(plane: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
    if plane.dtype == np.uint8 and plane.ndim == 3:
        return np.ascontiguousarray(plane)
    low, high = limits
    scaled = (np.nan_to_num(plane.astype(np.float32), nan=low) - low) / max(high - low, 1e-12)
    return np.asarray(np.clip(scaled, 0, 1) * 255, np.uint8)
