"""Whether a gain is one in the structures, or is due to the background.

A noisy image of much empty background has a low SSIM, and any model that makes the background even has a high one,
whatever it does to the structures. So what the verdict asks of the whole image it asks inside the foreground again. A
comparison that passes over the whole image and fails inside is **due to the background**, and the model cannot pass.

Where a gain is asked for, it must show inside

- in SNR (see `metrics.images.foreground`): the lower end of the interval of ``gain in SNR inside - share * gain in
  PSNR`` must exceed 0, with the share of the thresholds, and a loss in PSNR counted as 0. Both are ratios in dB, so
  noise that is as strong in structures as beside them, and as well removed, gives equal gains at any foreground
  fraction: the rule does not ask how much background there is;
- in SSIM: the lower end of the interval of the mean gain inside must exceed its threshold.

The rule works one way: a comparison that fails over the whole image stays failed, but a remark says so where it is won
inside, for then it is the background that the model leaves noisy.

Where only a loss is refused, the upper end of the interval of the mean difference inside, in SNR or in SSIM, must not
lie below the loss that is allowed. With fewer than three images the mean decides, as for the whole image. Images
without a value inside are left out; where none has one, the comparison is not made and a remark says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from parfocal.qc.evaluation.statistics import compare, statistics
from parfocal.qc.evaluation.verdict import interval
from parfocal.qc.evaluation.words import count
from parfocal.qc.restoration.metrics import BY_KEY
from parfocal.runtime.store.evaluations import ImageScore, Kind, PairedDifference, Statistics

INSIDE: Final = {"psnr": "snr_inside", "ssim": "ssim_inside"}
"""Metrics inside the foreground, by the corresponding metric of the whole image."""


class InsideLimits(Protocol):
    """The thresholds of the rule, see `parfocal.qc.restoration.parameters`."""

    @property
    def min_inside_share(self) -> float:
        """Share of the gain in PSNR that must be found in SNR inside."""
        ...

    @property
    def min_ssim_gain_inside(self) -> float:
        """Gain in SSIM that must be found inside."""
        ...


@dataclass(frozen=True)
class Shift:
    """The SSIM of the prediction over the whole image, and inside the foreground, as means over the images.

    `fraction` is the mean foreground fraction.
    """

    whole: float
    inside: float
    fraction: float

    @property
    def amount(self) -> float:
        """How much the background raises the score; negative where it lowers it."""
        return self.whole - self.inside


def compare_inside(prediction: Sequence[ImageScore], other: Sequence[ImageScore], kind: Kind) -> list[PairedDifference]:
    """Compare inside the foreground, in the metrics in which at least one image has a value."""
    defined = [metric for metric in INSIDE.values() if _defined(prediction, other, metric)]
    return [compare(prediction, other, kind, metric) for metric in defined]


def shared_gain(prediction: Sequence[ImageScore], other: Sequence[ImageScore], share: float) -> Statistics:
    """Gain in SNR inside less a share of the gain in PSNR, over the images with a value, of which there must be one."""
    differences = []
    for ours, theirs in zip(prediction, other, strict=True):
        inside = ours.values.get("snr_inside", math.nan) - theirs.values.get("snr_inside", math.nan)
        whole = ours.values["psnr"] - theirs.values["psnr"]
        if not math.isnan(inside):
            differences.append(inside - share * max(0.0, whole))
    return statistics(differences)


def background_shift(prediction: Sequence[ImageScore]) -> Shift | None:
    """Return how the prediction's SSIM differs inside the foreground; None where no image has a value inside."""
    values = [
        [score.values[name] for name in ("ssim", "ssim_inside", "foreground_fraction")]
        for score in prediction
        if not math.isnan(score.values.get("ssim_inside", math.nan))
    ]
    return Shift(*map(float, np.mean(values, axis=0))) if values else None


def shift_remark(shift: Shift, limit: float) -> str | None:
    """Say that background makes the score, where it differs from that inside the foreground by more than the limit."""
    if abs(shift.amount) <= limit:
        return None
    word = "raised" if shift.amount > 0 else "lowered"
    return (
        f"The SSIM of the prediction is {word} by the background: {shift.whole:.3f} over the whole image, "
        f"{shift.inside:.3f} inside the foreground, which is {_percent(shift.fraction)} of the image. Between images "
        "of other foreground fractions compare SSIM inside the foreground."
    )


def carried(
    whole: PairedDifference,
    scores: Mapping[Kind, Sequence[ImageScore]],
    limits: InsideLimits,
    *,
    name: str,
    allowed: float | None = None,
) -> str | None:
    """Return a sentence if a comparison that the whole image passes is due to the background, else None.

    Parameters
    ----------
    whole
        The comparison over the whole image, in PSNR or SSIM.
    scores
        All images by kind.
    name
        Name of what the prediction is compared with, e.g. "its input".
    allowed
        The loss that is allowed; None where a gain is required.
    """
    prediction, other = scores["prediction"], scores[whole.other]
    metric = INSIDE[whole.metric]
    if not _defined(prediction, other, metric):
        return None
    inside = compare(prediction, other, whole.other, metric)
    judged = inside.difference
    asked = ""
    if allowed is not None:
        passed = _high(judged) >= -allowed
    elif whole.metric == "psnr":
        judged = shared_gain(prediction, other, limits.min_inside_share)
        passed = _low(judged) > 0
        asked = f"; {100 * limits.min_inside_share:.0f} % of the gain is required there"
    else:
        passed = _low(judged) > limits.min_ssim_gain_inside
    if passed:
        return None
    return _sentence(whole, inside, name, background_shift(prediction), asked)


def held_back(whole: PairedDifference, scores: Mapping[Kind, Sequence[ImageScore]], *, name: str) -> str | None:
    """Return a remark if a comparison that the whole image fails is won inside the foreground, else None."""
    prediction, other = scores["prediction"], scores[whole.other]
    if not _defined(prediction, other, INSIDE[whole.metric]):
        return None
    inside = compare(prediction, other, whole.other, INSIDE[whole.metric])
    if inside.outcome != "better":
        return None
    return (
        f"Inside the foreground the prediction is better than {name}, {_amount(inside)}: the deficit in "
        f"{BY_KEY[whole.metric].title} comes from the background."
    )


def _sentence(whole: PairedDifference, inside: PairedDifference, name: str, shift: Shift | None, asked: str) -> str:
    fraction = "" if shift is None else f" (which is {_percent(shift.fraction)} of the image)"
    metric = BY_KEY[whole.metric]
    mean = metric.text(whole.difference.mean, signed=True)
    return (
        f"Against {name} the score in {metric.title} comes from the background: {mean} over the whole image, but "
        f"inside the foreground{fraction} {_amount(inside)}{asked}."
    )


def _amount(inside: PairedDifference) -> str:
    """Say "-0.36 dB in SNR, 95 % interval -0.73 to +0.01 dB, better in 2 of 6 images"."""
    metric = BY_KEY[inside.metric]
    name = metric.title.split()[0]  # the sentence says where
    mean = metric.text(inside.difference.mean, signed=True)
    return f"{mean} in {name}{interval(inside, metric)}, better in {inside.wins} of {count(inside.images, 'image')}"


def _low(difference: Statistics) -> float:
    return difference.mean if difference.low is None else difference.low


def _high(difference: Statistics) -> float:
    return difference.mean if difference.high is None else difference.high


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.01 else f"{100 * fraction:.1g} %"


def _defined(prediction: Sequence[ImageScore], other: Sequence[ImageScore], metric: str) -> bool:
    return any(
        not math.isnan(ours.values.get(metric, math.nan) - theirs.values.get(metric, math.nan))
        for ours, theirs in zip(prediction, other, strict=True)
    )
