"""Memory and time of judging a large image, as a job of quality control from download to upload.

A store and the service of quality control run on this machine, and one image is judged as in use:

    PYTHONPATH=tests .venvs/qc/bin/python benchmarks/large_evaluation.py --kind restoration --sides 4000 16000
    PYTHONPATH=tests .venvs/qc/bin/python benchmarks/large_evaluation.py --kind labels --sides 4000 16000
    PYTHONPATH=tests .venvs/qc/bin/python benchmarks/large_evaluation.py --kind classes --sides 4000 16000

Images are those of `large_images.py`, with as much noise as an input, a prediction and a target have; of labels,
classes and boxes the prediction is the target two pixels off. The training image, on which a baseline is chosen, has
the same size. Stacks of localisations have an emitter on each cell of a grid in each frame and sides in pixels of the
camera; without `--planes` they are of 20 frames. A dataset is checked with its pairs, or, as `dataset-labels`, with its
label images. A comparison is that of two predictions of classes, or of objects, whose evaluations are not measured. The
peak is the largest resident set of any process of the service, its workers included. `--planes 8` judges stacks of as
many planes, `--no-maps` leaves out the maps, and `--services` takes the code of quality control from the folder
`services` of another checkout, to compare.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tifffile
from example_data import voc, voc_object
from numpy.typing import NDArray
from support import S3Server, ServiceProcess, publish_dataset, publish_images, publish_kind, publish_model

from parfocal import v1
from parfocal.runtime.jobs.records import FINAL_STATES
from parfocal.runtime.methods.service import values_struct

_TILE = 512
_GRID = 64
_EMITTERS = 16
_FRAMES = 20
_PIXEL_NM = 100.0
_UPSAMPLING = 8
_NOISE = {"source": 60.0, "prediction": 15.0, "target": 3.0}


@dataclass(frozen=True)
class Kind:
    """A kind of quality control: its method, what its targets are, and what it is given."""

    method: str
    targets: str = "restoration"
    compared: str = ""
    """What evaluations are compared of; empty for an evaluation."""

    @property
    def unpaired(self) -> bool:
        """Whether images are no pairs."""
        return self.method == "translation-unpaired"


KINDS = {
    "restoration": Kind("restoration"),
    "labels": Kind("instances", "labels"),
    "classes": Kind("semantic", "classes"),
    "residuals": Kind("residuals"),
    "unpaired": Kind("translation-unpaired"),
    "boxes": Kind("detection", "boxes"),
    "localisation": Kind("localisation", "coordinates"),
    "reconstruction": Kind("reconstruction", "coordinates"),
    "dataset": Kind("dataset"),
    "dataset-labels": Kind("dataset", "labels"),
    "comparison": Kind("semantic", "classes", compared="classes"),
    "comparison-labels": Kind("instances", "labels", compared="labels"),
}


def write_image(path: Path, side: int, role: str, kind: str, planes: int) -> None:
    """Write an image of discs on a grid tile by tile: grey values with noise, or their labels or classes.

    A stack has the same labels and classes in all its planes.
    """
    shifted = 2 if role == "prediction" and kind != "restoration" else 0
    at = (np.arange(_TILE) - shifted) % _GRID - _GRID // 2
    disc = at[:, np.newaxis] ** 2 + at**2 < 15**2
    place = (np.arange(_TILE) - shifted) // _GRID
    rng = np.random.default_rng(len(role))
    noise = [rng.normal(300, _NOISE[role], (_TILE, _TILE)) for _ in range(4)]
    tiles_along = -(-side // _TILE)

    def tiles() -> Iterator[NDArray[Any]]:
        for number in range(max(1, planes) * tiles_along**2):
            row, column = divmod(number % tiles_along**2, tiles_along)
            if role == "source" or kind == "restoration":
                brightness = 300 + 600 * ((row + column) % 4)
                yield np.clip(noise[number % 4] + brightness * disc, 0, 65535).astype(dtype)
            elif kind == "classes":
                yield disc.astype(dtype)
            else:
                grid = (8 * row + place[:, np.newaxis]) * 8 * tiles_along + 8 * column + place + 1
                yield (np.maximum(grid, 0) * disc).astype(dtype)

    dtype: Any = np.uint16
    if role != "source" and kind != "restoration":
        dtype = np.uint8 if kind == "classes" else np.uint32
    elif role == "prediction":
        dtype = np.float32
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as tif:
        options: dict[str, Any] = {"tile": (_TILE, _TILE), "compression": "zlib", "maxworkers": 1}
        shape = (planes, side, side) if planes else (side, side)
        tif.write(tiles(), shape=shape, dtype=dtype, metadata={"axes": "ZYX"[-len(shape) :]}, **options)


def write_boxes(folder: Path, side: int) -> None:
    """Write the boxes of all discs of an image as annotation, and two pixels off as what was detected."""
    objects, rows = [], ["plane,class,confidence,x_min_px,y_min_px,x_max_px,y_max_px"]
    for y, x in np.ndindex(side // _GRID, side // _GRID):
        top, left = (each * _GRID + _GRID // 2 - 15 for each in (y, x))
        objects.append(voc_object("disc", left, top, left + 30, top + 30))
        rows.append(f"0,disc,0.9,{left + 2},{top + 2},{left + 32},{top + 32}")
    for split in ("train", "test"):
        path = folder / "data" / split / "target" / "image.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(voc(*objects, shape=(side, side)))
    _write_table(folder / "predicted" / "detections", rows)


def write_frames(folder: Path, side: int, frames: int) -> None:
    """Write stacks of frames with an emitter on each cell of a grid, and what was located, half a pixel off."""
    across = np.arange(_EMITTERS) + 0.5 - _EMITTERS / 2
    spot = 400 * np.exp(-(across[:, np.newaxis] ** 2 + across**2) / 2)
    cells = side // _EMITTERS
    clean = np.full((side, side), 100.0)
    clean[: cells * _EMITTERS, : cells * _EMITTERS] += np.tile(spot, (cells, cells))
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 10, (side, side))
    places = (np.indices((cells, cells)).reshape(2, -1) + 0.5) * _EMITTERS
    true, found = ["id,frame,x [nm],y [nm],sigma [nm],intensity [photon]"], ["plane,frame,x [nm],y [nm]"]
    for frame in range(1, frames + 1):
        for y, x in (places * _PIXEL_NM).T.tolist():
            true.append(f"{len(true)},{frame},{x},{y},110.0,2000.0")
            found.append(f"0,{frame},{x + _PIXEL_NM / 2},{y}")
    for split in ("train", "test"):
        path = folder / "data" / split / "source" / "image.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        stack = (np.roll(clean + noise, frame, axis=1).astype(np.uint16) for frame in range(0, frames * 64, 64))
        size = {"PhysicalSizeX": _PIXEL_NM / 1e3, "PhysicalSizeY": _PIXEL_NM / 1e3}
        with tifffile.TiffWriter(path, ome=True) as tif:
            tif.write(stack, shape=(frames, side, side), dtype=np.uint16, metadata={"axes": "TYX", **size})
        _write_table(folder / "data" / split / "target", true)
    _write_table(folder / "predicted" / "localisations", found)
    image = np.zeros((side * _UPSAMPLING,) * 2, np.float32)
    image[tuple((places * _UPSAMPLING).astype(int))] = frames
    tifffile.imwrite(folder / "predicted" / "image.tif", image, ome=True, metadata={"axes": "YX"})


def _write_table(folder: Path, rows: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def prepare(folder: Path, store: Any, side: int, kind: Kind, options: argparse.Namespace) -> v1.EvaluationSpec:
    """Write and publish what is judged, and return the request."""
    if kind.targets == "coordinates":
        write_frames(folder, side, options.planes or _FRAMES)
    else:
        roles = ("source",) if kind.targets == "boxes" else ("source", "target")
        for split in ("train", "test"):
            for role in roles:
                # Without pairs, a dataset must have two images for training.
                for name in ("image", "second") if kind.unpaired and split == "train" else ("image",):
                    path = folder / "data" / split / role / f"{name}.tif"
                    write_image(path, side, role, kind.targets, options.planes)
        if kind.targets == "boxes":
            write_boxes(folder, side)
        else:
            write_image(folder / "predicted" / "image.tif", side, "prediction", kind.targets, options.planes)
    stored = "unpaired" if kind.unpaired else kind.targets
    publish = partial(publish_kind, kind=stored) if stored in {"unpaired", "boxes", "coordinates"} else publish_dataset
    dataset = publish(store, f"large-{side}", folder / "data")
    spec = v1.EvaluationSpec(method=kind.method)
    if kind.method != "dataset":
        spec.prediction_uri = publish_images(store, folder / "predicted", input_uri=dataset, split="test")
        if not kind.unpaired:
            spec.parameters.CopyFrom(values_struct({"maps": not options.no_maps}))
    if kind.method not in {"residuals", "reconstruction"}:
        spec.dataset_uri = dataset
        spec.split = "" if kind.method == "dataset" else "test"
    return spec


def judge(folder: Path, server: S3Server, side: int, options: argparse.Namespace) -> str:
    """Judge one image and return a line of the table."""
    kind, store = KINDS[options.kind], server.store()
    spec = prepare(folder, store, side, kind, options)
    environment = dict(server.environment)
    if options.services is not None:
        units = [options.services / name for name in ("qc", "runtime")]
        environment["PYTHONPATH"] = os.pathsep.join(map(str, [*units, os.environ.get("PYTHONPATH", "")]))
    request = v1.StartJobRequest(evaluation=spec)
    if kind.compared:
        spec.parameters.CopyFrom(values_struct({"maps": False}))
        request = v1.StartJobRequest(comparison=v1.ComparisonSpec(method=kind.method))
        for _ in range(2):
            # Of the same pixels, but predictions of names of their own, as those of two models are.
            predicted = publish_images(store, folder / "predicted", input_uri=spec.dataset_uri, split="test")
            model = publish_model(store, "model", spec.dataset_uri)
            each = v1.EvaluationSpec()
            each.CopyFrom(spec)
            each.prediction_uri, each.model_uri = predicted, model
            done, _, _ = run(environment, folder, v1.StartJobRequest(evaluation=each))
            if done.state != v1.JOB_STATE_SUCCEEDED:
                raise SystemExit(done.error.text)
            request.comparison.evaluation_uris.append(done.outputs[0].uri)
    job, peak, seconds = run(environment, folder, request)
    found = job.error.text
    if job.state == v1.JOB_STATE_SUCCEEDED:
        found = ", ".join(f"{name} {value:.4f}" for name, value in job.metrics.items())
    load = os.getloadavg()[0]
    planes = options.planes or (_FRAMES if kind.targets == "coordinates" else 0)
    size = f"{planes} x {side} x {side}" if planes else f"{side} x {side}"
    return f"| {options.kind} | {size} | {peak / 2**20:.0f} | {seconds:.0f} | {load:.1f} | {found} |"


def run(environment: Mapping[str, str], folder: Path, request: v1.StartJobRequest) -> tuple[v1.Job, int, float]:
    """Run a job by a service of its own; return it, the largest resident set of a process in bytes, and seconds."""
    service = ServiceProcess("qc", dict(environment), folder / "service").start()
    assert service.process is not None
    largest = 0
    begin = time.perf_counter()
    try:
        with grpc.insecure_channel(service.address) as channel:
            jobs = v1.JobServiceStub(channel)
            get = v1.GetJobRequest(job_id=jobs.StartJob(request).job.id)
            while (job := jobs.GetJob(get).job).state not in FINAL_STATES:
                largest = max(largest, *(_peak(each) for each in _family(service.process.pid)))
                time.sleep(0.1)
    finally:
        seconds = time.perf_counter() - begin
        service.stop()
    return job, largest, seconds


def _family(pid: int) -> list[int]:
    """Return a process and all that it and they have started."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
    family = [pid]
    for each in family:
        family += [child for child, parent in parents.items() if parent == each]
    return family


def _peak(pid: int) -> int:
    """Return the largest resident set of a process so far, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def main() -> None:
    """Judge images of several sizes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--sides", type=int, nargs="+", required=True, help="squares of so many pixels")
    parser.add_argument("--planes", type=int, default=0, help="planes of a stack; 0: no stacks")
    parser.add_argument("--no-maps", action="store_true")
    parser.add_argument("--services", type=Path, help="folder `services` of another checkout")
    parser.add_argument("--folder", type=Path, help="folder with room, by default that of temporary files")
    options = parser.parse_args()
    print("| kind | image | peak MiB | seconds | load | scores |\n|---|---|---|---|---|---|", flush=True)
    for side in options.sides:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            server = S3Server(Path(name) / "s3")
            server.start()
            try:
                print(judge(Path(name), server, side, options), flush=True)
            finally:
                server.stop()


if __name__ == "__main__":
    main()
