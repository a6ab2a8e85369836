"""Work of several jobs: quality control after a training, and comparisons.

Each step is a job whose id follows from what was asked for. So nothing is done twice: a portal that is started again,
or a second one, meets the jobs that are there; after a training also a command and the flow runner, which act upon the
same label.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable

from parfocal import v1
from parfocal.client import Client
from parfocal.client.comparisons import Comparison, compare
from parfocal.client.datasets import read_dataset
from parfocal.client.models import read_model
from parfocal.client.quality import (
    JUDGE_LABEL,
    Doer,
    awaits_verdict,
    evaluation_method_by,
    judge_model,
    judging_request,
)
from parfocal.client.requests import derivation_request
from parfocal.client.watching import FINAL_STATES
from parfocal.runtime.errors import AlreadyExistsError, ParfocalError, PreconditionError, UnavailableError
from parfocal.runtime.store.names import new_request_id, versioned_name

_log = logging.getLogger(__name__)
_RECENT = 200


class Follower:
    """Runs work of several jobs in threads of its own, each once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._begun: set[str] = set()
        self._errors: dict[str, str] = {}

    def begin(self, key: str, work: Callable[[], object]) -> None:
        """Start `work` unless work with the same key is under way."""
        with self._lock:
            if key in self._running:
                return
            self._running.add(key)
            self._errors.pop(key, None)
        threading.Thread(target=self._run, args=(key, work), name=f"follow {key}", daemon=True).start()

    def begin_once(self, key: str, work: Callable[[], object]) -> None:
        """Start `work` unless work with the same key was started before and has not failed."""
        with self._lock:
            if key in self._begun and key not in self._errors:
                return
            self._begun.add(key)
        self.begin(key, work)

    def runs(self, key: str) -> bool:
        """Return whether work with this key is under way."""
        with self._lock:
            return key in self._running

    def error(self, key: str) -> str:
        """Return why work with this key failed last; empty if it did not."""
        with self._lock:
            return self._errors.get(key, "")

    def _run(self, key: str, work: Callable[[], object]) -> None:
        try:
            work()
        except ParfocalError as error:
            _log.warning("%s: %s", key, error.message)
            with self._lock:
                self._errors[key] = error.message
        except Exception:
            _log.exception("%s", key)
            with self._lock:
                self._errors[key] = "Something went wrong in the portal; its log says more."
        finally:
            with self._lock:
                self._running.discard(key)


class Steps:
    """Has the jobs of a larger piece of work done, under ids that follow from its origin."""

    def __init__(self, client: Client, origin: str) -> None:
        self._client = client
        self._origin = origin

    def do(self, request: v1.StartJobRequest, title: str) -> v1.Job:
        """Return the job of a request when it has succeeded; raise PreconditionError with its reason if it has not."""
        request = self._repeatable(request)
        try:
            started = self._client.start(request, wait_for_queue=True)
        except AlreadyExistsError:
            # Its result is there or in the trash, but not the record of the job: it is done again.
            request.request_id = new_request_id(str(request.WhichOneof("spec")))
            started = self._client.start(request, wait_for_queue=True)
        job = self._client.wait(started.id)
        if job.state != v1.JOB_STATE_SUCCEEDED:
            raise PreconditionError(job.error.text or f"{title}: the job {job.id} was cancelled.")
        return job

    def found(self, job: v1.Job, what: str) -> None:
        """Hear that a step was done before, which needs no word."""

    def _repeatable(self, request: v1.StartJobRequest) -> v1.StartJobRequest:
        """Return the request under the id that it has whenever it is made."""
        # By what is asked for, not by its number: a step that was done before is passed over.
        spec = getattr(request, str(request.WhichOneof("spec")))
        content = self._origin.encode() + b"\0" + spec.SerializeToString(deterministic=True)
        digest = hashlib.sha256(content).hexdigest()[:12]
        request.request_id = f"{self._origin[:50]}-{digest}"
        return request


class StepsAfterTraining(Steps):
    """Has the model of a training judged, by the jobs that everybody starts who does that."""

    def _repeatable(self, request: v1.StartJobRequest) -> v1.StartJobRequest:
        return judging_request(self._origin, request)


def check_key(project: str, model: str) -> str:
    """Return the key of the quality control of a model, "name:version"."""
    return f"check {project} {model}"


def check_model(client: Client, model_uri: str, dataset: str, doer: Doer) -> v1.Job:
    """Judge a model on the test images of a dataset, "name:version"; return the finished evaluation.

    Raises
    ------
    UnavailableError
        No service judges such models.
    """
    manifest = read_dataset(client, dataset)
    made_by = client.method(read_model(client, model_uri).manifest.method)
    method = evaluation_method_by(client, made_by.task, manifest)
    if method is None:
        raise UnavailableError(
            f"No service judges models of {made_by.title}. Check that the quality control service runs "
            "(`parfocal status`)."
        )
    uri = client.dataset_uri(client.catalog.title(manifest.project, manifest.dataset, manifest.version))
    return judge_model(client, doer, method, model_uri, uri)


def check_after_training(client: Client, job_id: str) -> None:
    """Wait for a training, then judge its model if the training's dataset has test images."""
    job = client.wait(job_id)
    made = next((output.uri for output in job.outputs if output.kind == "model"), "")
    if job.state != v1.JOB_STATE_SUCCEEDED or not made:
        return
    dataset = versioned_name(job.training.dataset_uri, client.project)
    if read_dataset(client, dataset).can_be_judged_by("test"):
        check_model(client, made, dataset, StepsAfterTraining(client, job.id))


def follow_training(follower: Follower, client: Client, job: v1.Job) -> None:
    """Have the model of a training judged when it is there, if that was asked for."""
    if job.WhichOneof("spec") == "training" and JUDGE_LABEL in job.labels:
        made = versioned_name(job.reserved_uri) if job.reserved_uri else job.id
        follower.begin(check_key(client.project, made), lambda: check_after_training(client, job.id))


def take_up(follower: Follower, client: Client, made_by: str = "") -> None:
    """Go on with what an earlier portal began: trainings whose models have not been judged yet.

    Parameters
    ----------
    made_by
        Only those of this person; empty: all.
    """
    try:
        jobs = client.jobs(limit=_RECENT)
    except ParfocalError as error:
        _log.warning("earlier work is not taken up: %s", error.message)
        return
    for job in jobs:
        if made_by and job.created_by != made_by:
            continue
        if job.state not in FINAL_STATES or awaits_verdict(job, jobs):
            follow_training(follower, client, job)


def make_tiles(follower: Follower, client: Client, uri: str) -> None:
    """Have the images of a dataset or result cut into the tiles that the viewer shows, unless that was done before."""

    def begin() -> None:
        digest = hashlib.sha256(uri.encode()).hexdigest()[:24]
        try:
            job = client.start(derivation_request([uri], request_id=f"tiles-{digest}"))
        except AlreadyExistsError:
            # What a job of this id left is there, but not its record, or somebody else took the id.
            client.start(derivation_request([uri]))
            return
        if job.state in {v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED}:
            client.start(derivation_request([uri]))

    # Each project that reads an image has a mark beside its tiles, which the job leaves.
    follower.begin_once(f"tiles of {client.project} {uri}", begin)


def compare_key(project: str, comparison: Comparison) -> str:
    """Return the key of a comparison."""
    models = " ".join(map(versioned_name, comparison.model_uris))
    return f"compare {project} {models} on {versioned_name(comparison.dataset_uri)}"


def compare_models(client: Client, comparison: Comparison, origin: str) -> v1.Job:
    """Judge the models that have not been judged yet and compare them; return the finished comparison."""
    return compare(client, Steps(client, origin), comparison)
