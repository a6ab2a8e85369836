"""The simulated cells: a dataset that is told to be one of classes, and that no threshold solves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from parfocal.runtime.datasets.folder import check_folder
from parfocal.unet.example import simulate_cells, write_dataset


@pytest.mark.parametrize(("method", "axes"), [("unet-2d", "YX"), ("unet-3d", "ZYX")])
def test_the_examples_are_masks(method: str, axes: str, tmp_path: Path) -> None:
    write_dataset(tmp_path, method)
    report = check_folder(tmp_path, axes=axes)
    assert (report.kind, report.class_values) == ("classes", (0, 255))
    assert not report.warnings
    assert len(report.images["test", "target"]) == 4


def test_cells_are_apart_and_no_threshold_finds_them() -> None:
    pixels, mask = simulate_cells(np.random.default_rng(0), (192, 192))
    cells = mask > 0
    assert ndimage.label(cells)[1] > 30
    ious = [(cells & (pixels > level)).sum() / (cells | (pixels > level)).sum() for level in np.unique(pixels)]
    assert 0.5 < cells.mean() < 0.9
    assert max(ious) < cells.mean() + 0.03  # all of the image is the best guess
