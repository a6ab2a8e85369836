"""Tell whether a folder of images, or a pair of folders, is fit for training or prediction.

Everything that is wrong is collected and said at once, with file names and cures, before a minute of training is
spent. What is merely suspicious (saturation, duplicates, mixed pixel sizes) is returned as warnings.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.findings import AS_STORED, Reading, Warnings, by, count, examine, file_name
from parfocal.runtime.errors import InvalidInputError, Violation, refusal
from parfocal.runtime.images.files import (
    DEFAULT_LIMITS,
    IMAGE_SUFFIXES,
    Image,
    ImageLimits,
    PixelSize,
    image_stem,
    name_clash,
    unreadable_name,
)

_SAME_SCALE: Final = 0.02
PASSED_OVER: Final = ("Thumbs.db", "desktop.ini")
"""Files of folders that Windows writes, which nobody misses."""


@dataclass(frozen=True)
class ImagePair:
    """One source image and its target.

    `shape` is what they share, `dtypes` and `pixel_size` as found in the files, `pattern` what the source shows.
    """

    stem: str
    source: Path
    target: Path
    shape: tuple[int, ...]
    dtypes: tuple[str, str]
    pixel_size: PixelSize | None
    pattern: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class PairReport:
    """Pairs fit for training, in natural order of their names, and what is suspicious about them."""

    pairs: tuple[ImagePair, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class CheckedImage:
    """One image fit for use; `pattern` is what it shows, None where that is not known."""

    stem: str
    path: Path
    shape: tuple[int, ...]
    axes: str
    dtype: str
    pixel_size: PixelSize | None
    reading: Reading = AS_STORED
    pattern: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ImageReport:
    """Images fit for use, in natural order of their names, and what is suspicious about them."""

    images: tuple[CheckedImage, ...]
    warnings: tuple[str, ...]


def find_images(folder: Path) -> dict[str, Path]:
    """List the images of a folder by stem, in natural order (``image2`` before ``image10``).

    Hidden files, sub-folders and other kinds of files are passed over; `check_images` and `check_pairs` name those that
    somebody may miss.

    Raises
    ------
    InvalidInputError
        The folder does not exist, or two files have the same stem: ``a.tif`` and ``a.png``, or names that differ only
        in how accented letters are stored.
    """
    images, problems, _ = _list_images(folder)
    if problems:
        raise _refusal(f"{folder.name} cannot be used", problems)
    return images


def check_pairs(
    source_folder: Path,
    target_folder: Path,
    *,
    axes: str,
    source_axes: str = "",
    target_axes: str = "",
    min_size: Mapping[str, int] | None = None,
    min_images: int = 1,
    constant_targets: bool = False,
    empty_targets: bool = False,
    look: Callable[[Path, Image], bool] | None = None,
    readings: tuple[Reading, Reading] = (AS_STORED, AS_STORED),
    told: str = "both",
    limits: ImageLimits = DEFAULT_LIMITS,
) -> PairReport:
    """Check the images of a training set, paired by stem.

    Parameters
    ----------
    source_folder, target_folder
        Folders with one image per stem.
    axes
        Required axes of each image, e.g. ``YX`` or ``ZYX``; along these, partners must have the same length.
    source_axes, target_axes
        Required axes of sources and targets if they have more, e.g. channels.
    min_size
        The least length per axis in pixels, usually the patch.
    min_images
        The least number of pairs.
    constant_targets
        Accept targets without any contrast, such as a label image without objects.
    empty_targets
        Accept only those among them that are 0 everywhere and of an integer type, with a warning: nobody has said yet
        whether the targets are label images.
    look
        Called with each target once it is decoded; returns whether it is one of labels.
    readings
        Rules by which sources and targets are read.
    told
        Files that the warnings cover: "both", or "source" or "target" if the others were checked before.
    limits
        Larger images are refused.

    Raises
    ------
    InvalidInputError
        Something is wrong: the message lists the first ten problems, `violations` holds all.
    """
    source_axes, target_axes = source_axes or axes, target_axes or axes
    sources, problems, passed = _list_images(source_folder)
    targets, more, passed_too = _list_images(target_folder)
    problems += more
    if not problems:
        problems += _partners(source_folder, sources, target_folder, targets)
    stems = [stem for stem in sources if stem in targets]
    if sources and targets and len(stems) < min_images:
        problems.append(
            Violation(source_folder.name, f"{count(len(stems), 'pair')} found, {min_images} required: add images.")
        )
    warnings = Warnings()
    warnings.pass_over([*(passed if told != "target" else ()), *(passed_too if told != "source" else ())])
    pairs = []
    for stem in stems:
        source_name, target_name = file_name(sources[stem]), file_name(targets[stem])
        source, wrong = examine(
            *(sources[stem], source_axes, min_size, limits), allow_constant=False, reading=readings[0]
        )
        target, wrong_too = examine(
            *(targets[stem], target_axes, min_size, limits),
            allow_constant=constant_targets,
            allow_zero=empty_targets,
            look=look,
            reading=readings[1],
        )
        problems += wrong + wrong_too
        if source is None or target is None:
            continue
        shape, target_shape = (
            tuple(found.shape[its.index(axis)] for axis in axes)
            for found, its in ((source, source_axes), (target, target_axes))
        )
        if shape != target_shape:
            text = f"is {by(shape)} pixels, {target_name} is {by(target_shape)}: register or crop them alike."
            problems.append(Violation(source_name, text))
            continue
        if target.constant and empty_targets:
            warnings.add("empty", target_name)
        if not _same_scale(source.pixel_size, target.pixel_size):
            warnings.add("scales", f"{source_name} and {target_name}")
        if source.digest == target.digest:
            warnings.add("identical", f"{source_name} and {target_name}")
        if told != "target":
            warnings.note(source_name, source, "source images")
        if told != "source":
            warnings.note(target_name, target, "target images", duplicates=False)
        dtypes = (source.dtype, target.dtype)
        pairs.append(
            ImagePair(
                *(stem, sources[stem], targets[stem], shape, dtypes),
                source.pixel_size or target.pixel_size,
                source.pattern,
            )
        )
    if problems:
        raise _refusal("The images cannot be used", problems)
    return PairReport(tuple(pairs), warnings.texts())


def check_images(
    folder: Path,
    *,
    axes: str,
    min_size: Mapping[str, int] | None = None,
    min_images: int = 1,
    allow_stacks: bool = False,
    headers_only: bool = False,
    reading: Reading = AS_STORED,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> ImageReport:
    """Check a folder of images without partners.

    Parameters
    ----------
    folder
        A folder with one image per stem.
    axes
        Required axes of each image, e.g. ``YX`` or ``ZYX``.
    min_size, min_images, limits
        See `check_pairs`.
    allow_stacks
        Accept further Z or T axes in front, for methods that are applied slice by slice.
    headers_only
        Do not decode: pixels are then checked when they are used. Images without contrast are a warning here,
        since a blank well is no reason to refuse a batch.
    reading
        Rules by which the images are read.

    Raises
    ------
    InvalidInputError
        Something is wrong: the message lists the first ten problems, `violations` holds all.
    """
    paths, problems, passed = _list_images(folder)
    if paths and len(paths) < min_images:
        problems.append(
            Violation(folder.name, f"{count(len(paths), 'image')} found, {min_images} required: add images.")
        )
    warnings = Warnings()
    warnings.pass_over(passed)
    images = []
    for stem, path in paths.items():
        found, wrong = examine(path, axes, min_size, limits, True, allow_stacks, headers_only, reading=reading)
        problems += wrong
        if found is None:
            continue
        warnings.note(file_name(path), found, "images")
        if found.constant:
            warnings.add("constant", file_name(path))
        images.append(
            CheckedImage(*(stem, path, found.shape, found.axes, found.dtype, found.pixel_size), reading, found.pattern)
        )
    if problems:
        raise _refusal("The images cannot be used", problems)
    return ImageReport(tuple(images), warnings.texts())


def _same_scale(one: PixelSize | None, other: PixelSize | None) -> bool:
    """Return whether two images of the same number of pixels show the same field, as far as both say it."""
    if one is None or other is None:
        return True
    return all(
        mine is None or theirs is None or math.isclose(mine, theirs, rel_tol=_SAME_SCALE)
        for mine, theirs in zip((one.x, one.y, one.z), (other.x, other.y, other.z), strict=True)
    )


def is_hidden(path: Path) -> bool:
    """Return whether nobody misses a file: hidden ones, but for images, whose names a user may have begun with a dot.

    Those that begin with ``._`` are written by macOS beside each file.
    """
    return path.name[0] == "." and (path.name.startswith("._") or path.suffix.lower() not in IMAGE_SUFFIXES)


def no_partner(stem: str, free: Mapping[str, str], folder: Path) -> str:
    """Return the words, to be said of a file, that `folder` has no image `stem`; `free` are other stems and names."""
    # Other numbers are another field of view, however alike the names look.
    alike = [other for other in free if _numbers(other) == _numbers(stem)]
    near = difflib.get_close_matches(stem, alike, n=1, cutoff=0.5)
    hint = f" (is it {free[near[0]]}?)" if near else ""
    return f"no image named {stem} in {folder.name}{hint}: rename or remove one."


def _partners(
    source_folder: Path, sources: Mapping[str, Path], target_folder: Path, targets: Mapping[str, Path]
) -> list[Violation]:
    problems = []
    for mine, theirs, folder in ((sources, targets, target_folder), (targets, sources, source_folder)):
        free = [stem for stem in theirs if stem not in mine]
        for stem, path in mine.items():
            if stem in theirs:
                continue
            partners = {other: theirs[other].name for other in free}
            problems.append(Violation(file_name(path), no_partner(stem, partners, folder)))
    return problems


def _list_images(folder: Path) -> tuple[dict[str, Path], list[Violation], list[str]]:
    """Return the images by stem, what is wrong with their names, and the names of all else that is not hidden."""
    if not folder.is_dir():
        return {}, [Violation(folder.name, f"there is no folder {folder}: check the name.")], []
    everything = sorted((path for path in folder.iterdir() if not is_hidden(path)), key=_natural)
    images: dict[str, Path] = {}
    problems, passed = [], []
    for path in everything:
        if path.is_symlink() and not path.exists():
            problems.append(
                Violation(file_name(path), "it is a link to a file that does not exist: copy the file itself.")
            )
            continue
        if path.name[0] == "." or not path.is_file() or path.suffix.lower() not in IMAGE_SUFFIXES:
            if path.name not in PASSED_OVER:
                passed.append(file_name(path) + ("/" if path.is_dir() else ""))
            continue
        if (unreadable := unreadable_name(path)) is not None:
            problems.append(Violation(f"{folder.name}/{unreadable.field}", unreadable.description))
            continue
        other = images.setdefault(image_stem(path), path)
        if other != path:
            problems.append(Violation(file_name(path), name_clash(path, other)))
    if not images and not problems:
        text = "it holds no TIFF, PNG, JPEG or BMP images"
        if files := [path for path in everything if path.is_file()]:
            text += f", only files such as {files[0].name}: export them as TIFF"
        problems.append(Violation(folder.name, f"{text}."))
    return images, problems, passed


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts: list[str | int] = [
        int(part) if part.isdecimal() else part.lower() for part in re.split("([0-9]+)", path.name)
    ]
    return parts, path.name


def _numbers(stem: str) -> list[int]:
    return [int(digits) for digits in re.findall("[0-9]+", stem)]


def _refusal(what: str, problems: Sequence[Violation]) -> InvalidInputError:
    return refusal(f"{what}: {count(len(problems), 'problem')}.", problems)
