"""Whose the models and results of jobs are, and whose eyes stay on a job: a service with identities does real work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from access_matrix import OWN, People, make_people
from support import ServiceProcess, publish_dataset

from parfocal import v1
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.store.manifests import MODEL_MANIFEST, RESULT_MANIFEST, ModelManifest, ResultManifest
from parfocal.runtime.store.store import Location, Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("people")


@pytest.fixture(scope="module")
def people(folder: Path) -> People:
    return make_people(folder)


@pytest.fixture(scope="module")
def jobs(start_service: Callable[..., ServiceProcess], people: People) -> Iterator[v1.JobServiceStub]:
    process = start_service("fake", **people.settings)
    with grpc.insecure_channel(process.address) as channel:
        yield v1.JobServiceStub(channel)
    process.stop()


def training(dataset: str, **parameters: Any) -> v1.StartJobRequest:
    values = values_struct({"epochs": 1, **parameters})
    spec = v1.TrainingSpec(method="fake-2d", dataset_uri=dataset, model="whose", parameters=values)
    return v1.StartJobRequest(project=OWN, training=spec)


def finished(jobs: v1.JobServiceStub, request: v1.StartJobRequest, metadata: list[tuple[str, str]]) -> v1.Job:
    job = jobs.StartJob(request, metadata=metadata).job
    watch = v1.WatchJobRequest(project=OWN, job_id=job.id)
    done = list(jobs.WatchJob(watch, timeout=120, metadata=metadata))[-1].job
    assert done.state == v1.JOB_STATE_SUCCEEDED, done.error.text
    return done


def test_models_and_results_belong_to_whom_started_the_job(
    jobs: v1.JobServiceStub, people: People, store: Store, pairs_folder: Path
) -> None:
    dataset = publish_dataset(store, "whose", pairs_folder, OWN)
    trained = finished(jobs, training(dataset), people.metadata("user"))
    uri = trained.outputs[0].uri
    assert ModelManifest.read(store, Location.parse(uri) / MODEL_MANIFEST).created_by == "machine:user"
    # An operator, for somebody: it is theirs, and who asked for it is noted.
    request = v1.StartJobRequest(
        project=OWN, prediction=v1.PredictionSpec(model_uri=uri, input_uri=dataset, split="test")
    )
    behalf = [*people.metadata("operator"), ("parfocal-acts-for", "somebody")]
    predicted = finished(jobs, request, behalf)
    result = ResultManifest.read(store, Location.parse(predicted.outputs[0].uri) / RESULT_MANIFEST)
    assert (result.created_by, predicted.requested_by) == ("somebody", "machine:operator")


def test_watching_ends_with_the_role(
    jobs: v1.JobServiceStub, people: People, store: Store, pairs_folder: Path, folder: Path
) -> None:
    dataset = publish_dataset(store, "watched", pairs_folder, OWN)
    user = people.metadata("user")
    job = jobs.StartJob(training(dataset, epochs=500, pause_seconds=0.3), metadata=user).job
    watching = jobs.WatchJob(
        v1.WatchJobRequest(project=OWN, job_id=job.id), timeout=120, metadata=people.metadata("viewer")
    )
    next(watching)
    access = folder / "access.toml"
    access.write_text(access.read_text().replace('viewers = ["machine:viewer"]', ""))
    withdrawn = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        list(watching)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert time.monotonic() - withdrawn < 60
    jobs.CancelJob(v1.CancelJobRequest(project=OWN, job_id=job.id), metadata=user)
