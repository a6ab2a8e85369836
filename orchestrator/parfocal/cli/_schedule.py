"""`parfocal schedule …`: prediction of whatever is new in a folder, again and again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import Group, current_app
from parfocal.cli._parts import TAKEN, part_of, with_options
from parfocal.cli._predict import KEEP_STEPS, THEN, UNLIKE, say_taken, say_verdict
from parfocal.cli._train import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from parfocal.client import Client
    from parfocal.flows.schedules import Schedule, Schedules

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SHORTEST_SECONDS = 60


@click.group(cls=Group, short_help="Predict new images of a folder again and again.")
def schedule() -> None:
    """Scheduled prediction: apply a model to whatever is new in a folder of the store.

    Each image is predicted once; one that is still being written, or that failed, is left to a later run.
    """


@schedule.command("create")
@click.argument("name")
@click.option("--model", required=True, metavar="NAME[:VERSION]", help="The model to apply; this version from now on.")
@THEN
@click.option("--watch", required=True, metavar="S3://…", help="Folder in the store that gets the images.")
@click.option("--output", required=True, metavar="S3://…", help="Folder in the store that gets the results.")
@click.option("--every", default="", metavar="TIME", help="How often: for example 15m, 2h or 1d.")
@click.option("--cron", default="", metavar="EXPRESSION", help='Instead of --every: for example "0 7 * * 1-5".')
@click.option("--timezone", default="UTC", show_default=True, metavar="ZONE", help="Of --cron, e.g. Europe/Lisbon.")
@PARAMETERS
@with_options(*TAKEN)
@KEEP_STEPS
@UNLIKE
def create(
    name: str,
    model: str,
    then: tuple[str, ...],
    watch: str,
    output: str,
    every: str,
    cron: str,
    timezone: str,
    parameters: tuple[str, ...],
    channels: tuple[str, ...],
    planes: str,
    frames: str,
    keep_steps: bool,
    unlike: str,
) -> None:
    """Create the schedule NAME.

    Its jobs are yours. It may apply these models to this folder and write to that one, nothing else, and pauses when
    you are no longer a user of the project.

    Of composites it takes the channel that was taken of the files that the model was trained on, or the one that you
    choose (--channel). Images without channels are taken whole.
    """
    app = current_app()
    from parfocal.cli._render import print_json, say
    from parfocal.client.steps import plan_steps
    from parfocal.flows.schedules import create_recorded
    from parfocal.runtime.errors import InvalidInputError
    from parfocal.runtime.store.confinement import check_folders
    from parfocal.runtime.store.store import Location

    if bool(every) == bool(cron):
        raise InvalidInputError("Say how often: either --every, for example --every 15m, or --cron.")
    seconds = interval(every) if every else None
    check_folders(Location.parse(watch), Location.parse(output))
    taken = part_of("", channels, planes, frames, ()).taken
    schedules = _schedules()
    with app.client() as client:
        steps = plan_steps(client, (model, *then), parameters)
        options = {"keep_steps": keep_steps, "unlike": unlike}
        when = {"every_seconds": seconds, "cron": cron, "timezone": timezone}
        made = create_recorded(client, schedules, name, steps, watch, output, taken=taken, options=options, **when)
        if not app.json:
            say_taken(client, steps, taken)
    if app.json:
        print_json(_as_json(made))
        return
    for step in steps:
        say_verdict(step.model)
    say(f"The schedule {name} predicts new images of {watch} with {_models(made)}, {made.when}.")
    say(f"  now:    parfocal schedule run {name}")
    say(f"  look:   parfocal schedule show {name}")


@schedule.command("list")
def list_() -> None:
    """List all schedules."""
    app = current_app()
    from parfocal.cli._render import print_json, print_table, say

    found = _schedules().every()
    if app.json:
        print_json([_as_json(each) for each in found])
        return
    if not found:
        say("There is no schedule yet. `parfocal schedule create --help` says how to make one.")
        return
    rows = [(each.name, _models(each), str(each.parameters.get("source", "")), _state(each)) for each in found]
    print_table(("Schedule", "Model", "Images", "When"), rows)


@schedule.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show a schedule and its last runs."""
    app = current_app()
    from parfocal.cli._render import print_fields, print_json, print_table, say

    schedules = _schedules()
    each, runs = schedules.get(name), schedules.runs(name)
    if app.json:
        rows = [{"state": run.state.lower(), "message": run.message, "time": run.time} for run in runs]
        print_json({**_as_json(each), "runs": rows})
        return
    parameters = each.parameters
    with app.client() as client:
        taken = _taken(client, parameters)
    print_fields(
        {
            "Schedule": f"{name}, {_state(each)}",
            "Model": _models(each),
            "Images": str(parameters.get("source", "")),
            "Taken of each image": taken,
            "Results": str(parameters.get("output", "")),
            "Parameters": ", ".join(f"{key}={value}" for key, value in (parameters.get("parameters") or {}).items()),
        }
    )
    if runs:
        print_table(("Run", "State", "What it did"), [(run.time[:19], run.state.lower(), run.message) for run in runs])
    else:
        say(f"It has not run yet. Now: parfocal schedule run {name}")


@schedule.command("run")
@click.argument("name")
def run(name: str) -> None:
    """Start a run of a schedule now."""
    app = current_app()
    from parfocal.cli._render import print_json, say

    identifier = _schedules().run_now(name)
    if app.json:
        print_json({"flow_run": identifier})
    else:
        say(f"A run of {name} has been started. What it does: parfocal schedule show {name}")


@schedule.command("pause")
@click.argument("name")
def pause(name: str) -> None:
    """Let a schedule rest; a run that goes on is not stopped."""
    from parfocal.cli._render import say

    _schedules().set_active(name, active=False)
    say(f"{name} rests until: parfocal schedule resume {name}")


@schedule.command("resume")
@click.argument("name")
def resume(name: str) -> None:
    """Let a paused schedule go on."""
    from parfocal.cli._render import say

    _schedules().set_active(name, active=True)
    say(f"{name} goes on.")


@schedule.command("delete")
@click.argument("name")
def delete(name: str) -> None:
    """Delete a schedule that you have made; operators delete anybody's. What it predicted stays."""
    app = current_app()
    from parfocal.cli._render import say
    from parfocal.runtime.errors import NotFoundError

    schedules = _schedules()
    known = {each.name: each for each in schedules.every()}
    with app.client() as client:
        project = str(known[name].parameters.get("project") or "") if name in known else ""
        try:
            client.catalog.of(project or client.project).delete_schedule(name)
        except NotFoundError:
            if name not in known:
                schedules.get(name)  # which says what there is
    if name in known:
        schedules.delete(name)
    say(f"{name} has been deleted; what it predicted stays.")


def interval(text: str, option: str = "--every", shortest: int = _SHORTEST_SECONDS) -> int:
    """Return the seconds of "15m", "2h" or "1d"; raise InvalidInputError for anything else, and for less."""
    from parfocal.runtime.errors import InvalidInputError

    match = re.fullmatch(r"(\d+)\s*([smhd])", text.strip().lower())
    seconds = int(match[1]) * _UNITS[match[2]] if match else -1
    if seconds < shortest:
        least = "a minute" if shortest == _SHORTEST_SECONDS else f"{shortest} s"
        raise InvalidInputError(
            f"{option} {text} cannot be used: write a whole number of s, m, h or d of at least {least}, "
            "for example 15m, 2h or 1d."
        )
    return seconds


def _schedules() -> Schedules:
    """Return the schedules of the Prefect server that belongs to this command."""
    from parfocal.flows.schedules import Schedules

    return Schedules(current_app().prefect())


def _models(each: Schedule) -> str:
    """Return the models of a schedule in order, e.g. "denoise:2, then nuclei:1"."""
    from parfocal.flows.schedules import models_of

    return ", then ".join(models_of(each.parameters))


def _taken(client: Client, parameters: Mapping[str, Any]) -> str:
    """Return what a schedule takes of each image, in words; "" where that is all, or its model is gone."""
    from parfocal.flows.schedules import models_of, taken_of, taken_words
    from parfocal.runtime.errors import ParfocalError

    project = str(parameters.get("project") or "") or client.project
    try:
        model = client.catalog.of(project).entry("model", models_of(parameters)[0])
        return taken_words(client, model.uri, taken_of(parameters))
    except ParfocalError:
        return ""


def _state(each: Schedule) -> str:
    return each.when if each.active else f"{each.when}, paused"


def _as_json(each: Schedule) -> dict[str, Any]:
    return {
        "name": each.name,
        "method": each.method,
        "when": each.when,
        "active": each.active,
        "parameters": dict(each.parameters),
    }
