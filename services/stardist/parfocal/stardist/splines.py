"""Closed uniform cubic B-splines as outlines of objects, after SplineDist (Mandal & Uhlmann, 2021)."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

SAMPLES = 4
"""Points of a contour for each control point, in the loss and in outlines: a chord then lies 0.1 % of the radius of a
circle with 16 control points beside its arc."""


def cubic_b_spline(t: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the cubic B-spline of support 4 around 0: 2/3 at 0, 1/6 at -1 and 1, and 0 from -2 and 2 on."""
    distance = np.abs(np.asarray(t, np.float64))
    near = 2 / 3 - distance**2 + distance**3 / 2
    return np.where(distance < 1, near, np.maximum(2 - distance, 0) ** 3 / 6)


@functools.cache
def basis(control_points: int, samples: int) -> NDArray[np.float64]:
    """Return what each control point contributes to each sample of a closed curve.

    Parameters
    ----------
    control_points
        M of them, at least 4: the support of a cubic B-spline.
    samples
        n points at the parameters k M / n of the curve.

    Returns
    -------
    NDArray
        float64 (n, M), rows adding up to 1. A curve with control points P (M, 2) has the samples ``basis @ P``.
    """
    if control_points < 4:
        raise ValueError(f"a closed cubic spline has at least 4 control points, not {control_points}")
    parameter = np.arange(samples) * control_points / samples
    distance = parameter[:, np.newaxis] - np.arange(control_points)
    # The nearest copy of a control point on the closed curve is less than 2 away where it counts.
    wrapped = (distance + control_points / 2) % control_points - control_points / 2
    return cubic_b_spline(wrapped)


def control_points(
    parameters: NDArray[np.float32], places: NDArray[np.floating] | NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return control points from what the network predicts at some places.

    Parameters
    ----------
    parameters
        (N, 2 M): distance in pixels and angle of each control point, one after the other. The angle goes from the Y
        to the X axis.
    places
        (N, 2): y and x in pixels.

    Returns
    -------
    NDArray
        float64 (N, M, 2) as y and x in pixels.
    """
    distance, angle = (parameters[:, start::2].astype(np.float64) for start in (0, 1))
    offsets = np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=-1)
    return places[:, np.newaxis].astype(np.float64) + offsets


def curves(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `SAMPLES` points for each control point of some closed curves: (N, M, 2) becomes (N, SAMPLES M, 2)."""
    count = points.shape[1]
    return np.asarray(basis(count, SAMPLES * count) @ points)


def contours(labels: NDArray[np.int32], samples: int) -> NDArray[np.float32]:
    """Return the outer contour of each object, resampled at equal distances.

    A contour runs half-way between the pixels of the object and those around it, in the direction from the Y to the X
    axis. Of an object in several pieces, the largest one is outlined; pixels that touch at a corner are connected.

    Parameters
    ----------
    labels
        (Y, X), 0 for background. Ids need not follow each other.
    samples
        Points of each contour.

    Returns
    -------
    NDArray
        float32 (1 + largest id, samples, 2) as y and x in pixels, the centre of the first pixel at 0; zeros for ids
        that do not occur.
    """
    found = np.zeros((int(labels.max(initial=0)) + 1, samples, 2), np.float32)
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is None:
            continue
        inside = np.pad(labels[window] == number, 1).astype(np.float64)
        lines = find_contours(inside, 0.5, fully_connected="high")
        areas = [signed_area(line) for line in lines]
        largest = int(np.argmax(np.abs(areas)))
        line = lines[largest] if areas[largest] > 0 else lines[largest][::-1]
        offset = np.array([part.start - 1 for part in window])
        found[number] = resample(line, samples) + offset
    return found


def signed_area(line: NDArray[np.float64]) -> float:
    """Return the area inside a closed polygon (N, 2) in square pixels: positive if it goes from the Y to the X axis."""
    y, x = line[:, 0], line[:, 1]
    return float(np.sum(y * np.roll(x, -1) - np.roll(y, -1) * x) / 2)


def resample(line: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    """Return so many points of a closed line (N, 2), whose last point is its first, at equal distances along it."""
    steps = np.hypot(*np.diff(line, axis=0).T)
    along = np.concatenate([[0], np.cumsum(steps)])
    wanted = np.arange(samples) * along[-1] / samples
    return np.stack([np.interp(wanted, along, line[:, axis]) for axis in (0, 1)], axis=-1)
