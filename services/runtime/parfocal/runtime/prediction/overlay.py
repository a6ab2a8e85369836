"""Pictures of boxes drawn on their image, to see at a glance what was found."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from parfocal.runtime.images.files import Image
from parfocal.runtime.images.scratch import copied

_LONGEST: Final = 2048
_PERCENTILES: Final = (0.5, 99.8)
# Told apart by people with any colour vision (Okabe and Ito, 2008), and on grey.
_COLOURS: Final = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
# Larger numbers of boxes are drawn without words, which would cover everything.
_MOST_WORDS: Final = 200


def overlay_png(image: Image, boxes: Sequence[tuple[int, str, tuple[float, float, float, float]]]) -> bytes:
    """Return an image with boxes as a PNG file with colours of 8 bits, reduced to 2048 pixels along its longer side.

    Parameters
    ----------
    image
        YX, CYX (of which the first channel is shown) or YXS; grey values from the 0.5th to the 99.8th percentile.
    boxes
        For each box the number of its class, which chooses the colour, what is written above it, and its corners
        (x0, y0, x1, y1) in pixels.
    """
    height, width = (image.pixels.shape[image.axes.index(axis)] for axis in "YX")
    picture = PIL.Image.fromarray(_eight_bits(image.pixels, image.axes)).convert("RGB")
    factor = min(1.0, _LONGEST / max(height, width))
    if factor < 1:
        picture = picture.resize((max(1, round(width * factor)), max(1, round(height * factor))))
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12)
    for number, words, corners in boxes:
        colour = _COLOURS[number % len(_COLOURS)]
        x0, y0, x1, y1 = (value * factor for value in corners)
        canvas.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=2)
        if len(boxes) <= _MOST_WORDS:
            canvas.text((x0 + 3, max(0.0, y0 - 14)), words, fill=colour, font=font)
    handle = io.BytesIO()
    picture.save(handle, format="PNG")
    return handle.getvalue()


def _eight_bits(pixels: NDArray[Any], axes: str) -> NDArray[np.uint8]:
    """Return grey values or colours of 8 bits; of a large image every n-th pixel, twice as many as will be shown."""
    if axes == "YXS":
        shown = pixels[..., :3] if pixels.shape[-1] > 2 else pixels[..., 0]
    else:
        shown = pixels[(0,) * (pixels.ndim - 2)]
    skip = max(1, max(shown.shape[:2]) // (2 * _LONGEST))
    shown = copied(shown[::skip, ::skip])
    # Every n-th pixel is enough for percentiles.
    step = max(1, max(shown.shape[:2]) // 1024)
    low, high = np.percentile(shown[::step, ::step], _PERCENTILES)
    scaled = (shown.astype(np.float32) - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.asarray(np.clip(scaled * 255, 0, 255).astype(np.uint8))
