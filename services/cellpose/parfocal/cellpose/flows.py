"""Flow targets: at each pixel of an object, the direction in which heat from its middle spreads, reversed.

The flows themselves are those of the cellpose library; here they are computed side by side, and turned with the views
that training takes of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellpose.dynamics import masks_to_flows
from parfocal.runtime.methods.implementation import Batch
from parfocal.runtime.methods.objects import compact_labels
from parfocal.runtime.methods.service import thread_count
from parfocal.runtime.training.augmentation import View, Warp
from parfocal.runtime.training.batches import PatchBatches, channels_last, targets_last


def flow_field(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the flows of a label image.

    Parameters
    ----------
    labels
        Integers (Y, X); 0 and below is no object.

    Returns
    -------
    NDArray
        float32 (2, Y, X): steps along Y and X, of length 1 in objects and 0 elsewhere.
    """
    objects = np.maximum(compact_labels(labels), 0)
    if not objects.any():
        return np.zeros((2, *labels.shape), np.float32)
    return np.asarray(masks_to_flows(objects), np.float32)


def flow_fields(images: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
    """Yield the flows of several label images in their order, computed side by side."""
    # In threads: cellpose releases Python's lock where it computes.
    pool = ThreadPoolExecutor(max_workers=thread_count())
    try:
        yield from pool.map(flow_field, images)
    finally:
        pool.shutdown(cancel_futures=True)


def cached_flows(
    labels: Sequence[NDArray[Any]],
    keep: Callable[[int, NDArray[np.float32]], NDArray[Any]],
    advance: Callable[[int], None],
) -> list[NDArray[Any]]:
    """Return the flows of all training images, each computed once.

    Parameters
    ----------
    labels
        Label images, usually memory-mapped.
    keep
        Function that stores the flows of an image, given its index, outside the memory.
    advance
        Called with the number of images done; may raise to end it.
    """
    kept: list[NDArray[Any]] = []
    step = 4 * thread_count()
    for first in range(0, len(labels), step):  # not all at once: results wait in memory
        for flows in flow_fields(labels[first : first + step]):
            advance(len(kept))
            kept.append(keep(len(kept), flows))
    return kept


def turn_flows(flows: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """Return the flows of a patch as its view shows them.

    Their places have been changed with the image already; what is left is to turn the vectors. Their lengths stay.

    Parameters
    ----------
    flows
        (Y, X, 2): steps along Y and X of the image.
    view
        Change of view that was applied to the patch.
    """
    turned = flows
    if view.warp is not None:
        inverse = np.linalg.inv(_jacobian(view.warp))
        inverse = view.turn(inverse, "YXCC") if inverse.ndim == 4 else inverse
        turned = np.einsum("...ij,...j->...i", inverse, flows)
        before, after = (np.linalg.norm(each, axis=-1, keepdims=True) for each in (flows, turned))
        turned = turned * before / np.maximum(after, 1e-12)
    if view.swap:
        turned = turned[..., ::-1]
    signs = np.array([-1.0 if view.mirror_y else 1.0, -1.0 if view.mirror_x else 1.0])
    return np.asarray(turned * signs, np.float32)


def _jacobian(warp: Warp) -> NDArray[np.float64]:
    """Return how the place that a pixel shows changes with the pixel: (2, 2), or one for each pixel in front of it."""
    if warp.elastic is None:
        return warp.matrix
    return np.stack([np.stack(np.gradient(place), axis=-1) for place in warp.places], axis=-2)


@dataclass(frozen=True)
class FlowBatches:
    """Batches of patches whose targets are label, flow along Y and flow along X, in the last axis.

    Attributes
    ----------
    patches
        Patches of images whose targets are label images and the two components of their flows.
    """

    patches: PatchBatches

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch."""
        return self.patches.steps_per_epoch

    @property
    def validation_steps(self) -> int:
        """Validation batches."""
        return self.patches.validation_steps

    def batch(self, epoch: int, step: int) -> Batch:
        """Return a training batch whose flows are turned with its patches."""
        source, targets, _, views = self.patches.sampler.placed_batch(epoch, step)
        assert isinstance(targets, tuple)
        stacked = targets_last(targets, "BYX")
        for number, view in enumerate(views):
            stacked[number, ..., 1:] = turn_flows(stacked[number, ..., 1:], view)
        inputs = np.ascontiguousarray(channels_last(source, "B" + self.patches.sampler.axes))
        return Batch({self.patches.role: inputs}, stacked, len(inputs))

    def validation_batch(self, step: int) -> Batch:
        """Return a validation batch: its patches are magnified at most, which turns nothing."""
        return self.patches.validation_batch(step)
