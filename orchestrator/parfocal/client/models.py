"""Published models and their verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal.client.client import Client
from parfocal.client.transfer import OnProgress, download_files, for_each, no_progress, refuse_existing
from parfocal.runtime.manifests import MODEL_MANIFEST, UNCERTAINTY_FACTOR, ModelManifest
from parfocal.runtime.names import model_location, published_versions
from parfocal.runtime.publish import claim_version, folder_files, publish, upload_files
from parfocal.runtime.store import Location


@dataclass(frozen=True)
class Verdict:
    """What quality control said last about a model.

    Attributes
    ----------
    state
        "passed", "failed", or "unchecked" where quality control has not looked at the model.
    reasons
        Why, in plain sentences.
    job
        The evaluation job; empty for "unchecked".
    uri
        Folder with figure and tables in the store; empty for "unchecked".
    """

    state: str
    reasons: Sequence[str] = ()
    job: str = ""
    uri: str = ""

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if self.state == "unchecked":
            return "This model has not been checked by quality control."
        why = "; ".join(reason.rstrip(".") for reason in self.reasons)
        return f"This model {self.state} quality control" + (f": {why}." if why else ".")


@dataclass(frozen=True)
class ModelSummary:
    """A published model version with its newest verdict."""

    manifest: ModelManifest
    verdict: Verdict
    uri: str


def list_models(client: Client) -> list[ModelSummary]:
    """Return all published versions of all models of the project, by name, newest first."""
    project = client.store.models / client.project
    places = []
    for name in client.store.folders(project):
        folder = project / name
        versions = published_versions(client.store, folder, MODEL_MANIFEST)
        places += [(str(folder / str(version)), folder / str(version)) for version in reversed(versions)]
    return for_each(places, lambda place: _summary(client, place))


def read_model(client: Client, name: str) -> ModelSummary:
    """Return the model "name" (newest version) or "name:version"; its address is accepted too."""
    uri = name if name.startswith("s3://") else client.model_uri(name)
    return _summary(client, Location.parse(uri))


def judging_parameters(model: ModelManifest) -> dict[str, Any]:
    """Return the parameters of a prediction that shall be judged: with the uncertainty where there is one."""
    return {"uncertainty": True} if UNCERTAINTY_FACTOR in model.calibration else {}


def newest_verdict(client: Client, model_uri: str) -> Verdict:
    """Return what quality control said last about a model version."""
    folder = Location.parse(model_uri) / "qc"
    found: list[tuple[str, str, Mapping[str, Any], Location]] = []
    for job in client.store.folders(folder):
        place = folder / job
        if client.store.exists(place / "verdict.json"):
            content = client.store.read_json(place / "verdict.json")
            found.append((str(content.get("created_at", "")), job, content, place))
    if not found:
        return Verdict("unchecked")
    # Job ids made by Parfocal begin with the time, which decides where a verdict has none.
    _, job, content, place = max(found, key=lambda item: item[:2])
    return verdict_of(content, job, str(place))


def verdict_of(content: Mapping[str, Any], job: str = "", uri: str = "") -> Verdict:
    """Return the verdict stored in a result's manifest or in verdict.json."""
    reasons = content.get("reasons") or ()
    return Verdict(str(content.get("state") or "unchecked"), tuple(map(str, reasons)), job, uri)


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
    return ModelSummary(manifest, newest_verdict(client, str(place)), str(place))
