"""The training loop that all methods and frameworks share.

The loop owns the order of batches, the schedule, the selection of weights, checkpoints and events; a `Learner` owns
the arithmetic. After a checkpoint nothing but its files is needed to go on, and the result is bit-equal to a run that
was never interrupted (same machine, same thread count).
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parfocal import v1
from parfocal.runtime import traces
from parfocal.runtime.datasets.view import DatasetView, PublishedView
from parfocal.runtime.errors import CancelledError, DamagedError, InvalidInputError, TrainingDivergedError
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.methods.arrays import StoredArrays, load_arrays, save_arrays
from parfocal.runtime.methods.implementation import Batch, Implementation, Learner, ModelView, Opened
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.schedule import Schedule
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    MODEL_MANIFEST,
    DatasetManifest,
    KeptWeights,
    ModelManifest,
)
from parfocal.runtime.store.publish import empty_folder, folder_files
from parfocal.runtime.store.store import Location
from parfocal.runtime.training.validation_pictures import ValidationPictures

_log = logging.getLogger(__name__)
LAST = "last"
# How often the device is told how far the training is.
_TELL_SECONDS = 2.0
# A training that is done so soon hands nothing over: the next worker would take as long to start.
_SHORT_REST_SECONDS = 5.0


@dataclass
class _State:
    """Everything the loop must remember besides the learner's arrays and the kept weights."""

    schedule: Schedule
    epoch: int = 0
    seconds: float = 0.0
    kept: dict[str, KeptWeights] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)

    def to_json(self) -> str:
        kept = {name: weights.model_dump() for name, weights in self.kept.items()}
        return json.dumps(vars(self) | {"schedule": self.schedule.state(), "kept": kept})

    def restore(self, text: str) -> None:
        """Take over what `to_json` gave; raise ValueError, KeyError or TypeError if it is something else."""
        values = json.loads(text)
        schedule = self.schedule.restored(values["schedule"])
        kept = {name: KeptWeights.model_validate(weights) for name, weights in values["kept"].items()}
        epoch, seconds, rows = int(values["epoch"]), float(values["seconds"]), list(values["rows"])
        self.schedule, self.kept, self.epoch, self.seconds, self.rows = schedule, kept, epoch, seconds, rows


def train(context: JobContext) -> None:
    """Train the job's method and publish the model; go on from the last checkpoint if there is one."""
    if context.complete_publication():
        return
    parameters: Any = context.parameters
    context.report_progress(v1.Progress(stage="preparing"), message="fetching and checking the images", at_once=True)
    device = context.choose_device(parameters.precision, training=True)
    implementation: Implementation[Any, Any] = context.method.load(device)
    with traces.span("open"):
        opened = implementation.open(_view(context), parameters)
    learner = implementation.build(opened.parameters, opened.facts)
    training = _Training(context, implementation, opened, learner)
    if not training.resume():
        training.initialise()
    elif context.job.HasField("paused"):
        context.device.count_restart()
    training.run()
    training.publish()


def _view(context: JobContext) -> DatasetView:
    place = Location.parse(context.job.training.dataset_uri)

    def progress(text: str) -> None:
        context.report_progress(v1.Progress(stage="preparing"), message=text, at_once=True)

    return PublishedView(
        manifest=DatasetManifest.read(context.store, place / DATASET_MANIFEST),
        axes=context.method.axes,
        minimum_images=context.method.minimum_images,
        store=context.store,
        place=place,
        cache=context.cache,
        scratch=context.scratch,
        warn=context.warn,
        progress=progress,
        check_cancelled=context.check_cancelled,
    )


class _Training:
    """One attempt of a training, from its data to its model."""

    def __init__(
        self, context: JobContext, implementation: Implementation[Any, Any], opened: Opened[Any], learner: Learner
    ) -> None:
        self._context = context
        self._implementation = implementation
        self._opened = opened
        self._parameters = opened.parameters
        self._batches = opened.batches
        self._learner = learner
        self._epochs = self._parameters.total_epochs(self._batches.steps_per_epoch)
        self._state = _State(implementation.schedule(self._parameters))
        self._pictures = ValidationPictures(context, implementation, opened)
        # Weights are kept on disk, and uploaded once for every time they improve.
        self._folder = empty_folder(context.scratch / "kept")
        self._changed: set[str] = set()

    def resume(self) -> bool:
        """Bring everything to the newest checkpoint that is whole; return False if there is none.

        Raises
        ------
        DamagedError
            There are checkpoints, and none of them can be read.
        """
        checkpoints = self._context.checkpoints()
        for checkpoint in reversed(checkpoints):
            try:
                self._restore(self._context.load_checkpoint(checkpoint))
            except (DamagedError, InvalidInputError) as error:
                self._context.warn(f"The checkpoint after epoch {checkpoint.epoch} cannot be used: {error.message}")
                continue
            _log.info("resumed after epoch %d", self._state.epoch)
            return True
        if checkpoints:
            raise DamagedError("No checkpoint of this training can be used. Start the training again.")
        return False

    def initialise(self) -> None:
        """Take over the weights of the initial model, if one is named."""
        context = self._context
        uri = context.job.training.initial_model_uri
        if not uri:
            return
        place = Location.parse(uri)
        model = ModelManifest.read(context.store, place / MODEL_MANIFEST)
        model.facts.require_known()
        folder = context.cache.mirror(context.store, place, model.files, context.scratch / "initial")
        spec = context.job.training
        usual = LAST if spec.initial_weights == v1.WEIGHTS_LAST else "best"
        view = ModelView(
            parameters=context.method.parse(v1.JOB_KIND_TRAINING, model.parameters),
            facts=model.facts,
            normaliser=Normaliser.of_record(model.normaliser),
            axes=model.axes,
        )
        initial: Learner = self._implementation.load(
            folder, view, model.weights_named(spec.initial_weights_name or usual)
        )
        try:
            self._implementation.initialise(self._learner, self._opened.facts, initial.weights(), model.facts)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"The initial model {uri} has a different network from the one that these parameters describe: "
                f"{error.message} Choose the network parameters it was trained with (`parfocal models show`)."
            ) from error

    def run(self) -> None:
        """Train epoch by epoch, until all are done or the user has enough."""
        context, state = self._context, self._state
        saved = time.monotonic()
        context.stages.enter("training")
        laps = traces.Laps("epoch", state.epoch + 1, self._epochs)
        self._tell_device(0)
        while state.epoch < self._epochs and not context.keep_best:
            begin = time.monotonic()
            rate = state.schedule.learning_rate
            self._learner.begin_epoch(state.epoch, rate)
            losses = self._train_epoch()
            if losses is None:
                break
            metrics = losses | {f"val_{name}": value for name, value in self._validate().items()}
            _require_finite(state.epoch + 1, metrics)
            state.epoch += 1
            metrics |= self._assess()
            improved = self._keep(metrics)
            state.schedule = state.schedule.after_epoch(state.epoch, metrics)
            metrics["learning_rate"] = rate
            seconds = time.monotonic() - begin
            state.seconds += seconds
            state.rows.append({"epoch": state.epoch, **metrics, "seconds": round(seconds, 3)})
            context.report_epoch(
                v1.EpochCompleted(epoch=state.epoch, metrics=metrics, seconds=seconds, best=improved),
                self._progress(0),
            )
            laps.done(state.epoch)
            self._tell_device(0)
            self._pictures.after_epoch(self._learner, state.epoch, seconds)
            if state.epoch < self._epochs and not context.keep_best and self._seconds_left(0) > _SHORT_REST_SECONDS:
                self._give_way()
            if state.epoch < self._epochs and time.monotonic() - saved >= context.settings.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        if context.keep_best and state.epoch == 0:
            raise CancelledError("cancelled before the first epoch was completed, so that there are no weights to keep")
        if context.keep_best:
            context.warn(f"The training was finished early on request, after {state.epoch} of {self._epochs} epochs.")

    def _give_way(self) -> None:
        """Hand the device over between two epochs, if shorter work waits for it."""
        wish = self._context.device.wanted()
        if wish is not None:
            self._save()
            self._context.hand_over(wish.use)

    def _tell_device(self, step: int) -> None:
        """Say for those who wait for the device how far the training is."""
        state, left = self._state, self._seconds_left(step)
        rest = state.seconds / state.epoch * (1 - step / self._batches.steps_per_epoch) if state.epoch else 0.0
        self._context.device.tell(epoch=state.epoch, epochs=self._epochs, until_turn=rest, left=left)

    def _train_epoch(self) -> dict[str, float] | None:
        """Return the mean losses of an epoch, or None if training shall end now."""
        context, state, steps = self._context, self._state, self._batches.steps_per_epoch
        mean, told = _Mean(), time.monotonic()
        for step, batch in enumerate(_prefetch(self._training_batch, steps)):
            context.check_cancelled()
            if context.keep_best and state.epoch > 0:
                return None
            losses = self._learner.train_batch(batch)
            _require_finite(state.epoch + 1, losses)
            mean.add(losses, batch.size)
            context.report_progress(self._progress(step + 1), message="training")
            if time.monotonic() >= told + _TELL_SECONDS:
                self._tell_device(step + 1)
                told = time.monotonic()
        return mean.values()

    def _validate(self) -> dict[str, float]:
        mean = _Mean()
        for batch in _prefetch(self._validation_batch, self._batches.validation_steps):
            self._context.check_cancelled()
            mean.add(self._learner.validate_batch(batch), batch.size)
        return mean.values()

    def _assess(self) -> dict[str, float]:
        """Return scores of the whole validation images, if it is time for them; what has no value is left out."""
        every = self._implementation.assess_every(self._parameters)
        if not every or (self._state.epoch % every and self._state.epoch < self._epochs):
            return {}
        images = self._opened.validation_images()
        scores = self._implementation.assess(self._learner, images, self._parameters, self._opened.facts)
        return {name: float(value) for name, value in scores.items() if math.isfinite(value)}

    def _training_batch(self, step: int) -> Batch:
        epoch = self._state.epoch
        return self._prepared(self._batches.batch(epoch, step), epoch, step + 1, 1)

    def _validation_batch(self, step: int) -> Batch:
        # The same in every epoch, so that losses can be compared.
        return self._prepared(self._batches.validation_batch(step), 0, step + 1, 2)

    def _prepared(self, batch: Batch, *numbers: int) -> Batch:
        rng = np.random.default_rng([self._parameters.seed, *numbers])
        return self._implementation.prepare(batch, self._parameters, self._opened.facts, rng)

    def _keep(self, metrics: Mapping[str, float]) -> bool:
        """Keep the present weights under each name for which they are the best so far; return whether any are."""
        state, improved = self._state, []
        for name, selection in self._implementation.kept.items():
            value = metrics.get(selection.metric)
            if value is None and not self._implementation.assess_every(self._parameters):
                raise ValueError(f"{name} goes by {selection.metric}, and there is only {', '.join(metrics)}")
            before = state.kept.get(name)
            if value is not None and selection.improves(value, None if before is None else before.value):
                state.kept[name] = KeptWeights(epoch=state.epoch, metric=selection.metric, value=value)
                improved.append(name)
        weights = self._learner.weights() if improved else {}
        for name in improved:
            save_arrays(self._path(name), weights)
        self._changed.update(improved)
        return bool(improved)

    def _path(self, name: str) -> Path:
        return self._folder / f"kept-{name}.npz"

    def _progress(self, step: int) -> v1.Progress:
        state, steps = self._state, self._batches.steps_per_epoch
        return v1.Progress(
            stage="training",
            epoch=state.epoch,
            epochs=self._epochs,
            step=step,
            steps=steps,
            fraction=min((state.epoch + step / steps) / self._epochs, 1.0),
            seconds_left=self._seconds_left(step),
        )

    def _seconds_left(self, step: int) -> float:
        """Return how long the training will take from this step of the present epoch on; 0 before the first epoch."""
        state, steps = self._state, self._batches.steps_per_epoch
        per_epoch = state.seconds / state.epoch if state.epoch else 0.0
        epochs = float(self._epochs - state.epoch - step / steps)
        return per_epoch * max(epochs, 0.0)

    def _save(self) -> None:
        folder = empty_folder(self._context.scratch / "checkpoint")
        save_arrays(folder / "weights.npz", self._learner.weights())
        save_arrays(folder / "learner.npz", self._learner.state())
        (folder / "state.json").write_text(self._state.to_json(), encoding="utf-8")
        files = [*sorted(folder.iterdir()), *(self._path(name) for name in sorted(self._changed))]
        same = [self._path(name).name for name in self._state.kept if name not in self._changed]
        self._context.save_checkpoint(self._state.epoch, files, same)
        self._changed.clear()

    def _restore(self, files: list[Path]) -> None:
        # All is read before anything is changed.
        paths = {path.name: path for path in files}
        state = _State(self._implementation.schedule(self._parameters))
        try:
            state.restore(paths["state.json"].read_text(encoding="utf-8"))
            weights, learner = load_arrays(paths["weights.npz"]), load_arrays(paths["learner.npz"])
            kept = {name: load_arrays(paths[self._path(name).name]) for name in state.kept}
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"its state cannot be read ({error})") from error
        self._learner.set_weights(weights)
        self._learner.set_state(learner)
        self._state = state
        for name, arrays in kept.items():
            save_arrays(self._path(name), arrays)
        # An attempt refers to no file of another one.
        self._changed = set(kept)

    def publish(self) -> None:
        """Write the model with its report and publish it."""
        # Imported late: drawing takes a second to load, and a worker should begin to train at once.
        from parfocal.runtime.training.report import write_training_report

        context, state, opened = self._context, self._state, self._opened
        context.report_progress(
            v1.Progress(stage="publishing", epoch=state.epoch, epochs=state.epoch, fraction=1.0),
            message="writing the model and its report",
            at_once=True,
        )
        weights = StoredArrays({name: self._path(name) for name in self._implementation.kept if name in state.kept})
        weights.store(LAST, self._path(LAST), self._learner.weights())
        kept = {name: state.kept.get(name, KeptWeights(epoch=state.epoch)) for name in weights}
        for name in self._implementation.kept.keys() - state.kept.keys():
            context.warn(f"The model has no weights {name!r}: the score that selects them was never measured.")
        facts = self._calibrate(next(iter(weights.values())))
        folder = empty_folder(context.scratch / "model")
        self._implementation.save(folder, self._parameters, facts, weights)
        spec = context.job.training
        dataset = DatasetManifest.read(context.store, Location.parse(spec.dataset_uri) / DATASET_MANIFEST)
        manifest = ModelManifest(
            project=context.job.project,
            model=context.reserved.parent.name,
            version=int(context.reserved.name),
            service=context.service.name,
            method=context.method.name,
            job=context.job.id,
            parameters=self._parameters.model_dump(mode="json"),
            citation=context.method.citation,
            axes=context.method.axes,
            normaliser=self._implementation.normaliser.record(),
            facts=facts,
            weights=kept,
            training_statistics=dict(opened.record.statistics),
            dataset_uri=spec.dataset_uri,
            dataset_sha256={entry.name: entry.sha256 for entry in dataset.files if entry.name.startswith("train/")},
            part=dataset.part,
            part_channels=dataset.part_channels,
            split=dict(opened.record.split),
            metrics=_metrics(state.rows, next(iter(kept.values())).epoch),
            environment=context.environment,
            parent=spec.initial_model_uri,
            pixel_size_um=opened.record.pixel_size_um,
            training_seconds=round(state.seconds, 1),
            epochs=state.epoch,
            warnings=tuple(context.job.warnings),
        )

        def figures() -> Mapping[str, Any]:
            images = opened.validation_images()
            return self._implementation.figures(self._learner, images, self._parameters, facts)

        examples = opened.record.examples
        if problem := write_training_report(folder, manifest, context.method, state.rows, examples, figures):
            context.warn(problem)
            manifest = manifest.model_copy(update={"warnings": tuple(context.job.warnings)})
        files = context.send_all(folder_files(folder))
        context.record_memory(self._implementation.device)
        context.publish(MODEL_MANIFEST, manifest.model_copy(update={"files": files}), "model", manifest.metrics)

    def _calibrate(self, weights: Mapping[str, Any]) -> Facts:
        self._learner.set_weights(weights)
        images = self._opened.validation_images()
        return self._implementation.calibrate(self._learner, images, self._parameters, self._opened.facts)


def _metrics(rows: list[dict[str, float]], epoch: int) -> dict[str, float]:
    """Return losses and scores after an epoch."""
    beside = ("epoch", "learning_rate", "seconds")
    return {name: value for name, value in rows[epoch - 1].items() if name not in beside}


class _Mean:
    """Means of named values, weighted by the sizes of batches."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._sizes: dict[str, int] = {}

    def add(self, values: Mapping[str, float], size: int) -> None:
        for name, value in values.items():
            self._totals[name] = self._totals.get(name, 0.0) + value * size
            self._sizes[name] = self._sizes.get(name, 0) + size

    def values(self) -> dict[str, float]:
        return {name: total / self._sizes[name] for name, total in self._totals.items()}


def _prefetch(make: Callable[[int], Batch], count: int) -> Iterator[Batch]:
    """Yield batches, the next one being made while the present one is used."""
    if not count:
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(make, 0)
        for step in range(count):
            batch = ahead.result()
            if step + 1 < count:
                ahead = pool.submit(make, step + 1)
            yield batch


def _require_finite(epoch: int, losses: Mapping[str, float]) -> None:
    for name, value in losses.items():
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"Training diverged in epoch {epoch}: the loss ({name}) is NaN or infinite. Train again with a smaller "
                "learning_rate, for example a tenth of the present one."
            )
