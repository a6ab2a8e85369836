"""The warm worker of PredictImage: kept, idle, killed, cancelled, and the device that it shares with jobs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from image_service import HOLDER, IDLE_SECONDS, Service, header_of, image, outputs_of, requests_for
from support import ROOT, mentions, wait_for

from parfocal import v1
from parfocal.runtime.errors import OutOfMemoryError, QueueFullError
from parfocal.runtime.jobs.device.use import Use
from parfocal.runtime.rpc_errors import from_rpc_error


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


def test_a_long_log_is_put_aside_when_a_worker_starts(service: Service) -> None:
    service.predict(image(32, 32))
    log = service.state / "logs" / "warm-fake.log"
    os.truncate(log, 11 * 2**20)
    for worker in service.warm_workers():
        worker.kill()
        worker.wait()
    service.predict(image(32, 32))
    assert log.with_name("warm-fake.log.1").stat().st_size >= 11 * 2**20
    assert log.stat().st_size < 2**20


def test_more_images_than_admitted_are_refused_with_a_time_to_retry(service: Service, slow_call: Any) -> None:
    others = [service.call(requests_for(image(32, 32), service.models["quick"])) for _ in range(2)]
    for other in others:
        assert "other images" in next(iter(other)).progress.stage
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


def test_a_prediction_waits_for_the_present_image_and_goes_before_the_next(service: Service) -> None:
    present = service.call(requests_for(image(128, 128), service.models["slow"], tile_size=64))
    wait_for(lambda: next(present).progress.stage == "predicting", 20, "the present image")
    job = service.start_prediction()
    wait_for(service.device.waiting, 5, "the job's wish for the device")
    following = service.call(requests_for(image(32, 32), service.models["quick"]))
    assert "prediction" in outputs_of(list(present)), "the present image was not finished"
    told = []
    # On a busy machine the prediction takes longer than an image waits.
    with contextlib.suppress(grpc.RpcError):
        for answer in following:
            told.append(answer.progress.stage)
    assert any(mentions(stage, "waiting for the device", job.id) for stage in told), told
    service.finish(job)


def test_images_go_before_a_training_that_waits(service: Service) -> None:
    present = service.call(requests_for(image(128, 128), service.models["slow"], tile_size=64))
    wait_for(lambda: next(present).progress.stage == "predicting", 20, "the present image")
    job = service.start_training(pause_seconds=0.5)
    wait_for(service.device.waiting, 5, "the job's wish for the device")
    (worker,) = service.warm_workers()
    following = service.call(requests_for(image(32, 32), service.models["quick"]))
    assert "prediction" in outputs_of(list(present))
    assert "prediction" in outputs_of(list(following))
    assert service.warm_workers() == [worker]
    wait_for(lambda: service.state_of(job) == v1.JOB_STATE_RUNNING, 10, "the start of the training")
    service.drop(job)


def test_an_idle_worker_gives_way_to_an_image_of_another_service(service: Service) -> None:
    service.predict(image(32, 32))
    loan = wait_for(lambda: service.device.take(Use.of_images("other")), 3, "the device")
    loan.close()


def test_a_device_in_use_is_waited_for_and_then_its_user_is_named(service: Service) -> None:
    loan = wait_for(service.take_device, 5, "the device")
    loan.describe(HOLDER)
    begin = time.monotonic()
    error = service.fails(requests_for(image(32, 32), service.models["quick"]))
    loan.close()
    assert 3.9 < time.monotonic() - begin < 15
    refused = from_rpc_error(error, "")
    assert isinstance(refused, QueueFullError)
    assert refused.retry_seconds > 0
    assert mentions(refused.message, HOLDER.job, HOLDER.service)


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


@pytest.mark.parametrize(("environment", "module"), [("qc", "fake"), ("care", "parfocal.care")])
def test_the_server_imports_no_framework(environment: str, module: str) -> None:
    code = (
        f"import sys, parfocal.runtime.server.__main__, {module}; "
        "print(', '.join({'tensorflow', 'keras', 'torch', 'csbdeep'} & set(sys.modules)))"
    )
    python = ROOT / ".venvs" / environment / "bin" / "python"
    command, where = [str(python), "-c", code], ROOT / "tests"  # where the fake service is found
    run = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == ""
