"""Prediction of images with a published model, as a pipeline: fetch ahead, compute, write and upload behind.

A stack given to a two-dimensional method is predicted plane by plane, each plane as if it had come alone: so
single images, stacks and parts of them give the same grey values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images import IMAGE_SUFFIXES, Image, convert_dtype, image_stem, read_image, write_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.learning import Channels, Implementation, Learner, model_channels, wanted_outputs
from parfocal.runtime.manifests import (
    DATASET_MANIFEST,
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    DatasetManifest,
    FileEntry,
    ModelManifest,
    ResultFile,
    ResultManifest,
)
from parfocal.runtime.normaliser import Normaliser, NormaliserConstants
from parfocal.runtime.parameters import PredictionParameters
from parfocal.runtime.precision import choose_precision
from parfocal.runtime.publish import file_entry, sha256_of
from parfocal.runtime.service import Method
from parfocal.runtime.store import Location
from parfocal.runtime.tiling import choose_tile, predict_tiled

# A U-Net with 32 first filters keeps about eight full-size float32 layers of them while it predicts.
_BYTES_PER_PIXEL = 32 * 4 * 8
_SMALLEST_TILE, _LARGEST_TILE = 256**2, 2048**2


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to predict."""

    method: Method
    manifest: ModelManifest
    parameters: Any
    implementation: Implementation
    channels: Channels
    learner: Learner
    normaliser: Normaliser


def load_model(method: Method, manifest: ModelManifest, folder: Path, *, weights: str, precision: str) -> LoadedModel:
    """Return the model whose published files lie in `folder`."""
    parameters = method.parse(v1.JOB_KIND_TRAINING, {**manifest.parameters, "precision": precision})
    implementation: Implementation = method.load()
    channels = model_channels(manifest)
    return LoadedModel(
        method=method,
        manifest=manifest,
        parameters=parameters,
        implementation=implementation,
        channels=channels,
        learner=implementation.load(folder, parameters, channels, weights),
        normaliser=Normaliser.model_validate(manifest.normaliser),
    )


def predict_image(
    model: LoadedModel,
    image: Image,
    *,
    tile_size: int = 0,
    wanted: Sequence[str] = ("prediction",),
    on_tile: Callable[[int, int], None] | None = None,
) -> dict[str, Image]:
    """Return the wanted outputs for one image, float32 in the grey values of the source.

    Raises
    ------
    InvalidInputError
        The image has other axes than the method can take.
    """
    channels, method = model.channels.inputs, model.method
    method.check_axes(image.axes, image.pixels.shape, channels)
    pixels, axes = image.pixels, image.axes
    letter = method.channel_axis(axes, channels)
    if letter:
        pixels, axes = np.moveaxis(pixels, axes.index(letter), -1), axes.replace(letter, "")
    shape = pixels.shape[:-1] if letter else pixels.shape
    depth = len(method.axes) + bool(letter)
    planes = pixels.reshape(-1, *pixels.shape[pixels.ndim - depth :])
    collected: dict[str, list[NDArray[np.float32]]] = {}
    for number, plane in enumerate(planes):
        report = None
        if on_tile is not None:

            def report(done: int, total: int, number: int = number) -> None:
                on_tile(number * total + done, len(planes) * total)

        for name, output in _predict_plane(model, plane, tile_size, report).items():
            if name in wanted:
                collected.setdefault(name, []).append(output)
    missing = [name for name in wanted if name not in collected]
    if missing:
        raise InvalidInputError(f"The model makes no {missing[0]}: it was trained without it.")
    return {name: replace(image, pixels=np.stack(items).reshape(shape), axes=axes) for name, items in collected.items()}


def _predict_plane(
    model: LoadedModel, plane: NDArray[Any], tile_size: int, report: Callable[[int, int], None] | None
) -> dict[str, NDArray[np.float32]]:
    geometry = model.implementation.geometry(model.parameters, model.channels)
    spatial = model.method.axes
    several = plane.ndim > len(spatial)
    constants = model.normaliser.fit(plane, spatial + "C" * several)
    most_pixels = tile_size ** len(spatial) if tile_size else _affordable_pixels()
    tile = choose_tile(plane.shape[: len(spatial)], geometry.divisor, most_pixels)
    output = predict_tiled(
        lambda batch: model.learner.predict_batch(batch if several else batch[..., np.newaxis]),
        model.normaliser.apply(plane, constants),
        tile_shape=tile,
        overlap=geometry.overlap,
        divisor=geometry.divisor,
        output_channels=geometry.output_channels,
        progress=report,
    )
    images = model.implementation.interpret(output, model.parameters, model.channels)
    restored = {}
    for name, (pixels, with_offset) in images.items():
        if model.implementation.grey_values_of == "target":
            role = model.channels.targets[0] if name == "prediction" else name
            recorded = model.manifest.target_constants[role]
            constants = NormaliserConstants(offset=(recorded["offset"],), scale=(recorded["scale"],))
        restored[name] = (model.normaliser.undo if with_offset else model.normaliser.undo_width)(pixels, constants)
    return restored


def _affordable_pixels() -> int:
    """Return the pixels of a tile that the free memory allows; half of it stays for everything else."""
    affordable = psutil.virtual_memory().available // 2 // _BYTES_PER_PIXEL
    return max(_SMALLEST_TILE, min(_LARGEST_TILE, affordable))


@dataclass(frozen=True)
class _Input:
    name: str
    path: Path
    image: Image | None
    reason: str


def predict(context: JobContext) -> None:
    """Predict every input image of the job and publish the results under the inputs' names."""
    spec = context.job.prediction
    parameters = context.parameters
    assert isinstance(parameters, PredictionParameters)
    if context.store.exists(context.reserved / RESULT_MANIFEST):
        context.record_output("result", str(context.reserved), {})
        return
    context.report_progress(v1.Progress(stage="preparing"), message="loading the model", at_once=True)
    place = Location.parse(spec.model_uri)
    manifest = ModelManifest.read(context.store, place / MODEL_MANIFEST)
    folder = context.cache.mirror(context.store, place, manifest.files, context.scratch / "model")
    precision, _ = choose_precision(parameters.precision)
    context.describe(precision=precision)
    model = load_model(context.method, manifest, folder, weights=parameters.weights, precision=parameters.precision)
    wanted = wanted_outputs(parameters, model.channels)
    inputs = list_inputs(context, manifest.source)
    done: list[ResultFile] = []
    files: list[FileEntry] = []
    with ThreadPoolExecutor(max_workers=1) as uploader:
        pending: Future[tuple[ResultFile, list[FileEntry]]] | None = None
        for number, item in enumerate(_fetch_ahead(context, inputs)):
            context.check_cancelled()
            begin = time.monotonic()
            outputs, reason = _predict_one(context, model, item, parameters, wanted, (number, len(inputs)))
            if pending is not None:
                _collect(context, pending, done, files, len(inputs))
            pending = uploader.submit(_write, context, item, outputs, parameters, reason, time.monotonic() - begin)
        if pending is not None:
            _collect(context, pending, done, files, len(inputs))
    failed = [result for result in done if result.reason]
    if len(failed) == len(done):
        raise InvalidInputError(f"None of the {len(done)} images could be predicted. {failed[0].reason}")
    for result in failed:
        context.warn(f"{result.input} was left out: {result.reason}")
    environment = context.service.environment(image=context.settings.image, precision=precision)
    published = ResultManifest(
        project=context.job.project,
        job=context.job.id,
        service=context.service.name,
        method=context.method.name,
        kind="prediction",
        model_uri=spec.model_uri,
        input_uri=spec.input_uri,
        split=spec.split,
        targets=model.channels.targets,
        parameters=parameters.model_dump(mode="json"),
        environment={"packages": dict(environment.packages), "precision": precision, "device": environment.device},
        verdict=newest_verdict(context, place),
        files=tuple(files),
        images=tuple(done),
        warnings=tuple(context.job.warnings),
    )
    context.publish(RESULT_MANIFEST, published, "result")


def list_inputs(context: JobContext, role: str) -> list[tuple[str, FileEntry | None, Location]]:
    """Return name, manifest entry (None for a plain folder) and place of every input image."""
    spec = context.job.prediction
    place = Location.parse(spec.input_uri)
    if spec.split:
        dataset = DatasetManifest.read(context.store, place / DATASET_MANIFEST)
        entries = {entry.name: entry for entry in dataset.files}
        return [
            (image.file.rsplit("/", 1)[-1], entries[image.file], place) for image in dataset.select(spec.split, role)
        ]
    names = [item.location.name for item in context.store.objects(place)]
    names = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    if not names:
        raise InvalidInputError(f"There are no TIFF, PNG or JPEG images below {place}.")
    return [(name, None, place) for name in names]


def newest_verdict(context: JobContext, model: Location) -> dict[str, Any]:
    """Return the newest verdict on a model, or {"state": "unchecked"}."""
    verdicts = [
        context.store.read_json(item.location)
        for item in context.store.objects(model / "qc")
        if item.location.name == "verdict.json"
    ]
    return max(verdicts, key=lambda verdict: str(verdict["created_at"])) if verdicts else {"state": "unchecked"}


def _fetch_ahead(context: JobContext, inputs: Sequence[tuple[str, FileEntry | None, Location]]) -> Iterator[_Input]:
    def fetch(item: tuple[str, FileEntry | None, Location]) -> _Input:
        name, entry, place = item
        if entry is not None:
            path = context.cache.fetch(context.store, place, entry)
        else:
            path = context.scratch / "inputs" / name
            context.store.download(place / name, path)
        try:
            return _Input(name, path, read_image(path), "")
        except InvalidInputError as error:
            return _Input(name, path, None, error.message)

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(fetch, inputs[0])
        for following in [*inputs[1:], None]:
            item = ahead.result()
            if following is not None:
                ahead = pool.submit(fetch, following)
            yield item


def _predict_one(
    context: JobContext,
    model: LoadedModel,
    item: _Input,
    parameters: PredictionParameters,
    wanted: Sequence[str],
    position: tuple[int, int],
) -> tuple[dict[str, Image], str]:
    number, count = position

    def on_tile(done: int, total: int) -> None:
        context.check_cancelled()
        fraction = (number + done / total) / count
        progress = v1.Progress(stage="predicting", step=number, steps=count, fraction=fraction)
        context.report_progress(progress, message=f"predicting {item.name}")

    if item.image is None:
        return {}, item.reason
    try:
        return predict_image(model, item.image, tile_size=parameters.tile_size, wanted=wanted, on_tile=on_tile), ""
    except InvalidInputError as error:
        return {}, error.message


def _write(
    context: JobContext,
    item: _Input,
    outputs: dict[str, Image],
    parameters: PredictionParameters,
    reason: str,
    seconds: float,
) -> tuple[ResultFile, list[FileEntry]]:
    names: dict[str, str] = {}
    entries: list[FileEntry] = []
    clipped = 0.0
    for kind, image in outputs.items():
        if parameters.output_dtype == "like-input" and kind == "prediction":
            assert item.image is not None
            pixels, clipped = convert_dtype(image.pixels, item.image.pixels.dtype)
            image = replace(image, pixels=pixels)
        stem = image_stem(Path(item.name))
        name = f"{stem}.tif" if kind == "prediction" else f"{kind}/{stem}.tif"
        path = context.scratch / "outputs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, image)
        context.store.upload(path, context.reserved / name)
        entries.append(file_entry(path, name))
        names[kind] = name
        path.unlink()
    result = ResultFile(
        input=item.name,
        input_sha256=sha256_of(item.path),
        outputs=names,
        seconds=round(seconds, 3),
        clipped_fraction=clipped,
        reason=reason,
    )
    return result, entries


def _collect(
    context: JobContext,
    pending: Future[tuple[ResultFile, list[FileEntry]]],
    done: list[ResultFile],
    files: list[FileEntry],
    count: int,
) -> None:
    result, entries = pending.result()
    done.append(result)
    files.extend(entries)
    context.report_image(
        v1.ImageCompleted(name=result.input, seconds=result.seconds),
        v1.Progress(stage="predicting", step=len(done), steps=count, fraction=len(done) / count),
    )
