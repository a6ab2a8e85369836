"""Raises the threshold of a kept StarDist model until it shows few objects: thin.py METHOD FOLDER.

Kept models are hardly trained: nearly each pixel is an object to them, tens of thousands in a volume. bioimageio.core
draws them for each of many sizes, which takes longer than everything else.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from parfocal.runtime.images.files import read_image
from parfocal.runtime.methods.service import load_service
from parfocal.runtime.prediction.loaded_model import load_model
from parfocal.runtime.prediction.unit import ArrayUnit, Normalised
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest

# Of the pixels of the network's grid; overlapping objects are dropped, so that a few of these remain.
_PERCENT = 97.5


def main(name: str, folder: Path) -> None:
    """Change the manifest in a folder with a model's files and an image."""
    path = folder / MODEL_MANIFEST
    manifest = ModelManifest.parse(path.read_bytes(), path.name)
    method = load_service("parfocal.stardist").method(name)
    model = load_model(method, manifest, folder, weights="best")
    pixels = read_image(folder / "image.tif").pixels
    normalised = Normalised(ArrayUnit(pixels, method.axes, pixels.size), model.view.normaliser).whole()
    steps = model.implementation.portable(model.learner, model.view).divisor
    window = tuple(slice(length // step * step) for length, step in zip(normalised.shape, steps, strict=False))
    learner = model.learner
    assert hasattr(learner, "predict_batch")
    probability = learner.predict_batch(normalised[window][np.newaxis])[..., 0]
    facts = manifest.facts.with_measured(probability_threshold=float(np.percentile(probability, _PERCENT)))
    path.write_bytes(manifest.model_copy(update={"facts": facts}).to_bytes())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
