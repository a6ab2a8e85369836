"""What Kubernetes says of a Job and its pods, told apart; and what becomes of the job then."""

from __future__ import annotations

from typing import Any

import pytest
from support import mentions

from parfocal import v1
from parfocal.runtime.jobs.exits import Exit, ExitKind, Waiting
from parfocal.runtime.jobs.handover import Assignment
from parfocal.runtime.jobs.kubernetes.manifest import assignment_of, job_manifest, job_name, needs_gpu
from parfocal.runtime.jobs.kubernetes.reading import Stuck, read
from parfocal.runtime.jobs.requeue import requeue
from parfocal.runtime.methods.service import Resources
from parfocal.runtime.settings import Settings


def job(*conditions: tuple[str, str], suspend: bool = False) -> dict[str, Any]:
    entries = [{"type": kind, "status": "True", "reason": reason} for kind, reason in conditions]
    return {"metadata": {"name": "j"}, "spec": {"suspend": suspend}, "status": {"conditions": entries}}


def pod(
    state: dict[str, Any] | None = None, *conditions: dict[str, str], phase: str = "Failed", **status: Any
) -> dict[str, Any]:
    containers = [{"name": "worker", "state": state}] if state else []
    return {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": containers, **status},
    }


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason}}


def disrupted(reason: str) -> dict[str, str]:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason}


FAILED = job(("Failed", "BackoffLimitExceeded"))


@pytest.mark.parametrize(
    ("content", "pods", "kind"),
    [
        (job(("Complete", "")), [pod(ended(0))], ExitKind.FINISHED),
        (FAILED, [pod(ended(137, "OOMKilled"))], ExitKind.OUT_OF_MEMORY),
        (FAILED, [pod(ended(137))], ExitKind.DIED),
        (FAILED, [pod(ended(139))], ExitKind.DIED),
        (FAILED, [pod(ended(1))], ExitKind.DIED),
        (FAILED, [pod(ended(75))], ExitKind.INTERRUPTED),
        (FAILED, [pod(ended(143))], ExitKind.INTERRUPTED),
        (FAILED, [pod(ended(137), disrupted("PreemptionByScheduler"))], ExitKind.PREEMPTED),
        (FAILED, [pod(ended(137), disrupted("EvictionByEvictionAPI"))], ExitKind.EVICTED),
        (FAILED, [pod(ended(137), disrupted("DeletionByTaintManager"))], ExitKind.EVICTED),
        (FAILED, [pod(None, disrupted("TerminationByKubelet"), reason="Evicted")], ExitKind.EVICTED),
        (FAILED, [pod(ended(137), reason="Evicted", message="ephemeral local storage")], ExitKind.DISK_FULL),
        (FAILED, [pod(None, reason="UnexpectedAdmissionError")], ExitKind.EVICTED),
        (FAILED, [], ExitKind.INTERRUPTED),
        (job(("Failed", "DeadlineExceeded")), [pod(ended(137))], ExitKind.DEADLINE),
        (job(("Failed", "DeadlineExceeded")), [pod(phase="Pending")], ExitKind.UNSCHEDULABLE),
    ],
)
def test_the_ends_of_workers_are_told_apart(content: Any, pods: Any, kind: ExitKind) -> None:
    found = read(content, pods, needs_gpu=True, begun=False)
    assert isinstance(found, Exit)
    assert found.kind == kind


def test_what_a_worker_waits_for_is_said_in_words() -> None:
    full = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no GPU."}
    waiting = read(job(), [pod(None, full, phase="Pending")], needs_gpu=True, begun=False)
    assert isinstance(waiting, Waiting)
    assert mentions(str(waiting), "GPU", "0/3 nodes")
    suspended = read(job(suspend=True), [], needs_gpu=True, begun=False)
    assert suspended == Waiting(waiting.what)
    assert suspended != read(job(suspend=True), [], needs_gpu=False, begun=False)
    pulling = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    stuck = read(job(), [pod(pulling, phase="Pending")], needs_gpu=True, begun=False)
    assert isinstance(stuck, Stuck)
    assert mentions(str(stuck), "no such image")
    assert not stuck.hopeless
    misspelt = read(
        job(), [pod({"waiting": {"reason": "InvalidImageName"}}, phase="Pending")], needs_gpu=True, begun=False
    )
    assert isinstance(misspelt, Stuck)
    assert misspelt.hopeless
    assert read(job(), [pod({"running": {}}, phase="Running")], needs_gpu=True, begun=False) is None


def test_a_job_that_its_queue_has_suspended_after_it_began_has_been_preempted() -> None:
    found = read(job(suspend=True), [], needs_gpu=True, begun=True)
    assert isinstance(found, Exit)
    assert found.kind == ExitKind.PREEMPTED


@pytest.mark.parametrize(
    ("kind", "tries", "reason"),
    [
        (ExitKind.DIED, 3, "WORKER_LOST"),
        (ExitKind.KILLED, 3, "OUT_OF_MEMORY"),
        (ExitKind.OUT_OF_MEMORY, 2, "OUT_OF_MEMORY"),
        (ExitKind.DISK_FULL, 2, "DISK_FULL"),
        (ExitKind.EVICTED, 0, ""),
        (ExitKind.PREEMPTED, 0, ""),
        (ExitKind.INTERRUPTED, 0, ""),
        (ExitKind.NO_IMAGE, 1, "NO_IMAGE"),
        (ExitKind.NOT_STARTED, 1, "NOT_STARTED"),
        (ExitKind.UNSCHEDULABLE, 1, "UNSCHEDULABLE"),
        (ExitKind.DEADLINE, 1, "DEADLINE"),
    ],
)
def test_each_end_has_its_rule(kind: ExitKind, tries: int, reason: str) -> None:
    record = v1.Job(state=v1.JOB_STATE_QUEUED, training=v1.TrainingSpec())
    for _ in range(tries or 10):
        assert record.state == v1.JOB_STATE_QUEUED
        record.attempt += 1
        # Paths of logs are in the words: no rule may go by them.
        requeue(record.attempt, Exit(kind, "ended so; its log is /memory/disk.log"), counts=True)(record)
    assert record.state == (v1.JOB_STATE_FAILED if tries else v1.JOB_STATE_QUEUED)
    assert record.error.reason == reason
    assert mentions(record.message, "ended so")


@pytest.fixture
def template() -> dict[str, Any]:
    limits = {"nvidia.com/gpu": "1", "cpu": "4", "memory": "8Gi"}
    container = {"name": "worker", "image": "registry/fake:1", "command": ["python"], "resources": {"limits": limits}}
    spec = {"containers": [container], "tolerations": [{"key": "gpu"}], "nodeSelector": {"gpu": "a100"}}
    labels = {"app": "fake", "kueue.x-k8s.io/queue-name": "imaging"}
    return {
        "metadata": {"name": "t", "labels": labels},
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": spec},
    }


def record(job_id: str = "Train_1", attempt: int = 3) -> v1.Job:
    return v1.Job(id=job_id, project="p", attempt=attempt, created_by="someone (unverified)")


def test_a_job_has_what_the_template_says_and_what_belongs_to_the_attempt(template: dict[str, Any]) -> None:
    settings = Settings(kubernetes_deadline_seconds=77, kubernetes_keep_seconds=88)
    content = job_manifest(template, "fake", record(), Resources(gpu=1), settings)
    spec = content["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (0, 77, 88)
    assert spec["suspend"] is True
    assert content["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "imaging"
    assert {"parfocal/service": "fake", "parfocal/job": "Train_1", "app": "x"}.items() <= spec["template"]["metadata"][
        "labels"
    ].items()
    pod_spec = spec["template"]["spec"]
    assert (pod_spec["tolerations"], pod_spec["nodeSelector"]) == ([{"key": "gpu"}], {"gpu": "a100"})
    (container,) = pod_spec["containers"]
    assert container["args"] == ["p", "Train_1", "--attempt", "3"]
    assert {"name": "PARFOCAL_IMAGE", "value": "registry/fake:1"} in container["env"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1", "cpu": "4", "memory": "8Gi"}
    assert assignment_of(content) == Assignment("p", "Train_1", 3)
    assert needs_gpu(content)
    assert "args" not in template["template"]["spec"]["containers"][0], "the template is left as it is"


def test_short_predictions_have_a_priority(template: dict[str, Any]) -> None:
    settings = Settings(kubernetes_short_priority="first", short_prediction_images=10)
    priorities = {}
    for images in (10, 11):
        job = record()
        job.prediction.split, job.progress.steps = "test", images
        content = job_manifest(template, "fake", job, Resources(gpu=1), settings)
        labels = content["metadata"]["labels"]
        assert labels["kueue.x-k8s.io/queue-name"] == "imaging"
        pod = content["spec"]["template"]["spec"]
        priorities[images] = pod.get("priorityClassName"), labels.get("kueue.x-k8s.io/priority-class")
    assert priorities == {10: ("first", "first"), 11: (None, None)}


def test_what_a_method_asks_for_goes_before_the_template(template: dict[str, Any]) -> None:
    content = job_manifest(template, "fake", record(), Resources(gpu=0, cpu=1.5, memory_gib=0.5), Settings())
    (container,) = content["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {
        "limits": {"memory": "512Mi"},
        "requests": {"cpu": "1500m", "memory": "512Mi"},
    }
    assert not needs_gpu(content)


@pytest.mark.parametrize("job_id", ["a", "A" * 64, "a-_" * 20, "-x-"])
def test_names_of_jobs_are_names_for_kubernetes_and_unique(job_id: str) -> None:
    names = {
        job_name("fake", Assignment(project, each, attempt))
        for project in ("p", "q")
        for each in (job_id, f"{job_id[:-1]}z")
        for attempt in (1, 12)
    }
    assert len(names) == 8
    for name in names:
        assert len(name) <= 57
        assert name == name.lower().strip("-")
        assert name.replace("-", "").isalnum()
