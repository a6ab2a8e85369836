"""Published models and their verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal.client.client import Client
from parfocal.client.published import OnDamaged, log_damaged, read_published
from parfocal.client.transfer import OnProgress, download_files, no_progress, refuse_existing
from parfocal.runtime.store.manifests import MODEL_MANIFEST, UNCERTAINTY_FACTOR, ModelManifest
from parfocal.runtime.store.names import model_location
from parfocal.runtime.store.publish import claim_version, folder_files, publish, upload_files
from parfocal.runtime.store.store import Location
from parfocal.runtime.store.verdicts import Verdict, newest_verdict


@dataclass(frozen=True)
class ModelSummary:
    """A published model version with its newest verdict."""

    manifest: ModelManifest
    verdict: Verdict
    uri: str


def list_models(client: Client, on_damaged: OnDamaged = log_damaged) -> list[ModelSummary]:
    """Return all published versions of all models of the project, by name, newest first.

    `on_damaged` is told of those whose manifest cannot be read, which are left out.
    """
    folder = client.store.models / client.project
    return read_published(client.store, folder, MODEL_MANIFEST, lambda place: _summary(client, place), on_damaged)


def read_model(client: Client, name: str) -> ModelSummary:
    """Return the model "name" (newest version) or "name:version"; its address is accepted too."""
    uri = name if name.startswith("s3://") else client.model_uri(name)
    return _summary(client, Location.parse(uri))


def judging_parameters(model: ModelManifest) -> dict[str, Any]:
    """Return the parameters of a prediction that shall be judged: with the uncertainty where there is one."""
    return {"uncertainty": True} if UNCERTAINTY_FACTOR in model.calibration else {}


def download(
    client: Client, name: str, folder: Path, *, overwrite: bool = False, on_progress: OnProgress = no_progress
) -> list[Path]:
    """Download all files of the model "name[:version]" with its manifest to `folder` and return their paths.

    Raises
    ------
    AlreadyExistsError
        Some of the files exist and `overwrite` is false.
    """
    summary = read_model(client, name)
    manifest = folder / MODEL_MANIFEST
    if not overwrite:
        refuse_existing([manifest])
    paths = download_files(
        client.store,
        Location.parse(summary.uri),
        summary.manifest.files,
        folder,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    client.store.download(Location.parse(summary.uri) / MODEL_MANIFEST, manifest)
    return [*paths, manifest]


def publish_import(
    client: Client, name: str, service: str, folder: Path, contents: Mapping[str, Any], *, origin: str
) -> ModelSummary:
    """Publish the files of a model that was not trained here as the next version of the model `name`.

    Parameters
    ----------
    name
        Name of the model; the version is given.
    service
        The service that checked the files.
    folder
        The files of the model.
    contents
        What the service says of it: fields of `ModelManifest`.
    origin
        Where it comes from, for the record.

    Raises
    ------
    InvalidInputError
        The name is no name of a model.
    """
    place = claim_version(client.store, model_location(client.store, client.project, name), "parfocal models import")
    files = upload_files(client.store, place, folder_files(folder))
    fields = {
        **contents,
        "project": client.project,
        "model": name,
        "version": int(place.name),
        "service": service,
        "job": "",
        "dataset_uri": "",
        "origin": origin,
        "files": files,
    }
    publish(client.store, place, MODEL_MANIFEST, ModelManifest.model_validate(fields))
    return _summary(client, place)


def _summary(client: Client, place: Location) -> ModelSummary:
    manifest = ModelManifest.read(client.store, place / MODEL_MANIFEST)
    return ModelSummary(manifest, newest_verdict(client.store, place), str(place))
