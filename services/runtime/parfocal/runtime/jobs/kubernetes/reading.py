"""What a Kubernetes Job and its pods say of the worker, in the terms of `parfocal.runtime.jobs.exits`."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from parfocal.runtime.jobs.exits import SERVICE_GONE, STORE_AWAY, Exit, ExitKind, Waiting
from parfocal.runtime.jobs.kubernetes.api import Object

WAITS_FOR_GPU: Final = "waiting for a GPU"
WAITS_FOR_NODE: Final = "waiting for a node with room"
STARTS: Final = "the container is being started"
_NO_CONTAINER: Final = frozenset(
    {
        *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"),
        *("RegistryUnavailable", "SignatureValidationFailed", "CreateContainerConfigError", "CreateContainerError"),
    }
)
_DISRUPTIONS: Final = {
    "PreemptionByScheduler": (ExitKind.PREEMPTED, "gave way to work of a higher priority"),
    "EvictionByEvictionAPI": (ExitKind.EVICTED, "had to leave its node, which is being emptied"),
    "DeletionByTaintManager": (ExitKind.EVICTED, "had to leave its node, which takes no such work any more"),
    "DeletionByPodGC": (ExitKind.EVICTED, "was lost with its node"),
    "TerminationByKubelet": (ExitKind.EVICTED, "was ended by its node, which ran short of something or is shut down"),
}


@dataclass(frozen=True)
class Stuck(Waiting):
    """A worker whose container cannot be made.

    Attributes
    ----------
    hopeless
        Whether waiting cannot help, as the name of the image is no name. Otherwise the cluster keeps trying.
    """

    hopeless: bool = False


def has_ended(job: Object) -> bool:
    """Return whether a Job has come to its end."""
    return any(condition(job, kind) is not None for kind in ("Complete", "Failed"))


def condition(content: Object, kind: str, status: str = "True") -> Object | None:
    """Return the condition of an object of this kind and status; None if there is none."""
    for entry in content.get("status", {}).get("conditions") or ():
        if entry.get("type") == kind and entry.get("status") == status:
            return dict(entry)
    return None


def has_begun(pods: Sequence[Object]) -> bool:
    """Return whether a container of the pods has ever been started."""
    return any("running" in state or "terminated" in state for pod in pods for state in _states(pod))


def read(job: Object, pods: Sequence[Object], *, needs_gpu: bool, begun: bool) -> Exit | Waiting | None:
    """Return how a worker ended, what it waits for, or None while it runs.

    Parameters
    ----------
    job, pods
        The Job and those of its pods that are known.
    needs_gpu
        Whether it waits for a GPU rather than for any node with room.
    begun
        Whether it is known to have begun, although its pod may be gone.
    """
    begun = begun or has_begun(pods)
    failed = condition(job, "Failed")
    if failed is not None and failed.get("reason") == "DeadlineExceeded":
        if begun:
            return Exit(ExitKind.DEADLINE, "ran for longer than the administrator allows")
        why = next(filter(None, (_unschedulable(pod) for pod in pods)), "")
        return Exit(ExitKind.UNSCHEDULABLE, f"found no room on the cluster in time{f' ({why})' if why else ''}")
    if failed is not None:
        return _failure(job, pods)
    if condition(job, "Complete") is not None:
        return Exit(ExitKind.FINISHED)
    if job.get("spec", {}).get("suspend"):
        # It was running before: its queue wants the place for other work. The attempt does not run twice.
        if begun:
            return Exit(ExitKind.PREEMPTED, "gave way to other work of its queue")
        return Waiting(WAITS_FOR_GPU if needs_gpu else WAITS_FOR_NODE)
    return None if begun else _waiting(pods, needs_gpu=needs_gpu)


def _waiting(pods: Sequence[Object], *, needs_gpu: bool) -> Waiting:
    for pod in pods:
        for state in _states(pod):
            waiting = state.get("waiting", {})
            if waiting.get("reason") in _NO_CONTAINER:
                text = ": ".join(filter(None, (waiting["reason"], waiting.get("message", ""))))
                hopeless = waiting["reason"] == "InvalidImageName"
                return Stuck("waiting for its container, which cannot be made", text, hopeless)
        if condition(pod, "PodScheduled") is not None:
            return Waiting(STARTS)
        return Waiting(WAITS_FOR_GPU if needs_gpu else WAITS_FOR_NODE, _unschedulable(pod))
    return Waiting(WAITS_FOR_GPU if needs_gpu else WAITS_FOR_NODE)


def _failure(job: Object, pods: Sequence[Object]) -> Exit:
    """Return why the pod of a failed Job has failed."""
    name = job["metadata"]["name"]
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True):
        disrupted = condition(pod, "DisruptionTarget")
        if disrupted is not None and (known := _DISRUPTIONS.get(str(disrupted.get("reason")))) is not None:
            return Exit(*known)
        status = pod.get("status", {})
        for state in _states(pod):
            ended = state.get("terminated")
            # A pod that exceeds its share of the disk is evicted, too, but by its own fault.
            if status.get("reason") == "Evicted":
                continue
            if ended is not None:
                return _ended(ended, name)
        if status.get("reason") == "Evicted":
            said = str(status.get("message", "")).strip().rstrip(".")
            return Exit(ExitKind.DISK_FULL, f"took more than its share of its node{f' ({said})' if said else ''}")
        if status.get("phase") == "Failed":
            text = ": ".join(filter(None, (status.get("reason", ""), status.get("message", ""))))
            return Exit(ExitKind.EVICTED, f"was refused by its node{f' ({text})' if text else ''}")
    return Exit(ExitKind.INTERRUPTED, "was lost: somebody has removed its pod")


def _ended(state: dict[str, Any], name: str) -> Exit:
    code = int(state.get("exitCode", 1))
    if state.get("reason") == "OOMKilled":
        return Exit(ExitKind.OUT_OF_MEMORY, "ran out of memory: it needs more than its limit on the cluster")
    if code == 0:
        return Exit(ExitKind.FINISHED)
    if code == SERVICE_GONE:
        return Exit(ExitKind.INTERRUPTED, "lost its service")
    if code == STORE_AWAY:
        return Exit(ExitKind.INTERRUPTED, "waited for the store in vain")
    if code == 128 + signal.SIGTERM:
        return Exit(ExitKind.INTERRUPTED, "was asked to end by the cluster")
    log = f"`kubectl logs job/{name}` has its log"
    if code in {128 + number for number in signal.Signals}:
        return Exit(ExitKind.DIED, f"was ended by signal {signal.Signals(code - 128).name}; {log}")
    return Exit(ExitKind.DIED, f"ended with exit code {code}; {log}")


def _unschedulable(pod: Object) -> str:
    """Return why the scheduler finds no node for a pod, in its words."""
    scheduled = condition(pod, "PodScheduled", "False")
    if scheduled is None or scheduled.get("reason") not in {"Unschedulable", "SchedulingGated"}:
        return ""
    return str(scheduled.get("message", "")).strip().rstrip(".")


def _states(pod: Object) -> Iterator[dict[str, Any]]:
    status = pod.get("status", {})
    for entry in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        yield entry.get("state") or {}
