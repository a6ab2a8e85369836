"""A batch of predictions on 1, 2, 4 and 8 simulated devices: how much of a further device's time is used.

Run it in the environment of the orchestrator:

    PYTHONPATH=tests .venvs/orchestrator/bin/python benchmarks/scaling.py --images 60 --seconds 2

The network of the fake method sleeps for `--seconds` with each image and computes next to nothing, so that the figure
concerns scheduling, workers and the store alone. Each device is given `--images` images, all in one folder; the time
counts from the start of the batch to the last image delivered, with the start of the workers. Perfect scaling would
take `--images` times `--seconds` whatever the number of devices; efficiency is this time as a part of that measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from support import S3Server, ServiceProcess, filament_pair, publish_dataset, write_pairs

from parfocal.client import Client
from parfocal.client.requests import training_request
from parfocal.flows.batch import Batch, Step
from parfocal.flows.batches import BatchRun
from parfocal.runtime.images.files import Image, write_image
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Store

PROJECT = "default"


def put_images(store: Store, folder: Path, name: str, count: int) -> Batch:
    """Write `count` images of 32 x 48 pixels, 16 bit, into a folder of the store; return the batch without a step."""
    place = store.results / PROJECT / name

    def put(number: int) -> None:
        path = folder / f"{name}-{number:06d}.tif"
        pixels = np.random.default_rng(number).integers(0, 4000, (32, 48)).astype(np.uint16)
        write_image(path, Image(pixels, "YX"))
        store.write(place / "in" / path.name, path.read_bytes())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(count)))
    return Batch(place / "in", place / "out", ())


def measure(folder: Path, devices: int, images: int, seconds: float) -> float:
    """Return the wall seconds of a batch of `images` images on each of so many devices."""
    folder.mkdir()
    s3 = S3Server(folder / "s3")
    numbers = ",".join(map(str, range(devices)))
    environment = {"PARFOCAL_DEVICES": numbers, "PARFOCAL_STATE_DIR": str(folder / "state")}
    try:
        s3.start()
        fake = ServiceProcess("fake", {**s3.environment, **environment}, folder / "fake")
        catalog = ServiceProcess("catalog", s3.environment, folder / "catalog")
        try:
            addresses = {"services": fake.start().address, "catalog": catalog.start().address}
            with Client(Settings(**addresses, project=PROJECT), patience=120.0) as client:  # type: ignore[arg-type]
                uri = publish_dataset(s3.store(), "pairs", write_pairs(folder / "pairs", filament_pair))
                values = {"epochs": 1, "patches_per_image": 1, "pause_seconds": seconds}
                job = client.wait(client.start(training_request("fake-2d", uri, "m", values)).id)
                (model,) = (output.uri for output in job.outputs if output.kind == "model")
                place = put_images(s3.store(), folder, f"on-{devices}", images * devices)
                run = BatchRun(
                    client, Batch(place.source, place.output, (Step(model),)), settle_seconds=0, unlike="ignore"
                )
                begin = time.monotonic()
                progress = run.run()
                passed = time.monotonic() - begin
                if progress.predicted != images * devices:
                    raise RuntimeError(progress.sentence)
                return passed
        finally:
            for service in (fake, catalog):
                if service.process is not None:
                    service.stop()
    finally:
        s3.stop()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--images", type=int, default=60, help="images for each device")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds that the network sleeps with an image")
    options = parser.parse_args()
    ideal = options.images * options.seconds
    print("devices   seconds  efficiency  images/s     load")
    with tempfile.TemporaryDirectory() as name:
        for devices in options.devices:
            passed = measure(Path(name) / str(devices), devices, options.images, options.seconds)
            rate = options.images * devices / passed
            print(f"{devices:7d} {passed:9.1f} {ideal / passed:11.0%} {rate:9.2f} {os.getloadavg()[0]:8.1f}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
