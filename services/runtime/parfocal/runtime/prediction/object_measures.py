"""Intensities and shapes of objects, as scikit-image measures them; what uses this needs the extra `objects`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.runtime.images.scratch import blocks, release
from parfocal.runtime.methods.outputs import Column

_STATISTICS: Final = ("mean", "min", "max", "integrated")
_LENGTHS: Final = {"axis_major_length": "major_axis", "axis_minor_length": "minor_axis"}
_FLAT: Final = ("eccentricity", "solidity")
"""Ratios that are measured in planes alone: the hull of a volume that is one plane thick is not defined."""


def measure_columns(dimensions: int, channels: int, lengths: Sequence[float] | None) -> list[Column]:
    """Return the columns of what `measure_objects` measures, in its order.

    Parameters
    ----------
    dimensions
        2 for objects in planes, 3 in volumes.
    channels
        Of the images; 0 where intensities are not measured.
    lengths
        Of a pixel along each axis in micrometres; None where they are not known.
    """
    channel_names = [""] if channels == 1 else [f"_channel_{channel + 1}" for channel in range(channels)]
    columns = [Column(f"intensity_{name}{channel}") for channel in channel_names for name in _STATISTICS]
    measured = [*(["perimeter"] if dimensions == 2 else []), *_LENGTHS.values()]
    columns += [Column(f"{name}_px", "px") for name in measured]
    if lengths is not None:
        columns += [Column(f"{name}_um", "um") for name in measured]
    return columns + [Column(name) for name in (_FLAT if dimensions == 2 else ())]


def measure_objects(
    labels: NDArray[Any], pixels: NDArray[Any] | None, lengths: Sequence[float] | None
) -> dict[int, list[str]]:
    """Return by label the values of the columns of `measure_columns` as text.

    Axes are those of the ellipse or ellipsoid with the same second moments; the perimeter is that of a line through
    the centres of border pixels, the solidity the part of the convex hull that the object fills. A perimeter in
    micrometres is empty where pixels are not square.

    Parameters
    ----------
    labels
        Integers of shape (Y, X) or (Z, Y, X), 0 for background.
    pixels
        The image of that shape, with a further axis of channels at the end where it has several; None for none.
    lengths
        Of a pixel along each axis in micrometres, or None.
    """
    measured: dict[int, list[str]] = {}
    for window, part, numbers in _parts(labels):
        found = _measure(part, None if pixels is None else np.asarray(pixels[window]), lengths)
        measured |= {int(numbers[label]): values for label, values in found.items()}
        release(labels)
        if pixels is not None:
            release(pixels)
    return measured


def _parts(labels: NDArray[Any]) -> Iterator[tuple[tuple[slice, ...], NDArray[Any], NDArray[np.int64]]]:
    """Yield windows that together hold every object whole, with its labels and the numbers these stand for.

    A small image is a single window. In a large one objects go with the block in which their bounding box begins.
    """
    windows = list(blocks(labels.shape))
    if len(windows) == 1:
        yield windows[0], labels, np.arange(int(labels.max(initial=0)) + 1)
        return
    boxes: dict[int, NDArray[np.int64]] = {}
    first: dict[int, int] = {}
    for place, window in enumerate(windows):
        block = np.asarray(labels[window])
        present = np.unique(block)
        present = present[present > 0]
        begin = np.array([along.start for along in window])
        compact = np.zeros(int(present.max(initial=0)) + 1, np.int32)
        compact[present] = np.arange(1, len(present) + 1)
        for number, box in zip(present.tolist(), ndimage.find_objects(compact[block]), strict=True):
            assert box is not None
            edges = np.array([[along.start, along.stop] for along in box]).T + begin
            known = boxes.get(number, edges)
            boxes[number] = np.array([np.minimum(known[0], edges[0]), np.maximum(known[1], edges[1])])
            first.setdefault(number, place)
        release(labels)
    for place in range(len(windows)):
        mine = np.array([number for number, at in first.items() if at == place], np.int64)
        if not len(mine):
            continue
        low = np.min([boxes[number][0] for number in mine.tolist()], axis=0)
        high = np.max([boxes[number][1] for number in mine.tolist()], axis=0)
        window = tuple(slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))
        block = np.asarray(labels[window])
        compact = np.zeros(int(block.max()) + 1, np.int32)
        compact[mine] = np.arange(1, len(mine) + 1)
        yield window, compact[block], np.concatenate([[0], mine])


def _measure(
    labels: NDArray[Any], pixels: NDArray[Any] | None, lengths: Sequence[float] | None
) -> dict[int, list[str]]:
    """Return by label the values of the objects that are in memory."""
    from skimage.measure import regionprops_table

    planes = labels.ndim == 2
    measured = [*(["perimeter"] if planes else []), *_LENGTHS]
    wanted = ["label", "area", *measured, *(_FLAT if planes else ())]
    channels = None
    if pixels is not None:
        channels = pixels[..., np.newaxis] if pixels.ndim == labels.ndim else pixels
        wanted += ["intensity_mean", "intensity_min", "intensity_max"]
    found = regionprops_table(labels, channels, wanted)
    columns: list[list[str]] = []
    if channels is not None:
        for channel in range(channels.shape[-1]):
            mean, least, most = (found[f"intensity_{name}-{channel}"] for name in ("mean", "min", "max"))
            columns += [_written(each) for each in (mean, least, most, mean * found["area"])]
    columns += [[f"{value:.3f}" for value in found[name]] for name in measured]
    if lengths is not None:
        even = all(math.isclose(length, lengths[0], rel_tol=1e-6) for length in lengths)
        if even:
            scaled = {name: found[name] * lengths[0] for name in measured}
        else:
            scaled = regionprops_table(labels, properties=list(_LENGTHS), spacing=tuple(lengths))
        columns += [
            [f"{value:.5g}" for value in scaled[name]] if name in scaled else [""] * len(found["label"])
            for name in measured
        ]
    if planes:
        columns += [[f"{value:.4f}" for value in found[name]] for name in _FLAT]
    return dict(zip(map(int, found["label"]), map(list, zip(*columns, strict=True)), strict=True))


def _written(values: NDArray[Any]) -> list[str]:
    """Return intensities as text: seven digits tell apart all grey values of 16 bits and their means."""
    return [f"{value:.7g}" for value in np.asarray(values, np.float64)]
