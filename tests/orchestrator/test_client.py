"""The client against real services and a real store."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import write_kind
from support import S3Server, ServiceProcess, free_ports, mentions, wait_for

from parfocal import v1
from parfocal.client import Client, requests, watching
from parfocal.client.datasets import create_dataset, list_datasets, read_dataset
from parfocal.client.models import download, list_models, read_model
from parfocal.client.predictions import publish_predicted_images, publish_prediction
from parfocal.client.results import download_result, find_inputs, read_result, upload_inputs
from parfocal.client.services import Service
from parfocal.runtime.errors import (
    AlreadyExistsError,
    DamagedError,
    InvalidInputError,
    InvalidParameterError,
    NotFoundError,
    UnavailableError,
)
from parfocal.runtime.images.files import read_image
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    DatasetManifest,
    ImageEntry,
    ResultManifest,
)
from parfocal.runtime.store.names import dataset_location, model_location, new_request_id
from parfocal.runtime.store.publish import claim_version, publish
from parfocal.runtime.store.store import Location
from parfocal.runtime.store.verdicts import Verdict


@pytest.fixture(scope="module")
def fake(start_service: Callable[..., ServiceProcess]) -> ServiceProcess:
    return start_service("fake")


@pytest.fixture
def connect(s3: S3Server) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def make(*addresses: str, project: str = "client", **options: Any) -> Client:
        settings = s3.client_settings.model_copy(update={"project": project})
        clients.append(Client(settings, services=addresses, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(fake: ServiceProcess, connect: Callable[..., Client]) -> Client:
    return connect(fake.address)


@pytest.fixture
def dataset_uri(client: Client, pairs_folder: Path) -> str:
    manifest = create_dataset(client, "pairs", pairs_folder)
    return client.dataset_uri(f"pairs:{manifest.version}")


def training(dataset_uri: str, **parameters: Any) -> v1.StartJobRequest:
    return requests.training_request("fake-2d", dataset_uri, "model", parameters)


def test_services_say_what_they_offer_and_a_dead_one_has_an_error(
    fake: ServiceProcess, connect: Callable[..., Client]
) -> None:
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    alive, silent = connect(fake.address, dead).services()
    assert (alive.name, [method.name for method in alive.methods], alive.error) == ("fake", ["fake-2d"], "")
    assert dead in silent.error
    assert not silent.methods


def test_an_unknown_method_is_told_with_those_offered(client: Client) -> None:
    with pytest.raises(NotFoundError, match=r"fake-3d.*offered: fake-2d\..*'fake-2d'"):
        client.method("fake-3d")


def test_a_method_that_a_silent_service_may_offer_is_unavailable(
    fake: ServiceProcess, connect: Callable[..., Client]
) -> None:
    client = connect(fake.address, f"127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(UnavailableError, match="did not answer"):
        client.method("care-2d")


def test_without_any_address_the_message_says_how_to_start(connect: Callable[..., Client]) -> None:
    with pytest.raises(UnavailableError, match="parfocal up"):
        connect().services()


def test_accented_names_are_the_same_name_however_a_computer_stores_them(
    client: Client, pairs_folder: Path, tmp_path: Path
) -> None:
    composed, apart = "Bär", unicodedata.normalize("NFD", "Bär")
    folder = Path(shutil.copytree(pairs_folder, tmp_path / "mac"))
    for role, name in (("source", apart), ("target", composed)):
        (folder / "test" / role / "field1.tif").rename(folder / "test" / role / f"{name}.tif")
    dataset = create_dataset(client, "accents", folder)
    assert {image.stem for image in dataset.select("test", "source")} == {"field0", composed, "field2"}

    # Predicted by another program, on a computer that stores the name the other way round.
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    shutil.copy(folder / "test" / "target" / f"{composed}.tif", predicted / f"{apart}.tif")
    for uri in (
        publish_prediction(client, predicted, dataset),
        publish_predicted_images(client, predicted, folder / "test" / "target"),
    ):
        result = ResultManifest.read(client.store, Location.parse(uri) / RESULT_MANIFEST)
        assert [entry.public_name for entry in result.files] == [f"{composed}.tif"]

    # Inputs that another program brought into the store have a result under the one name.
    model = client.wait(client.start(training(client.dataset_uri("accents"), epochs=1)).id).outputs[0].uri
    place = client.store.results / "client" / new_request_id("inputs")
    client.store.upload(predicted / f"{apart}.tif", place / f"{apart}.tif")
    job = client.wait(client.start(requests.prediction_request(model, str(place))).id)
    assert [path.name for path in download_result(client, job, tmp_path / "out")] == [f"{composed}.tif"]
    client.store.upload(predicted / f"{apart}.tif", place / f"{composed}.tif")
    job = client.wait(client.start(requests.prediction_request(model, str(place))).id)
    assert "accented letters" in job.error.text


def test_tables_of_boxes_that_another_program_made_become_a_prediction(client: Client, tmp_path: Path) -> None:
    dataset = create_dataset(client, "boxed", write_kind(tmp_path / "boxes", "boxes"))
    folder, stem = tmp_path / "found", dataset.select_annotations("test")[0].stem
    folder.mkdir()
    header = "class,confidence,x_min_px,y_min_px,x_max_px,y_max_px"
    table = folder / f"{stem}.csv"
    table.write_text(f"{header}\nsmall,0.5,0,0,10,12\n", encoding="utf-8")
    uri = publish_prediction(client, folder, dataset)
    result = ResultManifest.read(client.store, Location.parse(uri) / RESULT_MANIFEST)
    assert [entry.public_name for entry in result.files] == [f"detections/{stem}.csv"]
    assert [bool(image.reason) for image in result.images].count(False) == 1

    (folder / "other.csv").write_text(f"{header}\n", encoding="utf-8")
    table.write_text(f"{header}\nsmall,high,0,0,10,12\n", encoding="utf-8")
    with pytest.raises(InvalidInputError) as refused:
        publish_prediction(client, folder, dataset)
    assert {violation.field for violation in refused.value.violations} == {f"{stem}.csv", "other.csv"}
    table.unlink()
    with pytest.raises(InvalidInputError, match="No table"):
        publish_prediction(client, folder, dataset)
    with pytest.raises(NotFoundError):
        publish_prediction(client, tmp_path / "nowhere", dataset)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":1", "host:0", "host:99999"])
def test_a_malformed_address_is_refused(connect: Callable[..., Client], address: str) -> None:
    with pytest.raises(InvalidInputError, match="host:port"):
        connect(address)


def test_train_predict_and_download(client: Client, dataset_uri: str, pairs_folder: Path, tmp_path: Path) -> None:
    job = client.wait(client.start(training(dataset_uri)).id)
    assert job.state == v1.JOB_STATE_SUCCEEDED
    (model_uri,) = (output.uri for output in job.outputs if output.kind == "model")
    assert client.model_uri("model") == model_uri

    inputs = find_inputs(pairs_folder / "test" / "source")
    request_id = new_request_id("predict")
    uri = upload_inputs(client, request_id, inputs)
    prediction = client.wait(client.start(requests.prediction_request(model_uri, uri, request_id=request_id)).id)
    paths = download_result(client, prediction, tmp_path)
    assert sorted(path.name for path in paths) == [path.name for path in inputs]
    assert read_image(paths[0]).pixels.shape == (64, 80)
    assert all(not image.reason for image in read_result(client, prediction).images)
    with pytest.raises(AlreadyExistsError, match="nothing was written"):
        download_result(client, prediction, tmp_path)

    files = download(client, "model", tmp_path / "model")
    assert {"model.json", "filter.json"} <= {path.name for path in files}


def test_a_repeated_request_is_the_same_job(client: Client, dataset_uri: str) -> None:
    request = training(dataset_uri)
    first = client.start(request)
    assert client.start(request).id == first.id
    client.wait(first.id)


def test_a_wrong_parameter_comes_back_as_the_error_the_service_raised(client: Client, dataset_uri: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        client.start(training(dataset_uri, epohcs=3))
    assert caught.value.violations[0].field == "epohcs"


@pytest.mark.parametrize("name", ["field", "Zellkörper-" * 20])
def test_a_dataset_with_hundreds_of_unsuitable_images_is_refused_in_words(client: Client, name: str) -> None:
    images = tuple(
        ImageEntry(
            split="train",
            role=role,
            stem=f"{name}{number}",
            file=f"train/{role}/{name}{number}.tif",
            shape=(2, 64, 80),
            dtype="uint16",
            axes="CYX",
        )
        for number in range(300)
        for role in ("source", "target")
    )
    place = claim_version(client.store, dataset_location(client.store, client.project, "unsuitable"), "test")
    manifest = DatasetManifest(project=client.project, dataset="unsuitable", version=int(place.name), images=images)
    uri = publish(client.store, place, DATASET_MANIFEST, manifest)
    with pytest.raises(InvalidInputError, match="Fake 2D") as caught:
        client.start(training(uri))
    first = caught.value.violations[0]
    assert first.field == images[0].file
    assert mentions(first.description, "axes CYX", "YX is required")


def test_jobs_are_listed_newest_first_and_by_state(client: Client, dataset_uri: str) -> None:
    first = client.wait(client.start(training(dataset_uri)).id)
    second = client.wait(client.start(training(dataset_uri)).id)
    ids = [job.id for job in client.jobs((v1.JOB_STATE_SUCCEEDED,))]
    assert ids.index(second.id) < ids.index(first.id)
    assert first.id not in [job.id for job in client.jobs((v1.JOB_STATE_FAILED,))]


def test_two_addresses_of_one_service_list_a_job_once(
    fake: ServiceProcess, client: Client, connect: Callable[..., Client], dataset_uri: str
) -> None:
    job = client.wait(client.start(training(dataset_uri)).id)
    twice = connect(fake.address, fake.address.replace("127.0.0.1", "localhost"))
    assert [item.id for item in twice.jobs()].count(job.id) == 1


def test_of_two_instances_the_active_one_gets_the_work(
    fake: ServiceProcess, start_service: Callable[..., ServiceProcess], connect: Callable[..., Client], dataset_uri: str
) -> None:
    waiting = start_service("fake")
    client = connect(waiting.address, fake.address)
    job = client.start(training(dataset_uri, epochs=20, pause_seconds=0.1))
    client.cancel(job.id)
    assert client.wait(job.id).state == v1.JOB_STATE_CANCELLED
    waiting.stop()


def test_watch_gives_each_event_once_and_resumes_after_a_number(client: Client, dataset_uri: str) -> None:
    job = client.start(training(dataset_uri, epochs=3))
    sequences = [report.event.sequence for report in client.watch(job.id) if report.HasField("event")]
    assert sequences == list(range(1, client.get(job.id).last_sequence + 1))
    rest = [report.event.sequence for report in client.watch(job.id, after_sequence=3) if report.HasField("event")]
    assert rest == sequences[3:]


class Deaf:
    """A service whose streams give nothing and do not end, whatever time-out they are given."""

    address = "127.0.0.1:1"

    @property
    def jobs(self) -> Deaf:
        return self

    def WatchJob(self, _request: v1.WatchJobRequest, timeout: float) -> Deaf:  # noqa: N802
        assert timeout > 0
        return self

    def __iter__(self) -> Iterator[v1.WatchJobResponse]:
        threading.Event().wait(300)
        yield from ()

    def cancel(self) -> None:
        pass


def test_watch_goes_on_with_another_service_where_a_stream_outlasts_its_time_out(
    client: Client, dataset_uri: str, fake: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_STREAM_SECONDS", 0.5)
    monkeypatch.setattr(watching, "_GRACE_SECONDS", 0.5)
    job = client.start(requests.training_request("fake-2d", dataset_uri, "deaf", {"epochs": 1}))
    client.wait(job.id)
    with contextlib.closing(Service(fake.address)) as hearing:
        reports = list(watching.watch([Deaf(), hearing], client.project, job.id, 0, 60))
    assert reports[-1].job.state == v1.JOB_STATE_SUCCEEDED
    sequences = [report.event.sequence for report in reports if report.HasField("event")]
    assert sequences == list(range(1, reports[-1].job.last_sequence + 1))


def test_watch_bears_a_service_that_is_killed_and_started_again(
    fake: ServiceProcess, client: Client, dataset_uri: str
) -> None:
    job = client.start(training(dataset_uri, epochs=6, pause_seconds=0.1))
    seen: list[int] = []
    states: list[int] = []

    def follow() -> None:
        for report in client.watch(job.id):
            states.append(report.job.state)
            if report.HasField("event"):
                seen.append(report.event.sequence)

    watcher = threading.Thread(target=follow)
    watcher.start()
    wait_for(lambda: len(seen) > 2, what="the first events")
    fake.kill()
    time.sleep(1)
    fake.start()
    watcher.join(60)
    assert not watcher.is_alive()
    assert states[-1] == v1.JOB_STATE_SUCCEEDED
    assert seen == list(range(1, len(seen) + 1))


def test_watch_turns_to_another_service_when_one_hangs(
    fake: ServiceProcess, connect: Callable[..., Client], dataset_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_STREAM_SECONDS", 1.0)
    job = connect(fake.address).start(training(dataset_uri, epochs=30, pause_seconds=0.05))
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        services = [Service(f"127.0.0.1:{hanging.getsockname()[1]}"), Service(fake.address)]
        reports = list(watching.watch(services, job.project, job.id, 0, patience=60))
        for service in services:
            service.close()
    sequences = [report.event.sequence for report in reports if report.HasField("event")]
    assert reports[-1].job.state == v1.JOB_STATE_SUCCEEDED
    assert sequences == list(range(1, reports[-1].job.last_sequence + 1)), "over several streams"


def test_watch_gives_up_after_its_patience(connect: Callable[..., Client]) -> None:
    client = connect(f"127.0.0.1:{free_ports(1)[0]}", patience=1.0)
    begin = time.monotonic()
    with pytest.raises(UnavailableError):
        client.wait("some-job")
    assert time.monotonic() - begin < 20


def test_watching_an_unknown_job_fails_at_once(client: Client) -> None:
    with pytest.raises(NotFoundError, match="no-such-job"):
        client.wait("no-such-job")


def test_cancel_resume_and_delete(client: Client, dataset_uri: str) -> None:
    job = client.start(training(dataset_uri, epochs=50, pause_seconds=0.1))
    wait_for(lambda: client.get(job.id).state == v1.JOB_STATE_RUNNING, what="the worker")
    client.cancel(job.id, why="test")
    assert client.wait(job.id).state == v1.JOB_STATE_CANCELLED
    client.resume(job.id)
    client.cancel(job.id)
    client.wait(job.id)
    client.delete(job.id)
    with pytest.raises(NotFoundError):
        client.get(job.id)


def test_cancelling_may_keep_the_best_weights(client: Client, dataset_uri: str) -> None:
    job = client.start(training(dataset_uri, epochs=200, pause_seconds=0.05))
    wait_for(lambda: client.get(job.id).progress.epoch > 0, what="an epoch")
    client.cancel(job.id, keep_best=True)
    job = client.wait(job.id)
    assert job.state == v1.JOB_STATE_SUCCEEDED
    (uri,) = (output.uri for output in job.outputs if output.kind == "model")
    assert 0 < read_model(client, uri).manifest.epochs < 200


def test_models_are_listed_with_their_verdict(client: Client, dataset_uri: str) -> None:
    job = client.wait(client.start(training(dataset_uri)).id)
    summary = next(item for item in list_models(client) if item.manifest.job == job.id)
    assert summary.verdict == Verdict("unchecked")
    assert "not been checked" in summary.verdict.sentence


def test_a_damaged_model_hides_no_other(client: Client, dataset_uri: str) -> None:
    job = client.wait(client.start(training(dataset_uri)).id)
    place = model_location(client.store, client.project, "damaged", 1)
    client.store.write(place / MODEL_MANIFEST, b'{"project": "defa')
    told: list[DamagedError] = []
    assert job.id in {item.manifest.job for item in list_models(client, told.append)}
    (error,) = told
    assert str(place) in error.message
    client.store.delete(place / MODEL_MANIFEST)


def test_names_without_a_version_are_not_offered(client: Client) -> None:
    claim_version(client.store, model_location(client.store, client.project, "failed"), "test")
    with pytest.raises(NotFoundError) as caught:
        client.model_uri("failed")
    assert "failed" not in caught.value.message.partition("(there:")[2]


def test_datasets_get_rising_versions_and_the_newest_is_meant(client: Client, pairs_folder: Path) -> None:
    first = create_dataset(client, "versions", pairs_folder)
    second = create_dataset(client, "versions", pairs_folder)
    assert second.version == first.version + 1
    assert read_dataset(client, "versions").version == second.version
    assert read_dataset(client, f"versions:{first.version}").version == first.version
    assert [item.version for item in list_datasets(client) if item.dataset == "versions"][:2] == [2, 1]


def test_a_stored_image_has_values_type_and_pixel_size_of_the_file(
    client: Client, pairs_folder: Path, tmp_path: Path
) -> None:
    manifest = create_dataset(client, "lossless", pairs_folder)
    entry = manifest.select("train", "source")[0]
    place = client.store.datasets / "client" / "lossless" / str(manifest.version)
    client.store.download(place / entry.file, tmp_path / "stored.tif")
    stored, original = read_image(tmp_path / "stored.tif"), read_image(pairs_folder / entry.file)
    assert np.array_equal(stored.pixels, original.pixels)
    assert stored.pixels.dtype == original.pixels.dtype == np.uint16
    assert stored.pixel_size == original.pixel_size
    assert entry.pixel_size_um == pytest.approx((0.1, 0.1, None))


def test_an_interrupted_upload_leaves_nothing_visible(client: Client, pairs_folder: Path) -> None:
    def interrupt(done: int, _total: int, _name: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_dataset(client, "interrupted", pairs_folder, on_progress=interrupt)
    with pytest.raises(NotFoundError):
        client.dataset_uri("interrupted")
    folder = client.store.datasets / "client" / "interrupted"
    left = [item.location.name for item in client.store.objects(folder)]
    assert left == ["claim.json"]


def test_a_catalogue_that_is_down_is_unavailable(pairs_folder: Path) -> None:
    settings = Settings(catalog=f"127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(UnavailableError, match="does not answer"):
        create_dataset(Client(settings), "pairs", pairs_folder)


def test_the_time_of_a_job_leaves_out_its_pauses() -> None:
    job = v1.Job()
    job.started_at.FromSeconds(1000)
    job.finished_at.FromSeconds(9000)
    assert watching.seconds_at_work(job) == 8000
    job.paused.FromSeconds(7000)
    assert watching.seconds_at_work(job) == 1000
    job.ClearField("finished_at")
    job.started_at.FromSeconds(int(time.time()) - 7060)
    assert watching.seconds_at_work(job) == pytest.approx(60, abs=10)
