"""What can go wrong on a cluster: with its API, its nodes and its queues, and by people."""

from __future__ import annotations

import asyncio
import os
import random
import uuid

import pytest
from cluster.bench import CANCELLED, FAILED, LONG, QUEUED, RUNNING, SUCCEEDED, Bench, play, until
from cluster.server import Cluster
from support import mentions

from parfocal.runtime.jobs import scheduler as scheduler_module
from parfocal.runtime.jobs.kubernetes.reading import has_ended
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.jobs.requeue import MAX_LOST_WORKERS
from parfocal.runtime.store.store import Store

SHORT_LEASE = 3.0
MEDIUM = {"epochs": 40, "pause_seconds": 0.05}
# Others for a run by hand: CLUSTER_KILLS=200 CLUSTER_SEED=2.
KILLS = int(os.environ.get("CLUSTER_KILLS", "20"))
# What the Role of the manifests allows (tests/kubernetes), no more and no less.
ALLOWED = {("pods", "list"), ("pods", "watch"), ("podtemplates", "get")} | {
    ("jobs", verb) for verb in ("create", "delete", "get", "list", "watch")
}
SEED = int(os.environ.get("CLUSTER_SEED", "1"))


def cluster_of(bench: Bench) -> Cluster:
    assert bench.cluster is not None
    return bench.cluster


def test_a_training_survives_an_api_that_drops_forgets_refuses_and_delays(bench: Bench) -> None:
    cluster, request, lost = cluster_of(bench), bench.request(**MEDIUM), bench.request()
    cluster.faults.statuses["POST"] = [(429, "TooManyRequests"), (503, "ServiceUnavailable"), (500, "InternalError")]
    cluster.faults.statuses["GET"] = [(429, "TooManyRequests")]

    async def scene() -> None:
        async with bench.running() as controller:
            await controller.submit(request)
            await bench.until_training(request)
            cluster.drop_streams()
            cluster.objects.forget()
            await until(lambda: cluster.streams == 2, "new streams")
            cluster.faults.delay = 0.6
            # It is made, and nobody is told.
            cluster.faults.unanswered = 1
            await controller.submit(lost)
            await bench.until_in(lost, SUCCEEDED)
            cluster.faults.away = True
            cluster.drop_streams()
            await asyncio.sleep(2.0)
            assert bench.job(request).attempt == 1
            cluster.faults.away = False
            await bench.until_in(request, SUCCEEDED)

    play(scene)
    assert sorted(cluster.nodes.started) == sorted([bench.name(request), bench.name(lost)])
    assert cluster.verbs <= ALLOWED
    for each in (request, lost):
        assert (bench.job(each).attempt, bench.job(each).lost_workers) == (1, 0)


def test_each_loss_of_a_pod_has_its_rule(bench: Bench) -> None:
    """All lose their first worker in their own way and go on; what counts as a loss differs."""
    cluster = cluster_of(bench)
    nodes = cluster.nodes
    ways = {
        "memory": lambda job: nodes.kill(job, reason="OOMKilled"),
        "preempted": lambda job: nodes.disrupt(job, "PreemptionByScheduler"),
        "disk": lambda job: nodes.disrupt(job, "", status="Evicted"),
        "by hand": lambda job: cluster.objects.change_metadata("jobs", job, deletionTimestamp="2026-01-01T00:00:00Z"),
        "queue": nodes.suspend,
    }
    losses = {"memory": 2, "disk": 2}
    nodes.gpus = 2 * len(ways)
    # A checkpoint forgives all losses before it.
    bench.add_template("without-checkpoints", PARFOCAL_CHECKPOINT_SECONDS="3600")
    requests = {way: bench.request(**LONG) for way in ways}

    async def lose(way: str) -> None:
        request = requests[way]
        await bench.until_training(request)
        ways[way](bench.name(request))
        await bench.until_in(request, RUNNING, attempt=2)
        assert bench.job(request).lost_workers == losses.get(way, 0), way

    async def scene() -> None:
        async with bench.running(kubernetes_template="without-checkpoints") as controller:
            for request in requests.values():
                await controller.submit(request)
            await asyncio.gather(*map(lose, ways))
            nodes.kill(bench.name(requests["memory"], 2), reason="OOMKilled")
            failed = await bench.until_in(requests["memory"], FAILED, attempt=2)
            assert failed.error.reason == "OUT_OF_MEMORY"
            for way in set(ways) - {"memory"}:
                await controller.cancel("default", requests[way].request_id, keep_best=False, why="enough")
            await until(lambda: not any(map(nodes.process, nodes.started)), "the end of all pods")

    play(scene)
    assert len(nodes.started) == len(set(nodes.started)) == 2 * len(ways), "no attempt ran twice"
    assert cluster.verbs == ALLOWED
    assert cluster.objects.get("jobs", bench.name(requests["queue"])) is None


def test_jobs_that_cannot_start_wait_in_words_or_fail(bench: Bench) -> None:
    cluster, request, late = cluster_of(bench), bench.request(), bench.request()
    cluster.nodes.gpus = 0

    async def scene() -> None:
        async with bench.running(kubernetes_pull_seconds=1.0) as controller:
            await controller.submit(request)
            await until(lambda: mentions(bench.job(request).message, "GPU", "0/1 nodes"), "the words")
            assert (bench.job(request).state, bench.job(request).attempt) == (QUEUED, 1)
            assert cluster.nodes.started == []
            cluster.nodes.gpus = 4
            await bench.until_in(request, SUCCEEDED)
            cluster.nodes.missing.add("registry/parfocal-fake:1")
            missing = bench.request()
            await controller.submit(missing)
            failed = await bench.until_in(missing, FAILED)
            assert (failed.error.reason, failed.attempt) == ("NO_IMAGE", 1)
            assert mentions(failed.error.text, "registry/parfocal-fake:1")
            cluster.nodes.gpus = 0
        async with bench.running(kubernetes_deadline_seconds=1) as controller:
            await controller.submit(late)
            failed = await bench.until_in(late, FAILED)
            assert failed.error.reason == "UNSCHEDULABLE"
            cluster.nodes.gpus = 4
        cluster.nodes.missing.clear()
        async with bench.running(kubernetes_template="not-there") as controller:
            refused = bench.request()
            await controller.submit(refused)
            assert (await bench.until_in(refused, FAILED)).error.reason == "NOT_STARTED"
        async with bench.running(kubernetes_deadline_seconds=6) as controller:
            long = bench.request(**LONG)
            await controller.submit(long)
            assert (await bench.until_in(long, FAILED)).error.reason == "DEADLINE"

    play(scene)
    states = bench.states(request)
    assert set(states[:-2]) == {QUEUED}
    assert states[-2:] == [RUNNING, SUCCEEDED]


def test_kueue_lets_jobs_wait_in_its_queue_and_people_see_their_place(bench: Bench) -> None:
    cluster, first, second = cluster_of(bench), bench.request(), bench.request()
    template = cluster.objects.get("podtemplates", f"parfocal-{bench.service.name}-worker")
    assert template is not None
    template["metadata"]["name"] = "queued"
    template["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "imaging"}
    cluster.objects.create("podtemplates", template)

    async def scene() -> None:
        async with bench.running(kubernetes_template="queued") as controller:
            for request in (first, second):
                await controller.submit(request)
                await until(lambda each=request: cluster.objects.get("jobs", bench.name(each)), "the Job")
            cluster.places = [bench.name(first), bench.name(second)]
            await until(lambda: mentions(bench.job(second).message, "GPU", "number 2"), "its place")
            assert cluster.nodes.started == []
            await controller.cancel("default", second.request_id, keep_best=False, why="")
            await bench.until_in(second, CANCELLED)
            cluster.nodes.admit(bench.name(first))
            await bench.until_in(first, SUCCEEDED)
            await until(lambda: cluster.objects.get("jobs", bench.name(second)) is None, "the end of the other Job")

    play(scene)
    assert cluster.nodes.started == [bench.name(first)]


def test_of_two_controllers_one_runs_the_jobs_and_the_other_takes_over_without_a_loss(bench: Bench) -> None:
    cluster, request = cluster_of(bench), bench.request(**MEDIUM)

    async def scene() -> None:
        # The first one dies without a word: only its tasks are ended, its lease stays.
        dying = bench.controller(lease_seconds=SHORT_LEASE)
        await dying.start()
        await dying.submit(request)
        await bench.until_training(request)
        async with bench.running(lease_seconds=SHORT_LEASE) as second:
            assert not second.is_active
            for task in dying._tasks:
                task.cancel()
            dying._stopped.set()
            await until(lambda: second.is_active, "the takeover")
            await bench.until_in(request, SUCCEEDED)
        await dying._launcher.dismiss()

    play(scene)
    assert (bench.job(request).attempt, bench.job(request).lost_workers) == (1, 0)
    assert cluster.nodes.started == [bench.name(request)]


def is_over(cluster: Cluster, job: str) -> bool:
    content = cluster.objects.get("jobs", job)
    return content is None or has_ended(content)


def test_workers_that_belong_to_no_job_are_found_and_ended(bench: Bench) -> None:
    cluster, request = cluster_of(bench), bench.request(**LONG)

    async def scene() -> None:
        async with bench.running() as controller:
            await controller.submit(request)
            await bench.until_training(request)
        # An attempt that was given up while nobody looked, and one of a job that is gone.
        jobs = JobStore(Store(bench.settings))
        jobs.change("default", request.request_id, lambda job: setattr(job, "attempt", 2))
        orphan = cluster.objects.get("jobs", bench.name(request))
        assert orphan is not None
        name = f"orphan-{uuid.uuid4().hex[:6]}"
        orphan["metadata"] = {
            **orphan["metadata"],
            "name": name,
            "annotations": {**orphan["metadata"]["annotations"], "parfocal/job": "nobody"},
        }
        orphan["status"], orphan["spec"]["suspend"] = {}, True
        cluster.objects.create("jobs", orphan)
        async with bench.running() as controller:
            # The worker may notice by itself that another attempt has taken over; its Job stays for a while then.
            for stray in (bench.name(request), name):
                await until(lambda each=stray: is_over(cluster, each), f"the end of {stray}")
            assert cluster.objects.get("jobs", name) is None
            await bench.until_training(request, attempt=3)
            await controller.cancel("default", request.request_id, keep_best=False, why="")
            await bench.until_in(request, CANCELLED, attempt=3)

    play(scene)


def test_random_kills_lose_no_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods are killed, evicted, preempted and deleted, streams dropped and controllers replaced; every job ends."""
    monkeypatch.setattr(scheduler_module, "_LONGEST_REST_SECONDS", 0.5)
    assert random_kills(bench, KILLS, SEED) == KILLS


def random_kills(bench: Bench, kills: int, seed: int) -> int:
    """Play until so many pods were lost, and then until all jobs have ended; return how many were lost."""
    cluster, rng, done = cluster_of(bench), random.Random(seed), 0
    requests = [bench.request(epochs=rng.randint(10, 60), pause_seconds=0.02) for _ in range(4)]
    counted = 0

    def strike(job: str) -> bool:
        """Take a pod away in a way that is no fault of its own; return False if there was none any more."""
        way = rng.randrange(4)
        if cluster.nodes.process(job) is None:
            return False
        try:
            if way == 0:
                cluster.nodes.disrupt(job, "PreemptionByScheduler")
            elif way == 1:
                cluster.nodes.disrupt(job, "EvictionByEvictionAPI")
            elif way == 2:
                cluster.nodes.suspend(job)
            else:
                cluster.objects.change_metadata("jobs", job, deletionTimestamp="2026-01-01T00:00:00Z")
        except KeyError:
            return False
        return True

    async def scene() -> None:
        nonlocal done, counted
        while done < kills:
            async with bench.running() as controller:
                for request in requests:
                    await controller.submit(request)
                for _ in range(rng.randint(3, 8)):
                    await asyncio.sleep(rng.uniform(0.0, 1.0))
                    running = [name for name in cluster.nodes.started if cluster.nodes.process(name)]
                    if running and done < kills:
                        done += strike(rng.choice(running))
                    if rng.random() < 0.2:
                        cluster.drop_streams()
                for request in list(requests):
                    if done < kills and bench.job(request).state == SUCCEEDED:
                        requests.append(bench.request(epochs=rng.randint(10, 60), pause_seconds=0.02))
                        requests.remove(request)
                        finished.append(request)
        async with bench.running():
            for request in requests:
                await bench.until_in(request, SUCCEEDED, seconds=120)

    finished: list[object] = []
    play(scene)
    for request in [*requests, *finished]:
        job = bench.job(request)  # type: ignore[arg-type]
        assert job.lost_workers < MAX_LOST_WORKERS, job
        numbers = [event.sequence for event in bench.events(request)]  # type: ignore[arg-type]
        assert numbers == list(range(1, len(numbers) + 1))
    assert len(cluster.nodes.started) == len(set(cluster.nodes.started)), "no attempt ran twice"
    return done
