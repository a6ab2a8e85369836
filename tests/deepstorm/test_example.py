"""The simulated stacks: a dataset with coordinates, whose test stacks show filaments."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parfocal.deepstorm.example import SCENE, simulate_stack, write_dataset
from parfocal.runtime.datasets.folder import check_folder


def test_the_examples_are_stacks_with_coordinates(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    report = check_folder(tmp_path, axes="TYX")
    assert report.kind == "coordinates"
    assert not report.warnings
    assert len(report.images["test", "source"]) == 2


def test_test_stacks_show_structures_and_training_stacks_none() -> None:
    rng = np.random.default_rng(0)
    spread = {}
    for filaments in (False, True):
        stack, located = simulate_stack(rng, 30, filaments=filaments)
        assert len(located.frame) / stack.size > 0.5 * SCENE.density
        counts, *_ = np.histogram2d(located.y, located.x, bins=32, range=[(0, 64), (0, 64)])
        spread[filaments] = counts.var() / counts.mean()
    assert spread[False] < 2 < 4 < spread[True]
