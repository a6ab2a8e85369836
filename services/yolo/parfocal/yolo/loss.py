"""The loss of YOLOv2. Imported by workers only: it loads PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

OBJECT_SCALE = 5.0
NO_OBJECT_SCALE = 1.0
COORDINATE_SCALE = 1.0
CLASS_SCALE = 1.0
SHIELDING_OVERLAP = 0.6
"""A prediction that overlaps any object by more is not told that there is none."""
_TINY = 1e-6


@dataclass(frozen=True)
class TensorTargets:
    """`GridTargets` as tensors on the device of the network."""

    boxes: torch.Tensor
    responsible: torch.Tensor
    classes: torch.Tensor
    truth: torch.Tensor


def yolo_loss(
    raw: torch.Tensor, targets: TensorTargets, anchors: torch.Tensor, *, warm_up: bool
) -> dict[str, torch.Tensor]:
    """Return the loss and the four penalties that add up to it.

    Each is a sum over all cells and anchors of the batch, divided by the number of those that count in it. Places and
    sizes, in cells, are compared by their squared difference where there is an object, divided by two; so is the
    confidence, five times as strongly, with the overlap of the predicted box and the object. The confidence is drawn to
    0 elsewhere, unless the predicted box overlaps an object by more than 0.6. The classes are compared by their
    cross-entropy where there is an object. During the warm-up, boxes without an object are drawn to the middle of their
    cell and the size of their anchor as well, and count as much.

    Parameters
    ----------
    raw
        float32 (B, A * (5 + C), G, G): what the network gives.
    targets
        The objects of the batch.
    anchors
        float32 (A, 2): width and height in cells.
    warm_up
        Whether the training is in its first epochs.
    """
    batch, _, rows, columns = raw.shape
    values = raw.reshape(batch, len(anchors), -1, rows, columns).permute(0, 3, 4, 1, 2)
    cells = torch.stack(
        torch.meshgrid(
            torch.arange(columns, dtype=raw.dtype, device=raw.device),
            torch.arange(rows, dtype=raw.dtype, device=raw.device),
            indexing="xy",
        ),
        dim=-1,
    )[:, :, None]
    middle = torch.sigmoid(values[..., :2]) + cells
    size = anchors * torch.exp(values[..., 2:4])
    confidence = torch.sigmoid(values[..., 4])
    has_object = targets.responsible
    present = has_object.to(raw.dtype)
    with torch.no_grad():
        overlap = _overlaps(torch.cat([middle, size], dim=-1), targets.boxes)
        wanted_confidence = overlap * present
        nearest = _nearest_overlap(torch.cat([middle, size], dim=-1), targets.truth)
        unshielded = (nearest < SHIELDING_OVERLAP).to(raw.dtype)
        confidence_mask = OBJECT_SCALE * present + NO_OBJECT_SCALE * (1 - present) * unshielded
    wanted_middle, wanted_size, place_mask = targets.boxes[..., :2], targets.boxes[..., 2:], COORDINATE_SCALE * present
    if warm_up:
        empty = ~has_object[..., None]
        wanted_middle = torch.where(empty, cells + 0.5, wanted_middle)
        wanted_size = torch.where(empty, anchors, wanted_size)
        place_mask = torch.ones_like(present)
    logits = values[..., 5:]
    # Written out: the ready-made loss of images has no repeatable kernel on GPUs.
    chosen = functional.one_hot(targets.classes, logits.shape[-1]).to(raw.dtype)
    entropy = -(functional.log_softmax(logits, dim=-1) * chosen).sum(dim=-1)
    losses = {
        "loss_xy": _mean(((wanted_middle - middle) ** 2).sum(dim=-1), place_mask) / 2,
        "loss_wh": _mean(((wanted_size - size) ** 2).sum(dim=-1), place_mask) / 2,
        "loss_confidence": _mean((wanted_confidence - confidence) ** 2, confidence_mask) / 2,
        "loss_class": _mean(entropy, CLASS_SCALE * present),
    }
    return {"loss": torch.stack(list(losses.values())).sum(), **losses}


def _mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (values * mask).sum() / ((mask > 0).sum() + _TINY)


def _overlaps(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of boxes (..., 4) that are (x, y, width, height); 0 where both lack area."""
    low = torch.maximum(one[..., :2] - one[..., 2:] / 2, other[..., :2] - other[..., 2:] / 2)
    high = torch.minimum(one[..., :2] + one[..., 2:] / 2, other[..., :2] + other[..., 2:] / 2)
    common = (high - low).clamp(min=0).prod(dim=-1)
    union = one[..., 2:].prod(dim=-1) + other[..., 2:].prod(dim=-1) - common
    return common / union.clamp(min=_TINY)


def _nearest_overlap(boxes: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return, for each box (B, G, G, A, 4), the overlap with that object (B, M, 4) that it overlaps most.

    Object by object, so that memory does not grow with their number.
    """
    nearest = torch.zeros_like(boxes[..., 0])
    for number in range(truth.shape[1]):
        nearest = torch.maximum(nearest, _overlaps(boxes, truth[:, number, None, None, None]))
    return nearest
