"""What there is to choose from: methods of the services, datasets, models and evaluations of the project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from parfocal import v1
from parfocal.client import Client
from parfocal.client.published import log_damaged, published_places
from parfocal.runtime.errors import DamagedError, NotFoundError
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    ModelManifest,
    ResultManifest,
)
from parfocal.runtime.store.names import versioned_name

# A longer drop-down helps nobody; older evaluations can be compared on the command line.
_MOST_EVALUATIONS = 100


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
    evaluations
        The newest evaluations as `evaluation_choice` writes them, newest first, by the method that made them.
    """

    methods: Sequence[v1.Method]
    datasets: Sequence[str]
    models: Mapping[str, Sequence[str]]
    evaluations: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def models_for(self, task: v1.Task.ValueType) -> list[str]:
        """Return the models of all methods with a task."""
        return [name for method in self.methods if method.task == task for name in self.models.get(method.name, ())]


def evaluation_choice(evaluation: ResultManifest) -> str:
    """Return an evaluation as people choose it, e.g. "beads:1 on beads:2, test images, 2026-11-24 15:30 · JOB"."""
    outputs = evaluation.images[0].outputs if evaluation.images else {}
    who = (
        versioned_name(evaluation.model_uri)
        if evaluation.model_uri
        else outputs.get("prediction", "").rsplit("/", 1)[-1]
    )
    when = f"{evaluation.created_at:%Y-%m-%d %H:%M}"
    return f"{who} on {versioned_name(evaluation.input_uri)}, {evaluation.split} images, {when} · {evaluation.job}"


def job_of_choice(text: str) -> str:
    """Return the job of an evaluation that was chosen, or typed as the job alone."""
    return text.split()[-1] if text.strip() else ""


class CatalogueReader:
    """Reads the catalogue again and again; remembers what cannot change.

    Methods of a service that does not answer at the moment stay in the catalogue: its deployments must not come and go.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._methods: dict[str, v1.Method] = {}
        self._made_by: dict[str, str] = {}
        self._told: set[str] = set()
        self._results: dict[str, _Evaluation | None] = {}

    def read(self) -> Catalogue:
        """Return the catalogue as it is now."""
        for info in self._client.services():
            self._methods.update({method.name: method for method in info.methods})
        store, project = self._client.store, self._client.project
        models: dict[str, list[str]] = {}
        for name, place in published_places(store, store.models / project, MODEL_MANIFEST):
            key = str(place)
            if key not in self._made_by:
                # A published manifest never changes.
                try:
                    self._made_by[key] = ModelManifest.read(store, place / MODEL_MANIFEST).method
                except DamagedError as error:
                    if key not in self._told:
                        log_damaged(error)
                        self._told.add(key)
                    continue
            models.setdefault(self._made_by[key], []).append(name)
        datasets = [name for name, _ in published_places(store, store.datasets / project, DATASET_MANIFEST)]
        methods = tuple(self._methods[name] for name in sorted(self._methods))
        return Catalogue(methods, tuple(datasets), models, self._evaluations())

    def _evaluations(self) -> dict[str, list[str]]:
        store = self._client.store
        folder = store.results / self._client.project
        found: dict[str, list[_Evaluation]] = {}
        for name in store.folders(folder):
            if name not in self._results:
                try:
                    self._results[name] = _evaluation(ResultManifest.read(store, folder / name / RESULT_MANIFEST))
                except (NotFoundError, DamagedError):
                    continue  # not published, or not yet; or damaged, which must not close all forms
            evaluation = self._results[name]
            if evaluation is not None:
                found.setdefault(evaluation.method, []).append(evaluation)
        return {
            method: [
                each.choice
                for each in sorted(evaluations, key=lambda each: each.created_at, reverse=True)[:_MOST_EVALUATIONS]
            ]
            for method, evaluations in found.items()
        }


@dataclass(frozen=True)
class _Evaluation:
    method: str
    created_at: datetime
    choice: str


def _evaluation(result: ResultManifest) -> _Evaluation | None:
    # Those of datasets alone compare nothing.
    if result.kind != "evaluation" or not result.split:
        return None
    return _Evaluation(result.method, result.created_at, evaluation_choice(result))
