"""Objects found in an image, and the files people use them from: label image, table, ImageJ regions."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images import PixelSize

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
    """

    labels: NDArray[Any]
    probability: NDArray[np.float32]
    outlines: Sequence[NDArray[np.float32]] = ()


def stack_labels(planes: Sequence[Objects]) -> NDArray[Any]:
    """Return the label images of several planes as one array, in the smallest type of a label image that holds them.

    Every plane counts from 1: nothing is known of an object's identity from one plane to the next.
    """
    most = max((int(plane.labels.max(initial=0)) for plane in planes), default=0)
    dtype = next(dtype for dtype in _LABEL_TYPES if most <= np.iinfo(dtype).max)
    return np.stack([plane.labels.astype(dtype) for plane in planes])


def write_object_table(path: Path, planes: Sequence[Objects], pixel_size: PixelSize | None) -> None:
    """Write one line for each object: plane, label, centroid, size and probability, in pixels and micrometres.

    The plane counts from 0 and is the frame of a time-lapse, so that tracking programs can read the table. The
    columns in micrometres are left out where the image does not say its pixel size.
    """
    dimensions = planes[0].labels.ndim
    axes = "zyx"[-dimensions:]
    lengths = None if pixel_size is None else pixel_size.lengths(dimensions)
    size = "volume" if dimensions == 3 else "area"
    power = {2: "2", 3: "3"}[dimensions]
    header = ["plane", "label", *(f"{axis}_px" for axis in axes), f"{size}_px"]
    if lengths is not None:
        header += [*(f"{axis}_um" for axis in axes), f"{size}_um{power}"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "probability"])
        for number, plane in enumerate(planes):
            centroids, counts = _measure(plane.labels)
            for index, probability in enumerate(plane.probability.tolist()):
                if not counts[index]:
                    continue  # wholly covered by others
                centre = centroids[index]
                row: list[Any] = [number, index + 1, *(f"{value:.3f}" for value in centre), int(counts[index])]
                if lengths is not None:
                    row += [f"{value * length:.4f}" for value, length in zip(centre, lengths, strict=True)]
                    row.append(f"{counts[index] * np.prod(lengths):.5g}")
                writer.writerow([*row, f"{probability:.4f}"])


def write_rois(path: Path, planes: Sequence[Objects]) -> None:
    """Write the outlines as an ImageJ ROI set (.zip), named by plane and label; a stack's have their position.

    Coordinates are those of ImageJ, where the centre of the first pixel is at 0.5.
    """
    # Imported late: only methods with outlines bring the package.
    import roifile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, plane in enumerate(planes):
            for index, outline in enumerate(plane.outlines):
                name = f"{number + 1:04d}-{index + 1:05d}"
                roi = roifile.ImagejRoi.frompoints(outline[:, ::-1] + 0.5, name=name)
                roi.roitype = roifile.ROI_TYPE.POLYGON
                if len(planes) > 1:
                    roi.position = number + 1
                archive.writestr(f"{name}.roi", roi.tobytes())


def count_objects(planes: Sequence[Objects]) -> int:
    """Return how many objects can be seen in the label images."""
    return sum(int(np.count_nonzero(_measure(plane.labels)[1])) for plane in planes)


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
