"""Memory and time of making a dataset of large images, and of training on it.

Each is done in a process of its own, in the environment of what is measured:

    .venvs/orchestrator/bin/python benchmarks/large_data.py dataset --shape 20000 20000
    .venvs/orchestrator/bin/python benchmarks/large_data.py dataset --format zarr --shape 256 2048 2048
    .venvs/care/bin/python benchmarks/large_data.py training --method care-2d --shape 16000 16000

`dataset` checks a folder with one pair and writes the files that would be uploaded. `training` opens one such pair as
the worker of a training does, from the check of the published files to the steps of an epoch, the validation, what is
measured on validation images, and the pictures of the report. Images are those of `large_images.py`. The peak is the
largest resident set of the process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
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
from large_images import peak, tiles, write_example
from numpy.typing import NDArray

from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.images.memmaps import decode_to_memmap
from parfocal.runtime.store.manifests import FileEntry

_SMALL = {"first_filters": 8}


class View(DatasetView):
    """A dataset in a local folder whose images are decoded to files, as those of a published one are."""

    def fetch(self, *roles: str) -> Path:  # noqa: ARG002
        """Return the folder of the training files."""
        return self.scratch.parent / "data" / "train"

    def decode(self, path: Path) -> NDArray[Any]:
        """Return the pixels of an image, memory-mapped."""
        return decode_to_memmap(path, self.scratch, f"{path.parent.name}-{path.stem}")


def write_pair(folder: Path, shape: tuple[int, ...], form: str, labels: bool) -> None:
    """Write a pair for training: as TIFF, or the source as OME-Zarr."""
    for role in ("source", "target"):
        path = folder / "train" / role
        path.mkdir(parents=True)
        if form == "zarr" and role == "source":
            _write_zarr(path / "image.ome.zarr", shape)
        elif role == "target":
            _write_target(path / "image.tif", shape, labels)
        else:
            write_example(path / "image.tif", shape)


def _write_target(path: Path, shape: tuple[int, ...], labels: bool) -> None:
    at = np.arange(512) % 64 - 32
    disc = at[:, None] ** 2 + at**2 < 15**2
    place = np.arange(512) // 64

    def numbered() -> Iterator[NDArray[Any]]:
        columns = -(-shape[-1] // 512)
        for number, tile in enumerate(tiles(shape)):
            row, column = divmod(number % (columns * -(-shape[-2] // 512)), columns)
            grid = (8 * row + place[:, None]) * 8 * columns + 8 * column + place + 1
            yield (grid * disc).astype(np.uint32) if labels else tile // 2 + 7

    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as tif:
        dtype = np.uint32 if labels else np.uint16
        options: dict[str, Any] = {"tile": (512, 512), "compression": "zlib", "maxworkers": 1}
        tif.write(numbered(), shape=shape, dtype=dtype, metadata={"axes": "ZYX"[-len(shape) :]}, **options)


def _write_zarr(folder: Path, shape: tuple[int, ...]) -> None:
    import zarr

    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    chunks = (*(1,) * (len(shape) - 2), 512, 512)
    array = group.create_array("0", shape=shape, dtype=np.uint16, chunks=chunks)
    columns, rows = -(-shape[-1] // 512), -(-shape[-2] // 512)
    for number, tile in enumerate(tiles(shape)):
        plane, place = divmod(number, rows * columns)
        row, column = (512 * each for each in divmod(place, columns))
        height, width = min(512, shape[-2] - row), min(512, shape[-1] - column)
        lead = (plane,) * (len(shape) - 2)
        array[(*lead, slice(row, row + height), slice(column, column + width))] = tile[:height, :width]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"[-len(shape) :]]
    scale = [{"type": "scale", "scale": [0.5] * len(shape)}]
    images = [{"name": "image", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": images}


def make_dataset(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Check a folder and write the files of the dataset."""
    from parfocal.client.datasets import checked_folder

    begin = time.perf_counter()
    axes = "ZYX"[-len(options.shape) :]
    seconds: dict[str, float] = {}
    with checked_folder(folder / "data", axes, options.target, None, False) as report:
        seconds["check"] = time.perf_counter() - begin
        for item in report.items():
            path = folder / "out" / item.file
            path.parent.mkdir(parents=True, exist_ok=True)
            item.write(path)
    return {**seconds, "write": time.perf_counter() - begin - seconds["check"]}


def train(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Do what the worker of a training does with its data."""
    from parfocal import v1
    from parfocal.runtime.methods.device import Device
    from parfocal.runtime.training.report import _examples_figure, _save

    family = options.method.rsplit("-", 1)[0]
    method = import_module(f"parfocal.{family}").SERVICE.method(options.method)
    values = {**_SMALL, "epochs": 1, "patches_per_image": 64, **json.loads(options.parameters)}
    parameters = method.parse(v1.JOB_KIND_TRAINING, values)
    axes = "ZYX"[-len(options.shape) :]
    report = check_folder(_small_folder(folder, options), axes=axes, kind=options.target)
    files = [FileEntry(name=item.file, size=1, sha256="0" * 64) for item in report.items()]
    entries = [item.write(folder / f"{number}.tif") for number, item in enumerate(report.items())]
    manifest = report.manifest(files, entries, project="p", dataset="d", version=1)
    view = View(manifest=manifest, axes=method.axes, minimum_images=1, scratch=folder / "scratch")
    implementation = method.load(Device(precision=options.precision))
    seconds: dict[str, float] = {}
    begin = time.perf_counter()

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - begin - sum(seconds.values())
        print(f"{name}: {seconds[name]:.1f} s, {peak() / 2**20:.0f} MiB", file=sys.stderr, flush=True)

    opened = implementation.open(view, parameters)
    lap("open")
    learner = implementation.build(opened.parameters, opened.facts)
    learner.begin_epoch(0, 1e-4)
    rng = np.random.default_rng(0)
    for step in range(opened.batches.steps_per_epoch):
        batch = opened.batches.batch(0, step)
        learner.train_batch(implementation.prepare(batch, opened.parameters, opened.facts, rng))
    for step in range(opened.batches.validation_steps):
        batch = opened.batches.validation_batch(step)
        learner.validate_batch(implementation.prepare(batch, opened.parameters, opened.facts, rng))
    lap("steps")
    implementation.calibrate(learner, opened.validation_images(), opened.parameters, opened.facts)
    for image in opened.validation_images():
        float(image.input.max())
    lap("validation")
    _save(_examples_figure(opened.record.examples), folder / "examples.png")
    lap("report")
    return seconds


def _small_folder(folder: Path, options: argparse.Namespace) -> Path:
    """Return a folder with a small pair, whose manifest has the axes and kinds of the large one."""
    small = folder / "small"
    write_pair(small, tuple(min(each, 256) for each in options.shape), "tiff", options.target == "labels")
    return small


def main() -> None:
    """Make one pair, measure, and print a line of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("dataset", "training"))
    parser.add_argument("--shape", type=int, nargs="+", required=True, help="of the images, in pixels")
    parser.add_argument("--format", choices=("tiff", "zarr"), default="tiff", help="of the source image")
    parser.add_argument("--target", choices=("paired", "labels"), default="paired")
    parser.add_argument("--method", default="care-2d")
    parser.add_argument("--parameters", default="{}", help="of the training, as JSON")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--folder", type=Path, help="folder with room, by default that of temporary files")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        seconds = (make_dataset if options.what == "dataset" else train)(options.inside, options)
        print(json.dumps({"peak_mib": peak() / 2**20, "seconds": seconds, "load": os.getloadavg()[0]}))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        write_pair(Path(name) / "data", tuple(options.shape), options.format, options.target == "labels")
        command = [sys.executable, __file__, *sys.argv[1:], "--inside", name]
        environment = {**os.environ, "TMPDIR": str(options.folder or tempfile.gettempdir())}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    parts = ", ".join(f"{name} {value:.1f}" for name, value in found["seconds"].items())
    what = f"{options.what}, {options.method}" if options.what == "training" else f"{options.what}, {options.format}"
    size = " x ".join(map(str, options.shape))
    rate = math.prod(options.shape) / 1e6 / sum(found["seconds"].values())
    print(f"| {what} | {size} | {found['peak_mib']:.0f} | {parts} | {rate:.2f} | {found['load']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
