"""Properties of one image, and what is wrong or suspicious about it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.objects import label_components, without_soft_edges
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images._dtypes import storable
from parfocal.runtime.images.files import (
    DEFAULT_LIMITS,
    Image,
    ImageHeader,
    ImageLimits,
    PixelSize,
    inspect_image,
    open_image,
    printable,
)
from parfocal.runtime.images.notes import Note
from parfocal.runtime.images.pixel_values import LARGEST_VALUE, count_unusable, value_range
from parfocal.runtime.images.saturation import saturation
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, blocks, release
from parfocal.runtime.images.similarity import pattern_of

_SATURATED = 0.01
_GREY_IN_COLOURS: Final = (
    "it is a grey image that is stored in colours, its three channels are equal. Save one of them, or convert it to "
    "8-bit grey: no value changes."
)


@dataclass(frozen=True)
class Reading:
    """Rules by which the files of one role are read.

    Attributes
    ----------
    labels
        The values are numbers of objects or classes: none is changed, see `read_image`.
    axes
        Axes as stated by the user; "" if the files state them.
    components
        Each separate piece of a label gets a number of its own; such an image is numbered in memory.
    scratch
        Where the pixels of large images lie, see `open_image`.
    """

    labels: bool = False
    axes: str = ""
    components: bool = False
    scratch: Scratch = IN_MEMORY

    def inspect(self, path: Path, limits: ImageLimits = DEFAULT_LIMITS) -> ImageHeader:
        """Return what the headers of a file say."""
        return inspect_image(path, limits=limits, labels=self.labels, axes=self.axes)

    def read(self, path: Path, limits: ImageLimits = DEFAULT_LIMITS) -> Image:
        """Return the image of a file."""
        image = open_image(path, self.scratch, limits=limits, labels=self.labels, axes=self.axes)
        if not self.components or image.pixels.dtype.kind not in "iu":
            return image
        solid = without_soft_edges(image.pixels)
        if solid is None:
            return replace(image, pixels=label_components(image.pixels))
        note = Note("soft-edges", f"{np.unique(image.pixels).size} values up to {image.pixels.max()}")
        return replace(image, pixels=label_components(solid.astype(np.uint8)), notes=(*image.notes, note))


AS_STORED: Final = Reading()
"""Grey values with the axes that the file says."""


@dataclass(frozen=True)
class Found:
    """Facts about one image; `pattern` is the digest of its contents, see `pattern_of`."""

    shape: tuple[int, ...]
    axes: str
    dtype: str
    pixel_size: PixelSize | None
    digest: str = ""
    saturated: float = 0.0
    constant: bool = False
    notes: tuple[Note, ...] = ()
    pattern: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass
class Warnings:
    """Collects suspicious findings by kind, so that each kind is one sentence."""

    found: dict[str, list[str]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    notes: Notes = field(default_factory=lambda: Notes())

    def add(self, kind: str, name: str) -> None:
        """Take down one finding of a kind of `texts`."""
        self.found.setdefault(kind, []).append(name)

    def note(self, name: str, image: Found, group: str, duplicates: bool = True) -> None:
        """Take down what is suspicious about an image, by itself and beside the others of its group."""
        for kind, value in (("types", image.dtype), ("sizes", _size_text(image.pixel_size))):
            seen = self.found.setdefault(f"{kind} {group}", [])
            if value not in seen:
                seen.append(value)
        for each in image.notes:
            self.notes.add(each.sentence, each.at(name))
        if image.saturated > _SATURATED:
            self.add("saturated", f"{name} ({100 * image.saturated:.0f} %)")
        if duplicates and image.digest and (first := self.digests.setdefault(image.digest, name)) != name:
            self.add("duplicates", f"{name} = {first}")

    def texts(self) -> tuple[str, ...]:
        """Return one sentence for each kind of finding."""
        sentences = {
            "saturated": "More than 1 % of the pixels are saturated (their true brightness is lost) in images: {}.",
            "duplicates": "The same image occurs more than once and counts more than others in the training: {}.",
            "identical": "Source and target are the same image, so that a model would only copy its input: {}.",
            "scales": "Source and target have the same number of pixels, but different pixel sizes: {}. One of the two "
            "is wrong.",
            "empty": "Every pixel is 0, which is right only for label images without objects: {}.",
            "constant": "Every pixel has the same value: {}.",
            "types": "The {} are of different types: {}.",
            "sizes": "The {} have different pixel sizes, so that structures appear at different scales: {}.",
        }
        texts = []
        for kind, values in sorted(self.found.items()):
            first, _, group = kind.partition(" ")
            if not group:
                texts.append(sentences[first].format(f"{len(values)} ({some(values)})"))
            elif len(values) > 1:
                texts.append(sentences[first].format(group, some(values)))
        return (*texts, *self.notes.texts())

    def pass_over(self, names: Sequence[str]) -> None:
        """Take down files and folders that are not read."""
        for name in names:
            self.notes.add("Files and folders that are not images of a known format were ignored", name)


@dataclass
class Notes:
    """Collects what was left out, converted or guessed, so that each kind of it is one sentence with its number."""

    found: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, what: str, name: str, number: int = 1) -> None:
        """Note that `what`, a sentence without its end, holds for `number` things in the file `name`."""
        files = self.found.setdefault(what, {})
        files[name] = files.get(name, 0) + number

    def texts(self) -> tuple[str, ...]:
        """Return one sentence for each kind, e.g. "Boxes without area were left out: 2 (target/a.xml)."."""
        return tuple(f"{what}: {sum(files.values())} ({some(list(files))})." for what, files in self.found.items())


def examine(
    path: Path,
    axes: str,
    min_size: Mapping[str, int] | None,
    limits: ImageLimits,
    allow_constant: bool,
    allow_stacks: bool = False,
    headers_only: bool = False,
    allow_zero: bool = False,
    look: Callable[[Path, Image], bool] | None = None,
    reading: Reading = AS_STORED,
) -> tuple[Found | None, list[Violation]]:
    """Return what an image is like and no problems, or its problems, mostly without what it is like.

    Parameters
    ----------
    path
        The file.
    axes
        Axes the image must have.
    min_size
        Least number of pixels along some axes.
    limits
        Sizes beyond which the file is not read.
    allow_constant
        Whether all pixels may have one value.
    allow_stacks
        Whether further axes T and Z may stand before `axes`.
    headers_only
        Leave the pixels alone: digest and saturation stay unknown.
    allow_zero
        Whether all pixels of an image of integers may be 0, as those of a label image without objects.
    look
        Called with the decoded image; returns whether it is one of labels, whose numbers are no brightness.
    reading
        Rules by which the file is read.
    """
    name = file_name(path)
    try:
        header = reading.inspect(path, limits)
        guessed = any(note.code == "axes-guessed" for note in header.notes)
        texts = _layout_problems(header, axes, min_size or {}, allow_stacks, reading.labels, guessed)
        found = Found(header.shape, header.axes, header.dtype.name, header.pixel_size, notes=header.notes)
        if headers_only or texts:
            if texts and header.axes == f"{axes}S" and not headers_only and _is_grey(reading.read(path, limits)):
                texts = [f"{_have(header.axes, header.shape, axes)}: {_GREY_IN_COLOURS}"]
            return (None if texts else found), [Violation(name, text) for text in texts]
        image = reading.read(path, limits)
    except InvalidInputError as error:
        return None, [Violation(name, error.violations[0].description if error.violations else error.message)]
    pixels = image.pixels
    if bad := count_unusable(pixels):
        text = f"{count(bad, 'pixel')} NaN, infinite or beyond {LARGEST_VALUE:.0e}: export it again."
        return None, [Violation(name, text)]
    lowest, highest = value_range(pixels)
    try:
        storable(np.array([lowest, highest]))
    except ValueError as error:
        return None, [
            Violation(name, f"{error}: save it with smaller numbers, or as float64 if these are grey values.")
        ]
    empty = allow_zero and highest == 0 and pixels.dtype.kind in "iu"
    if lowest == highest and not allow_constant and not empty:
        return None, [Violation(name, f"every pixel is {lowest}, so that it cannot be trained on: leave it out.")]
    labels = look is not None and look(path, image)
    return Found(
        found.shape,
        found.axes,
        pixels.dtype.name,
        found.pixel_size,
        digest=_digest(image),
        saturated=0.0 if labels else saturation(pixels).at_ceiling,
        constant=bool(lowest == highest),
        notes=image.notes,
        pattern=None if labels else pattern_of(image),
    ), []


def _layout_problems(
    header: ImageHeader, wanted: str, min_size: Mapping[str, int], allow_stacks: bool, labels: bool, guessed: bool
) -> list[str]:
    found, shape = header.axes, header.shape
    lengths = dict(zip(found, shape, strict=True))
    stack = allow_stacks and found.endswith(wanted) and set(found[: -len(wanted)]) <= set("TZ")
    if found != wanted and not stack:
        have = _have(found, shape, wanted)
        extra, missing = set(found) - set(wanted), set(wanted) - set(found)
        planes = [letter for letter in found if letter in "TCZ"]
        if missing == {"Z"} and not extra:
            return [f"{have}: it is a single plane; choose a 2D method or save whole stacks."]
        if missing:
            hint = (
                f"; or, if they are, add --axes {wanted}"
                if len(found) == len(wanted) and "S" not in found + wanted
                else ""
            )
            return [f"{have}: export it with these axes{hint}."]
        if "S" in extra and labels:
            return [
                f"{have}: it is a picture in colours. If the colours stand for labels, export the label image itself "
                "(0 for background, one number for each object or class): converted to grey, different labels would "
                "get the same number. If it is a target in colour, convert it to grey."
            ]
        if "S" in extra:
            return [
                f"{have}: it is a colour (RGB) image; convert it to grey or save the channel you need, "
                "or give --axes YXS if the method takes colour."
            ]
        if "C" in extra:
            text = f"{have}: choose the one of its {lengths['C']} channels that you need (for example --channel 1)"
            return [f"{text}; or, if these are planes of a volume, add --axes ZYX." if planes == ["C"] else f"{text}."]
        text = f"{have}: it is a stack; save single planes or a projection, or choose a method for stacks"
        if guessed and extra == {"Z"}:
            which = f"--axes {found.replace('Z', 'C')} --channel 1"
            return [
                f"{text}. The file does not say what its {lengths['Z']} planes are: if they are channels, choose the "
                f"one that you need (for example {which})."
            ]
        volume = "T" in extra and planes == ["T"]
        return [f"{text} (if its frames are planes of a volume, add --axes ZYX)." if volume else f"{text}."]
    return [
        f"it is {lengths[axis]} pixels along {axis}, {least} are required: choose a smaller "
        f"{'patch_depth' if axis == 'Z' else 'patch_size'} or leave it out."
        for axis, least in min_size.items()
        if axis in lengths and lengths[axis] < least
    ]


def _have(found: str, shape: tuple[int, ...], wanted: str) -> str:
    return f"it has axes {found} ({by(shape)}) where {wanted} is required"


def _is_grey(image: Image) -> bool:
    """Return whether the colours of an image are all shades of grey."""
    red, green, blue = (image.pixels[..., colour] for colour in range(3))
    return all(
        np.array_equal(red[window], green[window]) and np.array_equal(red[window], blue[window])
        for window in blocks(red.shape)
    )


def _digest(image: Image) -> str:
    digest = hashlib.sha256(f"{image.axes} {image.pixels.shape} {image.pixels.dtype.str}".encode())
    for window in blocks(image.pixels.shape):
        digest.update(np.ascontiguousarray(image.pixels[window]).data)
        release(image.pixels)
    return digest.hexdigest()


def file_name(path: Path) -> str:
    """Return the name of a file with its folder, as messages say it."""
    return printable(f"{path.parent.name}/{path.name}")


def by(shape: tuple[int, ...]) -> str:
    """Return a shape in words, e.g. "64 x 80"."""
    return " x ".join(str(length) for length in shape)


def count(number: int, what: str) -> str:
    """Return a number of things in words, e.g. "3 images"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def some(values: Sequence[str]) -> str:
    """Return the first five of some names, and how many more there are."""
    return ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def _size_text(size: PixelSize | None) -> str:
    if size is None:
        return "unknown"
    return " x ".join(f"{length:.4g}" for length in (size.x, size.y, size.z) if length is not None) + " µm"
