"""PNG, JPEG and BMP files through Pillow, held to its safest decoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import PIL.ExifTags
import PIL.Image
from numpy.typing import NDArray

from parfocal.runtime.images._tiff import UnusableError, transparent
from parfocal.runtime.images.notes import Note

# `parfocal.runtime.images.files` applies its own limits, on headers alone; Pillow's would refuse slide scans.
PIL.Image.MAX_IMAGE_PIXELS = None


_STEPS: Final = {1: 255, 2: 85, 4: 17}
"""What Pillow multiplies the values of grey images of few bits with, to show them."""


def describe_raster(path: Path, labels: bool = False) -> tuple[tuple[int, ...], np.dtype[Any], tuple[Note, ...]]:
    """Return shape (YX, or YXS with the file's samples), dtype and what is converted, from the headers alone.

    Parameters
    ----------
    path
        The file.
    labels
        Whether the values are numbers of objects or classes: then they are those in the file, and the index where it
        has a colour table.
    """
    with _open(path) as picture:
        mode, depth = _kind(path, picture, labels)
        samples = {"RGB": (3,), "RGBA": (4,)}.get(mode, ())
        notes = [Note("lossy")] if picture.format == "JPEG" else []
        if picture.format == "JPEG" and _is_turned(picture):
            notes.append(Note("orientation"))
        if picture.mode in ("P", "PA"):
            notes.append(Note("labels-from-table" if labels else "table-applied"))
        if mode == "LA":
            notes.append(Note("alpha-dropped"))
        shape = (picture.height, picture.width, *samples)
        return shape, np.dtype(np.uint16 if depth == 16 else np.uint8), tuple(notes)


def decode_raster(path: Path, labels: bool = False) -> NDArray[Any]:
    """Decode to uint8 or uint16, as `describe_raster` says; a truncated file raises OSError or SyntaxError."""
    with _open(path) as picture:
        mode, depth = _kind(path, picture, labels)
        if depth == 16:
            return np.asarray(picture).astype(np.uint16)
        pixels = np.asarray(picture if mode == picture.mode == "P" else picture.convert(mode))
    if mode == "LA":
        if np.any(pixels[..., 1] != 255):
            raise transparent()
        return pixels[..., 0]
    if labels and mode == "L" and depth in _STEPS:
        return np.asarray(pixels // _STEPS[depth], np.uint8)
    return pixels


def encode_png(pixels: NDArray[Any], handle: BinaryIO) -> None:
    """Write uint8 or uint16 YX, or uint8 YXS."""
    PIL.Image.fromarray(pixels).save(handle, format="PNG")


def _open(path: Path) -> PIL.Image.Image:
    picture = PIL.Image.open(path, formats=["PNG", "JPEG", "BMP"])
    if getattr(picture, "n_frames", 1) > 1:
        frames = picture.n_frames  # type: ignore[attr-defined]
        raise UnusableError(f"it is an animation of {frames} pictures", "Save the one you need as a file of its own.")
    return picture


def _is_turned(picture: PIL.Image.Image) -> bool:
    """Return whether viewers turn or mirror a picture of a camera; what cannot be read says nothing."""
    try:
        return bool(picture.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1)
    except Exception:  # a hostile file can raise anything inside a decoder
        return False


def _kind(path: Path, picture: PIL.Image.Image, labels: bool) -> tuple[str, int]:
    """Return the mode to decode to (L, LA, P, RGB, RGBA) and the bits per sample in the file."""
    bits = 1 if picture.mode == "1" else 8
    if picture.format == "PNG":
        with path.open("rb") as handle:
            bits, colour = handle.read(26)[24:26]
        if bits == 16 and colour != 0:
            what = "it is a PNG with 16-bit colours, which would lose half of its bits"  # in Pillow
            raise UnusableError(what, "Save it as TIFF, or each channel as a 16-bit grey PNG.")
        if bits == 16:
            return "L", 16
    if picture.mode == "P":
        if labels:
            return "P", 8
        assert picture.palette is not None
        colours = np.frombuffer(bytes(picture.palette.palette), np.uint8)  # known before anything is decoded
        colours = colours[: colours.size // 3 * 3].reshape(-1, 3)
        return ("L" if np.all(colours == colours[:, :1]) else "RGB"), 8
    if picture.mode in ("1", "L"):
        return "L", bits
    if picture.mode in ("LA", "RGB", "RGBA"):
        return picture.mode, 8
    raise UnusableError(f"its colour mode {picture.mode} is not grey or RGB", "Save it as a grey TIFF or PNG.")
