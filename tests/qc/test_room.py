"""Images that the memory does not hold are refused before they are read; label images are compared part by part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import mentions

from parfocal.qc.evaluation import room
from parfocal.qc.evaluation.room import workers_that_fit
from parfocal.qc.metrics.objects import instances
from parfocal.qc.metrics.objects.instances import overlap
from parfocal.runtime.errors import InvalidInputError, OutOfMemoryError
from parfocal.runtime.jobs import memory


@dataclass(frozen=True)
class Shaped:
    label: str
    shape: tuple[int, ...]
    role: str = ""
    source_sha256: str = ""


IMAGES = [Shaped("small", (20, 30)), Shaped("large", (100, 200))]


def test_an_image_that_does_not_fit_is_named_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available_memory", lambda: 1_000_000)
    with pytest.raises(OutOfMemoryError) as refused:
        workers_that_fit(IMAGES, 90)
    side = math.isqrt(1_000_000 // 90 // 100) * 10
    assert mentions(refused.value.message, "large", "100 x 200", f"{side} x {side}")
    assert 90 * side**2 <= 1_000_000


def test_as_many_images_are_scored_at_once_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "workers_for", lambda _: 8)
    monkeypatch.setattr(room, "available_memory", lambda: 2 * 90 * 20_000 + 5)
    assert workers_that_fit(IMAGES, 90) == 2
    assert workers_that_fit(IMAGES, 0) == 8
    monkeypatch.setattr(room, "available_memory", lambda: None)
    assert workers_that_fit(IMAGES, 90) == 8


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    free = memory.available_memory()
    assert free is None or free > 2**20
    for name, text in (("max", "5000000"), ("current", "4000000"), ("stat", "anon 3\ninactive_file 500000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert free is None or memory.available_memory() == 1_500_000
    (tmp_path / "memory.max").write_text("max")
    assert free is None or (memory.available_memory() or 0) > 2**20


@pytest.mark.parametrize("shape", [(70, 60), (4, 30, 30)])
def test_overlaps_are_those_of_the_images_in_one_piece(shape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    target, prediction = (
        np.kron(rng.integers(-1, 12, [-(-length // 5) for length in shape]), np.ones((5,) * len(shape), int))[
            tuple(map(slice, shape))
        ].astype(dtype)
        for dtype in (np.int32, np.float32)
    )
    whole = overlap(target, prediction, name="a")
    monkeypatch.setattr(instances, "_PIXELS_AT_ONCE", 64)
    parts = overlap(target, prediction, name="a")
    for name in ("target_ids", "prediction_ids", "target_areas", "prediction_areas", "rows", "columns", "shared"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert parts.foreground_iou == whole.foreground_iou
    counted = [np.count_nonzero((target == 3) & (prediction == each)) for each in range(1, 12)]
    mine = parts.target_ids[parts.rows] == 3
    found = dict(zip(parts.prediction_ids[parts.columns[mine]].tolist(), parts.shared[mine].tolist(), strict=True))
    assert [found.get(label, 0) for label in range(1, 12)] == counted
    with pytest.raises(InvalidInputError):
        overlap(target, prediction + np.float32(0.5), name="a")
