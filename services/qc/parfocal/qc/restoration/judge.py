"""From rows of metrics to a summary and a verdict with reasons in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from parfocal.qc.evaluation.statistics import (
    COMPARED,
    INTERVAL,
    METRICS,
    Comparison,
    ImageScore,
    Statistics,
    compare,
    image_scores,
    statistics,
)
from parfocal.qc.evaluation.verdict import (
    Verdict,
    amount,
    few_images,
    judge_gain,
    number,
    with_reasons,
    with_unscorable,
)
from parfocal.qc.evaluation.words import count
from parfocal.qc.metrics.images.foreground import FOREGROUND_METHOD
from parfocal.qc.restoration.background import background_shift, carried, compare_inside, held_back, shift_remark
from parfocal.qc.restoration.parameters import RestorationThresholds, TranslationThresholds
from parfocal.qc.restoration.reliability import coverage_remark
from parfocal.qc.restoration.rows import (
    COLUMNS,
    KINDS,
    MORE_COLUMNS,
    Kind,
    MetricsRow,
)

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
"""How the numbers were made, to be printed beside them."""


_MOST_FOREGROUND: Final = 0.5
"""Fraction of the image from which on the brighter side of a threshold is probably no foreground."""

PRIMARY: Final = "psnr"
"""The metric by which images are called best, median and worst, in figures, tables and sentences alike.

It is also what the sigma of the Gaussian filter is chosen by, and every image has it. It is the first of `SHOWN`, as in
every kind of quality control the first metric shown is the one that ranks.
"""

SHOWN: Final = {
    "psnr": "PSNR in dB",
    "ssim": "SSIM",
    "nrmse": "NRMSE",
    "pearson": "Correlation",
    "ssim_inside": "SSIM in the foreground",
}
"""The metrics that tables for people have, the most important first, and what they are called there."""


REGIONS: Final = {
    "psnr": "PSNR in dB",
    "snr": "SNR in dB",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "micro_ssim": "MicroSSIM",
    "nrmse": "NRMSE",
    "pearson": "Correlation",
    **{
        f"volume_{metric}": f"{title}, volume"
        for metric, title in {
            "psnr": "PSNR in dB",
            "snr": "SNR in dB",
            "ssim": "SSIM",
            "nrmse": "NRMSE",
            "pearson": "Correlation",
        }.items()
    },
}
"""The metrics that have values inside and outside the foreground, and what tables for people call them."""


@dataclass(frozen=True)
class RestorationSummary:
    """What the test images show, before any threshold.

    Attributes
    ----------
    images
        Number of test images (a stack is one).
    metrics
        By kind and metric: statistics over the images that have a value; metrics that no image has are left out.
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
    metrics: Mapping[Kind, Mapping[str, Statistics]]
    comparisons: tuple[Comparison, ...]
    inside: tuple[Comparison, ...]
    scores: Mapping[Kind, tuple[ImageScore, ...]]
    worst: ImageScore
    failed: tuple[ImageScore, ...]


def summarise(rows: Iterable[MetricsRow]) -> RestorationSummary:
    """Summarise the rows of input, baseline and prediction over the images.

    Failed images stay in all means: their number is given beside them.

    Raises
    ------
    InvalidInputError
        There are no rows, or the three kinds do not cover the same images.
    """
    scores = image_scores(rows)
    predictions = scores["prediction"]
    others: tuple[Kind, ...] = ("input", "baseline")
    return RestorationSummary(
        images=len(predictions),
        metrics={kind: _metrics(scores[kind]) for kind in KINDS},
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
) -> Verdict:
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
    lowest = number(PRIMARY, summary.worst.values[PRIMARY])
    remarks.append(f"The worst image is {summary.worst.image}, with {PRIMARY.upper()} {lowest}.")
    if known := summary.metrics["prediction"].get("coverage_90"):
        inside = summary.metrics["prediction"].get("coverage_90_inside")
        remarks.append(coverage_remark(known.mean, inside.mean if inside else None))
    shift = background_shift(summary.scores["prediction"])
    if shift is None:
        remarks.append("No test image has a score inside the foreground: whether background carries them is unknown.")
    else:
        if shift.fraction > _MOST_FOREGROUND:
            remarks.append(
                f"What is brighter than Otsu's threshold is {100 * shift.fraction:.0f} % of the targets. If the "
                "structures are darker than their background, scores inside the foreground are scores of background."
            )
        if remark := shift_remark(shift, limits.max_background_shift):
            remarks.append(remark)
    verdict = Verdict("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(verdict, lost, summary.images + len(lost), limits.max_failed_images)


def _metrics(scores: Sequence[ImageScore]) -> dict[str, Statistics]:
    values = {metric: [score.values[metric] for score in scores] for metric in METRICS}
    defined = {metric: [value for value in each if not math.isnan(value)] for metric, each in values.items()}
    return {metric: statistics(each) for metric, each in defined.items() if each}


def _judged(
    comparison: Comparison, summary: RestorationSummary, limits: RestorationThresholds | TranslationThresholds
) -> tuple[str, bool, str | None]:
    """Judge a comparison over the whole image and then inside the foreground: sentence, passed, remark."""
    metric, title, allowed = comparison.metric, comparison.metric.upper(), None
    if isinstance(limits, TranslationThresholds):
        name = "a linear predictor"
        sentence, passed = judge_gain(comparison, title, name, limits.gain_over_baseline(metric))
    elif comparison.other == "input":
        name = "its input"
        sentence, passed = judge_gain(comparison, title, name, limits.gain_over_input(metric))
    else:
        name, allowed = "a Gaussian filter", limits.loss_to_baseline(metric)
        sentence, passed = _against_baseline(comparison, allowed)
    if not passed:
        return sentence, False, held_back(comparison, summary.scores, name=name)
    background = carried(comparison, summary.scores, limits, name=name, allowed=allowed)
    return background or sentence, background is None, None


def summary_json(
    summary: RestorationSummary,
    verdict: Verdict,
    *,
    task: str = "restoration",
    thresholds: RestorationThresholds | TranslationThresholds | None = None,
    baseline: Mapping[str, Any] | None = None,
    unscorable: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Everything a reader of the verdict needs, as plain JSON types; every number is finite.

    `baseline` says what the prediction was compared with and how it was chosen; `unscorable` is that of `judge`.
    """
    known: set[str] = set().union(*summary.metrics.values())
    return {
        "task": task,
        "definition": DEFINITION,
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "remarks": list(verdict.remarks),
        "images": summary.images,
        "metrics": {
            kind: {metric: asdict(values) for metric, values in by_metric.items()}
            for kind, by_metric in summary.metrics.items()
        },
        "comparisons": [asdict(comparison) for comparison in (*summary.comparisons, *summary.inside)],
        "foreground": _foreground_json(summary),
        "worst_image": _image_json(summary.worst),
        "failed_images": [_image_json(score) for score in summary.failed],
        "unscorable": dict(unscorable or {}),
        "units": {metric: heading for metric, heading in (COLUMNS | MORE_COLUMNS).items() if metric in known},
        "shown": {metric: title for metric, title in SHOWN.items() if metric in known},
        "regions": {metric: title for metric, title in REGIONS.items() if f"{metric}_inside" in known},
        "note": _note(baseline or {}),
        "interval": INTERVAL,
        "thresholds": (thresholds or RestorationThresholds()).model_dump(),
        "baseline": dict(baseline) if baseline is not None else None,
    }


def _foreground_json(summary: RestorationSummary) -> dict[str, Any] | None:
    shift = background_shift(summary.scores["prediction"])
    return None if shift is None else {"method": FOREGROUND_METHOD, **asdict(shift)}


def _note(baseline: Mapping[str, Any]) -> str:
    """Say what a reader of the table must know."""
    note = "Higher is better, except for NRMSE."
    if baseline.get("filter") == "gaussian":
        sigma = f"{baseline['sigma_pixels']:.2f} px"
        return f"{note} The Gaussian filter has the sigma that suits the {baseline['chosen_on']} best, {sigma}."
    if "coefficients" in baseline:
        what = "the best linear function of the input's pixels"
        return f"{note} The linear predictor is {what} on the {baseline['chosen_on']}."
    return note


def _failed_images(failed: Sequence[ImageScore], images: int) -> str:
    names = with_reasons({score.image: " and ".join(score.failures) for score in failed})
    return f"{len(failed)} of {count(images, 'prediction')} failed outright: {names}."


def _tolerated(score: ImageScore) -> str:
    failures = " or ".join(score.failures)
    if score.slices == 1:
        return f"{score.image}: {failures}, which the thresholds allow."
    return f"{score.image}: {failures} in {score.failed_slices} of {score.slices} slices, which the thresholds allow."


def _against_baseline(comparison: Comparison, allowed: float) -> tuple[str, bool]:
    difference = comparison.difference
    high = difference.mean if difference.high is None else difference.high
    by = amount(comparison, comparison.metric.upper())
    if high < -allowed:
        return f"The prediction is worse than a Gaussian filter {by}.", False
    if comparison.outcome == "better":
        return f"The prediction is better than a Gaussian filter {by}.", True
    if comparison.outcome == "worse":
        return f"The prediction is worse than a Gaussian filter, within what is allowed, {by}.", True
    if comparison.outcome == "not distinguishable":
        return f"The prediction is not distinguishable from a Gaussian filter {by}.", True
    return f"The prediction is not worse than a Gaussian filter {by}.", True


def _image_json(score: ImageScore) -> dict[str, Any]:
    return {
        "image": score.image,
        "slices": score.slices,
        "failed_slices": score.failed_slices,
        "failures": list(score.failures),
        **{metric: value for metric, value in score.values.items() if not math.isnan(value)},
    }
