"""Boxes and the grid of YOLOv2: anchors, which cell and anchor an object belongs to, and from output to boxes.

On the grid boxes are (x, y, width, height) in cells of 32 pixels: the middle from the upper left corner of the image,
and the side lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.methods.outputs import Detections
from parfocal.yolo.parameters import CELL

_MOST_ROUNDS = 1000


@dataclass(frozen=True)
class GridTargets:
    """Targets of the loss of a batch; G are the rows and columns of the grid, A the anchors.

    Attributes
    ----------
    boxes
        float32 (B, G, G, A, 4): the object that a cell and anchor answer for, 0 where there is none.
    responsible
        bool (B, G, G, A): whether there is one.
    classes
        int64 (B, G, G, A): its class.
    truth
        float32 (B, M, 4): all objects of each image, filled up with boxes without area.
    """

    boxes: NDArray[np.float32]
    responsible: NDArray[np.bool_]
    classes: NDArray[np.int64]
    truth: NDArray[np.float32]


def measure_anchors(sizes: NDArray[np.floating], count: int, seed: int) -> NDArray[np.float64]:
    """Return typical sizes of boxes by k-means with the distance 1 - IoU of boxes with the same middle.

    As in the publication; it begins with boxes that are drawn at random, and ends when no box changes its cluster.

    Parameters
    ----------
    sizes
        (N, 2): width and height of the boxes.
    count
        Number of anchors; fewer are returned if there are fewer different box sizes.
    seed
        Seed of the random draw.

    Returns
    -------
    NDArray[np.float64]
        (count, 2), in the order of their widths and in the unit of `sizes`.
    """
    sizes = np.asarray(sizes, np.float64)
    different = np.unique(sizes, axis=0)
    rng = np.random.default_rng(seed)
    anchors = different[rng.choice(len(different), min(count, len(different)), replace=False)]
    nearest = np.full(len(sizes), -1)
    for _ in range(_MOST_ROUNDS):
        before, nearest = nearest, np.argmax(size_overlaps(sizes, anchors), axis=1)
        if np.array_equal(before, nearest):
            break
        # A cluster that lost its last box stays where it is.
        anchors = np.stack(
            [
                sizes[nearest == number].mean(axis=0) if np.any(nearest == number) else anchor
                for number, anchor in enumerate(anchors)
            ]
        )
    return np.asarray(anchors[np.lexsort((anchors[:, 1], anchors[:, 0]))])


def size_overlaps(sizes: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union (N, M) of boxes (N, 2) and (M, 2), width and height, with one middle."""
    common = np.prod(np.minimum(sizes[:, None], others[None]), axis=2)
    union = np.prod(sizes, axis=1)[:, None] + np.prod(others, axis=1)[None] - common
    return np.asarray(common / union)


def assign(
    images: Sequence[Boxes], anchors: NDArray[np.floating], grid: tuple[int, int], cell: int = CELL
) -> GridTargets:
    """Return which cell and anchor answers for each object: the cell that has its middle, and the anchor most alike.

    Where two objects belong to the same cell and anchor, the later one is trained on. It still shields predictions near
    the other one, because all objects are in `truth`.

    Parameters
    ----------
    images
        The objects of each image or patch; boxes without area are ignored.
    anchors
        (A, 2): width and height in cells.
    grid
        Rows and columns.
    cell
        Side length of a cell in pixels.
    """
    on_grid = [_on_grid(boxes.corners, cell) for boxes in images]
    most = max((len(boxes) for boxes in on_grid), default=0)
    shape = (len(images), *grid, len(anchors))
    targets = GridTargets(
        np.zeros((*shape, 4), np.float32),
        np.zeros(shape, np.bool_),
        np.zeros(shape, np.int64),
        np.zeros((len(images), max(1, most), 4), np.float32),
    )
    for image, boxes in enumerate(on_grid):
        targets.truth[image, : len(boxes)] = boxes
        real = np.all(boxes[:, 2:] > 0, axis=1)
        inside = np.all((boxes[:, :2] >= 0) & (boxes[:, :2] < np.array(grid)[::-1]), axis=1)
        for number in np.flatnonzero(real & inside):
            x, y = boxes[number, :2].astype(int)
            anchor = int(np.argmax(size_overlaps(boxes[number : number + 1, 2:], anchors)[0]))
            place = image, y, x, anchor
            targets.boxes[place] = boxes[number]
            targets.responsible[place] = True
            targets.classes[place] = images[image].classes[number]
    return targets


def decode(
    raw: NDArray[np.floating], anchors: NDArray[np.floating], least_score: float, cell: int = CELL
) -> Detections:
    """Return the boxes that a network's output describes, each with its most probable class.

    A box's score is the probability of an object, a sigmoid, times that of the class, a softmax.

    Parameters
    ----------
    raw
        (G, G, A * (5 + C)): for each anchor x, y, width, height, confidence and the classes.
    anchors
        (A, 2): width and height in cells.
    least_score
        Boxes with a lower score are left out.
    cell
        Side length of a cell in pixels.
    """
    rows, columns = raw.shape[:2]
    values = np.asarray(raw, np.float64).reshape(rows, columns, len(anchors), -1)
    logits = values[..., 5:] - values[..., 5:].max(axis=-1, keepdims=True)
    classes = np.exp(logits)
    classes /= classes.sum(axis=-1, keepdims=True)
    score = sigmoid(values[..., 4]) * classes.max(axis=-1)
    y, x, anchor = np.nonzero(score >= least_score)
    found = values[y, x, anchor]
    middle = sigmoid(found[:, :2]) + np.stack([x, y], axis=1)
    # A box thousands of cells wide is clipped to the image anyway, and infinity could not be.
    size = np.asarray(anchors, np.float64)[anchor] * np.exp(np.minimum(found[:, 2:4], 10))
    corners = np.concatenate([middle - size / 2, middle + size / 2], axis=1)[:, [1, 0, 3, 2]] * cell
    return Detections(
        corners.astype(np.float32),
        classes[y, x, anchor].argmax(axis=-1).astype(np.int64),
        score[y, x, anchor].astype(np.float32),
    )


def sigmoid(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(values, np.float64))))


def _on_grid(corners: NDArray[np.floating], cell: int) -> NDArray[np.float32]:
    """Return corners [y0, x0, y1, x1] in pixels as (x, y, width, height) in cells."""
    middle, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return np.asarray(np.concatenate([middle[:, ::-1], size[:, ::-1]], axis=1) / cell, np.float32)
