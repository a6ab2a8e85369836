"""The launcher of a cluster: one Kubernetes Job for each attempt. The cluster finds its node and its turn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from parfocal import v1
from parfocal.runtime.errors import UnavailableError
from parfocal.runtime.jobs.device.use import Holder, Use
from parfocal.runtime.jobs.exits import Exit, ExitKind, Waiting
from parfocal.runtime.jobs.handover import Assignment
from parfocal.runtime.jobs.kubernetes.api import ApiError, KubernetesApi, Object
from parfocal.runtime.jobs.kubernetes.manifest import (
    QUEUE,
    SERVICE,
    assignment_of,
    job_manifest,
    job_name,
    needs_gpu,
)
from parfocal.runtime.jobs.kubernetes.mirror import Mirror
from parfocal.runtime.jobs.kubernetes.reading import Stuck, has_begun, has_ended, read
from parfocal.runtime.methods.service import Resources
from parfocal.runtime.settings import Settings

_log = logging.getLogger(__name__)
_LEAST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_FIRST_LIST_SECONDS: Final = 30.0
# A worker that was ended counts as gone by then, although a node that does not answer may keep its Job for ever: it can
# change nothing that anybody reads.
_GONE_SECONDS: Final = 60.0
_PLACES_SECONDS: Final = 10.0
# For so long what a call returned is believed against the stream of changes.
_BEHIND_SECONDS: Final = 3.0
_KUEUE: Final = "/apis/visibility.kueue.x-k8s.io/v1beta1/namespaces/{}/localqueues/{}/pendingworkloads"
# The Job stays until its pod is gone, so that one that is gone has no worker any more.
_DELETION: Final = {"propagationPolicy": "Foreground"}


@dataclass
class ClusterWorker:
    """The Kubernetes Job of one attempt, as far as its controller knows.

    Attributes
    ----------
    name
        Name of the Job.
    exists
        Whether the API has said that the Job is there.
    trouble
        Why it could not be created yet.
    ended
        How it ended, once that is known. Nothing that the API says later changes it.
    begun
        Whether its container has been started.
    stopped
        When its end was asked for, by time.monotonic(); None as long as nobody has.
    stuck_since
        When its container was first found to be impossible to make, by time.monotonic().
    task
        What is being asked of the API for it.
    seen
        The Job as the API has just returned it, and when: the stream of changes may be behind.
    """

    name: str
    exists: bool = False
    trouble: str = ""
    ended: Exit | None = None
    begun: bool = False
    stopped: float | None = None
    stuck_since: float | None = None
    task: asyncio.Task[None] | None = None
    seen: tuple[Object, float] | None = None


@dataclass
class _Places:
    """Places in the queues of Kueue by name of the Job, as of a moment ago."""

    known: dict[str, int] = field(default_factory=dict)
    until: float = 0.0
    task: asyncio.Task[None] | None = None


class KubernetesLauncher:
    """Makes a Kubernetes Job of each attempt and reads from it how the worker does.

    Nothing is kept here that the cluster does not know: a launcher that is started anew finds the Jobs by their label.
    The calls of the API happen in threads and tasks; no method waits for it, except `adopt` for the first list.
    """

    detached = True

    def __init__(self, settings: Settings, service: str) -> None:
        self._settings = settings
        self._service = service
        self._template = settings.kubernetes_template or f"parfocal-{service}-worker"
        self._api = KubernetesApi(settings)
        selector = f"{SERVICE}={service}"
        self._jobs = Mirror(self._api, self._api.jobs(), selector)
        self._pods = Mirror(self._api, self._api.path("v1", "pods"), selector)
        self._places = _Places()
        self._tasks: set[asyncio.Task[None]] = set()

    async def reserve(self, use: Use, resources: Resources) -> bool:  # noqa: ARG002
        """Return True: the cluster has the queue."""
        return True

    async def want(self, use: Use, resources: Resources) -> None:
        """Do nothing: the priority of its Job asks for room."""

    async def count_wait(self) -> None:
        """Do nothing: the cluster shares its devices by the priorities of Jobs."""

    async def short_first(self) -> bool:
        """Return True: nothing waits here for long."""
        return True

    async def holders(self) -> Sequence[Holder]:
        """Return nothing: that is the cluster's to know."""
        return ()

    async def release(self) -> None:
        """Do nothing."""

    async def start(self, job: v1.Job, resources: Resources) -> ClusterWorker:
        """Begin to make the Job; `poll` says when that does not succeed."""
        worker = ClusterWorker(job_name(self._service, Assignment(job.project, job.id, job.attempt)))
        worker.task = self._spawn(self._create(worker, job, resources))
        return worker

    async def poll(self, worker: ClusterWorker) -> Exit | Waiting | None:
        """Return None while the worker runs, what it waits for before that, and at last how it ended."""
        if worker.ended is None:
            found = self._look(worker)
            if not isinstance(found, Exit):
                return found
            worker.ended = found
        return worker.ended

    async def adopt(self, job: v1.Job) -> ClusterWorker | None:
        """Return the worker of the present attempt, also one that has ended meanwhile, if its job does not know."""
        await self._listed()
        worker = ClusterWorker(job_name(self._service, Assignment(job.project, job.id, job.attempt)), exists=True)
        content = self._jobs.get(worker.name)
        if content is None:
            return None
        worker.begun = job.state != v1.JOB_STATE_QUEUED
        # An attempt that has been given up leaves its job queued for the next one.
        given_up = has_ended(content) or "deletionTimestamp" in content["metadata"]
        return None if given_up and not worker.begun else worker

    async def found(self) -> Sequence[tuple[Assignment, ClusterWorker]]:
        """Return all workers whose Jobs have not ended."""
        await self._listed()
        return [
            (assignment, ClusterWorker(content["metadata"]["name"], exists=True))
            for content in self._jobs.objects()
            if (assignment := assignment_of(content)) is not None
            and not has_ended(content)
            and "deletionTimestamp" not in content["metadata"]
        ]

    async def stop(self, worker: ClusterWorker) -> None:
        """Delete the Job, and with it its pod."""
        if worker.stopped is None:
            worker.stopped = time.monotonic()
            self._spawn(self._delete(worker))

    async def tend(self) -> None:
        """Ask for the places in the queue, if any worker waits in one."""
        if time.monotonic() < self._places.until or (self._places.task and not self._places.task.done()):
            return
        try:
            queues = {
                queue
                for content in self._jobs.objects()
                if content["spec"].get("suspend") and (queue := (content["metadata"].get("labels") or {}).get(QUEUE))
            }
        except UnavailableError:
            return
        self._places.until = time.monotonic() + _PLACES_SECONDS
        if queues:
            self._places.task = self._spawn(self._ask_places(queues))

    async def dismiss(self) -> bool:
        """Stop looking; the workers go on."""
        self._jobs.close()
        self._pods.close()
        for task in self._tasks:
            task.cancel()
        return not self._tasks

    def _look(self, worker: ClusterWorker) -> Exit | Waiting | None:
        if worker.stopped is not None and time.monotonic() - worker.stopped > _GONE_SECONDS:
            return Exit(ExitKind.INTERRUPTED, "was ended")
        if not worker.exists:
            if worker.stopped is not None and (worker.task is None or worker.task.done()):
                return Exit(ExitKind.INTERRUPTED, "was ended before it was started")
            return Waiting("waiting for the cluster", worker.trouble) if worker.trouble else None
        content = self._jobs.get(worker.name)
        if content is None and worker.seen is not None and time.monotonic() - worker.seen[1] < _BEHIND_SECONDS:
            content = worker.seen[0]
        if content is None:
            if worker.task is None or worker.task.done():
                # Only the API itself can say that it is gone.
                worker.task = self._spawn(self._confirm(worker))
            return None
        try:
            pods = [pod for pod in self._pods.objects() if _belongs(pod, content)]
        except UnavailableError:
            return None
        worker.begun = worker.begun or has_begun(pods)
        gpu = needs_gpu(content)
        found = read(content, pods, needs_gpu=gpu, begun=worker.begun)
        if "deletionTimestamp" in content["metadata"] and not isinstance(found, Exit):
            return None
        if isinstance(found, Stuck):
            found = self._patience(worker, found)
        else:
            worker.stuck_since = None
        if isinstance(found, Exit) and not has_ended(content):
            # One attempt never runs twice, whatever the cluster still has in mind with this Job.
            self._spawn(self._delete(worker))
        if isinstance(found, Waiting) and (place := self._places.known.get(worker.name)) is not None:
            return Waiting(found.what, f"number {place} in the queue")
        return found

    def _patience(self, worker: ClusterWorker, stuck: Stuck) -> Exit | Waiting:
        """Return that a worker without a container waits on, or that it has done so for long enough."""
        if worker.stuck_since is None:
            worker.stuck_since = time.monotonic()
        if not stuck.hopeless and time.monotonic() - worker.stuck_since < self._settings.kubernetes_pull_seconds:
            return stuck
        return Exit(ExitKind.NO_IMAGE, f"has no container ({stuck.detail})")

    async def _create(self, worker: ClusterWorker, job: v1.Job, resources: Resources) -> None:
        """Create the Job, however long that takes. One whose creation was never answered is taken as it is."""
        pause = _LEAST_PAUSE
        while worker.stopped is None:
            try:
                content = await asyncio.to_thread(self._create_now, worker.name, job, resources)
                worker.seen, worker.exists = (content, time.monotonic()), True
                return
            except UnavailableError as error:
                worker.trouble = error.message
            except ApiError as error:
                # A quota that is used up may have room later.
                if not (error.status == 403 and "quota" in error.message):
                    _log.error("the Job %s was refused: %s", worker.name, error)
                    worker.ended = Exit(ExitKind.NOT_STARTED, f"was refused by the cluster ({error})")
                    return
                worker.trouble = error.message
            except (KeyError, TypeError) as error:
                _log.exception("the PodTemplate %s is no template of a worker", self._template)
                worker.ended = Exit(
                    ExitKind.NOT_STARTED, f"cannot be made from the PodTemplate {self._template}: {error!r}"
                )
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _create_now(self, name: str, job: v1.Job, resources: Resources) -> Object:
        template = self._api.get(self._api.path("v1", "podtemplates", self._template))
        content = job_manifest(template, self._service, job, resources, self._settings)
        try:
            return self._api.create(self._api.jobs(), content)
        except ApiError as error:
            if error.status != 409:
                raise
            return self._api.get(self._api.jobs(name))

    async def _delete(self, worker: ClusterWorker) -> None:
        """Delete the Job, however long the API does not answer, but not before it is known whether there is one."""
        if worker.task is not None:
            await asyncio.wait([worker.task])
        pause = _LEAST_PAUSE
        while True:
            try:
                await asyncio.to_thread(self._api.delete, self._api.jobs(worker.name), _DELETION)
                return
            except UnavailableError as error:
                _log.warning("the Job %s could not be deleted yet: %s", worker.name, error)
            except ApiError:
                _log.exception("the Job %s could not be deleted", worker.name)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _confirm(self, worker: ClusterWorker) -> None:
        """Find out whether a Job is gone that the stream does not tell of."""
        try:
            content = await asyncio.to_thread(self._api.get, self._api.jobs(worker.name))
            worker.seen = content, time.monotonic()
        except ApiError as error:
            if error.status == 404:
                lost = "was lost: its Kubernetes Job was deleted by somebody else"
                how = lost if worker.stopped is None else "was ended"
                worker.ended = worker.ended or Exit(ExitKind.INTERRUPTED, how)
        except UnavailableError:
            await asyncio.sleep(_LEAST_PAUSE)

    async def _listed(self) -> None:
        """Wait for the first lists; raise UnavailableError if they do not come."""
        deadline = time.monotonic() + _FIRST_LIST_SECONDS
        while True:
            try:
                self._jobs.objects()
                self._pods.objects()
                return
            except UnavailableError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)

    async def _ask_places(self, queues: set[str]) -> None:
        """Ask Kueue for the places of the waiting Jobs; without its API of visibility there are none."""
        known = {}
        for queue in queues:
            with contextlib.suppress(ApiError, UnavailableError, KeyError, TypeError):
                path = _KUEUE.format(self._api.namespace, queue)
                answer = await asyncio.to_thread(self._api.get, path, limit="1000")
                for item in answer.get("items") or ():
                    for owner in item["metadata"].get("ownerReferences") or ():
                        known[owner["name"]] = int(item["positionInLocalQueue"]) + 1
        self._places.known = known

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _belongs(pod: Object, job: Object) -> bool:
    """Return whether a pod is one of a Job."""
    uid = job["metadata"].get("uid")
    return any(owner.get("uid") == uid for owner in pod["metadata"].get("ownerReferences") or ())
