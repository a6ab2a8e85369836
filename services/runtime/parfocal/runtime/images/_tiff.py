"""What a TIFF file says of itself, checked against its own length before any pixel is decoded.

tifffile forgives a lot: strips that are missing are filled with zeros, a broken chain of directories is
cut short with a log line, and OME metadata may name other files. A training set cannot live with either, so
everything is checked here. A file that lacks pixels is refused with an `UnusableError`, which
`parfocal.runtime.images.files` completes with the file's name. Pixels that are there are never passed over: metadata
that announce fewer planes are refused too, and metadata that announce others than there are, as those of a crop do,
are left out with a note.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple
from xml.etree import ElementTree

import numpy as np
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG, TiffFile, TiffPage, TiffPageSeries

from parfocal.runtime.images.acquired import UNKNOWN, Acquired, imagej_acquired, ome_acquired
from parfocal.runtime.images.notes import Note
from parfocal.runtime.images.tiff_sizes import elements, has_size, ome_pixel_size, tagged_pixel_size

# Their planes or positions are laid out in the makers' own ways; bioio reads them on the way in.
_VENDOR_KINDS = {
    "lsm",
    "stk",
    "ndtiff",
    "fluoview",
    "svs",
    "scn",
    "qpi",
    "ndpi",
    "bif",
    "avs",
    "eer",
    "philips",
}

_FEW_BITS: Final = (1, 2, 4)
_LOSSY: Final = (COMPRESSION.JPEG, COMPRESSION.OJPEG, COMPRESSION.JPEG_LOSSY)
# With and without loss, as whoever writes them likes.
_PERHAPS_LOSSY: Final = (
    *(COMPRESSION.JPEG2000, COMPRESSION.JPEG_2000_LOSSY, COMPRESSION.JPEGXR, COMPRESSION.JPEGXL),
    *(COMPRESSION.WEBP, COMPRESSION.LERC),
)
_NAMED: Final = 3
_WITHOUT_METADATA: Final = (
    "Export it again; or say what its planes are (for example --axes ZYX), and they are read without these metadata."
)
# What is stored in these ways is grey, or becomes red, green and blue.
_GREY: Final = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.PALETTE, PHOTOMETRIC.MASK)
_SMALL: Final = 4096  # bytes of metadata behind the pixels
_PADDING: Final = 64
_SUBFILE: Final = 254
_ORIENTATION: Final = 274
_MOST_DIRECTORIES = 2**22
_TYPE_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}

_COLOURS: Final[dict[int, str]] = {
    PHOTOMETRIC.SEPARATED: "inks of a printer (CMYK)",
    PHOTOMETRIC.YCBCR: "brightness and colour differences (YCbCr)",
    PHOTOMETRIC.CIELAB: "brightness and colour (Lab)",
    PHOTOMETRIC.ICCLAB: "brightness and colour (Lab)",
    PHOTOMETRIC.ITULAB: "brightness and colour (Lab)",
    PHOTOMETRIC.CFA: "those behind the colour filters of a camera (raw)",
}


class UnusableError(ValueError):
    """A file cannot be used: what is wrong with it, and what to do about that where it is nothing usual."""

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(what)
        self.cure = cure


class FileFacts(NamedTuple):
    """Shape, axes (tifffile's letters), dtype and pixel size (x, y, z in micrometre) of the one image.

    `alpha` says that the axis S of the file has an alpha channel behind the one grey channel of `shape`; `inverted` is
    the highest value of an image of few bits that is stored as white is zero, else 0.
    """

    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype[Any]
    rgb: bool
    pixel_size: tuple[float, float, float | None] | None
    notes: tuple[Note, ...] = ()
    alpha: bool = False
    inverted: int = 0
    acquired: Acquired = UNKNOWN


class _UnfittingError(Exception):
    """The metadata cannot be followed; `pixel_size` is what they say of it.

    `refusal` is the reason to refuse the file unless somebody says what its planes are; without it the planes that are
    there are all that there is, and are read without the metadata.
    """

    def __init__(
        self,
        detail: str,
        refusal: UnusableError | None = None,
        pixel_size: tuple[float, float, float | None] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail, self.refusal, self.pixel_size = detail, refusal, pixel_size


@contextmanager
def opened_tiff(path: Path, max_pixels: int, axes: str = "") -> Iterator[tuple[TiffFile, FileFacts]]:
    """Open a file without ever following references to other files, and give what its headers say.

    Parameters
    ----------
    path
        The file.
    max_pixels
        Larger images are not looked at page by page.
    axes
        What somebody says that the planes are, e.g. "ZYX": then metadata that cannot be followed are left out.

    Raises
    ------
    UnusableError
        The file is truncated, holds several images, is of a maker's own kind, or its metadata leave out planes.
    """
    flags: dict[str, Any] = {"_multifile": False, "is_mmstack": False, "is_scanimage": False}
    with TiffFile(path, **flags) as tif:
        try:
            facts, unfitting = _describe(tif, max_pixels, axes), None
        except _UnfittingError as error:
            if error.refusal is not None and not axes:
                raise UnusableError(str(error.refusal), error.refusal.cure or _WITHOUT_METADATA) from error
            unfitting = error
        if unfitting is None:
            yield tif, facts
            return
    with TiffFile(path, **flags, is_ome=False, is_imagej=False, is_shaped=False) as tif:
        try:
            facts = _describe(tif, max_pixels, axes)
        except _UnfittingError as error:
            raise UnusableError(f"its planes do not belong together ({error.detail})") from error
        notes = (*facts.notes, Note("metadata-ignored", unfitting.detail))
        yield tif, facts._replace(notes=notes, pixel_size=unfitting.pixel_size or facts.pixel_size)


def _describe(tif: TiffFile, max_pixels: int, axes: str) -> FileFacts:
    vendor = sorted(kind for kind in _VENDOR_KINDS if getattr(tif, f"is_{kind}", False))
    if vendor:
        raise UnusableError(f"it is a {vendor[0].upper()} file, a maker's own kind of TIFF")
    size = tif.filehandle.size
    with Path(tif.filehandle.path).open("rb") as handle:
        directories, full, last = _count_directories(handle, size)
    notes: list[Note] = []
    root = _parse_ome(tif, directories) if tif.is_ome else None
    pixel_size = ome_pixel_size(root, notes) if root is not None and has_size(root) else tagged_pixel_size(tif, notes)
    try:
        series = the_series(tif)
    except UnusableError:
        raise
    except Exception as error:  # a reader that follows the metadata of strangers can raise anything
        text = f"its {_whose(tif)} metadata cannot be understood ({error})"
        raise _UnfittingError("metadata that cannot be understood", UnusableError(text), pixel_size) from error
    if tif.is_ome and series.kind != "ome":
        text = "its OME metadata names other files or cannot be understood"
        raise _UnfittingError("OME metadata that cannot be understood", UnusableError(text), pixel_size)
    shape = tuple(int(length) for length in series.get_shape(False))
    if math.prod(shape) <= max_pixels:  # else the caller's limit speaks first, without touching every page
        _check_planes(series, full, tif, pixel_size)
        notes += _check_bytes_behind(series, full, tif, last)
        _check_extent(series, size, pixel_size)
    page, letters = series.keyframe, series.get_axes(False)
    _check_colours(page)
    # Of colours that lie in planes of their own, as programs guess them, somebody may say that they are planes.
    planes = page.planarconfig == PLANARCONFIG.SEPARATE and axes != "" and "S" not in axes
    rgb = page.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR) and not planes
    alpha = "C" not in axes and not rgb and _has_alpha(page) and letters.count("S") == 1
    if alpha:
        place = letters.index("S")
        shape = (*shape[:place], 1, *shape[place + 1 :])
        notes.append(Note("alpha-dropped"))
    inverted = 0
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        # tifffile marks arrays of Booleans so, and their shape beside it: True is 1, whatever a viewer shows.
        own = tif.is_shaped or (root is not None and root.get("Creator", "").startswith("tifffile"))
        array = page.bitspersample == 1 and own
        inverted = 2**page.bitspersample - 1 if page.bitspersample in _FEW_BITS and not array else 0
        notes.append(Note("white-is-zero" if inverted else "inverted-table"))
    elif page.photometric == PHOTOMETRIC.PALETTE:
        notes.append(Note("table-left-out"))
    if page.tags.valueof(_ORIENTATION, 1) != 1:
        notes.append(Note("orientation"))
    if calibration := _calibration(tif.imagej_metadata or {}):
        notes.append(Note("calibration-ignored", calibration))
    if page.compression in _LOSSY:
        notes.append(Note("lossy"))
    if page.compression in _PERHAPS_LOSSY:
        notes.append(Note("perhaps-lossy", COMPRESSION(page.compression).name))
    told = ome_acquired(root) if root is not None else imagej_acquired(tif.imagej_metadata or {})
    return FileFacts(shape, letters, series.dtype, rgb, pixel_size, tuple(notes), alpha, inverted, told)


def transparent(planes: bool = False) -> UnusableError:
    """Return the error of an image with transparent pixels; with `planes` its colours lie in planes of their own."""
    what = "it has a transparency (alpha) channel that is not fully opaque"
    if planes:
        return UnusableError(
            f"{what}: four planes are stored as red, green, blue and transparency",
            "If they are no colours, say what they are (for example --axes CYX); else save it without transparency.",
        )
    return UnusableError(
        what, "Save it without transparency; if it is a channel of its own, save the channel you need."
    )


def _check_colours(page: TiffPage) -> None:
    """Refuse colours that are neither grey nor become red, green and blue when they are decoded."""
    if page.photometric in _GREY or page.photometric == PHOTOMETRIC.RGB:
        return
    if page.photometric == PHOTOMETRIC.YCBCR and page.compression in _LOSSY:
        return
    name = _COLOURS.get(page.photometric, getattr(page.photometric, "name", str(page.photometric)))
    raise UnusableError(
        f"its values are {name}, not grey or RGB", "Save it as a grey or RGB TIFF, or each channel as one of its own."
    )


def _has_alpha(page: TiffPage) -> bool:
    """Return whether a grey page has one more sample, which is declared as an alpha channel."""
    declared = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
    return page.samplesperpixel == 2 and len(page.extrasamples) == 1 and page.extrasamples[0] in declared


def the_series(tif: TiffFile) -> TiffPageSeries:
    """Return the one image of a file, in full size; UnusableError where there are none or several."""
    series = [each for each in tif.series if not each.keyframe.is_reduced]
    # Images of half the size are taken for levels of a pyramid by the reader, whether the file says so or not.
    series += [
        level
        for each in list(series)
        for level in each.levels[1:]
        if not level.keyframe.is_reduced and len(level.keyframe.treeindex) == 1
    ]
    if not series:
        raise UnusableError("it holds no image")
    if len(series) > 1:
        shapes = ", ".join("x".join(str(length) for length in each.shape) for each in series[:4])
        text = f"it holds {len(series)} separate images ({shapes})"
        cure = "Save the one you need as a file of its own, or let `parfocal` choose it with --scene."
        raise UnusableError(text, cure)
    return series[0]


def _calibration(said: Mapping[str, Any]) -> str:
    """Return how ImageJ shows grey values other than as they are stored; "" where it does not."""
    if "cf" not in said:
        return ""
    offset, factor = said.get("c0", 0), said.get("c1", 1)
    if said["cf"] == 0:  # a straight line
        return "" if (offset, factor) == (0, 1) else f"{offset:g} + {factor:g} times the stored value"
    return "a function that is no straight line"


def _check_planes(
    series: TiffPageSeries, planes: int, tif: TiffFile, pixel_size: tuple[float, float, float | None] | None
) -> None:
    """Refuse a series that leaves out planes of the file, whatever its metadata say."""
    page = series.keyframe
    announced = math.prod(series.get_shape(False)) // max(1, page.size)
    # All in one block behind one directory; where it ends too early the reader gives up on the metadata.
    said = (tif.imagej_metadata or {}) if tif.is_imagej and series.kind != "imagej" else {}
    block = math.prod(int(said.get(key, 1)) for key in ("channels", "slices", "frames"))
    rest = tif.filehandle.size - page.dataoffsets[0] - page.nbytes if page.dataoffsets else 0
    if planes == 1 < block and page.compression == COMPRESSION.NONE and rest > _SMALL + page.nbytes // 2:
        raise UnusableError(f"it is truncated: it announces {block} planes, and {rest + page.nbytes} bytes are there")
    if planes <= announced:
        return
    raise _UnfittingError(
        f"{planes} planes there, {announced} announced",
        UnusableError(
            f"it holds {planes} planes, and its {_whose(tif)} metadata announces {announced}",
            f"Export it again; or say what the planes are (for example --axes ZYX), and all {planes} are read without "
            "these metadata.",
        ),
        pixel_size,
    )


def _check_bytes_behind(series: TiffPageSeries, planes: int, tif: TiffFile, last: int) -> list[Note]:
    """Refuse a file with one directory and more planes behind its pixels than its metadata announce.

    Where no metadata speak of planes, the bytes may be anything, and are noted. `last` is where the last tag ends.
    """
    page = series.keyframe
    if planes != 1 or page.compression != COMPRESSION.NONE or page.subifds or not page.dataoffsets:
        return []
    announced = math.prod(series.get_shape(False)) // max(1, page.size)
    strips = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    behind = tif.filehandle.size - max(page.dataoffsets[0] + announced * page.nbytes, last, *strips)
    more = behind // max(1, page.nbytes)
    if more < 1 or behind < _PADDING:
        return []
    if tif.is_imagej or tif.is_shaped:
        raise UnusableError(
            f"it has bytes for {announced + more} planes, and its {_whose(tif)} metadata announces {announced}",
            "Export it again, so that all planes are announced.",
        )
    return [Note("bytes-left-out", f"enough for {more} more {'plane' if more == 1 else 'planes'}")]


def _whose(tif: TiffFile) -> str:
    return "OME" if tif.is_ome else "ImageJ" if tif.is_imagej else "TIFF"


def _count_directories(handle: BinaryIO, size: int) -> tuple[int, int, int]:
    """Follow the chain of image directories to its end; what leads nowhere means a truncated file.

    Returns the number of directories, and of those of them that are no smaller copies of others, and where the last
    directory or value of a tag ends.
    """
    header = handle.read(16)
    order = "<" if header[:2] in (b"II", b"EP") else ">"
    big = struct.unpack(order + "H", header[2:4])[0] == 43
    word, count_size = ("Q", 8) if big else ("I", 2)
    entry = struct.Struct(f"{order}HH{word}{word}")  # tag, type, count, value or where it is
    link = struct.Struct(order + word)
    (offset,) = link.unpack_from(header, 8 if big else 4)
    seen: set[int] = set()
    reduced = last = 0
    while offset:
        if offset in seen or len(seen) >= _MOST_DIRECTORIES:
            raise ValueError("it is damaged: its directories lead in a circle")
        seen.add(offset)
        handle.seek(offset)
        (entries,) = struct.unpack(order + ("Q" if big else "H"), _exactly(handle, count_size))
        if offset + count_size + entries * entry.size + link.size > size:
            raise ValueError("it is truncated: the file ends inside a directory")
        last = max(last, offset + count_size + entries * entry.size + link.size)
        for tag, kind, count, place in entry.iter_unpack(_exactly(handle, entries * entry.size)):
            length = _TYPE_SIZES.get(kind, 0) * count
            if length > link.size and place + length > size:
                raise ValueError("it is truncated: a tag lies beyond the end of the file")
            last = max(last, place + length if length > link.size else 0)
            # The value stands in the first bytes of its field, whatever the order of these.
            shift = 0 if order == "<" else 8 * (link.size - _TYPE_SIZES.get(kind, link.size))
            reduced += tag == _SUBFILE and bool(place >> shift & 1)
        (offset,) = link.unpack(_exactly(handle, link.size))
    return len(seen), len(seen) - reduced, last


def _exactly(handle: BinaryIO, size: int) -> bytes:
    content = handle.read(size)
    if len(content) < size:
        raise ValueError("it is truncated: the file ends before its last directory")
    return content


def _check_extent(series: TiffPageSeries, size: int, pixel_size: tuple[float, float, float | None] | None) -> None:
    """Refuse a series whose strips or tiles are missing or lie beyond the end of the file."""
    page = series.keyframe
    if page.is_tiled and page.tilewidth * page.tilelength * page.tiledepth > max(4 * page.size, 2**24):
        raise ValueError("it is damaged: its tiles are far larger than the image")  # a decoder would reserve them
    start = series.dataoffset
    if start is not None:  # one contiguous block, perhaps with a single directory (ImageJ above 4 GB)
        if start + math.prod(series.get_shape(False)) * series.dtype.itemsize > size:
            raise ValueError("it is truncated: pixels lie beyond the end of the file")
        return
    pages = list(series.pages)
    if page.size * len(pages) != math.prod(series.get_shape(False)) or None in pages:
        detail = f"{series.get_shape(False)} announced, {len(pages)} planes there"
        raise _UnfittingError(detail, None, pixel_size)
    segments = math.prod(page.chunked)
    for each in pages:
        assert each is not None
        offsets, counts = each.dataoffsets, each.databytecounts
        if len(offsets) < segments or len(counts) < segments:
            raise ValueError("it is incomplete: strips or tiles are missing")
        for offset, count in zip(offsets[:segments], counts[:segments], strict=True):
            if offset <= 0 or count <= 0:
                raise ValueError("it is incomplete: strips or tiles are empty")
            if offset + count > size:
                raise ValueError("it is truncated: pixels lie beyond the end of the file")


def _parse_ome(tif: TiffFile, directories: int) -> ElementTree.Element:
    """Parse OME-XML and refuse what would make tifffile reserve memory for planes that are not there."""
    text, page = tif.ome_metadata or "", tif.pages.first
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UnusableError("its OME metadata contains entity definitions")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        refusal = UnusableError(f"its OME metadata cannot be read ({error})")
        raise _UnfittingError("OME metadata that cannot be read", refusal) from error
    pixel_size = ome_pixel_size(root, [])
    if (apart := _one_of_a_set(root, Path(tif.filehandle.path).name, directories)) is not None:
        raise _UnfittingError("one file of a set", apart, pixel_size)
    if any("ModuloAlong" in element.tag for element in root.iter()):
        refusal = UnusableError("its OME metadata folds further dimensions into the planes (Modulo)")
        raise _UnfittingError("further dimensions folded into the planes", refusal, pixel_size)
    planes = directories * page.samplesperpixel
    images = list(elements(root, "Pixels"))
    for element in images:
        try:
            x, y, z, c, t = (int(element.attrib.get(f"Size{axis}", 1)) for axis in "XYZCT")
            data = list(elements(element, "TiffData"))
            named = max(
                (int(each.attrib.get(key, 0)) for each in data for key in ("PlaneCount", "NumPlanes", "IFD")), default=0
            )
        except ValueError as error:
            raise UnusableError(f"its OME metadata cannot be read ({error})") from error
        if (x, y) != (page.imagewidth, page.imagelength):
            detail = f"images of {x} x {y} pixels announced, {page.imagewidth} x {page.imagelength} there"
        elif z * c * t > planes or named > directories:
            detail = f"{max(z * c * t, named)} planes announced, {planes} there"
        else:
            continue
        if len(images) > 1:
            text = f"its OME metadata announces {len(images)} images, and other ones than the file holds ({detail})"
            raise _UnfittingError(
                detail, UnusableError(text, "Save the one you need as a file of its own."), pixel_size
            )
        raise _UnfittingError(detail, None, pixel_size)
    return root


def _one_of_a_set(root: ElementTree.Element, name: str, directories: int) -> UnusableError | None:
    """Return the refusal of a file whose metadata spread the planes of one image over several files."""
    apart = next(elements(root, "BinaryOnly"), None)
    if apart is not None:
        others = [apart.attrib.get("MetadataFile", "another file")]
        what = f"it is one file of an OME-TIFF set whose metadata are in {others[0]}"
    else:
        # By their identifiers, because files are renamed.
        files = {(each.text or "").strip(): each.attrib.get("FileName", "") for each in elements(root, "UUID")}
        files.setdefault(root.attrib.get("UUID", ""), name)
        files.pop("", None)
        if len(files) < 2:
            return None
        own = root.attrib.get("UUID", "")
        others = [file or uuid for uuid, file in files.items() if uuid != own]
        others = [other for other in others if other != name] if not own else others
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        what = (
            f"it is one of {len(files)} files of an OME-TIFF set, which hold the planes of one image together; the "
            f"others are {', '.join(others[:_NAMED])}{more}"
        )
    return UnusableError(
        what,
        "Put the set together into one file (in Fiji: File > Import > Bio-Formats, then save as OME-TIFF); or say what "
        f"{'the plane of this file alone is' if directories == 1 else 'the planes of this file alone are'}, for "
        f"example --axes {'YX' if directories == 1 else 'ZYX'}.",
    )
