"""The verdicts on localisations and on reconstructions, with reasons and remarks in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from parfocal.qc.evaluation.statistics import compare, statistics
from parfocal.qc.evaluation.verdict import Judgement, few_images, judge_gain, listed, with_unscorable
from parfocal.qc.evaluation.words import count
from parfocal.qc.localisation.metrics import BLIND_BY_KEY, BY_KEY
from parfocal.qc.localisation.parameters import LocalisationThresholds, ReconstructionThresholds
from parfocal.qc.metrics.objects.localisations import LocalisationScore
from parfocal.runtime.store.evaluations import ImageScore, Kind

BASELINE: Final = "fits of local maxima"
DEFINITION: Final = (
    "In each frame localisations and true emitters closer than the radius are matched, each once, so that the sum of "
    "squared distances is the lowest: true positives (TP); other localisations are false positives (FP), other "
    "emitters false negatives (FN). Jaccard index = TP / (TP + FP + FN); recall = TP / (TP + FN); precision = TP / "
    "(TP + FP). Lateral RMSE: root of the mean of dx² + dy² over the pairs. Efficiency = 100 - sqrt((100 - 100 "
    "Jaccard)² + (RMSE / 1 nm)²), in percent, as in the challenge of single-molecule localisation software (Sage et "
    "al. 2019); it may be negative. The image is compared with the histogram of the true emitters in its pixels, "
    "normalised between the 0.1 and 99.9 percentiles, after a least-squares fit: SSIM with a uniform window of 7 x 7 "
    "pixels, PSNR with a range of 1, and the root of the mean absolute difference, as the Deep-STORM notebook of "
    "ZeroCostDL4Mic has them."
)
"""Definitions of the numbers, to be printed beside them."""
BLIND_DEFINITION: Final = (
    "RSP and RSE: the super-resolved image is brought to the pixels of the camera, blurred by the Gaussian that fits "
    "best (0.5 to 10 pixels) and scaled by least squares; RSP is its correlation with the mean frame, RSE the root "
    "mean square difference in grey values (Culley et al. 2018). Resolution: the frames are divided into two halves, "
    "in blocks that alternate; the localisations of both are rendered as histograms, and the resolution is where their "
    "Fourier ring correlation falls below 1/7 (Nieuwenhuizen et al. 2013). An emitter that is active in both halves "
    "makes the resolution look better than it is."
)
_CROWDED: Final = 0.5


def judge(
    scores: Mapping[Kind, Sequence[ImageScore]],
    together: Mapping[Kind, LocalisationScore],
    thresholds: LocalisationThresholds,
    chance: float,
    unscorable: Mapping[str, str] | None = None,
) -> Judgement:
    """Pass or fail a model; see `LocalisationThresholds`.

    Parameters
    ----------
    scores
        By kind: metrics of every stack, in one order.
    together
        By kind: counts over all stacks together.
    thresholds
        Thresholds of the verdict.
    chance
        True emitters that lie within the radius of any place, on average.
    unscorable
        By further stack: why its prediction cannot be scored.
    """
    lost = unscorable or {}
    images, pooled = scores["prediction"], together["prediction"]
    failures, merits = [], []
    if not pooled.tp + pooled.fn:
        failures.append("No test stack has an emitter: such a test proves nothing. Add stacks with emitters.")
    empty = without_localisations(images)
    if empty and len(empty) + len(lost) > thresholds.max_failed_images:
        failures.append(f"In {len(empty)} of {count(len(images), 'stack')} nothing was located: {listed(empty)}.")
    sentence = (
        f"Over all stacks together {pooled.tp} of {count(pooled.tp + pooled.fn, 'emitter')} were found within "
        f"{thresholds.radius_nm:g} nm, with {count(pooled.fp, 'false positive')}: Jaccard index {pooled.jaccard:.3f}"
    )
    if pooled.jaccard < thresholds.min_jaccard:
        failures.append(f"{sentence}, below the {thresholds.min_jaccard:g} asked for.")
    else:
        merits.append(f"{sentence}.")
    if not math.isnan(pooled.rmse_nm):
        sentence = f"They are {pooled.rmse_nm:.1f} nm off (lateral RMSE)"
        if pooled.rmse_nm > thresholds.max_rmse_nm:
            failures.append(f"{sentence}; {thresholds.max_rmse_nm:g} nm are allowed.")
        else:
            merits.append(f"{sentence}.")
    gain = compare(images, scores["baseline"], "baseline", "efficiency")
    text, better = judge_gain(gain, images, BY_KEY["efficiency"], BASELINE, thresholds.min_efficiency_gain)
    (merits if better else failures).append(text)
    worst = min(images, key=lambda image: image.values["efficiency"])
    remarks = [
        *few_images(len(images)),
        f"The worst stack is {worst.image}, with efficiency {BY_KEY['efficiency'].text(worst.values['efficiency'])}.",
    ]
    if chance > _CROWDED:
        remarks.append(
            f"The frames are so crowded that {chance:.1f} emitters lie within {thresholds.radius_nm:g} nm of any place "
            "on average: many matches are chance. Look at the RMSE, or evaluate again with a smaller radius."
        )
    judgement = Judgement("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(judgement, lost, len(images) + len(lost), thresholds.max_failed_images)


def without_localisations(images: Sequence[ImageScore]) -> list[str]:
    """Return the stacks with emitters in which nothing was located."""
    return [image.image for image in images if image.values["target_emitters"] and not image.values["localisations"]]


def judge_blind(
    images: Sequence[ImageScore],
    thresholds: ReconstructionThresholds,
    left_out: Mapping[str, str],
    unscorable: Mapping[str, str] | None = None,
) -> Judgement:
    """Say whether anything speaks against reconstructions whose emitters are not known."""
    lost = unscorable or {}
    failures, merits = [], []
    empty = [image.image for image in images if not image.values["localisations"]]
    if empty and len(empty) + len(lost) > thresholds.max_failed_images:
        failures.append(f"In {len(empty)} of {count(len(images), 'stack')} nothing was located: {listed(empty)}.")
    rsp = statistics([image.values["rsp"] for image in images]).mean
    sentence = f"Blurred again, the image correlates with the mean frame by {BLIND_BY_KEY['rsp'].text(rsp)}"
    if rsp < thresholds.min_rsp:
        failures.append(f"{sentence}; {thresholds.min_rsp:g} is required.")
    else:
        merits.append(f"{sentence}.")
    known = [value for image in images if not math.isnan(value := image.values.get("frc_nm", math.nan))]
    if known:
        resolution = statistics(known).mean
        sentence = f"Two halves of the frames agree down to details of {BLIND_BY_KEY['frc_nm'].text(resolution)}"
        if resolution > thresholds.max_frc_nm:
            failures.append(f"{sentence}; {thresholds.max_frc_nm:g} nm are asked for.")
        else:
            merits.append(f"{sentence}.")
    else:
        failures.append("Two halves of the frames do not agree in any detail.")
    remarks = [
        "Without the true emitters this check is incomplete: emitters that were overlooked or misplaced evenly leave "
        "no trace. Also judge the model on simulated stacks with known emitters.",
        *few_images(len(images)),
    ]
    if left_out:
        remarks.append(f"{len(left_out)} of {count(len(left_out) + len(images) + len(lost), 'stack')} were not judged.")
    judgement = Judgement("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(judgement, lost, len(images) + len(lost), thresholds.max_failed_images)
