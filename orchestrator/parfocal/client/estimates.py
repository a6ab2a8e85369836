"""What a training will probably need, by what was measured of others; nothing where nothing was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import json_format

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.models import read_model
from parfocal.client.parameters import schema_of
from parfocal.client.published import read_manifest
from parfocal.client.watching import seconds_at_work
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.methods.capacity import Capacity, Need
from parfocal.runtime.store.manifests import DatasetManifest

_MOST: Final = 3
"""So many earlier trainings are looked at."""
# A step takes as long whatever they are; `epochs` is what the time is proportional to.
_FREE: Final = frozenset({"epochs", "seed", "learning_rate", "plateau_patience", "plateau_factor", "decay_epochs"})


@dataclass(frozen=True)
class Estimate:
    """What is known of a training before it starts.

    Attributes
    ----------
    seconds
        Least and largest time that it will probably take, from its first worker to its end; None: unknown.
    memory_gib, device_memory_gib
        Memory of its process, and of the GPU, in GiB; 0: unknown or none.
    seconds_per_step
        Time of a step, where the whole time is not known; 0: unknown.
    device
        The device that this holds for.
    jobs
        The trainings that it follows from, the newest first; empty: it follows from a measurement of the method.
    images
        Training images of those trainings where they had others than this one; 0: the same dataset.
    """

    seconds: tuple[float, float] | None
    memory_gib: float
    device_memory_gib: float
    seconds_per_step: float
    device: str
    jobs: Sequence[v1.Job] = ()
    images: int = 0


def estimate_training(
    client: Client,
    method: v1.Method,
    dataset: DatasetManifest | None,
    values: Mapping[str, Any],
    jobs: Sequence[v1.Job],
) -> Estimate | None:
    """Return what is known of a training with these parameters; None where nothing was measured.

    Earlier trainings count that differ in nothing but what leaves the time of a step as it is, on the device of the
    newest one. Those on the same dataset are preferred; of others the time is proportional to the number of images.

    Parameters
    ----------
    client
        Whose project it is.
    method
        As its service publishes it.
    dataset
        What is trained on; None: not chosen yet.
    values
        Parameters that differ from their defaults.
    jobs
        Jobs of the project, the newest first.
    """
    named = _all_values(method, values)
    like = list(_like(method, named, jobs))
    if like and dataset is not None:
        uri = client.dataset_uri(client.catalog.title(dataset.project, dataset.dataset, dataset.version))
        same = [job for job in like if job.training.dataset_uri == uri]
        found = _by_jobs(client, named, dataset, same) or _by_jobs(client, named, dataset, like)
        if found is not None:
            return found
    capacity = Capacity.of(method)
    need = need_of(capacity, method, values) if capacity is not None else None
    if capacity is None or need is None:
        return None
    return Estimate(None, need.memory_gib, need.device_memory_gib, need.seconds_per_step, capacity.device)


def need_of(capacity: Capacity, method: v1.Method, values: Mapping[str, Any]) -> Need | None:
    """Return what a training with these parameters needs by what was measured; None where its sizes are not known."""
    named = _all_values(method, values)
    # The axes of what was measured: patches of volumes have a depth in front.
    edges = ["patch_size"] * len(capacity.points[0].patch_shape)
    if len(edges) > 2:
        edges[0] = "patch_depth"
    given = [named.get(name) for name in ("batch_size", *edges)]
    sizes = [int(size) for size in given if size]
    return capacity.need(sizes[0], sizes[1:]) if len(sizes) == len(given) else None


def _all_values(method: v1.Method, values: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema_of(method, v1.JOB_KIND_TRAINING)["properties"]
    return {name: values.get(name, field.get("default")) for name, field in properties.items()}


def _like(method: v1.Method, named: Mapping[str, Any], jobs: Sequence[v1.Job]) -> Iterator[v1.Job]:
    """Yield the finished trainings whose steps take as long, on one device and in one precision, the newest first."""
    place: tuple[str, int, str] | None = None
    for job in jobs:
        if job.method != method.name or not job.HasField("training") or job.state != v1.JOB_STATE_SUCCEEDED:
            continue
        ran_on = job.environment.device, job.environment.threads, job.environment.precision
        resolved = json_format.MessageToDict(job.resolved_parameters)
        if any(resolved.get(name) != value for name, value in named.items() if name not in _FREE):
            continue
        if place is None:
            place = ran_on
        if ran_on == place and job.progress.epoch:
            yield job


def _by_jobs(
    client: Client, named: Mapping[str, Any], dataset: DatasetManifest, jobs: Sequence[v1.Job]
) -> Estimate | None:
    images, known = _images(dataset), _Datasets(client)
    seconds: list[float] = []
    used: list[v1.Job] = []
    peaks: list[v1.PeakMemory] = []
    others = 0
    for job in jobs:
        if len(used) == _MOST:
            break
        try:
            model = read_model(client, next(output.uri for output in job.outputs if output.kind == "model")).manifest
            before = known.read(job.training.dataset_uri)
        except (ParfocalError, StopIteration):
            continue  # deleted since, or of another project
        if not model.epochs or not _images(before):
            continue
        # A training that counts in steps has another number of epochs than its parameter says.
        epochs = model.epochs if named.get("steps") else int(named.get("epochs") or model.epochs)
        rest = max(0.0, seconds_at_work(job) - model.training_seconds)
        seconds.append(rest + epochs * model.training_seconds / model.epochs * images / _images(before))
        if (before.project, before.dataset, before.version) != (dataset.project, dataset.dataset, dataset.version):
            others = max(others, _images(before))
        # All images are in memory: of smaller datasets nothing follows.
        if job.HasField("peak_memory") and _size(before) >= _size(dataset):
            peaks.append(job.peak_memory)
        used.append(job)
    if not used:
        return None
    return Estimate(
        (min(seconds), max(seconds)),
        max((peak.memory_gib for peak in peaks), default=0.0),
        max((peak.device_memory_gib for peak in peaks), default=0.0),
        0.0,
        used[0].environment.device,
        used,
        others,
    )


class _Datasets:
    """Manifests of datasets, each read once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, DatasetManifest] = {}

    def read(self, uri: str) -> DatasetManifest:
        if uri not in self._known:
            self._known[uri] = read_manifest(self._client, uri, DatasetManifest)
        return self._known[uri]


def _images(dataset: DatasetManifest) -> int:
    return len(dataset.select("train", "source"))


def _size(dataset: DatasetManifest) -> int:
    return sum(entry.size for entry in dataset.files if entry.public_name.startswith("train/"))
