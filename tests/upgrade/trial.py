"""The trial: two versions of one service on one store, each from the files of its own commit, as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, struct_pb2
from support import MODULES, ROOT, S3Server, ServiceProcess, filament_pair, publish_dataset, wait_for, write_pairs

from parfocal import v1
from parfocal.runtime.store.manifests import RESULT_MANIFEST, Manifest
from parfocal.runtime.store.store import Location

FINAL = {v1.JOB_STATE_SUCCEEDED, v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED}
_LEASE = "6"


@dataclass
class Version:
    """One version of the service: the files of its commit, run by the Python of one of the environments in a folder."""

    name: str
    tree: Path
    environments: Path
    service: str
    s3: S3Server
    folder: Path
    process: ServiceProcess | None = None
    starts: int = 0

    def start(self) -> None:
        """Start it, with a state folder of its own, as on another machine."""
        units = [path.parent for path in sorted(self.tree.glob("services/*/pyproject.toml"))]
        path = [self.tree / "proto", *units, self.tree / "services" / "runtime", self.tree / "tests"]
        self.starts += 1
        environment = {
            **self.s3.environment,
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "PARFOCAL_STATE_DIR": str(self.folder / self.name / "state"),
            "PARFOCAL_CHECKPOINT_SECONDS": "0",
            "PARFOCAL_LEASE_SECONDS": _LEASE,
            "PARFOCAL_DEVICE": "",
        }
        self.process = _Process(self.service, environment, self.folder / self.name, environments=self.environments)
        self.process.start()

    def stop(self) -> None:
        """End it as a supervisor would."""
        if self.process is not None:
            code = self.process.stop()
            assert code == 0, f"{self.name} ended with exit code {code}: {self.process.log}"
            self.process = None

    def kill(self) -> None:
        """End it by force, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def logs(self) -> list[Path]:
        """Return its logs, and those of its workers."""
        return sorted((self.folder / self.name).rglob("*.log"))


def runs_in(service: str) -> tuple[str, str]:
    """Return the name of the environment that a service needs, and the module that is the service."""
    return MODULES.get(service, (service, f"parfocal.{service}"))


@dataclass
class _Process(ServiceProcess):
    """A service whose environment and PYTHONPATH are those of its version, and nothing else."""

    environments: Path = ROOT / ".venvs"

    def start(self) -> ServiceProcess:
        name, module = runs_in(self.name)
        python = self.environments / name / "bin" / "python"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PARFOCAL_", "PYTHON"))}
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(python), "-m", "parfocal.runtime.server", module],
                env={**kept, **self.environment, "PARFOCAL_LISTEN": self.address, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )
        wait_for(self._ready, 120, f"the service {self.name} ({self.log})")
        return self


@dataclass
class Trial:
    """Steps and what came of them; leaving it ends every process.

    Attributes
    ----------
    old_tree, new_tree
        Files of the two versions.
    old_environments, new_environments
        Folders with the environments that the two run in.
    service
        Name of the service.
    folder
        For store and logs.
    epochs
        Of the trainings that are interrupted: so many that they still run when the other version takes over.
    lines
        What came of each step, and whether that is as it should be.
    """

    old_tree: Path
    new_tree: Path
    old_environments: Path
    new_environments: Path
    service: str
    folder: Path
    epochs: int
    lines: list[tuple[bool, str]] = field(default_factory=list)

    def __enter__(self) -> Trial:
        self.s3 = S3Server(self.folder / "s3")
        self.s3.start()
        self.store = self.s3.store()
        self.old = Version("old", self.old_tree, self.old_environments, self.service, self.s3, self.folder)
        self.new = Version("new", self.new_tree, self.new_environments, self.service, self.s3, self.folder)
        content: dict[str, Any] = {"method": "fake-2d", "parameters": {"pause_seconds": 0.05}}
        if self.service != "fake":
            content = json.loads((ROOT / "tests" / self.service / "contract.json").read_text("utf-8"))
        self.method: str = content["method"]
        self.parameters: dict[str, Any] = content["parameters"]
        pairs = write_pairs(self.folder / "pairs", filament_pair)
        self.dataset = publish_dataset(self.store, "pairs", pairs)
        return self

    def __exit__(self, *_: object) -> None:
        for version in (self.old, self.new):
            version.kill()
        self.s3.stop()

    def run(self) -> None:
        """Upgrade beside running jobs, go back beside running jobs, and look at what is there afterwards."""
        old, new = self.old, self.new
        old.start()
        kept = self.finish(old, self.train(old, "kept", epochs=2))
        self.note(kept.state == v1.JOB_STATE_SUCCEEDED, f"the old version trains a model: {kept.message}")
        before = self.predict(old, kept.outputs[0].uri)

        running = self.train(old, "upgraded", epochs=self.epochs)
        self.wait_for_checkpoint(old, running)
        waiting = self.train(old, "queued", epochs=2)
        new.start()
        self.note(self.get(new, running.id).state == v1.JOB_STATE_RUNNING, "the new version shows the running training")
        old.stop()
        self.settle("upgrade", new, running, waiting)
        self.same("the new version predicts with the model of the old one", before, new, kept.outputs[0].uri)

        made = self.finish(new, self.train(new, "made", epochs=2))
        self.note(made.state == v1.JOB_STATE_SUCCEEDED, f"the new version trains a model: {made.message}")
        after = self.predict(new, made.outputs[0].uri)
        running = self.train(new, "rolled-back", epochs=self.epochs)
        self.wait_for_checkpoint(new, running)
        waiting = self.train(new, "queued-again", epochs=2)
        everything = self.jobs(new)
        old.start()
        new.stop()
        self.settle("rollback", old, running, waiting)
        self.note(everything <= self.jobs(old), "the old version lists all jobs of the new one")
        self.same("the old version predicts with the model of the new one", after, old, made.outputs[0].uri)

        running = self.train(old, "killed", epochs=self.epochs)
        self.wait_for_checkpoint(old, running)
        old.kill()
        new.start()
        self.settle("upgrade after a crash", new, running)
        new.stop()
        logs = [*old.logs(), *new.logs()]
        broken = [path for path in logs if "raceback" in path.read_text("utf-8", "replace")]
        named = ", ".join(str(path.relative_to(self.folder)) for path in broken)
        self.note(not broken, f"{len(logs)} logs of services and workers; tracebacks in {named or 'none of them'}")

    def settle(self, what: str, version: Version, *jobs: v1.Job) -> None:
        """Wait for the end of jobs that another version has begun, and note how they ended."""
        for job in jobs:
            begin = time.monotonic()
            try:
                ended = self.finish(version, job)
            except AssertionError as error:
                self.note(False, f"{what}: {job.training.model}: {error}")
                continue
            name = v1.JobState.Name(ended.state).removeprefix("JOB_STATE_")
            epochs = self.done(version, ended)
            resumed = f"attempt {ended.attempt}, epochs {epochs}" if ended.attempt > 1 else "its first attempt"
            said = f"{what}: {ended.training.model} {name} in {time.monotonic() - begin:.0f} s ({resumed})"
            if ended.state == v1.JOB_STATE_FAILED:
                said += f": {ended.error.reason}: {ended.error.text}"
            # To refuse in words would be in order, to fail by a defect or to begin anew would not.
            refused = ended.state == v1.JOB_STATE_FAILED and ended.error.reason not in {"INTERNAL", "WORKER_LOST", ""}
            self.note(ended.state == v1.JOB_STATE_SUCCEEDED or refused, said)

    def note(self, good: bool, text: str) -> None:
        """Keep what came of a step."""
        self.lines.append((good, text))
        print(f"{'  ok' if good else 'BAD '} {text}", flush=True)

    def same(self, what: str, before: dict[str, bytes], version: Version, model: str) -> None:
        """Note whether a model predicts the same images as it did with the other version."""
        images = self.predict(version, model)
        equal = sum(before[name] == images.get(name) for name in before)
        self.note(set(images) == set(before), f"{what}: {equal} of {len(before)} images are the same, byte for byte")

    def train(self, version: Version, model: str, **parameters: Any) -> v1.Job:
        """Start a training."""
        spec = v1.TrainingSpec(
            method=self.method,
            dataset_uri=self.dataset,
            model=model,
            parameters=_struct(self.parameters | parameters),
        )
        request = v1.StartJobRequest(request_id=uuid.uuid4().hex, training=spec)
        job: v1.Job = self.call(version, lambda stub: stub.StartJob(request, timeout=60).job)
        return job

    def predict(self, version: Version, model: str) -> dict[str, bytes]:
        """Predict the test images by a job; return what it published, by name."""
        spec = v1.PredictionSpec(model_uri=model, input_uri=self.dataset, split="test")
        request = v1.StartJobRequest(request_id=uuid.uuid4().hex, prediction=spec)
        job = self.finish(version, self.call(version, lambda stub: stub.StartJob(request, timeout=60).job))
        self.note(job.state == v1.JOB_STATE_SUCCEEDED, f"the {version.name} version predicts: {job.message}")
        if job.state != v1.JOB_STATE_SUCCEEDED:
            return {}
        place = Location.parse(job.outputs[0].uri)
        manifest = Manifest.read(self.store, place / RESULT_MANIFEST)
        names = [file.name for file in manifest.files if file.name.endswith(".tif")]
        return {name.split("/", 1)[-1]: self.store.read(place / name) for name in names}

    def get(self, version: Version, job_id: str) -> v1.Job:
        """Return a job as a version shows it."""
        job: v1.Job = self.call(version, lambda stub: stub.GetJob(v1.GetJobRequest(job_id=job_id), timeout=30).job)
        return job

    def jobs(self, version: Version) -> set[str]:
        """Return the ids of all jobs that a version lists."""
        request = v1.ListJobsRequest(page_size=100)
        return {job.id for job in self.call(version, lambda stub: stub.ListJobs(request, timeout=30).jobs)}

    def finish(self, version: Version, job: v1.Job) -> v1.Job:
        """Return a job when it has ended."""

        def ended() -> v1.Job | None:
            try:
                found = self.get(version, job.id)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                return None
            if found.state in FINAL:
                return found
            # Asking all the time would take the processor from what is waited for.
            time.sleep(1.0)
            return None

        found: v1.Job = wait_for(ended, 600, f"the end of {job.training.model or job.id}")
        return found

    def wait_for_checkpoint(self, version: Version, job: v1.Job) -> None:
        """Wait until a training can be gone on with from its second checkpoint on."""
        wait_for(lambda: len(self.get(version, job.id).checkpoints) > 1, 600, "checkpoints")

    def done(self, version: Version, job: v1.Job) -> str:
        """Return which epochs each attempt of a training has done."""
        request = v1.WatchJobRequest(job_id=job.id)
        done: dict[int, list[int]] = {}
        for answer in self.call(version, lambda stub: list(stub.WatchJob(request, timeout=60))):
            if answer.event.HasField("epoch_completed"):
                done.setdefault(answer.event.attempt, []).append(answer.event.epoch_completed.epoch)
        return ", then ".join(f"{epochs[0]} to {epochs[-1]}" for _, epochs in sorted(done.items()))

    def call(self, version: Version, action: Callable[[Any], Any]) -> Any:
        """Ask a version's service of jobs, patiently while it does not run jobs yet."""
        assert version.process is not None
        deadline = time.monotonic() + 60
        with grpc.insecure_channel(version.process.address) as channel:
            while True:
                try:
                    return action(v1.JobServiceStub(channel))
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                        raise
                time.sleep(0.5)


def _struct(values: dict[str, Any]) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    json_format.ParseDict(values, message)
    return message
