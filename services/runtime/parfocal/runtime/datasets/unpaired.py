"""Unpaired images: two folders, one for each of two kinds of image, whose names and numbers need not agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parfocal.runtime.datasets.findings import AS_STORED, Reading, count
from parfocal.runtime.datasets.pairs import CheckedImage, check_images, find_images
from parfocal.runtime.errors import InvalidInputError, Violation, refusal
from parfocal.runtime.images.files import DEFAULT_LIMITS, ImageLimits, inspect_image


@dataclass(frozen=True)
class UnpairedReport:
    """Images fit for training, in natural order of their names, and what is suspicious about them."""

    sources: tuple[CheckedImage, ...]
    targets: tuple[CheckedImage, ...]
    warnings: tuple[str, ...]


def check_unpaired(
    source_folder: Path,
    target_folder: Path,
    *,
    axes: str,
    target_axes: str = "",
    min_size: Mapping[str, int] | None = None,
    min_images: int = 2,
    reading: Reading = AS_STORED,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> UnpairedReport:
    """Check two folders of images that are no pairs.

    Parameters
    ----------
    source_folder, target_folder
        Folders with one image per stem.
    axes
        Required axes of each source, e.g. ``YX`` or ``YXS``.
    target_axes
        Required axes of each target; empty: those of the first target, if they differ from `axes` in colour or channels
        only.
    min_size, limits
        See `check_pairs`.
    min_images
        The least number of images in each folder: some are held out for validation.
    reading
        Rules by which the images of both folders are read.

    Raises
    ------
    InvalidInputError
        Something is wrong in one of the folders; `violations` holds all.
    """
    problems: list[Violation] = []
    reports = []
    for folder, wanted in ((source_folder, axes), (target_folder, target_axes or own_axes(target_folder, axes))):
        try:
            report = check_images(folder, axes=wanted, min_size=min_size, reading=reading, limits=limits)
            if len(report.images) < min_images:
                text = f"{count(len(report.images), 'image')} found, {min_images} required without pairs: add images."
                problems.append(Violation(folder.name, text))
            reports.append(report)
        except InvalidInputError as error:
            problems += error.violations or (Violation(folder.name, error.message),)
    if problems:
        raise refusal(f"The images cannot be used: {count(len(problems), 'problem')}.", problems)
    sources, targets = reports
    warnings = [*(f"source: {text}" for text in sources.warnings), *(f"target: {text}" for text in targets.warnings)]
    return UnpairedReport(sources.images, targets.images, tuple(warnings))


def same_names_and_sizes(report: UnpairedReport) -> bool:
    """Return whether the images of both folders could be pairs: the same names, and the same sizes in pixels."""
    sizes = [{image.stem: _spatial_shape(image) for image in images} for images in (report.sources, report.targets)]
    return sizes[0] == sizes[1]


def own_axes(folder: Path, axes: str) -> str:
    """Return the axes of the first image of a folder where it has the spatial axes of `axes`, else `axes`."""
    try:
        first = next(iter(find_images(folder).values()), None)
        found = inspect_image(first).axes if first is not None else axes
    except InvalidInputError:
        return axes
    return found if _spatial(found) == _spatial(axes) else axes


def _spatial(axes: str) -> str:
    return "".join(axis for axis in axes if axis not in "CS")


def _spatial_shape(image: CheckedImage) -> tuple[int, ...]:
    return tuple(length for axis, length in zip(image.axes, image.shape, strict=True) if axis not in "CS")
