"""What trainings need is measured by real steps of the real method, each time in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import filament_pair, write_pairs

from parfocal.fnet import FNET_2D
from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.methods.capacity import Point, capacity_of, needed_memory, write_capacity
from parfocal.runtime.store.manifests import DATASET_MANIFEST
from parfocal.runtime.store.publish import file_entry

SMALL = {"patch_size": 16, "batch_size": 2, "first_filters": 4, "patches_per_image": 4}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images as they would be published, and their manifest."""
    folder, pairs = tmp_path_factory.mktemp("dataset"), tmp_path_factory.mktemp("pairs")
    report = check_folder(write_pairs(pairs, filament_pair, (160, 192)))
    files, entries = [], []
    for item in report.items():
        path = folder / item.file
        path.parent.mkdir(parents=True, exist_ok=True)
        entries.append(item.write(path))
        files.append(file_entry(path, item.file))
    manifest = report.manifest(files, entries, project="", dataset="pairs", version=0)
    (folder / DATASET_MANIFEST).write_bytes(manifest.to_bytes())
    return folder


def measured(dataset: Path, **values: Any) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "parfocal.runtime.training.capacity", "parfocal.fnet", "fnet-2d"]
    command += [str(dataset), json.dumps(SMALL | values), "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_more_pixels_need_more_and_a_training_asks_for_it(dataset: Path, tmp_path: Path) -> None:
    points = []
    for values in ({}, {"batch_size": 8, "patch_size": 128}):
        code, told = measured(dataset, **values)
        assert code == 0, told
        points.append(Point.model_validate(told["point"]))
    small, large = points
    assert (small.patch_shape, large.patch_shape) == ((16, 16), (128, 128))
    assert 0.05 < small.memory_gib < large.memory_gib < 8
    assert small.seconds_per_step > 0
    assert large.seconds_per_step > 0
    write_capacity(tmp_path, capacity_of("fnet-2d", "here", 1, points))
    asked = needed_memory(tmp_path, FNET_2D, SMALL | {"batch_size": 8, "patch_size": 128})
    assert asked is not None
    assert large.memory_gib * 1.2 < asked < large.memory_gib * 1.3 + 0.5
    assert needed_memory(tmp_path / "none", FNET_2D, SMALL) is None


def test_what_cannot_be_measured_is_said(dataset: Path) -> None:
    code, told = measured(dataset, patch_size=4096)
    assert code == 1
    assert "patch" in told["error"]
