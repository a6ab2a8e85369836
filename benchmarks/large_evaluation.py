"""Memory and time of judging a large image, as a job of quality control from download to upload.

A store and the service of quality control run on this machine, and one image is judged as in use:

    PYTHONPATH=tests .venvs/qc/bin/python benchmarks/large_evaluation.py --kind restoration --sides 4000 16000
    PYTHONPATH=tests .venvs/qc/bin/python benchmarks/large_evaluation.py --kind labels --sides 4000 16000
    PYTHONPATH=tests .venvs/qc/bin/python benchmarks/large_evaluation.py --kind classes --sides 4000 16000

Images are those of `large_images.py`, with as much noise as an input, a prediction and a target have; of labels and
classes the prediction is the target two pixels off. The training image, on which a baseline is chosen, has the same
size. The peak is the largest resident set of any process of the service, its workers included. `--planes 8` judges
stacks of as many planes, `--no-maps` leaves out the maps, and `--services` takes the code of quality control from the
folder `services` of another checkout, to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tifffile
from numpy.typing import NDArray
from support import S3Server, ServiceProcess, publish_dataset, publish_images, read_published

from parfocal import v1
from parfocal.runtime.jobs.records import FINAL_STATES
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.store.evaluations import SUMMARY_FILE

_TILE = 512
_GRID = 64
_METHODS = {"restoration": "restoration", "labels": "instances", "classes": "semantic"}
_NOISE = {"source": 60.0, "prediction": 15.0, "target": 3.0}


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


def judge(folder: Path, server: S3Server, side: int, options: argparse.Namespace) -> str:
    """Judge one image and return a line of the table."""
    for split in ("train", "test"):
        for role in ("source", "target"):
            write_image(folder / "data" / split / role / "image.tif", side, role, options.kind, options.planes)
    write_image(folder / "predicted" / "image.tif", side, "prediction", options.kind, options.planes)
    store = server.store()
    spec = v1.EvaluationSpec(
        method=_METHODS[options.kind],
        dataset_uri=publish_dataset(store, f"large-{side}", folder / "data"),
        prediction_uri=publish_images(store, folder / "predicted"),
        split="test",
        parameters=values_struct({"maps": not options.no_maps}),
    )
    environment = dict(server.environment)
    if options.services is not None:
        units = [options.services / name for name in ("qc", "runtime")]
        environment["PYTHONPATH"] = os.pathsep.join(map(str, [*units, os.environ.get("PYTHONPATH", "")]))
    service = ServiceProcess("qc", environment, folder / "service").start()
    assert service.process is not None
    largest = 0
    begin = time.perf_counter()
    try:
        with grpc.insecure_channel(service.address) as channel:
            jobs = v1.JobServiceStub(channel)
            get = v1.GetJobRequest(job_id=jobs.StartJob(v1.StartJobRequest(evaluation=spec)).job.id)
            while (job := jobs.GetJob(get).job).state not in FINAL_STATES:
                largest = max(largest, *(_peak(each) for each in _family(service.process.pid)))
                time.sleep(0.2)
    finally:
        seconds = time.perf_counter() - begin
        service.stop()
    found = job.error.text
    if job.state == v1.JOB_STATE_SUCCEEDED:
        summary = json.loads(read_published(store, job.outputs[0].uri, SUMMARY_FILE))
        found = ", ".join(f"{name} {value:.4f}" for name, value in summary["headline"].items())
    load = os.getloadavg()[0]
    size = f"{options.planes} x {side} x {side}" if options.planes else f"{side} x {side}"
    return f"| {options.kind} | {size} | {largest / 2**20:.0f} | {seconds:.0f} | {load:.1f} | {found} |"


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
    parser.add_argument("--kind", choices=sorted(_METHODS), required=True)
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
