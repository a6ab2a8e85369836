"""Small pictures of images, numbered objects and boxes, as PNG."""

from __future__ import annotations

import io
import math
from typing import Any, Final

import numpy as np
import PIL.Image
import PIL.ImageDraw
from numpy.typing import NDArray

Drawn = NDArray[np.uint8]
"""A picture: uint8 of shape (Y, X) in grey, or (Y, X, 3) in red, green and blue."""

_LARGEST: Final = 512
_BLACK, _WHITE = 0.5, 99.8
# Colours that people who see few colours can tell apart (Okabe and Ito).
_COLOURS: Final = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)],
    np.uint8,
)
_UNKNOWN: Final = (128, 128, 128)


def middle_plane(pixels: NDArray[Any], spatial: int) -> NDArray[Any]:
    """Return the plane (Y, X, channels) in the middle of an image with channels last and so many axes before them."""
    for _ in range(spatial - 2):
        pixels = pixels[pixels.shape[0] // 2]
    return _shrunk(pixels)


def draw_grey(plane: NDArray[Any]) -> Drawn:
    """Return a plane (Y, X, channels) between its 0.5 and 99.8 percentiles: three channels in colour, else one."""
    values = plane.astype(np.float32) if plane.shape[-1] == 3 else plane[..., 0].astype(np.float32)
    black, white = np.percentile(values, (_BLACK, _WHITE))
    scaled = (values - black) / max(float(white - black), 1e-12)
    drawn: Drawn = (np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)
    return drawn


def draw_numbers(plane: NDArray[Any]) -> Drawn:
    """Return numbered objects or classes (Y, X) in colours: black for 0, grey for what is unknown."""
    drawn = _COLOURS[(plane.astype(np.int64) - 1) % len(_COLOURS)]
    drawn[plane == 0] = 0
    drawn[plane < 0] = _UNKNOWN
    return drawn


def draw_boxes(picture: Drawn, corners: NDArray[Any], classes: NDArray[Any]) -> Drawn:
    """Return a picture with boxes, [y0, x0, y1, x1] in its pixels, in the colours of their classes."""
    image = PIL.Image.fromarray(picture).convert("RGB")
    pen = PIL.ImageDraw.Draw(image)
    for (top, left, bottom, right), number in zip(corners.tolist(), classes.tolist(), strict=True):
        colour = tuple(_COLOURS[int(number) % len(_COLOURS)].tolist())
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour)
    return np.asarray(image)


def to_png(picture: Drawn) -> bytes:
    """Return a picture as a PNG file."""
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _shrunk(plane: NDArray[Any]) -> NDArray[Any]:
    """Return a plane with every n-th pixel, so that it is small enough."""
    step = math.ceil(max(plane.shape[:2]) / _LARGEST)
    return plane[::step, ::step]
