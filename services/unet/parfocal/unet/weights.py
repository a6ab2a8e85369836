"""How much each pixel counts in the cross-entropy: by its class, and by how near it is to another class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def balanced_weights(counts: NDArray[np.int64], *, one_in_total: bool) -> list[float]:
    """Return a weight for each class, inversely proportional to how many pixels it has.

    Of n pixels in C classes, n_c of them in class c, the weight is n / (C n_c), so that the mean over the pixels is 1
    (the notebook U-Net 2D). With `one_in_total` weights add up to 1: of two classes each has the frequency of the other
    (the notebook U-Net 3D). A class without pixels has weight 0.
    """
    inverse = np.where(counts > 0, 1 / np.maximum(counts, 1), 0)
    scale = 1 / inverse.sum() if one_in_total else counts.sum() / np.count_nonzero(counts)
    weights: list[float] = (inverse * scale).tolist()
    return weights


def pixel_weights(
    classes: NDArray[np.int64],
    class_weights: Sequence[float] | None,
    boundary_weight: float,
    boundary_width: float,
    anisotropy: float,
) -> NDArray[np.float32]:
    """Return the weight of each pixel of a batch.

    Near another class it is 1 + b exp(-d² / 2w²) times that of its class, with the distance d between the middles of
    the pixel and of the nearest one of another class, less the half pixel to the boundary. Ronneberger et al. (2015)
    weight the gap between two objects in this way; class images do not tell objects apart.

    Parameters
    ----------
    classes
        (batch, (Z,) Y, X): class indices, below 0 where they are not known; those neither have nor make boundaries.
    class_weights
        Weight of each class in the loss; None where all count the same.
    boundary_weight, boundary_width
        b, and w in pixels along Y and X.
    anisotropy
        Distance of planes in pixels along X.
    """
    known = classes >= 0
    by_class = np.ones(classes.shape) if class_weights is None else np.asarray(class_weights)[np.maximum(classes, 0)]
    if boundary_weight:
        spacing = [anisotropy, 1.0, 1.0][-(classes.ndim - 1) :]
        for number, image in enumerate(classes):
            by_class[number] *= 1 + boundary_weight * _near_boundary(image, boundary_width, spacing)
    weights: NDArray[np.float32] = (by_class * known).astype(np.float32)
    return weights


def _near_boundary(image: NDArray[np.int64], width: float, spacing: Sequence[float]) -> NDArray[np.float64]:
    near = np.zeros(image.shape)
    present = np.unique(image[image >= 0])
    for number in present if len(present) > 1 else ():
        mine = image == number
        distance = ndimage.distance_transform_edt(mine | (image < 0), sampling=spacing)[mine]
        near[mine] = np.exp(-((distance - 0.5) ** 2) / (2 * width**2))
    return near
