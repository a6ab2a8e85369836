"""`parfocal methods`: what the services offer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from parfocal.cli._app import App, Command, current_app

if TYPE_CHECKING:
    from parfocal import v1
    from parfocal.client import Client


@click.command(cls=Command, short_help="List the methods and their parameters.")
@click.argument("method", required=False)
@click.option(
    "--capacity",
    metavar="DATASET",
    default="",
    help="Measure memory and seconds per step of METHOD on this computer, with images of a dataset or a folder.",
)
@click.option(
    "-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="With --capacity: set a parameter."
)
def methods(method: str | None, capacity: str, parameters: tuple[str, ...]) -> None:
    """List the methods, or show one METHOD with its parameters and what it needs of your images.

    With --capacity a few steps of real training are run with several batch sizes and patch sizes, each in a process of
    its own. It takes some minutes and the whole computer; nothing is stored but the numbers.
    """
    app = current_app()
    if (capacity and not method) or (parameters and not capacity):
        raise click.UsageError("--capacity needs a METHOD, and -p needs --capacity.")
    with app.client() as client:
        if method and capacity:
            from parfocal.cli import _capacity

            _capacity.measure(app, client, client.method(method), capacity, parameters)
        elif method is None:
            _list(app.json, client)
            if not app.json and app.connection() is not None:
                _say_missing(client)
        else:
            _show(app.json, client.method(method))
            if not app.json:
                _show_capacity(app, method)


def _list(as_json: bool, client: Client) -> None:
    from parfocal.cli._render import print_json, print_table, say, warn
    from parfocal.client.parameters import kind_word
    from parfocal.runtime.errors import UnavailableError

    infos = client.services()
    silent = [info for info in infos if info.error]
    if len(silent) == len(infos):
        raise UnavailableError(silent[0].error)
    for info in silent:
        warn(info.error)
    found = sorted(
        {method.name: (info, method) for info in infos for method in info.methods}.values(),
        key=lambda item: item[1].name,
    )
    if as_json:
        print_json([{"service": info.name, "address": info.address, **method_json(item)} for info, item in found])
        return
    rows = [
        (item.name, ", ".join(kind_word(kind) for kind in item.job_kinds), item.data_requirements.axes, item.title)
        for _, item in found
    ]
    print_table(("Method", "Offers", "Axes", "Title"), rows)
    say("`parfocal methods METHOD` shows its parameters and what it needs of your images.")


def _say_missing(client: Client) -> None:
    """Name the services of this computer that do not run, and the command that changes it."""
    from parfocal.cli._render import say
    from parfocal.stack.discover import discover_services, known_services

    running = {info.name for info in client.services() if info.name}
    installed = discover_services()
    for name in installed:
        if name not in running:
            say(f"{name} is installed but does not run. Start it: parfocal up --service {name}")
    missing = [name for name in known_services() if name not in installed and name not in running]
    if missing:
        say(
            f"Not installed: {', '.join(missing)}. Add with `make envs` in the Parfocal repository, then `parfocal up`."
        )


def _show(as_json: bool, method: v1.Method) -> None:
    from parfocal import v1
    from parfocal.cli._render import print_fields, print_json, print_table, print_text
    from parfocal.client.parameters import kind_word, schema_of, table_rows

    if as_json:
        print_json(method_json(method))
        return
    needs = method.data_requirements
    wanted = "training images" if v1.JOB_KIND_TRAINING in method.job_kinds else "images"
    print_text(f"{method.title} ({method.name})\n\n{method.summary}\n")
    print_fields(
        {
            "Images": needs.description,
            "Dataset": _suitable(needs) if v1.JOB_KIND_TRAINING in method.job_kinds else "",
            "Axes": needs.axes
            + (f", channels along {' or '.join(needs.channel_axes)} besides" if needs.channel_axes else ""),
            "Number": f"{needs.minimum_images} or more {wanted}; {needs.recommended_images} for good results"
            if needs.minimum_images
            else "",
            "Variation": " ".join(f"{item.parameter}: {item.description}" for item in method.augmentations),
            "Presets": " ".join(f"{preset.name}: {preset.description}" for preset in method.presets),
            "Cite": method.citation,
            "Licence": method.licence,
            "Read more": method.documentation,
        }
    )
    for kind in method.job_kinds:
        rows = table_rows(schema_of(method, kind))
        title = f"\nParameters of {kind_word(kind)} (-p name=value)"
        if rows:
            print_table(("Name", "Type", "Default", "Range", "What it does"), rows, title=title, numbers=("Default",))
        else:
            print_text(f"{title}: none")


def _show_capacity(app: App, method: str) -> None:
    """Show what was measured of a method on this computer, if anything was."""
    from parfocal.cli._capacity import capacity_folder, show_capacity
    from parfocal.runtime.errors import NotFoundError
    from parfocal.runtime.methods.capacity import read_capacity

    try:
        show_capacity(read_capacity(capacity_folder(app), method))
    except NotFoundError:
        return


def _suitable(needs: v1.DataRequirements) -> str:
    """Return the kinds of dataset that a method can be trained on, the one made for it first."""
    from parfocal.runtime.datasets.kinds import KINDS, kinds_for

    first, *others = (KINDS[name].title for name in kinds_for(needs.target))
    return first + (f"; also {', '.join(others)}" if others else "")


def method_json(method: v1.Method) -> dict[str, object]:
    """Return a method as plain values; its schemas as JSON, not as text."""
    import json

    from google.protobuf import json_format

    from parfocal.client.parameters import kind_word

    values: dict[str, object] = json_format.MessageToDict(method, preserving_proto_field_name=True)
    values["job_kinds"] = [kind_word(kind) for kind in method.job_kinds]
    values["parameter_schemas"] = {
        kind_word(item.job_kind): json.loads(item.json_schema) for item in method.parameter_schemas
    }
    return values
