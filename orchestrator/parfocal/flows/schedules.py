"""Scheduled prediction: each schedule is a deployment of the flow `predict-new` in Prefect, as commands see them.

Model, images and results are the deployment's own parameters, because Prefect forgets those of a schedule when somebody
switches it off and on. The flow runner serves what it finds (`parfocal.flows.deployments`) and changes no schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from parfocal import v1
from parfocal.flows._api import PrefectApi
from parfocal.flows._jobs import CREATOR_LABEL
from parfocal.flows.batch import Batch, Step
from parfocal.runtime.access.identity import UNVERIFIED
from parfocal.runtime.errors import AlreadyExistsError, NotFoundError
from parfocal.runtime.images.taken import EVERYTHING, Taken, parse_range
from parfocal.runtime.store.confinement import check_folders
from parfocal.runtime.store.names import check_name
from parfocal.runtime.store.store import Location

if TYPE_CHECKING:
    from parfocal.client import Client
    from parfocal.client.steps import PlannedStep

FLOW: Final = "predict-new"
TAG: Final = "parfocal-schedule"
"""Marks the deployments that are schedules."""
_METHOD = "method:"
_PAGE = 200


@dataclass(frozen=True)
class Schedule:
    """A schedule.

    Attributes
    ----------
    name
        Unique among all schedules and methods.
    method
        Of the model.
    parameters
        What the flow `predict-new` is given: model, source, output and so on.
    when
        "every 15 min", or "cron EXPRESSION (TIME ZONE)".
    active
        Whether it is not paused.
    deployment, ids
        Of the deployment in Prefect, and of its schedules: people may have added some on Prefect's page.
    """

    name: str
    method: str
    parameters: Mapping[str, Any]
    when: str
    active: bool
    deployment: str
    ids: tuple[str, ...]

    @property
    def project(self) -> str:
        """The project that it belongs to."""
        return str(self.parameters.get("project", ""))


#: States of a flow run that starts nothing more. A crashed one is none of them: the runner takes it up again.
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED"})


@dataclass(frozen=True)
class ScheduledRun:
    """A run: its state, e.g. "COMPLETED", what it said at the end, and when it began or will begin (ISO 8601)."""

    state: str
    message: str
    time: str


class Schedules:
    """The schedules at a Prefect server."""

    def __init__(self, api: PrefectApi) -> None:
        self._call = api.call

    def create(
        self,
        name: str,
        method: str,
        parameters: Mapping[str, Any],
        *,
        every_seconds: float | None = None,
        cron: str = "",
        timezone: str = "UTC",
    ) -> Schedule:
        """Create a schedule and return it.

        Parameters
        ----------
        every_seconds, cron
            One of both: the interval, or a cron expression in `timezone`.

        Raises
        ------
        AlreadyExistsError
            There is one of this name.
        NotFoundError
            The flow runner does not serve the method.
        """
        check_name("schedule", name)
        when: dict[str, Any] = {"cron": cron, "timezone": timezone} if cron else {"interval": every_seconds}
        model = self._deployment(method)
        self.check_free(name)
        same = ("flow_id", "entrypoint", "path", "pull_steps", "parameter_openapi_schema", "description")
        # The model may be newer than the choices of the form; the flow looks for it.
        schema = model["parameter_openapi_schema"]
        schema["properties"]["model"].pop("enum", None)
        if allowed := schema.get("propertyNames"):
            allowed["enum"] = [*dict.fromkeys([*allowed["enum"], *parameters])]
        body = {key: model[key] for key in same} | {
            "name": name,
            "parameters": {**model["parameters"], **parameters},
            "enforce_parameter_schema": True,
            "tags": [*model["tags"], TAG, f"{_METHOD}{method}"],
            "schedules": [{"schedule": when, "active": True, "slug": name}],
        }
        self._call("POST", "/deployments/", body)
        return self.get(name)

    def check_free(self, name: str) -> None:
        """Raise AlreadyExistsError where there is a schedule, or a method, of this name."""
        if any(name == deployment["name"] for deployment in self._deployments({"flows": {"name": {"any_": [FLOW]}}})):
            raise AlreadyExistsError(
                f"There is a schedule or a method named {name!r} already. Choose another name, or delete the schedule "
                f"first: parfocal schedule delete {name}"
            )

    def start(self, method: str, parameters: Mapping[str, Any], creator: str = "") -> str:
        """Start a run without a schedule for a person, and return its id; else as `create`."""
        # The choices of the form may be some seconds old; the flow checks all of it.
        body = {"parameters": dict(parameters), "enforce_parameter_schema": False, "state": {"type": "SCHEDULED"}}
        body |= {"labels": {CREATOR_LABEL: creator}} if creator else {}
        deployment = self._deployment(method)["id"]
        return str(self._call("POST", f"/deployments/{deployment}/create_flow_run", body)["id"])

    def state(self, run: str) -> tuple[str, str]:
        """Return the type of state of a run, e.g. "RUNNING", and what it said."""
        state = self._call("GET", f"/flow_runs/{run}")["state"]
        return str(state["type"]), str(state["message"] or "")

    def _deployment(self, method: str) -> Any:
        """Return the deployment of the flow for a method, as Prefect describes it."""
        try:
            return self._call("GET", f"/deployments/name/{FLOW}/{method}")
        except NotFoundError as error:
            raise NotFoundError(
                f"The flow runner does not serve predictions with {method}. Look whether it runs: parfocal status"
            ) from error

    def every(self) -> list[Schedule]:
        """Return all schedules by name."""
        found = [_schedule(each) for each in self._deployments({"deployments": {"tags": {"all_": [TAG]}}})]
        return sorted(found, key=lambda each: each.name)

    def _deployments(self, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._call("POST", "/deployments/filter", {**wanted, "limit": _PAGE, "offset": len(found)})
            found += page
            if len(page) < _PAGE:
                return found

    def get(self, name: str) -> Schedule:
        """Return a schedule; raise NotFoundError naming those that there are."""
        known = self.every()
        for each in known:
            if each.name == name:
                return each
        names = ", ".join(each.name for each in known) or "none yet"
        raise NotFoundError(f"There is no schedule named {name!r} (there: {names}).")

    def set_active(self, name: str, *, active: bool) -> None:
        """Pause a schedule or let it go on."""
        each = self.get(name)
        for identifier in each.ids:
            self._call("PATCH", f"/deployments/{each.deployment}/schedules/{identifier}", {"active": active})

    def delete(self, name: str) -> None:
        """Delete a schedule; what its runs made stays."""
        each = self.get(name)
        self._call("DELETE", f"/deployments/{each.deployment}")

    def run_now(self, name: str) -> str:
        """Start a run at once, and return its id."""
        each = self.get(name)
        body = {"state": {"type": "SCHEDULED"}}
        return str(self._call("POST", f"/deployments/{each.deployment}/create_flow_run", body)["id"])

    def runs(self, name: str, limit: int = 5) -> list[ScheduledRun]:
        """Return the newest runs, whoever started them, newest first."""
        each = self.get(name)
        body = {
            "deployments": {"id": {"any_": [each.deployment]}},
            "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": limit,
        }
        return [
            ScheduledRun(
                str(run["state_type"] or ""),
                str((run["state"] or {}).get("message") or ""),
                str(run["start_time"] or run["expected_start_time"] or ""),
            )
            for run in self._call("POST", "/flow_runs/filter", body)
        ]


def create_recorded(
    client: Client,
    schedules: Schedules,
    name: str,
    steps: Sequence[PlannedStep],
    source: str,
    output: str,
    *,
    taken: Taken = EVERYTHING,
    options: Mapping[str, Any] | None = None,
    **when: Any,
) -> Schedule:
    """Create a schedule in the caller's name: its record in the catalogue first, which says what it may do.

    Parameters
    ----------
    name
        Unique among all schedules and methods.
    steps
        Models that are applied one after the other.
    source, output
        Folders in the store, "s3://…".
    taken
        What is taken of each image; see `Batch`.
    options
        Further parameters of the flow `predict-new`.
    **when
        `every_seconds`, or `cron` with `timezone`, as of `Schedules.create`.

    Raises
    ------
    AlreadyExistsError
        There is one of this name.
    ParfocalError
        Catalogue or Prefect refuse; nothing is left behind.
    """
    given = {**flow_parameters(steps, source, output, client.project, taken), "schedule": name, **(options or {})}
    schedules.check_free(name)
    record = v1.Schedule(name=name, source_uri=source, output_uri=output, steps=[step.message for step in steps])
    if taken:
        record.taken.CopyFrom(taken.message)
    client.catalog.create_schedule(record)
    try:
        return schedules.create(name, steps[0].method.name, given, **when)
    except BaseException:
        client.catalog.delete_schedule(name)
        raise


def start_once(
    client: Client,
    schedules: Schedules,
    steps: Sequence[PlannedStep],
    source: str,
    output: str,
    *,
    taken: Taken = EVERYTHING,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Start a run for the caller without a schedule, and return its id; parameters and errors as `create_recorded`."""
    options = options or {}
    check_folders(Location.parse(source), Location.parse(output))
    planned = [Step(step.model.uri, step.parameters) for step in steps]
    batch = Batch(Location.parse(source), Location.parse(output), planned, bool(options.get("keep_steps")), taken)
    # What is wrong with the folders is said at once, and the run gets to know for whom it is done.
    caller = client.catalog.open_batch(batch.key, source, output).caller
    given = {**flow_parameters(steps, source, output, client.project, taken), **options}
    return schedules.start(steps[0].method.name, given, "" if caller == UNVERIFIED.name else caller)


def flow_parameters(
    steps: Sequence[PlannedStep], source: str, output: str, project: str, taken: Taken = EVERYTHING
) -> dict[str, Any]:
    """Return what the flow `predict-new` is given to apply models to the new images of a folder."""
    first, *further = steps
    given: dict[str, Any] = {"model": first.name, "source": source, "output": output, "project": project}
    if first.parameters:
        given["parameters"] = first.parameters
    if further:
        given["then"] = [{"model": step.name, "parameters": step.parameters} for step in further]
    if taken.channels:
        given["channels"] = list(taken.channels)
    spans = {"planes": taken.planes, "frames": taken.frames}
    return given | {name: f"{span[0]}-{span[1]}" for name, span in spans.items() if span is not None}


def taken_of(parameters: Mapping[str, Any]) -> Taken:
    """Return what the flow `predict-new` is asked to take of each image; the opposite of `flow_parameters`.

    Raises
    ------
    InvalidInputError
        Planes or frames are no range.
    """
    planes, frames = (parse_range(str(parameters.get(name) or "").strip(), name) for name in ("planes", "frames"))
    return Taken(tuple(parameters.get("channels") or ()), planes, frames)


def taken_words(client: Client, model_uri: str, taken: Taken) -> str:
    """Return what is taken of each image, in words: what somebody chose, or what the training of the model took.

    "" where all is taken.

    Raises
    ------
    NotFoundError
        There is no such model.
    UnavailableError
        The catalogue does not answer.
    """
    # Imported late: the flow runner looks at schedules without it.
    from parfocal.client.published import read_manifest
    from parfocal.client.results import taken_in_batches
    from parfocal.runtime.store.manifests import ModelManifest

    if taken:
        return taken.words
    model = read_manifest(client, model_uri, ModelManifest)
    trained = taken_in_batches(client, model)
    return f"{trained.titled.words}, as for the training" if trained else ""


def models_of(parameters: Mapping[str, Any]) -> list[str]:
    """Return the models in what the flow `predict-new` is given, in order."""
    return [str(each.get("model", "")) for each in (parameters, *(parameters.get("then") or []))]


def method_of(tags: Sequence[str]) -> str:
    """Return the method of a schedule by the tags of its deployment; "" where nobody noted it."""
    return next((tag.removeprefix(_METHOD) for tag in tags if tag.startswith(_METHOD)), "")


def _schedule(deployment: Mapping[str, Any]) -> Schedule:
    schedules = deployment["schedules"]
    return Schedule(
        name=deployment["name"],
        method=method_of(deployment["tags"]),
        parameters=deployment["parameters"],
        when=", ".join(_when(each["schedule"]) for each in schedules) or "never",
        active=any(each["active"] for each in schedules),
        deployment=deployment["id"],
        ids=tuple(each["id"] for each in schedules),
    )


def _when(schedule: Mapping[str, Any]) -> str:
    if "cron" in schedule:
        return f"cron {schedule['cron']} ({schedule.get('timezone') or 'UTC'})"
    if "interval" in schedule:
        return f"every {float(schedule['interval']) / 60:g} min"
    return str(schedule.get("rrule", schedule))  # made on Prefect's page
