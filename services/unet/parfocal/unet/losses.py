"""Losses of the U-Nets, and the Dice coefficient of a batch. Imported by workers only: it loads PyTorch.

All take logits ``(batch, channels, *spatial)``: one channel is the foreground of two classes, several are one for each
class. Pixels whose class is below 0 are not annotated and take no part.
"""

from __future__ import annotations

import torch
from torch.nn import functional

_SMOOTH = 1e-5
_FOCUS = 2.0


def cross_entropy(
    logits: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor, focus: float = 0.0
) -> torch.Tensor:
    """Return the mean over annotated pixels of weight times cross-entropy.

    Parameters
    ----------
    logits
        Logits ``(batch, channels, *spatial)``: one channel for two classes, otherwise one for each class.
    classes
        int64 ``(batch, *spatial)``: the class of each pixel, below 0 where it is not known.
    weights
        float32 of the same shape.
    focus
        The exponent of the focal loss (Lin et al., ICCV 2017): pixels whose class has probability p count (1 - p)^focus
        of their cross-entropy.
    """
    known = classes >= 0
    if logits.shape[1] == 1:
        entropy = functional.binary_cross_entropy_with_logits(
            logits[:, 0], (classes > 0).to(logits.dtype), reduction="none"
        )
    else:
        # Not the library's own function of classes: its gradient is not repeatable on GPUs.
        entropy = -(torch.log_softmax(logits, dim=1) * _one_hot(classes, logits)).sum(dim=1)
    if focus:
        entropy = (1 - torch.exp(-entropy)) ** focus * entropy
    return (entropy * weights * known).sum() / known.sum().clamp(min=1)


def dice_loss(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return 1 minus the mean of (2 Σpt + s) / (Σp + Σt + s) over images and classes, with s = 1e-5.

    p are probabilities, t is 1 in pixels of the class (Milletari et al., 3DV 2016, without squares). Of two classes the
    foreground alone counts, of several all.
    """
    known = (classes >= 0).unsqueeze(1)
    probability = torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)
    target = _one_hot(classes, logits)
    axes = tuple(range(2, logits.ndim))
    both = (probability * target * known).sum(axes)
    either = (probability * known).sum(axes) + (target * known).sum(axes)
    return 1 - ((2 * both + _SMOOTH) / (either + _SMOOTH)).mean()


def training_loss(name: str, logits: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the loss of the parameter `loss`."""
    loss = cross_entropy(logits, classes, weights, _FOCUS if name == "focal" else 0.0)
    return loss + dice_loss(logits, classes) if name == "dice-cross-entropy" else loss


def dice_score(logits: torch.Tensor, classes: torch.Tensor) -> float:
    """Return the Dice coefficient of the predicted classes, averaged over all but the background, of a whole batch.

    Probabilities of foreground are cut at one half. Classes that are neither there nor predicted are left out; where
    that leaves none it is 1.
    """
    logits, known = logits.detach(), classes >= 0
    predicted = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)
    scores = []
    for number in range(1, max(2, logits.shape[1])):
        mine, theirs = (predicted == number) & known, classes == number
        if total := int(mine.sum() + theirs.sum()):
            scores.append(2 * int((mine & theirs).sum()) / total)
    return sum(scores) / len(scores) if scores else 1.0


def _one_hot(classes: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return 1 in the channel of each pixel's class; of one channel, that of the foreground."""
    first = 1 if logits.shape[1] == 1 else 0
    numbers = torch.arange(first, first + logits.shape[1], device=logits.device)
    shape = (1, -1, *(1,) * (logits.ndim - 2))
    return (classes.unsqueeze(1) == numbers.view(shape)).to(logits.dtype)
