"""`parfocal up`, `status`, `logs`, `down`, `doctor`: Parfocal on this computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from parfocal.cli._app import App, Command, current_app
from parfocal.cli._errors import FAILED, UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from parfocal.stack.state import StackEvent, StackStatus


@click.command(cls=Command, short_help="Start Parfocal on this computer.")
@click.option(
    "--service", "names", multiple=True, metavar="NAME", help="Start only this service, e.g. care; repeat for more."
)
@click.option("--portal/--no-portal", default=True, show_default=True, help="Also start the pages for the browser.")
@click.option(
    "--prefect/--no-prefect", default=True, show_default=True, help="Also start Prefect, for scheduled workflows."
)
@click.option("--foreground", is_flag=True, help="Stay, and stop everything on Ctrl-C.")
def up(names: tuple[str, ...], portal: bool, prefect: bool, foreground: bool) -> None:
    """Start Parfocal on this computer: the store, the services and the pages for the browser.

    Needs no Docker and no administrator; nothing can be reached from other computers. What runs already is left
    alone.
    """
    app = current_app()
    if app.services:
        raise click.UsageError(
            "--services names addresses of services that run elsewhere. Say which services of this computer to start "
            "with --service NAME."
        )
    from parfocal.cli._render import print_json

    status = start_stack(app, names, prefect=prefect, portal=portal, foreground=foreground)
    if app.json:
        print_json(status.model_dump(mode="json"))
    elif not foreground:
        _show(status)


@click.command(cls=Command, short_help="Show what runs, and where.")
@click.option(
    "--password",
    is_flag=True,
    help="Show instead what the pages of the workflows (Prefect) ask for: paste the whole line, user and password.",
)
def status(password: bool) -> None:
    """Show what runs, where, and since when. Exit code 4 if something does not."""
    app = current_app()
    from parfocal.cli._render import print_json, say
    from parfocal.stack.control import status as stack_status

    if password:
        _show_password(app)
        return
    if app.explicit:
        _services_status(app)
        return
    found = stack_status(app.folder)
    if app.json:
        print_json({**found.model_dump(mode="json"), "ready": found.ready})
    elif found.units:
        _show(found)
    if not found.ready:
        if not app.json and not found.running:
            say(f"Parfocal does not run (folder {found.folder}). Start it with `parfocal up`.")
        raise click.exceptions.Exit(UNAVAILABLE)


@click.command(cls=Command, short_help="Show the logs.")
@click.argument("unit", required=False)
@click.option(
    "-n", "--lines", default=50, show_default=True, type=click.IntRange(min=0), help="How many of the last lines."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
def logs(unit: str | None, lines: int, follow: bool) -> None:
    """Show the logs of all units, or of one UNIT that `parfocal status` lists."""
    app = current_app()
    from parfocal.stack.logs import logs as stack_logs

    try:
        for line in stack_logs(app.folder, unit, lines, follow):
            click.echo(line)
    except KeyboardInterrupt:
        return


@click.command(cls=Command, short_help="Stop Parfocal on this computer.")
def down() -> None:
    """Stop Parfocal on this computer.

    Data, models and results stay; work under way goes on after the next `parfocal up`.
    """
    app = current_app()
    from parfocal.cli._progress import waiting
    from parfocal.cli._render import print_json, say
    from parfocal.stack.control import down as stack_down
    from parfocal.stack.control import status as stack_status

    running = stack_status(app.folder).running
    with waiting("Stopping") as show:
        stopped = stack_down(app.folder, _on_event(show))
    if app.json:
        print_json(stopped.model_dump(mode="json"))
    else:
        say("Stopped." if running else f"Parfocal was not running (folder {stopped.folder}).")


@click.command(cls=Command, short_help="Find what could go wrong on this computer.")
def doctor() -> None:
    """Look for what could go wrong on this computer, and say what to do about it."""
    app = current_app()
    from parfocal.cli._progress import waiting
    from parfocal.cli._render import print_json, print_table
    from parfocal.stack.doctor import CheckState
    from parfocal.stack.doctor import doctor as stack_doctor

    with waiting("Looking around"):
        checks = stack_doctor(app.folder)
    if app.json:
        print_json([check.model_dump(mode="json") for check in checks])
    else:
        rows = [(check.name, str(check.state), " ".join(filter(None, (check.found, check.advice)))) for check in checks]
        print_table(("Looked at", "State", "Found"), rows)
    if any(check.state is CheckState.PROBLEM for check in checks):
        raise click.exceptions.Exit(FAILED)


def start_stack(
    app: App, names: tuple[str, ...], *, prefect: bool = True, portal: bool = True, foreground: bool = False
) -> StackStatus:
    """Start what does not run yet and return when all is ready."""
    from parfocal.cli._extras import require_stack
    from parfocal.cli._progress import waiting
    from parfocal.cli._render import say, warn
    from parfocal.stack.config import StackConfig, default_folder
    from parfocal.stack.control import up as stack_up
    from parfocal.stack.discover import select_services

    require_stack()
    services = select_services(names or None)
    if not services:
        warn("No services are installed on this computer; `parfocal doctor` says more.")
    config = StackConfig(folder=app.folder or default_folder(), services=services, prefect=prefect, portal=portal)
    if foreground:
        return stack_up(config, foreground=True, on_event=lambda event: say(_event_text(event)))
    with waiting("Starting Parfocal") as show:
        return stack_up(config, on_event=_on_event(show))


def _on_event(show: Callable[[str], None]) -> Callable[[StackEvent], None]:
    return lambda event: show(_event_text(event))


def _event_text(event: StackEvent) -> str:
    detail = f" ({event.detail})" if event.detail else ""
    return f"{event.unit} {event.state}{detail}"


def _show_password(app: App) -> None:
    from parfocal.cli._render import print_json
    from parfocal.stack.config import resolve_folder
    from parfocal.stack.credentials import load_credentials

    # The pages ask for user and password in one field.
    auth = load_credentials(resolve_folder(app.folder)).prefect_auth
    if app.json:
        print_json({"password": auth})
    else:
        click.echo(auth)


def _show(status: StackStatus) -> None:
    from parfocal.cli._render import local_time, print_fields, print_table

    workflows = status.prefect_url if status.running else ""
    rows = [
        (
            unit.name,
            str(unit.state),
            unit.address,
            local_time(unit.since),
            "" if unit.memory_mb is None else f"{unit.memory_mb:.0f} MB",
            # The detail of a unit that runs says already how often it was started again.
            unit.detail or (f"restarts: {unit.restarts}" if unit.restarts else ""),
        )
        for unit in status.units
    ]
    print_table(("Unit", "State", "Address", "Since", "Memory", "Remark"), rows, numbers=("Memory",))
    print_fields(
        {
            "Browser": status.portal_url if status.running else "",
            "Workflows": f"{workflows} (asks for what `parfocal status --password` shows)" if workflows else "",
            "Folder": str(status.folder),
        }
    )


def _services_status(app: App) -> None:
    """Show services that are not of this computer's stack."""
    from parfocal.cli._render import print_json, print_table

    with app.client() as client:
        infos = client.services()
    if app.json:
        print_json(
            [
                {
                    "address": info.address,
                    "service": info.name,
                    "methods": [method.name for method in info.methods],
                    "error": info.error,
                }
                for info in infos
            ]
        )
    else:
        rows = [
            (
                info.address,
                info.name,
                "failed" if info.error else "ready",
                info.error or ", ".join(method.name for method in info.methods),
            )
            for info in infos
        ]
        print_table(("Address", "Service", "State", "Methods"), rows)
    if any(info.error for info in infos):
        raise click.exceptions.Exit(UNAVAILABLE)
