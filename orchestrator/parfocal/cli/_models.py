"""`parfocal models …`: what has been trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import Group, current_app
from parfocal.cli._share import add_share_commands
from parfocal.cli._trash import add_trash_commands, show_deleted

if TYPE_CHECKING:
    from parfocal.client.models import ModelSummary
    from parfocal.runtime.store.manifests import KeptWeights


@click.group(cls=Group, short_help="List, show, download, import, export and delete models.")
def models() -> None:
    """Trained models: list, look at, download, delete; import those trained elsewhere, export to other programs."""


@models.command("list")
@click.option("--deleted", is_flag=True, help="List those in the trash instead.")
def list_(deleted: bool) -> None:
    """List the models of the project with all their versions and the newest verdict."""
    if deleted:
        show_deleted("model")
        return
    app = current_app()
    from parfocal.cli._render import local_time, print_json, print_table, say, warn
    from parfocal.client.models import list_models

    with app.client() as client:
        summaries = list_models(client, lambda error: warn(error.message), shared=True)
        if app.json:
            print_json([_json(item) for item in summaries])
            return
        if not summaries:
            say(f"There are no models in project {client.project!r}. Make one with `parfocal train`.")
            return
    rows = [
        (
            client.catalog.title(item.manifest.project, item.manifest.model, item.manifest.version),
            item.manifest.method,
            item.verdict.state,
            _dataset(item),
            str(item.manifest.epochs),
            local_time(item.manifest.created_at),
        )
        for item in summaries
    ]
    print_table(("Model", "Method", "Verdict", "Dataset", "Epochs", "Created"), rows, numbers=("Epochs",))


@models.command()
@click.argument("name")
def show(name: str) -> None:
    """Show the model NAME, or one of its versions as NAME:VERSION."""
    app = current_app()
    from parfocal.cli._render import (
        duration,
        local_time,
        megabytes,
        number,
        print_fields,
        print_json,
        print_table,
        print_verdict,
        warn,
    )
    from parfocal.cli._work import say_unchecked
    from parfocal.client.convert import part_of_options
    from parfocal.client.models import read_model
    from parfocal.client.results import part_of_training

    with app.client() as client:
        summary = read_model(client, name)
        part = part_of_training(client, summary.manifest)
    manifest = summary.manifest
    if app.json:
        print_json({**_json(summary), "part": part})
        return
    packages = manifest.environment.get("packages", {})
    print_fields(
        {
            "Model": f"{manifest.model}:{manifest.version}",
            "Method": manifest.method,
            "Dataset": _dataset(summary),
            "Taken of each file": part_of_options(part, manifest.part_channels).words,
            "Started from": manifest.parent,
            "Axes": manifest.axes,
            "Imported from": manifest.origin,
            **_said_by_package(manifest.package),
            "Training": ""
            if manifest.origin
            else f"{manifest.epochs} epochs in {duration(manifest.training_seconds)}, best epoch {manifest.best_epoch}",
            "Weights": ", ".join(_kept(name, kept) for name, kept in manifest.weights.items()),
            "Losses": ", ".join(f"{name} {number(value)}" for name, value in manifest.metrics.items()),
            "Set on validation": ", ".join(
                f"{name.replace('_', ' ')} {number(value)}" for name, value in manifest.calibration.items()
            ),
            "Made with": ", ".join(f"{package} {version}" for package, version in packages.items()),
            "Device": " ".join(str(manifest.environment.get(key, "")) for key in ("device", "precision")).strip(),
            "Created": local_time(manifest.created_at),
            "Job": manifest.job,
            "Place": summary.uri,
            "Quality control": summary.verdict.uri,
        }
    )
    print_verdict(summary.verdict)
    say_unchecked(summary)
    rows = [(name, _value(value)) for name, value in manifest.parameters.items()]
    print_table(("Parameter", "Value"), rows, numbers=("Value",))
    files = [(entry.public_name, megabytes(entry.size)) for entry in manifest.files]
    print_table(("File", "Size"), files, numbers=("Size",))
    for text in manifest.warnings:
        warn(text)


@models.command()
@click.argument("name")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Where to put it.  [default: NAME-VERSION]"
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist in FOLDER.")
def download(name: str, output: Path | None, overwrite: bool) -> None:
    """Download weights, training curves and report of the model NAME[:VERSION]."""
    app = current_app()
    from parfocal.cli._progress import transfer
    from parfocal.cli._render import print_fields, print_json
    from parfocal.client.models import download as download_model
    from parfocal.client.models import read_model

    with app.client() as client:
        manifest = read_model(client, name).manifest
        exact = f"{manifest.model}:{manifest.version}"
        folder = output or Path(f"{manifest.model}-{manifest.version}")
        with transfer("Downloading") as on_progress:
            paths = download_model(client, exact, folder, overwrite=overwrite, on_progress=on_progress)
    if app.json:
        print_json({"model": exact, "files": [str(path) for path in paths]})
    else:
        print_fields({"Model": exact, "Files": f"{len(paths)} in {folder}"})


@models.command()
@click.argument("name")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["bioimage.io"]),
    default="bioimage.io",
    show_default=True,
    help="What the package is written for.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The package, a zip file.  [default: NAME-VERSION.bioimageio.zip]",
)
@click.option(
    "--author", "authors", multiple=True, required=True, metavar="NAME", help="Who made the model; repeatable."
)
@click.option(
    "--licence",
    metavar="ID",
    help="Licence under which you publish it, by its SPDX identifier, e.g. CC-BY-4.0.  [default: that of the dataset]",
)
@click.option("--weights", default="best", show_default=True, metavar="NAME", help="Which of the kept weights.")
@click.option(
    "--image",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="An image whose middle becomes the example in the package: everyone who has the package sees it.  "
    "[default: a made-up pattern]",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def export(
    name: str,
    format_: str,  # noqa: ARG001
    output: Path | None,
    authors: tuple[str, ...],
    licence: str | None,
    weights: str,
    image: Path | None,
    overwrite: bool,
) -> None:
    """Write the model NAME[:VERSION] as a package that other programs run.

    A package of bioimage.io holds the network in a form that runs without Parfocal, how images are normalised, an
    example with its result, and in its description the verdict, the scores and how the model was made. The method's
    service must be installed on this computer.
    """
    app = current_app()
    import json
    import tempfile

    from parfocal.cli._modules import package_of, run_python, service_of
    from parfocal.cli._progress import transfer, waiting
    from parfocal.cli._render import print_fields, print_json
    from parfocal.client.bioimageio import Publisher, dataset_of, quality_of, write_package
    from parfocal.client.models import download as download_model
    from parfocal.client.models import read_model
    from parfocal.runtime.errors import AlreadyExistsError, InvalidInputError, NotFoundError

    with app.client() as client, tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        model = read_model(client, name)
        exact = f"{model.manifest.model}:{model.manifest.version}"
        target = output or Path(f"{exact.replace(':', '-')}.bioimageio.zip")
        if target.exists() and not overwrite:
            raise AlreadyExistsError(f"{target} exists. Choose another --output, or add --overwrite.")
        if licence is None:
            data = dataset_of(client, model)
            licence = data.licence if data is not None else ""
            if not licence:
                raise InvalidInputError(
                    "The dataset of the model has no licence. Say with --licence which the model has."
                )
        publisher = Publisher(authors, licence)
        weights = model.manifest.weights_named(weights)
        method = client.method(model.manifest.method)
        files, written = Path(scratch) / "files", Path(scratch) / "written"
        with transfer("Downloading") as on_progress:
            download_model(client, exact, files, on_progress=on_progress)
        arguments = [str(files), weights, str(written), *([str(image)] if image else [])]
        service = service_of(client, model.manifest.method)
        with waiting("Writing the network"):
            done = run_python(service, "parfocal.runtime.prediction.bioimageio", package_of(service), *arguments)
        if done is None:
            raise NotFoundError(
                f"{method.title} cannot export models on this computer: its service is not installed here "
                "(`parfocal methods` tells how to add it)."
            )
        report = written / "report.json"
        if not report.is_file():
            raise InvalidInputError(f"The model {exact} cannot be exported: {done.stderr[-500:]}")
        contents = json.loads(report.read_text(encoding="utf-8"))
        if "error" in contents:
            raise InvalidInputError(f"{exact} cannot be exported. {contents['error']}")
        write_package(written, target, model, method, publisher, quality=quality_of(client, model), weights=weights)
    if app.json:
        print_json({"model": exact, "file": str(target), "licence": licence, "weights": weights})
        return
    print_fields({"Model": exact, "Package": str(target), "Licence": licence, "Weights": weights})


@models.command("import")
@click.argument("name")
@click.argument("source")
@click.option(
    "--method",
    metavar="NAME",
    help="The method whose original library made the model.  [default: the one that a package says]",
)
def import_(name: str, source: str, method: str | None) -> None:
    """Make a model trained elsewhere the next version of NAME.

    SOURCE is the model's folder as the method's original library writes it, or the name of a model that library
    publishes, which is then downloaded; --method says which method that is. SOURCE may also be a package of
    bioimage.io, a zip file or an unpacked folder: those that Parfocal wrote come back as they were, and others where
    their weights can be opened without running code. The files are checked, nothing in them is run, and the example in
    a package must come out as the package says. The model can predict, be judged, and be the start of a training with
    `parfocal train --from NAME`. The method's service must be installed on this computer.
    """
    app = current_app()
    import tempfile

    from parfocal.cli._import import import_folder, import_package
    from parfocal.cli._render import number, print_fields, print_json, warn
    from parfocal.cli._work import say_unchecked
    from parfocal.client.models import publish_import
    from parfocal.client.packages import is_package
    from parfocal.runtime.errors import InvalidInputError
    from parfocal.runtime.store.names import check_name

    check_name("model", name)
    place = Path(source)
    packed = place.exists() and is_package(place)
    if not packed and method is None:
        raise InvalidInputError(
            f"{source} is no package of bioimage.io. Say with --method which method made the model, for example "
            "--method stardist-2d."
        )
    with app.client() as client, tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        if packed:
            found = import_package(client, place, method, Path(scratch))
        else:
            found = import_folder(client, source, str(method), Path(scratch))
        origin = place.resolve().name if place.exists() else source
        summary = publish_import(client, name, found.service, found.files, found.contents, origin=origin)
    manifest = summary.manifest
    if app.json:
        print_json(_json(summary))
        return
    print_fields(
        {
            "Model": f"{manifest.model}:{manifest.version}",
            "Method": manifest.method,
            "Imported from": manifest.origin,
            **_said_by_package(manifest.package),
            **{key.replace("_", " ").capitalize(): number(value) for key, value in manifest.calibration.items()},
            "Place": summary.uri,
        }
    )
    say_unchecked(summary)
    for text in manifest.warnings:
        warn(text)


add_trash_commands(models, "model", "NAME:VERSION")


def _dataset(summary: ModelSummary) -> str:
    parts = summary.manifest.dataset_uri.rsplit("/", 2)
    return ":".join(parts[-2:]) if len(parts) == 3 else summary.manifest.dataset_uri


def _said_by_package(said: Mapping[str, Any]) -> dict[str, str]:
    """Return what the package of an imported model says of it, as its word: nobody here has checked it."""
    from parfocal.cli._render import number

    if not said:
        return {}
    verdict = " ".join((str(said.get("verdict", "")), *(f"({reason})" for reason in said.get("reasons", ()))))
    scores = [
        f"{kind} {metric} {number(value)}"
        for kind, means in said.get("scores", {}).items()
        for metric, value in means.items()
    ]
    return {
        "Its package": ", ".join(filter(None, (said.get("name"), said.get("licence")))),
        "By": ", ".join(said.get("authors", ())),
        "Verdict there": f"{verdict.strip()} – said by the package, not checked here" if verdict.strip() else "",
        "Scores there": f"{', '.join(scores)} – said by the package, not checked here" if scores else "",
        "Dataset there": str(said.get("dataset", "")),
        "Its example": f"differs by at most {100 * said.get('example_difference', 0.0):.2g} % of the range",
    }


def _value(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _kept(name: str, kept: KeptWeights) -> str:
    """Return the name of weights with the epoch they are from and what they were selected by, where that is known."""
    from parfocal.cli._render import number

    said = [f"epoch {kept.epoch}"] if kept.epoch else []
    said += [f"{kept.metric} {number(kept.value)}"] if kept.value is not None else []
    return f"{name} ({', '.join(said)})" if said else name


def _json(summary: ModelSummary) -> dict[str, Any]:
    verdict = summary.verdict
    return {
        **summary.manifest.model_dump(mode="json"),
        "uri": summary.uri,
        "verdict": {
            "state": verdict.state,
            "reasons": list(verdict.reasons),
            "job": verdict.job,
            "uri": verdict.uri,
            "next_steps": list(verdict.next_steps),
        },
    }


add_share_commands(models, "model")
