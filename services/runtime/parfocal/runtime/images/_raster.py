"""PNG and JPEG files through Pillow, held to its two safest decoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray

# `parfocal.runtime.images.files` applies its own limits, on headers alone; Pillow's would refuse slide scans.
PIL.Image.MAX_IMAGE_PIXELS = None


def describe_raster(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape (YX, or YXS with the file's samples) and dtype from the headers alone."""
    with _open(path) as picture:
        mode, depth = _kind(path, picture)
        samples = {"RGB": (3,), "RGBA": (4,)}.get(mode, ())
        return (picture.height, picture.width, *samples), np.dtype(np.uint16 if depth == 16 else np.uint8)


def decode_raster(path: Path) -> NDArray[Any]:
    """Decode to uint8 or uint16; a truncated file raises OSError or SyntaxError."""
    with _open(path) as picture:
        mode, depth = _kind(path, picture)
        if depth == 16:
            return np.asarray(picture).astype(np.uint16)
        pixels = np.asarray(picture.convert(mode))
    if mode == "LA":
        if np.any(pixels[..., 1] != 255):
            raise ValueError("it has a transparency (alpha) channel that is not fully opaque")
        return pixels[..., 0]
    return pixels


def encode_png(pixels: NDArray[Any], handle: BinaryIO) -> None:
    """Write uint8 or uint16 YX, or uint8 YXS."""
    PIL.Image.fromarray(pixels).save(handle, format="PNG")


def _open(path: Path) -> PIL.Image.Image:
    picture = PIL.Image.open(path, formats=["PNG", "JPEG"])
    if getattr(picture, "n_frames", 1) > 1:
        raise ValueError(f"it is an animation of {picture.n_frames} pictures")  # type: ignore[attr-defined]
    return picture


def _kind(path: Path, picture: PIL.Image.Image) -> tuple[str, int]:
    """Return the mode to decode to (L, LA, RGB, RGBA) and the bits per sample."""
    if picture.format == "PNG":
        with path.open("rb") as handle:
            depth, colour = handle.read(26)[24:26]
        if depth == 16 and colour != 0:
            raise ValueError("it is a PNG with 16-bit colours, which would lose half of its bits")  # in Pillow
        if depth == 16:
            return "L", 16
    if picture.mode == "P":
        assert picture.palette is not None
        colours = np.frombuffer(bytes(picture.palette.palette), np.uint8)  # known before anything is decoded
        colours = colours[: colours.size // 3 * 3].reshape(-1, 3)
        return ("L" if np.all(colours == colours[:, :1]) else "RGB"), 8
    if picture.mode in ("1", "L"):
        return "L", 8
    if picture.mode in ("LA", "RGB", "RGBA"):
        return picture.mode, 8
    raise ValueError(f"its colour mode {picture.mode} is not grey or RGB")
