"""Training of an image-to-image network on patches: the loop that all frameworks share.

The loop owns data, order, learning rate, best weights, checkpoints and events; a `Learner` owns the arithmetic.
After a checkpoint nothing but its files is needed to go on, and the result is bit-equal to a run that was never
interrupted (same machine, same thread count).
"""

from __future__ import annotations

import functools
import json
import logging
import math
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import v1
from parfocal.runtime.errors import CancelledError, DamagedError, InvalidInputError, TrainingDivergedError
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.methods.implementation import (
    Channels,
    Implementation,
    Learner,
    ObjectImplementation,
    model_channels,
)
from parfocal.runtime.methods.parameters import TrainingParameters
from parfocal.runtime.methods.precision import choose_precision
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    MODEL_MANIFEST,
    DatasetManifest,
    ModelManifest,
)
from parfocal.runtime.store.publish import empty_folder, folder_files
from parfocal.runtime.store.store import Location
from parfocal.runtime.training.data import TrainingData, load_training_data
from parfocal.runtime.training.schedule import Plateau

_log = logging.getLogger(__name__)
_Batch = tuple[NDArray[np.float32], Any]


@dataclass
class _State:
    """Everything the loop must remember besides the learner's arrays."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    seconds: float = 0.0
    plateau: Plateau = field(default_factory=lambda: Plateau(0.5, 10))
    learning_rate: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)


def train(context: JobContext) -> None:
    """Train the job's method and publish the model; go on from the last checkpoint if there is one."""
    if context.complete_publication():
        return
    parameters = context.parameters
    assert isinstance(parameters, TrainingParameters)
    context.report_progress(v1.Progress(stage="preparing"), message="fetching and checking the images", at_once=True)
    precision, why = choose_precision(parameters.precision, context.service.framework, len(context.method.axes))
    context.describe(precision=precision)
    if parameters.precision == "bfloat16" and precision != "bfloat16":
        context.warn(why)
    implementation: Implementation = context.method.load()
    data = load_training_data(context, parameters, implementation)
    if isinstance(implementation, ObjectImplementation):
        parameters = implementation.resolve(parameters, data.labels())
    learner = implementation.build(parameters, data.channels)
    state = _State(plateau=Plateau(parameters.plateau_factor, parameters.plateau_patience))
    best = _initialise(context, implementation, learner, state, data.channels)
    if state.epoch < parameters.total_epochs(data.sampler.steps_per_epoch):
        best = _run(context, parameters, implementation, learner, data, state, best)
    _publish(context, parameters, implementation, learner, data, state, best, precision)


def _initialise(
    context: JobContext, implementation: Implementation, learner: Learner, state: _State, channels: Channels
) -> dict[str, NDArray[Any]]:
    """Bring the learner to where training begins or goes on; return the best weights so far."""
    best = _go_on(context, learner, state)
    if best is not None:
        return best
    state.learning_rate = learner.learning_rate
    uri = context.job.training.initial_model_uri
    if uri:
        place = Location.parse(uri)
        model = ModelManifest.read(context.store, place / MODEL_MANIFEST)
        folder = context.cache.mirror(context.store, place, model.files, context.scratch / "initial")
        weights = "last" if context.job.training.initial_weights == v1.WEIGHTS_LAST else "best"
        former = context.method.parse(v1.JOB_KIND_TRAINING, model.parameters)
        initial = implementation.load(folder, former, model_channels(model), weights)
        try:
            if (known := model_channels(model).inputs) != channels.inputs:
                raise InvalidInputError(f"It reads {known} channels and these images have {channels.inputs}.")
            learner.set_weights(initial.weights())
        except InvalidInputError as error:
            raise InvalidInputError(
                f"The initial model {uri} has another network than these parameters describe: {error.message} "
                "Choose the network parameters it was trained with (`parfocal models show`)."
            ) from error
    return learner.weights()


def _run(
    context: JobContext,
    parameters: TrainingParameters,
    implementation: Implementation,
    learner: Learner,
    data: TrainingData,
    state: _State,
    best: dict[str, NDArray[Any]],
) -> dict[str, NDArray[Any]]:
    """Train epoch by epoch; return the best weights."""
    sampler = data.sampler
    epochs = parameters.total_epochs(sampler.steps_per_epoch)
    validation = sampler.validation_batches(data.split.validation)

    def prepare(batch: Any) -> tuple[NDArray[np.float32], Any]:
        inputs, targets = channels_last(batch, sampler.axes)
        return inputs, implementation.prepare_targets(targets, parameters)

    saved = time.monotonic()
    while state.epoch < epochs and not context.keep_best:
        begin = time.monotonic()
        learner.learning_rate = state.learning_rate
        batches = _prefetch(functools.partial(sampler.batch, state.epoch), sampler.steps_per_epoch, prepare)
        losses = _train_epoch(context, epochs, learner, batches, state, sampler.steps_per_epoch)
        if losses is None:
            break
        loss = float(np.mean(losses))
        validation_loss = _validate(learner, _prefetch(validation.batch, len(validation), prepare))
        _require_finite(state.epoch + 1, loss, validation_loss)
        state.epoch += 1
        is_best = validation_loss < state.best_loss
        if is_best:
            state.best_loss, state.best_epoch, best = validation_loss, state.epoch, learner.weights()
        rate = state.learning_rate
        state.plateau, state.learning_rate = state.plateau.after_epoch(validation_loss, rate)
        seconds = time.monotonic() - begin
        state.seconds += seconds
        metrics = {"loss": loss, "val_loss": validation_loss, "learning_rate": rate}
        state.rows.append({"epoch": state.epoch, **metrics, "seconds": round(seconds, 3)})
        context.report_epoch(
            v1.EpochCompleted(epoch=state.epoch, metrics=metrics, seconds=seconds, best=is_best),
            _progress(epochs, state, sampler.steps_per_epoch, 0),
        )
        if state.epoch < epochs and time.monotonic() - saved >= context.settings.checkpoint_seconds:
            _save(context, learner, state, best)
            saved = time.monotonic()
    if context.keep_best and state.epoch == 0:
        raise CancelledError("cancelled before the first epoch was completed, so there are no weights to keep")
    if context.keep_best:
        context.warn(f"Training was ended early on request, after {state.epoch} of {epochs} epochs.")
    return best


def _train_epoch(
    context: JobContext, epochs: int, learner: Learner, batches: Iterable[_Batch], state: _State, steps: int
) -> list[float] | None:
    """Return the loss of every step, or None if training shall end now."""
    losses: list[float] = []
    for step, (inputs, targets) in enumerate(batches):
        context.check_cancelled()
        if context.keep_best and state.epoch > 0:
            return None
        losses.append(learner.train_batch(inputs, targets))
        if not math.isfinite(losses[-1]):
            _require_finite(state.epoch + 1, losses[-1], 0.0)
        context.report_progress(_progress(epochs, state, steps, step + 1), message="training")
    return losses


def _prefetch(read: Callable[[int], Any], count: int, prepare: Callable[[Any], _Batch]) -> Iterator[_Batch]:
    """Yield prepared batches, the next one being made while the present one is learnt."""

    def make(number: int) -> _Batch:
        return prepare(read(number))

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(make, 0)
        for step in range(count):
            batch = ahead.result()
            if step + 1 < count:
                ahead = pool.submit(make, step + 1)
            yield batch


def _validate(learner: Learner, batches: Iterable[_Batch]) -> float:
    total = count = 0.0
    for inputs, targets in batches:
        total += learner.validate_batch(inputs, targets) * len(inputs)
        count += len(inputs)
    return total / count


def channels_last(batch: Any, axes: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a sampler's batch of sources with `axes` and their targets with a channel axis at the end of both."""
    inputs, targets = batch
    planes = targets if isinstance(targets, tuple) else (targets,)
    channel = next((number for number, axis in enumerate(axes) if axis in "CS"), None)
    inputs = inputs[..., np.newaxis] if channel is None else np.moveaxis(inputs, channel + 1, -1)
    return np.ascontiguousarray(inputs), np.stack(planes, axis=-1)


def _require_finite(epoch: int, *losses: float) -> None:
    if not all(math.isfinite(loss) for loss in losses):
        raise TrainingDivergedError(
            f"Training diverged in epoch {epoch}: the loss is not a finite number any more. "
            "Start again with a smaller learning_rate, for example a tenth of the present one."
        )


def _progress(epochs: int, state: _State, steps: int, step: int) -> v1.Progress:
    fraction = (state.epoch + step / steps) / epochs
    per_epoch = state.seconds / state.epoch if state.epoch else 0.0
    return v1.Progress(
        stage="training",
        epoch=state.epoch,
        epochs=epochs,
        step=step,
        steps=steps,
        fraction=min(fraction, 1.0),
        seconds_left=per_epoch * max(epochs - state.epoch - step / steps, 0.0),
    )


def _save(context: JobContext, learner: Learner, state: _State, best: dict[str, NDArray[Any]]) -> None:
    folder = empty_folder(context.scratch / "checkpoint")
    for name, arrays in (("weights", learner.weights()), ("optimiser", learner.optimiser_state()), ("best", best)):
        save_arrays(folder / f"{name}.npz", arrays)
    (folder / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
    context.save_checkpoint(state.epoch, sorted(folder.iterdir()))


def _go_on(context: JobContext, learner: Learner, state: _State) -> dict[str, NDArray[Any]] | None:
    """Bring the learner to the newest checkpoint that is whole and return the best weights; None if there is none.

    Raises
    ------
    DamagedError
        There are checkpoints, and none of them can be read.
    """
    checkpoints = context.checkpoints()
    for checkpoint in reversed(checkpoints):
        try:
            best = _restore(context.load_checkpoint(checkpoint), learner, state)
        except (DamagedError, InvalidInputError) as error:
            context.warn(f"The checkpoint after epoch {checkpoint.epoch} cannot be used: {error.message}")
            continue
        _log.info("going on after epoch %d", state.epoch)
        return best
    if checkpoints:
        raise DamagedError("No checkpoint of this training can be used. Start the training again.")
    return None


def _restore(files: list[Path], learner: Learner, state: _State) -> dict[str, NDArray[Any]]:
    # All is read before anything is changed.
    try:
        paths = {path.name: path for path in files}
        values = json.loads(paths["state.json"].read_text(encoding="utf-8"))
        values["plateau"] = Plateau(**values["plateau"])
        weights, optimiser, best = (load_arrays(paths[f"{name}.npz"]) for name in ("weights", "optimiser", "best"))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"its state cannot be read ({error})") from error
    learner.set_weights(weights)
    learner.set_optimiser_state(optimiser)
    for name, value in values.items():
        setattr(state, name, value)
    return best


def save_arrays(path: Path, arrays: Any) -> None:
    """Write named arrays to an uncompressed .npz file without pickle."""
    np.savez(path, **{name.replace("/", "\\"): array for name, array in arrays.items()})


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read named arrays from an .npz file; raise InvalidInputError if it is damaged or holds pickled content."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name.replace("\\", "/"): content[name] for name in content.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"{path.name} is damaged, or no file of arrays: {error}.") from error


def _publish(
    context: JobContext,
    parameters: TrainingParameters,
    implementation: Implementation,
    learner: Learner,
    data: TrainingData,
    state: _State,
    best: dict[str, NDArray[Any]],
    precision: str,
) -> None:
    # Imported late: drawing takes a second to load, and a worker should begin to train at once.
    from parfocal.runtime.training.report import write_training_report

    context.report_progress(
        v1.Progress(stage="publishing", epoch=state.epoch, epochs=state.epoch, fraction=1.0),
        message="writing the model and its report",
        at_once=True,
    )
    folder = empty_folder(context.scratch / "model")
    implementation.save(folder, parameters, data.channels, best, learner.weights())
    calibration = implementation.calibrate(folder, parameters, data.channels, data.validation_images())
    spec = context.job.training
    dataset = DatasetManifest.read(context.store, Location.parse(spec.dataset_uri) / DATASET_MANIFEST)
    metrics = {"val_loss": state.best_loss, "loss": state.rows[state.best_epoch - 1]["loss"]} if state.rows else {}
    environment = context.service.environment(image=context.settings.image, precision=precision)
    manifest = ModelManifest(
        project=context.job.project,
        model=context.reserved.parent.name,
        version=int(context.reserved.name),
        service=context.service.name,
        method=context.method.name,
        job=context.job.id,
        parameters=parameters.model_dump(mode="json"),
        citation=context.method.citation,
        axes=context.method.axes,
        normaliser=implementation.normaliser.model_dump(mode="json"),
        source=data.roles.source,
        channels=asdict(data.channels),
        target_constants=data.target_constants,
        calibration=calibration,
        training_statistics=data.statistics,
        dataset_uri=spec.dataset_uri,
        dataset_sha256={entry.name: entry.sha256 for entry in dataset.files if entry.name.startswith("train/")},
        split=data.split.model_dump(mode="json"),
        metrics=metrics,
        environment={
            "packages": dict(environment.packages),
            "device": environment.device,
            "threads": environment.threads,
            "precision": precision,
            "image": environment.image,
        },
        parent=spec.initial_model_uri,
        pixel_size_um=data.pixel_size_um,
        training_seconds=round(state.seconds, 1),
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        warnings=tuple(context.job.warnings),
    )
    write_training_report(folder, manifest, context.method, state.rows, data.example)
    files = context.send_all(folder_files(folder))
    context.publish(MODEL_MANIFEST, manifest.model_copy(update={"files": files}), "model", metrics)
