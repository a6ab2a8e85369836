"""Measurements on each image of a dataset: one record of plain numbers, and a thumbnail."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.dataset.thumbnails import thumbnail
from parfocal.qc.metrics._arrays import percentiles
from parfocal.qc.metrics.bands import by_blocks
from parfocal.qc.metrics.baselines.gaussian import gaussian_baseline
from parfocal.qc.metrics.data.focus import sharpness
from parfocal.qc.metrics.data.noise import measure_noise
from parfocal.qc.metrics.data.registration import Shift, estimate_shift
from parfocal.qc.metrics.images.fit import ImagePair, ScaledTarget, fit_of
from parfocal.qc.metrics.images.restoration import score_restoration, score_stack
from parfocal.qc.metrics.objects.labels import Kind, LabelSanity, check_labels
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import PixelSize, open_image
from parfocal.runtime.images.pixel_values import value_range
from parfocal.runtime.images.saturation import saturation
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, blocks, release
from parfocal.runtime.images.similarity import SIDE, fingerprint, pixel_digest

COLUMNS: Final[dict[str, str]] = {
    "minimum": "minimum [grey values]",
    "p02": "2 percentile [grey values]",
    "median": "median [grey values]",
    "p998": "99.8 percentile [grey values]",
    "maximum": "maximum [grey values]",
    "mean": "mean [grey values]",
    "sd": "standard deviation [grey values]",
    "noise": "noise sigma [grey values]",
    "signal": "signal [grey values]",
    "snr": "signal / noise",
    "rise": "largest rise / noise",
    "saturated_fraction": "saturated [fraction of pixels]",
    "zero_fraction": "at zero [fraction of pixels]",
    "sharpness": "sharpness [fine / coarse structures]",
    "likeness": "correlation with the smoothed source [-1..1]",
    "shift_z_px": "shift Z [planes]",
    "shift_y_px": "shift Y [pixels]",
    "shift_x_px": "shift X [pixels]",
    "shift_px": "shift [pixels]",
    "source_psnr": "PSNR of the source [dB]",
    "source_ssim": "SSIM of the source [-1..1]",
    "source_pearson": "Pearson r of the source [-1..1]",
    "objects": "objects",
    "object_size_px": "median object [pixels]",
    "labelled_fraction": "labelled [fraction of pixels]",
    "with_holes": "objects with holes",
    "fragmented": "fragmented objects",
    "tiny": "tiny objects",
    "at_border": "objects at the border",
}
"""Each number of an image, which is its column in images.csv, and what people call it."""

_SMOOTHING: Final = 2.0
# Of thicker volumes every second, third … plane is enough to tell noise and sharpness.
_MOST_PLANES: Final = 32
_ENOUGH_OBJECTS: Final = 10


@dataclass(frozen=True)
class Picture:
    """One image of a dataset, to be read when its turn comes."""

    split: str
    role: str
    stem: str
    path: Path
    axes: str
    pixel_size: PixelSize | None
    kind: Kind

    @property
    def label(self) -> str:
        """Name in tables and sentences."""
        return f"{self.split}/{self.role}/{self.stem}"


@dataclass(frozen=True)
class Record:
    """Measurements on one image; their size does not depend on the number of pixels.

    Attributes
    ----------
    values
        By column of `COLUMNS`: measured value; values that were not or cannot be measured are left out.
    digest
        Digest of the pixels.
    print
        The fingerprint, or None.
    sizes
        Pixels of each object of a label image.
    marked
        Numbers of the objects with holes or in several regions.
    same
        Whether a target has the grey values of its source.
    shift
        Shift of a target against its first source, with the reason where there is no estimate.
    problem
        Reason why the image could not be measured, or "".
    """

    picture: Picture
    shape: tuple[int, ...]
    dtype: str
    values: dict[str, float]
    digest: str = ""
    print: npt.NDArray[np.float32] | None = None
    sizes: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    marked: tuple[int, ...] = ()
    same: bool = False
    shift: Shift | None = None
    problem: str = ""

    @property
    def label(self) -> str:
        """Name of the image."""
        return self.picture.label


@dataclass(frozen=True)
class Measured:
    """One field of view: a record and a thumbnail for each of its images, source first.

    Thumbnails are uint8 (Y, X), or (Y, X, RGB) for targets with objects: the source with their outlines.
    """

    split: str
    stem: str
    records: tuple[Record, ...]
    thumbnails: tuple[npt.NDArray[np.uint8], ...]


def measure_field(pictures: Sequence[Picture], scratch: Scratch = IN_MEMORY) -> Measured:
    """Measure all images of one field of view: sources first, then targets, each against the first source.

    Large images, and what is computed of them, lie in `scratch`; label images alone are held in memory.

    Measures that one image is too small or too unusual for are left out of its record; an image that cannot be measured
    at all has a `problem`.
    """
    first: npt.NDArray[Any] | None = None
    records, thumbnails = [], []
    for picture in pictures:
        image = open_image(picture.path, scratch)
        pixels = grey(image.pixels, image.axes, scratch)
        source = first if picture.role.startswith("target") else None
        records.append(_measure(picture, image.pixels, pixels, source, scratch))
        thumbnails.append(thumbnail(pixels, source, picture.kind, records[-1].marked))
        if first is None and picture.role.startswith("source"):
            first = pixels
    return Measured(pictures[0].split, pictures[0].stem, tuple(records), tuple(thumbnails))


def grey(pixels: npt.NDArray[Any], axes: str, scratch: Scratch = IN_MEMORY) -> npt.NDArray[Any]:
    """Return an image as (Y, X) or (Z, Y, X): colours and channels averaged, times taken as planes.

    An average lies in `scratch`; the image need not be in memory.
    """
    averaged = tuple(index for index, axis in enumerate(axes) if axis in "CS")
    if averaged:
        colours = pixels
        moved = np.moveaxis(colours, averaged, range(len(averaged)))
        pixels = scratch.zeros(moved.shape[len(averaged) :], np.float32)
        for window in blocks(pixels.shape):
            part = moved[(slice(None),) * len(averaged) + window]
            pixels[window] = part.mean(axis=tuple(range(len(averaged))), dtype=np.float32)
            release(colours)
            release(pixels)
    return pixels if pixels.ndim <= 3 else pixels.reshape(-1, *pixels.shape[-2:])


def _measure(
    picture: Picture,
    original: npt.NDArray[Any],
    pixels: npt.NDArray[Any],
    source: npt.NDArray[Any] | None,
    scratch: Scratch,
) -> Record:
    values: dict[str, float] = {}
    parts: dict[str, Any] = {"digest": pixel_digest(original)}
    try:
        if picture.kind == "image":
            values |= _statistics(pixels) | _quality(original, pixels, scratch)
            if min(pixels.shape[-2:]) >= SIDE:
                parts["print"] = fingerprint(pixels)
        else:
            if picture.kind == "labels":
                sanity = check_labels(pixels)
                values |= _objects(sanity)
                parts["sizes"] = sanity.sizes
                parts["marked"] = tuple({*sanity.with_holes, *sanity.fragmented})
            else:
                values["labelled_fraction"] = sum(np.count_nonzero(part) for part in _parts(pixels)) / pixels.size
        if source is not None:
            values |= _against(source, pixels, picture.kind, parts, scratch)
    except InvalidInputError as error:
        parts["problem"] = error.message
    return Record(picture, original.shape, original.dtype.name, values, **parts)


def _statistics(pixels: npt.NDArray[Any]) -> dict[str, float]:
    low, middle, high = percentiles(pixels, 2, 50, 99.8)
    smallest, largest = value_range(pixels)
    mean = sum(float(part.sum(dtype=np.float64)) for part in _parts(pixels)) / pixels.size
    squares = sum(float(((part - mean) ** 2).sum(dtype=np.float64)) for part in _parts(pixels))
    return {
        "minimum": float(smallest),
        "p02": low,
        "median": middle,
        "p998": high,
        "maximum": float(largest),
        "mean": mean,
        "sd": math.sqrt(squares / pixels.size),
    }


def _parts(pixels: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield all pixels, block by block, in float64."""
    for window in blocks(pixels.shape):
        yield pixels[window].astype(np.float64)
        release(pixels)


def _quality(original: npt.NDArray[Any], pixels: npt.NDArray[Any], scratch: Scratch) -> dict[str, float]:
    lost = saturation(original)
    values = {"saturated_fraction": lost.at_ceiling, "zero_fraction": lost.at_zero}
    if min(pixels.shape[-2:]) < 3:
        return values
    if pixels.ndim == 3:
        pixels = pixels[:: -(-len(pixels) // _MOST_PLANES)]
    noise = measure_noise(pixels, scratch)
    values |= {"noise": noise.sigma, "signal": noise.signal}
    more = {"snr": noise.snr, "rise": noise.rise_in_noise, "sharpness": sharpness(pixels, noise.sigma)}
    return values | {name: value for name, value in more.items() if value is not None}


def _objects(sanity: LabelSanity) -> dict[str, float]:
    values = {
        "objects": sanity.objects,
        "labelled_fraction": sanity.labelled,
        "with_holes": len(sanity.with_holes),
        "fragmented": len(sanity.fragmented),
        "at_border": len(sanity.at_border),
    }
    return values | ({"object_size_px": float(np.median(sanity.sizes))} if sanity.objects else {})


def _against(
    source: npt.NDArray[Any], target: npt.NDArray[Any], kind: Kind, parts: dict[str, Any], scratch: Scratch
) -> dict[str, float]:
    """Return how a target lies and looks beside its source; the middle plane of a source with more planes counts."""
    if source.ndim > target.ndim:
        source = source[source.shape[0] // 2]
    if source.shape != target.shape:
        return {}
    values: dict[str, float] = {}
    parts["same"] = all(np.array_equal(source[window], target[window]) for window in blocks(target.shape))
    shown = target if kind == "image" else by_blocks(lambda part: part > 0, [target], np.uint8, scratch)
    shift = estimate_shift(source, shown)
    parts["shift"] = shift
    if shift.vector is not None and shift.distance is not None:
        values |= dict(zip(("shift_z_px", "shift_y_px", "shift_x_px")[-len(shift.vector) :], shift.vector, strict=True))
        values["shift_px"] = shift.distance
    likeness = _likeness(source, shown, scratch)
    if likeness is not None:
        values["likeness"] = likeness
    smallest, largest = value_range(target)
    if kind == "image" and smallest < largest and min(target.shape[-2:]) >= 11:
        scores = [
            score
            for score in (
                # One plane at a time, because fields are what goes on in parallel.
                score_stack(source, target, workers=1, scratch=scratch)[0]
                if target.ndim == 3
                else [score_restoration(source, target, scratch=scratch)[0]]
            )
            if score is not None
        ]
        for name in ("psnr", "ssim", "pearson"):
            values[f"source_{name}"] = float(np.mean([getattr(score, name) for score in scores]))
    return values


def _likeness(source: npt.NDArray[Any], target: npt.NDArray[Any], scratch: Scratch) -> float | None:
    """Return Pearson's correlation of both images smoothed, so that noise does not hide what they share."""
    for image in (source, target):
        smallest, largest = value_range(image)
        if smallest == largest:
            return None
    first, second = (gaussian_baseline(image, _SMOOTHING, scratch) for image in (source, target))
    fit, _ = fit_of(ImagePair(first, ScaledTarget(second)))
    return None if fit.constant else fit.pearson


def count_tiny(records: Iterable[Record], fraction: float) -> None:
    """Add to the records of one role the number of objects smaller than a fraction of the median object.

    The median is that of the image itself, as magnifications may differ; with fewer than ten objects, that of all
    objects of the role.
    """
    labelled = [record for record in records if "objects" in record.values]
    sizes = np.concatenate([record.sizes for record in labelled]) if labelled else np.zeros(0)
    for record in labelled:
        group = record.sizes if len(record.sizes) >= _ENOUGH_OBJECTS else sizes
        middle = float(np.median(group)) if group.size else 0.0
        record.values["tiny"] = int(np.count_nonzero(record.sizes < fraction * middle))


def write_images_csv(path: Path, records: Iterable[Record], findings: Mapping[str, Sequence[str]]) -> None:
    """Write one line for each image, UTF-8; what was not measured is empty.

    Parameters
    ----------
    findings
        By label of an image: names of the checks that found something.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        heads = ("split", "role", "image", "kind", "axes", "shape", "dtype", "pixel_size_um", "findings")
        writer.writerow([*heads, *COLUMNS, "no_shift_reason"])
        for record in records:
            picture = record.picture
            writer.writerow(
                [
                    *(picture.split, picture.role, picture.stem, picture.kind, picture.axes),
                    " x ".join(map(str, record.shape)),
                    record.dtype,
                    pixel_size_text(picture.pixel_size),
                    " ".join(findings.get(record.label, ())),
                    *(repr(record.values[name]) if name in record.values else "" for name in COLUMNS),
                    record.shift.reason if record.shift is not None else "",
                ]
            )


def pixel_size_text(size: PixelSize | None) -> str:
    """Return a pixel size as "0.1 x 0.1 x 0.5", x first; "" if it is unknown."""
    if size is None:
        return ""
    return " x ".join(f"{length:.4g}" for length in (size.x, size.y, size.z) if length is not None)
