"""From a network's flows to objects: tiles through the network, then the dynamics of the cellpose library.

The dynamics are computed on the processor whatever the network is computed on: cellpose interpolates flows differently
on a GPU, and the same model shall find the same objects everywhere.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from typing import Any, Final

import fastremap
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, special

from cellpose import dynamics, metrics, transforms, utils
from parfocal.cellpose.parameters import DIVISOR
from parfocal.cellpose.planes import ORIENTATIONS, resize, resize_volume
from parfocal.runtime.prediction.tiling import Tiling, predict_tiled

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
_OUTPUTS: Final = 3
_TILE: Final = 224
_LEAST_TILE: Final = 96
_OVERLAP: Final = 16
_BATCH: Final = 8
_WINDOW: Final = 4096
# Cellpose counts on: an object of the mean diameter takes so many steps of the dynamics.
_STEPS: Final = 200
_CPU: Final = torch.device("cpu")
# Of an image without objects it says that there are none.
logging.getLogger(dynamics.__name__).setLevel(logging.ERROR)


def network_output(predict: Predict, image: NDArray[np.float32], tiling: Tiling) -> NDArray[np.float32]:
    """Return flow along Y, flow along X and logit (Y, X, 3) of a normalised, scaled image (Y, X, channels).

    Around the image are 8 pixels of 0 or more, as cellpose has them. A network's output depends on the mean of its last
    map over the whole tile (the style), so tiles have the size that cellpose gives them.
    """
    height, width = image.shape[:2]
    top, bottom, left, right = (int(each) for each in transforms.get_pad_yx(height, width))
    padded = np.pad(image, ((top, bottom), (left, right), (0, 0)))
    side = max(_LEAST_TILE, min(_TILE, math.isqrt(tiling.most_pixels)))
    values = predict_tiled(
        predict,
        padded,
        tile_shape=(side, side),
        overlap=_OVERLAP,
        divisor=DIVISOR,
        batch_size=_BATCH,
        output_channels=_OUTPUTS,
        progress=tiling.on_tile,
    )
    return values[top : top + height, left : left + width]


def image_flows(predict: Predict, image: NDArray[np.float32], scale: float, tiling: Tiling) -> NDArray[np.float32]:
    """Return flows and logit (Y, X, 3) of a normalised image (Y, X, channels).

    `scale` is that at which the network sees the image; its output is brought back to the size of the image.
    """
    height, width = image.shape[:2]
    if scale == 1:
        return network_output(predict, image, tiling)
    scaled = resize(image, max(1, int(height * scale)), max(1, int(width * scale)))
    return resize(network_output(predict, scaled, tiling), height, width)


def volume_flows(
    predict: Predict, volume: NDArray[np.float32], scale: float, anisotropy: float, tiling: Tiling
) -> NDArray[np.float32]:
    """Return flows along Z, Y and X and logit (Z, Y, X, 4) of a normalised volume (Z, Y, X, channels).

    The network sees every plane of each orientation of the volume with equal distances along all axes; of the three
    outputs for a voxel, the components of the flow and the logits are added.
    """
    depth, height, width = volume.shape[:3]
    wanted = tuple(
        max(1, int(length * factor))
        for length, factor in zip((depth, height, width), (anisotropy * scale, scale, scale), strict=True)
    )
    scaled = resize_volume(volume, (wanted[0], wanted[1], wanted[2]))
    flows = np.zeros((*scaled.shape[:3], 4), np.float32)
    done, total = 0, sum(scaled.shape[:3])
    for axis, *own in ORIENTATIONS:
        for place in range(scaled.shape[axis]):
            plane = np.ascontiguousarray(np.take(scaled, place, axis=axis))
            values = network_output(predict, plane, Tiling(tiling.most_pixels))
            target = np.moveaxis(flows, axis, 0)[place]
            for component, along in enumerate(own):
                target[..., along] += values[..., component]
            target[..., 3] += values[..., 2]
            done += 1
            if tiling.on_tile is not None:
                tiling.on_tile(done, total)
    return resize_volume(flows, (depth, height, width))


def find_masks(
    flows: NDArray[np.float32],
    *,
    scale: float,
    cell_threshold: float,
    flow_threshold: float,
    minimum_size: int,
    largest_fraction: float,
    window: int = _WINDOW,
) -> NDArray[Any]:
    """Return the label image or volume that flows and logits lead to.

    Parameters
    ----------
    flows
        (Y, X, 3) or (Z, Y, X, 4): components of the flow and, last, the logit.
    scale
        Factor by which the image was scaled for the network; pixels of large objects have a longer way to the centre.
    cell_threshold, flow_threshold, minimum_size, largest_fraction
        See `CellposePredictionParameters`; the flow threshold is for images alone.
    window
        Side length in pixels of the windows in which objects are looked for in larger images.

    Returns
    -------
    NDArray
        Unsigned integers; objects are numbered from 1 without gaps.
    """
    settings = (scale, cell_threshold, flow_threshold)
    if flows.ndim == 3 and max(flows.shape[:2]) > window:
        masks = _in_windows(flows, settings, window)
    else:
        masks = _objects(flows, *settings)
    _discard_large(masks, largest_fraction)
    return _tidied(masks, minimum_size)


def _in_windows(flows: NDArray[np.float32], settings: tuple[float, float, float], window: int) -> NDArray[np.uint32]:
    """Return the objects of a large image, found in windows that overlap by a quarter of their length on each side.

    An object is taken from the window in which its centre lies, so it comes once, and whole if it is smaller than the
    overlap. The memory of the dynamics depends on the window alone.
    """
    shape, margin = flows.shape[:2], window // 4
    masks = np.zeros(shape, np.uint32)
    count = 0
    for corner in itertools.product(*(range(0, length, window) for length in shape)):
        begin = np.maximum(np.array(corner) - margin, 0)
        outer = tuple(
            slice(int(low), min(start + window + margin, length))
            for low, start, length in zip(begin, corner, shape, strict=True)
        )
        found = _objects(flows[outer], *settings)
        fastremap.renumber(found, in_place=True)
        numbers = np.arange(1, int(found.max()) + 1)
        if not len(numbers):
            continue
        centres = np.array(ndimage.center_of_mass(found > 0, found, numbers)) + begin - corner
        own = np.all((centres >= 0) & (centres < window), axis=1)
        renamed = np.concatenate([[0], np.where(own, count + np.cumsum(own), 0)]).astype(np.uint32)[found]
        place = masks[outer]
        place[...] = np.where(place > 0, place, renamed)
        count += int(own.sum())
    return masks


def _objects(flows: NDArray[np.float32], scale: float, cell_threshold: float, flow_threshold: float) -> NDArray[Any]:
    """Return the objects of an image or volume without those whose flows are wrong."""
    masks = _follow(flows, scale, cell_threshold)
    if flow_threshold > 0 and masks.ndim == 2 and masks.any():
        masks[np.isin(masks, wrong_flows(masks, flows, flow_threshold))] = 0
    return masks


def _discard_large(masks: NDArray[Any], largest_fraction: float) -> None:
    """Set objects that cover more than a part of the image to 0, in place."""
    sizes = np.bincount(masks.ravel())
    large = 1 + np.flatnonzero(sizes[1:] > largest_fraction * masks.size)
    if len(large):
        masks[np.isin(masks, large)] = 0


def _follow(flows: NDArray[np.float32], scale: float, cell_threshold: float) -> NDArray[Any]:
    moved = np.ascontiguousarray(np.moveaxis(flows[..., :-1], -1, 0))
    # Said explicitly, or PyTorch warns that it does not check.
    with torch.sparse.check_sparse_tensor_invariants(True):
        masks = dynamics.compute_masks(
            moved,
            np.ascontiguousarray(flows[..., -1]),
            niter=max(1, int(_STEPS / scale)),
            cellprob_threshold=cell_threshold,
            flow_threshold=None,
            do_3D=len(moved) == 3,
            min_size=-1,
            max_size_fraction=1.0,
            device=_CPU,
        )
    return np.asarray(masks)


def flow_errors(masks: NDArray[Any], flows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return for each object of an image how much its flows differ from those of an object of its shape."""
    moved = np.ascontiguousarray(np.moveaxis(flows[..., :-1], -1, 0))
    return np.asarray(metrics.flow_error(masks, moved, _CPU)[0])


def wrong_flows(masks: NDArray[Any], flows: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """Return the numbers of the objects whose flows differ more than a threshold."""
    return 1 + np.flatnonzero(flow_errors(masks, flows) > threshold)


def _tidied(masks: NDArray[Any], minimum_size: int) -> NDArray[Any]:
    """Return masks without holes and small objects, numbered without gaps.

    Cellpose looks for small objects while the numbers of those with wrong flows are missing, and so discards others in
    their place; here they are numbered anew before.
    """
    fastremap.renumber(masks, in_place=True)
    if not masks.any():
        return masks
    return np.asarray(utils.fill_holes_and_remove_small_masks(masks, min_size=minimum_size))


def stitched(planes: list[NDArray[Any]], threshold: float, minimum_size: int) -> NDArray[Any]:
    """Return a label volume of label images, whose objects are joined where they overlap by an IoU of `threshold`."""
    volume = np.stack(planes).astype(np.uint32)
    if len(planes) > 1 and volume.any():
        volume = utils.stitch3D(volume, stitch_threshold=threshold)
    return _tidied(np.asarray(volume), minimum_size)


def object_probability(labels: NDArray[Any], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return for each object the mean probability of its pixels to belong to one."""
    count = int(labels.max())
    if not count:
        return np.zeros(0, np.float32)
    means = ndimage.mean(special.expit(logits), labels, np.arange(1, count + 1))
    return np.asarray(means, np.float32)
