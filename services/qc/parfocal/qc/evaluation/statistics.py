"""Means with bootstrap intervals over images, and paired differences between what was scored.

The unit is the image: slices of a stack are alike, so a stack counts once, with the mean over its slices. Channels or
crops of one field are not independent either; where they are given as images, intervals are too narrow.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.evaluations import ImageScore, Kind, Outcome, PairedDifference, Statistics

COMPARED: Final = ("psnr", "ssim")
"""Metrics in which a prediction is compared, over the whole image and inside the foreground; more is better."""

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 4000
SEED: Final = 0
FEW_IMAGES: Final = 3
"""Below this number of images no interval is given."""

INTERVAL: Final = {
    "method": "percentile bootstrap of the mean over images",
    "confidence": CONFIDENCE,
    "resamples": RESAMPLES,
    "seed": SEED,
}
"""Method of the confidence intervals, for summaries."""

_RESAMPLED_AT_ONCE: Final = 2**18
"""Values in memory at once while resampling, however many images there are."""


def image_scores(rows: Iterable[ScoreRow], kinds: Sequence[Kind]) -> dict[Kind, tuple[ImageScore, ...]]:
    """Average the rows of each image over its slices; by kind, images in order of name.

    Parameters
    ----------
    rows
        Rows of scores: for every image and slice, one of each kind.
    kinds
        Kinds that were scored.

    Raises
    ------
    InvalidInputError
        There are no rows, a row is given twice, or the kinds do not cover the same images and slices.
    """
    grouped: dict[Kind, dict[str, list[ScoreRow]]] = {kind: defaultdict(list) for kind in kinds}
    covered: dict[Kind, set[tuple[str, int | None]]] = {kind: set() for kind in kinds}
    for row in rows:
        key = (row.image, row.slice)
        if key in covered[row.kind]:
            raise InvalidInputError(f"{_named(key)} has two rows of kind {row.kind}. Score every image once.")
        covered[row.kind].add(key)
        grouped[row.kind][row.image].append(row)
    everything = set().union(*covered.values())
    if not everything:
        raise InvalidInputError("There are no scored images to summarise. Give at least one test image.")
    for kind in kinds:
        missing = sorted(everything - covered[kind], key=str)
        if missing:
            raise InvalidInputError(
                f"{_named(missing[0])} has no row of kind {kind}. Every image must be scored as {', '.join(kinds)}."
            )
    return {kind: tuple(_image_score(name, grouped[kind][name]) for name in sorted(grouped[kind])) for kind in kinds}


def statistics(values: Sequence[float] | npt.NDArray[np.float64], *, confidence: float = CONFIDENCE) -> Statistics:
    """Mean, median, standard deviation and an interval of the mean over images, of 95 % unless `confidence` differs.

    The interval is the percentile bootstrap (Efron and Tibshirani, 1993): 4000 resamples of the images with
    replacement, from a fixed seed, so that the same values give the same interval. With few images it is somewhat
    too narrow; with fewer than three it is None.
    """
    array = np.asarray(values, np.float64)
    low: float | None = None
    high: float | None = None
    if array.size >= FEW_IMAGES:
        random = np.random.default_rng(SEED)
        means = np.empty(RESAMPLES)
        step = max(1, _RESAMPLED_AT_ONCE // array.size)
        for start in range(0, RESAMPLES, step):
            count = min(step, RESAMPLES - start)
            chosen = random.integers(0, array.size, (count, array.size))
            means[start : start + count] = array[chosen].mean(axis=1)
        tail = 50 * (1 - confidence)
        low, high = map(float, np.percentile(means, [tail, 100 - tail]))
    return Statistics(
        mean=float(array.mean()),
        median=float(np.median(array)),
        sd=float(array.std(ddof=1)) if array.size > 1 else None,
        low=low,
        high=high,
    )


def compare(prediction: Sequence[ImageScore], other: Sequence[ImageScore], kind: Kind, metric: str) -> PairedDifference:
    """Compare the prediction with another kind in a metric of which more is better.

    Images without a value are left out; at least one must have one.
    """
    pairs = zip(prediction, other, strict=True)
    differences = np.array([_difference(ours, theirs, metric) for ours, theirs in pairs])
    differences = differences[~np.isnan(differences)]
    difference = statistics(differences)
    outcome: Outcome = "not distinguishable"
    if difference.low is None or difference.high is None:
        outcome = "too few images"
    elif difference.low > 0:
        outcome = "better"
    elif difference.high < 0:
        outcome = "worse"
    return PairedDifference(metric, kind, difference, int((differences > 0).sum()), differences.size, outcome)


def summarise_scores(scores: Mapping[Kind, Sequence[ImageScore]]) -> dict[Kind, dict[str, Statistics]]:
    """Return by kind and metric the statistics over the images that have a value, of which there must be one."""
    return {kind: _statistics(images) for kind, images in scores.items()}


def _statistics(images: Sequence[ImageScore]) -> dict[str, Statistics]:
    metrics = dict.fromkeys(metric for image in images for metric in image.values)
    values = {metric: [image.values.get(metric, math.nan) for image in images] for metric in metrics}
    defined = {metric: [value for value in each if not math.isnan(value)] for metric, each in values.items()}
    return {metric: statistics(each) for metric, each in defined.items() if each}


def _difference(ours: ImageScore, theirs: ImageScore, metric: str) -> float:
    return ours.values.get(metric, math.nan) - theirs.values.get(metric, math.nan)


def _image_score(name: str, rows: Sequence[ScoreRow]) -> ImageScore:
    failures = [row.failed for row in rows if row.failed is not None]
    metrics = dict.fromkeys(metric for row in rows for metric in row.values)
    return ImageScore(
        image=name,
        values={metric: _mean([row.value(metric) for row in rows]) for metric in metrics},
        slices=len(rows),
        failed_slices=len(failures),
        failures=tuple(sorted(set(failures))),
    )


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _named(key: tuple[str, int | None]) -> str:
    name, index = key
    return name if index is None else f"{name}, slice {index},"
