"""Leaving a training and its quality control to a workflow, so that they need no command that waits for them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli import _work
from parfocal.cli._errors import DETACHED
from parfocal.cli._render import print_json, say, warn
from parfocal.cli._work import CommandDoer
from parfocal.flows._jobs import STEPS
from parfocal.flows.remote import ENDED, TrainingFlow
from parfocal.runtime.errors import UnavailableError
from parfocal.runtime.store.names import versioned_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from parfocal import v1
    from parfocal.cli._app import App
    from parfocal.client import Client

_SILENT_SECONDS = 10.0
_PATIENCE_SECONDS = 60.0
_LONGEST_PAUSE = 2.0


def training_flow(app: App, client: Client, method: v1.Method, dataset_uri: str) -> TrainingFlow | None:
    """Return the workflow that trains with a method and has the model judged; None if there is none at work.

    There is one where the stack of this computer runs with Prefect and the runner, and the command speaks to the
    services and the catalogue of that stack. Without test images or a service to judge there is nothing to be left to
    it.
    """
    from parfocal.client.published import read_manifest
    from parfocal.client.quality import evaluation_method_by
    from parfocal.runtime.store.manifests import DatasetManifest
    from parfocal.stack.control import status
    from parfocal.stack.state import UnitState

    connection = app.connection()
    if connection is None or connection.prefect_api_url is None:
        return None
    if not same_place(client.settings.model_dump(), connection.environment):
        return None
    runner = status(app.folder).unit("runner")
    if runner is None or runner.state is not UnitState.READY:
        return None
    dataset = read_manifest(client, dataset_uri, DatasetManifest)
    if not dataset.can_be_judged_by("test") or evaluation_method_by(client, method.task, dataset) is None:
        return None
    flow = TrainingFlow(client, connection.prefect_api_url, method.name, connection.prefect_auth)
    return flow if flow.served() else None


def same_place(settings: Mapping[str, Any], stack: Mapping[str, str]) -> bool:
    """Return whether a command with these settings speaks to the services and the catalogue of a stack.

    Parameters
    ----------
    settings
        Settings by name, e.g. "catalog".
    stack
        The environment of the stack's clients, e.g. "PARFOCAL_CATALOG".
    """
    deciding = ("services", "catalog")
    return all(settings[name] == stack.get(f"PARFOCAL_{name.upper()}") for name in deciding)


def start_or_join(
    client: Client,
    flow: TrainingFlow | None,
    request: v1.StartJobRequest,
    parameters: Mapping[str, Any],
    *,
    again: bool,
) -> v1.Job:
    """Start a training, with its workflow if there is one, or return an identical one at work already unless `again`.

    One that has succeeded is at work as long as its flow run predicts or judges.
    """
    if flow is None:
        return _work.start_or_join(client, request, again=again)
    if not again:
        from parfocal import v1

        wanted = (v1.JOB_STATE_QUEUED, v1.JOB_STATE_RUNNING, v1.JOB_STATE_SUCCEEDED)
        for job in _work.same_work(client, request, wanted):
            if job.state != v1.JOB_STATE_SUCCEEDED or flow.goes_on(job):
                _work.say_joined(job)
                return job
    try:
        job = flow.start(request, parameters)
    except UnavailableError:
        # Prefect went away a moment ago; or a service did, which this call says again.
        job = client.start(request)
    say(f"Job {job.id}")
    return job


def doer(app: App, client: Client, flow: TrainingFlow | None, training: v1.Job) -> CommandDoer | FlowDoer:
    """Return who has the model of a training judged: its flow run if it has one that goes on, else the command."""
    spec = training.training
    evaluate = f"parfocal evaluate --model {spec.model} --dataset {versioned_name(spec.dataset_uri)}"
    alone = CommandDoer(
        app, client, again=False, afterwards=f"The model will not be judged until you ask for it: {evaluate}"
    )
    if flow is None or not flow.goes_on(training):
        return alone
    return FlowDoer(app, client, flow, training, alone)


class FlowDoer:
    """Follows what the flow run of a training does after it; what the run does not do any more is done `alone`."""

    def __init__(self, app: App, client: Client, flow: TrainingFlow, training: v1.Job, alone: CommandDoer) -> None:
        self._app, self._client, self._flow, self._training, self._alone = app, client, flow, training, alone
        self._left = True
        self.afterwards = (
            "Quality control follows, also without this command. Its verdict then: "
            f"parfocal models show {training.training.model}"
        )

    def do(self, request: v1.StartJobRequest, title: str) -> v1.Job:
        """Return the finished job of a request; end the command if it did not succeed."""
        try:
            job = self._wait(request) if self._left else None
        except KeyboardInterrupt:
            say(self.afterwards)
            if self._app.json:
                print_json({"job": _work.job_json(self._client.get(self._training.id))})
            raise click.exceptions.Exit(DETACHED) from None
        if job is None:
            self._left = False
            return self._alone.do(request, title)
        say(f"Job {job.id}")
        return _work.finish(self._app, self._client, job, title, afterwards=self.afterwards)

    def found(self, job: v1.Job, what: str) -> None:
        """Name a job that has been done before: the flow run was faster, unless it is an older one."""
        if job.labels == self._training.labels:
            say(f"Job {job.id}")
        else:
            self._alone.found(job, what)

    def _wait(self, request: v1.StartJobRequest) -> v1.Job | None:
        """Return the job of the flow run that does a request, as soon as there is one; None if none will come."""
        began = active = time.monotonic()
        told, pause = False, 0.1
        while True:
            # In this order: a run that has ended starts nothing more.
            state = self._flow.state(self._training)
            try:
                job = self._flow.job(self._training, STEPS[str(request.WhichOneof("spec"))])
            except UnavailableError:
                state = ""
            else:
                if job is not None:
                    return job
            now = time.monotonic()
            if state not in {"", "CRASHED"} and self._flow.served():
                active = now
            if state in ENDED or now - active > _PATIENCE_SECONDS:
                warn("The workflow of this training does not go on, so this command has the model judged.")
                return None
            if not told and now - began > _SILENT_SECONDS:
                told = True
                say("Waiting for the workflow of this training to go on (`parfocal status` shows its `runner`).")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
