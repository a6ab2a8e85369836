"""What Prefect is told while a flow works: log lines, one progress bar, quiet failures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import CancelledRun, FailedRun
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Failed

from parfocal import v1
from parfocal.client import Client
from parfocal.flows._jobs import ACTIVE_STATES, JobNotSucceededError, Run, repeatable_job
from parfocal.flows._show import event_line, progress_line
from parfocal.flows.hooks import run_of
from parfocal.runtime.errors import ParfocalError, PreconditionError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

_T = TypeVar("_T")
_PROGRESS_KEY = "progress"
_SECONDS_BETWEEN_UPDATES = 1.0


class StepFailedError(ParfocalError):
    """A step of the flow failed; the message is that of its error."""

    reason = "STEP_FAILED"


class StepCancelledError(StepFailedError):
    """The job of a step was ended on request, which is no failure; the message says by whom."""

    reason = "STEP_CANCELLED"


class PrefectListener:
    """Reports jobs to the flow run it is made in: events as log lines, progress as one progress bar.

    Parameters
    ----------
    run_id
        The flow run; a progress bar that an earlier attempt made is used again.
    """

    def __init__(self, run_id: str) -> None:
        self._span = (0.0, 100.0)
        self._title = ""
        self._updated = 0.0
        self._last_wait = ""
        self._artifact = _progress_artifact(run_id)

    def stage(self, title: str, begin: float, end: float) -> None:
        """Name the part of the flow that begins, and its part of the progress bar in percent."""
        self._title, self._span = title, (begin, end)
        self._show(0.0, title, at_once=True)

    def done(self, text: str) -> None:
        """Fill the progress bar."""
        self._title, self._span = "", (0.0, 100.0)
        self._show(1.0, text, at_once=True)

    def started(self, job: v1.Job, *, again: bool) -> None:
        """Log which job is followed."""
        if not again:
            get_run_logger().info("%s: job %s of the service %s has been started", self._title, job.id, job.service)
        elif job.state in ACTIVE_STATES:
            get_run_logger().info("%s: job %s goes on (%s)", self._title, job.id, progress_line(job))
        else:
            state = v1.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()
            get_run_logger().info("%s: job %s had ended before: %s", self._title, job.id, state)

    def progressed(self, job: v1.Job) -> None:
        """Move the progress bar."""
        self._last_wait = ""
        self._show(job.progress.fraction, progress_line(job))

    def happened(self, job: v1.Job, event: v1.JobEvent) -> None:
        """Log an event."""
        line = event_line(job, event)
        if line:
            level = logging.WARNING if event.HasField("warning") else logging.INFO
            get_run_logger().log(level, line)

    def waiting(self, why: str) -> None:
        """Log once why the work waits."""
        if why != self._last_wait:
            self._last_wait = why
            get_run_logger().warning("Waiting, then trying again: %s", why)
            self._show(0.0, f"Waiting: {why}", at_once=True)

    def _show(self, fraction: float, text: str, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and fraction < 1 and now - self._updated < _SECONDS_BETWEEN_UPDATES:
            return
        self._updated = now
        begin, end = self._span
        percent = begin + (end - begin) * min(max(fraction, 0.0), 1.0)
        update_progress_artifact(self._artifact, progress=round(percent, 1), description=text)


class FlowDoer:
    """Has the jobs of a larger piece of work done, each as a step of the flow run.

    A step has the same number, and so the same job, whenever the run is retried.

    Parameters
    ----------
    steps
        How many jobs there are, those that turn out to have been done before included.
    begin
        From which percentage on they have the progress bar.
    names
        By kind of job ("prediction", "evaluation"): what its step is called in request ids, where there is one of each.
    """

    def __init__(
        self,
        client: Client,
        run: Run,
        listener: PrefectListener,
        steps: int,
        *,
        begin: float = 0.0,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._client, self._run, self._listener, self._steps = client, run, listener, steps
        self._begin, self._names = begin, names or {}
        self._done = 0

    def do(self, request: v1.StartJobRequest, title: str) -> v1.Job:
        """Return the finished job of a request."""
        begin, end = (self._begin + (100 - self._begin) * done / self._steps for done in (self._done, self._done + 1))
        self._listener.stage(title, begin, end)
        self._done += 1
        kind = str(request.WhichOneof("spec"))
        name = self._names.get(kind, f"{kind}-{self._done}")

        def labelled(request_id: str) -> v1.StartJobRequest:
            mine = v1.StartJobRequest(labels=self._run.labels)
            mine.MergeFrom(request)
            mine.request_id = request_id
            return mine

        return step(title, lambda: repeatable_job(self._client, self._run, name, labelled, self._listener))

    def found(self, job: v1.Job, what: str) -> None:  # noqa: ARG002
        """Log that something has been done before."""
        self._done += 1
        get_run_logger().info("%s Using that.", what)


def current_run() -> Run:
    """Return the flow run this code runs in.

    Raises
    ------
    PreconditionError
        It does not run in a flow.
    """
    return run_of(current_flow_run())


def step(name: str, work: Callable[[], _T]) -> _T:
    """Do one step of a flow as a task of its own in Prefect's timeline, and return its result.

    Raises
    ------
    StepFailedError
        The step failed, or its job was cancelled; nothing but the error's own words has been logged.
    """
    state: State[Any] = _step(name, work, return_state=True)
    if state.is_completed():
        result: _T = state.result()
        return result
    error = StepCancelledError if state.is_cancelled() else StepFailedError
    raise error(state.message or f"{name}: ended as {state.name}")


def ended_badly(error: ParfocalError) -> State[Any]:
    """Return the state in which a flow ends that met an error: cancelled if its job was, else failed."""
    make = Cancelled if isinstance(error, StepCancelledError) else Failed
    state: State[Any] = make(message=error.message)
    return state


def add_tag(run_id: str, tag: str) -> None:
    """Put a tag on a flow run, so that lists of runs show it."""
    with get_client(sync_client=True) as client:
        tags = {*client.read_flow_run(UUID(run_id)).tags, tag}
        client.update_flow_run(UUID(run_id), tags=sorted(tags))


def quiet_failures() -> None:
    """Keep Prefect from logging tracebacks of errors that are meant for the user; others stay loud."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if _no_user_tracebacks not in logger.filters:
            logger.addFilter(_no_user_tracebacks)


def _no_user_tracebacks(record: logging.LogRecord) -> bool:
    # The state's own line ("Finished in state Failed('…')") says it already. Prefect also logs states that were
    # returned as failed with the traceback of no exception.
    return not (record.exc_info and isinstance(record.exc_info[1], ParfocalError | FailedRun | CancelledRun | None))


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False, retries=0)
def _step(name: str, work: Callable[[], Any]) -> Any:  # noqa: ARG001
    try:
        return work()
    except JobNotSucceededError as error:
        make = Cancelled if error.job.state == v1.JOB_STATE_CANCELLED else Failed
        return make(message=error.message)
    except ParfocalError as error:
        return Failed(message=error.message)


def current_flow_run() -> FlowRun:
    """Return the flow run this code runs in as Prefect describes it; raise PreconditionError outside of flows."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise PreconditionError("This is a step of a workflow and runs only in a Prefect flow run.")
    return context.flow_run


def _progress_artifact(run_id: str) -> UUID:
    with get_client(sync_client=True) as client:
        known = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[_PROGRESS_KEY])),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run_id)])),
        )
    if known:
        return known[0].id
    made = create_progress_artifact(progress=0.0, key=_PROGRESS_KEY, description="Starting")
    # Prefect's type says that it might be awaitable; in a synchronous flow it is not.
    assert isinstance(made, UUID)
    return made
