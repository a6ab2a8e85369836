"""Means with bootstrap intervals over images, and paired differences between what was scored.

The unit is the image: slices of a stack are alike, so a stack counts once, with the mean over its slices. Channels or
crops of one field are not independent either; where they are given as images, intervals are too narrow.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from parfocal.qc.restoration.rows import COLUMNS, KINDS, MORE_COLUMNS, Kind, MetricsRow
from parfocal.runtime.errors import InvalidInputError

METRICS: Final = (*(name for name in COLUMNS if name not in {"scale", "offset", "failed"}), *MORE_COLUMNS)
"""Fields of `RestorationScore` and names of `MORE_COLUMNS` that are averaged."""

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
"""How the intervals were made, for summaries."""

_RESAMPLED_AT_ONCE: Final = 2**18
"""Values in memory at once while resampling, however many images there are."""

Outcome = Literal["better", "worse", "not distinguishable", "too few images"]


@dataclass(frozen=True)
class ImageScore:
    """One image of one kind: `values` by metric, averaged over its `slices`, of which `failed_slices` failed.

    A mean is over the slices that have a value, and NaN where none has. An image (Y, X) has one slice. `failures` are
    the different reasons.
    """

    image: str
    values: Mapping[str, float]
    slices: int
    failed_slices: int
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Statistics:
    """One metric over the images.

    `sd` is the sample standard deviation (None for one image); `low` and `high` are the bootstrap interval of the
    mean (None for fewer than three images).
    """

    mean: float
    median: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """The prediction against `other`, image by image, in one metric.

    `difference` is prediction minus other, `wins` the number of images in which the prediction is better. `outcome` is
    "better" or "worse" where the interval of the mean difference leaves out zero.
    """

    metric: str
    other: Kind
    difference: Statistics
    wins: int
    images: int
    outcome: Outcome


def image_scores(rows: Iterable[MetricsRow]) -> dict[Kind, tuple[ImageScore, ...]]:
    """Average the rows of each image over its slices; by kind, images in order of name.

    Raises
    ------
    InvalidInputError
        There are no rows, a row is given twice, or the kinds do not cover the same images and slices.
    """
    grouped: dict[Kind, dict[str, list[MetricsRow]]] = {kind: defaultdict(list) for kind in KINDS}
    covered: dict[Kind, set[tuple[str, int | None]]] = {kind: set() for kind in KINDS}
    for row in rows:
        key = (row.image, row.slice)
        if key in covered[row.kind]:
            raise InvalidInputError(f"{_named(key)} has two rows of kind {row.kind}. Score every image once.")
        covered[row.kind].add(key)
        grouped[row.kind][row.image].append(row)
    everything = set().union(*covered.values())
    if not everything:
        raise InvalidInputError("There are no scored images to summarise. Give at least one test image.")
    for kind in KINDS:
        missing = sorted(everything - covered[kind], key=str)
        if missing:
            raise InvalidInputError(
                f"{_named(missing[0])} has no row of kind {kind}. Input, baseline and prediction must be scored for "
                "every image."
            )
    return {kind: tuple(_image_score(name, grouped[kind][name]) for name in sorted(grouped[kind])) for kind in KINDS}


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


def compare(prediction: Sequence[ImageScore], other: Sequence[ImageScore], kind: Kind, metric: str) -> Comparison:
    """Compare the prediction with another kind in a metric of which more is better.

    Images without a value are left out; at least one must have one.
    """
    pairs = zip(prediction, other, strict=True)
    differences = np.array([ours.values[metric] - theirs.values[metric] for ours, theirs in pairs])
    differences = differences[~np.isnan(differences)]
    difference = statistics(differences)
    outcome: Outcome = "not distinguishable"
    if difference.low is None or difference.high is None:
        outcome = "too few images"
    elif difference.low > 0:
        outcome = "better"
    elif difference.high < 0:
        outcome = "worse"
    return Comparison(metric, kind, difference, int((differences > 0).sum()), differences.size, outcome)


def _image_score(name: str, rows: Sequence[MetricsRow]) -> ImageScore:
    failures = [row.score.failed for row in rows if row.score.failed is not None]
    return ImageScore(
        image=name,
        values={metric: _mean([row.value(metric) for row in rows]) for metric in METRICS},
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
