"""No accepted job is lost, no published file is changed: each hole that kills and pauses can tear, one by one.

The controller and the records are real, and so is the store; only the workers are played, so that a test decides when
one dies and what it does last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake import SERVICE
from support import free_ports, publish_dataset

from parfocal import v1
from parfocal.runtime.errors import DamagedError, NotFoundError, StaleWorkerError, UnavailableError
from parfocal.runtime.jobs import attempt as attempt_module
from parfocal.runtime.jobs import scheduler as scheduler_module
from parfocal.runtime.jobs.admission import admit
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.jobs.controller import Controller
from parfocal.runtime.jobs.device.use import Use
from parfocal.runtime.jobs.exits import STORE_AWAY, Exit, ExitKind
from parfocal.runtime.jobs.launcher import LocalWorker
from parfocal.runtime.jobs.records import JobStore, set_state
from parfocal.runtime.methods.service import Resources, Service
from parfocal.runtime.metrics import exposition
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.store.store import Location, Store

DIED = Exit(ExitKind.DIED, "was killed")


@dataclass
class PlayedWorker:
    """A worker that ends when the test says so."""

    ended: Exit | None = None


@dataclass
class PlayedLauncher:
    """Starts played workers, always with room for one more."""

    detached: bool = False
    room: bool = True
    started: list[tuple[str, int, PlayedWorker]] = field(default_factory=list)

    async def start(self, job: v1.Job, _resources: Resources) -> PlayedWorker:
        worker = PlayedWorker()
        self.started.append((job.id, job.attempt, worker))
        return worker

    async def poll(self, worker: PlayedWorker) -> Exit | None:
        return worker.ended

    async def stop(self, worker: PlayedWorker) -> None:
        worker.ended = worker.ended or DIED

    async def adopt(self, _job: v1.Job) -> None:
        return

    async def found(self) -> tuple[()]:
        return ()

    async def reserve(self, _use: Use, _resources: Resources) -> bool:
        return self.room

    async def want(self, _use: Use, _resources: Resources) -> None:
        return

    async def count_wait(self) -> None:
        return

    async def short_first(self) -> bool:
        return True

    async def holders(self) -> tuple[()]:
        return ()

    async def release(self) -> None:
        return

    async def tend(self) -> None:
        return

    async def dismiss(self) -> bool:
        return True

    def attempts(self, job_id: str) -> list[int]:
        return [attempt for known, attempt, _ in self.started if known == job_id]

    def worker(self, job_id: str) -> PlayedWorker:
        return next(worker for known, _, worker in reversed(self.started) if known == job_id)


class HeldStore(Store):
    """A store whose next write of a job's record waits, or succeeds without an answer, as the test says."""

    gate: threading.Event | None = None
    waiting = threading.Event()
    unanswered = 0

    def create(self, location: Location, data: bytes) -> str:
        return self._held(location, lambda: super(HeldStore, self).create(location, data))

    def replace(self, location: Location, data: bytes, etag: str) -> str:
        return self._held(location, lambda: super(HeldStore, self).replace(location, data, etag))

    def _held(self, location: Location, write: Callable[[], str]) -> str:
        if location.name != "job.json":
            return write()
        if self.gate is not None:
            self.waiting.set()
            assert self.gate.wait(20)
        etag = write()
        if self.unanswered:
            self.unanswered -= 1
            raise UnavailableError("the answer was lost")
        return etag


@dataclass
class Bench:
    """A service name of its own on the shared store, with a dataset to ask for."""

    settings: Settings
    dataset: str
    service: Service
    contexts: list[JobContext] = field(default_factory=list)

    def controller(self, launcher: PlayedLauncher, store: Store | None = None) -> Controller:
        return Controller(self.service, store or Store(self.settings), launcher, self.settings)

    def request(self) -> v1.StartJobRequest:
        name = f"job-{uuid.uuid4().hex[:10]}"
        spec = v1.TrainingSpec(method="fake-2d", dataset_uri=self.dataset, model=name)
        return v1.StartJobRequest(request_id=name, project="default", training=spec)

    def job(self, request: v1.StartJobRequest) -> v1.Job:
        return JobStore(Store(self.settings)).read("default", request.request_id).job


@pytest.fixture(scope="module")
def dataset(s3: Any, pairs_folder: Path) -> str:
    return publish_dataset(s3.store(), "accepted", pairs_folder)


@pytest.fixture
def bench(store: Store, dataset: str, tmp_path: Path) -> Iterator[Bench]:
    # A name of its own keeps the jobs of other tests out.
    service = Service(name=f"fake-{uuid.uuid4().hex[:8]}", methods=SERVICE.methods)
    settings = store.settings.model_copy(update={"state_dir": tmp_path, "lease_seconds": 60.0})
    bench = Bench(settings, dataset, service)
    yield bench
    for context in bench.contexts:
        # Its thread looks for a cancel mark until it has found one.
        context._cancel = {"keep_best": False, "why": "the test is over"}


@contextlib.asynccontextmanager
async def running(controller: Controller) -> AsyncIterator[Controller]:
    await controller.start()
    try:
        yield controller
    finally:
        await controller.stop()


async def until(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> None:
    for _ in range(int(seconds / 0.05)):
        if await asyncio.to_thread(condition):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what} did not come about")


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


def test_a_job_is_queued_although_its_client_has_gone_away(bench: Bench) -> None:
    async def scene() -> None:
        launcher, store, request = PlayedLauncher(), HeldStore(bench.settings), bench.request()
        async with running(bench.controller(launcher, store)) as controller:
            store.gate, store.waiting = threading.Event(), threading.Event()
            call = asyncio.create_task(controller.submit(request))
            await asyncio.to_thread(store.waiting.wait, 20)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            store.gate.set()
            store.gate = None
            await until(lambda: launcher.attempts(request.request_id) == [1], "the worker of the accepted job")

    play(scene())


def test_a_job_is_queued_although_the_answer_of_the_store_was_lost(bench: Bench) -> None:
    async def scene() -> None:
        launcher, store, request = PlayedLauncher(), HeldStore(bench.settings), bench.request()
        async with running(bench.controller(launcher, store)) as controller:
            store.unanswered = 1
            with pytest.raises(UnavailableError):
                await controller.submit(request)
            await until(lambda: launcher.attempts(request.request_id) == [1], "the worker, without another request")

    play(scene())


def test_a_repeated_request_takes_up_its_job_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "_RECONCILE_SECONDS", 3600.0)

    async def scene() -> None:
        launcher, store, request = PlayedLauncher(), HeldStore(bench.settings), bench.request()
        async with running(bench.controller(launcher, store)) as controller:
            await asyncio.sleep(0.5)  # the first look at the store is over
            store.unanswered = 1
            with pytest.raises(UnavailableError):
                await controller.submit(request)
            await controller.submit(request)
            await until(lambda: launcher.attempts(request.request_id) == [1], "the worker")

    play(scene())


def test_a_job_that_another_instance_has_queued_is_taken_up(bench: Bench) -> None:
    async def scene() -> None:
        launcher, request = PlayedLauncher(), bench.request()
        async with running(bench.controller(launcher)):
            other = bench.controller(PlayedLauncher())
            await asyncio.to_thread(admit, bench.service, Store(bench.settings), other.jobs, request)
            await until(lambda: launcher.attempts(request.request_id) == [1], "the worker of the active instance")

    play(scene())


def test_a_job_of_a_method_that_the_service_has_no_more_holds_up_no_other(bench: Bench) -> None:
    async def scene() -> None:
        foreign = v1.Job(id="foreign", project="default", service=bench.service.name, method="gone-2d")
        foreign.training.model = "m"
        JobStore(Store(bench.settings)).create(foreign, "digest")
        launcher, request = PlayedLauncher(), bench.request()
        async with running(bench.controller(launcher)) as controller:
            await controller.submit(request)
            await until(lambda: launcher.attempts(request.request_id) == [1], "the worker of the other job")

    play(scene())


def test_an_instance_that_was_paused_past_its_lease_accepts_nothing(bench: Bench) -> None:
    async def scene() -> None:
        bench.settings = bench.settings.model_copy(update={"lease_seconds": 0.5})
        launcher, request = PlayedLauncher(), bench.request()
        paused, other = bench.controller(PlayedLauncher()), bench.controller(launcher)
        # Its own tasks do not run: so it is after a pause, when requests are served before anything else.
        await paused._renew()
        await asyncio.sleep(0.6)
        async with running(other):
            await until(lambda: other.is_active, "the other instance")
            with pytest.raises(UnavailableError):
                await paused.submit(request)
            assert not paused.is_active
            with pytest.raises(NotFoundError):
                bench.job(request)

    play(scene())


def test_a_job_that_another_instance_has_started_is_not_taken_for_ones_own(bench: Bench) -> None:
    async def scene() -> None:
        launcher, store, request = PlayedLauncher(), HeldStore(bench.settings), bench.request()
        controller = bench.controller(launcher, store)
        await controller._renew()
        await controller.submit(request)

        def start(job: v1.Job) -> v1.JobEvent:
            job.attempt = 1
            return set_state(job, v1.JOB_STATE_RUNNING, "by a paused instance")

        await asyncio.to_thread(JobStore(Store(bench.settings)).change, "default", request.request_id, start)
        await controller._start_next()
        assert launcher.attempts(request.request_id) == [], "that attempt has a worker elsewhere"
        await controller._reconcile()
        await controller._start_next()
        assert launcher.attempts(request.request_id) == [2]
        assert bench.job(request).lost_workers == 0

    play(scene())


def test_a_start_that_waits_for_the_store_survives_the_loss_of_the_lease(bench: Bench) -> None:
    async def scene() -> None:
        launcher, store = PlayedLauncher(), HeldStore(bench.settings)
        controller = bench.controller(launcher, store)
        await controller._renew()
        request = bench.request()
        await controller.submit(request)
        store.gate, store.waiting = threading.Event(), threading.Event()
        start = asyncio.create_task(controller._start_next())
        await asyncio.to_thread(store.waiting.wait, 20)
        taken = json.dumps({"owner": "another", "until": 9e12, "host": "elsewhere"}).encode()
        await asyncio.to_thread(store.write, store.jobs / ".leases" / f"{bench.service.name}.json", taken)
        await controller._renew()
        assert not controller.is_active
        store.gate.set()
        await start
        assert launcher.started == []

    play(scene())


@pytest.mark.parametrize(("kind", "losses"), [(ExitKind.DIED, 1), (ExitKind.INTERRUPTED, 0), (ExitKind.FINISHED, 1)])
def test_only_a_workers_own_death_counts(bench: Bench, kind: ExitKind, losses: int) -> None:
    async def scene() -> None:
        launcher, request = PlayedLauncher(), bench.request()
        async with running(bench.controller(launcher)) as controller:
            await controller.submit(request)
            await until(lambda: launcher.attempts(request.request_id) == [1], "the first worker")
            launcher.worker(request.request_id).ended = Exit(kind, "ended")
            await until(lambda: launcher.attempts(request.request_id) == [1, 2], "the second worker")
            assert bench.job(request).lost_workers == losses

    play(scene())


def test_a_job_that_ends_without_a_worker_is_counted(bench: Bench) -> None:
    def counted() -> int:
        found = re.search(r'^parfocal_jobs_ended_total\{state="CANCELLED"\} (\d+)$', exposition(), re.MULTILINE)
        return int(found[1]) if found else 0

    async def scene() -> None:
        launcher = PlayedLauncher()
        controller = bench.controller(launcher)
        await controller._renew()
        before = counted()
        waiting = await controller.submit(bench.request())
        await controller.cancel("default", waiting.id, keep_best=False, why="")
        assert counted() == before + 1
        # One that was cancelled when its worker was lost together with its service.
        lost = await controller.submit(bench.request())
        await controller._start_next()  # passes over the one that was cancelled
        await controller._start_next()
        assert launcher.attempts(lost.id) == [1]
        controller.jobs.mark_cancelled(lost, 1, keep_best=False, why="")
        controller._running.clear()
        await controller._reconcile()
        assert counted() == before + 2

    play(scene())


def test_a_job_of_very_many_attempts_rests_no_longer_than_others(bench: Bench) -> None:
    async def scene() -> None:
        controller = bench.controller(PlayedLauncher(detached=True))
        await controller._renew()
        job = await controller.submit(bench.request())
        job = controller.jobs.change("default", job.id, lambda job: setattr(job, "attempt", 2000))
        await controller._settle(job, Exit(ExitKind.EVICTED, "had to leave its node"))
        assert 0 < controller._not_before["default", job.id] - time.monotonic() <= 60

    play(scene())


def test_three_deaths_fail_a_job_and_the_loss_of_its_service_does_not(bench: Bench) -> None:
    async def scene() -> None:
        request = bench.request()
        for number in range(1, 5):
            launcher = PlayedLauncher()
            controller = bench.controller(launcher)
            await controller._renew()
            if number == 1:
                await controller.submit(request)
            else:
                await controller._reconcile()
            await controller._start_next()
            assert launcher.attempts(request.request_id) == [number]
            # The service dies: nothing is said to the store, and the lease is free.
            await asyncio.to_thread(controller.store.delete, controller._lease._place)
        assert bench.job(request).lost_workers == 0
        launcher = PlayedLauncher()
        async with running(bench.controller(launcher)):
            for number in range(5, 8):
                await until(lambda wanted=number: wanted in launcher.attempts(request.request_id), "the next worker")
                launcher.worker(request.request_id).ended = DIED
            await until(lambda: bench.job(request).state == v1.JOB_STATE_FAILED, "the failure")
        assert bench.job(request).error.reason == "WORKER_LOST"

    play(scene())


def test_a_worker_waits_for_the_store_from_its_first_read_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("PARFOCAL_S3_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(attempt_module, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(attempt_module, "configure_logging", lambda **_: None)
    assert attempt_module.work("fake", "default", "any", 1).code == STORE_AWAY


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("", ExitKind.FINISHED),
        ("sys.exit(3)", ExitKind.INTERRUPTED),
        ("sys.exit(75)", ExitKind.INTERRUPTED),
        ("sys.exit(1)", ExitKind.DIED),
        ("os.kill(os.getpid(), signal.SIGKILL)", ExitKind.KILLED),
        ("os.kill(os.getpid(), signal.SIGTERM)", ExitKind.INTERRUPTED),
    ],
)
def test_the_end_of_a_process_is_told_apart(program: str, kind: ExitKind, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", f"import os, signal, sys; {program}"])
    process.wait()
    ended = LocalWorker(process, None, tmp_path / "log").exit()
    assert ended is not None
    assert ended.kind == kind


def attempt(bench: Bench, request: v1.StartJobRequest, number: int, folder: Path) -> JobContext:
    """The context of a worker for a new attempt of a job."""
    jobs = JobStore(Store(bench.settings))

    def begin(job: v1.Job) -> v1.JobEvent:
        job.attempt = number
        return set_state(job, v1.JOB_STATE_RUNNING, "running")

    scratch = folder / f"attempt-{number}"
    scratch.mkdir()
    job = jobs.change("default", request.request_id, begin)
    context = JobContext(bench.service, Store(bench.settings), job, scratch)
    bench.contexts.append(context)
    return context


def admitted(bench: Bench) -> v1.StartJobRequest:
    request = bench.request()
    store = Store(bench.settings)
    admit(bench.service, store, JobStore(store), request)
    return request


def write(context: JobContext, text: str) -> Path:
    path = context.scratch / "filter.json"
    path.write_text(text)
    return path


def model(context: JobContext, files: tuple[Any, ...]) -> ModelManifest:
    return ModelManifest(
        project="default",
        model=context.reserved.parent.name,
        version=1,
        service="fake",
        method="fake-2d",
        job=context.job.id,
        parameters={},
        axes="YX",
        normaliser={},
        dataset_uri="",
        files=files,
    )


def published(bench: Bench, request: v1.StartJobRequest) -> tuple[ModelManifest, dict[str, bytes]]:
    store, place = Store(bench.settings), Location.parse(bench.job(request).reserved_uri)
    manifest = ModelManifest.read(store, place / MODEL_MANIFEST)
    return manifest, {entry.public_name: store.read(place / entry.name) for entry in manifest.files}


def test_a_worker_that_was_frozen_and_replaced_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    request = admitted(bench)
    frozen = attempt(bench, request, 1, tmp_path)
    files = frozen.send_all([(write(frozen, "first"), "filter.json")])
    second = attempt(bench, request, 2, tmp_path)
    second.publish(MODEL_MANIFEST, model(second, second.send_all([(write(second, "second"), "filter.json")])), "model")
    second.succeed()
    # It thaws, and goes on where it was.
    frozen.send(write(frozen, "late"), "filter.json")
    with pytest.raises(StaleWorkerError):
        frozen.publish(MODEL_MANIFEST, model(frozen, files), "model")
    with pytest.raises(StaleWorkerError):
        frozen.save_checkpoint(1, [write(frozen, "late")])
    manifest, contents = published(bench, request)
    assert contents == {"filter.json": b"second"}
    assert [entry.name for entry in manifest.files] == ["a0002/filter.json"]
    assert bench.job(request).state == v1.JOB_STATE_SUCCEEDED


def test_a_checkpoint_of_a_replaced_worker_is_not_gone_on_from(bench: Bench, tmp_path: Path) -> None:
    request = admitted(bench)
    frozen = attempt(bench, request, 1, tmp_path)
    frozen.save_checkpoint(3, [write(frozen, "three")])
    second = attempt(bench, request, 2, tmp_path)
    with pytest.raises(StaleWorkerError):
        frozen.save_checkpoint(9, [write(frozen, "nine")])
    assert [checkpoint.epoch for checkpoint in second.checkpoints()] == [3]
    second.save_checkpoint(4, [write(second, "four")])
    second.save_checkpoint(5, [write(second, "five")])
    third = attempt(bench, request, 3, tmp_path)
    assert [(known.attempt, known.epoch) for known in third.checkpoints()] == [(2, 4), (2, 5)]
    (path,) = third.load_checkpoint(third.checkpoints()[-1])
    assert path.read_text() == "five"
    kept = third.store.objects(third.jobs.folder("default", request.request_id) / "checkpoints")
    assert {item.location.parent.name for item in kept} == {"0002-000004", "0002-000005"}


def test_a_damaged_checkpoint_keeps_no_further_one_from_being_saved(bench: Bench, tmp_path: Path) -> None:
    context = attempt(bench, admitted(bench), 1, tmp_path)
    context.save_checkpoint(1, [write(context, "one")])
    (first,) = context.checkpoints()
    context.store.write(first.place / "complete.json", b'{"files"')
    context.save_checkpoint(2, [write(context, "two")])
    with pytest.raises(DamagedError):
        context.load_checkpoint(first)
    (path,) = context.load_checkpoint(context.checkpoints()[-1])
    assert path.read_text() == "two"


def test_a_decided_publication_is_completed_by_the_next_worker(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = admitted(bench)
    first = attempt(bench, request, 1, tmp_path)
    monkeypatch.setattr(first, "complete_publication", lambda: (_ for _ in ()).throw(SystemExit("killed")))
    files = first.send_all([(write(first, "first"), "filter.json")])
    with pytest.raises(SystemExit):
        first.publish(MODEL_MANIFEST, model(first, files), "model", {"val_loss": 0.5})
    second = attempt(bench, request, 2, tmp_path)
    assert second.complete_publication()
    assert published(bench, request)[1] == {"filter.json": b"first"}
    assert [output.kind for output in second.job.outputs] == ["model"]
    assert second.job.metrics["val_loss"] == 0.5


def test_a_cancelled_worker_is_not_started_again(bench: Bench) -> None:
    """The mark was written and the answer to the change of state was lost: the state still says RUNNING."""

    async def scene() -> None:
        launcher, request = PlayedLauncher(), bench.request()
        async with running(bench.controller(launcher)) as controller:
            await controller.submit(request)
            await until(lambda: launcher.attempts(request.request_id) == [1], "the worker")
            await asyncio.to_thread(
                controller.jobs.mark_cancelled, bench.job(request), 1, keep_best=False, why="enough"
            )
            launcher.worker(request.request_id).ended = DIED
            await until(lambda: bench.job(request).state == v1.JOB_STATE_CANCELLED, "the end")

    play(scene())


def test_the_wish_to_keep_the_best_weights_survives_the_worker(bench: Bench) -> None:
    async def scene() -> None:
        launcher, request = PlayedLauncher(), bench.request()
        async with running(bench.controller(launcher)) as controller:
            await controller.submit(request)
            await until(lambda: launcher.attempts(request.request_id) == [1], "the worker")
            await controller.cancel("default", request.request_id, keep_best=True, why="enough")
            launcher.worker(request.request_id).ended = DIED
            await until(lambda: launcher.attempts(request.request_id) == [1, 2], "the next worker")
            mark = await asyncio.to_thread(controller.jobs.cancel_mark, bench.job(request))
            assert mark == {"keep_best": True, "why": "enough"}

    play(scene())


def test_a_training_that_has_handed_its_device_over_can_keep_its_best_weights(bench: Bench) -> None:
    async def scene() -> None:
        launcher, request = PlayedLauncher(), bench.request()
        async with running(bench.controller(launcher)) as controller:
            await controller.submit(request)
            await until(lambda: launcher.attempts(request.request_id) == [1], "the worker")

            def handing_over(job: v1.Job) -> None:
                job.checkpoints.append("0001-000002")
                job.message = "handed the device to a single image; goes on after it"

            await asyncio.to_thread(controller.jobs.change, "default", request.request_id, handing_over)
            launcher.room = False
            launcher.worker(request.request_id).ended = Exit(ExitKind.HANDED_OVER)
            await until(lambda: bench.job(request).HasField("handed_over_at"), "the hand-over")
            job = bench.job(request)
            assert (job.state, job.attempt, job.lost_workers) == (v1.JOB_STATE_QUEUED, 1, 0)
            job = await controller.cancel("default", request.request_id, keep_best=True, why="enough")
            assert job.state == v1.JOB_STATE_QUEUED
            launcher.room = True
            await until(lambda: launcher.attempts(request.request_id) == [1, 2], "the next worker")
            job = bench.job(request)
            assert await asyncio.to_thread(controller.jobs.cancel_mark, job) == {"keep_best": True, "why": "enough"}
            assert not job.HasField("handed_over_at")
            assert job.paused.ToNanoseconds() > 0

    play(scene())


def test_a_job_that_has_decided_to_publish_succeeds_although_it_is_cancelled(bench: Bench, tmp_path: Path) -> None:
    async def scene() -> None:
        launcher, request = PlayedLauncher(), bench.request()
        async with running(bench.controller(launcher)) as controller:
            await controller.submit(request)
            await until(lambda: launcher.attempts(request.request_id) == [1], "the worker")

            def decide(job: v1.Job) -> None:
                job.publication.CopyFrom(v1.Publication(attempt=1, manifest=MODEL_MANIFEST, kind="model"))

            await asyncio.to_thread(controller.jobs.change, "default", request.request_id, decide)
            job = await controller.cancel("default", request.request_id, keep_best=False, why="too late")
            assert job.state == v1.JOB_STATE_RUNNING
            launcher.worker(request.request_id).ended = DIED
            await until(lambda: launcher.attempts(request.request_id) == [1, 2], "the worker that completes it")

    play(scene())


def test_an_interrupted_deletion_is_finished_and_nobody_resumes_the_job(bench: Bench) -> None:
    class DiesWhileDeleting(Store):
        def delete(self, location: Location) -> None:
            if location.name == "job.json":
                raise UnavailableError("the store went away")
            super().delete(location)

    async def scene() -> None:
        request = admitted(bench)
        jobs = JobStore(Store(bench.settings))
        jobs.change("default", request.request_id, lambda job: set_state(job, v1.JOB_STATE_FAILED, "no"))
        with pytest.raises(UnavailableError):
            JobStore(DiesWhileDeleting(bench.settings)).delete("default", request.request_id)
        controller = bench.controller(PlayedLauncher())
        await controller._renew()
        with pytest.raises(NotFoundError):
            await controller.resume("default", request.request_id)
        await controller._reconcile()
        assert not jobs.store.exists(jobs.folder("default", request.request_id) / "job.json")
        assert jobs.open_jobs(bench.service.name) == []

    play(scene())


def test_leftovers_of_other_attempts_are_removed_later(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = admitted(bench)
    first = attempt(bench, request, 1, tmp_path)
    first.send(write(first, "first"), "filter.json")
    second = attempt(bench, request, 2, tmp_path)
    second.publish(MODEL_MANIFEST, model(second, second.send_all([(write(second, "second"), "filter.json")])), "model")
    second.succeed()
    store, place = Store(bench.settings), second.reserved

    def names() -> set[str]:
        return {item.location.key.removeprefix(f"{place.key}/") for item in store.objects(place)}

    async def scene() -> None:
        controller = bench.controller(PlayedLauncher())
        await controller._renew()
        await controller._reconcile()
        assert "a0001/filter.json" in names(), "a worker may still be writing there"
        monkeypatch.setattr(scheduler_module, "_LEFTOVER_SECONDS", 0.0)
        controller._not_before.clear()
        await controller._reconcile()

    play(scene())
    assert names() == {"claim.json", MODEL_MANIFEST, "a0002/filter.json"}
    assert published(bench, request)[1] == {"filter.json": b"second"}
    assert JobStore(store).open_jobs(bench.service.name) == []


def test_the_mark_of_a_job_that_never_came_to_be_is_removed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "_ABANDONED_SECONDS", 0.0)

    async def scene() -> None:
        jobs = JobStore(Store(bench.settings))
        jobs.mark_open(v1.Job(id="never", project="default", service=bench.service.name))
        controller = bench.controller(PlayedLauncher())
        await controller._renew()
        await controller._reconcile()
        assert jobs.open_jobs(bench.service.name) == [("default", "never")], "it may just be admitted"
        await controller._reconcile()
        assert jobs.open_jobs(bench.service.name) == []

    play(scene())


def test_a_job_without_a_mark_is_marked_when_a_service_looks_for_it(bench: Bench) -> None:
    request = admitted(bench)
    jobs = JobStore(Store(bench.settings))
    jobs.close(bench.service.name, "default", request.request_id)
    assert jobs.mark_forgotten(bench.service.name) == 1
    assert jobs.open_jobs(bench.service.name) == [("default", request.request_id)]


def test_a_file_that_has_not_changed_is_uploaded_once_and_kept_as_long_as_it_is_used(
    bench: Bench, tmp_path: Path
) -> None:
    request = admitted(bench)

    def save(context: JobContext, epoch: int, best: str = "") -> None:
        state = context.scratch / "state.json"
        state.write_text(f"epoch {epoch}")
        kept = context.scratch / "kept-best.npz"
        if best:
            kept.write_text(best)
        context.save_checkpoint(epoch, [state, kept] if best else [state], [] if best else [kept.name])

    def stored(context: JobContext) -> set[str]:
        items = context.store.objects(context.jobs.folder("default", request.request_id) / "checkpoints")
        places = (f"{item.location.parent.name}/{item.location.name}" for item in items)
        return {place for place in places if "best" in place}

    first = attempt(bench, request, 1, tmp_path)
    save(first, 1, best="one")
    for epoch in (2, 3, 4):
        save(first, epoch)
    assert stored(first) == {"0001-000001/kept-best.npz"}
    second = attempt(bench, request, 2, tmp_path)
    files = {path.name: path.read_text() for path in second.load_checkpoint(second.checkpoints()[-1])}
    assert files == {"state.json": "epoch 4", "kept-best.npz": "one"}
    save(second, 5, best="one")
    assert stored(second) == {"0001-000001/kept-best.npz", "0002-000005/kept-best.npz"}
    save(second, 6)
    assert stored(second) == {"0002-000005/kept-best.npz"}
