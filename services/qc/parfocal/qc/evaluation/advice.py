"""Advice on what to try next with a model that failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from parfocal.qc.evaluation.words import count
from parfocal.runtime.store.evaluations import PairedDifference
from parfocal.runtime.store.manifests import ModelManifest

_LATE: Final = 0.9
"""Part of the epochs after which the best one says that training ended too early."""
_EARLY: Final = 0.5
"""Part of the epochs before which the best one says that training went on in vain."""


UNSEEN: Final = ("Evaluate again with images that the model was not trained on: only these give a verdict.",)
"""Advice for a model that was trained on its test images."""


def next_steps(
    model: ModelManifest | None, worst: Sequence[str], comparisons: Sequence[PairedDifference], baseline: str
) -> tuple[str, ...]:
    """Return what may help, the most promising first.

    Parameters
    ----------
    model
        The model that failed; None where none is named.
    worst
        The image with the worst prediction of each target.
    comparisons
        The predictions against the baselines.
    baseline
        Name of the baseline within a sentence.
    """
    steps = [] if model is None else [*_of_training(model)]
    images = " and ".join(dict.fromkeys(worst))
    if images:
        steps.append(f"Look at the worst image ({images}): is its target right, and were images like it trained on?")
    if model is not None:
        steps.append(_more_images(model))
    steps.append("Try another method for the same task; `parfocal methods` lists them.")
    if any(each.other == "baseline" and each.outcome == "worse" for each in comparisons):
        steps.append(f"Or use the baseline: the {baseline} is better on these images.")
    return tuple(steps)


def _of_training(model: ModelManifest) -> list[str]:
    """Say what the epoch with the best weights tells of the length of the training."""
    name, epochs = f"{model.model}:{model.version}", model.epochs
    if model.origin:
        what = "The model was trained elsewhere, perhaps on images of another kind"
        return [f"{what}: fine-tune it on yours (`parfocal train {model.method} --from {name} …`)."]
    kept = next(iter(model.weights.values()), None)
    if kept is None or not kept.metric or epochs < 2:
        return []  # nothing was measured by which one epoch is better than another
    best = kept.epoch
    if best > _LATE * epochs:
        return [
            f"Train longer: the model was still improving when the training finished (its best epoch was {best} of "
            f"{epochs}). `parfocal train {model.method} --from {name} -p epochs={2 * epochs} …` continues from it."
        ]
    if best < _EARLY * epochs:
        return [
            f"Longer training will not help: the best epoch was {best} of {epochs}, and afterwards the model only "
            "memorised its training images (overfitting)."
        ]
    return []


def _more_images(model: ModelManifest) -> str:
    sources = sum(name.startswith(f"train/{model.source}/") for name in model.dataset_sha256)
    trained = f" (it was trained on {count(sources, 'image')})" if sources else ""
    return f"Add training images{trained}, above all images like those that are predicted badly."
