"""`parfocal schedule …`: prediction of whatever is new in a folder, again and again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import Group, current_app
from parfocal.cli._train import PARAMETERS

if TYPE_CHECKING:
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
@click.option("--watch", required=True, metavar="S3://…", help="Folder in the store that gets the images.")
@click.option("--output", required=True, metavar="S3://…", help="Folder in the store that gets the results.")
@click.option("--every", default="", metavar="TIME", help="How often: for example 15m, 2h or 1d.")
@click.option("--cron", default="", metavar="EXPRESSION", help='Instead of --every: for example "0 7 * * 1-5".')
@click.option("--timezone", default="UTC", show_default=True, metavar="ZONE", help="Of --cron, e.g. Europe/Lisbon.")
@PARAMETERS
def create(
    name: str, model: str, watch: str, output: str, every: str, cron: str, timezone: str, parameters: tuple[str, ...]
) -> None:
    """Create the schedule NAME."""
    app = current_app()
    from parfocal import v1
    from parfocal.cli._render import print_json, say
    from parfocal.client.models import read_model
    from parfocal.client.parameters import parse_parameters, schema_of
    from parfocal.flows.batches import check_folders
    from parfocal.runtime.errors import InvalidInputError
    from parfocal.runtime.store.names import versioned_name
    from parfocal.runtime.store.store import Location

    if bool(every) == bool(cron):
        raise InvalidInputError("Say how often: either --every, for example --every 15m, or --cron.")
    seconds = interval(every) if every else None
    check_folders(Location.parse(watch), Location.parse(output))
    schedules = _schedules()
    with app.client() as client:
        summary = read_model(client, model)
        method = client.method(summary.manifest.method)
        values = parse_parameters(method.title, schema_of(method, v1.JOB_KIND_PREDICTION), parameters)
        given: dict[str, Any] = {
            "model": versioned_name(summary.uri),
            "source": watch,
            "output": output,
            "project": client.project,
        }
        if values:
            given["parameters"] = values
    made = schedules.create(name, method.name, given, every_seconds=seconds, cron=cron, timezone=timezone)
    if app.json:
        print_json(_as_json(made))
        return
    say(f"{summary.verdict.sentence}")
    say(f"The schedule {name} predicts new images of {watch} with {given['model']}, {made.when}.")
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
    rows = [
        (each.name, str(each.parameters.get("model", "")), str(each.parameters.get("source", "")), _state(each))
        for each in found
    ]
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
    print_fields(
        {
            "Schedule": f"{name}, {_state(each)}",
            "Model": str(parameters.get("model", "")),
            "Images": str(parameters.get("source", "")),
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
    """Delete a schedule. What it predicted stays."""
    from parfocal.cli._render import say

    _schedules().delete(name)
    say(f"{name} has been deleted; what it predicted stays.")


def interval(text: str) -> int:
    """Return the seconds of "15m", "2h" or "1d"; raise InvalidInputError for anything else."""
    from parfocal.runtime.errors import InvalidInputError

    match = re.fullmatch(r"(\d+)\s*([smhd])", text.strip().lower())
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if seconds < _SHORTEST_SECONDS:
        raise InvalidInputError(
            f"--every {text} cannot be used: write a whole number of s, m, h or d of at least a minute, "
            "for example 15m, 2h or 1d."
        )
    return seconds


def _schedules() -> Schedules:
    """Return the schedules of the Prefect server that belongs to this command."""
    from parfocal.flows.schedules import Schedules

    return Schedules(current_app().prefect())


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
