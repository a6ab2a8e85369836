"""Objects found in an image, and the files people use them from: label image, table, ImageJ regions."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images.files import Image, PixelSize

_LABEL_TYPES = (np.uint16, np.uint32)


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes
    ----------
    labels
        Integers, of the image's spatial shape: 0 is background, object number i has the value i + 1.
    probability
        float32, one per object: how sure the network is that it is one.
    outlines
        Per object its corners, float32 of shape (corners, 2) as y and x in pixels; empty where there are none (3D).
    class_probability
        float32 of shape (objects, 1 + classes): how probable each class is, in the first place that of none of them.
        None where classes are not told apart.
    """

    labels: NDArray[Any]
    probability: NDArray[np.float32]
    outlines: Sequence[NDArray[np.float32]] = ()
    class_probability: NDArray[np.float32] | None = None

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """Per object its most probable class, from 1, or 0 if it is most probably of none; None without classes."""
        return None if self.class_probability is None else np.argmax(self.class_probability, axis=-1)


def compact_labels(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Return a label image with its objects numbered from 1 in the order of their ids, and all negative ids as -1.

    Ids of any integer type and size come in: networks and libraries count in 32 bits, and some keep a list as long as
    the largest id.
    """
    if labels.dtype.kind == "i":
        labels = np.maximum(labels, -1)
    ids, places = np.unique(labels, return_inverse=True)
    numbers = np.cumsum(ids > 0)
    compact: NDArray[np.int32] = np.where(ids.astype(np.float64) < 0, -1, numbers).astype(np.int32)[places]
    return compact.reshape(labels.shape)


def stack_labels(planes: Sequence[Objects]) -> NDArray[Any]:
    """Return the label images of several planes as one array, in the smallest type of a label image that holds them.

    Every plane counts from 1: nothing is known of an object's identity from one plane to the next.
    """
    most = max((int(plane.labels.max(initial=0)) for plane in planes), default=0)
    dtype = next(dtype for dtype in _LABEL_TYPES if most <= np.iinfo(dtype).max)
    return np.stack([plane.labels.astype(dtype) for plane in planes])


def stack_classes(planes: Sequence[Objects]) -> NDArray[np.uint8]:
    """Return images of the class of the object that each pixel belongs to, 0 outside, of planes that all have classes.

    Raises
    ------
    ValueError
        A plane has no classes.
    """
    images = []
    for plane in planes:
        if plane.classes is None:
            raise ValueError("these objects have no classes")
        images.append(np.concatenate([[0], plane.classes]).astype(np.uint8)[plane.labels])
    return np.stack(images)


def write_object_files(folder: Path, stem: str, image: Image, planes: Sequence[Objects]) -> dict[str, str]:
    """Write the files of one image's objects besides the label image and return their names in `folder` by kind.

    Parameters
    ----------
    image
        The label image that the `planes` were stacked to, with the axes and pixel size of its source.
    """
    names = {"objects": f"objects/{stem}.csv"}
    if any(len(plane.outlines) for plane in planes):
        names["rois"] = f"rois/{stem}.zip"
    if "T" in image.axes:
        names["trackmate"] = f"trackmate/{stem}.csv"
    paths = {kind: folder / name for kind, name in names.items()}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    write_object_table(paths["objects"], planes, image.pixel_size)
    if "rois" in paths:
        write_rois(paths["rois"], planes)
    if "trackmate" in paths:
        stacked = image.pixels.ndim - planes[0].labels.ndim
        axes, lengths = image.axes[:stacked], image.pixels.shape[:stacked]
        write_trackmate_table(paths["trackmate"], planes, axes, lengths, image.pixel_size)
    return names


def write_object_table(path: Path, planes: Sequence[Objects], pixel_size: PixelSize | None) -> None:
    """Write one line for each object: plane, label, centroid, size, probability and class, in pixels and micrometres.

    The plane counts from 0. The columns in micrometres are left out where the image does not say its pixel size, and
    those of the class where classes are not told apart.
    """
    dimensions = planes[0].labels.ndim
    axes = "zyx"[-dimensions:]
    lengths = None if pixel_size is None else pixel_size.lengths(dimensions)
    size = "volume" if dimensions == 3 else "area"
    power = {2: "2", 3: "3"}[dimensions]
    header = ["plane", "label", *(f"{axis}_px" for axis in axes), f"{size}_px"]
    if lengths is not None:
        header += [*(f"{axis}_um" for axis in axes), f"{size}_um{power}"]
    rows: list[list[Any]] = []
    for each in _seen(planes):
        row: list[Any] = [each.plane, each.label, *(f"{value:.3f}" for value in each.centre), each.pixels]
        if lengths is not None:
            row += [f"{value * length:.4f}" for value, length in zip(each.centre, lengths, strict=True)]
            row.append(f"{each.pixels * np.prod(lengths):.5g}")
        row.append(f"{each.probability:.4f}")
        if each.object_class is not None:
            row += [each.object_class, f"{each.class_probability:.4f}"]
        rows.append(row)
    header.append("probability")
    if planes[0].class_probability is not None:
        header += ["class", "class_probability"]
    _write_csv(path, header, rows)


def write_trackmate_table(
    path: Path, planes: Sequence[Objects], axes: str, lengths: Sequence[int], pixel_size: PixelSize | None
) -> None:
    """Write the objects of a time-lapse as the spots that TrackMate's CSV importer reads.

    Positions and radii are in the units ImageJ gives the image: micrometres, or pixels where it does not say its pixel
    size; the centre of the first pixel is at 0, and a distance of planes that is not known is 1. The radius is
    that of the disc or ball as large as the object. Frames count from 0, ids are unique in the file, and names are
    those of the ImageJ regions.

    Parameters
    ----------
    planes
        What was predicted one by one, the last of `axes` changing fastest.
    axes, lengths
        How the planes make up the image: "T", or "TZ" where frames are stacks of single planes, and their lengths.
    """
    step = (1.0, 1.0, 1.0)
    if pixel_size is not None:
        step = (pixel_size.z or 1.0, pixel_size.y, pixel_size.x)
    dimensions = planes[0].labels.ndim
    rows: list[list[Any]] = []
    for number, each in enumerate(_seen(planes), start=1):
        place = dict(zip(axes, np.unravel_index(each.plane, tuple(lengths)), strict=True))
        depth = each.centre[0] if dimensions == 3 else float(place.get("Z", 0))
        z, y, x = (value * length for value, length in zip((depth, *each.centre[-2:]), step, strict=True))
        size = each.pixels * math.prod(step[-dimensions:])
        radius = math.sqrt(size / math.pi) if dimensions == 2 else math.cbrt(3 * size / (4 * math.pi))
        position = [f"{value:.4f}" for value in (x, y, z, radius)]
        name = _roi_name(each.plane, each.label)
        rows.append([int(place["T"]), number, name, *position, f"{each.probability:.4f}"])
    _write_csv(path, ["frame", "id", "name", "x", "y", "z", "radius", "quality"], rows)


def write_rois(path: Path, planes: Sequence[Objects]) -> None:
    """Write the outlines as an ImageJ ROI set (.zip), named by plane and label; a stack's have their position.

    Coordinates are those of ImageJ, where the centre of the first pixel is at 0.5. An object's class is the group of
    its region, by which ImageJ colours and selects regions; class 0 is no group.
    """
    # Imported late: only methods with outlines bring the package.
    import roifile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, plane in enumerate(planes):
            for index, outline in enumerate(plane.outlines):
                name = _roi_name(number, index + 1)
                roi = roifile.ImagejRoi.frompoints(outline[:, ::-1] + 0.5, name=name)
                roi.roitype = roifile.ROI_TYPE.POLYGON
                if plane.classes is not None:
                    roi.group = int(plane.classes[index])
                if len(planes) > 1:
                    roi.position = number + 1
                archive.writestr(f"{name}.roi", roi.tobytes())


def count_objects(planes: Sequence[Objects]) -> int:
    """Return how many objects can be seen in the label images."""
    return sum(int(np.count_nonzero(_measure(plane.labels)[1])) for plane in planes)


def count_classes(planes: Sequence[Objects]) -> dict[int, int]:
    """Return how many of the objects that can be seen are of each class, 0 last; nothing where there are no classes."""
    probability = planes[0].class_probability
    if probability is None:
        return {}
    seen = [each.object_class for each in _seen(planes)]
    return {number: seen.count(number) for number in (*range(1, probability.shape[1]), 0)}


@dataclass(frozen=True)
class _Seen:
    """An object as it can be seen in its label image: plane from 0, label from 1, centroid and size in pixels."""

    plane: int
    label: int
    centre: tuple[float, ...]
    pixels: int
    probability: float
    object_class: int | None
    class_probability: float


def _seen(planes: Sequence[Objects]) -> Iterator[_Seen]:
    """Yield the objects plane by plane, but for those that are wholly covered by others."""
    for number, plane in enumerate(planes):
        centroids, counts = _measure(plane.labels)
        classes = plane.classes
        for index, probability in enumerate(plane.probability.tolist()):
            # The last ones may be covered too, then there are fewer counts than objects.
            if index < len(counts) and counts[index]:
                centre, pixels = tuple(centroids[index].tolist()), int(counts[index])
                known: tuple[int | None, float] = (None, 0.0)
                if classes is not None and plane.class_probability is not None:
                    known = (int(classes[index]), float(plane.class_probability[index].max()))
                yield _Seen(number, index + 1, centre, pixels, probability, *known)


def _roi_name(plane: int, label: int) -> str:
    return f"{plane + 1:04d}-{label:05d}"


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _measure(labels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the centroid in pixels (objects, axes) and the number of pixels of each object."""
    flat = labels.ravel()
    places = np.flatnonzero(flat)
    values = flat[places].astype(np.int64)
    counts = np.bincount(values)[1:]
    sums = [np.bincount(values, weights=coordinate)[1:] for coordinate in np.unravel_index(places, labels.shape)]
    with np.errstate(invalid="ignore"):
        centroids = np.stack(sums, axis=-1) / counts[:, np.newaxis]
    return centroids, counts
