"""Simulated stacks to try Deep-STORM with: `python -m parfocal.deepstorm.example FOLDER METHOD`.

Crowded frames of emitters that blink, with the places of all emitters. Those to train on have emitters anywhere; in
those to be judged by they lie on filaments, as labelled structures do. They show that the method works, not how well
it does on anyone's images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parfocal.deepstorm.simulating import Scene
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.images.files import Image, PixelSize, write_image

PIXEL_NM: Final = 100.0
_SEED: Final = 1
_STACKS: Final = {"train": 2, "test": 2}
_FRAMES: Final = {"train": 40, "test": 60}
_SHAPE: Final = (64, 64)
_FILAMENTS: Final = 9
_WIDTH: Final = 0.2
SCENE: Final = Scene(
    psf_sigma=1.1,
    psf_sigma_spread=0.05,
    photons=2000,
    photons_spread=0.2,
    density=0.02,
    density_spread=0.7,
    gain=1.0,
    read_noise=6.0,
    offset=100.0,
)


def simulate_stack(
    rng: np.random.Generator, frames: int, *, filaments: bool
) -> tuple[NDArray[np.uint16], Localisations]:
    """Return frames (T, Y, X) and the emitters in them; `filaments` says where emitters lie."""
    paths = [_filament(rng) for _ in range(_FILAMENTS)] if filaments else []
    stack, tables = [], []
    for number in range(frames):
        places = None
        if filaments:
            count = int(rng.poisson(SCENE.density * _SHAPE[0] * _SHAPE[1]))
            points = np.concatenate(paths)
            places = points[rng.integers(len(points), size=count)] + rng.normal(0, _WIDTH, (count, 2))
        pixels, located = SCENE.frame(rng, _SHAPE, places)
        stack.append(pixels)
        tables.append((np.full(len(located.y), number), located.y, located.x, located.intensity))
    frame, y, x, photons = (np.concatenate(column) for column in zip(*tables, strict=True))
    return np.stack(stack), Localisations(frame, y, x, photons)


def write_dataset(folder: Path) -> None:
    """Write ``{train,test}/source/stack_N.tif``, 64 x 64 pixels of 100 nm, and their emitters in ``target``."""
    rng = np.random.default_rng(_SEED)
    size = PixelSize(PIXEL_NM / 1e3, PIXEL_NM / 1e3)
    for split, count in _STACKS.items():
        for number in range(1, count + 1):
            stack, located = simulate_stack(rng, _FRAMES[split], filaments=split == "test")
            for role in ("source", "target"):
                (folder / split / role).mkdir(parents=True, exist_ok=True)
            write_image(folder / split / "source" / f"stack_{number}.tif", Image(stack, "TYX", size))
            columns = (located.frame + 1, located.x * PIXEL_NM, located.y * PIXEL_NM, located.intensity)
            np.savetxt(
                folder / split / "target" / f"stack_{number}.csv",
                np.column_stack(columns),
                fmt=["%d", "%.2f", "%.2f", "%.1f"],
                delimiter=",",
                header='"frame","x [nm]","y [nm]","intensity [photon]"',
                comments="",
            )


def _filament(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return points (N, 2) along a smooth line through the field, a tenth of a pixel apart."""
    steps = round(10 * 1.4 * max(_SHAPE))
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.015, steps))
    path = np.cumsum(0.1 * np.column_stack([np.sin(angles), np.cos(angles)]), axis=0)
    path += rng.uniform(0.2, 0.8, 2) * _SHAPE - path[steps // 2]
    return path[((path >= 0) & (path < _SHAPE)).all(axis=1)]


if __name__ == "__main__":
    write_dataset(Path(sys.argv[1]))
