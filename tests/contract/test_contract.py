"""What the contract promises, over real sockets and real S3, with a service of each framework's driver."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from contract_session import FINAL, TINY, Session, rpc_error, single_image
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import ROOT, publish_dataset, read_published, wait_for

from parfocal import v1
from parfocal.runtime.rpc_errors import STATUS_KEY, from_rpc_error


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the services put temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        yield folder


@pytest.fixture(scope="module", params=list(TINY), ids=lambda method: method.partition("-")[0])
def service(request: pytest.FixtureRequest, start_service: Callable[..., Any], temporary: Path) -> Iterator[Session]:
    process = start_service(TINY[request.param]["service"], checkpoint_seconds="0", preview_share="1")
    with grpc.insecure_channel(process.address) as channel:
        yield Session(process, request.param, channel)
    process.stop()


@pytest.fixture(scope="module")
def images_folder(service: Session, request: pytest.FixtureRequest) -> Path:
    """A folder of images of the kind that the method is trained on."""
    labels = service.method_description.data_requirements.target == v1.TARGET_KIND_LABELS
    return Path(request.getfixturevalue("nuclei_folder" if labels else "pairs_folder"))


@pytest.fixture(scope="module")
def trained(service: Session, s3: Any, images_folder: Path) -> tuple[v1.Job, str]:
    """A finished training and its dataset."""
    from parfocal.runtime.settings import Settings
    from parfocal.runtime.store.store import Store

    store = Store(Settings(s3_endpoint=s3.endpoint, s3_access_key=s3.access_key, s3_secret_key=s3.secret_key))
    uri = publish_dataset(store, f"pairs-{service.method}", images_folder)
    job = service.train(uri)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    return job, uri


def test_health_says_serving(service: Session) -> None:
    answer = health_pb2_grpc.HealthStub(service.channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_methods_describe_themselves_completely(service: Session) -> None:
    method = service.method_description
    assert all([method.title, method.summary, method.citation, method.licence, method.data_requirements.axes])
    assert method.presets[0].name == "quick"
    for schema in method.parameter_schemas:
        for name, field in json.loads(schema.json_schema)["properties"].items():
            assert field.get("description"), f"parameter {name} has no help"
            assert "default" in field, f"parameter {name} has no default"


def test_training_publishes_a_model_with_its_history(trained: tuple[v1.Job, str], store: Any) -> None:
    from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
    from parfocal.runtime.store.store import Location

    job, _ = trained
    (output,) = job.outputs
    place = Location.parse(output.uri)
    model = ModelManifest.read(store, place / MODEL_MANIFEST)
    names = {entry.public_name for entry in model.files}
    assert {"training.csv", "training_report.pdf", "loss.png"} <= names
    rows = read_published(store, output.uri, "training.csv").decode().splitlines()
    assert len(rows) == 1 + int(json_format.MessageToDict(job.resolved_parameters)["epochs"])


def test_the_recorded_device_is_the_one_that_networks_are_computed_on(
    service: Session, trained: tuple[v1.Job, str], store: Any
) -> None:
    import psutil

    from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
    from parfocal.runtime.store.store import Location

    job, _ = trained
    server = psutil.Process(service.process.process.pid)
    python, *_, module = server.cmdline()
    command = [python, str(ROOT / "tests/used_device.py"), module, service.method]
    command.append(json.dumps(TINY[service.method]["parameters"]))
    used = json.loads(subprocess.run(command, env=server.environ(), check=True, capture_output=True).stdout)
    recorded = ModelManifest.read(store, Location.parse(job.outputs[0].uri) / MODEL_MANIFEST).environment
    assert job.environment.device == recorded["device"] == used
    assert job.environment.precision == recorded["precision"] in {"float32", "bfloat16"}
    assert bool(job.environment.cuda) == (used != "CPU")


def test_watch_gives_every_event_once_and_in_order(trained: tuple[v1.Job, str], service: Session) -> None:
    job, _ = trained
    replies = list(service.jobs.WatchJob(v1.WatchJobRequest(job_id=job.id)))
    numbers = [reply.event.sequence for reply in replies if reply.HasField("event")]
    assert numbers == list(range(1, job.last_sequence + 1))


def test_a_wrong_number_or_id_is_named_by_its_field(trained: tuple[v1.Job, str], service: Session) -> None:
    job, uri = trained
    odd = service.request(uri)
    odd.training.parameters.update({"seed": float("nan")})
    calls: dict[str, Callable[[], Any]] = {
        "after_sequence": lambda: list(service.jobs.WatchJob(v1.WatchJobRequest(job_id=job.id, after_sequence=-5))),
        "job_id": lambda: service.jobs.GetJob(v1.GetJobRequest(job_id="../../x")),
        "seed": lambda: service.jobs.StartJob(odd),
    }
    for field, call in calls.items():
        error = rpc_error(call)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in from_rpc_error(error, "").violations] == [field]


def test_watch_continues_after_a_sequence(trained: tuple[v1.Job, str], service: Session) -> None:
    job, _ = trained
    replies = list(service.jobs.WatchJob(v1.WatchJobRequest(job_id=job.id, after_sequence=2)))
    assert replies[0].event.sequence == 3


def test_same_request_returns_the_same_job(service: Session, trained: tuple[v1.Job, str]) -> None:
    request = service.request(trained[1])
    first = service.jobs.StartJob(request).job
    service.finish(first)
    again = service.jobs.StartJob(request).job
    assert (again.id, again.attempt, again.state) == (first.id, 1, v1.JOB_STATE_SUCCEEDED)


def test_same_request_id_with_another_body_is_refused(service: Session, trained: tuple[v1.Job, str]) -> None:
    job, uri = trained
    request = service.request(uri)
    request.request_id = job.id
    error = rpc_error(lambda: service.jobs.StartJob(request))
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("parameters", "field"),
    [({"epohcs": 3}, "epohcs"), ({"epochs": 0}, "epochs"), ({"epochs": "many"}, "epochs"), ({"seed": 1.5}, "seed")],
)
def test_a_wrong_parameter_is_named(
    service: Session, trained: tuple[v1.Job, str], parameters: dict[str, Any], field: str
) -> None:
    error = rpc_error(lambda: service.jobs.StartJob(service.request(trained[1], **parameters)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in from_rpc_error(error, "").violations] == [field]
    assert field in error.details()


def test_errors_carry_reason_and_request_id(service: Session) -> None:
    call = service.jobs.GetJob.with_call if hasattr(service.jobs.GetJob, "with_call") else None
    assert call is not None
    error = rpc_error(lambda: call(v1.GetJobRequest(job_id="none"), metadata=(("x-request-id", "abc"),)))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    status = dict(error.trailing_metadata())[STATUS_KEY]
    assert b"abc" in status
    assert error_details_pb2.ErrorInfo.DESCRIPTOR.full_name.encode() in status


@pytest.mark.parametrize("change", ["dataset", "method", "model", "nothing"])
def test_an_impossible_request_is_refused_before_anything_is_stored(
    service: Session, trained: tuple[v1.Job, str], change: str
) -> None:
    request = service.request(trained[1])
    if change == "dataset":
        request.training.dataset_uri = "s3://parfocal-datasets/default/unknown/1"
    elif change == "method":
        request.training.method = "unknown"
    elif change == "model":
        request.training.model = "../other"
    else:
        request.ClearField("training")
    error = rpc_error(lambda: service.jobs.StartJob(request))
    assert error.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}
    missing = rpc_error(lambda: service.jobs.GetJob(v1.GetJobRequest(job_id=request.request_id)))
    assert missing.code() == grpc.StatusCode.NOT_FOUND


def test_patch_larger_than_the_images_is_refused(service: Session, trained: tuple[v1.Job, str]) -> None:
    error = rpc_error(lambda: service.jobs.StartJob(service.request(trained[1], patch_size=128)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "patch_size" in error.details()


def test_prediction_keeps_names_shape_and_pixel_size(
    service: Session, trained: tuple[v1.Job, str], store: Any, tmp_path: Path
) -> None:
    from parfocal.runtime.images.files import inspect_image
    from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest, public_name
    from parfocal.runtime.store.store import Location

    model, dataset = trained
    spec = v1.PredictionSpec(model_uri=model.outputs[0].uri, input_uri=dataset, split="test")
    job = service.finish(service.jobs.StartJob(v1.StartJobRequest(prediction=spec)).job)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    place = Location.parse(job.outputs[0].uri)
    result = ResultManifest.read(store, place / RESULT_MANIFEST)
    names = [public_name(image.outputs["prediction"]) for image in result.images]
    assert names == ["field0.tif", "field1.tif", "field2.tif"]
    written = {name for image in result.images for name in image.outputs.values()}
    assert {entry.name for entry in result.files if entry.public_name != "counts.csv"} == written
    store.download(place / result.images[0].outputs["prediction"], tmp_path / "field0.tif")
    header = inspect_image(tmp_path / "field0.tif")
    labels = service.method_description.task == v1.TASK_INSTANCE_SEGMENTATION
    assert (header.shape, str(header.dtype)) == ((64, 80), "uint16" if labels else "float32")
    assert header.pixel_size is not None
    assert header.pixel_size.x == pytest.approx(0.1)


def test_a_single_image_gives_what_a_job_gives_bit_for_bit(
    service: Session, trained: tuple[v1.Job, str], store: Any, images_folder: Path, tmp_path: Path
) -> None:
    from parfocal.runtime.images.files import read_image

    model, dataset = trained
    spec = v1.PredictionSpec(model_uri=model.outputs[0].uri, input_uri=dataset, split="test")
    job = service.finish(service.jobs.StartJob(v1.StartJobRequest(prediction=spec)).job)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    (tmp_path / "batch.tif").write_bytes(read_published(store, job.outputs[0].uri, "field1.tif"))
    pixels = read_image(images_folder / "test" / "source" / "field1.tif").pixels
    outputs = single_image(service, model.outputs[0].uri, pixels)
    batch = read_image(tmp_path / "batch.tif").pixels
    assert list(outputs) == ["prediction"]
    assert outputs["prediction"].tobytes() == batch.tobytes()


def test_a_single_image_with_axes_the_method_cannot_take_is_refused(
    service: Session, trained: tuple[v1.Job, str]
) -> None:
    import numpy as np

    pixels = np.zeros((32, 32, 3), np.uint8)
    error = rpc_error(lambda: single_image(service, trained[0].outputs[0].uri, pixels, "YXS"))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "YXS" in error.details()


def test_a_single_image_for_an_unknown_model_is_not_found(service: Session) -> None:
    import numpy as np

    unknown = "s3://parfocal-models/default/unknown/1"
    error = rpc_error(lambda: single_image(service, unknown, np.zeros((32, 32), np.uint8)))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert unknown in error.details()


def test_cancel_ends_a_running_job_soon_and_publishes_nothing(
    service: Session, trained: tuple[v1.Job, str], store: Any
) -> None:
    from parfocal.runtime.store.manifests import MODEL_MANIFEST
    from parfocal.runtime.store.store import Location

    job = service.jobs.StartJob(service.request(trained[1], epochs=900)).job
    get = v1.GetJobRequest(job_id=job.id)
    wait_for(lambda: service.jobs.GetJob(get).job.progress.epoch >= 1, 120, "the first epoch")
    service.jobs.CancelJob(v1.CancelJobRequest(job_id=job.id, why="test"))
    done = wait_for(lambda: service.jobs.GetJob(get).job.state in FINAL and service.jobs.GetJob(get).job, 30, "the end")
    assert done.state == v1.JOB_STATE_CANCELLED
    assert not store.exists(Location.parse(done.reserved_uri) / MODEL_MANIFEST)


def test_cancel_with_keep_best_publishes_what_there_is(service: Session, trained: tuple[v1.Job, str]) -> None:
    job = service.jobs.StartJob(service.request(trained[1], epochs=900)).job
    get = v1.GetJobRequest(job_id=job.id)
    wait_for(lambda: service.jobs.GetJob(get).job.progress.epoch >= 1, 120, "the first epoch")
    service.jobs.CancelJob(v1.CancelJobRequest(job_id=job.id, keep_best=True))
    done = service.finish(job)
    assert done.state == v1.JOB_STATE_SUCCEEDED
    assert done.outputs[0].kind == "model"
    assert any("finished early" in warning for warning in done.warnings)


def test_a_cancelled_training_resumes_from_its_checkpoint(service: Session, trained: tuple[v1.Job, str]) -> None:
    job, count = cancelled(service, trained[1])
    service.jobs.ResumeJob(v1.ResumeJobRequest(job_id=job.id))
    done = service.finish(job)
    assert done.state == v1.JOB_STATE_SUCCEEDED, done.error.text
    assert done.attempt == 2
    epochs = [
        reply.event.epoch_completed.epoch
        for reply in service.jobs.WatchJob(v1.WatchJobRequest(job_id=job.id))
        if reply.event.HasField("epoch_completed")
    ]
    assert set(epochs) == set(range(1, count + 1))
    assert len(epochs) <= count + 2, "training began again instead of going on"


def cancelled(service: Session, dataset: str) -> tuple[v1.Job, int]:
    """Return a training that was cancelled after its second epoch, and its epochs: more of them where it is fast."""
    for count in (12, 60, 300):
        job = service.jobs.StartJob(service.request(dataset, epochs=count, patches_per_image=8)).job
        get = v1.GetJobRequest(job_id=job.id)
        wait_for(lambda get=get: service.jobs.GetJob(get).job.progress.epoch >= 2, 120, "the second epoch")
        service.jobs.CancelJob(v1.CancelJobRequest(job_id=job.id))
        wait_for(lambda get=get: service.jobs.GetJob(get).job.state in FINAL, 30, "the end")
        if service.jobs.GetJob(get).job.state == v1.JOB_STATE_CANCELLED:
            return job, count
    pytest.fail("300 epochs ended before they could be cancelled")


def test_a_finished_job_cannot_be_resumed(service: Session, trained: tuple[v1.Job, str]) -> None:
    error = rpc_error(lambda: service.jobs.ResumeJob(v1.ResumeJobRequest(job_id=trained[0].id)))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_jobs_are_listed_newest_first_in_pages(service: Session, trained: tuple[v1.Job, str]) -> None:
    newest = service.train(trained[1])
    first = service.jobs.ListJobs(v1.ListJobsRequest(page_size=1))
    second = service.jobs.ListJobs(v1.ListJobsRequest(page_size=1, page_token=first.next_page_token))
    assert [job.id for job in first.jobs] == [newest.id]
    (older,) = second.jobs
    assert older.created_at.ToNanoseconds() < newest.created_at.ToNanoseconds()
    for wrong in ({"page_token": "2"}, {"page_token": f"{'9' * 5000}/x"}, {"page_size": -2}):
        error = rpc_error(lambda wrong=wrong: service.jobs.ListJobs(v1.ListJobsRequest(**wrong)))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_delete_moves_the_record_to_the_trash(service: Session, trained: tuple[v1.Job, str], store: Any) -> None:
    job = service.train(trained[1])
    service.jobs.DeleteJob(v1.DeleteJobRequest(job_id=job.id))
    assert rpc_error(lambda: service.jobs.GetJob(v1.GetJobRequest(job_id=job.id))).code() == grpc.StatusCode.NOT_FOUND
    assert any(job.id in item.location.key for item in store.objects(store.jobs / ".trash"))


def test_transfer_learning_starts_from_the_weights_of_a_model(service: Session, trained: tuple[v1.Job, str]) -> None:
    job, uri = trained
    request = service.request(uri, epochs=1, learning_rate=1e-9)
    request.training.initial_model_uri = job.outputs[0].uri
    done = service.finish(service.jobs.StartJob(request).job)
    assert done.state == v1.JOB_STATE_SUCCEEDED, done.error.text
    # Nothing changes at this learning rate, but means of batch normalisation go on.
    assert done.metrics["val_loss"] == pytest.approx(job.metrics["val_loss"], rel=1e-2)


def test_frameworks_leave_no_temporary_files(
    service: Session, trained: tuple[v1.Job, str], images_folder: Path, temporary: Path
) -> None:
    from parfocal.runtime.images.files import read_image

    single_image(service, trained[0].outputs[0].uri, read_image(images_folder / "test/source/field1.tif").pixels)
    # PyTorch makes an empty folder, once.
    assert [path.name for path in temporary.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def undisturbed(service: Session, trained: tuple[v1.Job, str]) -> tuple[v1.Job, dict[str, Any]]:
    """A training that is long enough to be disturbed but was not, and its parameters."""
    parameters: dict[str, Any] = {"epochs": 8, "patches_per_image": 8}
    if service.method == "fake-2d":
        parameters["pause_seconds"] = 0.05
    return service.train(trained[1], **parameters), parameters


@pytest.mark.parametrize("victim", ["worker", "server"])
def test_killing_worker_or_server_changes_nothing_in_the_result(
    service: Session, trained: tuple[v1.Job, str], undisturbed: tuple[v1.Job, dict[str, Any]], store: Any, victim: str
) -> None:
    import psutil

    from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
    from parfocal.runtime.store.store import Location

    expected, parameters = undisturbed
    job = service.jobs.StartJob(service.request(trained[1], **parameters)).job
    get = v1.GetJobRequest(job_id=job.id)
    wait_for(lambda: service.jobs.GetJob(get).job.progress.epoch >= 2, 120, "the second epoch")
    server = psutil.Process(service.process.process.pid)
    (worker,) = [child for child in server.children() if job.id in child.cmdline()]
    if victim == "worker":
        worker.kill()
    else:
        service.process.kill()
        wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 5, "the worker's end")
        service.process.start()
    wait_for(lambda: _answers(service, get), 30, "the service")
    done = service.finish(job)
    assert done.state == v1.JOB_STATE_SUCCEEDED, done.error.text
    assert done.attempt == 2
    digests = []
    for finished in (expected, done):
        model = ModelManifest.read(store, Location.parse(finished.outputs[0].uri) / MODEL_MANIFEST)
        made_by_time = {"training.csv", "training_report.pdf", "loss.png"}
        files = {entry.public_name: entry.sha256 for entry in model.files if entry.public_name not in made_by_time}
        digests.append((model.metrics, files))
    assert digests[0][1]
    assert digests[0] == digests[1]


def _answers(service: Session, get: v1.GetJobRequest) -> bool:
    try:
        service.jobs.GetJob(get)
    except grpc.RpcError:
        return False
    return True
