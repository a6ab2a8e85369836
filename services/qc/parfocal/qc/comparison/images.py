"""The best and the worst image of a comparison: found, fetched and drawn with the predictions of all models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from parfocal import v1
from parfocal.qc.comparison.candidates import Candidate, TargetScores
from parfocal.qc.comparison.figure import DrawImages, Shown
from parfocal.qc.comparison.parameters import ComparisonParameters
from parfocal.qc.comparison.summary import rank_images
from parfocal.qc.evaluation.channels import channel_names
from parfocal.qc.evaluation.inputs import channels_first, predicted_files, scratch_of
from parfocal.qc.evaluation.room import Held, size_of, workers_that_fit
from parfocal.qc.figures.drawing import save_png
from parfocal.runtime.errors import NotFoundError, OutOfMemoryError
from parfocal.runtime.images.files import open_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.methods.service import load_object
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    RESULT_MANIFEST,
    DatasetManifest,
    FileEntry,
    ImageEntry,
    ResultManifest,
)
from parfocal.runtime.store.store import Location

# Those of evaluated objects, which are matched again to draw their mistakes; of other images a part alone is drawn.
_PIXEL_BYTES: Final = 40
_HELD: Final = Held(pixels=2**24, planes=10)


def draw_images(
    context: JobContext, candidates: Sequence[Candidate], scores: Sequence[TargetScores], folder: Path
) -> None:
    """Draw the best and the worst image of every target."""
    parameters = context.parameters
    assert isinstance(parameters, ComparisonParameters)
    draw: DrawImages = load_object(parameters.draw)
    load: Load = load_object(parameters.load)
    metric = parameters.metrics[0]
    models = [each for each in candidates if each.kind == "model"]
    for number, side in enumerate(scores):
        ranked = rank_images(models, side, metric)
        chosen = {"worst image": ranked[-1][0]} if len(ranked) > 1 else {}
        chosen = {"best image" if chosen else "only image": ranked[0][0], **chosen}
        shown = []
        for what, stem in chosen.items():
            report(context, "fetching images", 0.6 + 0.3 * number / len(scores))
            try:
                shown.append(_fetch(context, models, side, stem, what, load))
            except (NotFoundError, OutOfMemoryError) as error:
                context.warn(f"The picture of the best and worst images is left out: {error.message}")
                return
        name = scores[0].metrics[metric].title
        title = f"Best and worst by the mean {name} of all models"
        title += f" ({side.target})" if len(scores) > 1 else ""
        save_png(
            draw(shown, models[0].evaluation.manifest.parameters, title=title),
            folder / ("images.png" if number == 0 else f"images_{side.target}.png"),
        )


@dataclass(frozen=True)
class Chosen:
    """One image of a comparison as it lies in the store.

    Attributes
    ----------
    place, dataset
        The dataset of the test.
    split, role, stem
        Split, role of the target and name of the image.
    source
        Input image.
    results
        By name of the model: place and manifest of its prediction.
    """

    context: JobContext
    place: Location
    dataset: DatasetManifest
    split: str
    role: str
    stem: str
    source: ImageEntry
    results: Mapping[str, tuple[Location, ResultManifest]]

    def of_dataset(self, file: str) -> Path:
        """Return a local copy of a file of the dataset."""
        entry = next(entry for entry in self.dataset.files if entry.name == file)
        return self.context.cache.fetch(self.context.store, self.place, entry)

    def of_prediction(self, model: str, entry: FileEntry) -> Path:
        """Return a local copy of a file of a model's prediction."""
        return self.context.cache.fetch(self.context.store, self.results[model][0], entry)

    def missing(self) -> NotFoundError:
        """Return the error that there is no target."""
        return NotFoundError(f"the dataset {self.place} has no {self.stem} with source and {self.role}.")


@dataclass(frozen=True)
class Loaded:
    """Target and predictions of one image, as the drawing function takes them.

    Attributes
    ----------
    target
        Pixels, or what else it is.
    predictions
        By name of the model: its predicted image.
    pixel_size
        Length of a pixel along X in micrometres; None where it is unknown.
    """

    target: Any
    predictions: Mapping[str, Any]
    pixel_size: float | None


class Load(Protocol):
    """Reads target and predictions of an image; raises NotFoundError where there is no target."""

    def __call__(self, chosen: Chosen) -> Loaded: ...  # noqa: D102


def load_images(chosen: Chosen) -> Loaded:
    """Read target and predictions that are images, or of them the channel that was judged."""
    target, channel = _target_image(chosen)

    def read(path: Path) -> NDArray[Any]:
        image = open_image(path, scratch_of(chosen.context))
        return image.pixels if channel is None else np.asarray(channels_first(image)[channel])

    predictions = {
        model: read(chosen.of_prediction(model, predicted_files(result, target.role)[chosen.stem]))
        for model, (_, result) in chosen.results.items()
    }
    pixels = read(chosen.of_dataset(target.file))
    return Loaded(pixels, predictions, target.pixel_size_um[0] if target.pixel_size_um else None)


def _target_image(chosen: Chosen) -> tuple[ImageEntry, int | None]:
    """Return the image that a role stands for, and which channel of it, None for all of it."""
    mine = [image for image in chosen.dataset.images if (image.split, image.stem) == (chosen.split, chosen.stem)]
    for image in mine:
        if image.role == chosen.role:
            return image, None
    for image in mine:
        roles = [f"{image.role}_{name}" for name in channel_names(image.axes, image.shape)]
        if chosen.role in roles:
            return image, roles.index(chosen.role)
    raise chosen.missing()


def _fetch(
    context: JobContext, models: Sequence[Candidate], scores: TargetScores, stem: str, what: str, load: Load
) -> Shown:
    first = models[0].evaluation
    place = Location.parse(first.manifest.input_uri)
    dataset = DatasetManifest.read(context.store, place / DATASET_MANIFEST)
    entries = {entry.name: entry for entry in dataset.files}
    digest = first.images(scores.target)[stem]
    images = [image for image in dataset.images if (image.split, image.stem) == (first.manifest.split, stem)]
    source = next((image for image in images if entries[image.file].sha256 == digest), None)
    if source is None:
        raise NotFoundError(f"the dataset {place} has no {stem} with source and {scores.target}.")
    results = {}
    for model in models:
        uri = Location.parse(model.evaluation.prediction_uri)
        results[model.name] = uri, ResultManifest.read(context.store, uri / RESULT_MANIFEST)
    workers_that_fit([size_of(source, stem)], _PIXEL_BYTES, _HELD, what="drawing it with the predictions of all models")
    chosen = Chosen(context, place, dataset, first.manifest.split, scores.target, stem, source, results)
    loaded = load(chosen)
    index = scores.images.index(stem)
    return Shown(
        name=stem,
        what=what,
        source=open_image(chosen.of_dataset(source.file), scratch_of(context)).pixels,
        target=loaded.target,
        predictions=loaded.predictions,
        captions={
            model.name: ", ".join(
                f"{scores.metrics[metric].title} {scores.metrics[metric].text(float(columns[model.name][index]))}"
                for metric, columns in list(scores.scores.items())[:2]
            )
            for model in models
        },
        pixel_size=loaded.pixel_size,
    )


def report(context: JobContext, stage: str, fraction: float, step: int = 0, steps: int = 0) -> None:
    """Show what a comparison does, unless it shall end."""
    context.check_cancelled()
    progress = v1.Progress(stage=stage, step=step, steps=steps, fraction=fraction)
    context.report_progress(progress, message=stage, at_once=True)
