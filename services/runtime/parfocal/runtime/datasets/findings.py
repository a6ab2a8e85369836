"""What one image is like, and what is wrong or suspicious about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.files import Image, ImageLimits, PixelSize, inspect_image, read_image
from parfocal.runtime.images.pixel_values import LARGEST_VALUE, count_unusable
from parfocal.runtime.images.saturation import saturation

_SATURATED = 0.01


@dataclass(frozen=True)
class Found:
    """What was learnt of one image."""

    shape: tuple[int, ...]
    axes: str
    dtype: str
    pixel_size: PixelSize | None
    digest: str = ""
    saturated: float = 0.0
    constant: bool = False


@dataclass
class Warnings:
    """Collects suspicious findings by kind, so that each kind is one sentence."""

    found: dict[str, list[str]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """Take down one finding of a kind of `texts`."""
        self.found.setdefault(kind, []).append(name)

    def note(self, name: str, image: Found, group: str, duplicates: bool = True) -> None:
        """Take down what is suspicious about an image, by itself and beside the others of its group."""
        for kind, value in (("types", image.dtype), ("sizes", _size_text(image.pixel_size))):
            seen = self.found.setdefault(f"{kind} {group}", [])
            if value not in seen:
                seen.append(value)
        if image.saturated > _SATURATED:
            self.add("saturated", f"{name} ({100 * image.saturated:.0f} %)")
        if duplicates and image.digest and (first := self.digests.setdefault(image.digest, name)) != name:
            self.add("duplicates", f"{name} = {first}")

    def texts(self) -> tuple[str, ...]:
        """Return one sentence for each kind of finding."""
        sentences = {
            "saturated": "More than 1 % of the pixels are saturated, their true brightness is lost: {}.",
            "duplicates": "The same image is there more than once and counts more than others: {}.",
            "identical": "Source and target are the same image, nothing can be learnt from it: {}.",
            "empty": "Every pixel is 0: fine for label images without objects, useless for other targets: {}.",
            "constant": "Every pixel has the same value: {}.",
            "types": "The {} are of different types: {}.",
            "sizes": "The {} have different pixel sizes, structures will appear at different scales: {}.",
        }
        texts = []
        for kind, values in sorted(self.found.items()):
            first, _, group = kind.partition(" ")
            if not group:
                texts.append(sentences[first].format(some(values)))
            elif len(values) > 1:
                texts.append(sentences[first].format(group, some(values)))
        return tuple(texts)


def examine(
    path: Path,
    axes: str,
    min_size: Mapping[str, int] | None,
    limits: ImageLimits,
    allow_constant: bool,
    allow_stacks: bool = False,
    headers_only: bool = False,
    allow_zero: bool = False,
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
    """
    name = file_name(path)
    try:
        header = inspect_image(path, limits=limits)
        texts = _layout_problems(header.axes, header.shape, axes, min_size or {}, allow_stacks)
        found = Found(header.shape, header.axes, header.dtype.name, header.pixel_size)
        if headers_only or texts:
            return (None if texts else found), [Violation(name, text) for text in texts]
        image = read_image(path, limits=limits)
    except InvalidInputError as error:
        return None, [Violation(name, error.violations[0].description if error.violations else error.message)]
    pixels = image.pixels
    if bad := count_unusable(pixels):
        text = f"{count(bad, 'pixel')} not a number or infinite, or beyond {LARGEST_VALUE:.0e}: export it again."
        return None, [Violation(name, text)]
    lowest, highest = pixels.min(), pixels.max()
    empty = allow_zero and highest == 0 and pixels.dtype.kind in "iu"
    if lowest == highest and not allow_constant and not empty:
        return None, [Violation(name, f"every pixel is {lowest}, there is nothing to learn: leave it out.")]
    return Found(
        found.shape,
        found.axes,
        found.dtype,
        found.pixel_size,
        digest=_digest(image),
        saturated=saturation(pixels).at_ceiling,
        constant=bool(lowest == highest),
    ), []


def _layout_problems(
    found: str, shape: tuple[int, ...], wanted: str, min_size: Mapping[str, int], allow_stacks: bool
) -> list[str]:
    lengths = dict(zip(found, shape, strict=True))
    stack = allow_stacks and found.endswith(wanted) and set(found[: -len(wanted)]) <= set("TZ")
    if found != wanted and not stack:
        have = f"it has axes {found} ({by(shape)}) where {wanted} is needed"
        extra, missing = set(found) - set(wanted), set(wanted) - set(found)
        if missing == {"Z"} and not extra:
            return [f"{have}: it is a single plane; choose a 2D method or save whole stacks."]
        if missing:
            return [f"{have}: export it with these axes."]
        if "S" in extra:
            return [
                f"{have}: it is a colour (RGB) image; convert it to grey or save the channel you need, "
                "or give --axes YXS if the method takes colour."
            ]
        if "C" in extra:
            return [f"{have}: save the one of its {lengths['C']} channels that you need."]
        return [f"{have}: it is a stack; save single planes or a projection, or choose a method for stacks."]
    return [
        f"it is {lengths[axis]} pixels along {axis}, {least} are needed: choose a smaller patch or leave it out."
        for axis, least in min_size.items()
        if axis in lengths and lengths[axis] < least
    ]


def _digest(image: Image) -> str:
    digest = hashlib.sha256(f"{image.axes} {image.pixels.shape} {image.pixels.dtype.str}".encode())
    digest.update(image.pixels.data)
    return digest.hexdigest()


def file_name(path: Path) -> str:
    """Return the name of a file with its folder, as messages say it."""
    return f"{path.parent.name}/{path.name}"


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
