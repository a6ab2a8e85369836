"""How far the outlines of found objects lie from those of their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree
from skimage.segmentation import find_boundaries

from parfocal.qc.metrics.bands import bands
from parfocal.qc.metrics.objects.instances import Matches
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import release


@dataclass(frozen=True)
class BoundaryDistances:
    """Distances of one image, in the unit of the pixel size, for each pair of objects in the order of the pairs.

    Attributes
    ----------
    mean
        Average symmetric distance of the outlines.
    hausdorff_95
        The distance that 95 % of the outline stay below, of the worse direction.
    """

    mean: npt.NDArray[np.float64]
    hausdorff_95: npt.NDArray[np.float64]


def boundary_distances(
    target: npt.NDArray[Any], prediction: npt.NDArray[Any], matches: Matches, pixel_size: Sequence[float] | None = None
) -> BoundaryDistances:
    """Measure the distance between the outlines of each pair of objects.

    The outline of an object are its pixels that touch another label along an axis; the edge of the image is no
    outline. From each outline pixel the distance to the nearest of the other outline is taken, in both directions.
    Their mean over both outlines is the average symmetric surface distance, the larger of the two 95th percentiles the
    robust Hausdorff distance (Taha and Hanbury, BMC Medical Imaging 15, 29, 2015).

    Parameters
    ----------
    target, prediction
        Label images of one shape, (Y, X) or (Z, Y, X), which need not be in memory; the outlines are.
    matches
        Matched objects.
    pixel_size
        Lengths of a pixel along the axes of the images; without it distances are in pixels.

    Returns
    -------
    BoundaryDistances
        float64, one value for each of `matches.pairs`. A pair without any outline, which fills its image, has 0.

    Raises
    ------
    InvalidInputError
        The pixel size does not have one length above zero for each axis.
    """
    size = np.ones(target.ndim) if pixel_size is None else np.asarray(pixel_size, np.float64)
    if size.shape != (target.ndim,) or not (size > 0).all():
        raise InvalidInputError(
            f"The pixel size {tuple(pixel_size or ())} does not have a length above zero for each of the "
            f"{target.ndim} axes of the label images."
        )
    theirs = _outlines(target, [pair[0] for pair in matches.pairs], size)
    ours = _outlines(prediction, [pair[1] for pair in matches.pairs], size)
    mean, largest = np.zeros(len(matches.pairs)), np.zeros(len(matches.pairs))
    for place, (one, other) in enumerate(zip(theirs, ours, strict=True)):
        if len(one) and len(other):
            there, _ = KDTree(one).query(other)
            back, _ = KDTree(other).query(one)
            mean[place] = (there.sum() + back.sum()) / (there.size + back.size)
            largest[place] = max(np.percentile(there, 95), np.percentile(back, 95))
    return BoundaryDistances(mean, largest)


def _outlines(
    labels: npt.NDArray[Any], chosen: Sequence[int], size: npt.NDArray[np.float64]
) -> list[npt.NDArray[np.float64]]:
    """Return the places of the outline pixels of each chosen label, in the unit of `size`."""
    found, points = [], []
    for band in bands(labels.shape, 1):
        part = labels[band.padded]
        places = np.nonzero(find_boundaries(part, connectivity=1, mode="inner")[band.core])
        ids = part[band.core][places]
        wanted = np.isin(ids, chosen)
        found.append(ids[wanted])
        places = places[0] + band.rows.start, *places[1:]
        points.append(np.stack(places, axis=1)[wanted].astype(np.int32))
        release(labels)
    ids = np.concatenate(found)
    order = np.argsort(ids, kind="stable")
    ids, at = ids[order], np.concatenate(points)[order]
    starts, stops = np.searchsorted(ids, chosen, "left"), np.searchsorted(ids, chosen, "right")
    return [at[start:stop] * size for start, stop in zip(starts, stops, strict=True)]
