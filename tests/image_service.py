"""A running fake service with models, and what tests of PredictImage say to it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from support import ServiceProcess, read_published, wait_for

from parfocal import v1
from parfocal.runtime.jobs.device.lock import DeviceLock, Loan
from parfocal.runtime.jobs.device.use import Kind, Use
from parfocal.runtime.methods.arrays import save_arrays
from parfocal.runtime.methods.service import load_service, values_struct
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import MODEL_MANIFEST, KeptWeights, ModelManifest
from parfocal.runtime.store.names import model_location
from parfocal.runtime.store.publish import claim_version, folder_files, publish, upload_files
from parfocal.runtime.store.store import Location

WEIGHTS = {"best": 1.0, "sharp": 2.0, "last": 0.5}
_FACTS = {"gives-colours": Facts(inputs=(Port(role="source", channels=3),))}
CHUNK = 3 * 2**20
IDLE_SECONDS = 4.0
HOLDER = Use(Kind.PREDICTION, "care", "default", "20261122-demo", short=True)


@dataclass
class Service:
    """A running fake service with a quick and a slow model."""

    process: ServiceProcess
    channel: grpc.Channel
    dataset: str
    models: dict[str, str] = field(default_factory=dict)

    @property
    def jobs(self) -> v1.JobServiceStub:
        return v1.JobServiceStub(self.channel)

    @property
    def state(self) -> Path:
        return self.process.folder / "state"

    def start_training(self, **parameters: Any) -> v1.Job:
        spec = v1.TrainingSpec(
            method="fake-2d",
            dataset_uri=self.dataset,
            model=f"m-{uuid.uuid4().hex[:8]}",
            parameters=values_struct({"epochs": 1, **parameters}),
        )
        return self.jobs.StartJob(v1.StartJobRequest(training=spec)).job

    def start_prediction(self, model: str = "quick", **parameters: Any) -> v1.Job:
        """Start a prediction of the three test images."""
        spec = v1.PredictionSpec(
            model_uri=self.models[model], input_uri=self.dataset, split="test", parameters=values_struct(parameters)
        )
        return self.jobs.StartJob(v1.StartJobRequest(prediction=spec)).job

    def finish(self, job: v1.Job) -> v1.Job:
        done = list(self.jobs.WatchJob(v1.WatchJobRequest(job_id=job.id), timeout=60))[-1].job
        assert done.state == v1.JOB_STATE_SUCCEEDED, done.error.text
        return done

    def state_of(self, job: v1.Job) -> int:
        return self.jobs.GetJob(v1.GetJobRequest(job_id=job.id)).job.state

    @property
    def device(self) -> DeviceLock:
        return DeviceLock(Settings(state_dir=self.state), "device-0")

    def take_device(self) -> Loan | None:
        """Take the device as a prediction of another service would."""
        return self.device.take(HOLDER)

    def drop(self, job: v1.Job) -> None:
        """Cancel a job, or let it end if it is that far, and wait until its worker has left the device."""
        self.jobs.CancelJob(v1.CancelJobRequest(job_id=job.id))
        ended = (v1.JOB_STATE_CANCELLED, v1.JOB_STATE_SUCCEEDED)
        wait_for(lambda: self.state_of(job) in ended, 30, "the end of the job")
        wait_for(self.take_device, 30, "the device").close()

    def call(self, requests: Iterator[v1.PredictImageRequest]) -> Any:
        return v1.MethodServiceStub(self.channel).PredictImage(requests, timeout=60)

    def predict(self, pixels: np.ndarray[Any, Any], model: str = "quick", **header: Any) -> list[Any]:
        return list(self.call(requests_for(pixels, self.models[model], **header)))

    def fails(self, requests: Iterator[v1.PredictImageRequest]) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            list(self.call(requests))
        return caught.value

    def warm_workers(self) -> list[psutil.Process]:
        assert self.process.process is not None
        found = []
        for child in psutil.Process(self.process.process.pid).children():
            try:
                if (
                    child.status() != psutil.STATUS_ZOMBIE
                    and "parfocal.runtime.server.interactive_worker" in child.cmdline()
                ):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def scratch(self) -> list[Path]:
        """What images have left below the scratch folder."""
        return list((self.state / "scratch").glob("images-*/*"))


def header_of(model: str, image: v1.ImageHeader, **parameters: Any) -> v1.PredictImageRequest:
    header = v1.PredictImageHeader(model_uri=model, image=image, parameters=values_struct(parameters))
    return v1.PredictImageRequest(header=header)


def requests_for(
    pixels: np.ndarray[Any, Any], model: str, axes: str = "YX", chunk: int = CHUNK, **parameters: Any
) -> Iterator[v1.PredictImageRequest]:
    image = v1.ImageHeader(
        shape=pixels.shape, dtype=pixels.dtype.name, axes=axes, pixel_size=v1.PixelSize(x=0.1, y=0.2)
    )
    yield header_of(model, image, **parameters)
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    for start in range(0, len(data), chunk):
        yield v1.PredictImageRequest(pixels=data[start : start + chunk])


def outputs_of(answers: list[Any]) -> dict[str, np.ndarray[Any, Any]]:
    collected: list[tuple[v1.ImageHeader, bytearray]] = []
    for answer in answers:
        if answer.HasField("header"):
            collected.append((answer.header, bytearray()))
        elif answer.HasField("pixels"):
            collected[-1][1].extend(answer.pixels)
    return {head.name: np.frombuffer(data, head.dtype).reshape(head.shape) for head, data in collected}


def tables_of(answers: list[Any]) -> dict[str, tuple[list[v1.TableColumn], bytes]]:
    """Return the columns and the text of each table."""
    collected: list[tuple[v1.TableHeader, bytearray]] = []
    for answer in answers:
        if answer.HasField("table"):
            collected.append((answer.table, bytearray()))
        elif answer.HasField("csv"):
            collected[-1][1].extend(answer.csv)
    return {head.name: (list(head.columns), bytes(data)) for head, data in collected}


def warnings_of(answers: list[Any]) -> str:
    return " ".join(answer.warning for answer in answers if answer.HasField("warning"))


def image(*shape: int, dtype: str = "uint16") -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(0, 200, shape).astype(dtype)


def publish_variant(store: Any, model: str, name: str, folder: Path, factor: float = 1.0, **parameters: Any) -> str:
    """Publish a copy of a fake model with another filter or other parameters: quicker than to train it."""
    manifest = ModelManifest.read(store, Location.parse(model) / MODEL_MANIFEST)
    content = json.loads(read_published(store, model, "filter.json"))
    content = {key: [factor * value for value in values] for key, values in content.items()}
    (folder / "filter.json").write_text(json.dumps(content))
    place = claim_version(store, model_location(store, "default", name), "test")
    files = upload_files(store, place, folder_files(folder))
    changed = {
        "model": name,
        "version": int(place.name),
        "files": files,
        "parameters": {**manifest.parameters, **parameters},
    }
    return publish(store, place, MODEL_MANIFEST, manifest.model_copy(update=changed))


def publish_outcomes(store: Any, folder: Path, project: str = "default") -> dict[str, str]:
    """Publish a model of each method of the fake service "outcomes" and return their addresses by method.

    `folder` is an empty one, in which the weights are left.
    """
    for name, factor in WEIGHTS.items():
        save_arrays(folder / f"{name}.npz", {"factor": np.array([factor])})
    published = {}
    for method in load_service("fake.outcomes").methods:
        place = claim_version(store, model_location(store, project, method.name), "test")
        manifest = ModelManifest(
            project=project,
            model=method.name,
            version=int(place.name),
            service="outcomes",
            method=method.name,
            job="none",
            parameters={},
            axes=method.axes,
            normaliser=method.load().normaliser.model_dump(mode="json"),
            facts=_FACTS.get(method.name, Facts()),
            weights={name: KeptWeights(epoch=1) for name in WEIGHTS},
            dataset_uri="",
            files=upload_files(store, place, folder_files(folder)),
        )
        published[method.name] = publish(store, place, MODEL_MANIFEST, manifest)
    return published
