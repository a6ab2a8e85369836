"""Published models and their verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.published import OnDamaged, log_damaged, manifest_of, read_published
from parfocal.client.transfer import OnProgress, download_files, no_progress, refuse_existing
from parfocal.client.uploads import ToSend, uploading
from parfocal.runtime.store.manifests import MODEL_MANIFEST, UNCERTAINTY_FACTOR, ModelManifest
from parfocal.runtime.store.publish import folder_files
from parfocal.runtime.store.verdicts import Verdict


@dataclass(frozen=True)
class ModelSummary:
    """A published model version with its newest verdict."""

    manifest: ModelManifest
    verdict: Verdict
    uri: str


def list_models(client: Client, on_damaged: OnDamaged = log_damaged, *, shared: bool = False) -> list[ModelSummary]:
    """Return all published versions of all models of the project, by name, newest first.

    `on_damaged` is told of those whose manifest cannot be read, which are left out. With `shared` those that other
    projects share with this one follow.
    """
    return read_published(client, "model", lambda entry: _summary(client, entry), on_damaged, shared=shared)


def read_model(client: Client, name: str) -> ModelSummary:
    """Return the model "name" (newest version) or "name:version"; its address is accepted too."""
    catalog = client.catalog
    return _summary(client, catalog.entry_at(name) if name.startswith("s3://") else catalog.entry("model", name))


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
        client,
        summary.uri,
        summary.manifest.files,
        folder,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    manifest.write_bytes(client.catalog.read(summary.uri))
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
    with uploading(client, "model", name) as upload:
        named = [(path.name, ToSend(path, file)) for path, file in folder_files(folder)]
        files = upload.send_all(named, lambda file: file)
        fields = {
            **contents,
            "project": client.project,
            "model": name,
            "version": upload.version,
            "service": service,
            "job": "",
            "dataset_uri": "",
            "origin": origin,
            "files": files,
        }
        entry = upload.publish(MODEL_MANIFEST, ModelManifest.model_validate(fields))
    return _summary(client, entry)


def _summary(client: Client, entry: v1.Entry) -> ModelSummary:
    said = entry.model.verdict
    verdict = Verdict(said.state, tuple(said.reasons), said.job, said.uri, tuple(said.next_steps))
    return ModelSummary(manifest_of(client, entry, ModelManifest), verdict, entry.uri)
