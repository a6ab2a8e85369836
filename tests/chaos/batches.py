"""Many images through a batch while everything is killed: `python -m chaos.batches --images N --out FOLDER`.

Real processes: a store, the catalogue, the fake service with its workers, Prefect, and Parfocal's flow runner with a
schedule for the folder, which shares the images with a plain run of the same batch. Every few seconds one of them gets
SIGKILL. At the end everything is read from the store and judged: each image was predicted, ended and delivered exactly
once, and nothing is damaged. See README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from support import ROOT, S3Server, ServiceProcess, filament_pair, publish_dataset, write_pairs

from chaos.growth import Growth
from chaos.scheduled import Scheduled
from chaos.workers import live_workers
from parfocal.client import Client
from parfocal.client.requests import training_request
from parfocal.flows._jobs import FLOW_RUN_LABEL
from parfocal.flows.batch import Batch, Step
from parfocal.runtime.images.files import Image, write_image
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location, Store, patiently

KINDS = ("worker", "service", "catalog", "store", "runner", "prefect", "flows")
SAMPLE = 200
SHAPE = (32, 48)
WAITING = 3000
"""Images that wait, at most: further ones come as these come to their end."""
FEEDING = 0.75
"""Part of the time after which no further image comes, so that all come to their end."""
EVERY_SECONDS = 60.0
"""The schedule: shorter than a run, so that runs overlap."""
DEVICES = 3
"""Workers at a time; the fake method computes on none, and only takes turns."""
START_TRIES = 5


@dataclass
class Report:
    """What a run came to; nothing may stand in `anomalies`.

    Attributes
    ----------
    seconds
        From the start of the flow runners until the last image had come to its end.
    kills
        SIGKILLs by what got them.
    jobs, scheduled
        Jobs that the ended images were predicted by, and images among these whose job a run of the schedule started.
    runs
        Runs of the schedule by the state that they came to.
    ends
        How often Prefect and the flow runner ended without being killed, and were started again.
    mebibytes
        Memory of the processes: median in the first and in the last third of the run, and the most, in MiB.
    load
        Mean number of processes that ran or waited for a processor, over the last minutes of the run.
    """

    images: int = 0
    ended: int = 0
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    scheduled: int = 0
    runs: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    mebibytes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    load: float = 0.0
    anomalies: list[str] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        """The same in words."""
        killed = ", ".join(f"{self.kills[kind]} {kind}" for kind in KINDS)
        rate = self.ended / max(self.seconds, 1e-9)
        memory = ", ".join(
            f"{name} {first} > {last} (most {most})" for name, (first, last, most) in self.mebibytes.items()
        )
        return (
            f"{self.ended} of {self.images} images in {self.seconds:.0f} s ({rate:.1f} images/s), by {self.jobs} jobs, "
            f"{self.scheduled} images by a schedule with runs {self.runs}; killed: {killed}; memory in MiB: {memory}; "
            f"load {self.load:.1f}; wrong: {len(self.anomalies)}"
        )


class Factory:
    """The processes of a run, and their ends; leaving it ends all of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.s3 = S3Server(folder / "s3")
        environment = {
            **self.s3.environment,
            "PARFOCAL_LEASE_SECONDS": "5",
            "PARFOCAL_STATE_DIR": str(folder / "state"),
            "PARFOCAL_DEVICES": ",".join(map(str, range(DEVICES))),
        }
        self.services = {
            "service": ServiceProcess("fake", environment, folder / "fake"),
            "catalog": ServiceProcess("catalog", self.s3.environment, folder / "catalog"),
        }
        self.scheduled = Scheduled(folder / "flows", list(self.services.values()))
        self._runner: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []

    def __enter__(self) -> Factory:
        try:
            self._start(self.s3)
            for service in self.services.values():
                self._start(service)
            self.scheduled.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_runner()
        self.scheduled.stop()
        for service in self.services.values():
            if service.process is not None:
                service.kill()
        for worker in live_workers(self.s3.endpoint):
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.process.kill()
        self.s3.stop()

    @property
    def client_environment(self) -> dict[str, str]:
        """The settings of clients: they have no key of the store."""
        addresses = {"PARFOCAL_SERVICES": self.services["service"].address}
        return {**addresses, "PARFOCAL_CATALOG": self.services["catalog"].address, "PARFOCAL_PROJECT": "default"}

    def client(self) -> Client:
        """Return a client."""
        values = {name.removeprefix("PARFOCAL_").lower(): value for name, value in self.client_environment.items()}
        return Client(Settings(**values), patience=120.0)  # type: ignore[arg-type]

    def processes(self) -> dict[str, psutil.Process]:
        """Return what runs now by what it is, to look at its memory."""
        started = {"store": self.s3.process, "runner": self._runner}
        started |= {name: service.process for name, service in self.services.items()}
        found = {name: psutil.Process(process.pid) for name, process in started.items() if process is not None}
        if workers := live_workers(self.s3.endpoint):
            found["worker"] = workers[0].process
        return found | self.scheduled.processes()

    def start_runner(self, batch: Batch) -> None:
        """Start the plain run of a batch."""
        (step,) = batch.steps
        module = [sys.executable, "-m", "chaos.batch_runner"]
        self._command = [*module, str(batch.source), str(batch.output), step.model_uri]
        self._runner = self._start_runner()

    def _start_runner(self) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PARFOCAL_S3_")}
        with (self._folder / "runners.log").open("ab") as log:
            # The runner is a module of this folder, which only pytest finds by itself.
            path = f"{ROOT / 'tests'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
            environment = {**kept, **self.client_environment, "PYTHONPATH": path}
            return subprocess.Popen(self._command, env=environment, stdout=log, stderr=log)

    def kill(self, kind: str, rng: random.Random) -> bool:
        """Kill one process of a kind and start it again; return whether there was one."""
        if kind == "worker":
            workers = live_workers(self.s3.endpoint)
            if not workers:
                return False
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(workers).kill()
        elif kind == "runner":
            self.stop_runner()
            self._runner = self._start_runner()
        elif kind == "store":
            assert self.s3.process is not None
            self.s3.process.kill()
            self.s3.process.wait()
            time.sleep(rng.uniform(0.5, 3.0))
            self._start(self.s3)
        elif kind in self.services:
            self.services[kind].kill()
            self._start(self.services[kind])
        else:
            self.scheduled.restart(kind)
        return True

    @staticmethod
    def _start(what: S3Server | ServiceProcess) -> None:
        """Start a process again; on a busy machine that may take more than a minute."""
        for _ in range(START_TRIES):
            try:
                what.start()
            except AssertionError:
                if what.process is not None:
                    what.process.kill()
                    what.process.wait()
            else:
                return
        raise RuntimeError(f"{what.folder.name} did not start {START_TRIES} times")

    def stop_runner(self) -> None:
        """End the plain run."""
        if self._runner is not None:
            self._runner.kill()
            self._runner.wait()
            self._runner = None


class Feed:
    """Fills the folder with images while others predict them, as a microscope does, and counts what came to its end.

    Parameters
    ----------
    most
        Images after which it ends.
    until
        Time (of `time.monotonic`) at which it ends in any case.
    """

    def __init__(self, store: Store, batch: Batch, most: int, until: float) -> None:
        self._store, self._batch, self._most, self._until = store, batch, most, until
        self._ledger = store.results / "default" / "_batches" / batch.key / "ended"
        self._thread = threading.Thread(target=self._feed, name="feed", daemon=True)
        self.put = self.ended = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether no further image comes, and all have come to their end."""
        return not self._thread.is_alive() and self.ended >= self.put

    def count(self) -> None:
        """Count the images that have come to their end; the store may be away for a while."""
        ended = patiently(lambda: sum(1 for _ in self._store.objects(self._ledger)), 120.0)
        self.ended = max(self.ended, ended)

    def _feed(self) -> None:
        write = _image_writer(self._store, self._batch.source)
        with ThreadPoolExecutor(4) as pool:
            while self.put < self._most and time.monotonic() < self._until:
                if self.put - self.ended > WAITING:
                    time.sleep(1.0)
                    continue
                some = range(self.put, min(self._most, self.put + 100))
                list(pool.map(write, some))
                self.put = some.stop


def _image_writer(store: Store, folder: Location) -> Callable[[int], None]:
    """Return a function that writes the image of a number."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "image.tif"
        blank = np.full(SHAPE, 0x5A5A, np.uint16)
        write_image(path, Image(blank, "YX"), compress=False)
        template = path.read_bytes()
    at = template.index(blank.tobytes())

    def put(number: int) -> None:
        pixels = np.random.default_rng(number).integers(0, 4000, SHAPE).astype(np.uint16).tobytes()
        data = template[:at] + pixels + template[at + len(pixels) :]
        place = folder / f"plate{number // 1000:03d}" / f"i{number:06d}.tif"
        patiently(lambda: store.write(place, data), 120.0)

    return put


def run(folder: Path, images: int, minutes: float, seed: int, fault_seconds: float) -> Report:
    """Put images through a batch under faults, and judge what came of it."""
    report, rng = Report(), random.Random(seed)
    with Factory(folder) as factory:
        store = factory.s3.store()
        batch = _prepare(factory, store, folder)
        with factory.client() as client:
            factory.scheduled.schedule(client, batch, EVERY_SECONDS)
        begin = time.monotonic()
        deadline = begin + 60 * minutes
        feed = Feed(store, batch, images, begin + 60 * minutes * FEEDING)
        feed.start()
        factory.start_runner(batch)
        with Growth(factory.processes) as growth:
            _kill_at_random(factory, feed, report, rng, deadline, fault_seconds)
        report.seconds, report.mebibytes, report.load = time.monotonic() - begin, growth.mebibytes, os.getloadavg()[2]
        report.images, over = feed.put, feed.is_over
        if not over:
            report.anomalies.append(f"the time of {minutes:g} minutes was over before all images had come to their end")
        factory.stop_runner()
        _judge_schedule(report, factory.scheduled, over=over)
        factory.scheduled.stop()
        _judge(report, store, batch)
    return report


def _kill_at_random(
    factory: Factory, feed: Feed, report: Report, rng: random.Random, deadline: float, fault_seconds: float
) -> None:
    """Kill one process after the other until all images have come to their end, or it is too late."""
    while not feed.is_over and time.monotonic() < deadline:
        # What was killed comes up first: where that takes minutes, nothing would ever get done.
        pause = time.monotonic() + rng.uniform(0.5, 1.5) * fault_seconds
        while time.monotonic() < deadline and (not factory.scheduled.is_ready or time.monotonic() < pause):
            time.sleep(1.0)
        feed.count()
        kind = rng.choice(KINDS)
        if not feed.is_over and time.monotonic() < deadline and factory.kill(kind, rng):
            report.kills[kind] += 1
        print(f"{time.strftime('%H:%M:%S')} killed {kind}; {feed.put} images, {feed.ended} ended", flush=True)


def _judge_schedule(report: Report, scheduled: Scheduled, *, over: bool) -> None:
    """Add what is wrong with the runs of the schedule to the report."""
    if over and (last := scheduled.last_run()).state != "COMPLETED":
        report.anomalies.append(f"the last run of the schedule is {last.state}: {last.message}")
    report.ends = dict(scheduled.ended)
    runs = scheduled.runs()
    report.runs = dict(Counter(run.state for run in runs))
    report.anomalies += [f"a run of the schedule failed: {run.message}" for run in runs if run.state == "FAILED"]


def _prepare(factory: Factory, store: Store, folder: Path) -> Batch:
    """Publish a dataset and train a model; return the batch."""
    uri = publish_dataset(store, "spots", write_pairs(folder / "pairs", filament_pair))
    with factory.client() as client:
        job = client.wait(client.start(training_request("fake-2d", uri, "m", {"epochs": 1})).id)
        (model,) = (output.uri for output in job.outputs if output.kind == "model")
    root = store.results / "default" / "scope"
    return Batch(root / "in", root / "out", (Step(model),))


def _judge(report: Report, store: Store, batch: Batch) -> None:
    """Add everything that is wrong to the report."""
    wrong = report.anomalies
    ledger = store.results / "default" / "_batches" / batch.key / "ended"
    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(store.read_json, [item.location for item in store.objects(ledger)]))
    jobs = {each["job"] for each in ended if each["job"]}
    labelled = {job for job in jobs if _of_schedule(store, job)}
    report.ended, report.jobs = len(ended), len(jobs)
    report.scheduled = sum(each["job"] in labelled for each in ended)
    # All may be over before the schedule has had its turn.
    if ended and not labelled and report.seconds > 3 * EVERY_SECONDS:
        wrong.append("no run of the schedule predicted anything")
    names = Counter(each["input"] for each in ended)
    wrong += [f"{name} came to its end {times} times" for name, times in names.items() if times > 1]
    wrong += [f"{each['input']} was given up: {each['reason']}" for each in ended if each["state"] != "predicted"]
    inputs = {str(item.location).removeprefix(f"{batch.source}/") for item in store.objects(batch.source)}
    outputs = {str(item.location).removeprefix(f"{batch.output}/") for item in store.objects(batch.output)}
    outputs = {name for name in outputs if not name.startswith("manifests/")}
    if unfinished := inputs - names.keys():
        wrong.append(f"{len(unfinished)} images did not come to their end, for example {min(unfinished)}")
    wrong += [f"{name} was ended, but its prediction is missing" for name in sorted(names.keys() - outputs)[:20]]
    wrong += [f"{name} was delivered and belongs to no image" for name in sorted(outputs - inputs)[:20]]
    listed = set(_listed(store, batch))
    wrong += [f"{name} stands in no table" for name in sorted(names.keys() - listed)[:20]]
    digests: dict[str, dict[str, str]] = {}
    for each in random.Random(report.images).sample(ended, min(SAMPLE, len(ended))):
        job, place = each["job"], Location.parse(each["outputs"]["prediction"])
        if job not in digests:
            made = ResultManifest.read(store, store.results / "default" / job / RESULT_MANIFEST)
            digests[job] = {name: entry.sha256 for name, entry in made.predictions.items()}
        if hashlib.sha256(store.read(place)).hexdigest() != digests[job].get(each["input"]):
            wrong.append(f"{each['input']}: what was delivered is not what job {job} made")


def _of_schedule(store: Store, job: str) -> bool:
    """Return whether a run of the schedule started a job."""
    return FLOW_RUN_LABEL in store.read_json(store.jobs / "default" / job / "job.json")["job"].get("labels", {})


def _listed(store: Store, batch: Batch) -> Iterator[str]:
    for item in store.objects(batch.output / "manifests"):
        for row in csv.DictReader(store.read(item.location).decode().splitlines()):
            yield row["input"]


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if nothing is wrong, else 1."""
    parser = argparse.ArgumentParser(prog="python -m chaos.batches", description="A batch while everything is killed.")
    parser.add_argument("--images", type=int, default=20_000, help="most objects of the folder (default 20000)")
    parser.add_argument("--minutes", type=float, default=60.0, help="time after which it is broken off (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="decides what is killed (default 1)")
    parser.add_argument("--fault-seconds", type=float, default=15.0, help="mean time between two kills (default 15)")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the store, the logs and report.json")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True)
    # Whoever ends this ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = run(options.out.resolve(), options.images, options.minutes, options.seed, options.fault_seconds)
    (options.out / "report.json").write_text(json.dumps(report.__dict__, indent=2))
    print("\n".join([report.sentence, *report.anomalies[:40]]))
    return 1 if report.anomalies else 0


if __name__ == "__main__":
    sys.exit(main())
