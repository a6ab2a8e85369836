"""PredictImage with real sockets, a real store and real worker processes of the fake service."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf import json_format, struct_pb2
from support import ROOT, ServiceProcess, publish_dataset, wait_for

from parfocal import v1
from parfocal.runtime.errors import OutOfMemoryError, QueueFullError
from parfocal.runtime.jobs.device import Device
from parfocal.runtime.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.names import model_location
from parfocal.runtime.publish import claim_version, folder_files, publish, upload_files
from parfocal.runtime.server.errors import from_rpc_error
from parfocal.runtime.store import Location

CHUNK = 3 * 2**20
IDLE_SECONDS = 4.0


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
            parameters=struct({"epochs": 1, **parameters}),
        )
        return self.jobs.StartJob(v1.StartJobRequest(training=spec)).job

    def finish(self, job: v1.Job) -> v1.Job:
        done = list(self.jobs.WatchJob(v1.WatchJobRequest(job_id=job.id), timeout=60))[-1].job
        assert done.state == v1.JOB_STATE_SUCCEEDED, done.error.text
        return done

    def state_of(self, job: v1.Job) -> int:
        return self.jobs.GetJob(v1.GetJobRequest(job_id=job.id)).job.state

    def drop(self, job: v1.Job) -> None:
        """Cancel a job, or let it end if it is that far, and wait until its worker has left the device."""
        self.jobs.CancelJob(v1.CancelJobRequest(job_id=job.id))
        ended = (v1.JOB_STATE_CANCELLED, v1.JOB_STATE_SUCCEEDED)
        wait_for(lambda: self.state_of(job) in ended, 30, "the end of the job")
        wait_for(lambda: Device(self.state, "device-0").take(for_job=True), 30, "the device").close()

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
                if child.status() != psutil.STATUS_ZOMBIE and "parfocal.runtime.jobs.warm" in child.cmdline():
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def scratch(self) -> list[Path]:
        """What images have left below the scratch folder."""
        return list((self.state / "scratch").glob("images-*/*"))


def struct(values: dict[str, Any]) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    json_format.ParseDict(values, message)
    return message


def header_of(model: str, image: v1.ImageHeader, **parameters: Any) -> v1.PredictImageRequest:
    header = v1.PredictImageHeader(model_uri=model, image=image, parameters=struct(parameters))
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


def image(*shape: int, dtype: str = "uint16") -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(0, 200, shape).astype(dtype)


def publish_variant(store: Any, model: str, name: str, folder: Path, factor: float = 1.0, **parameters: Any) -> str:
    """Publish a copy of a fake model with another filter or other parameters: quicker than to train it."""
    manifest = ModelManifest.read(store, Location.parse(model) / MODEL_MANIFEST)
    store.download(Location.parse(model) / "filter.json", folder / "filter.json")
    content = json.loads((folder / "filter.json").read_text())
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


@pytest.fixture(scope="module")
def service(
    start_service: Callable[..., ServiceProcess],
    s3: Any,
    pairs_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    process = start_service(
        "fake", warm_idle_seconds=str(IDLE_SECONDS), image_wait_seconds="4", max_images="3", checkpoint_seconds="0"
    )
    with grpc.insecure_channel(process.address) as channel:
        running = Service(process, channel, publish_dataset(s3.store(), "interactive", pairs_folder))
        quick = running.finish(running.start_training(epochs=2)).outputs[0].uri
        running.models = {
            "quick": quick,
            "other": publish_variant(s3.store(), quick, "other", tmp_path_factory.mktemp("other"), factor=2.0),
            "slow": publish_variant(s3.store(), quick, "slow", tmp_path_factory.mktemp("slow"), pause_seconds=0.2),
        }
        yield running
    process.stop()


@pytest.fixture
def slow_call(service: Service) -> Iterator[Any]:
    """A call whose worker is in the middle of an image that takes half a minute."""
    call = service.call(requests_for(image(512, 512), service.models["slow"], tile_size=64))
    for answer in call:
        if answer.progress.stage == "predicting":
            break
    yield call
    call.cancel()


def test_the_answer_has_progress_then_header_then_pixels(service: Service) -> None:
    answers = service.predict(image(64, 80))
    parts = [answer.WhichOneof("part") for answer in answers]
    assert parts[-2:] == ["header", "pixels"]
    assert set(parts[:-2]) == {"progress"}
    head = answers[-2].header
    assert (list(head.shape), head.dtype, head.axes, head.name) == ([64, 80], "float32", "YX", "prediction")
    assert (head.pixel_size.x, head.pixel_size.y) == (0.1, 0.2)


def test_large_outputs_come_in_chunks_below_the_message_limit(service: Service) -> None:
    answers = service.predict(image(1024, 1000))
    sizes = [len(answer.pixels) for answer in answers if answer.HasField("pixels")]
    assert sum(sizes) == 1024 * 1000 * 4
    assert len(sizes) == 2
    assert max(sizes) <= CHUNK


def test_the_size_of_the_chunks_sent_changes_nothing(service: Service) -> None:
    pixels = image(64, 80)
    whole = outputs_of(service.predict(pixels))["prediction"]
    pieces = outputs_of(service.predict(pixels, chunk=1001))["prediction"]
    assert np.array_equal(whole, pieces)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32", "float32", "float64"])
def test_every_type_of_pixel_gives_the_same_values(service: Service, dtype: str) -> None:
    reference = outputs_of(service.predict(image(48, 48)))["prediction"]
    output = outputs_of(service.predict(image(48, 48, dtype=dtype)))["prediction"]
    assert np.allclose(output, reference, rtol=1e-4)


def test_a_stack_equals_its_planes(service: Service) -> None:
    stack = image(2, 3, 40, 48)
    output = outputs_of(service.predict(stack, axes="TZYX"))["prediction"]
    plane = outputs_of(service.predict(stack[1, 2]))["prediction"]
    assert output.shape == stack.shape
    assert np.array_equal(output[1, 2], plane)


def test_an_axis_of_length_one_does_no_harm(service: Service) -> None:
    pixels = image(1, 40, 48)
    output = outputs_of(service.predict(pixels, axes="CYX"))["prediction"]
    assert np.array_equal(output[0], outputs_of(service.predict(pixels[0]))["prediction"])


def test_like_input_gives_the_type_of_the_input(service: Service) -> None:
    pixels = image(48, 48)
    exact = outputs_of(service.predict(pixels))["prediction"]
    rounded = outputs_of(service.predict(pixels, output_dtype="like-input"))["prediction"]
    assert rounded.dtype == np.uint16
    assert np.array_equal(rounded, np.clip(np.rint(exact.astype(float)), 0, 65535).astype(np.uint16))


def test_the_worker_and_its_model_are_kept(service: Service) -> None:
    service.predict(image(32, 32))
    (worker,) = service.warm_workers()
    answers = service.predict(image(32, 32))
    assert [process.pid for process in service.warm_workers()] == [worker.pid]
    assert "loading the model" not in {answer.progress.stage for answer in answers}


def test_another_model_replaces_the_kept_one(service: Service) -> None:
    pixels = image(48, 48)
    first = outputs_of(service.predict(pixels))["prediction"]
    other = outputs_of(service.predict(pixels, "other"))["prediction"]
    again = outputs_of(service.predict(pixels))["prediction"]
    assert not np.array_equal(first, other)
    assert np.array_equal(first, again)


def test_nothing_is_left_on_disk(service: Service) -> None:
    service.predict(image(32, 32))
    service.fails(requests_for(image(32, 32), service.models["quick"], axes="ZY"))
    wait_for(lambda: not service.scratch(), 5, "an empty scratch folder")


def test_pixels_before_the_header_are_refused(service: Service) -> None:
    error = service.fails(iter([v1.PredictImageRequest(pixels=b"1234")]))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "header" in error.details()


def test_an_empty_stream_is_refused(service: Service) -> None:
    assert service.fails(iter([])).code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("change", "field_name"),
    [
        ({"dtype": "int64"}, "header.image.dtype"),
        ({"dtype": "object"}, "header.image.dtype"),
        ({"axes": "YY"}, "header.image.axes"),
        ({"axes": "ZYX"}, "header.image.shape"),
        ({"shape": [0, 8]}, "header.image.shape"),
        ({"shape": [-8, -8]}, "header.image.shape"),
        ({"shape": [2**14, 2**15]}, "header.image.shape"),
        ({"shape": [2**14, 2**13 + 1], "dtype": "float64"}, "header.image.shape"),
        ({"shape": [2**62, 2**62]}, "header.image.shape"),
        ({"pixel_size": v1.PixelSize(x=float("nan"))}, "header.image.pixel_size"),
    ],
)
def test_a_wrong_header_is_refused_before_pixels_are_taken(
    service: Service, change: dict[str, Any], field_name: str
) -> None:
    sent_all = threading.Event()

    def requests() -> Iterator[v1.PredictImageRequest]:
        values = {"shape": [8, 8], "dtype": "uint16", "axes": "YX"} | change
        yield header_of(service.models["quick"], v1.ImageHeader(**values))
        sent_all.wait(20)

    begin = time.monotonic()
    error = service.fails(requests())
    sent_all.set()
    assert time.monotonic() - begin < 10
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field_name in [violation.field for violation in from_rpc_error(error, "").violations]


def test_the_limit_names_its_setting(service: Service) -> None:
    big = v1.ImageHeader(shape=[2**14, 2**15], dtype="uint8", axes="YX")
    assert "PARFOCAL_MAX_IMAGE_PIXELS" in service.fails(iter([header_of(service.models["quick"], big)])).details()


def test_a_wrong_parameter_is_named(service: Service) -> None:
    error = service.fails(requests_for(image(8, 8), service.models["quick"], tile_sise=64))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in from_rpc_error(error, "").violations] == ["tile_sise"]


@pytest.mark.parametrize("bytes_sent", [0, 127, 129])
def test_too_few_or_too_many_pixels_are_refused(service: Service, bytes_sent: int) -> None:
    head = header_of(service.models["quick"], v1.ImageHeader(shape=[8, 8], dtype="uint16", axes="YX"))
    pixels = [v1.PredictImageRequest(pixels=bytes(bytes_sent))] if bytes_sent else []
    error = service.fails(iter([head, *pixels]))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "128" in error.details()


def test_a_second_header_is_refused(service: Service) -> None:
    head = header_of(service.models["quick"], v1.ImageHeader(shape=[8, 8], dtype="uint16", axes="YX"))
    assert service.fails(iter([head, head])).code() == grpc.StatusCode.INVALID_ARGUMENT


def test_values_that_are_not_finite_are_the_users_mistake(service: Service) -> None:
    pixels = image(32, 32, dtype="float32")
    pixels[3, 3] = np.nan
    error = service.fails(requests_for(pixels, service.models["quick"]))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "not finite" in error.details()


def test_cancelling_drops_the_computation_and_the_next_image_works(service: Service, slow_call: Any) -> None:
    assert service.warm_workers()
    slow_call.cancel()
    wait_for(lambda: not service.warm_workers(), 5, "the end of the worker")
    wait_for(lambda: not service.scratch(), 5, "an empty scratch folder")
    assert outputs_of(service.predict(image(32, 32)))["prediction"].shape == (32, 32)


def test_a_client_that_leaves_while_sending_is_forgotten(service: Service) -> None:
    waiting = threading.Event()

    def requests() -> Iterator[v1.PredictImageRequest]:
        head = v1.ImageHeader(shape=[64, 64], dtype="uint16", axes="YX")
        yield header_of(service.models["quick"], head)
        yield v1.PredictImageRequest(pixels=bytes(100))
        waiting.wait(20)

    call = service.call(requests())
    wait_for(service.scratch, 5, "the file of the image")
    call.cancel()
    waiting.set()
    wait_for(lambda: not service.scratch(), 5, "an empty scratch folder")


def test_a_worker_killed_in_an_image_is_told_as_lack_of_memory(service: Service, slow_call: Any) -> None:
    service.warm_workers()[0].kill()
    with pytest.raises(grpc.RpcError) as caught:
        list(slow_call)
    error = from_rpc_error(caught.value, "")
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(error, OutOfMemoryError)
    assert "tile_size" in error.message
    assert outputs_of(service.predict(image(32, 32)))["prediction"].shape == (32, 32)


@pytest.mark.parametrize("mebibytes", [1, 24], ids=["to-map-it", "to-normalise-it"])
def test_an_image_too_large_for_the_memory_is_told_as_such(service: Service, mebibytes: int) -> None:
    service.predict(image(32, 32))
    (worker,) = service.warm_workers()
    room = worker.memory_info().vms + mebibytes * 2**20
    worker.rlimit(psutil.RLIMIT_AS, (room, room))
    error = service.fails(requests_for(image(4000, 4000, dtype="uint8"), service.models["quick"]))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(from_rpc_error(error, ""), OutOfMemoryError)
    assert outputs_of(service.predict(image(32, 32)))["prediction"].shape == (32, 32)


def test_a_worker_lost_between_images_is_replaced_silently(service: Service) -> None:
    service.predict(image(32, 32))
    (worker,) = service.warm_workers()
    worker.kill()
    wait_for(lambda: not service.warm_workers(), 5, "its end")
    time.sleep(0.3)
    service.predict(image(32, 32))


def test_more_images_than_admitted_are_refused_with_a_time_to_retry(service: Service, slow_call: Any) -> None:
    others = [service.call(requests_for(image(32, 32), service.models["quick"])) for _ in range(2)]
    for other in others:
        assert next(iter(other)).progress.stage == "waiting for other images"
    error = service.fails(requests_for(image(32, 32), service.models["quick"]))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    refused = from_rpc_error(error, "")
    assert isinstance(refused, QueueFullError)
    assert refused.retry_seconds == 5
    slow_call.cancel()
    for other in others:
        assert "prediction" in outputs_of(list(other))


def test_an_idle_worker_ends(service: Service) -> None:
    service.predict(image(32, 32))
    assert service.warm_workers()
    begin = time.monotonic()
    wait_for(lambda: not service.warm_workers(), IDLE_SECONDS + 5, "the end of the worker")
    assert time.monotonic() - begin > IDLE_SECONDS - 1


def test_an_idle_worker_gives_way_to_a_job(service: Service) -> None:
    service.predict(image(32, 32))
    begin = time.monotonic()
    job = service.start_training()
    wait_for(lambda: not service.warm_workers(), 3, "the end of the worker")
    assert time.monotonic() - begin < IDLE_SECONDS - 0.5
    wait_for(lambda: service.state_of(job) == v1.JOB_STATE_RUNNING, 5, "the start of the job")
    service.drop(job)


def test_a_job_waits_for_the_present_image_and_goes_before_the_next(service: Service) -> None:
    present = service.call(requests_for(image(128, 128), service.models["slow"], tile_size=64))
    wait_for(lambda: next(present).progress.stage == "predicting", 20, "the present image")
    job = service.start_training(pause_seconds=0.5)
    wait_for(Device(service.state, "device-0").job_waits, 5, "the job's wish for the device")
    following = service.call(requests_for(image(32, 32), service.models["quick"]))
    assert "prediction" in outputs_of(list(present)), "the present image was not finished"
    with pytest.raises(grpc.RpcError) as caught:
        list(following)
    assert isinstance(from_rpc_error(caught.value, ""), QueueFullError)
    assert job.id in caught.value.details()
    assert service.state_of(job) == v1.JOB_STATE_RUNNING
    service.drop(job)


def test_an_idle_worker_gives_way_to_an_image_of_another_service(service: Service) -> None:
    service.predict(image(32, 32))
    other = Device(service.state, "device-0")
    loan = wait_for(lambda: other.take(for_job=False), 3, "the device")
    loan.close()


def test_a_device_in_use_is_waited_for_and_then_its_user_is_named(service: Service) -> None:
    device = Device(service.state, "device-0")
    loan = wait_for(lambda: device.take(for_job=True), 5, "the device")
    loan.describe("the job 20261122-demo of the service care")
    begin = time.monotonic()
    error = service.fails(requests_for(image(32, 32), service.models["quick"]))
    loan.close()
    assert 3.9 < time.monotonic() - begin < 15
    refused = from_rpc_error(error, "")
    assert isinstance(refused, QueueFullError)
    assert refused.retry_seconds > 0
    assert "the job 20261122-demo of the service care" in refused.message


def test_the_worker_ends_with_its_server(service: Service, slow_call: Any) -> None:
    (worker,) = service.warm_workers()
    left = service.scratch()
    service.process.kill()
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 2, "the worker's end")
    service.process.start()
    assert left
    assert not any(path.exists() for path in left), "a killed server's files were left"
    wait_for(lambda: _predicts(service), 20, "an answer")


def test_stopping_the_server_tells_who_waits_for_an_image(service: Service, slow_call: Any) -> None:
    (worker,) = service.warm_workers()
    assert service.process.stop() == 0
    with pytest.raises(grpc.RpcError) as caught:
        list(slow_call)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert not worker.is_running()
    service.process.start()
    wait_for(lambda: _predicts(service), 20, "an answer")


def _predicts(service: Service) -> bool:
    try:
        return "prediction" in outputs_of(service.predict(image(32, 32)))
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            raise
        return False


@pytest.mark.parametrize(("environment", "module"), [("qc", "parfocal.runtime.fake"), ("care", "parfocal.care")])
def test_the_server_imports_no_framework(environment: str, module: str) -> None:
    code = (
        f"import sys, parfocal.runtime.server.__main__, {module}; "
        "print(', '.join({'tensorflow', 'keras', 'torch', 'csbdeep'} & set(sys.modules)))"
    )
    python = ROOT / ".venvs" / environment / "bin" / "python"
    run = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == ""


def test_the_example_of_the_page_works(service: Service) -> None:
    page = (ROOT / "docs" / "predict-image.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/predict-image.md", "exec"), names)
    stack = image(10, 512, 400)
    outputs = names["predict"](service.process.address, service.models["quick"], stack, "ZYX")
    expected = outputs_of(service.predict(stack, axes="ZYX"))
    assert list(outputs) == ["prediction"]
    assert np.array_equal(outputs["prediction"], expected["prediction"])
