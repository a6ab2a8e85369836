"""What the benchmarks of methods share: options, clocks, jobs done as a worker does them, and the ratios."""

from __future__ import annotations

import argparse
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from support import S3Server, publish_dataset, publish_kind

from parfocal import v1
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import read_image
from parfocal.runtime.jobs.admission import admit
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.jobs.records import JobStore, set_state
from parfocal.runtime.methods.service import Service, load_object, values_struct
from parfocal.runtime.store.manifests import MODEL_MANIFEST, RESULT_MANIFEST, ModelManifest, ResultManifest, public_name
from parfocal.runtime.store.store import Location, Store


def options_for(page: str, *, epochs: int, patch: int, batch: int, patches_per_image: int) -> argparse.ArgumentParser:
    """Return the parser of the options that all have; the numbers are the defaults, `page` is the help."""
    parser = argparse.ArgumentParser(description=page, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--patch", type=int, default=patch)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--patches-per-image", type=int, default=patches_per_image)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def training_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options as parameters of a training."""
    return {
        "epochs": options.epochs,
        "patch_size": options.patch,
        "batch_size": options.batch,
        "patches_per_image": options.patches_per_image,
        "seed": options.seed,
    }


class Clock:
    """Wall and processor seconds of a block."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


def run_job(
    service: Service, store: Store, request: v1.StartJobRequest, scratch: Path, minutes: float | None = None
) -> v1.Job:
    """Do a job as a worker does, in this process; end a training after some minutes, as a user can who has enough."""
    request.request_id, request.project = uuid.uuid4().hex, "default"
    jobs = JobStore(store)
    job = admit(service, store, jobs, request)

    def running(job: v1.Job) -> v1.JobEvent:
        job.attempt = 1
        return set_state(job, v1.JOB_STATE_RUNNING, "benchmark")

    job = jobs.change(job.project, job.id, running)
    context = JobContext(service, store, job, scratch / job.id)
    context.scratch.mkdir(parents=True)
    timer = threading.Timer(
        60 * (minutes or 0), jobs.mark_cancelled, (job, 1), {"keep_best": True, "why": "the time is up"}
    )
    if minutes is not None:
        timer.start()
    try:
        load_object(context.work.run)(context)
    finally:
        timer.cancel()
    context.succeed()
    return context.job


@contextmanager
def local_store(folder: Path) -> Iterator[Store]:
    """Have a real S3 server for what is done in a folder."""
    server = S3Server(folder / "s3")
    server.start()
    try:
        os.environ.update(server.environment, PARFOCAL_STATE_DIR=str(folder / "state"))
        yield server.store()
    finally:
        server.stop()


def events(store: Store, job: v1.Job) -> list[v1.JobEvent]:
    """Return all events of a job."""
    jobs = JobStore(store)
    return list(jobs.events(jobs.read(job.project, job.id), 0))


@dataclass(frozen=True)
class Measured:
    """What Parfocal took to train on the training images and to predict the test images, and what came out.

    Attributes
    ----------
    training, predicting
        Of the whole jobs.
    epochs
        Seconds of the epochs alone.
    rows
        For each epoch: its metrics.
    predictions
        By stem of the test image, and for further targets by role and stem.
    """

    training: Clock
    predicting: Clock
    epochs: float
    rows: list[dict[str, float]]
    model: ModelManifest
    predictions: dict[str, Any]

    def steps(self, patches_per_image: int, batch: int) -> int:
        """Return the training steps of an epoch."""
        return -(-len(self.model.split["training"]) * patches_per_image // batch)

    def print_ratios(self, training: float, predicting: float, other: str) -> None:
        """Print how many times faster Parfocal was than `other`, which took these seconds for the same work."""
        print(f"training: {training / self.training.wall:.2f}x, ", end="")
        print(f"prediction: {predicting / self.predicting.wall:.2f}x as fast as {other}")

    @property
    def held_out(self) -> set[str]:
        """Stems of the validation images."""
        return {region["stem"] for region in self.model.split["validation"]}


def restoration_quality(predictions: Mapping[str, Any], target_folder: Path) -> tuple[float, float]:
    """Return mean PSNR (dB) and SSIM over the test images, each after the fit of quality control."""
    from parfocal.qc.metrics.images.restoration import score_restoration

    targets = find_images(target_folder)
    scores = [score_restoration(predictions[stem], read_image(path).pixels)[0] for stem, path in targets.items()]
    return float(np.mean([score.psnr for score in scores])), float(np.mean([score.ssim for score in scores]))


def train_and_predict(
    service: Service, method: str, data: Path, parameters: Mapping[str, Any], folder: Path, kind: str = ""
) -> Measured:
    """Train on FOLDER/train and predict FOLDER/test through the worker's code on a real store.

    With a `kind` the data become a dataset as the client makes it, else one without a recorded kind.
    """
    with local_store(folder) as store:
        dataset_uri = (
            publish_kind(store, "benchmark", data, kind) if kind else publish_dataset(store, "benchmark", data)
        )
        spec = v1.TrainingSpec(
            method=method, dataset_uri=dataset_uri, model="benchmark", parameters=values_struct(dict(parameters))
        )
        with Clock() as training:
            job = run_job(service, store, v1.StartJobRequest(training=spec), folder)
        rows = [event.epoch_completed for event in events(store, job) if event.HasField("epoch_completed")]
        model = ModelManifest.read(store, Location.parse(job.outputs[0].uri) / MODEL_MANIFEST)
        predict = v1.PredictionSpec(model_uri=job.outputs[0].uri, input_uri=dataset_uri, split="test")
        with Clock() as predicting:
            result = run_job(service, store, v1.StartJobRequest(prediction=predict), folder)
        place = Location.parse(result.outputs[0].uri)
        predictions = {}
        for image in ResultManifest.read(store, place / RESULT_MANIFEST).images:
            for role, name in image.outputs.items():
                if name.endswith(".tif"):
                    store.download(place / name, folder / "out" / public_name(name))
                    stem = Path(name).stem
                    label = stem if role == "prediction" else f"{role}/{stem}"
                    predictions[label] = read_image(folder / "out" / public_name(name)).pixels
        return Measured(
            training,
            predicting,
            sum(row.seconds for row in rows),
            [dict(row.metrics) for row in rows],
            model,
            predictions,
        )
