"""Memory and time of predictions of large images.

Run it in the environment of the method; each size is predicted in a process of its own:

    .venvs/care/bin/python benchmarks/large_images.py --method care-2d --sides 4000 8000
    .venvs/care/bin/python benchmarks/large_images.py --method care-3d --shape 256 1024 1024
    .venvs/stardist/bin/python benchmarks/large_images.py --method stardist-2d --sides 4000 8000

The image is a tiled, compressed OME-TIFF of 16 bits with discs on noise. The process then does what the worker of a
prediction job does between download and upload: it opens the image, predicts it, and writes results and checksums. The
network has random weights, which matter neither to memory nor to time, and by default few filters
(`--parameters '{"first_filters": 32}'` for those of a method's form). Boxes are what such a network takes for objects;
StarDist is trained for a moment, so that it finds the discs and nothing else. The peak is the largest resident set of
the process, of which the framework alone is given as well. Time is wall time, with the load of the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from parfocal import v1
from parfocal.runtime.images.files import Image, open_image, write_image
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import Batch, ModelView
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.service import Service
from parfocal.runtime.prediction.loaded_model import LoadedModel, predict_image
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import ModelManifest
from parfocal.runtime.store.publish import sha256_of

_TILE = 512
_LESSONS = 150
_SMALL: dict[str, dict[str, Any]] = {
    "care": {"first_filters": 8},
    "fnet": {"first_filters": 8},
    "unet": {"first_filters": 8},
    "n2v": {"first_filters": 8},
    "gan": {"first_filters": 8},
    "stardist": {"first_filters": 8, "rays": 16, "network_depth": 2, "learning_rate": 0.003},
    "yolo": {"first_filters": 4},
}
_MEASURED: dict[str, dict[str, Any]] = {
    "unet": {"class_values": [0, 1]},
    "yolo": {
        "anchors_px": [[40.0, 40.0], [80.0, 80.0]],
        "largest_box_px": 100.0,
        "class_names": ["cell"],
    },
}
_TARGETS = {"unet": Port(role="target", kind="classes", classes=1), "n2v": None}


def tiles(shape: tuple[int, ...]) -> Iterator[NDArray[np.uint16]]:
    """Yield the tiles of an image with discs 30 pixels wide on a grid, in noise."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(300, 30, (_TILE, _TILE)) for _ in range(4)]
    at = np.arange(_TILE) % 64 - 32
    disc = (at[:, None] ** 2 + at**2 < 15**2) * 900
    count = math.prod(shape[:-2]) * math.prod(-(-length // _TILE) for length in shape[-2:])
    for number in range(count):
        yield (noise[number % len(noise)] + disc).astype(np.uint16)


def write_example(path: Path, shape: tuple[int, ...]) -> None:
    """Write an image of 16 bits tile by tile."""
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as tif:
        tif.write(
            tiles(shape),
            shape=shape,
            dtype=np.uint16,
            tile=(_TILE, _TILE),
            compression="zlib",
            metadata={"axes": "ZYX"[-len(shape) :], "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
            maxworkers=1,
        )


def random_model(service: Service, name: str, values: dict[str, Any], precision: str = "float32") -> LoadedModel:
    """Return a model with random weights that predicts on the processor."""
    method = service.method(name)
    parameters = method.parse(v1.JOB_KIND_TRAINING, values)
    target = _TARGETS.get(service.name, Port(role="target", offset=(100.0,), scale=(50.0,)))
    port = Port(role="source", offset=(100.0,), scale=(50.0,))
    facts = Facts(
        inputs=(port,),
        targets=() if target is None else (target,),
        measured=_MEASURED.get(service.name, {}),
    )
    implementation = method.load(Device(precision=precision))
    view = ModelView(parameters, facts, implementation.normaliser, method.axes)
    learner = implementation.build(parameters, facts)
    if service.name == "stardist":
        teach_discs(implementation, learner, parameters, facts)
    return LoadedModel(method, ModelManifest.model_construct(), view, implementation, learner)


def teach_discs(implementation: Any, learner: Any, parameters: Any, facts: Facts) -> None:
    """Train a network on a part of the image, until it finds the discs."""
    at = np.arange(128) % 64 - 32
    disc = at[:, None] ** 2 + at**2 < 15**2
    labels = np.zeros((128, 128), np.int32)
    for number, (row, column) in enumerate(np.ndindex(2, 2), start=1):
        quarter = slice(64 * row, 64 * row + 64), slice(64 * column, 64 * column + 64)
        labels[quarter] = disc[quarter] * number
    rng = np.random.default_rng(0)
    for epoch in range(_LESSONS):
        image = rng.normal(300, 30, (128, 128)) + disc * 900
        source = implementation.normaliser.apply(image, implementation.normaliser.fit(image, "YX"))
        inputs = {facts.source: source[np.newaxis, ..., np.newaxis].astype(np.float32)}
        batch = Batch(inputs, labels[np.newaxis, ..., np.newaxis], 1)
        learner.train_batch(implementation.prepare(batch, parameters, facts, np.random.default_rng(epoch)))


def predict(options: argparse.Namespace) -> dict[str, Any]:
    """Predict one image as a worker does, and return what it took."""
    family = options.method.rsplit("-", 1)[0] if options.family is None else options.family
    service: Service = import_module(f"parfocal.{family}").SERVICE
    values = {**_SMALL.get(family, {}), **json.loads(options.parameters)}
    model = random_model(service, options.method, values, options.precision)
    values = json.loads(options.prediction)
    parameters = model.method.parse(v1.JOB_KIND_PREDICTION, values)
    assert isinstance(parameters, PredictionParameters)
    # Once before, so that what a framework loads for its first image is counted with it.
    with tempfile.TemporaryDirectory() as warm:
        small = np.random.default_rng(0).integers(200, 900, (64,) * len(model.view.axes)).astype(np.uint16)
        predict_image(model, Image(small, model.view.axes), parameters, Path(warm), "warm").finish()
    before = peak()
    folder = options.image.parent / "outputs"
    scratch = Scratch(options.image.parent / "arrays")
    begin = time.perf_counter()
    seconds: dict[str, float] = {}
    image = open_image(options.image, scratch)
    seconds["open"] = time.perf_counter() - begin
    shown = [0.0]

    def on_tile(done: int, total: int) -> None:
        if time.perf_counter() - shown[0] > 30:
            shown[0] = time.perf_counter()
            print(f"{done} of {total} tiles, {peak() / 2**20:.0f} MiB", file=sys.stderr, flush=True)

    outputs = predict_image(model, image, parameters, folder, "a", on_tile=on_tile, scratch=scratch)
    predicted = outputs.finish()
    seconds["predict"] = time.perf_counter() - begin - sum(seconds.values())
    for kind, each in predicted.images.items():
        path = folder / f"{kind}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, each, labels=kind in predicted.labels)
        sha256_of(path)
    sha256_of(options.image)
    seconds["write"] = time.perf_counter() - begin - sum(seconds.values())
    return {
        "peak_mib": peak() / 2**20,
        "framework_mib": before / 2**20,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "counts": predicted.counts,
        "load": os.getloadavg()[0],
    }


def peak() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Predict images of several sizes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", required=True)
    parser.add_argument("--family", help="package of the method, where its name does not begin with it")
    parser.add_argument("--sides", type=int, nargs="*", default=[], help="squares of so many pixels")
    parser.add_argument("--shape", type=int, nargs="*", default=[], help="one image of this shape")
    parser.add_argument("--parameters", default="{}", help="of the network, as JSON")
    parser.add_argument("--prediction", default="{}", help="of the prediction, as JSON")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--folder", type=Path, help="folder with room, by default that of temporary files")
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.image is not None:
        print(json.dumps(predict(options)))
        return
    print("| method | image | peak MiB | framework alone | seconds | MPix/s | counts | load |")
    print("|---|---|---|---|---|---|---|---|")
    shapes = [(side, side) for side in options.sides] + ([tuple(options.shape)] if options.shape else [])
    for shape in shapes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "image.ome.tif"
            write_example(path, shape)
            command = [sys.executable, __file__, "--image", str(path), "--method", options.method]
            command += ["--parameters", options.parameters, "--prediction", options.prediction]
            command += ["--precision", options.precision, *(["--family", options.family] if options.family else [])]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        total = sum(found["seconds"].values())
        size = " x ".join(map(str, shape))
        parts = ", ".join(f"{name} {value}" for name, value in found["seconds"].items())
        print(
            f"| {options.method} | {size} | {found['peak_mib']:.0f} | {found['framework_mib']:.0f} | {total:.0f} "
            f"({parts}) | {math.prod(shape) / 1e6 / total:.2f} | {found['counts']} | {found['load']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
