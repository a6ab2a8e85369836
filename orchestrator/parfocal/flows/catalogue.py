"""What there is to choose from: methods of the services, datasets and models of the project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parfocal import v1
from parfocal.client import Client
from parfocal.runtime.manifests import DATASET_MANIFEST, MODEL_MANIFEST, ModelManifest
from parfocal.runtime.names import published_versions
from parfocal.runtime.store import Location


@dataclass(frozen=True)
class Catalogue:
    """What can be chosen at one moment.

    Attributes
    ----------
    methods
        The methods of all services, by name.
    datasets
        "name:version" of every published dataset version, newest version first within a name.
    models
        The same for models, by the method that made them.
    """

    methods: Sequence[v1.Method]
    datasets: Sequence[str]
    models: Mapping[str, Sequence[str]]


class CatalogueReader:
    """Reads the catalogue again and again; remembers what cannot change.

    Methods of a service that does not answer at the moment stay in the catalogue: its deployments must not come and go.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._methods: dict[str, v1.Method] = {}
        self._made_by: dict[str, str] = {}

    def read(self) -> Catalogue:
        """Return the catalogue as it is now."""
        for info in self._client.services():
            self._methods.update({method.name: method for method in info.methods})
        store, project = self._client.store, self._client.project
        models: dict[str, list[str]] = {}
        for name, place in _published(self._client, store.models / project, MODEL_MANIFEST):
            key = str(place)
            if key not in self._made_by:
                # A published manifest never changes.
                self._made_by[key] = ModelManifest.read(store, place / MODEL_MANIFEST).method
            models.setdefault(self._made_by[key], []).append(name)
        datasets = [name for name, _ in _published(self._client, store.datasets / project, DATASET_MANIFEST)]
        methods = tuple(self._methods[name] for name in sorted(self._methods))
        return Catalogue(methods, tuple(datasets), models)


def _published(client: Client, folder: Location, manifest: str) -> list[tuple[str, Location]]:
    found = []
    for name in sorted(client.store.folders(folder)):
        place = folder / name
        for version in reversed(published_versions(client.store, place, manifest)):
            found.append((f"{name}:{version}", place / str(version)))
    return found
