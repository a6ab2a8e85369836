"""The files people use objects from besides the label image: table, ImageJ regions, spots for TrackMate."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import roifile
from numpy.typing import NDArray

from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.images.scratch import blocks, release
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outputs import Column
from parfocal.runtime.prediction.object_measures import measure_columns, measure_objects
from parfocal.runtime.prediction.tables import TableFile
from parfocal.runtime.prediction.unit import Stack
from parfocal.runtime.store.manifests import OBJECTS


class ObjectFiles:
    """Writes the objects of one image, plane by plane or volume by volume.

    Parameters
    ----------
    folder, stem
        Where the files go and what the image is called.
    stack
        How the units make up the image.
    pixel_size
        Of the image; the columns in micrometres are left out where it is unknown.
    """

    def __init__(self, folder: Path, stem: str, stack: Stack, pixel_size: PixelSize | None) -> None:
        self.names: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self._folder = folder
        self._stem = stem
        self._stack = stack
        self._pixel_size = pixel_size
        self._table: TableFile | None = None
        self._spots: TableFile | None = None
        self._splines: TableFile | None = None
        self._rois: zipfile.ZipFile | None = None
        self._spot = 0
        self._open = contextlib.ExitStack()

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the table of objects."""
        return self._table.columns if self._table is not None else ()

    def add(self, number: int, objects: Objects, pixels: NDArray[Any] | None = None) -> None:
        """Append the objects of one unit, which counts from 0; those wholly covered by others are left out.

        `pixels` are those of the unit, several channels last; None if intensities are not to be measured.
        """
        dimensions = objects.labels.ndim
        lengths = _lengths(self._pixel_size, dimensions)
        seen = list(_seen(objects))
        self.counts[OBJECTS] += len(seen)
        if objects.class_probability is not None:
            found = Counter(each.object_class for each in seen)
            for known in (*range(1, objects.class_probability.shape[1]), 0):
                self.counts[f"class_{known}"] += found[known]
        if self._table is None:
            channels = 0 if pixels is None else pixels.shape[-1] if pixels.ndim > dimensions else 1
            more = measure_columns(dimensions, channels, lengths)
            self._table = self._open_table(OBJECTS, [*_columns(objects, self._pixel_size), *more])
        measured = measure_objects(objects.labels, pixels, lengths)
        self._table.write([*_row(number, each, objects, self._pixel_size), *measured[each.label]] for each in seen)
        if len(objects.outlines):
            self._add_rois(number, objects)
        if objects.splines is not None:
            self._splines = self._splines or self._open_table("splines", _SPLINE_COLUMNS)
            self._splines.write(row for each in seen for row in _spline_rows(number, each.label, objects.splines))
        if "T" in self._stack.axes:
            self._spots = self._spots or self._open_table("trackmate", _SPOT_COLUMNS)
            self._spots.write(self._spot_row(number, each, objects.labels.ndim) for each in seen)

    def close(self) -> None:
        """Complete the files."""
        self._open.close()

    def _open_table(self, kind: str, columns: Sequence[Column]) -> TableFile:
        self.names[kind] = f"{kind}/{self._stem}.csv"
        table = TableFile(self._folder / self.names[kind], columns)
        self._open.callback(table.close)
        return table

    def _add_rois(self, number: int, objects: Objects) -> None:
        """Append the outlines as regions named by plane and label; a stack's have their position.

        Coordinates are those of ImageJ, where the centre of the first pixel is at 0.5. An object's class is the group
        of its region, by which ImageJ colours and selects regions; class 0 is no group.
        """
        if self._rois is None:
            self.names["rois"] = f"rois/{self._stem}.zip"
            path = self._folder / self.names["rois"]
            path.parent.mkdir(parents=True, exist_ok=True)
            self._rois = self._open.enter_context(zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED))
        for index, outline in enumerate(objects.outlines):
            name = _roi_name(number, index + 1)
            roi = roifile.ImagejRoi.frompoints(outline[:, ::-1] + 0.5, name=name)
            roi.roitype = roifile.ROI_TYPE.POLYGON
            if objects.classes is not None:
                roi.group = int(objects.classes[index])
            if len(self._stack) > 1:
                roi.position = number + 1
            self._rois.writestr(f"{name}.roi", roi.tobytes())

    def _spot_row(self, number: int, each: _Seen, dimensions: int) -> list[Any]:
        """Return an object as a spot that TrackMate's CSV importer reads.

        Positions and radii are in the units ImageJ gives the image: micrometres, or pixels where it does not say its
        pixel size; the centre of the first pixel is at 0, and a distance of planes that is not known is 1. The radius
        is that of the disc or ball as large as the object. Frames count from 0, ids are unique in the file, and names
        are those of the ImageJ regions.
        """
        self._spot += 1
        size = self._pixel_size
        step = (1.0, 1.0, 1.0) if size is None else (size.z or 1.0, size.y, size.x)
        place = self._stack.place(number)
        depth = each.centre[0] if dimensions == 3 else float(place.get("Z", 0))
        z, y, x = (value * length for value, length in zip((depth, *each.centre[-2:]), step, strict=True))
        volume = each.pixels * math.prod(step[-dimensions:])
        radius = math.sqrt(volume / math.pi) if dimensions == 2 else math.cbrt(3 * volume / (4 * math.pi))
        position = [f"{value:.4f}" for value in (x, y, z, radius)]
        return [place["T"], self._spot, _roi_name(number, each.label), *position, f"{each.probability:.4f}"]


_SPLINE_COLUMNS = (*map(Column, ("plane", "label", "point")), Column("y_px", "px"), Column("x_px", "px"))
_SPOT_COLUMNS = tuple(map(Column, ("frame", "id", "name", "x", "y", "z", "radius", "quality")))


def class_image(objects: Objects, window: tuple[slice, ...] | EllipsisType = ...) -> NDArray[np.uint8]:
    """Return an image, or a window of it, of the class of the object that each pixel belongs to, 0 outside.

    Raises
    ------
    ValueError
        The objects have no classes.
    """
    if objects.classes is None:
        raise ValueError("these objects have no classes")
    image: NDArray[np.uint8] = np.concatenate([[0], objects.classes]).astype(np.uint8)[objects.labels[window]]
    return image


def _columns(objects: Objects, pixel_size: PixelSize | None) -> list[Column]:
    dimensions = objects.labels.ndim
    axes = "zyx"[-dimensions:]
    size, power = {2: ("area", "2"), 3: ("volume", "3")}[dimensions]
    columns = [Column("plane"), Column("label"), *(Column(f"{axis}_px", "px") for axis in axes)]
    columns.append(Column(f"{size}_px", "px"))
    if _lengths(pixel_size, dimensions) is not None:
        columns += [*(Column(f"{axis}_um", "um") for axis in axes), Column(f"{size}_um{power}", f"um{power}")]
    columns.append(Column("probability"))
    if objects.class_probability is not None:
        columns += [Column("class"), Column("class_probability")]
    return columns


def _row(number: int, each: _Seen, objects: Objects, pixel_size: PixelSize | None) -> list[Any]:
    """Return plane, label, centroid, size, probability and class of an object; the plane counts from 0."""
    row: list[Any] = [number, each.label, *(f"{value:.3f}" for value in each.centre), each.pixels]
    lengths = _lengths(pixel_size, objects.labels.ndim)
    if lengths is not None:
        row += [f"{value * length:.4f}" for value, length in zip(each.centre, lengths, strict=True)]
        row.append(f"{each.pixels * np.prod(lengths):.5g}")
    row.append(f"{each.probability:.4f}")
    if each.object_class is not None:
        row += [each.object_class, f"{each.class_probability:.4f}"]
    return row


def _spline_rows(number: int, label: int, splines: NDArray[np.float32]) -> Iterator[list[Any]]:
    """Yield plane, label, number from 1 and place of each control point of an object; the plane counts from 0."""
    for point, (y, x) in enumerate(splines[label - 1].tolist(), start=1):
        yield [number, label, point, f"{y:.3f}", f"{x:.3f}"]


def _lengths(pixel_size: PixelSize | None, dimensions: int) -> tuple[float, ...] | None:
    return None if pixel_size is None else pixel_size.lengths(dimensions)


@dataclass(frozen=True)
class _Seen:
    """An object as it can be seen in its label image: label from 1, centroid and size in pixels."""

    label: int
    centre: tuple[float, ...]
    pixels: int
    probability: float
    object_class: int | None
    class_probability: float


def _seen(objects: Objects) -> Iterator[_Seen]:
    """Yield the objects of a unit, but for those that are wholly covered by others."""
    centroids, counts = _measure(objects.labels)
    classes = objects.classes
    for index, probability in enumerate(objects.probability.tolist()):
        # The last ones may be covered too, then there are fewer counts than objects.
        if index < len(counts) and counts[index]:
            centre, pixels = tuple(centroids[index].tolist()), int(counts[index])
            known: tuple[int | None, float] = (None, 0.0)
            if classes is not None and objects.class_probability is not None:
                known = (int(classes[index]), float(objects.class_probability[index].max()))
            yield _Seen(index + 1, centre, pixels, probability, *known)


def _roi_name(number: int, label: int) -> str:
    return f"{number + 1:04d}-{label:05d}"


def _measure(labels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the centroid in pixels (objects, axes) and the number of pixels of each object, block by block."""
    counts, sums = np.zeros(0, np.int64), np.zeros((0, labels.ndim))
    for window in blocks(labels.shape):
        part = labels[window]
        flat = part.ravel()
        places = np.flatnonzero(flat)
        values = flat[places].astype(np.int64)
        most = max(len(counts), int(values.max(initial=0)))
        here = np.bincount(values, minlength=most + 1)[1:]
        counts = np.pad(counts, (0, most - len(counts))) + here
        sums = np.pad(sums, ((0, most - len(sums)), (0, 0)))
        for axis, coordinate in enumerate(np.unravel_index(places, part.shape)):
            # Of whole numbers, so that the sums are exact in any order.
            weights = coordinate + window[axis].start
            sums[:, axis] += np.bincount(values, weights=weights, minlength=most + 1)[1:]
        release(labels)
    with np.errstate(invalid="ignore"):
        centroids = sums / counts[:, np.newaxis]
    return centroids, counts
