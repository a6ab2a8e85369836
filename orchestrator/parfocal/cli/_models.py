"""`parfocal models …`: what has been trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import Group, current_app

if TYPE_CHECKING:
    from parfocal.client.models import ModelSummary


@click.group(cls=Group, short_help="List, show and download models.")
def models() -> None:
    """Trained models: list, look at, download."""


@models.command("list")
def list_() -> None:
    """List the models of the project with all their versions and the newest verdict."""
    app = current_app()
    from parfocal.cli._render import local_time, print_json, print_table, say
    from parfocal.client.models import list_models

    with app.client() as client:
        summaries = list_models(client)
        if app.json:
            print_json([_json(item) for item in summaries])
            return
        if not summaries:
            say(f"There are no models in project {client.project!r}. Make one with `parfocal train`.")
            return
    rows = [
        (
            f"{item.manifest.model}:{item.manifest.version}",
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
    from parfocal.client.models import read_model

    with app.client() as client:
        summary = read_model(client, name)
    manifest = summary.manifest
    if app.json:
        print_json(_json(summary))
        return
    packages = manifest.environment.get("packages", {})
    print_fields(
        {
            "Model": f"{manifest.model}:{manifest.version}",
            "Method": manifest.method,
            "Dataset": _dataset(summary),
            "Started from": manifest.parent,
            "Axes": manifest.axes,
            "Training": f"{manifest.epochs} epochs in {duration(manifest.training_seconds)}, best epoch "
            f"{manifest.best_epoch}",
            "Losses": ", ".join(f"{name} {number(value)}" for name, value in manifest.metrics.items()),
            "Set on validation": ", ".join(
                f"{name.replace('_', ' ')} {number(value)}" for name, value in manifest.calibration.items()
            ),
            "Made with": ", ".join(f"{package} {version}" for package, version in packages.items()),
            "Device": " ".join(str(manifest.environment.get(key, "")) for key in ("device", "precision")).strip(),
            "Created": local_time(manifest.created_at),
            "Job": manifest.job,
            "Place": summary.uri,
            "QC": summary.verdict.uri,
        }
    )
    print_verdict(summary.verdict)
    rows = [(name, _value(value)) for name, value in manifest.parameters.items()]
    print_table(("Parameter", "Value"), rows, numbers=("Value",))
    files = [(entry.name, megabytes(entry.size)) for entry in manifest.files]
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


def _dataset(summary: ModelSummary) -> str:
    parts = summary.manifest.dataset_uri.rsplit("/", 2)
    return ":".join(parts[-2:]) if len(parts) == 3 else summary.manifest.dataset_uri


def _value(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _json(summary: ModelSummary) -> dict[str, Any]:
    verdict = summary.verdict
    return {
        **summary.manifest.model_dump(mode="json"),
        "uri": summary.uri,
        "verdict": {"state": verdict.state, "reasons": list(verdict.reasons), "job": verdict.job, "uri": verdict.uri},
    }
