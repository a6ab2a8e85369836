"""From the distances of translated images to a verdict with reasons in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from parfocal.qc.evaluation.statistics import statistics
from parfocal.qc.evaluation.verdict import Judgement, few_images, listed, with_reasons, with_unscorable
from parfocal.qc.evaluation.words import count
from parfocal.qc.unpaired.metrics import BY_KEY
from parfocal.qc.unpaired.parameters import UnpairedThresholds
from parfocal.qc.unpaired.scoring import Sets
from parfocal.runtime.store.evaluations import ImageScore

DEFINITION: Final = (
    "The distance is the sliced Wasserstein distance of patches: images are split into bands of detail by a Laplacian "
    "pyramid down to 16 pixels; of each band, patches of 7x7 pixels are drawn from both sets, normalised by the mean "
    "and standard deviation of each channel over a set, projected on 512 random directions and sorted; it is the mean "
    "absolute difference, over all bands, times 1000. Brightness and contrast of a whole set do not matter to it. Sets "
    "are compared with real images of the training, with 128 patches for each image and band; a single image is a set "
    "of its own, with 32. The distance of other real images is above 0 by chance and by their variety: it is the "
    "lowest that can be expected. Intensity distance: mean absolute difference of the quantiles of intensities, in "
    "parts of the range of real images between their 0.1 and 99.9 percentiles. Cycle error and cycle correlation: mean "
    "absolute difference, in parts of the input's range, and Pearson correlation between an input and the image that "
    "results from turning it into the other kind and back."
)
"""Definitions of the numbers, to be printed beside them."""

CANNOT_SHOW: Final = (
    "Without pairs it cannot be checked whether the right structures are in the right places: images that look real "
    "can show structures that the sample does not have, or lack some that it has. Also judge the model on paired test "
    "images."
)


def judge(
    images: Sequence[ImageScore],
    sets: Sets,
    thresholds: UnpairedThresholds,
    *,
    largest_real: float,
    unscorable: Mapping[str, str] | None = None,
) -> Judgement:
    """Say whether anything speaks against the predictions; see `UnpairedThresholds`.

    Parameters
    ----------
    images
        The predictions.
    sets
        The distances of whole sets.
    largest_real
        The largest distance of a single real image.
    unscorable
        By further image: why its prediction cannot be scored, which counts as a failure.
    """
    lost = unscorable or {}
    failed = {image.image: " and ".join(image.failures) for image in images if image.failures}
    total = len(images) + len(lost)
    failures: list[str] = []
    merits: list[str] = []
    if failed and len(failed) + len(lost) > thresholds.max_failed_images:
        failures.append(f"{len(failed)} of {count(total, 'prediction')} failed outright: {with_reasons(failed)}.")
    for sentence, good in (_of_sets(sets, thresholds), _of_cycle(images, thresholds)):
        if sentence:
            (merits if good else failures).append(sentence)
    remarks = [CANNOT_SHOW]
    if not any("cycle_correlation" in image.values for image in images):
        remarks.append("There are no images turned back, so that it was not checked whether the content is kept.")
    remarks += few_images(len(images))
    unlike = [image.image for image in images if image.values["distance"] > largest_real]
    if unlike:
        remarks.append(
            f"{count(len(unlike), 'prediction')} of {len(images)} "
            f"{'is' if len(unlike) == 1 else 'are'} less like real images than any real test image: {listed(unlike)}."
        )
    worst = max(images, key=lambda image: image.values["distance"])
    remarks.append(f"The worst image is {worst.image}, with a distance of {_number(worst.values['distance'])}.")
    judgement = Judgement("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(judgement, lost, total, thresholds.max_failed_images)


def _of_sets(sets: Sets, thresholds: UnpairedThresholds) -> tuple[str, bool]:
    numbers = (
        f"distance {_number(sets.prediction)}; other real images {_number(sets.real)}, inputs with matched intensities "
        f"{_number(sets.baseline)}"
    )
    gap = sets.gap_closed
    if math.isnan(gap):
        return (
            f"The inputs, with matched intensities, are as near to real images as other real images are ({numbers}): "
            "these images cannot show whether the model is any good.",
            False,
        )
    if gap < thresholds.min_gap_closed:
        nearer = f"only {_percent(gap)} of the way" if gap > 0 else "none of the way"
        wanted = f"{_percent(thresholds.min_gap_closed)} is asked for"
        return f"Predictions have come {nearer} from matched intensities to real images ({numbers}); {wanted}.", False
    come = f"Predictions have come {_percent(gap)} of the way"
    return f"{come} from matched intensities to real images ({numbers}).", True


def _of_cycle(images: Sequence[ImageScore], thresholds: UnpairedThresholds) -> tuple[str, bool]:
    known = [image.values["cycle_correlation"] for image in images if "cycle_correlation" in image.values]
    if not known:
        return "", True
    mean = statistics(known).mean
    sentence = f"Inputs and the images turned into the other kind and back have a correlation of {mean:.3f}"
    if mean < thresholds.min_cycle_correlation:
        return f"{sentence}; {thresholds.min_cycle_correlation:g} is required.", False
    return f"{sentence}.", True


def _number(value: float) -> str:
    return BY_KEY["distance"].number(value)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"
