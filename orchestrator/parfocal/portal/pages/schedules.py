"""Scheduled prediction: a model is applied to whatever is new in an inbox, again and again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import available_timezones

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from parfocal.client import Client
from parfocal.client.models import list_models
from parfocal.client.steps import PlannedStep, plan_steps
from parfocal.flows.schedules import (
    Schedule,
    ScheduledRun,
    Schedules,
    create_recorded,
    start_once,
    taken_of,
    taken_words,
)
from parfocal.portal.guard import require_work
from parfocal.portal.portal import ClientHere, Portal, PortalHere, RightsHere, go, page
from parfocal.runtime.access.identity import UNVERIFIED
from parfocal.runtime.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    PermissionDeniedError,
    Violation,
    refusal,
)
from parfocal.runtime.images.taken import Taken
from parfocal.runtime.store.names import is_name

router = APIRouter(prefix="/p/{project}/schedules")
_EVERY: Final = {"15": "15 minutes", "60": "hour", "240": "4 hours", "1440": "day", "cron": "At times of my own"}
_RUNS: Final = 10
_LONGEST_FOLDER: Final = 200
_LONGEST_CHANNEL: Final = 100
# A run's state in Prefect: how it looks, and how people say it.
_STATES: Final = {
    "COMPLETED": ("passed", "Finished"),
    "FAILED": ("failed", "Failed"),
    "CRASHED": ("failed", "Interrupted"),
    "CANCELLED": ("cancelled", "Cancelled"),
    "CANCELLING": ("running", "Stopping"),
    "RUNNING": ("running", "Running"),
    "PENDING": ("queued", "Waiting"),
    "SCHEDULED": ("queued", "Waiting"),
    "PAUSED": ("cancelled", "Paused"),
}


@dataclass(frozen=True)
class Shown:
    """A schedule as the pages show it.

    Attributes
    ----------
    schedule
        As the workflows have it.
    name
        Without its project.
    images
        Inbox and folder in it whose images are predicted.
    folder
        Folder of the project's results that gets the predictions.
    when
        In words.
    """

    schedule: Schedule
    name: str
    images: str
    folder: str
    when: str

    @property
    def model(self) -> str:
        """Model and version."""
        return str(self.schedule.parameters.get("model", ""))


@router.get("")
def schedules(request: Request, client: ClientHere, portal: PortalHere, started: bool = False) -> Response:
    """List the schedules of a project with their last runs, and its inboxes."""
    found: list[tuple[Shown, list[dict[str, Any]]]] = []
    inboxes: list[tuple[str, str]] = []
    problem = ""
    try:
        inboxes = _inboxes(client)
        source = portal.schedules()
        found = [(each, _runs(source, each, 1)) for each in _of_project(portal, client.project)]
    except ParfocalError as error:
        problem = error.message
    return page(request, "schedules.html", schedules=found, problem=problem, inboxes=inboxes, started=started)


@router.get("/new", dependencies=[Depends(require_work)])
def new(request: Request, client: ClientHere, model: str = "", inbox: str = "") -> Response:
    """Show the form of a new schedule."""
    return page(request, "schedule_new.html", **_form(client, {"model": model, "inbox": inbox}))


@router.post("")
async def create(request: Request, client: ClientHere, portal: PortalHere) -> Response:
    """Make a schedule, or apply a model to what is new now; what is refused comes back as it was sent."""
    sent = {name: str(value).strip() for name, value in (await request.form()).items()}
    return await run_in_threadpool(_create, request, client, portal, sent)


@router.get("/{name}")
def schedule(request: Request, client: ClientHere, portal: PortalHere, rights: RightsHere, name: str) -> Response:
    """Show a schedule and its last runs."""
    shown = _find(portal, client.project, name)
    runs = _runs(portal.schedules(), shown, _RUNS)
    made_by, refusal = _recorded(client, shown)
    return page(
        request,
        "schedule.html",
        each=shown,
        runs=runs,
        busy=any(run["look"] in {"running", "queued"} for run in runs),
        made_by="" if made_by == UNVERIFIED.name else made_by,
        refusal=refusal,
        may_change=rights.change(made_by) or (rights.work and not made_by),
        taken=_taken(client, shown),
    )


@router.post("/{name}/{act}")
def change(
    request: Request, client: ClientHere, portal: PortalHere, rights: RightsHere, name: str, act: str
) -> Response:
    """Pause a schedule, let it go on, run it now, or delete it."""
    shown = _find(portal, client.project, name)
    made_by, _ = _recorded(client, shown)
    if made_by and not rights.change(made_by):
        raise PermissionDeniedError(
            f"The schedule {name} was made by {made_by}. Users of the project {client.project!r} may change only what "
            "they have made themselves; ask them, or an operator."
        )
    known = portal.schedules()
    match act:
        case "pause" | "resume":
            known.set_active(shown.schedule.name, active=act == "resume")
        case "run":
            known.run_now(shown.schedule.name)
        case "delete":
            with suppress(NotFoundError):
                client.catalog.delete_schedule(shown.schedule.name)
            known.delete(shown.schedule.name)
            return go(request, "/schedules")
        case _:
            raise NotFoundError("There is no such page.")
    return go(request, f"/schedules/{name}")


def _create(request: Request, client: Client, portal: Portal, sent: Mapping[str, str]) -> Response:
    once = sent.get("once") == "yes"
    try:
        wanted = _wanted(client, portal, sent, once=once)
        known, steps, images, output = portal.schedules(), wanted.steps, wanted.images, wanted.output
        try:
            if once:
                start_once(client, known, steps, images, output, taken=wanted.taken)
                return go(request, "/schedules?started=yes")
            name = _stored(portal, client.project, sent["name"])
            create_recorded(client, known, name, steps, images, output, taken=wanted.taken, **wanted.when)
        except AlreadyExistsError as error:
            # Its own words name the schedules of others.
            raise _refused("name", f"There is something called {sent['name']} already. Choose another name.") from error
        except InvalidInputError as error:
            if any(violation.field == "output_uri" for violation in error.violations):
                raise _refused("folder", error.message) from error
            raise
    except ParfocalError as error:
        return page(request, "schedule_new.html", 422, **{**_form(client, sent), "error": error})
    return go(request, f"/schedules/{sent['name']}")


@dataclass(frozen=True)
class _Wanted:
    """What a form asks for: the model, where the images are and what is taken of them, where results go, and when."""

    steps: Sequence[PlannedStep]
    images: str
    output: str
    taken: Taken
    when: Mapping[str, Any]


def _wanted(client: Client, portal: Portal, sent: Mapping[str, str], *, once: bool) -> _Wanted:
    """Return what is to be predicted, with what and when; raise InvalidInputError naming the field that is wrong."""
    problems = []
    name, model = sent.get("name", ""), sent.get("model", "")
    folder = sent.get("folder", "") or name
    if not once and not is_name(name):
        problems.append(Violation("name", "Give the schedule a name of letters, digits, '.', '_' or '-'."))
    if not model:
        problems.append(Violation("model", "Choose the model to apply."))
    source = dict(_inboxes(client)).get(sent.get("inbox", ""))
    if source is None:
        problems.append(Violation("inbox", "Choose the inbox that gets the images."))
    below = sent.get("below", "").strip("/")
    if len(below) > _LONGEST_FOLDER or not re.fullmatch(r"(?:(?!\.{1,2}(?:/|$))[^/\\\x00-\x1f]+(?:/|$))*", below):
        problems.append(Violation("below", "This cannot be a folder in an inbox: name it as microscope/plates."))
    # A name that cannot be used is said once.
    if not is_name(folder) and (once or folder != name):
        problems.append(Violation("folder", "Name a folder for the predictions: letters, digits, '.', '_' or '-'."))
    when: dict[str, Any] = {}
    every = sent.get("every", "")
    if not once:
        if every not in _EVERY:
            problems.append(Violation("every", "Choose how often."))
        elif every == "cron":
            when = {"cron": sent.get("cron", ""), "timezone": sent.get("timezone", "") or "UTC"}
            problems += _cron_problems(when["cron"], when["timezone"])
        else:
            when = {"every_seconds": 60.0 * int(every)}
    if problems:
        raise refusal("This cannot be scheduled yet:", problems)
    assert source is not None
    steps = plan_steps(client, (model,), ())
    images = f"{source.rstrip('/')}/{below}" if below else source.rstrip("/")
    output = f"s3://{portal.settings.bucket_results}/{client.project}/{folder}"
    channel = sent.get("channel", "")[:_LONGEST_CHANNEL]
    return _Wanted(steps, images, output, Taken((channel,) if channel else ()), when)


def _cron_problems(cron: str, timezone: str) -> list[Violation]:
    problems = []
    fields = cron.split()
    if len(fields) != 5 or not all(re.fullmatch(r"[\d*,/A-Za-z-]+", field) for field in fields):
        text = "Write minute, hour, day, month and day of the week, for example 0 7 * * 1-5 for weekdays at seven."
        problems.append(Violation("cron", text))
    if timezone not in available_timezones():
        problems.append(Violation("timezone", f"{timezone!r} is no time zone: write for example Europe/Lisbon."))
    return problems


def _form(client: Client, sent: Mapping[str, str]) -> dict[str, Any]:
    inboxes = _inboxes(client)
    local = datetime.now().astimezone().tzinfo
    return {
        "models": list_models(client, shared=True),
        "inboxes": inboxes,
        "every": _EVERY,
        "sent": {
            "every": "15",
            "inbox": inboxes[0][0] if len(inboxes) == 1 else "",
            "timezone": str(getattr(local, "key", "UTC")),
            **{name: value for name, value in sent.items() if value},
        },
    }


def _inboxes(client: Client) -> list[tuple[str, str]]:
    """Return name and address of the inboxes of a project: those that operators opened or `parfocal ingest` fills."""
    return [(inbox.name, inbox.uri) for inbox in client.catalog.inboxes()]


def _of_project(portal: Portal, project: str) -> list[Shown]:
    return [_shown(portal, each) for each in portal.schedules().every() if each.project == project]


def _find(portal: Portal, project: str, name: str) -> Shown:
    for each in _of_project(portal, project):
        if each.name == name:
            return each
    raise NotFoundError(f"There is no schedule named {name!r} in this project.")


def _recorded(client: Client, shown: Shown) -> tuple[str, str]:
    """Return who has made a schedule, and why it may no longer run, as the catalogue says; "" where nothing is known.

    What stands in the workflows does not count: whoever has their password can change it.
    """
    try:
        checked = client.catalog.check_schedule(shown.schedule.name)
    except NotFoundError:
        return "", ""
    return checked.schedule.created_by, checked.refusal


def _taken(client: Client, shown: Shown) -> str:
    """Return what a schedule takes of each image, in words; "" where that is all, or its model is gone."""
    try:
        return taken_words(client, client.model_uri(shown.model), taken_of(shown.schedule.parameters))
    except ParfocalError:
        return ""


def _stored(portal: Portal, project: str, name: str) -> str:
    """Return what a schedule is called in the workflows, where names of all projects stand side by side."""
    return name if portal.gate.is_open else f"{project}.{name}"


def _shown(portal: Portal, each: Schedule) -> Shown:
    parameters = each.parameters
    results = f"s3://{portal.settings.bucket_results}/{each.project}/"
    name = each.name if portal.gate.is_open else each.name.removeprefix(f"{each.project}.")
    images = str(parameters.get("source", "")).removeprefix("s3://")
    return Shown(each, name, images, str(parameters.get("output", "")).removeprefix(results), _when(each.when))


def _when(text: str) -> str:
    """Return the interval of a schedule in words."""
    match = re.fullmatch(r"every (\d+) min", text)
    if match:
        return f"every {_EVERY[match[1]]}" if match[1] in _EVERY else text
    return re.sub(r"^cron ", "at ", text)


def _runs(known: Schedules, each: Shown, limit: int) -> list[dict[str, Any]]:
    return [_run(run) for run in known.runs(each.schedule.name, limit)]


def _run(run: ScheduledRun) -> dict[str, Any]:
    look, word = _STATES.get(run.state, ("unknown", "Unknown"))
    time = None
    if run.time:
        time = datetime.fromisoformat(run.time)
    return {"look": look, "word": word, "message": run.message, "time": time}


def _refused(field: str, text: str) -> InvalidInputError:
    return InvalidInputError(text, [Violation(field, text)])
