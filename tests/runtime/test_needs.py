"""Which images a method takes, and what to do about the others."""

from __future__ import annotations

import pytest

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.needs import ImageNeeds

PLANES, VOLUMES = ImageNeeds("Planes", "YX", "SC"), ImageNeeds("Volumes", "ZYX", "C")
FRAMES = ImageNeeds("Frames", "TYX")


@pytest.mark.parametrize(
    ("needs", "axes", "shape", "channels"),
    [
        (PLANES, "YX", (8, 9), 1),
        (PLANES, "ZYX", (3, 8, 9), 1),
        (PLANES, "TZYX", (2, 3, 8, 9), 1),
        (PLANES, "CYX", (1, 8, 9), 1),
        (PLANES, "YXS", (8, 9, 3), 3),
        (PLANES, "TCYX", (4, 2, 8, 9), 2),
        (VOLUMES, "ZYX", (3, 8, 9), 1),
        (VOLUMES, "TZYX", (2, 3, 8, 9), 1),
        (FRAMES, "TYX", (4, 8, 9), 1),
        (FRAMES, "ZYX", (4, 8, 9), 1),
    ],
)
def test_images_and_stacks_of_them_are_taken(
    needs: ImageNeeds, axes: str, shape: tuple[int, ...], channels: int
) -> None:
    needs.check(axes, shape, channels)


@pytest.mark.parametrize(
    ("needs", "axes", "shape", "channels", "cure"),
    [
        (PLANES, "YXS", (8, 9, 3), 1, "Convert"),
        (PLANES, "CYX", (2, 8, 9), 1, "--channel 1"),
        (PLANES, "YX", (8, 9), 3, "trained on"),
        (PLANES, "CYX", (2, 8, 9), 3, "trained on"),
        (VOLUMES, "YX", (8, 9), 1, "along Z"),
        (VOLUMES, "TYX", (2, 8, 9), 1, "along Z"),
        (VOLUMES, "CYX", (2, 8, 9), 1, "--channel 1"),
        (FRAMES, "YX", (8, 9), 1, "recording"),
        (FRAMES, "TCYX", (4, 2, 8, 9), 1, "--channel 1"),
    ],
)
def test_others_are_refused_with_a_cure(
    needs: ImageNeeds, axes: str, shape: tuple[int, ...], channels: int, cure: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"axes {axes} .*{cure}"):
        needs.check(axes, shape, channels)


def test_planes_are_frames_only_where_there_are_none() -> None:
    assert [FRAMES.taken(axes) for axes in ("ZYX", "TYX", "TZYX")] == ["TYX", "TYX", "TZYX"]
    assert VOLUMES.taken("ZYX") == PLANES.taken("ZYX") == "ZYX"
