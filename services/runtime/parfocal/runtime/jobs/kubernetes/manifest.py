"""The Kubernetes Job of one attempt, made from the PodTemplate of the installation."""

from __future__ import annotations

import copy
import hashlib
import re
from typing import Any, Final

from parfocal import v1
from parfocal.runtime.jobs.device.use import Use
from parfocal.runtime.jobs.handover import Assignment
from parfocal.runtime.jobs.kubernetes.api import Object
from parfocal.runtime.methods.service import Resources
from parfocal.runtime.settings import Settings

SERVICE: Final = "parfocal/service"
PROJECT: Final = "parfocal/project"
JOB: Final = "parfocal/job"
ATTEMPT: Final = "parfocal/attempt"
OWNER: Final = "parfocal/owner"
IMAGE: Final = "PARFOCAL_IMAGE"
QUEUE: Final = "kueue.x-k8s.io/queue-name"
PRIORITY: Final = "kueue.x-k8s.io/priority-class"
CONTAINER: Final = "worker"
"""Name of the container of the template that becomes the worker."""
_LONGEST_NAME: Final = 52
_LONGEST_LABEL: Final = 63


def job_name(service: str, assignment: Assignment) -> str:
    """Return the name of the Job of an attempt: always the same one, so that no attempt has two.

    It begins with as much of the job's id as fits, for people; the digest makes it unique.
    """
    digest = hashlib.sha256(f"{service}/{assignment.project}/{assignment.job_id}".encode()).hexdigest()[:10]
    end = f"-{digest}-{assignment.attempt}"
    words = re.sub(r"[^a-z0-9]+", "-", f"{service}-{assignment.job_id}".lower())[: _LONGEST_NAME - len(end)]
    return f"{words.strip('-')}{end}"


def job_manifest(template: Object, service: str, job: v1.Job, resources: Resources, settings: Settings) -> Object:
    """Return the Job of the present attempt of `job`.

    The template decides everything about image, node, volumes, environment and security. This adds what belongs to the
    attempt, and the cores and memory that the method asks for, if it does.
    """
    assignment = Assignment(job.project, job.id, job.attempt)
    content = copy.deepcopy(template["template"])
    own = {SERVICE: service, PROJECT: job.project, JOB: job.id, ATTEMPT: str(job.attempt), OWNER: job.created_by}
    labels = {name: label for name, value in own.items() if (label := _label(value))}
    of_template = template["metadata"].get("labels") or {}
    pod = content.setdefault("metadata", {})
    pod["labels"] = {**(pod.get("labels") or {}), **labels}
    pod["annotations"] = {**(pod.get("annotations") or {}), **own}
    content["spec"]["restartPolicy"] = "Never"
    if settings.kubernetes_short_priority and Use.of(job, settings.short_prediction_images).short:
        content["spec"]["priorityClassName"] = settings.kubernetes_short_priority
        if QUEUE in of_template:
            of_template = {**of_template, PRIORITY: settings.kubernetes_short_priority}
    container = {entry["name"]: entry for entry in content["spec"]["containers"]}[CONTAINER]
    environment = container.setdefault("env", [])
    if not any(entry["name"] == IMAGE for entry in environment):
        environment.append({"name": IMAGE, "value": container["image"]})
    container["args"] = [job.project, job.id, "--attempt", str(job.attempt)]
    _set_resources(container, resources)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(service, assignment),
            "labels": {**of_template, **labels},
            "annotations": own,
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "activeDeadlineSeconds": settings.kubernetes_deadline_seconds,
            "ttlSecondsAfterFinished": settings.kubernetes_keep_seconds,
            # Its queue lets it begin. Were Kueue not there at the moment, it would begin without having been counted.
            "suspend": QUEUE in of_template,
            "template": content,
        },
    }


def assignment_of(job: Object) -> Assignment | None:
    """Return which attempt a Job is for; None if that is not Parfocal's to know."""
    notes = job["metadata"].get("annotations") or {}
    try:
        return Assignment(notes[PROJECT], notes[JOB], int(notes[ATTEMPT]))
    except (KeyError, ValueError):
        return None


def needs_gpu(job: Object) -> bool:
    """Return whether a Job asks for a device of a vendor, such as nvidia.com/gpu."""
    containers = job["spec"]["template"]["spec"]["containers"]
    return any("/" in name for entry in containers for name in (entry.get("resources", {}).get("limits") or {}))


def _set_resources(container: dict[str, Any], resources: Resources) -> None:
    limits = container.setdefault("resources", {}).setdefault("limits", {})
    requests = container["resources"].setdefault("requests", {})
    if not resources.gpu:
        for amounts in (limits, requests):
            for name in [name for name in amounts if "/" in name]:
                del amounts[name]
    if resources.cpu is not None:
        requests["cpu"] = f"{round(1000 * resources.cpu)}m"
        # A limit below what is asked for would be refused.
        limits.pop("cpu", None)
    if resources.memory_gib is not None:
        requests["memory"] = limits["memory"] = f"{round(1024 * resources.memory_gib)}Mi"


def _label(value: str) -> str:
    """Return as much of a text as a label may hold, for people who look for it; annotations have all of it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", value)[:_LONGEST_LABEL].strip("-_.")
