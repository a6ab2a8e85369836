"""What every launcher must do, one after the other: processes of this machine, and Jobs of a cluster."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster.bench import CANCELLED, LONG, RUNNING, SUCCEEDED, Bench, bench_on, play, until
from cluster.server import Cluster

from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.store.store import Location, Store


@pytest.fixture(params=["local", "kubernetes"])
def bench(
    request: pytest.FixtureRequest, s3: Any, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster(tmp_path / "cluster")) if request.param == "kubernetes" else None
        yield stack.enter_context(bench_on(cluster, s3, dataset, tmp_path, monkeypatch))


def worker_of(job_id: str) -> psutil.Process:
    """The process that runs a job."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if job_id in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                return process
    raise AssertionError(f"{job_id} has no worker")


def test_jobs_run_die_go_on_and_are_cancelled(bench: Bench) -> None:
    quick, dying, cancelled = bench.request(), bench.request(epochs=30, pause_seconds=0.05), bench.request(**LONG)

    async def scene() -> None:
        async with bench.running() as controller:
            for request in (quick, dying, cancelled):
                await controller.submit(request)
            await bench.until_training(dying)
            os.kill(worker_of(dying.request_id).pid, signal.SIGKILL)
            await bench.until_training(cancelled)
            process = worker_of(cancelled.request_id)
            await controller.cancel("default", cancelled.request_id, keep_best=False, why="no more")
            await bench.until_in(cancelled, CANCELLED)
            await until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "its end")
            for request in (quick, dying):
                await bench.until_in(request, SUCCEEDED)

    play(scene)
    assert [bench.job(each).attempt for each in (quick, dying, cancelled)] == [1, 2, 1]
    manifest = ModelManifest.read(
        Store(bench.settings), Location.parse(bench.job(dying).outputs[0].uri) / MODEL_MANIFEST
    )
    assert manifest.job == dying.request_id
    assert bench.states(quick)[-2:] == [RUNNING, SUCCEEDED]


def test_a_job_goes_on_when_its_service_is_started_again(bench: Bench) -> None:
    """Processes end with their service, Jobs do not: then the next service adopts them."""
    request = bench.request(epochs=60, pause_seconds=0.03)

    async def scene() -> None:
        async with bench.running() as controller:
            await controller.submit(request)
            await bench.until_training(request)
        async with bench.running():
            await bench.until_in(request, SUCCEEDED)

    play(scene)
    job = bench.job(request)
    assert (job.attempt, job.lost_workers) == (2 if bench.cluster is None else 1, 0)
