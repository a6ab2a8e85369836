"""From a network's flows to objects: tiles through the network, then the dynamics of the cellpose library.

The dynamics are computed on the processor whatever the network is computed on: cellpose interpolates flows differently
on a GPU, and the same model shall find the same objects everywhere.
"""

from __future__ import annotations

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
_OVERLAP: Final = 16
_BATCH: Final = 8
# Cellpose counts on: an object of the mean diameter takes so many steps of the dynamics.
_STEPS: Final = 200
_CPU: Final = torch.device("cpu")
# Of an image without objects it says that there are none.
logging.getLogger(dynamics.__name__).setLevel(logging.ERROR)


def network_output(predict: Predict, image: NDArray[np.float32], tile: int, tiling: Tiling) -> NDArray[np.float32]:
    """Return flow along Y, flow along X and logit (Y, X, 3) of a normalised, scaled image (Y, X, channels).

    Around the image are 8 pixels of 0 or more, as cellpose has them. A network's output depends on the mean of its last
    map over the whole tile (the style), so tiles are as large as the patches it was trained on.
    """
    height, width = image.shape[:2]
    top, bottom, left, right = (int(each) for each in transforms.get_pad_yx(height, width))
    padded = np.pad(image, ((top, bottom), (left, right), (0, 0)))
    side = max(4 * DIVISOR, min(tile, math.isqrt(tiling.most_pixels)))
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


def image_flows(
    predict: Predict, image: NDArray[np.float32], tile: int, scale: float, tiling: Tiling
) -> NDArray[np.float32]:
    """Return flows and logit (Y, X, 3) of a normalised image (Y, X, channels).

    `scale` is that at which the network sees the image; its output is brought back to the size of the image.
    """
    height, width = image.shape[:2]
    if scale == 1:
        return network_output(predict, image, tile, tiling)
    scaled = resize(image, max(1, int(height * scale)), max(1, int(width * scale)))
    return resize(network_output(predict, scaled, tile, tiling), height, width)


def volume_flows(
    predict: Predict, volume: NDArray[np.float32], tile: int, scale: float, anisotropy: float, tiling: Tiling
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
            values = network_output(predict, plane, tile, Tiling(tiling.most_pixels))
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
) -> NDArray[Any]:
    """Return the label image or volume that flows and logits lead to.

    Parameters
    ----------
    flows
        (Y, X, 3) or (Z, Y, X, 4): components of the flow and, last, the logit.
    scale
        At which the network has seen the image: pixels of large objects have a longer way.
    cell_threshold, flow_threshold, minimum_size, largest_fraction
        See `CellposePredictionParameters`; the flow threshold is for images alone.

    Returns
    -------
    NDArray
        Unsigned integers; objects are numbered from 1 without gaps.
    """
    masks = _follow(flows, scale, cell_threshold, largest_fraction)
    if flow_threshold > 0 and masks.ndim == 2 and masks.any():
        masks[np.isin(masks, wrong_flows(masks, flows, flow_threshold))] = 0
    return _tidied(masks, minimum_size)


def _follow(flows: NDArray[np.float32], scale: float, cell_threshold: float, largest_fraction: float) -> NDArray[Any]:
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
            max_size_fraction=largest_fraction,
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
