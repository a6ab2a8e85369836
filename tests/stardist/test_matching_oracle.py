"""Parfocal's instance metrics against stardist's own, on the same label images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def instances(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The metrics of the QC service, which this environment has no package of."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "services" / "qc"))
    from parfocal.qc.metrics.objects import instances

    return instances


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("level", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_agrees_with_stardist(instances: Any, seed: int, level: float) -> None:
    from stardist.matching import matching

    target, prediction = images(seed)
    theirs = matching(target, prediction, thresh=level)
    ours = instances.score_instances(target, prediction, name="a", levels=[level]).counts[level]
    assert (ours.tp, ours.fp, ours.fn) == (theirs.tp, theirs.fp, theirs.fn)
    for name in ("precision", "recall", "f1", "accuracy"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name)), name
    # Below 0.5, where several assignments find as many, stardist's also looks at pairs that do not count.
    exact = level >= 0.5
    for mine, other in (
        (ours.mean_matched_iou, theirs.mean_matched_score),
        (ours.panoptic_quality, theirs.panoptic_quality),
    ):
        assert mine == pytest.approx(other) if exact else mine > other - 1e-6


def images(seed: int) -> tuple[Any, Any]:
    """Return discs of different sizes, and the same moved, grown and partly left out."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((96, 96))
    target, prediction = np.zeros((96, 96), np.int32), np.zeros((96, 96), np.int32)
    for number in range(1, 25):
        row, column, radius = rng.integers(0, 96), rng.integers(0, 96), rng.integers(4, 12)
        target[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = number
        if rng.random() < 0.85:
            moved = row + rng.integers(-4, 5), column + rng.integers(-4, 5)
            size = radius + rng.integers(-2, 3)
            prediction[(y - moved[0]) ** 2 + (x - moved[1]) ** 2 <= size**2] = 30 - number
    return target, prediction
