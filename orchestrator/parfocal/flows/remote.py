"""The flow `train` from outside of Prefect: a command leaves a training to a flow run and looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from parfocal import v1
from parfocal.client import Client
from parfocal.flows._api import PrefectApi
from parfocal.flows._jobs import CREATOR_LABEL, FLOW_RUN_LABEL, STARTED_LABEL, Run
from parfocal.runtime.access.identity import UNVERIFIED
from parfocal.runtime.errors import NotFoundError, UnavailableError
from parfocal.runtime.store.names import versioned_name

#: States of a flow run that starts nothing more. A crashed one is none of them: the runner takes it up again.
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
# A runner asks for work every three seconds, but on a busy machine the server was seen to note it a minute late.
_POLLED_WITHIN = timedelta(minutes=2)
# Longer than a service may take to admit a job.
_HELD_BACK = timedelta(minutes=5)


class TrainingFlow:
    """The deployment `train/METHOD` of a stack.

    A training that was started here is an ordinary job; the flow run it belongs to stands in its labels.

    Parameters
    ----------
    client
        Speaks to the same services and catalogue, and works in the same project, as the flow runs shall.
    api_url
        Of the Prefect server, ending in "/api".
    method
        What to train with.
    auth
        User and password of the Prefect server, "user:password"; empty: it asks for none.
    """

    def __init__(self, client: Client, api_url: str, method: str, auth: str = "") -> None:
        self._client, self._method = client, method
        self._api = PrefectApi(api_url, auth)
        self._path = f"/deployments/name/train/{method}"

    def served(self) -> bool:
        """Return whether there is the deployment, and a runner that has asked for runs of it in the last minutes."""
        try:
            return just_polled(self._call("GET", self._path), datetime.now(UTC))
        except UnavailableError:
            return False

    def start(self, request: v1.StartJobRequest, parameters: Mapping[str, Any]) -> v1.Job:
        """Start a training for which a new flow run does the rest; return the job.

        The job is started from here, not by the run, so that what is wrong with it is said at once by the service.

        Parameters
        ----------
        request
            The training; it gets the request id and the label of the flow run.
        parameters
            Those of the request as plain values: Prefect's page shows them.

        Raises
        ------
        UnavailableError
            Prefect does not answer, and nothing has been started; or no service does.
        ParfocalError
            As `Client.start`. No flow run is left behind.
        """
        spec = request.training
        values = {
            "dataset": versioned_name(spec.dataset_uri),
            "model": spec.model,
            "method": self._method,
            "parameters": dict(parameters),
            "project": self._client.project,
            "initial_model": versioned_name(spec.initial_model_uri) if spec.initial_model_uri else "",
            "initial_weights": spec.initial_weights_name,
        }
        deployment = self._call("GET", self._path)["id"]
        later = (datetime.now(UTC) + _HELD_BACK).isoformat()
        body = {
            "parameters": values,
            # The choices of the form may be some seconds old; the service checks all of it.
            "enforce_parameter_schema": False,
            "labels": {STARTED_LABEL: True},
            "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": later}},
        }
        run = Run(str(self._call("POST", f"/deployments/{deployment}/create_flow_run", body)["id"]))
        mine = v1.StartJobRequest(request_id=run.request_id("train"), labels=run.labels, project=request.project)
        mine.training.CopyFrom(spec)
        try:
            job = self._client.start(mine)
        except BaseException:
            self._quietly("DELETE", f"/flow_runs/{run.id}")
            raise
        if job.created_by != UNVERIFIED.name:
            self._quietly("PATCH", f"/flow_runs/{run.id}/labels", {CREATOR_LABEL: job.created_by})
        self._quietly("POST", f"/flow_runs/{run.id}/set_state", {"state": {"type": "SCHEDULED"}, "force": True})
        return job

    def state(self, training: v1.Job) -> str:
        """Return the type of state of a training's flow run, e.g. "RUNNING"; empty if there is none or no answer."""
        run = training.labels.get(FLOW_RUN_LABEL)
        if not run:
            return ""
        try:
            return str(self._call("GET", f"/flow_runs/{run}")["state_type"] or "")
        except UnavailableError:
            return ""

    def goes_on(self, training: v1.Job) -> bool:
        """Return whether a flow run follows this training and has not ended."""
        return self.state(training) not in {"", "CRASHED", *ENDED}

    def job(self, training: v1.Job, step: str) -> v1.Job | None:
        """Return the newest job of a later step of a training's flow run; None while there is none."""
        run = Run(training.labels[FLOW_RUN_LABEL])
        found, number = None, 1
        while True:
            try:
                found = self._client.get(run.request_id(step, number))
            except NotFoundError:
                return found
            number += 1

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            return self._api.call(method, path, body)
        except NotFoundError as error:  # the runner has not registered it, or somebody deleted the run
            raise UnavailableError(error.message) from error

    def _quietly(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Call without minding the answer: a run that could not be reached begins late, and ends if it has no job."""
        try:
            self._call(method, path, body)
        except UnavailableError:
            return


def just_polled(deployment: Mapping[str, Any], now: datetime) -> bool:
    """Return whether a runner has asked for runs of a deployment, as Prefect describes it, in the last minutes."""
    polled = deployment.get("last_polled")
    return bool(polled) and now - datetime.fromisoformat(str(polled)) < _POLLED_WITHIN
