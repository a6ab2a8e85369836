"""Measures what a training needs of its machine: memory and seconds of real steps of a method.

`python -m parfocal.runtime.training.capacity MODULE METHOD FOLDER VALUES` trains a few steps of a method on the dataset
in a folder, with training parameters as JSON, in the method's environment and in a process of its own, so that the
peak of its memory is that of these steps. It prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from parfocal import v1
from parfocal.runtime.datasets.view import FolderView
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.jobs.memory import peak_memory
from parfocal.runtime.methods.capacity import Point
from parfocal.runtime.methods.service import Method, Service, load_service
from parfocal.runtime.store.manifests import DATASET_MANIFEST, DatasetManifest

#: Compilers and allocators are at rest after the first step.
WARM_UP: Final = 2


def measure(service: Service, method: Method, data: FolderView, values: Mapping[str, Any], steps: int) -> Point:
    """Train a few steps and return what they needed. Only once in a process: memory is its largest.

    Raises
    ------
    InvalidInputError
        Images or parameters do not suit the method.
    """
    parameters: Any = method.parse(v1.JOB_KIND_TRAINING, values)
    device, _ = service.device().choose(parameters.precision, len(method.axes), training=True)
    implementation = method.load(device)
    opened = implementation.open(data, parameters)
    learner = implementation.build(opened.parameters, opened.facts)
    learner.begin_epoch(0, implementation.schedule(opened.parameters).learning_rate)
    seconds = []
    for step in range(WARM_UP + steps):
        begin = time.perf_counter()
        place = step % opened.batches.steps_per_epoch
        rng = np.random.default_rng([opened.parameters.seed, 0, step])
        batch = implementation.prepare(opened.batches.batch(0, place), opened.parameters, opened.facts, rng)
        learner.train_batch(batch)
        seconds.append(time.perf_counter() - begin)
    if opened.batches.validation_steps:
        batch = implementation.prepare(opened.batches.validation_batch(0), opened.parameters, opened.facts, rng)
        learner.validate_batch(batch)
    peak = peak_memory(device)
    return Point(
        batch_size=opened.parameters.batch_size,
        patch_shape=opened.parameters.patch_shape(method.axes),
        seconds_per_step=float(np.median(seconds[WARM_UP:])),
        memory_gib=peak.memory_gib,
        device_memory_gib=peak.device_memory_gib,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure once and print what was found, or why it was not; return 1 in the latter case."""
    parser = argparse.ArgumentParser(prog="parfocal.runtime.training.capacity")
    parser.add_argument("module", help="package with the constant SERVICE")
    parser.add_argument("method")
    parser.add_argument("folder", type=Path, help="dataset with its dataset.json, as it would be published")
    parser.add_argument("values", type=json.loads, help="training parameters as JSON")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args(arguments)
    told: dict[str, Any]
    try:
        service = load_service(options.module)
        method = service.method(options.method)
        data = FolderView(
            manifest=DatasetManifest.parse((options.folder / DATASET_MANIFEST).read_bytes(), DATASET_MANIFEST),
            axes=method.axes,
            minimum_images=method.minimum_images,
            scratch=options.folder / ".scratch",
            folder=options.folder,
        )
        point = measure(service, method, data, options.values, options.steps)
        environment = service.environment()
        told = {"point": point.model_dump(), "device": environment.device, "threads": environment.threads}
    except ParfocalError as error:
        told = {"error": error.message}
    sys.stdout.write(json.dumps(told) + "\n")
    return int("error" in told)


if __name__ == "__main__":
    sys.exit(main())
