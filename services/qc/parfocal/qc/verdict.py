"""The verdict of a quality control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from parfocal.qc.statistics import CONFIDENCE, FEW_IMAGES, Comparison


@dataclass(frozen=True)
class Verdict:
    """Whether the model can be trusted, and why.

    `reasons` say what decided; `remarks` say what a reader should know besides.
    """

    verdict: Literal["passed", "failed"]
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]


def judge_gain(comparison: Comparison, metric: str, other: str, needed: float) -> tuple[str, bool]:
    """Say whether the gain over something else is shown to exceed what is needed, and return whether it is.

    The lower end of the interval must exceed it; with too few images for an interval, the mean.

    Parameters
    ----------
    comparison
        In a metric from 0 to 1 of which more is better.
    metric, other
        What they are called in a sentence, e.g. "F1" and "Otsu's threshold".
    needed
        The gain asked for.
    """
    difference = comparison.difference
    low = difference.mean if difference.low is None else difference.low
    if low > needed:
        return f"The prediction is better than {other} {_amount(comparison, metric)}.", True
    if comparison.outcome == "worse":
        return f"The prediction is worse than {other} {_amount(comparison, metric)}.", False
    beyond = f" by the {needed:.3f} asked for" if needed else ""
    return f"The prediction is not shown to be better than {other}{beyond} {_amount(comparison, metric)}.", False


def few_images(images: int) -> list[str]:
    """Return a remark where there are too few test images for an interval, else nothing."""
    if images >= FEW_IMAGES:
        return []
    return [
        f"Only {images} test image{'' if images == 1 else 's'}: no interval can be given, and the verdict rests on the "
        f"mean alone. Use at least {FEW_IMAGES} images, better ten."
    ]


def _amount(comparison: Comparison, metric: str) -> str:
    """Say "in F1: +0.120 on average, 95 % interval +0.100 to +0.140; better in 9 of 9 images"."""
    difference = comparison.difference
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f", {100 * CONFIDENCE:.0f} % interval {difference.low:+.3f} to {difference.high:+.3f}"
    count = f"{comparison.images} image{'' if comparison.images == 1 else 's'}"
    return f"in {metric}: {difference.mean:+.3f} on average{interval}; better in {comparison.wins} of {count}"
