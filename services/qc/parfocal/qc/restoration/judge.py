"""From rows of metrics to a summary and a verdict with reasons in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.statistics import COMPARED, compare, image_scores, summarise_scores
from parfocal.qc.evaluation.verdict import (
    Judgement,
    amount,
    few_images,
    is_perfect,
    judge_gain,
    with_reasons,
    with_unscorable,
)
from parfocal.qc.evaluation.words import count
from parfocal.qc.restoration.background import background_shift, carried, compare_inside, held_back, shift_remark
from parfocal.qc.restoration.metrics import BY_KEY, PRIMARY
from parfocal.qc.restoration.parameters import RestorationThresholds, TranslationThresholds
from parfocal.qc.restoration.reliability import coverage_remark
from parfocal.runtime.store.evaluations import KINDS, ImageScore, Kind, PairedDifference, Statistics

DEFINITION: Final = (
    "Target scaled by its own 0.1 and 99.9 percentiles; image fitted to it by least squares (a x + b); both clipped to "
    "0..1. NRMSE = sqrt(mean((target - fitted)^2)); PSNR = 20 log10(1/NRMSE) dB, at most 100; SSIM with an 11x11 "
    "Gaussian window, sigma 1.5, K1 0.01, K2 0.03, data range 1, mean without the 5-pixel border. MS-SSIM with five "
    "scales and the weights of Wang 2003, fewer scales below 176 pixels. MicroSSIM fitted to all images of a kind. "
    "Foreground: above Otsu's threshold of the target; NRMSE, PSNR, SSIM and MicroSSIM inside and outside are means of "
    "the same maps, MS-SSIM that of its maps at each scale with the foreground halved alike, SNR = -10 log10(1 - r^2) "
    "dB. Resolution: where the Fourier ring (shell) correlation with the target, the "
    "median over five rings, first falls below 1/7. Stacks are scored slice by slice and averaged; scores of the "
    "volume have one scale and one fit, and an 11x11x11 window. Uncertainties are taken as scales b of a Laplace "
    "distribution: the interval of a probability p is b ln(1 / (1 - p)) on either side of the fitted prediction."
)
"""Definitions of the numbers, to be printed beside them."""


_MOST_FOREGROUND: Final = 0.5
"""Fraction of the image from which on the brighter side of a threshold is probably no foreground."""


@dataclass(frozen=True)
class RestorationSummary:
    """Scores of the test images, before any threshold.

    Attributes
    ----------
    images
        Number of test images (a stack is one).
    comparisons
        The prediction against input and baseline, in PSNR and SSIM.
    inside
        The same inside the foreground, in SNR and SSIM, where there are values.
    scores
        The images by kind, in order of name.
    worst
        The image whose prediction is the lowest in the `PRIMARY` metric.
    failed
        Images with at least one inverted or constant slice in the prediction.
    """

    images: int
    comparisons: tuple[PairedDifference, ...]
    inside: tuple[PairedDifference, ...]
    scores: Mapping[Kind, tuple[ImageScore, ...]]
    worst: ImageScore
    failed: tuple[ImageScore, ...]

    @property
    def metrics(self) -> Mapping[Kind, Mapping[str, Statistics]]:
        """Statistics over the images that have a value, by kind and metric."""
        return summarise_scores(self.scores)


def summarise(rows: Iterable[ScoreRow]) -> RestorationSummary:
    """Summarise the rows of input, baseline and prediction over the images.

    Failed images stay in all means: their number is given beside them.

    Raises
    ------
    InvalidInputError
        There are no rows, or the three kinds do not cover the same images.
    """
    scores = image_scores(rows, KINDS)
    predictions = scores["prediction"]
    others: tuple[Kind, ...] = ("input", "baseline")
    return RestorationSummary(
        images=len(predictions),
        comparisons=tuple(
            compare(predictions, scores[other], other, metric) for other in others for metric in COMPARED
        ),
        inside=tuple(each for other in others for each in compare_inside(predictions, scores[other], other)),
        scores=scores,
        worst=min(predictions, key=lambda score: score.values[PRIMARY]),
        failed=tuple(score for score in predictions if score.failed_slices),
    )


def judge(
    summary: RestorationSummary,
    thresholds: RestorationThresholds | TranslationThresholds | None = None,
    unscorable: Mapping[str, str] | None = None,
) -> Judgement:
    """Pass or fail a model on its summary; see `RestorationThresholds` and `TranslationThresholds`.

    With fewer than three images there is no interval: the mean differences decide and a remark says so. `unscorable`
    are the images that are not in the summary because their prediction cannot be scored: by name, why.
    """
    lost = unscorable or {}
    limits = thresholds or RestorationThresholds()
    failed = [score for score in summary.failed if score.failed_slices > limits.max_failed_slices * score.slices]
    refused = failed if len(failed) + len(lost) > limits.max_failed_images else []
    failures = [_failed_images(refused, summary.images + len(lost))] if refused else []
    merits: list[str] = []
    remarks: list[str] = []
    # Where all have failed, scores are those of a fit that hides it, and what they say would only mislead.
    for comparison in summary.comparisons if len(refused) < summary.images else ():
        if isinstance(limits, TranslationThresholds) and comparison.other == "input":
            continue  # the linear predictor is the best that the input alone can tell
        sentence, passed, remark = _judged(comparison, summary, limits)
        (merits if passed else failures).append(sentence)
        remarks.extend([remark] if remark else [])
    remarks.extend(few_images(summary.images))
    remarks.extend(_tolerated(score) for score in summary.failed if score not in refused)
    primary = BY_KEY[PRIMARY]
    lowest = primary.text(summary.worst.values[PRIMARY])
    remarks.append(f"The worst image is {summary.worst.image}, with {primary.title} {lowest}.")
    coverage = _mean(summary.scores["prediction"], "coverage_90")
    if coverage is not None:
        remarks.append(coverage_remark(coverage, _mean(summary.scores["prediction"], "coverage_90_inside")))
    shift = background_shift(summary.scores["prediction"])
    if shift is None:
        remarks.append(
            "No test image has a score inside the foreground, so that it is unknown whether the scores come from the "
            "background."
        )
    else:
        if shift.fraction > _MOST_FOREGROUND:
            remarks.append(
                f"The pixels above Otsu's threshold make up {100 * shift.fraction:.0f} % of the targets. If the "
                "structures are darker than their background, scores inside the foreground describe the background."
            )
        if remark := shift_remark(shift, limits.max_background_shift):
            remarks.append(remark)
    verdict = Judgement("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(verdict, lost, summary.images + len(lost), limits.max_failed_images)


def _mean(images: Sequence[ImageScore], metric: str) -> float | None:
    """Return the mean over the images that have a value; None where none has."""
    values = [value for image in images if not math.isnan(value := image.values.get(metric, math.nan))]
    return float(np.mean(values)) if values else None


def _judged(
    comparison: PairedDifference, summary: RestorationSummary, limits: RestorationThresholds | TranslationThresholds
) -> tuple[str, bool, str | None]:
    """Judge a comparison over the whole image and then inside the foreground: sentence, passed, remark."""
    metric, described, allowed = comparison.metric, BY_KEY[comparison.metric], None
    images = summary.scores["prediction"]
    if isinstance(limits, TranslationThresholds):
        name = "a linear predictor"
        sentence, passed = judge_gain(comparison, images, described, name, limits.gain_over_baseline(metric))
    elif comparison.other == "input":
        name = "its input"
        sentence, passed = judge_gain(comparison, images, described, name, limits.gain_over_input(metric))
    else:
        name, allowed = "a Gaussian filter", limits.loss_to_baseline(metric)
        sentence, passed = _against_baseline(comparison, allowed)
    if is_perfect(images, described):
        return sentence, passed, None
    if not passed:
        return sentence, False, held_back(comparison, summary.scores, name=name)
    background = carried(comparison, summary.scores, limits, name=name, allowed=allowed)
    return background or sentence, background is None, None


def baseline_note(baseline: Mapping[str, Any]) -> str:
    """Say how a baseline was chosen, from what it says of itself."""
    if baseline.get("filter") == "gaussian":
        sigma = f"{baseline['sigma_pixels']:.2f} px"
        return f" The Gaussian filter has the sigma that suits the {baseline['chosen_on']} best, {sigma}."
    if "coefficients" in baseline and not baseline.get("pairs", True):
        return (
            " The linear predictor gives inputs the mean and the contrast of targets, as on the "
            f"{baseline['chosen_on']}, which are not pairs."
        )
    if "coefficients" in baseline:
        what = "the best linear function of the input's pixels"
        return f" The linear predictor is {what} on the {baseline['chosen_on']}."
    return ""


def _failed_images(failed: Sequence[ImageScore], images: int) -> str:
    names = with_reasons({score.image: " and ".join(score.failures) for score in failed})
    return f"{len(failed)} of {count(images, 'prediction')} failed outright: {names}."


def _tolerated(score: ImageScore) -> str:
    failures = " or ".join(score.failures)
    if score.slices == 1:
        return f"{score.image}: {failures}, which is within the thresholds."
    return (
        f"{score.image}: {failures} in {score.failed_slices} of {score.slices} slices, which is within the thresholds."
    )


def _against_baseline(comparison: PairedDifference, allowed: float) -> tuple[str, bool]:
    difference = comparison.difference
    high = difference.mean if difference.high is None else difference.high
    by = amount(comparison, BY_KEY[comparison.metric])
    if high < -allowed:
        return f"The prediction is worse than a Gaussian filter {by}.", False
    if comparison.outcome == "better":
        return f"The prediction is better than a Gaussian filter {by}.", True
    if comparison.outcome == "worse":
        return f"The prediction is worse than a Gaussian filter, within the thresholds, {by}.", True
    if comparison.outcome == "not distinguishable":
        return f"The prediction is not distinguishable from a Gaussian filter {by}.", True
    return f"The prediction is not worse than a Gaussian filter {by}.", True
