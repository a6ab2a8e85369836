"""What there is to choose from: methods of the services, datasets, models and evaluations of the project."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from parfocal import v1
from parfocal.client import Client
from parfocal.client.published import read_manifest
from parfocal.runtime.datasets.kinds import IMAGE_TARGETS, suits
from parfocal.runtime.errors import DamagedError, NotFoundError
from parfocal.runtime.images.needs import fits_axes
from parfocal.runtime.store.manifests import ResultManifest
from parfocal.runtime.store.names import versioned_name

_log = logging.getLogger(__name__)
# A longer drop-down helps nobody; older evaluations can be compared on the command line.
_MOST_EVALUATIONS = 100
_MOST_READ = 500


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
    kinds
        The kind of each dataset version; "" where none is recorded.
    axes
        The different axes of the source images of each dataset version; none where they are not known.
    """

    methods: Sequence[v1.Method]
    datasets: Sequence[str]
    models: Mapping[str, Sequence[str]]
    evaluations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    axes: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def datasets_for(self, method: v1.Method) -> list[str]:
        """Return the datasets of the kinds and axes that a method can be trained on."""
        needs = method.data_requirements
        return [
            name
            for name in self.datasets
            if suits(self.kinds.get(name, ""), needs.target)
            and (
                needs.target == v1.TARGET_KIND_COORDINATES
                or all(
                    fits_axes(needs.axes, needs.channel_axes, axes, frames=needs.frames)
                    for axes in self.axes.get(name, ())
                )
            )
        ]

    def datasets_to_predict(self, method: v1.Method) -> list[str]:
        """Return the datasets with at least one image of the method's axes, or a stack of such images."""
        wanted = set(method.data_requirements.axes)
        known = {name: self.axes.get(name, frozenset()) for name in self.datasets}
        return [name for name, each in known.items() if not each or any(wanted <= set(axes) for axes in each)]

    def datasets_to_compare(self, method: v1.Method) -> list[str]:
        """Return the datasets that have what an evaluation method compares predictions with."""
        target = method.data_requirements.target
        wanted = IMAGE_TARGETS - {v1.TARGET_KIND_UNPAIRED_IMAGE} if target in IMAGE_TARGETS else {target}
        return [name for name in self.datasets if any(suits(self.kinds.get(name, ""), each) for each in wanted)]

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
        self._results: dict[str, _Evaluation | None] = {}
        self._told: set[str] = set()

    def read(self) -> Catalogue:
        """Return the catalogue as it is now."""
        for info in self._client.services():
            self._methods.update({method.name: method for method in info.methods})
        catalog = self._client.catalog
        models: dict[str, list[str]] = {}
        # What other projects share comes last.
        for entry in (*catalog.entries("model", brief=True, on_damaged=self._tell), *catalog.shared_entries("model")):
            title = catalog.title(entry.project, entry.name, entry.version)
            models.setdefault(entry.model.method, []).append(title)
        datasets = {
            catalog.title(entry.project, entry.name, entry.version): entry.dataset
            for entry in (*catalog.entries("dataset", on_damaged=self._tell), *catalog.shared_entries("dataset"))
        }
        methods = tuple(self._methods[name] for name in sorted(self._methods))
        kinds = {name: details.kind for name, details in datasets.items()}
        axes = {name: frozenset(details.axes) for name, details in datasets.items()}
        return Catalogue(methods, tuple(datasets), models, self._evaluations(), kinds, axes)

    def _tell(self, damaged: str) -> None:
        """Leave one line in the log for each entry that cannot be read."""
        if damaged not in self._told:
            _log.warning("%s", damaged)
            self._told.add(damaged)

    def _evaluations(self) -> dict[str, list[str]]:
        found: dict[str, list[_Evaluation]] = {}
        entries = self._client.catalog.entries("result", query="evaluation", on_damaged=self._tell)
        for entry in islice(entries, _MOST_READ):
            if entry.name not in self._results:
                # A published manifest never changes.
                try:
                    manifest = read_manifest(self._client, entry.uri, ResultManifest)
                except (NotFoundError, DamagedError):
                    continue  # deleted or damaged meanwhile, which must not close all forms
                self._results[entry.name] = _evaluation(manifest)
            evaluation = self._results[entry.name]
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
