"""The best and the worst image of a comparison: found, fetched and drawn with the predictions of all models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from parfocal import v1
from parfocal.qc.comparison.competitors import Competitor, TargetScores
from parfocal.qc.comparison.figure import DrawImages, Shown
from parfocal.qc.comparison.parameters import ComparisonParameters
from parfocal.qc.comparison.summary import rank_images
from parfocal.qc.evaluation.inputs import predicted_files
from parfocal.qc.figures.drawing import save_png
from parfocal.runtime.errors import NotFoundError
from parfocal.runtime.images.files import read_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.methods.service import load_object
from parfocal.runtime.store.manifests import DATASET_MANIFEST, RESULT_MANIFEST, DatasetManifest, ResultManifest
from parfocal.runtime.store.store import Location


def draw_images(
    context: JobContext, competitors: Sequence[Competitor], scores: Sequence[TargetScores], folder: Path
) -> None:
    """Draw the best and the worst image of every target."""
    parameters = context.parameters
    assert isinstance(parameters, ComparisonParameters)
    draw: DrawImages = load_object(parameters.draw)
    metric = parameters.metrics[0]
    models = [each for each in competitors if each.kind == "model"]
    for number, side in enumerate(scores):
        ranked = rank_images(models, side, metric)
        chosen = {"worst image": ranked[-1][0]} if len(ranked) > 1 else {}
        chosen = {"best image" if chosen else "only image": ranked[0][0], **chosen}
        shown = []
        for what, stem in chosen.items():
            report(context, "fetching images", 0.6 + 0.3 * number / len(scores))
            try:
                shown.append(_fetch(context, models, side, stem, what))
            except NotFoundError as error:
                context.warn(f"The picture of the best and worst images is left out: {error.message}")
                return
        name = scores[0].metrics[metric].title
        title = f"Best and worst by the mean {name} of all models"
        title += f" ({side.target})" if len(scores) > 1 else ""
        save_png(
            draw(shown, models[0].evaluation.manifest.parameters, title=title),
            folder / ("images.png" if number == 0 else f"images_{side.target}.png"),
        )


def _fetch(context: JobContext, models: Sequence[Competitor], scores: TargetScores, stem: str, what: str) -> Shown:
    first = models[0].evaluation
    place = Location.parse(first.manifest.input_uri)
    dataset = DatasetManifest.read(context.store, place / DATASET_MANIFEST)
    entries = {entry.name: entry for entry in dataset.files}
    digest = first.images(scores.target)[stem]
    images = [image for image in dataset.images if (image.split, image.stem) == (first.manifest.split, stem)]
    source = next((image for image in images if entries[image.file].sha256 == digest), None)
    target = next((image for image in images if image.role == scores.target), None)
    if source is None or target is None:
        raise NotFoundError(f"the dataset {place} has no {stem} with source and {scores.target}.")
    predictions = {}
    for model in models:
        uri = Location.parse(model.evaluation.prediction_uri)
        prediction = ResultManifest.read(context.store, uri / RESULT_MANIFEST)
        entry = predicted_files(prediction, scores.target)[stem]
        predictions[model.name] = read_image(context.cache.fetch(context.store, uri, entry)).pixels
    index = scores.images.index(stem)
    return Shown(
        name=stem,
        what=what,
        source=read_image(context.cache.fetch(context.store, place, entries[source.file])).pixels,
        target=read_image(context.cache.fetch(context.store, place, entries[target.file])).pixels,
        predictions=predictions,
        captions={
            model.name: ", ".join(
                f"{scores.metrics[metric].title} {scores.metrics[metric].text(float(columns[model.name][index]))}"
                for metric, columns in list(scores.scores.items())[:2]
            )
            for model in models
        },
        pixel_size=target.pixel_size_um[0] if target.pixel_size_um else None,
    )


def report(context: JobContext, stage: str, fraction: float, step: int = 0, steps: int = 0) -> None:
    """Show what a comparison does, unless it shall end."""
    context.check_cancelled()
    progress = v1.Progress(stage=stage, step=step, steps=steps, fraction=fraction)
    context.report_progress(progress, message=stage, at_once=True)
