"""`parfocal methods METHOD --capacity`: measured on this computer, kept, shown, and named before a training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT, Ended, fake_command, search_path

from parfocal.runtime.methods.capacity import Capacity, Point, capacity_of, read_capacity
from parfocal.stack import discover
from parfocal.stack.config import ServiceUnit


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake service counts as installed on this computer."""
    python = ROOT / ".venvs" / "qc" / "bin" / "python"
    unit = ServiceUnit(name="fake", module="fake", python=python, command=fake_command(python))
    monkeypatch.setattr(discover, "discover_services", lambda: {"fake": unit})
    monkeypatch.setenv("PYTHONPATH", search_path(ROOT / "tests"))


@pytest.mark.usefixtures("installed")
def test_capacity_is_measured_kept_shown_and_used(
    run: Callable[..., Ended], environment: dict[str, str], images: Path, dataset: str
) -> None:
    ended = run("methods", "fake-2d", "--capacity", images, "-p", "patch_size=16", "--json")
    assert ended.code == 0, ended.err
    points = [Point.model_validate(point) for point in ended.json["points"]]
    assert [point.batch_size for point in points] == [1, 4, 8], ended.err
    assert {point.patch_shape for point in points} == {(16, 16)}
    assert all(point.memory_gib > 0 and point.seconds_per_step > 0 for point in points)
    folder = Path(environment["PARFOCAL_HOME"]) / "capacity"
    assert Path(ended.json["file"]) == folder / "fake-2d.json"
    assert read_capacity(folder, "fake-2d").points == tuple(points)
    shown = run("methods", "fake-2d")
    assert "Seconds per step" in shown.out
    trained = run("train", "fake-2d", "--dataset", dataset, "--model", "measured", "--no-qc", "-p", "epochs=1")
    assert trained.code == 0, trained.err
    assert "s per step" in trained.err


@pytest.mark.usefixtures("installed")
def test_patches_that_do_not_fit_are_left_out_with_a_warning(run: Callable[..., Ended], images: Path) -> None:
    ended = run("methods", "fake-2d", "--capacity", images, "-p", "patch_size=512", "-p", "batch_size=1")
    assert ended.code == 2
    assert "512" in ended.err


def test_it_says_what_is_missing(run: Callable[..., Ended], images: Path) -> None:
    assert run("methods", "--capacity", images).code == 2
    assert run("methods", "fake-2d", "-p", "batch_size=1").code == 2
    assert run("methods", "fake-2d", "--capacity", images).code == 3, "the fake service is no installed one"


def test_needs_grow_with_pixels_and_never_fall_below_what_was_measured(tmp_path: Path) -> None:
    points = [
        Point(batch_size=batch, patch_shape=(64, 64), seconds_per_step=0.1 * batch, memory_gib=1 + 0.5 * batch)
        for batch in (1, 2, 4)
    ]
    capacity = capacity_of("m", "here", 2, points)
    assert capacity.need(4, (64, 64)).memory_gib == pytest.approx(3.0)
    assert capacity.need(8, (64, 64)).memory_gib == pytest.approx(5.0)
    assert capacity.need(1, (128, 128)).seconds_per_step == pytest.approx(0.4)
    assert capacity.need(1, (8, 8)).memory_gib == 1.5, "what a process needs in any case is part of it"
    one = Capacity.model_validate(json.loads(capacity.model_dump_json()) | {"points": [points[0].model_dump()]})
    assert one.need(100, (64, 64)).memory_gib == 1.5
