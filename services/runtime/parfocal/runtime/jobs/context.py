"""What a worker has at hand while it does a job: parameters, store, reporting, cancelling, publishing."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from parfocal import v1
from parfocal.runtime import traces
from parfocal.runtime.errors import (
    AlreadyExistsError,
    CancelledError,
    ConflictError,
    DamagedError,
    NotFoundError,
    ParfocalError,
    UnavailableError,
)
from parfocal.runtime.jobs.device.held import HandedOver, Held
from parfocal.runtime.jobs.device.use import Use
from parfocal.runtime.jobs.memory import peak_memory
from parfocal.runtime.jobs.previews import save_preview
from parfocal.runtime.jobs.records import FINAL_STATES, JobStore, job_kind, set_state
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.service import Method, Parameters, Service, Work, struct_values
from parfocal.runtime.store.cache import Cache
from parfocal.runtime.store.manifests import FileEntry, Manifest, attempt_folder
from parfocal.runtime.store.publish import empty_folder, upload_files
from parfocal.runtime.store.store import Location, Store

_log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 2.0
PATIENCE_SECONDS = 600.0
"""How long a worker waits for a store that does not answer."""
_CANCEL_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint in the store: the epochs done, and its folder."""

    epoch: int
    attempt: int
    place: Location

    @classmethod
    def of(cls, place: Location) -> Checkpoint:
        """Return the checkpoint in a folder named "<attempt>-<epoch>"."""
        attempt, epoch = place.name.split("-")
        return cls(int(epoch), int(attempt), place)


class JobContext:
    """One attempt of one job, as its worker sees it.

    A worker that was replaced while it did not run must not change anything that others read. So the record is changed
    only by the attempt that holds the job, and everything else is written to places of the attempt's own, which count
    only once the record names them: files by `Job.publication`, checkpoints by `Job.checkpoints`.

    Parameters
    ----------
    service, job
        What is to be done.
    store
        Where everything else is; a patient one, so that the job survives a restart of the store.
    scratch
        Folder of this attempt, removed at its end.
    device
        The device that this attempt has; None where there is none to share.
    """

    def __init__(self, service: Service, store: Store, job: v1.Job, scratch: Path, device: Held | None = None) -> None:
        self.service = service
        self.store = store
        self.settings = store.settings
        # The records have a patience of their own: progress is left out rather than waited for.
        self.jobs = JobStore(Store(store.settings))
        self.job = job
        self.scratch = scratch
        self.device = device if device is not None else Held((), store.settings)
        self.method: Method = service.method(job.method)
        self.work: Work = self.method.work_of(job_kind(job))
        self.parameters: Parameters = self.method.parse(job_kind(job), struct_values(job.resolved_parameters))
        self.cache = Cache(self.settings.state_folder, scratch / "held")
        self.reserved = Location.parse(job.reserved_uri)
        # Files of the last checkpoint that this context has saved: names, and places below the folder of checkpoints.
        self._saved: dict[str, str] = {}
        self._cancel: dict[str, object] | None = None
        self._next_progress = 0.0
        # Images are reported by a thread of their own.
        self._changing = threading.Lock()
        self.stages = traces.Stages()
        threading.Thread(target=self._watch_cancel, name="cancel", daemon=True).start()

    @property
    def keep_best(self) -> bool:
        """Whether training shall end now and publish its best weights."""
        return self._cancel is not None and bool(self._cancel["keep_best"])

    def check_cancelled(self) -> None:
        """Raise CancelledError if the job shall end without a result. Call it once a step, tile or image."""
        if self._cancel is not None and not self._cancel["keep_best"]:
            why = str(self._cancel["why"])
            raise CancelledError(f"cancelled: {why}" if why else "cancelled on request")

    def warn(self, text: str) -> None:
        """Tell people something that they should know about the result."""
        if text in self.job.warnings:
            return

        def change(job: v1.Job) -> v1.JobEvent:
            job.warnings.append(text)
            return v1.JobEvent(warning=v1.Warning(text=text))

        self._change(change)

    def describe(self, *, precision: str) -> None:
        """Record that the job runs on the processor, in this precision."""
        self._record(self.service.environment(Device(precision=precision), image=self.settings.image))

    def choose_device(self, wanted: str, *, training: bool) -> Device:
        """Return what the job's networks are computed on, in the wanted precision where that is possible; record both.

        Parameters
        ----------
        wanted
            "auto", "float32" or "bfloat16"; a wish that cannot be met is a warning.
        training
            Whether networks are trained, and not only applied.
        """
        device, why = self.service.device().choose(wanted, len(self.method.axes), training=training)
        _log.info("computing on %s in %s", device.name, why)
        self._record(self.service.environment(device, image=self.settings.image))
        if wanted not in ("auto", device.precision):
            self.warn(why)
        return device

    @property
    def environment(self) -> dict[str, Any]:
        """What the job runs on by its record, as manifests have it."""
        recorded = self.job.environment
        return {
            "packages": dict(recorded.packages),
            "device": recorded.device,
            "cuda": recorded.cuda,
            "threads": recorded.threads,
            "precision": recorded.precision,
            "image": recorded.image,
        }

    def _record(self, environment: v1.Environment) -> None:
        def change(job: v1.Job) -> None:
            job.environment.CopyFrom(environment)

        self._change(change)

    def report_progress(self, progress: v1.Progress, *, message: str = "", at_once: bool = False) -> None:
        """Show how far the job is; at most every two seconds unless `at_once`. Never delays or ends the job."""
        self.stages.enter(progress.stage)
        if not at_once and time.monotonic() < self._next_progress:
            return
        self._next_progress = time.monotonic() + _PROGRESS_SECONDS

        def change(job: v1.Job) -> None:
            job.progress.CopyFrom(progress)
            if message:
                job.message = message

        # Another thread that reports shows the progress as well, and may have to wait for the store.
        if not self._changing.acquire(blocking=at_once):
            return
        try:
            self.job = self.jobs.change(self.job.project, self.job.id, change, attempt=self.job.attempt)
        except UnavailableError as error:
            _log.warning("progress not shown: %s", error)
        finally:
            self._changing.release()

    def report_epoch(self, epoch: v1.EpochCompleted, progress: v1.Progress) -> None:
        """Record a completed epoch."""

        def change(job: v1.Job) -> v1.JobEvent:
            job.metrics.update(epoch.metrics)
            job.progress.CopyFrom(progress)
            job.message = f"epoch {epoch.epoch} of {progress.epochs} done"
            return v1.JobEvent(epoch_completed=epoch)

        self._change(change)

    def hand_over(self, use: Use) -> NoReturn:
        """End this attempt in favour of other work, after a checkpoint; the job goes on when that is done."""
        text = f"handed the device to {use.words(self.job.project)}; goes on after it"

        def change(job: v1.Job) -> None:
            job.message = text

        self._change(change)
        _log.info("%s", text)
        raise HandedOver

    def report_image(self, image: v1.ImageCompleted, progress: v1.Progress) -> None:
        """Record a processed image."""
        self.report_images([image], progress)

    def report_images(self, images: Sequence[v1.ImageCompleted], progress: v1.Progress) -> None:
        """Record processed images, in one change of the record."""

        def change(job: v1.Job) -> list[v1.JobEvent]:
            job.progress.CopyFrom(progress)
            return [v1.JobEvent(image_completed=image) for image in images]

        self._change(change)

    def send(self, path: Path, name: str) -> FileEntry:
        """Upload a file of what the job publishes to the folder of this attempt; return its entry of the manifest."""
        return self.send_all([(path, name)])[0]

    def send_all(self, files: Iterable[tuple[Path, str]]) -> tuple[FileEntry, ...]:
        """Upload several files with their public names; return their entries in the given order."""
        with traces.span("upload"):
            return upload_files(self.store, self.reserved, files, self._folder)

    def publish(self, name: str, manifest: Manifest, kind: str, metrics: Mapping[str, float] | None = None) -> None:
        """Make what was sent exist by its manifest, and record it as an output with its metrics."""
        manifest = manifest.model_copy(update={"created_by": self.job.created_by})
        decision = v1.Publication(attempt=self.job.attempt, manifest=name, kind=kind)

        def change(job: v1.Job) -> None:
            job.metrics.update(metrics or {})
            job.publication.CopyFrom(decision)

        with traces.span("publish"):
            self.store.write(self.reserved / self._folder / name, manifest.to_bytes())
            self._change(change)
            self.complete_publication()

    def complete_publication(self) -> bool:
        """Make the manifest visible that the job has decided to publish; return False if it has decided nothing.

        A worker calls this before it begins: the one before it may have been lost after the decision. Any number of
        workers may do it, because all write the same.
        """
        if not self.job.HasField("publication"):
            return False
        decided = self.job.publication
        content = self.store.read(self.reserved / attempt_folder(decided.attempt) / decided.manifest)
        try:
            self.store.create(self.reserved / decided.manifest, content)
        except ConflictError as error:
            if self.store.read(self.reserved / decided.manifest) != content:
                raise AlreadyExistsError(f"{self.reserved} was published by something else than this job.") from error
        self.record_output(decided.kind, str(self.reserved), {})
        self._delete_checkpoints()
        return True

    def record_output(self, kind: str, uri: str, metrics: Mapping[str, float]) -> None:
        """Record something published, with the metrics that belong to it."""
        output = v1.Output(kind=kind, uri=uri)

        def change(job: v1.Job) -> v1.JobEvent | None:
            job.metrics.update(metrics)
            if output in job.outputs:
                return None
            job.outputs.append(output)
            return v1.JobEvent(output=output)

        self._change(change)

    def record_memory(self, device: Device) -> None:
        """Record the largest memory that this process had, for those who plan the next work of this kind."""
        peak = peak_memory(device)

        def change(job: v1.Job) -> None:
            job.peak_memory.CopyFrom(peak)

        self._change(change)

    def succeed(self, message: str = "done") -> None:
        """End the job as SUCCEEDED."""

        def change(job: v1.Job) -> v1.JobEvent:
            job.progress.fraction = 1.0
            return set_state(job, v1.JOB_STATE_SUCCEEDED, message)

        self._change(change)

    def cancelled(self, message: str) -> None:
        """End the job as CANCELLED."""
        self._change(lambda job: set_state(job, v1.JOB_STATE_CANCELLED, message))

    def fail(self, code: str, reason: str, error: ParfocalError | str) -> None:
        """End the job as FAILED."""

        def change(job: v1.Job) -> v1.JobEvent:
            text = error if isinstance(error, str) else error.message
            violations = () if isinstance(error, str) else error.violations
            job.error.CopyFrom(
                v1.JobError(
                    code=code,
                    reason=reason,
                    text=text,
                    violations=[
                        v1.FieldViolation(field=violation.field, description=violation.description)
                        for violation in violations
                    ],
                )
            )
            return set_state(job, v1.JOB_STATE_FAILED, text)

        self._change(change)

    def save_checkpoint(self, epoch: int, files: Sequence[Path], same: Sequence[str] = ()) -> None:
        """Keep local files as the checkpoint after `epoch` epochs, and forget all but the one before it.

        Parameters
        ----------
        files
            What is uploaded.
        same
            Names of files that are as they were in the checkpoint saved before it: they are not uploaded again.
        """
        name = f"{self.job.attempt:04d}-{epoch:06d}"
        for path in files:
            self.store.upload(path, self._checkpoints / name / path.name)
        self._saved = {known: self._saved[known] for known in same} | {
            path.name: f"{name}/{path.name}" for path in files
        }
        complete = json.dumps({"files": self._saved}).encode()
        self.store.write(self._checkpoints / name / "complete.json", complete)

        def change(job: v1.Job) -> None:
            # A training that gets on may lose its worker any number of times.
            job.lost_workers = 0
            kept = [known for known in job.checkpoints if known != name][-1:]
            del job.checkpoints[:]
            job.checkpoints.extend([*kept, name])

        self._change(change)
        used = {place for checkpoint in self.checkpoints() for place in self._files(checkpoint).values()}
        for item in list(self.store.objects(self._checkpoints)):
            folder = item.location.parent.name
            if folder in self.job.checkpoints or f"{folder}/{item.location.name}" in used:
                continue
            # A later attempt may be writing one that this job does not name yet.
            if Checkpoint.of(item.location.parent).attempt <= self.job.attempt:
                self.store.delete(item.location)

    def save_preview(self, epoch: int, image: str, pictures: Mapping[str, bytes]) -> None:
        """Show pictures of a validation image after an epoch, PNG files by their names. Never waits for the store."""
        try:
            self.job = save_preview(self.jobs, self.job, epoch, image, pictures)
        except UnavailableError as error:
            _log.warning("pictures not shown: %s", error)

    def _files(self, checkpoint: Checkpoint) -> dict[str, str]:
        """Return the files of a checkpoint: names, and places below that of all checkpoints; none if it is damaged."""
        try:
            files = self.store.read_json(checkpoint.place / "complete.json")["files"]
            return {str(name): str(place) for name, place in files.items()}
        except (NotFoundError, DamagedError, KeyError, TypeError, AttributeError):
            return {}

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints that the job names, the one to go on from last."""
        return [Checkpoint.of(self._checkpoints / name) for name in self.job.checkpoints]

    def load_checkpoint(self, checkpoint: Checkpoint) -> list[Path]:
        """Return local copies of the files of a checkpoint; raise DamagedError if it is not whole."""
        folder = empty_folder(self.scratch / "restored")
        try:
            files = self._files(checkpoint)
            if not files:
                raise ValueError("its list of files cannot be read")
            for name, place in files.items():
                self.store.download(self._checkpoints / place, folder / name)
            return [folder / name for name in files]
        except (NotFoundError, ValueError) as error:
            raise DamagedError(f"The checkpoint {checkpoint.place} is damaged ({error}).") from error

    def _delete_checkpoints(self) -> None:
        """Remove all checkpoints: the job has published its model."""
        for item in list(self.store.objects(self._checkpoints)):
            self.store.delete(item.location)

    def epochs(self) -> list[v1.EpochCompleted]:
        """Return all completed epochs that the job has reported in any attempt, in order of the events."""
        jobs = JobStore(self.store)
        events = jobs.events(jobs.read(self.job.project, self.job.id), 0)
        return [event.epoch_completed for event in events if event.HasField("epoch_completed")]

    @property
    def _folder(self) -> str:
        return attempt_folder(self.job.attempt)

    @property
    def _checkpoints(self) -> Location:
        return self.jobs.folder(self.job.project, self.job.id) / "checkpoints"

    def _change(self, change: Callable[[v1.Job], v1.JobEvent | Sequence[v1.JobEvent] | None]) -> None:
        with self._changing:
            self.job = self.jobs.change(
                self.job.project, self.job.id, change, attempt=self.job.attempt, patience_seconds=PATIENCE_SECONDS
            )

    def _watch_cancel(self) -> None:
        while self._cancel is None and self.job.state not in FINAL_STATES:
            try:
                self._cancel = self.jobs.cancel_mark(self.job)
            except ParfocalError as error:
                _log.warning("cannot look for the cancel mark: %s", error)
            time.sleep(_CANCEL_POLL_SECONDS)
