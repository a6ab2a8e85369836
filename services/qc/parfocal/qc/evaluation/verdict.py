"""The verdict of a quality control, and the sentences that all verdicts have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from parfocal.qc.evaluation.f1 import F1Thresholds
from parfocal.qc.evaluation.inputs import Inputs, ItemT
from parfocal.qc.evaluation.statistics import CONFIDENCE, FEW_IMAGES, compare, summarise_scores
from parfocal.qc.evaluation.words import count
from parfocal.runtime.store.evaluations import ImageScore, Kind, Metric, PairedDifference

_NAMED: Final = 5


@dataclass(frozen=True)
class Judgement:
    """Whether the model can be trusted, and why.

    `reasons` say what decided; `remarks` say what a reader should know besides; `next_steps` say what to try with a
    model that failed.
    """

    verdict: Literal["passed", "failed"]
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]
    next_steps: tuple[str, ...] = ()


def judge_gain(
    comparison: PairedDifference, images: Sequence[ImageScore], metric: Metric, other: str, needed: float
) -> tuple[str, bool]:
    """Say whether the gain over something else is shown to exceed what is needed, and return whether it is.

    The lower end of the interval must exceed it; with too few images for an interval, the mean. Where the prediction
    has the best possible value in every image, no gain can be asked for.

    Parameters
    ----------
    comparison
        Paired differences in a metric of which higher is better.
    images
        The predictions that were compared.
    metric
        The metric that is compared.
    other
        Name of the other one within a sentence, e.g. "Otsu's threshold".
    needed
        The gain asked for.
    """
    difference = comparison.difference
    low = difference.mean if difference.low is None else difference.low
    if low > needed:
        return f"The prediction is better than {other} {amount(comparison, metric)}.", True
    if is_perfect(images, metric):
        best = f"{metric.title} {metric.text(metric.best or 0)}"
        return f"The prediction is perfect in every image ({best}), so that no gain over {other} is required.", True
    if comparison.outcome == "worse":
        return f"The prediction is worse than {other} {amount(comparison, metric)}.", False
    beyond = f" by the {metric.text(needed)} asked for" if needed else ""
    return f"The prediction is not shown to be better than {other}{beyond} {amount(comparison, metric)}.", False


def is_perfect(images: Sequence[ImageScore], metric: Metric) -> bool:
    """Return whether every image that has a value of a metric, at least one, has the best that is possible."""
    values = [value for image in images if not math.isnan(value := image.values.get(metric.key, math.nan))]
    return (
        metric.best is not None
        and bool(values)
        and all(math.isclose(value, metric.best, rel_tol=1e-6) for value in values)
    )


def baseline_ahead(
    scores: Mapping[Kind, Sequence[ImageScore]], metrics: Sequence[Metric], names: Mapping[Kind, str]
) -> list[str]:
    """Return a remark on each of the others that is better than the prediction in the mean of a metric.

    Metrics that the verdict depends on are left out: its reasons speak of them.

    Parameters
    ----------
    scores
        The images by kind.
    metrics
        Metrics to look at.
    names
        Names, at the beginning of a sentence, of the kinds other than the prediction.
    """
    found = summarise_scores(scores)
    remarks = []
    for kind, name in names.items():
        ahead = []
        for metric in metrics:
            if metric.better == "none" or metric.used_by_verdict:
                continue
            theirs, ours = found[kind].get(metric.key), found["prediction"].get(metric.key)
            if theirs and ours and _signed(metric, theirs.mean) > _signed(metric, ours.mean):
                ahead.append(f"{metric.title} ({metric.text(theirs.mean)} against {metric.text(ours.mean)})")
        if ahead:
            remarks.append(f"{name} is better on average in {listed(ahead)}.")
    return remarks


def _signed(metric: Metric, value: float) -> float:
    """Return a value with more being better, rounded as people read it: 0.9101 is not ahead of 0.9100."""
    return round(value, metric.digits) * (-1 if metric.better == "lower" else 1)


def with_unscorable(verdict: Judgement, unscorable: Mapping[str, str], images: int, allowed: int) -> Judgement:
    """Name the predictions that could not be scored; more than are allowed to fail, or all of them, fail the model.

    Parameters
    ----------
    unscorable
        By image: reason as a sentence that names it.
    images
        Number of all images that have a prediction.
    allowed
        Number of images that may fail. Images that failed in another way must have been added to these before.
    """
    if not unscorable:
        return verdict
    # What is wrong, without what to do.
    reasons = listed([reason.split(". ")[0].rstrip(".") for _, reason in sorted(unscorable.items())], "; ")
    sentence = f"{len(unscorable)} of {count(images, 'prediction')} could not be scored: {reasons}."
    left = images - len(unscorable)
    remarks = verdict.remarks
    if left:
        remarks = (f"Scores and means are those of the {count(left, 'image')} that could be scored.", *remarks)
    if left and len(unscorable) <= allowed:
        return Judgement(verdict.verdict, verdict.reasons, (f"{sentence} This is within the thresholds.", *remarks))
    # Merits are no reasons of a failure.
    failures = verdict.reasons if verdict.verdict == "failed" else ()
    return Judgement("failed", (sentence, *failures), remarks)


def seen_in_training(inputs: Inputs[ItemT]) -> list[str]:
    """Return the labels of the test images that the model was trained on."""
    known = set() if inputs.model is None else set(inputs.model.dataset_sha256.values())
    return [item.label for item in inputs.items if item.source_sha256 in known]


def with_test(verdict: Judgement, inputs: Inputs[ItemT], allowed: int) -> Judgement:
    """Add what the test itself says: fail a model that was trained on test images, or whose predictions are incomplete.

    A selection of images may flatter, so `allowed`, the number of images that may fail, holds for missing ones too.
    """
    remarks, failures = [*verdict.remarks], []
    if inputs.missing:
        lost, total = len(inputs.missing), len(inputs.missing) + len(inputs.items)
        have = "has no prediction and was" if lost == 1 else "have no prediction and were"
        sentence = f"{lost} of {count(total, 'test image')} {have} not scored: {listed(inputs.missing)}."
        if lost > allowed:
            failures.append(f"{sentence} Predict all of them.")
        else:
            remarks.append(f"{sentence} This is within the thresholds.")
    if inputs.model is None or not inputs.model.dataset_sha256:
        what = "No model is named" if inputs.model is None else "The model was made elsewhere"
        remarks.append(f"{what}, so that it is unknown whether these images were used for training.")
    if labels := seen_in_training(inputs):
        were = "was" if len(labels) == 1 else "were"
        failures.insert(
            0,
            f"{len(labels)} of {count(len(inputs.items), 'test image')} {were} among the training images "
            f"({listed(labels)}): such a test proves nothing. Use images the model has not seen.",
        )
    if not failures:
        return Judgement(verdict.verdict, verdict.reasons, tuple(remarks))
    # Merits are no reasons of a failure.
    known_failures = verdict.reasons if verdict.verdict == "failed" else ()
    return Judgement("failed", (*failures, *known_failures), tuple(remarks))


def with_reasons(images: Mapping[str, str]) -> str:
    """Say "a (contrast inverted), b (prediction is constant)", in order of name."""
    return listed([f"{image} ({why})" for image, why in sorted(images.items())])


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Say "a, b, c, d, e and 3 more"."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return separator.join(names[:_NAMED]) + more


def few_images(images: int) -> list[str]:
    """Return a remark where there are too few test images for an interval, else nothing."""
    if images >= FEW_IMAGES:
        return []
    return [
        f"Only {count(images, 'test image')}: a confidence interval cannot be computed, and the verdict rests on the "
        f"mean alone. Use at least {FEW_IMAGES} images, better ten."
    ]


def amount(comparison: PairedDifference, metric: Metric) -> str:
    """Say "in F1: +0.120 on average, 95 % interval +0.100 to +0.140; better in 9 of 9 images"."""
    mean = metric.text(comparison.difference.mean, signed=True)
    images = count(comparison.images, "image")
    return (
        f"in {metric.title}: {mean} on average{interval(comparison, metric)}; better in {comparison.wins} of {images}"
    )


def interval(comparison: PairedDifference, metric: Metric) -> str:
    """Say ", 95 % interval +0.100 to +0.140"; empty where there is none."""
    low, high = comparison.difference.low, comparison.difference.high
    if low is None or high is None:
        return ""
    ends = (metric.text(end, signed=True) for end in (low, high))
    return f", {100 * CONFIDENCE:.0f} % interval {' to '.join(ends)}"


def judge_f1(
    sentence: str, f1: float, scores: Mapping[Kind, Sequence[ImageScore]], metric: Metric, thresholds: F1Thresholds
) -> tuple[list[str], list[str]]:
    """Return what speaks against a model of single objects and what for it.

    Parameters
    ----------
    sentence
        Sentence that says how many objects were found, without its end.
    f1
        Over all images together.
    scores
        The images by kind.
    metric
        F1.
    thresholds
        Thresholds of the verdict.
    """
    images = scores["prediction"]
    gain = compare(images, scores["baseline"], "baseline", metric.key)
    text, better = judge_gain(gain, images, metric, "Otsu's threshold", thresholds.min_f1_gain_over_baseline)
    enough = f1 >= thresholds.min_f1
    reached = f"{sentence}." if enough else f"{sentence}, below the {thresholds.min_f1:g} asked for."
    judged = [(reached, enough), (text, better)]
    return [each for each, good in judged if not good], [each for each, good in judged if good]
