"""Prediction jobs against the plain loops that people write, and many small jobs with and without spare workers.

Run it in the environment of the method, on an otherwise idle machine:

    PYTHONPATH=tests .venvs/care/bin/python benchmarks/prediction.py --method care-2d
    PYTHONPATH=tests .venvs/fnet/bin/python benchmarks/prediction.py --method fnet-2d

The images are simulated and the model is trained for one short epoch with the default network: neither matters to
speed. All is wall time as people wait for it. A job counts from the request to its end, on a running service and a
store on the same machine, with the start of the worker, checksums and upload. The plain loop is a script that opens the
model, reads, predicts and writes every image in float32: csbdeep's `CARE.predict` for CARE, a loop in PyTorch for fnet.
It counts with the start of its process, and without. Processor time says more than wall time on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from support import S3Server, ServiceProcess, filament_pair, publish_dataset

from parfocal import v1
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.prediction.pace import sentence
from parfocal.runtime.store.manifests import MODEL_MANIFEST, RESULT_MANIFEST, Manifest, ModelManifest, ResultManifest
from parfocal.runtime.store.store import Location, Store

# Of the training: few patches, which every method can cut from the images.
_TRAINING = {"epochs": 1, "patches_per_image": 4, "batch_size": 4, "patch_size": 64}
_DIFFERENT = 20


def write_images(folder: Path, count: int, size: int) -> Path:
    """Write 5 training pairs and `count` test pairs of simulated filaments, `size` pixels square; return the folder."""
    rng = np.random.default_rng(0)
    pairs = [filament_pair(rng, (size, size)) for _ in range(min(count, _DIFFERENT))]
    for split, number in [("train", number) for number in range(5)] + [("test", number) for number in range(count)]:
        for role, pixels in zip(("source", "target"), pairs[number % len(pairs)], strict=True):
            path = folder / split / role / f"field{number:03d}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            # All of them differ, so that nothing is found in a cache that would not be there.
            write_image(path, Image(np.roll(pixels, 7 * number, axis=1), "YX"))
    return folder


class Running:
    """A running service of the method's family."""

    def __init__(self, process: ServiceProcess, channel: grpc.Channel) -> None:
        self._process = process
        self._jobs = v1.JobServiceStub(channel)

    def finish(self, request: v1.StartJobRequest) -> v1.Job:
        """Start a job, watch it to its end, and return it."""
        job = self._jobs.StartJob(request).job
        last = list(self._jobs.WatchJob(v1.WatchJobRequest(job_id=job.id)))[-1].job
        if last.state != v1.JOB_STATE_SUCCEEDED:
            raise RuntimeError(last.error.text)
        return last

    def predict(self, model: str, dataset: str) -> v1.Job:
        """Predict the test images of a dataset."""
        spec = v1.PredictionSpec(model_uri=model, input_uri=dataset, split="test")
        return self.finish(v1.StartJobRequest(prediction=spec))

    def spare_worker(self) -> psutil.Process | None:
        """Return the worker that waits for another job, None where there is none."""
        assert self._process.process is not None
        commands: dict[psutil.Process, list[str]] = {}
        for child in psutil.Process(self._process.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # a zombie is meant too: it has ended
                commands[child] = child.cmdline()
        # Workers have the command line of the process that they are forks of: it is the oldest one, and always there.
        forks = [child for child, command in commands.items() if "parfocal.runtime.jobs.fork_server" in command]
        forks.sort(key=psutil.Process.create_time)
        return next((child for child in commands if child not in forks[:1]), None)

    def end_spare_worker(self) -> None:
        """Wait until no worker waits any more, so that the next job has to start one."""
        while self.spare_worker() is not None:
            time.sleep(0.1)


@contextmanager
def running(name: str, store: S3Server, folder: Path, spare_seconds: float) -> Iterator[Running]:
    """Start a service and end it."""
    settings = {"PARFOCAL_STATE_DIR": str(folder / "state"), "PARFOCAL_SPARE_SECONDS": str(spare_seconds)}
    process = ServiceProcess(name, {**store.environment, **settings}, folder).start()
    try:
        with grpc.insecure_channel(process.address) as channel:
            yield Running(process, channel)
    finally:
        process.stop()


def results(store: Store, job: v1.Job) -> dict[str, tuple[str, Location]]:
    """Return what a job has published: by public name, the digest and where the file lies."""
    place = Location.parse(job.outputs[0].uri)
    manifest = ResultManifest.read(store, place / RESULT_MANIFEST)
    return {entry.public_name: (entry.sha256, place / entry.name) for entry in manifest.files}


def fetch(store: Store, uri: str, folder: Path) -> Path:
    """Download a model; return the folder."""
    place = Location.parse(uri)
    for entry in Manifest.read(store, place / MODEL_MANIFEST).files:
        store.download(place / entry.name, folder / entry.public_name)
    return folder


def plain_csbdeep(model: Path, sources: list[Path], out: Path) -> float:
    """Predict as the examples of csbdeep do; return the seconds of the loop."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        from csbdeep.models import CARE

        network = CARE(None, model.name, str(model.parent))
        begin = time.perf_counter()
        for path in sources:
            pixels = network.predict(read_image(path).pixels, "YX")
            write_image(out / path.name, Image(np.asarray(pixels, np.float32), "YX"))
        return time.perf_counter() - begin


def plain_pytorch(model: Path, sources: list[Path], out: Path) -> float:
    """Predict as the tutorials of PyTorch do; return the seconds of the loop."""
    import torch
    from safetensors.torch import load_file

    from parfocal.fnet.network import FnetModule

    module = FnetModule(2, 1, 1, 32)
    module.load_state_dict(load_file(model / "weights_best.safetensors"))
    module.eval()
    begin = time.perf_counter()
    with torch.no_grad():
        for path in sources:
            pixels = read_image(path).pixels.astype(np.float32)
            scores = (pixels - pixels.mean()) / pixels.std()
            padded = np.pad(scores, [(0, -length % 16) for length in scores.shape], mode="reflect")
            output = module(torch.from_numpy(padded)[None, None])[0, 0, : pixels.shape[0], : pixels.shape[1]]
            write_image(out / path.name, Image(output.numpy(), "YX"))
    return time.perf_counter() - begin


PLAIN = {"care-2d": plain_csbdeep, "fnet-2d": plain_pytorch}


def plain(method: str, model: Path, sources: Path, out: Path) -> tuple[float, float, float]:
    """Run a plain loop as a script of its own; return its seconds, its processor's, and those of the loop alone."""
    out.mkdir()
    command = [sys.executable, __file__, "--method", method, "--plain", str(model), str(sources), str(out)]
    begin, before = time.perf_counter(), os.times()
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, after = time.perf_counter() - begin, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, cpu, float(ended.stdout.splitlines()[-1])


def largest_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Return the largest difference of any pixel as a part of its image's range, after the best straight line."""
    worst = 0.0
    for name, pixels in ours.items():
        a, b = (each.ravel().astype(np.float64) for each in (theirs[name], pixels))
        scale, offset = np.polyfit(a, b, 1)
        worst = max(worst, float(np.abs(scale * a + offset - b).max() / np.ptp(b)))
    return worst


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=sorted(PLAIN), required=True)
    parser.add_argument("--images", type=int, default=100, help="images of the large job")
    parser.add_argument("--size", type=int, default=256, help="side length of an image in pixels")
    parser.add_argument("--jobs", type=int, default=20, help="small jobs, one after another")
    parser.add_argument("--images-per-job", type=int, default=5)
    parser.add_argument("--plain", type=Path, nargs=3, metavar=("MODEL", "SOURCES", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Store and services end with it, however it is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.plain:
        model, sources, out = options.plain
        print(PLAIN[options.method](model, sorted(sources.iterdir()), out))
        return
    family = options.method.partition("-")[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = S3Server(folder / "s3")
        server.start()
        try:
            measure(options, family, server, folder)
        finally:
            server.stop()


def measure(options: argparse.Namespace, family: str, server: S3Server, folder: Path) -> None:
    """Measure on a running store."""
    store = server.store()
    many = write_images(folder / "many", options.images, options.size)
    large = publish_dataset(store, "many", many)
    few = publish_dataset(store, "few", write_images(folder / "few", options.images_per_job, options.size))
    print(f"{options.method}, images of {options.size} x {options.size} pixels, load {os.getloadavg()[0]:.1f}")
    small: dict[float, tuple[float, list[v1.Job]]] = {}
    for spare_seconds in (5.0, 0.0):
        with running(family, server, folder / f"service-{spare_seconds:g}", spare_seconds) as service:
            if not small:
                spec = v1.TrainingSpec(method=options.method, dataset_uri=large, model="benchmark")
                spec.parameters.CopyFrom(values_struct(_TRAINING))
                model = service.finish(v1.StartJobRequest(training=spec)).outputs[0].uri
                begin = time.perf_counter()
                job = service.predict(model, large)
                job_seconds = time.perf_counter() - begin
                worker = service.spare_worker()
                assert worker is not None
                job_cpu = sum(worker.cpu_times()[:2])
                service.end_spare_worker()
            begin = time.perf_counter()
            jobs, memory = [], []
            for _ in range(options.jobs):
                jobs.append(service.predict(model, few))
                if spare_seconds and (worker := service.spare_worker()) is not None:
                    memory.append(worker.memory_info().rss / 2**20)
            small[spare_seconds] = time.perf_counter() - begin, jobs
            if spare_seconds:
                print(f"memory of the spare worker after each small job: {', '.join(f'{m:.0f}' for m in memory)} MiB")
    files = fetch(store, model, folder / "model")
    process_seconds, process_cpu, loop_seconds = plain(
        options.method, files, many / "test" / "source", folder / "plain"
    )
    found = results(store, job)
    for public, (_, place) in found.items():
        store.download(place, folder / "ours" / public)
    ours, theirs = (
        {path.name: read_image(path).pixels for path in sorted((folder / kind).glob("*.tif"))}
        for kind in ("ours", "plain")
    )
    difference = largest_difference(ours, theirs)
    equal = {frozenset((n, d) for n, (d, _) in results(store, j).items()) for _, js in small.values() for j in js}
    precision = ModelManifest.read(store, Location.parse(model) / MODEL_MANIFEST).environment.get("precision", "")
    rows = [
        (f"one job of {options.images} images", job_seconds),
        ("  processor time of its worker", job_cpu),
        ("plain loop, with its process", process_seconds),
        ("  processor time", process_cpu),
        ("plain loop alone", loop_seconds),
        (f"{options.jobs} jobs of {options.images_per_job} images, spare workers", small[5.0][0]),
        (f"{options.jobs} jobs of {options.images_per_job} images, without", small[0.0][0]),
    ]
    print(f"trained in {precision}; predicted in {job.environment.precision}; load {os.getloadavg()[0]:.1f}\n")
    for what, seconds in rows:
        print(f"{what:<42} {seconds:8.1f} s")
    print(f"\nlarge job: {process_seconds / job_seconds:.2f}x as fast as the plain loop with its process, ", end="")
    print(f"{loop_seconds / job_seconds:.2f}x as the loop alone; largest difference {difference:.1e} of the range")
    print(f"large job: {sentence(job.metrics)}")
    print(f"small jobs: {small[0.0][0] / small[5.0][0]:.2f}x as fast with spare workers; ", end="")
    print("equal results" if len(equal) == 1 else f"{len(equal)} DIFFERENT results")


if __name__ == "__main__":
    main()
