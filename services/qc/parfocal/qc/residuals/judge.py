"""From the numbers of residuals to a verdict with reasons in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from parfocal.qc.evaluation.statistics import statistics
from parfocal.qc.evaluation.verdict import Judgement, few_images, listed, with_reasons, with_unscorable
from parfocal.qc.evaluation.words import count
from parfocal.qc.residuals.metrics import BY_KEY
from parfocal.qc.residuals.parameters import ResidualThresholds
from parfocal.runtime.store.evaluations import ImageScore

DEFINITION: Final = (
    "The prediction is fitted to its input by least squares (a x + b); the residual is the input less the fitted "
    "prediction. The local strength of noise is that of the residual's finest scale (second differences along Y and X, "
    "averaged with a Gaussian of 8 pixels). The deviation is the residual smoothed with a Gaussian of 2 pixels, in "
    "standard deviations of white noise of that strength smoothed alike. Agreement: part of the pixels whose deviation "
    "is at most 4. Structure: root mean square of the deviation in that third of the blocks of 16x16 pixels in which "
    "the prediction varies most; 1 for noise alone. Sharpness: root mean square, in the same blocks, of the fitted "
    "prediction between Gaussians of 1 and 4 pixels, by that of the input without what noise has there. Noise left: "
    "noise of the fitted prediction by that of the input. Autocorrelation: correlation of the residual between "
    "neighbouring pixels; 0 for noise that is independent from pixel to pixel. Stacks are scored plane by plane and "
    "averaged."
)
"""Definitions of the numbers, to be printed beside them."""

# From which difference to the ideal on the sentence about lost structure names a cause.
_CLEAR: Final = 0.1
# Measured with perfect predictions: 2 % of saturated pixels are enough for a structure above the limit.
_CLIPPED: Final = 0.02


def rank(image: ImageScore) -> tuple[float, ...]:
    """Return what orders images, the worst first: agreement; of several the most structure in the residual."""
    return image.values["agreement"], -image.values["structure"]


def judge(
    images: Sequence[ImageScore],
    thresholds: ResidualThresholds,
    unlike: Sequence[str] = (),
    left_out: Mapping[str, str] | None = None,
    unscorable: Mapping[str, str] | None = None,
) -> Judgement:
    """Say whether anything speaks against the predictions; see `ResidualThresholds`.

    Parameters
    ----------
    images
        The predictions.
    unlike
        Images that are unlike those the model was trained on.
    left_out
        By further image: why it was not judged.
    unscorable
        By further image: why its prediction cannot be scored, which counts as a failure.
    """
    lost = unscorable or {}
    failed = {image.image: " and ".join(image.failures) for image in images if image.failures}
    failures: list[str] = []
    merits: list[str] = []
    total = len(images) + len(lost)
    if failed and len(failed) + len(lost) > thresholds.max_failed_images:
        failures.append(f"{len(failed)} of {count(total, 'prediction')} failed outright: {with_reasons(failed)}.")
    means = {name: _mean(images, name) for name in BY_KEY}
    agreement, structure, left = means["agreement"], means["structure"], means["noise_left"]
    sentence = f"Prediction and input agree within the noise in {_percent(agreement)} of the pixels"
    if agreement < thresholds.min_agreement:
        failures.append(f"{sentence}; {_percent(thresholds.min_agreement)} is required.")
    else:
        merits.append(f"{sentence}.")
    sentence = (
        f"In structures, the residual (input minus prediction) varies {structure:.2f} times as much as noise would"
    )
    if structure > thresholds.max_structure:
        failures.append(f"{sentence}; {thresholds.max_structure:g} times is allowed. {_cause(means)}")
    else:
        merits.append(f"{sentence}.")
    sentence = f"{_percent(left)} of the noise is left"
    if left > thresholds.max_noise_left:
        failures.append(f"{sentence}; {_percent(thresholds.max_noise_left)} is allowed.")
    else:
        merits.append(f"{sentence}.")
    remarks = [
        "Without targets this check is incomplete: false structure within the noise leaves no trace in the residual. "
        "Also judge the model on test images with targets.",
        *few_images(len(images)),
    ]
    if left_out:
        all_of_them = count(len(left_out) + total, "image")
        remarks.append(f"{len(left_out)} of {all_of_them} could not be judged: {with_reasons(left_out)}.")
    if unlike:
        are = "is" if len(unlike) == 1 else "are"
        what = f"{count(len(unlike), 'image')} {are} unlike those the model was trained on"
        remarks.append(f"{what}: {listed(unlike)}.")
    worst = min(images, key=rank)
    agreement_of = BY_KEY["agreement"].number(worst.values["agreement"])
    remarks.append(f"The worst image is {worst.image}, with agreement {agreement_of}.")
    judgement = Judgement("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(judgement, lost, total, thresholds.max_failed_images)


def _cause(means: Mapping[str, float]) -> str:
    """Say what may have happened to structures."""
    sharpness = means["sharpness"]
    if sharpness < 1 - _CLEAR:
        what = f"Structures were blurred or weakened (sharpness {sharpness:.2f} of the input's)."
    elif sharpness > 1 + _CLEAR:
        what = f"Structures were sharpened, or false structure was added (sharpness {sharpness:.2f} of the input's)."
    else:
        what = "Structures were changed, or lie elsewhere than in the input."
    if means["autocorrelation"] > _CLEAR:
        what += (
            f" Or the noise of neighbouring pixels is correlated (autocorrelation {means['autocorrelation']:.2f}), as "
            "in interpolated or compressed images: this check does not apply then."
        )
    if means["clipped_fraction"] > _CLIPPED:
        what += (
            f" Or the input is clipped ({_percent(means['clipped_fraction'])} of its pixels have the smallest or "
            "largest grey value), unlike a prediction: this check does not apply then either."
        )
    return what


def _mean(images: Sequence[ImageScore], name: str) -> float:
    known = [value for image in images if not math.isnan(value := image.values.get(name, math.nan))]
    return statistics(known).mean if known else math.nan


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"
