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
        # A PNG that says so behind its pixels would have to be decoded first.
        if (picture.format == "JPEG" or "exif" in picture.info) and _is_turned(picture):
            notes.append(Note("orientation"))
        if "transparency" in picture.info and picture.mode not in ("P", "PA"):
            notes.append(Note("transparent-value", str(picture.info["transparency"])))
        if picture.mode in ("P", "PA"):
            inverted = labels and _is_inverted(picture)
            notes.append(Note("white-is-zero" if inverted else "labels-from-table" if labels else "table-applied"))
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
        inverted = mode == "P" and _is_inverted(picture)
    if inverted:
        return np.asarray(pixels == 0, np.uint8)
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


def _table(picture: PIL.Image.Image) -> NDArray[np.uint8]:
    """Return the colour table (entries, 3) of a picture, which is known before anything is decoded."""
    assert picture.palette is not None
    colours = np.frombuffer(bytes(picture.palette.palette), np.uint8)
    order = picture.palette.rawmode or "RGB"  # in BMP files blue comes first, and a byte without meaning last
    colours = colours[: colours.size // len(order) * len(order)].reshape(-1, len(order))
    return colours[:, [order.index(letter) for letter in "RGB"]]


def _is_inverted(picture: PIL.Image.Image) -> bool:
    """Return whether a colour table has white and then black, and nothing else, as masks of one bit may have."""
    return picture.mode == "P" and np.array_equal(_table(picture), [[255] * 3, [0] * 3])


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
    if picture.format == "BMP" and picture.mode == "1":
        with path.open("rb") as handle:
            if (found := int.from_bytes(handle.read(30)[28:], "little")) != 1:  # which Pillow takes for one bit
                what = f"it is a BMP of {found} bits with a colour table of two entries, which cannot be read"
                raise UnusableError(what, "Save it as TIFF or PNG.")
    if picture.mode == "P":
        if labels:
            return "P", 8
        colours = _table(picture)
        return ("L" if np.all(colours == colours[:, :1]) else "RGB"), 8
    if picture.mode in ("1", "L"):
        return "L", bits
    if picture.mode in ("LA", "RGB", "RGBA"):
        return picture.mode, 8
    raise UnusableError(f"its colour mode {picture.mode} is not grey or RGB", "Save it as a grey TIFF or PNG.")
