"""Images on disk: headers, pixels, axes and pixel size.

Services read TIFF (plain, ImageJ, OME), PNG, JPEG and BMP, and write OME-TIFF or PNG; every other format is
converted once, on the way into the store. Files are hostile until checked: the kind of a file is told from
its first bytes, its size from its headers, and limits are applied before a pixel is decoded.

Axes are letters in the order ``TCZYXS`` (time, channel, depth, rows, columns, RGB samples). Axes of length
one are dropped, except Y and X. A stack without any metadata about its axes is taken as depth (``ZYX``).
"""

from __future__ import annotations

import errno
import hashlib
import math
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from parfocal.runtime.errors import (
    InvalidInputError,
    OutOfMemoryError,
    ParfocalError,
    Violation,
)
from parfocal.runtime.images._dtypes import convert_dtype, storable, whole_numbers
from parfocal.runtime.images._files import writing
from parfocal.runtime.images._raster import decode_raster, describe_raster, encode_png
from parfocal.runtime.images._tiff import FileFacts, UnusableError, opened_tiff, transparent
from parfocal.runtime.images._tiff_levels import CLASSIC_TIFF_BYTES, is_large, planes_of, write_levels
from parfocal.runtime.images._tiff_pixels import decode_tiff, decode_tiff_into, is_plain, map_tiff
from parfocal.runtime.images.acquired import UNKNOWN, Acquired
from parfocal.runtime.images.axes import ORDER, arrange, name_axes, override_axes
from parfocal.runtime.images.notes import Note, reader_reports
from parfocal.runtime.images.scratch import Scratch, blocks, contiguous, release

__all__ = [
    "DEFAULT_LIMITS",
    "IMAGE_SUFFIXES",
    "Image",
    "ImageHeader",
    "ImageLimits",
    "PixelSize",
    "convert_dtype",
    "image_stem",
    "inspect_image",
    "name_clash",
    "open_image",
    "printable",
    "read_image",
    "unreadable_name",
    "whole_numbers",
    "write_image",
]

IMAGE_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".png", ".jpg", ".jpeg", ".bmp")
_FOREIGN = "Export it as OME-TIFF; `parfocal dataset create` and `predict` convert microscope makers' own formats."


@dataclass(frozen=True)
class PixelSize:
    """Size of a pixel in micrometre; `z` is the distance between planes, None where it is unknown."""

    x: float
    y: float
    z: float | None = None

    def lengths(self, dimensions: int) -> tuple[float, ...] | None:
        """Return the lengths along (Y, X) or (Z, Y, X); None where the distance of planes is needed and unknown."""
        if dimensions == 2:
            return self.y, self.x
        return None if self.z is None else (self.z, self.y, self.x)


@dataclass(frozen=True)
class ImageLimits:
    """The largest image that is read: pixels, and bytes once decoded."""

    max_pixels: int = 2**35
    max_bytes: int = 2**36


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True)
class ImageHeader:
    """What the headers of an image file say: nothing is decoded to learn it."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    pixel_size: PixelSize | None
    notes: tuple[Note, ...] = ()
    acquired: Acquired = UNKNOWN


@dataclass(frozen=True)
class Image:
    """Pixels with the meaning of their axes; ``len(axes) == pixels.ndim``.

    `notes` are what was dropped, converted or guessed when they were read; of `acquired`, which is kept, what does not
    fit the axes is left out when the image is written.
    """

    pixels: NDArray[Any]
    axes: str
    pixel_size: PixelSize | None = None
    notes: tuple[Note, ...] = ()
    acquired: Acquired = UNKNOWN


def inspect_image(
    path: Path, *, limits: ImageLimits = DEFAULT_LIMITS, labels: bool = False, axes: str = ""
) -> ImageHeader:
    """Read the headers of an image file.

    Parameters
    ----------
    path
        A TIFF, PNG, JPEG or BMP file.
    limits
        Larger images are refused.
    labels, axes
        As for `read_image`. Labels that are stored as decimal numbers have the file's type here.

    Raises
    ------
    InvalidInputError
        The file is missing, unreadable, truncated, of another kind or too large, or announces fewer planes than it has.
    """
    with opened_image(path, limits, labels, axes) as (header, _):
        return header


def read_image(path: Path, *, limits: ImageLimits = DEFAULT_LIMITS, labels: bool = False, axes: str = "") -> Image:
    """Decode an image file.

    Colour images have axes ``YXS`` with three samples; a fully opaque alpha channel is left out. Values are
    those stored in the file: an inverted or coloured look-up table of a grey TIFF does not change them, except in
    images of 1, 2 or 4 bits, where white is always the highest value. Booleans become 0 and 1 in uint8.

    Parameters
    ----------
    path
        A TIFF, PNG, JPEG or BMP file.
    limits
        Larger images are refused before they are decoded.
    labels
        Whether the values are numbers of objects or classes. None of them is changed then: where a PNG has a colour
        table, the index is the label, and whole numbers that are stored as decimal ones become integers. A table of
        white and black alone is that of a mask, whose white is 1.
    axes
        What the axes are, e.g. "ZYX", where somebody says so: they replace those of the file if it has as many.

    Raises
    ------
    InvalidInputError
        As for `inspect_image`, or the pixels cannot be decoded.
    OutOfMemoryError
        The decoded image does not fit into memory.
    """
    with opened_image(path, limits, labels, axes) as (header, decode):
        return _decoded(header, decode, labels)


def open_image(
    path: Path, scratch: Scratch, *, limits: ImageLimits = DEFAULT_LIMITS, labels: bool = False, axes: str = ""
) -> Image:
    """Read an image whose pixels may be more than the memory holds.

    Parameters
    ----------
    path, limits, labels, axes
        As for `read_image`.
    scratch
        Where the pixels of large images lie. A TIFF is decoded strip by strip and tile by tile, or its pixels are
        mapped from the file itself, which must stay as it is then. Other files, and TIFF files whose pixels are to be
        changed (transparency, white as zero, labels that are stored as decimal numbers), are decoded in memory.

    Raises
    ------
    InvalidInputError, OutOfMemoryError
        As for `read_image`.
    DiskFullError
        There is no room for the pixels.
    """
    with opened_image(path, limits, labels, axes) as (header, decode):
        stays = isinstance(decode, Decoder) and decode.unchanged and not (labels and header.dtype.kind == "f")
        if not scratch.holds(header.shape, header.dtype) and isinstance(decode, Decoder) and stays:
            pixels, reported = decode.mapped(scratch)
            notes = _with(header.notes, reported)
            return Image(pixels, header.axes, header.pixel_size, notes, header.acquired)
        return _decoded(header, decode, labels)


def _decoded(header: ImageHeader, decode: Callable[[], tuple[NDArray[Any], Sequence[Note]]], labels: bool) -> Image:
    """Return the image of an open file with all its pixels in memory."""
    full, reported = decode()
    alpha = full.shape[-1] == 4 and header.axes.endswith("S")
    opaque = np.iinfo(full.dtype).max if full.dtype.kind in "ui" else 1
    if alpha and np.any(full[..., 3] != opaque):
        raise transparent()
    pixels = full[..., :3] if alpha else full
    native = np.ascontiguousarray(pixels, dtype=_native(pixels.dtype))
    notes = list(_with(header.notes, reported))
    if alpha:
        notes.append(Note("alpha-dropped"))
    if labels and native.dtype.kind == "f" and (whole := whole_numbers(native)).dtype != native.dtype:
        exact = 2 ** (np.finfo(native.dtype).nmant + 1)
        if max(-float(native.min()), float(native.max())) > exact:
            notes.append(Note("labels-rounded", f"{native.dtype}, labels above {exact}"))
        native = whole
        notes.append(Note("labels-from-floats"))
    return Image(native, header.axes, header.pixel_size, tuple(notes), header.acquired)


def _with(notes: Sequence[Note], reported: Sequence[Note]) -> tuple[Note, ...]:
    """Return the notes of the headers with what the reader said of the pixels, once."""
    return (*notes, *(note for note in reported if note not in notes))


def write_image(path: Path, image: Image, *, compress: bool = True, labels: bool = False) -> None:
    """Write an image whole or not at all: OME-TIFF, or PNG when `path` ends in ``.png``.

    The data type is kept, so labels stay integers; OME-TIFF knows no 64-bit integers, half floats and
    Booleans: these are written as 32-bit integers (where every value fits), float32 and uint8. Compression is
    lossless, files that could exceed 4 GB are BigTIFF, and equal images give equal bytes. Planes of more than 16
    million pixels are written tile by tile and with smaller levels, as Bio-Formats, Fiji and QuPath read them; they
    need not be in memory.

    Parameters
    ----------
    path
        The file to write; an existing file is replaced.
    image
        Axes from ``TCZYXS`` ending in ``YX`` or ``YXS``. A PNG holds uint8 or uint16 YX, or uint8 YXS.
    compress
        False leaves a TIFF uncompressed: floats full of noise shrink by a tenth and take thirty times as long. Large
        floats are never compressed.
    labels
        Whether the values are numbers of objects or classes, which levels of smaller size must not average.

    Raises
    ------
    InvalidInputError
        The pixels cannot be written in this kind of file.
    DiskFullError
        There is no room.
    """
    if len(image.axes) != image.pixels.ndim or image.axes.removesuffix("S")[-2:] != "YX":
        raise ValueError(f"axes {image.axes!r} do not describe an array of shape {image.pixels.shape}")
    try:
        pixels = storable(contiguous(image.pixels, Scratch(path.parent)))
    except ValueError as error:
        raise _refusal(path, str(error), "Write smaller integers or float64.") from error
    if path.suffix.lower() == ".png":
        if (pixels.dtype.name, image.axes) not in (("uint8", "YX"), ("uint16", "YX"), ("uint8", "YXS")):
            raise _refusal(path, f"{pixels.dtype.name} {image.axes} cannot be a PNG", "Write a .tif file.")
        with writing(path) as handle:
            encode_png(pixels, handle)
        return
    size = image.pixel_size
    metadata: dict[str, Any] = {
        "axes": image.axes,
        "Creator": "Parfocal",
        "UUID": _content_uuid(pixels, image),
    }
    metadata |= image.acquired.fitting(image.axes, pixels.shape).metadata()
    resolution = None
    if size is not None:
        for axis, length in (("X", size.x), ("Y", size.y), ("Z", size.z)):
            if length is not None:
                metadata |= {f"PhysicalSize{axis}": length, f"PhysicalSize{axis}Unit": "µm"}
        resolution = (1e4 / size.x, 1e4 / size.y)  # pixels per centimetre
    large = is_large(pixels.shape, image.axes)
    compress = compress and not (large and pixels.dtype.kind == "f")
    options: dict[str, Any] = {
        "metadata": metadata,
        # No predictor: ImageJ opens such files without a word and shows differences between pixels.
        "compression": "zlib" if compress else None,
        "photometric": "rgb" if image.axes.endswith("S") else "minisblack",
        "resolution": resolution,
        "resolutionunit": "CENTIMETER" if resolution else None,
        "software": "Parfocal",
    }
    with writing(path) as handle:
        if large:
            write_levels(handle, pixels, image.axes, options, labels=labels, scratch=Scratch(path.parent, 0))
        else:
            big, shape, dtype = pixels.nbytes > CLASSIC_TIFF_BYTES, pixels.shape, pixels.dtype
            # Plane by plane, so that what was read of a mapped array can be let go of.
            planes = planes_of(pixels, image.axes)
            tifffile.imwrite(handle, planes, shape=shape, dtype=dtype, ome=True, bigtiff=big, **options)


def image_stem(path: Path) -> str:
    """Return the file's name without its image suffix; ``.ome.tif`` and ``.ome.zarr`` count as one suffix.

    Accented letters are in their composed form (NFC) however the file system has them: macOS takes them apart (NFD),
    other systems do not, and the names of a pair must be equal wherever its images come from.
    """
    stem = path.stem[:-4] if path.stem.lower().endswith(".ome") else path.stem
    return unicodedata.normalize("NFC", stem)


def output_stem(name: str) -> str:
    """Return the name, without its suffix, of what is made of an image called so: in the same folder below a root."""
    path = Path(name)
    return (path.parent / image_stem(path)).as_posix()


def unreadable_name(path: Path) -> Violation | None:
    """Return what is wrong with a file's name that is not UTF-8, which no store and no manifest can hold; else None."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        return Violation(
            printable(path.name),
            "its name is not written in UTF-8 (each ? is a letter that cannot be read): rename it.",
        )
    return None


def printable(name: str) -> str:
    """Return a name as messages and manifests can hold it: each letter that is not UTF-8 is a question mark."""
    return name.encode(errors="replace").decode()


def name_clash(path: Path, other: Path) -> str:
    """Return the words, to be said of `path`, for two different files that have the same stem."""
    if unicodedata.normalize("NFC", path.name) == unicodedata.normalize("NFC", other.name):
        return (
            "another file has the same name, but for how its accented letters are stored (NFC or NFD): keep one of "
            "the two."
        )
    return f"{other.name} has the same name but for its ending: keep one of the two."


@contextmanager
def opened_image(
    path: Path, limits: ImageLimits, labels: bool = False, axes: str = ""
) -> Iterator[tuple[ImageHeader, Callable[[], tuple[NDArray[Any], Sequence[Note]]]]]:
    """Give the header and a function that decodes to its axes and returns what the reader says; translate failures."""
    try:
        with path.open("rb") as handle:
            magic = handle.read(8)
        if magic[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            with reader_reports("tifffile") as reports, opened_tiff(path, limits.max_pixels, axes) as (tif, facts):
                header, order = _header(path, facts, limits, axes)
                # What the reader says of metadata that were left out is no news.
                told = not any(note.code == "metadata-ignored" for note in header.notes)
                if reports and told:
                    header = replace(header, notes=(*header.notes, _report(reports[0])))

                yield header, Decoder(tif, facts, order, header.axes, reports)
        elif magic == b"\x89PNG\r\n\x1a\n" or magic[:3] == b"\xff\xd8\xff" or magic[:2] == b"BM":
            shape, dtype, notes = describe_raster(path, labels)
            facts = FileFacts(shape, "YXS"[: len(shape)], dtype, True, None, notes)
            header, _ = _header(path, facts, limits, axes)
            yield header, lambda: (decode_raster(path, labels), ())
        else:
            if not magic:
                raise UnusableError("it is empty", "Copy or export it again.")
            raise UnusableError("it is no TIFF, PNG, JPEG or BMP file", _FOREIGN)
    except ParfocalError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(f"{path.name} does not fit into memory: crop it or use a larger machine.") from error
    except FileNotFoundError as error:
        raise _refusal(path, "there is no such file", "Check the name.") from error
    except IsADirectoryError as error:
        raise _refusal(path, "it is a folder", "Name an image file.") from error
    except PermissionError as error:
        raise _refusal(path, "it may not be read", "Check its permissions.") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # the disk's fault; EINVAL is a seek to nowhere
            raise
        raise _unreadable(path, error) from error
    except Exception as error:  # a hostile file can raise anything inside a decoder
        raise _unreadable(path, error) from error


@dataclass(frozen=True)
class Decoder:
    """Decodes an open TIFF; `order` are the file's axes in our letters, `reports` grows with what the reader says."""

    tif: tifffile.TiffFile
    facts: FileFacts
    order: str
    axes: str
    reports: Sequence[str]

    def __call__(self) -> tuple[NDArray[Any], Sequence[Note]]:
        """Return the pixels in the order of `axes`, and what the reader said of them."""
        before = len(self.reports)
        pixels = arrange(decode_tiff(self.tif, self.facts), self.order, self.axes)
        return pixels, [_report(text) for text in self.reports[before:][:1]]

    @property
    def unchanged(self) -> bool:
        """Whether nothing is to be changed in the pixels."""
        return is_plain(self.facts)

    @property
    def plain(self) -> bool:
        """Whether nothing is to be changed in the pixels or in the order of their axes."""
        return self.unchanged and self.order.replace("_", "") == self.axes

    def mapped(self, scratch: Scratch) -> tuple[NDArray[Any], Sequence[Note]]:
        """Return what a call does, where the pixels stay `unchanged`, without having them in memory."""
        before = len(self.reports)
        pixels = arrange(map_tiff(self.tif, self.facts, scratch), self.order, self.axes)
        return pixels, [_report(text) for text in self.reports[before:][:1]]

    def into(self, out: NDArray[Any]) -> None:
        """Decode part by part into an array of the same size, where the image is `plain`."""
        decode_tiff_into(self.tif, out)


def _report(text: str) -> Note:
    """Return a note of what the reader of TIFF files logs, without its name of the file."""
    return Note("reader", re.sub(r"<[^>]*>\s*", "", text)[:200])


def _unreadable(path: Path, error: Exception) -> InvalidInputError:
    text = str(error) if isinstance(error, UnusableError) or type(error) is ValueError else f"it is damaged ({error})"
    if cure := getattr(error, "cure", ""):
        return _refusal(path, text, cure)
    if "trunc" in text or "damaged" in text or "incomplete" in text:
        return _refusal(path, text, "Copy or export it again.")
    return _refusal(path, text, "Export it as a single-image OME-TIFF.")


def _refusal(path: Path, what: str, cure: str) -> InvalidInputError:
    text = f"{what}. {cure}"
    return InvalidInputError(f"{path.name} cannot be used: {text}", [Violation(path.name, text)])


def _header(path: Path, facts: FileFacts, limits: ImageLimits, axes: str = "") -> tuple[ImageHeader, str]:
    """Apply the limits and name the axes; also return the file's axes in our letters, in the file's order."""
    shape, dtype = facts.shape, facts.dtype
    pixels = math.prod(shape)
    if pixels > limits.max_pixels or pixels * dtype.itemsize > limits.max_bytes:
        raise _refusal(
            path,
            f"it holds {pixels} pixels ({pixels * dtype.itemsize / 2**20:.0f} MiB), over the service's limit",
            "Crop it or split it into several files.",
        )
    if pixels == 0:
        raise ValueError("it has no pixels")
    if dtype.kind not in "buif":
        raise ValueError(f"its pixels are of type {dtype}, not real numbers")
    notes = list(facts.notes)
    letters, declared = (
        override_axes(shape, facts.axes, facts.rgb, axes) if axes else (name_axes(shape, facts.axes, facts.rgb), "")
    )
    if declared:
        notes.append(Note("axes-overridden", f"{declared} as {axes}"))
    elif not axes and any(letter in "QI" and length > 1 for letter, length in zip(facts.axes, shape, strict=True)):
        notes.append(Note("axes-guessed"))
    kept = [(letter, length) for letter, length in zip(letters, shape, strict=True) if letter != "_"]
    kept.sort(key=lambda item: ORDER.index(item[0]))
    lengths = tuple(3 if letter == "S" else length for letter, length in kept)
    named = "".join(letter for letter, _ in kept)
    pixel_size = None if facts.pixel_size is None else PixelSize(*facts.pixel_size)
    acquired = facts.acquired.fitting(named, lengths)
    return ImageHeader(path, lengths, _native(dtype), named, pixel_size, tuple(notes), acquired), letters


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of the pixels once read: Booleans, which know no differences, are 0 and 1 in uint8."""
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")


def _content_uuid(pixels: NDArray[Any], image: Image) -> str:
    """OME wants an identifier in each file; taken from the content so that equal images are equal files."""
    digest = hashlib.sha256()
    flat = pixels.reshape(-1).view(np.uint8)
    for (window,) in blocks(flat.shape):
        digest.update(flat[window].data)
        release(flat)
    acquired = image.acquired.fitting(image.axes, pixels.shape).metadata() or ""
    digest.update(f"{pixels.shape} {pixels.dtype.str} {image.axes} {image.pixel_size}{acquired}".encode())
    return str(uuid.uuid5(uuid.NAMESPACE_OID, digest.hexdigest()))
