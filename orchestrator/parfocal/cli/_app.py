"""What all commands share: options, and how services and catalogue are found."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.runtime.errors import NotFoundError, PreconditionError, UnavailableError

if TYPE_CHECKING:
    from parfocal.client import Client
    from parfocal.client.contexts import ContextFolder
    from parfocal.flows._api import PrefectApi
    from parfocal.stack.connection import StackConnection


@dataclass
class App:
    """The shared options of one call, as given before or after the command's name."""

    project: str = ""
    services: str = ""
    home: str = ""
    context: str = ""
    json: bool = False

    @property
    def explicit(self) -> bool:
        """Whether options or environment name catalogue and services, so that no stack of this computer is meant."""
        return bool(os.environ.get("PARFOCAL_CATALOG") and (self.services or os.environ.get("PARFOCAL_SERVICES")))

    @property
    def folder(self) -> Path | None:
        """The stack's folder; None means the default one."""
        return Path(self.home) if self.home else None

    def context_folder(self) -> ContextFolder:
        """Return where the contexts are kept."""
        from parfocal.client.contexts import ContextFolder
        from parfocal.stack.config import resolve_folder

        return ContextFolder(resolve_folder(self.folder))

    def used_context(self) -> str:
        """Return the name of the context in use; empty: the environment, or the stack of this computer, is meant."""
        from parfocal.client.contexts import LOCAL

        if self.explicit:
            return ""
        name = self.context or os.environ.get("PARFOCAL_CONTEXT") or self.context_folder().read().current
        return "" if name == LOCAL else name

    def client(self) -> Client:
        """Return a client: explicit settings win, then the environment, the context, the stack of this computer.

        Raises
        ------
        UnavailableError
            Nothing says where Parfocal is.
        """
        from pydantic import ValidationError

        from parfocal.client import Client
        from parfocal.client.channels import Tokens
        from parfocal.client.login import ContextTokens
        from parfocal.runtime.errors import InvalidInputError
        from parfocal.runtime.settings import Settings

        values: dict[str, Any] = {}
        tokens: Tokens | None = None
        context = self.used_context()
        if context:
            folder = self.context_folder()
            chosen = folder.read().named(context)
            for name in ("services", "catalog", "project", "tls_ca"):
                if not os.environ.get(f"PARFOCAL_{name.upper()}"):
                    values[name] = getattr(chosen, name)
            if not (os.environ.get("PARFOCAL_TOKEN") or os.environ.get("PARFOCAL_TOKEN_FILE")):
                tokens = ContextTokens(folder, context)
        connection = self.connection()
        if connection is not None:
            # The environment wins: what it sets is not taken from the stack.
            values = {
                name.removeprefix("PARFOCAL_").lower(): value
                for name, value in connection.environment.items()
                if name.startswith("PARFOCAL_") and not os.environ.get(name)
            }
        elif not context and not os.environ.get("PARFOCAL_CATALOG"):
            where = f" (folder {self.home})" if self.home else ""
            raise UnavailableError(
                f"Parfocal is not running on this computer{where}. Start it with `parfocal up`; or, for a facility's "
                "installation, log in with `parfocal login`, or set PARFOCAL_SERVICES and PARFOCAL_CATALOG."
            )
        if self.services:
            values["services"] = self.services
        if self.project:
            values["project"] = self.project
        try:
            return Client(Settings(**values), tokens=tokens)
        except ValidationError as error:
            problem = error.errors()[0]
            name = f"PARFOCAL_{'_'.join(str(part) for part in problem['loc']).upper()}"
            raise InvalidInputError(f"The setting {name} cannot be used: {problem['msg']}.") from error

    def connection(self) -> StackConnection | None:
        """Return how to reach the stack of this computer; None if it does not run or is not asked for."""
        if self.explicit or self.used_context():
            return None
        from parfocal.stack.connection import connection

        try:
            return connection(self.folder)
        except (PreconditionError, NotFoundError):
            return None

    def prefect(self) -> PrefectApi:
        """Return the Prefect server of the stack of this computer, or of the environment; raise UnavailableError."""
        from parfocal.flows._api import PrefectApi

        connection = self.connection()
        if connection is not None and connection.prefect_api_url is not None:
            return PrefectApi(connection.prefect_api_url, connection.prefect_auth)
        if url := os.environ.get("PREFECT_API_URL", ""):
            return PrefectApi(url, os.environ.get("PREFECT_API_AUTH_STRING", ""))
        raise UnavailableError(
            "New images of a folder in the store are predicted by workflows, and no Prefect server is known. Start "
            "Parfocal with `parfocal up` (not --no-prefect), or set PREFECT_API_URL for a facility's installation."
        )


def current_app() -> App:
    """Return the shared options of the command that runs."""
    app = click.get_current_context().find_root().obj
    assert isinstance(app, App)
    return app


def shared_options() -> list[click.Parameter]:
    """Return the options that every command accepts, before or after its name."""

    def keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.find_root().obj, str(parameter.name), value)

    common: dict[str, Any] = {"expose_value": False, "callback": keep}
    return [
        click.Option(["--project"], metavar="NAME", help="Project to work in.  [default: default]", **common),
        click.Option(
            ["--services"], metavar="HOST:PORT,…", help="Services to use instead of those of this computer.", **common
        ),
        click.Option(
            ["--home"], metavar="FOLDER", help="Folder of this computer's Parfocal.  [default: ~/.parfocal]", **common
        ),
        click.Option(
            ["--context"], metavar="NAME", help="Parfocal to work with.  [default: parfocal contexts list]", **common
        ),
        click.Option(["--json"], is_flag=True, help="Write results to stdout as JSON, for programs.", **common),
    ]


class Command(click.Command):
    """A command that accepts the shared options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(shared_options())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the shared options, which are the same everywhere, apart from the command's own."""
        shared = {option.name for option in shared_options()}
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                (common if parameter.name in shared else own).append(record)
        with formatter.section("Options"):
            formatter.write_dl(own)
        with formatter.section("Options of all commands"):
            formatter.write_dl(common)


class Group(click.Group):
    """A group whose commands accept the shared options."""

    command_class = Command
