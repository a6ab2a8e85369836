"""What a training of each method with its usual parameters needs: memory and seconds of a step, for docs/operating.md.

    PYTHONPATH=tests .venvs/care/bin/python benchmarks/capacity.py care
    PYTHONPATH=tests .venvs/stardist/bin/python benchmarks/capacity.py stardist --method splinedist-2d

Each method runs in a process of its own, by the module behind `parfocal methods METHOD --capacity`, on made-up images
of its kind of data: five training images of 512 x 512 pixels, volumes of 32 x 160 x 160, stacks of 20 frames of
128 x 128. Memory hardly depends on other work beside it; seconds do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import example_data
from support import write_pairs

from parfocal import v1
from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.methods.service import Method, load_service
from parfocal.runtime.store.manifests import DATASET_MANIFEST
from parfocal.runtime.store.publish import file_entry

_IMAGE, _VOLUME, _STACK = (512, 512), (32, 160, 160), (20, 128, 128)


def main() -> None:
    """Measure the methods of a service and print a row of a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("service")
    parser.add_argument("--method", action="append", default=[], help="only this one; repeat for more")
    parser.add_argument("--seconds", type=float, default=600, help="longest time of a method (600)")
    options = parser.parse_args()
    example_data.SHAPE, example_data.VOLUME, example_data.STACK = _IMAGE, _VOLUME, _STACK
    module = f"parfocal.{options.service}"
    for method in load_service(module).methods:
        if v1.JOB_KIND_TRAINING not in method.work or (options.method and method.name not in options.method):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = _dataset(Path(scratch), method)
            command = [sys.executable, "-m", "parfocal.runtime.training.capacity", module, method.name, str(folder)]
            command += ["{}", "--steps", "2"]
            limit = options.seconds
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
            except subprocess.TimeoutExpired:
                print(f"| {method.name} | not done within {options.seconds:g} s | | | |", flush=True)
                continue
        said = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"error": done.stderr[-300:]}
        if "point" not in said:
            print(f"| {method.name} | {said['error']} | | | |", flush=True)
            continue
        point = said["point"]
        patch = " x ".join(map(str, point["patch_shape"]))
        numbers = f"{point['seconds_per_step']:.2g} s | {point['memory_gib']:.1f} GiB | load {os.getloadavg()[0]:.0f}"
        print(f"| {method.name} | {point['batch_size']} | {patch} | {numbers} |", flush=True)


def _dataset(scratch: Path, method: Method) -> Path:
    """Write a dataset for a method as it would be published; return its folder."""
    images, folder = scratch / "images", scratch / "dataset"
    target, axes = method.target, method.axes
    kind = example_data.KINDS.get(target, "")
    if axes == "TYX":
        kind = "coordinates"
    if kind and axes != "ZYX":
        example_data.write_kind(images, kind, axes if kind == "sources" else "YX")
    else:
        labels = target in {v1.TARGET_KIND_LABELS, v1.TARGET_KIND_CLASSES}
        pair, _ = example_data.PAIRS[axes, labels]
        write_pairs(images, pair, _VOLUME if axes == "ZYX" else _IMAGE)
        kind = ""
    report = check_folder(images, kind=kind, axes=axes if kind == "sources" else "")
    files, entries = [], []
    for item in report.items():
        path = folder / item.file
        path.parent.mkdir(parents=True, exist_ok=True)
        entries.append(item.write(path))
        files.append(file_entry(path, item.file))
    manifest = report.manifest(files, entries, project="", dataset="capacity", version=0)
    (folder / DATASET_MANIFEST).write_bytes(manifest.to_bytes())
    return folder


if __name__ == "__main__":
    main()
