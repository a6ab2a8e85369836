"""Baselines: Otsu's threshold for foreground, a pixel classifier for any classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import Inputs, Item
from parfocal.qc.evaluation.training_images import training_dataset, training_pairs
from parfocal.qc.metrics.bands import by_blocks
from parfocal.qc.metrics.baselines.otsu import OtsuBaseline, choose_otsu
from parfocal.qc.metrics.baselines.pixels import PixelClassifier, fit_pixel_classifier
from parfocal.qc.metrics.objects.semantic import iou_parts
from parfocal.qc.semantic.scheme import Scheme
from parfocal.runtime.datasets.classes import UNANNOTATED
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.jobs.context import JobContext

# Enough to choose one of six thresholds, and to fit a classifier of few numbers.
_IMAGES: Final = 50
_TITLES: Final = {"Otsu threshold": "Otsu's threshold", "pixel classifier": "the pixel classifier"}


@dataclass(frozen=True)
class Baselines:
    """Baselines that were chosen on training images, by name, the best of them there first."""

    by_name: Mapping[str, OtsuBaseline | PixelClassifier]

    @property
    def best(self) -> str:
        """Name of the one that is compared with."""
        return next(iter(self.by_name))

    @property
    def title(self) -> str:
        """Name within a sentence."""
        return _TITLES[self.best]

    def apply(self, source: NDArray[Any], dimensions: int, scratch: Scratch) -> dict[str, NDArray[np.int8]]:
        """Return the index of each pixel's class by each baseline, in `scratch`; channels of a source come first."""

        def classes(each: OtsuBaseline | PixelClassifier) -> NDArray[np.int8]:
            if isinstance(each, PixelClassifier):
                return each.apply(source, dimensions, scratch)
            objects = each.apply(source, dimensions, scratch)
            return by_blocks(lambda labels: labels > 0, [objects], np.int8, scratch)

        return {name: classes(each) for name, each in self.by_name.items()}

    def describe(self) -> dict[str, Any]:
        """Return what is compared with and how it was chosen, as plain JSON types."""
        described = self.by_name[self.best].describe()
        described["iou_on_training_images"] = {name: round(each.score, 4) for name, each in self.by_name.items()}
        return described


def choose_baselines(context: JobContext, inputs: Inputs[Item], scheme: Scheme) -> Baselines:
    """Choose Otsu's threshold, where there are two classes, and fit a pixel classifier, on images of the training.

    The one with the higher IoU on them is what predictions are compared with.

    Raises
    ------
    InvalidInputError
        There are no training images with targets.
    """
    _, dataset = training_dataset(context, inputs)

    def pairs() -> Iterator[tuple[NDArray[Any], NDArray[np.int8]]]:
        images = training_pairs(context, inputs, inputs.roles[0], validation=False)
        for source, target in islice(images, _IMAGES):
            yield source, _known(scheme, target, classes=bool(dataset.image_class_values))

    found: dict[str, OtsuBaseline | PixelClassifier] = {}
    if scheme.binary:
        found["Otsu threshold"] = choose_otsu(pairs(), _annotated_iou)
    found["pixel classifier"] = fit_pixel_classifier(pairs(), scheme.count)
    return Baselines(dict(sorted(found.items(), key=lambda item: -item[1].score)))


def _known(scheme: Scheme, target: NDArray[Any], *, classes: bool) -> NDArray[np.int8]:
    """Return class indices of a training target; classes that the test images do not know count as not annotated."""
    if scheme.values and classes:
        indices = np.full(target.shape, UNANNOTATED, np.int8)
        for index, value in enumerate(scheme.values):
            indices[target == value] = index
        return indices
    return Scheme().target(target, name="a training target")


def _annotated_iou(target: NDArray[Any], prediction: NDArray[Any]) -> tuple[float, float]:
    return iou_parts(np.maximum(target, 0), np.where(target < 0, 0, prediction))
