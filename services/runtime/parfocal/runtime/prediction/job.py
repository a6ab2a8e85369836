"""The job that predicts images with a published model, as a pipeline: fetch ahead, compute, write and upload behind."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from parfocal import v1
from parfocal.runtime import traces
from parfocal.runtime.datasets.findings import Notes, some
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.drift import TrainingStatistics, find_drift, find_small
from parfocal.runtime.images.files import Image, output_stem, write_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.parameters import Patches, PredictionParameters
from parfocal.runtime.methods.roles import TARGET_STATISTICS
from parfocal.runtime.prediction.box_files import RunBoxes
from parfocal.runtime.prediction.inputs import list_inputs
from parfocal.runtime.prediction.job_files import (
    FetchedImage,
    fetch_ahead,
    output_folder,
    refuse_all,
    report_tiles,
    scratch_of,
    send,
)
from parfocal.runtime.prediction.loaded_model import KeptModel, LoadedModel, load_model, predict_image
from parfocal.runtime.prediction.outputs import PREDICTION, ResultOutputs
from parfocal.runtime.prediction.overlay import overlay_png
from parfocal.runtime.prediction.pace import Pace
from parfocal.runtime.prediction.part_jobs import Merge, predict_part
from parfocal.runtime.prediction.reports import ImageReports
from parfocal.runtime.store.manifests import (
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    FileEntry,
    ModelManifest,
    ResultFile,
    ResultManifest,
)
from parfocal.runtime.store.publish import sha256_of
from parfocal.runtime.store.store import Location
from parfocal.runtime.store.verdicts import newest_content

_SHOWN = 5
COUNTS = "counts.csv"
# For the next job of this process, which a spare worker may be given.
_KEPT = KeptModel()
OVERLAY = "overlay"


def predict(context: JobContext) -> None:
    """Predict every input image of the job and publish the results under the inputs' names."""
    spec = context.job.prediction
    parameters = context.parameters
    assert isinstance(parameters, PredictionParameters)
    if context.complete_publication():
        return
    context.report_progress(
        v1.Progress(stage="preparing", steps=context.job.progress.steps), message="loading the model", at_once=True
    )
    place = Location.parse(spec.model_uri)
    manifest = ModelManifest.read(context.store, place / MODEL_MANIFEST)
    device = _device(context, parameters)
    weights = manifest.weights_named(parameters.weights)

    def load() -> LoadedModel:
        folder = context.cache.mirror(context.store, place, manifest.files, context.scratch / "model")
        return load_model(context.method, manifest, folder, weights=weights, device=device)

    model = _KEPT.get((context.method.name, manifest, weights, parameters.precision), load)
    facts = model.view.facts.directed(backwards=parameters.backwards)
    inputs = list_inputs(context.store, spec.input_uri, spec.split, facts.source, spec.inputs)
    if spec.HasField("part"):
        predict_part(context, model, inputs)
        return
    merge = Merge(context, inputs) if spec.part_uris else None
    done: list[ResultFile] = []
    files: list[FileEntry] = []
    notes = Notes()
    boxes = RunBoxes(output_folder(context))
    pace = Pace()
    context.stages.enter("predicting")
    laps = traces.Laps("image", 1, len(inputs))
    with contextlib.closing(boxes), ImageReports(context) as reports, ThreadPoolExecutor(max_workers=1) as uploader:
        pending: Future[tuple[ResultFile, list[FileEntry]]] | None = None
        for number, item in enumerate(fetch_ahead(context, inputs, pace)):
            context.check_cancelled()
            _note(notes, context, item)
            begin = time.monotonic()
            with pace.stage("predicting"):
                outputs, reason = _predict_one(context, model, item, parameters, (number, len(inputs)), merge)
            if outputs is not None and item.image is not None:
                pace.add_pixels(math.prod(item.image.pixels.shape))
            laps.done(number + 1)
            if pending is not None:
                _collect(context, reports, pending, done, files, len(inputs))
            seconds = time.monotonic() - begin
            pending = uploader.submit(_write, context, model, parameters, item, outputs, reason, seconds, boxes, pace)
        if pending is not None:
            _collect(context, reports, pending, done, files, len(inputs))
        reports.finish()
    failed = [result for result in done if result.reason]
    if len(failed) == len(done):
        raise refuse_all([(result.input, result.reason) for result in failed])
    _warn_of_left_out(context, failed)
    if merge is not None:
        merge.warn()
    for text in notes.texts():
        context.warn(text)
    _warn_of_drift(context, done)
    if any(result.metrics for result in done):
        files.append(send(context, _write_counts(context, done)))
    files += [send(context, path) for path in boxes.finish()]
    judged = newest_content(context.store, place)
    published = ResultManifest(
        project=context.job.project,
        job=context.job.id,
        service=context.service.name,
        method=context.method.name,
        kind="prediction",
        model_uri=spec.model_uri,
        input_uri=spec.input_uri,
        split=spec.split,
        # What was trained without targets is judged by those that images of its kind have.
        targets=facts.target_roles or ("target",),
        parameters=parameters.model_dump(mode="json"),
        environment=context.environment if merge is None else merge.environment,
        verdict=judged[1] if judged is not None else {"state": "unchecked"},
        files=tuple(files),
        images=tuple(done),
        warnings=tuple(context.job.warnings),
        # By id: their results are not needed any more, and an address would keep them.
        parts=() if merge is None else tuple(part.job for part in merge.manifests),
    )
    context.publish(RESULT_MANIFEST, published, "result", pace.metrics())


def differences_from_training(model: LoadedModel, image: Image, parameters: PredictionParameters) -> list[str]:
    """Return how an image differs from those that a model was trained on, as parts of a sentence."""
    recorded, size = model.manifest.training_statistics, model.manifest.pixel_size_um
    if parameters.backwards:
        recorded, size = model.view.facts.measured.get(TARGET_STATISTICS, {}), None
    training = TrainingStatistics.model_validate(recorded) if recorded else None
    axes = model.method.axes.replace("T", "")
    lengths = [image.pixels.shape[image.axes.index(axis)] for axis in axes]
    trained = model.view.parameters
    small = find_small(lengths, trained.patch_shape(axes)) if isinstance(trained, Patches) else []
    return [*small, *find_drift(image.pixels, image.pixel_size, training, size, axes)]


def _note(notes: Notes, context: JobContext, item: FetchedImage) -> None:
    """Take down what was dropped, converted or guessed in an image, and that its planes are done one by one."""
    if item.image is None:
        return
    for note in item.image.notes:
        notes.add(note.sentence, note.at(item.name))
    planes = dict(zip(item.image.axes, item.image.pixels.shape, strict=True)).get("Z", 1)
    frames = "Z" not in context.method.needs.taken(item.image.axes)
    if planes > 1 and not frames and "Z" not in f"{context.method.axes}{context.method.channel_axes}":
        what = (
            f"Stacks were processed plane by plane, because {context.method.title} sees one plane at a time (3D "
            "methods take volumes as a whole; give --axes TYX for frames of a time-lapse that a file calls planes)"
        )
        notes.add(what, f"{item.name}, {planes} planes")


def _warn_of_left_out(context: JobContext, failed: Sequence[ResultFile]) -> None:
    """Say which images were left out, once for each reason."""
    reasons: dict[str, list[str]] = {}
    for result in failed:
        reasons.setdefault(result.reason.removeprefix(f"{result.input} "), []).append(result.input)
    for reason, names in reasons.items():
        number = f"{len(names)} images were left out ({some(names)})" if len(names) > 1 else f"{names[0]} was left out"
        context.warn(f"{number}: {reason}")


def _warn_of_drift(context: JobContext, done: Sequence[ResultFile]) -> None:
    """Say which images are unlike the training images: the check of the model does not hold for them."""
    strange = [result for result in done if result.drift]
    if strange:
        shown = "; ".join(f"{result.input}: {' and '.join(result.drift)}" for result in strange[:_SHOWN])
        more = f"; and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        number = len(strange)
        which = f"{number} of {len(done)} images {'is' if number == 1 else 'are'}" if len(done) > 1 else "The image is"
        context.warn(
            f"{which} unlike the images the model was trained on, so that its quality control says little about "
            f"{'it' if number == 1 else 'them'}. {shown}{more}."
        )


def _device(context: JobContext, parameters: PredictionParameters) -> Device:
    """Return what the networks are computed on; where parts are merged there is nothing to compute."""
    if not context.job.prediction.part_uris:
        return context.choose_device(parameters.precision, training=False)
    # Nobody lent a device to this job, so that it must not touch any.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    context.describe(precision=Device().precision)
    return Device()


def _predict_one(
    context: JobContext,
    model: LoadedModel,
    item: FetchedImage,
    parameters: PredictionParameters,
    position: tuple[int, int],
    merge: Merge | None,
) -> tuple[ResultOutputs | None, str]:
    if item.image is None:
        return None, item.reason
    on_tile = report_tiles(context, item.name, *position)
    try:
        if merge is not None and (reason := merge.reason(position[0], item)):
            return None, reason
        stem = output_stem(item.name)
        folder, scratch = output_folder(context), scratch_of(context)
        with contextlib.ExitStack() as stack:
            steps = None if merge is None else merge.open(position[0], stack)
            return predict_image(
                model, item.image, parameters, folder, stem, on_tile=on_tile, scratch=scratch, steps=steps
            ), ""
    except InvalidInputError as error:
        return None, error.message


def _write(
    context: JobContext,
    model: LoadedModel,
    parameters: PredictionParameters,
    item: FetchedImage,
    outputs: ResultOutputs | None,
    reason: str,
    seconds: float,
    boxes: RunBoxes,
    pace: Pace,
) -> tuple[ResultFile, list[FileEntry]]:
    """Write and upload what was made of an image, and say what the result lists of it."""
    with pace.stage("writing"):
        return _written(context, model, parameters, item, outputs, reason, seconds, boxes)


def _written(
    context: JobContext,
    model: LoadedModel,
    parameters: PredictionParameters,
    item: FetchedImage,
    outputs: ResultOutputs | None,
    reason: str,
    seconds: float,
    boxes: RunBoxes,
) -> tuple[ResultFile, list[FileEntry]]:
    digest = sha256_of(item.path)
    if item.image is None or outputs is None:
        return ResultFile(input=item.name, input_sha256=digest, seconds=round(seconds, 3), reason=reason), []
    predicted = outputs.finish()
    folder, stem = output_folder(context), output_stem(item.name)
    sent: dict[str, FileEntry] = {}
    for kind, image in predicted.images.items():
        path = folder / (f"{stem}.tif" if kind == PREDICTION else f"{kind}/{stem}.tif")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Channels are those of the network.
        kept = replace(image, acquired=replace(item.image.acquired, channels=()))
        write_image(path, kept, labels=kind in predicted.labels)
        sent[kind] = send(context, path)
    sent |= {kind: send(context, folder / name) for kind, name in predicted.files.items()}
    if predicted.boxes is not None:
        boxes.add(item.name, predicted.boxes)
        if not predicted.boxes.stacked:
            path = folder / OVERLAY / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(overlay_png(item.image, predicted.boxes.marks))
            sent[OVERLAY] = send(context, path)
    result = ResultFile(
        input=item.name,
        input_sha256=digest,
        outputs={kind: entry.name for kind, entry in sent.items()},
        labels=tuple(sorted(predicted.labels)),
        seconds=round(seconds, 3),
        clipped_fraction=predicted.clipped,
        drift=tuple(differences_from_training(model, item.image, parameters)),
        metrics={name: float(count) for name, count in predicted.counts.items()},
    )
    return result, list(sent.values())


def _write_counts(context: JobContext, done: Sequence[ResultFile]) -> Path:
    path = output_folder(context) / COUNTS
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        counted = [result for result in done if result.metrics]
        names = list(dict.fromkeys(name for result in counted for name in result.metrics))
        writer.writerow(["image", *names])
        writer.writerows([result.input, *(int(result.metrics.get(name, 0)) for name in names)] for result in counted)
    return path


def _collect(
    context: JobContext,
    reports: ImageReports,
    pending: Future[tuple[ResultFile, list[FileEntry]]],
    done: list[ResultFile],
    files: list[FileEntry],
    count: int,
) -> None:
    result, entries = pending.result()
    done.append(result)
    files.extend(entries)
    context.device.tell(left=sum(each.seconds for each in done) / len(done) * (count - len(done)))
    reports.add(
        v1.ImageCompleted(name=result.input, seconds=result.seconds),
        v1.Progress(stage="predicting", step=len(done), steps=count, fraction=len(done) / count),
    )
