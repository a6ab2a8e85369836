"""What happens on the cluster: the controller of Jobs, the scheduler and one node, whose pods are processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.objects import Object, Objects, now

_STEP_SECONDS = 0.05


class Nodes:
    """Carries out what the objects ask for, step by step, in a thread.

    Attributes
    ----------
    gpus
        How many pods that ask for a GPU have room at a time.
    missing
        Images that no registry has.
    delay
        Seconds for which a deleted pod goes on before it is killed.
    started
        Names of all Jobs whose containers were started, in order.
    """

    def __init__(self, objects: Objects, folder: Path, gpus: int) -> None:
        self.objects = objects
        self.gpus = gpus
        self.missing: set[str] = set()
        self.delay = 0.0
        self.started: list[str] = []
        self.troubles: list[str] = []
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(10)
        for process in self._processes.values():
            process.kill()
            process.wait()

    def process(self, job: str) -> subprocess.Popen[bytes] | None:
        """Return the process of a Job's pod while it runs."""
        return self._processes.get(f"{job}-pod")

    def kill(self, job: str, *, reason: str = "", number: int = signal.SIGKILL) -> None:
        """End the container of a Job; `reason` is what its status will say of that, e.g. "OOMKilled"."""
        process = self._processes[f"{job}-pod"]
        self.objects.change_metadata("pods", f"{job}-pod", annotations={"reason": reason} if reason else None)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    def disrupt(self, job: str, reason: str, *, status: str = "") -> None:
        """Take the pod of a Job from its node, for a reason of the condition DisruptionTarget (or none)."""
        pod = f"{job}-pod"
        marks: dict[str, Any] = {"reason": status or None}
        if reason:
            marks["conditions"] = [*_conditions(self.objects.get("pods", pod)), _condition("DisruptionTarget", reason)]
        self.objects.change("pods", pod, **marks)
        self.kill(job)

    def suspend(self, job: str) -> None:
        """Suspend a Job, as Kueue does for work that goes before: its pod ends."""
        self.objects.change_spec("jobs", job, suspend=True)

    def admit(self, job: str) -> None:
        """Let a suspended Job begin."""
        self.objects.change_spec("jobs", job, suspend=False)

    def _run(self) -> None:
        while not self._ended.wait(_STEP_SECONDS):
            try:
                for job in self.objects.all("jobs"):
                    self._look_after(job)
                for pod in self.objects.all("pods"):
                    self._carry(pod)
            except Exception as error:  # shown by the test that it breaks
                self.troubles.append(repr(error))
                raise

    def _look_after(self, job: Object) -> None:
        name = job["metadata"]["name"]
        pod = self.objects.get("pods", f"{name}-pod")
        if "deletionTimestamp" in job["metadata"]:
            if pod is None:
                self.objects.remove("jobs", name)
            else:
                self._remove(pod)
            return
        if any(entry["type"] in {"Complete", "Failed"} for entry in _conditions(job)):
            return
        if job["spec"].get("suspend"):
            if pod is not None:
                self._remove(pod)
            return
        if pod is None:
            if job["status"].get("startTime"):
                self._finish(job, "Failed", "BackoffLimitExceeded")
                return
            job = self.objects.change("jobs", name, startTime=now()) or job
            template = job["spec"]["template"]
            owner = {"kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
            metadata = {**template["metadata"], "name": f"{name}-pod", "ownerReferences": [owner]}
            content = {"metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}}
            self.objects.create("pods", content)
            return
        phase = pod["status"].get("phase")
        if phase in {"Succeeded", "Failed"}:
            self._finish(job, *{"Succeeded": ("Complete", ""), "Failed": ("Failed", "BackoffLimitExceeded")}[phase])
        elif _age(job["status"]["startTime"]) > job["spec"]["activeDeadlineSeconds"]:
            self._remove(pod)
            if self.objects.get("pods", f"{name}-pod") is None:
                self._finish(job, "Failed", "DeadlineExceeded")

    def _finish(self, job: Object, kind: str, reason: str) -> None:
        self.objects.change("jobs", job["metadata"]["name"], conditions=[_condition(kind, reason)])

    def _carry(self, pod: Object) -> None:
        name, status = pod["metadata"]["name"], pod["status"]
        process = self._processes.get(name)
        if status["phase"] == "Running" and process is not None and (code := process.poll()) is not None:
            del self._processes[name]
            ended = {"exitCode": 128 - code if code < 0 else code}
            if reason := (pod["metadata"].get("annotations") or {}).get("reason"):
                ended["reason"] = reason
            states = [] if status.get("reason") == "Evicted" else [{"name": "worker", "state": {"terminated": ended}}]
            self.objects.change("pods", name, phase="Failed" if code else "Succeeded", containerStatuses=states)
        if status["phase"] == "Pending" and "deletionTimestamp" not in pod["metadata"]:
            self._begin(pod)

    def _begin(self, pod: Object) -> None:
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]
        if _wants_gpu(pod):
            running = [each for each in self.objects.all("pods") if each["status"]["phase"] == "Running"]
            if sum(map(_wants_gpu, running)) >= self.gpus:
                said = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
                full = {**_condition("PodScheduled", "Unschedulable", "False"), "message": said}
                if not _conditions(pod):
                    self.objects.change("pods", name, conditions=[full])
                return
        scheduled = [_condition("PodScheduled", "")]
        if container["image"] in self.missing:
            waiting = {"reason": "ImagePullBackOff", "message": f"Back-off pulling image {container['image']!r}"}
            if not pod["status"].get("containerStatuses"):
                states = [{"name": "worker", "state": {"waiting": waiting}}]
                self.objects.change("pods", name, conditions=scheduled, containerStatuses=states)
            return
        job = name.removesuffix("-pod")
        with (self._folder / f"{name}.log").open("ab") as log:
            variables = {entry["name"]: entry["value"] for entry in container.get("env", ())}
            self._processes[name] = subprocess.Popen(
                [sys.executable if part == "python" else part for part in [*container["command"], *container["args"]]],
                env={**os.environ, **variables, "PARFOCAL_STATE_DIR": str(self._folder / name)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.started.append(job)
        states = [{"name": "worker", "state": {"running": {"startedAt": now()}}}]
        self.objects.change("pods", name, phase="Running", conditions=scheduled, containerStatuses=states)

    def _remove(self, pod: Object) -> None:
        """End a pod and remove it once its process is gone."""
        name = pod["metadata"]["name"]
        process = self._processes.get(name)
        if process is None or process.poll() is not None:
            self._processes.pop(name, None)
            self.objects.remove("pods", name)
        elif "deletionTimestamp" not in pod["metadata"]:
            self.objects.change_metadata("pods", name, deletionTimestamp=now())
        elif _age(pod["metadata"]["deletionTimestamp"]) > self.delay:
            process.kill()


def _condition(kind: str, reason: str, status: str = "True") -> Object:
    return {"type": kind, "status": status, "reason": reason}


def _conditions(content: Object | None) -> list[Object]:
    return list((content or {}).get("status", {}).get("conditions") or ())


def _wants_gpu(pod: Object) -> bool:
    limits = [entry.get("resources", {}).get("limits") or {} for entry in pod["spec"]["containers"]]
    return any("nvidia.com/gpu" in each for each in limits)


def _age(stamp: str) -> float:
    return time.time() - datetime.fromisoformat(stamp.replace("Z", "+00:00")).astimezone(UTC).timestamp()
