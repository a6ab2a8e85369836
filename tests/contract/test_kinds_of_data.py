"""Tiny methods of every kind of data go through the one training loop, and no interruption changes their models."""

from __future__ import annotations

import csv
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psutil
import pytest
from contract_session import FINAL, Session, struct
from example_data import write_kind
from support import publish_kind, wait_for

from parfocal import v1
from parfocal.runtime.prediction.pace import sentence
from parfocal.runtime.store.manifests import MODEL_MANIFEST, RESULT_MANIFEST, ModelManifest, ResultManifest
from parfocal.runtime.store.store import Location

PAUSE = 0.1
# By method: the kind of its data, the losses it names, and the weights it keeps with what selects them.
METHODS: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "tiny-labels": ("labels", ("loss", "brier"), {"best": "val_loss", "best-dice": "dice"}),
    "tiny-boxes": ("boxes", ("count", "size"), {"best": "val_count"}),
    "tiny-classes": ("classes", ("loss", "wrong"), {"best": "val_loss"}),
    "tiny-coordinates": ("coordinates", ("loss",), {"best": "val_loss"}),
    "tiny-sources": ("sources", ("loss",), {"best": "val_loss"}),
    "tiny-unpaired": ("unpaired", ("cycle", "generator", "judge"), {"best-cycle": "val_cycle"}),
}


# What each method makes of an image.
OUTPUTS = {
    "tiny-labels": {"prediction", "objects"},
    "tiny-boxes": {"detections", "rois", "voc", "overlay"},
    "tiny-classes": {"prediction", "probability"},
    "tiny-coordinates": {"localisations", "picasso", "picasso_info"},
    "tiny-sources": {"prediction"},
    "tiny-unpaired": {"prediction"},
}


@pytest.fixture(scope="module")
def channel(start_service: Callable[..., Any]) -> Iterator[tuple[Any, grpc.Channel]]:
    process = start_service("kinds", checkpoint_seconds="0")
    with grpc.insecure_channel(process.address) as channel:
        yield process, channel


@pytest.fixture(scope="module", params=list(METHODS))
def service(request: pytest.FixtureRequest, channel: tuple[Any, grpc.Channel]) -> Session:
    process, connection = channel
    return Session(process, request.param, connection)


@pytest.fixture(scope="module")
def dataset(service: Session, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    kind = METHODS[service.method][0]
    return publish_kind(s3.store(), kind, write_kind(tmp_path_factory.mktemp(kind), kind), kind)


def start(service: Session, dataset: str, **parameters: Any) -> v1.Job:
    spec = v1.TrainingSpec(
        method=service.method,
        dataset_uri=dataset,
        model=f"m-{uuid.uuid4().hex[:8]}",
        parameters=struct({"epochs": 6, **parameters}),
    )
    return service.jobs.StartJob(v1.StartJobRequest(training=spec)).job


@pytest.fixture(scope="module")
def undisturbed(service: Session, dataset: str) -> v1.Job:
    job = service.finish(start(service, dataset))
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    return job


def model_of(store: Any, job: v1.Job) -> ModelManifest:
    return ModelManifest.read(store, Location.parse(job.outputs[0].uri) / MODEL_MANIFEST)


def test_losses_and_scores_are_shown_under_their_names(service: Session, undisturbed: v1.Job, store: Any) -> None:
    _, losses, kept = METHODS[service.method]
    model, place = model_of(store, undisturbed), Location.parse(undisturbed.outputs[0].uri)
    table = store.read(model.place_of(place, "training.csv")).decode()
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert list(rows[0])[: 1 + len(losses)] == ["epoch", *losses]
    for metric in kept.values():
        assert rows[-1][metric]
    first, last = (float(rows[place][losses[0]]) for place in (0, -1))
    assert last < first
    assert {name: weights.metric for name, weights in model.weights.items()} == {**kept, "last": ""}
    for name, metric in kept.items():
        values = {int(row["epoch"]): float(row[metric]) for row in rows if row[metric]}
        best = max if name == "best-dice" else min
        assert model.weights[name].value == best(values.values())
        assert model.weights[name].epoch == best(values, key=lambda epoch: values[epoch])


def test_the_model_predicts_the_images_it_was_not_trained_on(
    service: Session, dataset: str, undisturbed: v1.Job, store: Any
) -> None:
    spec = v1.PredictionSpec(model_uri=undisturbed.outputs[0].uri, input_uri=dataset, split="test")
    job = service.finish(service.jobs.StartJob(v1.StartJobRequest(prediction=spec)).job)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    assert 0 < job.metrics["predicting_share"] <= 1
    assert "megapixels per second" in sentence(job.metrics)
    result = ResultManifest.read(store, Location.parse(job.outputs[0].uri) / RESULT_MANIFEST)
    assert result.images
    assert all(set(image.outputs) - {"trackmate"} == OUTPUTS[service.method] for image in result.images)


def test_a_training_that_is_cancelled_resumed_and_killed_gives_the_same_model(
    service: Session, dataset: str, undisturbed: v1.Job, store: Any
) -> None:
    job = start(service, dataset, pause_seconds=PAUSE)
    get = v1.GetJobRequest(job_id=job.id)
    wait_for(lambda: service.jobs.GetJob(get).job.progress.epoch >= 2, 60, "the second epoch")
    service.jobs.CancelJob(v1.CancelJobRequest(job_id=job.id))
    wait_for(lambda: service.jobs.GetJob(get).job.state in FINAL, 30, "the end")
    assert service.jobs.GetJob(get).job.state == v1.JOB_STATE_CANCELLED
    reached = service.jobs.GetJob(get).job.progress.epoch
    service.jobs.ResumeJob(v1.ResumeJobRequest(job_id=job.id))
    wait_for(lambda: service.jobs.GetJob(get).job.progress.epoch > reached, 60, "a further epoch")
    server = psutil.Process(service.process.process.pid)
    (worker,) = [child for child in server.children() if job.id in child.cmdline()]
    worker.kill()
    done = service.finish(job)
    assert done.state == v1.JOB_STATE_SUCCEEDED, done.error.text
    assert done.attempt == 3
    by_time = {"training.csv", "training_report.pdf", "loss.png"}
    models = [model_of(store, each) for each in (undisturbed, done)]
    files = [
        {entry.public_name: entry.sha256 for entry in model.files if entry.public_name not in by_time}
        for model in models
    ]
    assert files[0]
    assert files[0] == files[1]
    assert models[0].facts == models[1].facts
    assert models[0].weights == models[1].weights
    assert models[0].metrics == models[1].metrics
