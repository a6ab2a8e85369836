"""Spare workers: a process that has done a prediction goes on to the next one of the same model, and to nothing else.

Service, store, workers and device are real. Tests that neither end nor pause a service share one.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from image_service import Service, publish_variant
from support import ServiceProcess, publish_dataset, read_published, wait_for

from parfocal import v1
from parfocal.runtime.jobs.device.use import Kind, Use
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location, Store

SPARE_SECONDS = 60.0
WORKER = "parfocal.runtime.jobs.worker"


@pytest.fixture(scope="module")
def models(
    start_service: Callable[..., ServiceProcess], s3: Any, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """A dataset and three models of it: two quick ones, and one that takes 0.2 s for each image."""
    process = start_service("fake")
    dataset = publish_dataset(s3.store(), "spare", pairs_folder)
    with grpc.insecure_channel(process.address) as channel:
        service = Service(process, channel, dataset)
        quick = service.finish(service.start_training(epochs=2)).outputs[0].uri
    process.stop()
    return {
        "dataset": dataset,
        "quick": quick,
        "other": publish_variant(s3.store(), quick, "spare-other", tmp_path_factory.mktemp("other"), factor=2.0),
        "slow": publish_variant(s3.store(), quick, "spare-slow", tmp_path_factory.mktemp("slow"), pause_seconds=0.4),
    }


@pytest.fixture(scope="module")
def shared() -> list[Service]:
    """The service that tests share while there is one."""
    return []


@pytest.fixture
def service(shared: list[Service], start_service: Callable[..., ServiceProcess], models: dict[str, str]) -> Service:
    """A running service, with a spare worker of an earlier test or without."""
    if not shared:
        process = start_service("fake", spare_seconds=str(SPARE_SECONDS))
        shared.append(Service(process, grpc.insecure_channel(process.address), models["dataset"], models))
    return shared[0]


@pytest.fixture
def start(
    shared: list[Service], start_service: Callable[..., ServiceProcess], models: dict[str, str]
) -> Iterator[Callable[..., Service]]:
    """Start services for one test each. Only one of them can run the jobs, so the shared one ends."""
    while shared:
        shared[0].channel.close()
        shared.pop().process.stop()
    started: list[tuple[ServiceProcess, grpc.Channel]] = []

    def begin(**settings: str) -> Service:
        process = start_service("fake", **{"spare_seconds": str(SPARE_SECONDS), "checkpoint_seconds": "0"} | settings)
        channel = grpc.insecure_channel(process.address)
        started.append((process, channel))
        return Service(process, channel, models["dataset"], models)

    yield begin
    for process, channel in started:
        channel.close()
        if process.process is not None:
            process.process.send_signal(signal.SIGCONT)
            process.stop()


def workers(service: Service) -> list[psutil.Process]:
    assert service.process.process is not None
    return [child for child in psutil.Process(service.process.process.pid).children() if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and WORKER in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def the_worker(service: Service) -> psutil.Process:
    (worker,) = workers(service)
    return worker


def log_of(worker: psutil.Process) -> str:
    """The log that a worker writes to: it names job and attempt."""
    return Path(f"/proc/{worker.pid}/fd/1").readlink().name


def until_running(service: Service, job: v1.Job, attempt: int = 1) -> psutil.Process:
    """Wait until a worker has taken up an attempt of a job; return it."""

    def found() -> list[psutil.Process]:
        return [worker for worker in workers(service) if log_of(worker) == f"{job.id}-{attempt}.log"]

    return wait_for(found, 30, "the worker of the job")[0]  # type: ignore[no-any-return]


def until_predicting(service: Service, job: v1.Job) -> None:
    def predicting() -> bool:
        return service.jobs.GetJob(v1.GetJobRequest(job_id=job.id)).job.progress.stage == "predicting"

    wait_for(predicting, 30, "the first image")


def outputs(store: Store, job: v1.Job) -> dict[str, bytes]:
    """Return the content of all files of a result by public name."""
    uri = job.outputs[0].uri
    manifest = ResultManifest.read(store, Location.parse(uri) / RESULT_MANIFEST)
    return {entry.public_name: read_published(store, uri, entry.public_name) for entry in manifest.files}


@pytest.mark.parametrize("change", ["model", "parameter", "training"])
def test_anything_else_has_a_process_of_its_own(service: Service, store: Store, change: str) -> None:
    first = service.finish(service.start_prediction())
    worker = the_worker(service)
    begin: dict[str, Callable[[], v1.Job]] = {
        "model": lambda: service.start_prediction("other"),
        "parameter": lambda: service.start_prediction(tile_size=64),
        "training": service.start_training,
    }
    other = service.finish(begin[change]())
    assert not is_worker(worker), "two processes with a model each may not fit the memory"
    third = service.finish(service.start_prediction())
    assert (other.attempt, third.attempt) == (1, 1)
    assert outputs(store, third) == outputs(store, first)
    if change == "model":
        assert outputs(store, other) != outputs(store, first)


def test_an_idle_spare_worker_has_no_device_and_gives_way(service: Service) -> None:
    service.finish(service.start_prediction())
    worker = the_worker(service)
    loan = wait_for(service.take_device, 5, "the device")
    assert is_worker(worker)
    loan.describe(Use(Kind.PREDICTION, "another"))
    wait_for(lambda: not is_worker(worker), 5, "the end of the spare worker")
    loan.close()


def test_a_spare_worker_has_the_device_during_its_next_job(service: Service) -> None:
    service.finish(service.start_prediction("slow"))
    second = service.start_prediction("slow")
    until_running(service, second)
    assert service.take_device() is None
    holder = service.device.holder()
    assert holder is not None
    assert holder.use.job == second.id
    service.finish(second)


def test_a_spare_worker_that_dies_idle_is_no_loss(service: Service) -> None:
    first = service.finish(service.start_prediction())
    wait_for(service.take_device, 5, "the device").close()
    worker = the_worker(service)
    worker.kill()
    second = service.finish(service.start_prediction())
    first = service.jobs.GetJob(v1.GetJobRequest(job_id=first.id)).job
    assert [(job.attempt, job.lost_workers) for job in (first, second)] == [(1, 0), (1, 0)]


def test_a_death_in_the_second_job_counts_there_alone(service: Service, store: Store) -> None:
    first = service.finish(service.start_prediction("slow"))
    second = service.start_prediction("slow")
    worker = until_running(service, second)
    until_predicting(service, second)
    worker.kill()
    second = service.finish(second)
    first = service.jobs.GetJob(v1.GetJobRequest(job_id=first.id)).job
    assert [(job.attempt, job.lost_workers) for job in (first, second)] == [(1, 0), (2, 1)]
    assert outputs(store, second) == outputs(store, first)


def test_a_spare_worker_that_dies_before_it_takes_up_a_job_is_no_loss(service: Service) -> None:
    service.finish(service.start_prediction())
    wait_for(service.take_device, 5, "the device").close()
    worker = the_worker(service)
    worker.suspend()
    second = service.start_prediction()
    wait_for(lambda: service.state_of(second) == v1.JOB_STATE_RUNNING, 10, "the start of the job")
    assert log_of(worker) != f"{second.id}-1.log"
    worker.kill()
    second = service.finish(second)
    assert (second.attempt, second.lost_workers) == (2, 0)


def test_cancelling_the_second_job_leaves_the_first_alone(service: Service, store: Store) -> None:
    first = service.finish(service.start_prediction("slow"))
    second, third = service.start_prediction("slow"), service.start_prediction("slow")
    worker = until_running(service, second)
    service.jobs.CancelJob(v1.CancelJobRequest(job_id=second.id))
    third = service.finish(third)
    assert service.state_of(second) == v1.JOB_STATE_CANCELLED
    assert not is_worker(worker), "after a job that did not succeed a process is not used again"
    assert (third.attempt, third.lost_workers) == (1, 0)
    assert outputs(store, third) == outputs(store, first)


def test_a_job_that_fails_leaves_no_spare_worker(service: Service, store: Store) -> None:
    place = store.results / "default" / f"inputs-{uuid.uuid4().hex}"
    store.write(place / "a.tif", b"no image")
    spec = v1.PredictionSpec(model_uri=service.models["quick"], input_uri=str(place))
    job = service.jobs.StartJob(v1.StartJobRequest(prediction=spec)).job
    wait_for(lambda: service.state_of(job) == v1.JOB_STATE_FAILED, 30, "the failure")
    wait_for(lambda: not workers(service), 5, "the end of the worker")


@pytest.mark.timeout(180)
def test_thirty_jobs_in_one_process_leave_nothing_behind(service: Service) -> None:
    first = service.finish(service.start_prediction())
    worker = the_worker(service)
    jobs = [service.start_prediction() for _ in range(29)]
    held: list[tuple[float, int, int]] = []
    for job in jobs:
        service.finish(job)
        with worker.oneshot():
            held.append((worker.memory_info().rss / 2**20, worker.num_fds(), worker.num_threads()))
    assert workers(service) == [worker]
    assert first.attempt == 1
    # Pools and caches fill in the first jobs. Files and threads of a job end a moment after it, so what counts is the
    # least that is left: a leak would raise that as well.
    early, late = held[4], held[-1]
    assert late[0] < early[0] + 8, held
    assert min(fds for _, fds, _ in held[-5:]) <= max(fds for _, fds, _ in held[:10]) + 2, held
    assert min(threads for *_, threads in held[-5:]) <= max(threads for *_, threads in held[:10]) + 2, held


def test_the_next_prediction_is_done_by_the_same_process(start: Callable[..., Service], store: Store) -> None:
    service = start()
    first = service.finish(service.start_prediction())
    worker = the_worker(service)
    second = service.finish(service.start_prediction())
    assert workers(service) == [worker]
    assert (second.attempt, second.lost_workers) == (1, 0)
    assert outputs(store, second) == outputs(store, first)
    logs = service.state / "logs" / "default"
    lines = {job.id: (logs / f"{job.id}-1.log").read_text() for job in (first, second)}
    assert first.id not in lines[second.id]
    assert second.id not in lines[first.id]
    wait_for(service.take_device, 5, "the device").close()
    assert not [path for job in (first, second) for path in (service.state / "scratch").glob(f"{job.id}-*")]
    service.process.stop()
    # A service without spare workers gives the same, bit for bit.
    fresh = start(spare_seconds="0")
    third = fresh.finish(fresh.start_prediction())
    assert outputs(store, third) == outputs(store, first)
    wait_for(lambda: not workers(fresh), 10, "the end of the worker")


def test_a_spare_worker_ends_when_it_is_idle(start: Callable[..., Service]) -> None:
    service = start(spare_seconds="1")
    service.finish(service.start_prediction())
    worker = the_worker(service)
    wait_for(lambda: not is_worker(worker), 10, "the end of the spare worker")
    assert service.finish(service.start_prediction()).attempt == 1


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_spare_worker_ends_with_its_service(start: Callable[..., Service], how: str) -> None:
    service = start()
    service.finish(service.start_prediction())
    wait_for(service.take_device, 5, "the device").close()
    worker = the_worker(service)
    if how == "stopped":
        assert service.process.stop() == 0
        assert not is_worker(worker)
    else:
        service.process.kill()
        wait_for(lambda: not is_worker(worker), 5, "the end of the spare worker")


def test_a_service_that_was_paused_past_its_lease_dismisses_its_spare_worker(start: Callable[..., Service]) -> None:
    paused = start(lease_seconds="1.5")
    paused.finish(paused.start_prediction())
    wait_for(paused.take_device, 5, "the device").close()
    worker = the_worker(paused)
    assert paused.process.process is not None
    paused.process.process.send_signal(signal.SIGSTOP)
    other = start(lease_seconds="1.5")
    second = other.finish(started_by(other))
    paused.process.process.send_signal(signal.SIGCONT)
    wait_for(lambda: not is_worker(worker), 10, "the end of the spare worker")
    assert (second.attempt, second.lost_workers) == (1, 0)


def test_a_spare_worker_that_was_frozen_and_replaced_changes_nothing(
    start: Callable[..., Service], store: Store
) -> None:
    paused = start(lease_seconds="1.5")
    first = paused.finish(paused.start_prediction("slow"))
    second = paused.start_prediction("slow")
    worker = until_running(paused, second)
    until_predicting(paused, second)
    assert paused.process.process is not None
    for process in (paused.process.process, worker):
        process.send_signal(signal.SIGSTOP)
    other = start(lease_seconds="1.5")
    second = other.finish(second)
    assert (second.attempt, second.lost_workers) == (2, 0)
    # The worker goes on before its service, which would end it.
    worker.send_signal(signal.SIGCONT)
    wait_for(lambda: not is_worker(worker), 30, "the end of the worker that was replaced")
    paused.process.process.send_signal(signal.SIGCONT)
    assert JobStore(store).read("default", second.id).job == second
    assert outputs(store, second) == outputs(store, first)


def started_by(service: Service) -> v1.Job:
    """Start a prediction as soon as this instance runs the jobs."""

    def begin() -> v1.Job | None:
        try:
            return service.start_prediction()
        except grpc.RpcError:
            return None

    return wait_for(begin, 30, "the takeover")  # type: ignore[no-any-return]
