"""`parfocal notify …`: who is told by e-mail or webhook how workflows end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import Group, current_app

if TYPE_CHECKING:
    from parfocal.flows.notices import Hook, Mail

ON = click.option(
    "--on",
    type=click.Choice(["failed", "always"]),
    default="failed",
    show_default=True,
    help="Tell of failures alone, or of every run that did something.",
)
NAME = click.option("--name", default="", metavar="NAME", help="What to call it; by default email or webhook.")
SECRET_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=Group, short_help="Tell people how workflows ended.")
def notify() -> None:
    """Tell people by e-mail or webhook how trainings and scheduled predictions ended.

    This is set up on the computer of the flow runner, in a file that its owner alone can read. The same failure is told
    once a day.
    """


@notify.command("email")
@click.option("--to", multiple=True, required=True, metavar="ADDRESS", help="Who is told; repeat for more.")
@click.option("--server", required=True, metavar="HOST:PORT", help="The mail server, e.g. smtp.example.org:587.")
@click.option("--from", "sender", default="", metavar="ADDRESS", help="Sender; by default the first of --to.")
@click.option("--user", default="", metavar="NAME", help="Who logs in at the server, where it asks for that.")
@click.option("--password-file", type=SECRET_FILE, metavar="FILE", help="File with the password of --user.")
@click.option(
    "--security",
    type=click.Choice(["starttls", "tls", "none"]),
    default="starttls",
    show_default=True,
    help="How the way to the server is protected.",
)
@ON
@NAME
def email(
    to: tuple[str, ...],
    server: str,
    sender: str,
    user: str,
    password_file: Path | None,
    security: str,
    on: str,
    name: str,
) -> None:
    """Tell people by e-mail; a first one is sent at once."""
    from parfocal.flows.notices import Mail

    password = _secret(password_file)
    values = {"to": to, "sender": sender or to[0], "server": server, "user": user, "password": password}
    _add(name or "email", Mail, {**values, "security": security, "on": on})


@notify.command("webhook")
@click.argument("url")
@click.option("--secret-file", type=SECRET_FILE, metavar="FILE", help="File with a secret that signs each call.")
@ON
@NAME
def webhook(url: str, secret_file: Path | None, on: str, name: str) -> None:
    """Tell a chat or another program by a POST of JSON to URL; a first one is sent at once."""
    from parfocal.flows.notices import Hook

    _add(name or "webhook", Hook, {"url": url, "secret": _secret(secret_file), "on": on})


@notify.command("list")
def list_() -> None:
    """List who is told."""
    app = current_app()
    from parfocal.cli._render import print_json, print_table, say
    from parfocal.flows.notices import notices_path, read_notices

    told = read_notices(notices_path(app.folder)).told
    if app.json:
        print_json([{"name": name, "to": each.where, "on": each.on} for name, each in told.items()])
    elif told:
        print_table(("Notice", "To", "On"), [(name, each.where, each.on) for name, each in told.items()])
    else:
        say("No notifications are set up yet: see `parfocal notify email --help` and `parfocal notify webhook --help`.")


@notify.command("test")
def test() -> None:
    """Send everybody a notice now."""
    app = current_app()
    from parfocal.cli._render import say
    from parfocal.flows.notices import notices_path, read_notices, send
    from parfocal.runtime.errors import NotFoundError

    told = read_notices(notices_path(app.folder)).told
    if not told:
        raise NotFoundError("No notifications are set up yet. `parfocal notify email --help` says how to set it up.")
    for each in told.values():
        send(each, _first_notice())
        say(f"Sent: {each.where}.")


@notify.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Tell NAME no longer."""
    app = current_app()
    from parfocal.cli._render import say
    from parfocal.flows.notices import notices_path
    from parfocal.flows.notices import remove as forget

    forget(notices_path(app.folder), name)
    say(f"{name} is told no longer.")


def _add(name: str, kind: type[Mail | Hook], values: dict[str, Any]) -> None:
    """Try a notice, and keep it if it was sent."""
    app = current_app()
    from pydantic import ValidationError

    from parfocal.cli._render import say
    from parfocal.flows.notices import add, notices_path, send
    from parfocal.runtime.errors import InvalidInputError

    try:
        told = kind(**values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise InvalidInputError(
            f"The notification cannot be used: {first['msg'].removeprefix('Value error, ')}."
        ) from None
    send(told, _first_notice())
    add(notices_path(app.folder), name, told)
    say(f"A first notice was sent: {told.where}. From now on {name} is told ({told.on}).")


def _first_notice() -> Any:
    from parfocal.flows.notices import Notice

    text = "Notices of Parfocal arrive here. Whoever runs it has set that up with `parfocal notify`."
    return Notice(title="a first notice", text=text, failed=False)


def _secret(path: Path | None) -> str:
    return path.read_text("utf-8").strip() if path is not None else ""
