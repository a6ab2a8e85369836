"""Scheduled prediction: schedules of the deployments `predict-new/METHOD` in Prefect, as commands see them.

Prefect keeps them; the flow runner registers its deployments anew without touching them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from parfocal.flows._api import PrefectApi
from parfocal.runtime.errors import AlreadyExistsError, NotFoundError
from parfocal.runtime.store.names import check_name

_FLOW: Final = "predict-new"
_PAGE = 200


@dataclass(frozen=True)
class Schedule:
    """A schedule.

    Attributes
    ----------
    name
        Unique among all schedules.
    method
        Of the model.
    parameters
        What the flow `predict-new` is given: model, source, output and so on.
    when
        "every 15 min", or "cron EXPRESSION (TIME ZONE)".
    active
        Whether it is not paused.
    """

    name: str
    method: str
    parameters: Mapping[str, Any]
    when: str
    active: bool
    deployment: str
    id: str


@dataclass(frozen=True)
class ScheduledRun:
    """A run: its state, e.g. "COMPLETED", what it said at the end, and when it began or will begin (ISO 8601)."""

    state: str
    message: str
    time: str


class Schedules:
    """The schedules at the Prefect server at `url`, which ends in "/api"."""

    def __init__(self, url: str) -> None:
        self._call = PrefectApi(url).call

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
        if any(each.name == name for each in self.list()):
            raise AlreadyExistsError(
                f"There is a schedule named {name!r} already. Choose another name, or delete it first: "
                f"parfocal schedule delete {name}"
            )
        when: dict[str, Any] = {"cron": cron, "timezone": timezone} if cron else {"interval": every_seconds}
        try:
            deployment = self._call("GET", f"/deployments/name/{_FLOW}/{method}")
        except NotFoundError as error:
            raise NotFoundError(
                f"The flow runner does not serve predictions with {method}. Look whether it runs: parfocal status"
            ) from error
        body = {"schedule": when, "active": True, "slug": name, "parameters": dict(parameters)}
        self._call("POST", f"/deployments/{deployment['id']}/schedules", [body])
        return self.get(name)

    def list(self) -> list[Schedule]:
        """Return all schedules by name."""
        found: list[Schedule] = []
        offset = 0
        while True:
            body = {"flows": {"name": {"any_": [_FLOW]}}, "limit": _PAGE, "offset": offset}
            page = self._call("POST", "/deployments/filter", body)
            for deployment in page:
                found += [_schedule(deployment, each) for each in deployment["schedules"]]
            if len(page) < _PAGE:
                return sorted(found, key=lambda each: each.name)
            offset += _PAGE

    def get(self, name: str) -> Schedule:
        """Return a schedule; raise NotFoundError naming those that there are."""
        known = self.list()
        for each in known:
            if each.name == name:
                return each
        names = ", ".join(each.name for each in known) or "none yet"
        raise NotFoundError(f"There is no schedule named {name!r} (there: {names}).")

    def set_active(self, name: str, *, active: bool) -> None:
        """Pause a schedule or let it go on."""
        each = self.get(name)
        self._call("PATCH", f"/deployments/{each.deployment}/schedules/{each.id}", {"active": active})

    def delete(self, name: str) -> None:
        """Delete a schedule; what its runs made stays."""
        each = self.get(name)
        self._call("DELETE", f"/deployments/{each.deployment}/schedules/{each.id}")

    def run_now(self, name: str) -> str:
        """Start a run at once, and return its id."""
        each = self.get(name)
        body = {"parameters": dict(each.parameters), "state": {"type": "SCHEDULED"}}
        return str(self._call("POST", f"/deployments/{each.deployment}/create_flow_run", body)["id"])

    def runs(self, name: str, limit: int = 5) -> list[ScheduledRun]:
        """Return the newest runs with the schedule's images and results, whoever started them, newest first."""
        each = self.get(name)
        body = {
            "deployments": {"id": {"any_": [each.deployment]}},
            "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": _PAGE,
        }
        mine = [
            run
            for run in self._call("POST", "/flow_runs/filter", body)
            if all(run["parameters"].get(key) == each.parameters.get(key) for key in ("model", "source", "output"))
        ]
        return [
            ScheduledRun(
                str(run["state_type"] or ""),
                str((run["state"] or {}).get("message") or ""),
                str(run["start_time"] or run["expected_start_time"] or ""),
            )
            for run in mine[:limit]
        ]


def _schedule(deployment: Mapping[str, Any], schedule: Mapping[str, Any]) -> Schedule:
    when = schedule["schedule"]
    if "cron" in when:
        text = f"cron {when['cron']} ({when.get('timezone') or 'UTC'})"
    elif "interval" in when:
        text = f"every {float(when['interval']) / 60:g} min"
    else:  # made on Prefect's page
        text = str(when.get("rrule", when))
    return Schedule(
        name=schedule["slug"] or schedule["id"],
        method=deployment["name"],
        parameters={**deployment["parameters"], **schedule["parameters"]},
        when=text,
        active=bool(schedule["active"]),
        deployment=deployment["id"],
        id=schedule["id"],
    )
