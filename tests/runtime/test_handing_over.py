"""A training hands its device to shorter work between two epochs, goes on after it, and gives the same model.

Service, store, workers and device are real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from image_service import Service, image, outputs_of, publish_variant
from support import ServiceProcess, mentions, publish_dataset, read_published, wait_for

from parfocal import v1
from parfocal.runtime.jobs.accounts import device_seconds
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.store.manifests import DATASET_MANIFEST, DatasetManifest
from parfocal.runtime.store.store import Location, Store

# So slow that there is time to ask for something else, whatever the machine does besides.
SLOW = {"epochs": 20, "pause_seconds": 0.15}


@pytest.fixture(scope="module")
def service(
    start_service: Callable[..., ServiceProcess], s3: Any, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    process = start_service("fake", spare_seconds="0", warm_idle_seconds="5", short_prediction_images="3")
    with grpc.insecure_channel(process.address) as channel:
        running = Service(process, channel, publish_dataset(s3.store(), "handing-over", pairs_folder))
        reference = running.finish(running.start_training(epochs=SLOW["epochs"])).outputs[0].uri
        slow = publish_variant(s3.store(), reference, "waits", tmp_path_factory.mktemp("slow"), pause_seconds=0.4)
        running.models = {"reference": reference, "quick": reference, "slow": slow}
        yield running
    process.stop()


def until_training(service: Service, job: v1.Job, epoch: int = 1) -> None:
    def training() -> bool:
        return service.jobs.GetJob(v1.GetJobRequest(job_id=job.id)).job.progress.epoch >= epoch

    wait_for(training, 60, "the first epochs")


def words(store: Store, job: v1.Job) -> list[str]:
    """What the job has said whenever its state changed."""
    jobs = JobStore(store)
    events = jobs.events(jobs.read("default", job.id), 0)
    return [event.state_change.message for event in events if event.HasField("state_change")]


def require_equal(service: Service, store: Store, trained: v1.Job) -> None:
    """Require the model of a training that was never interrupted."""
    wanted = read_published(store, service.models["reference"], "filter.json")
    assert read_published(store, trained.outputs[0].uri, "filter.json") == wanted


def test_a_training_hands_over_to_a_short_prediction_and_goes_on(service: Service, store: Store) -> None:
    training = service.start_training(**SLOW)
    until_training(service, training)
    prediction = service.start_prediction("slow")

    def told() -> bool:
        said = service.jobs.GetJob(v1.GetJobRequest(job_id=prediction.id)).job.message
        return mentions(said, training.id, f"of {SLOW['epochs']}", "about")

    wait_for(told, 20, "what the prediction waits for")
    predicted, trained = service.finish(prediction), service.finish(training)
    assert predicted.finished_at.ToNanoseconds() < trained.finished_at.ToNanoseconds()
    assert (trained.attempt, trained.lost_workers, trained.HasField("handed_over_at")) == (2, 0, False)
    assert any(mentions(text, "handed the device", prediction.id) for text in words(store, trained))
    require_equal(service, store, trained)
    # What others had the device for is not billed.
    lay_still = predicted.finished_at.ToNanoseconds() - predicted.started_at.ToNanoseconds()
    assert trained.paused.ToNanoseconds() > lay_still
    whole = trained.finished_at.ToNanoseconds() - trained.started_at.ToNanoseconds()
    assert device_seconds(trained) == pytest.approx((whole - trained.paused.ToNanoseconds()) / 1e9)


def test_a_training_hands_over_to_a_single_image(service: Service, store: Store) -> None:
    training = service.start_training(**SLOW)
    until_training(service, training)
    answers = service.predict(image(32, 32))
    assert "prediction" in outputs_of(answers)
    assert any(mentions(answer.progress.stage, "waiting for the device", training.id) for answer in answers)
    trained = service.finish(training)
    assert (trained.attempt, trained.lost_workers) == (2, 0)
    assert any(mentions(text, "handed the device", "single image") for text in words(store, trained))
    require_equal(service, store, trained)


def test_large_predictions_wait_and_short_ones_only_take_their_share(service: Service, store: Store) -> None:
    training = service.start_training(**SLOW)
    until_training(service, training)
    manifest = DatasetManifest.read(store, Location.parse(service.dataset) / DATASET_MANIFEST)
    name = manifest.select("test", "source")[0].file
    place = store.results / "default" / "many"
    for number in range(4):
        store.write(place / f"{number}.tif", store.read(manifest.place_of(Location.parse(service.dataset), name)))
    spec = v1.PredictionSpec(model_uri=service.models["quick"], input_uri=str(place))
    large = service.jobs.StartJob(v1.StartJobRequest(prediction=spec)).job
    assert large.progress.steps == 4
    until_training(service, training, epoch=4)
    service.device.share.add(1e6)
    short = service.start_prediction("quick")
    trained = service.finish(training)
    assert trained.attempt == 1
    for predicted in (service.finish(large), service.finish(short)):
        assert trained.finished_at.ToNanoseconds() < predicted.started_at.ToNanoseconds()
