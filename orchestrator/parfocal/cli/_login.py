"""`parfocal login`, `logout`, `contexts …` and `tokens …`: who works with which Parfocal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import Command, Group, current_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parfocal.client.contexts import Context
    from parfocal.client.login import DeviceCode


_NEEDED = ("services", "catalog", "issuer", "client_id")


@click.command(cls=Command, short_help="Log in to a facility's Parfocal.")
@click.argument("name", metavar="[NAME]", default="")
@click.option("--issuer", metavar="URL", default="", help="Address of the facility's OpenID Connect provider.")
@click.option("--client-id", metavar="ID", default="", help="Client ID of Parfocal's command line at the provider.")
@click.option("--catalog", metavar="HOST:PORT", default="", help="Address of the catalogue.")
@click.option("--tls-ca", metavar="FILE", default="", help="Certificate authority of the services, or `system`.")
@click.option(
    "--issuer-ca", metavar="FILE", default="", help="Certificate authority of the provider, if not a usual one."
)
@click.option("--scope", "scopes", multiple=True, help="Scope to ask for; repeat for more.")
@click.option("--id-token", is_flag=True, help="Show services the ID token instead of the access token.")
def login(
    name: str,
    issuer: str,
    client_id: str,
    catalog: str,
    tls_ca: str,
    issuer_ca: str,
    scopes: tuple[str, ...],
    id_token: bool,
) -> None:
    """Log in with a browser, on this or any other device, and work with that Parfocal from now on.

    The first time, give the context a NAME, its --services, --catalog, --issuer and --client-id; your facility tells
    you the values. They are remembered, so later `parfocal login` is enough. --project sets the project to work in.
    """
    app = current_app()
    from parfocal.cli._render import print_json, say
    from parfocal.client.contexts import Context
    from parfocal.client.login import Provider
    from parfocal.runtime.errors import InvalidInputError

    folder = app.context_folder()
    known = folder.read()
    name = name or app.context or known.current or "facility"
    given: dict[str, Any] = {
        "services": app.services,
        "project": app.project,
        "catalog": catalog,
        "issuer": issuer,
        "client_id": client_id,
        "tls_ca": tls_ca,
        "issuer_ca": issuer_ca,
        "scopes": scopes,
        "login_token": "id_token" if id_token else "",
    }
    before = known.contexts[name].model_dump() if name in known.contexts else {}
    values = before | {key: value for key, value in given.items() if value}
    missing = [f"--{field.replace('_', '-')}" for field in _NEEDED if not values.get(field)]
    if missing:
        raise InvalidInputError(
            f"The context {name!r} is new here: also give {', '.join(missing)}. Your facility tells you the values."
        )
    context = Context(**values)
    tokens = Provider(context).log_in(_show)
    context = context.model_copy(update={"user": _user(tokens.token)})
    folder.keep(name, context)
    folder.keep_tokens(name, tokens)
    if app.json:
        print_json({"context": name, "user": context.user, "project": context.project})
        return
    say(f"You are {context.user or 'logged in'}, and work with {name} in the project {context.project}.")


@click.command(cls=Command, short_help="Forget a login.")
@click.argument("name", metavar="[NAME]", default="")
def logout(name: str) -> None:
    """Forget the tokens of a login, here and, if the provider supports it, at the provider."""
    app = current_app()
    from parfocal.cli._render import say, warn
    from parfocal.client.login import Provider
    from parfocal.runtime.errors import ParfocalError

    folder = app.context_folder()
    name = name or app.context or folder.read().current
    context = folder.read().named(name)
    tokens = folder.tokens(name)
    folder.keep_tokens(name, None)
    if tokens is not None and tokens.refresh_token:
        try:
            if not Provider(context).revoke(tokens.refresh_token):
                warn(f"{context.issuer} was not told: the login may be renewed elsewhere until it ends there.")
        except ParfocalError as error:
            warn(f"{context.issuer} was not told: {error.message}")
    say(f"The login of {name} is forgotten.")


@click.group(cls=Group, short_help="Choose which Parfocal to work with.")
def contexts() -> None:
    """Which Parfocal to work with: server, project and user. `local` is that of this computer."""


@contexts.command("list")
def list_() -> None:
    """List the contexts; the one in use is marked."""
    app = current_app()
    from parfocal.cli._render import print_json, print_table

    known = app.context_folder().read()
    rows = [
        {"name": name, "current": name == known.current, **_shown(context)} for name, context in known.contexts.items()
    ]
    if app.json:
        print_json(rows)
        return
    lines: list[Sequence[str]] = [("*" if not known.current else "", "local", "this computer", "", "")]
    for row in rows:
        values = (str(row[key]) for key in ("name", "services", "project", "user"))
        lines.append(("*" if row["current"] else "", *values))
    print_table(("", "Context", "Services", "Project", "User"), lines)


@contexts.command()
@click.argument("name")
def use(name: str) -> None:
    """Work with this context from now on; `local` is the Parfocal of this computer."""
    app = current_app()
    from parfocal.cli._render import say

    app.context_folder().use(name)
    say(f"Commands speak to {'the Parfocal of this computer' if name == 'local' else name} from now on.")


@click.group(cls=Group, short_help="Make tokens for machines.")
def tokens() -> None:
    """Make static tokens, for machines that cannot log in."""


@tokens.command()
@click.argument("name")
@click.option("--group", "groups", multiple=True, help="Group that the machine belongs to; repeat for more.")
@click.option("--expires", metavar="DAY", default="", help="Last day on which it is accepted, e.g. 2027-06-30.")
def new(name: str, groups: tuple[str, ...], expires: str) -> None:
    """Make a token for the machine NAME.

    The token goes to stdout, once. The entry for the file of PARFOCAL_TOKENS_FILE goes to stderr; it has only a digest.
    """
    app = current_app()
    from datetime import date

    from parfocal.cli._render import print_json, say
    from parfocal.runtime.access.tokens import new_static_token, static_digest
    from parfocal.runtime.errors import InvalidInputError
    from parfocal.runtime.store.names import check_name

    check_name("machine", name)
    if any('"' in group or "\\" in group or not group.isprintable() for group in groups):
        raise InvalidInputError("--group cannot contain quotes or backslashes.")
    try:
        until = date.fromisoformat(expires).isoformat() if expires else ""
    except ValueError:
        raise InvalidInputError(f"--expires {expires!r} is not a date: write it as 2027-06-30.") from None
    token = new_static_token()
    lines = [f'["{name}"]', f'sha256 = "{static_digest(token)}"']
    if groups:
        lines.append(f"groups = [{', '.join(f'{chr(34)}{group}{chr(34)}' for group in groups)}]")
    if until:
        lines.append(f"expires = {until}")
    entry = "\n".join(lines)
    if app.json:
        print_json({"name": name, "token": token, "entry": entry})
        return
    say(f"Add this to the file that PARFOCAL_TOKENS_FILE names:\n\n{entry}\n")
    click.echo(token)


def _show(code: DeviceCode) -> None:
    from parfocal.cli._render import say

    say(f"Open {code.url} on any device and type the code {code.code}.")
    if code.url_with_code:
        say(f"Or open {code.url_with_code}")
    say("Waiting …")


def _user(token: str) -> str:
    """Return the name of the user in a token, to be shown only: services verify the token themselves."""
    import jwt

    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError:
        return ""
    names = (claims.get(claim) for claim in ("email", "preferred_username", "name", "sub"))
    return next((name for name in names if isinstance(name, str) and name), "")


def _shown(context: Context) -> dict[str, str]:
    return {"services": context.services, "project": context.project, "user": context.user, "issuer": context.issuer}
