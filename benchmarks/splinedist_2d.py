"""SplineDist 2D beside StarDist 2D at equal training: round nuclei, and simulated objects that are not star-convex.

Run it in the environment of StarDist:

    PYTHONPATH=tests:services/qc .venvs/stardist/bin/python benchmarks/splinedist_2d.py --data FOLDER
    PYTHONPATH=tests:services/qc .venvs/stardist/bin/python benchmarks/splinedist_2d.py --data simulated

FOLDER has {train,test}/{source,target}; `simulated` draws crescents and dumbbells, with noise, into a folder of its
own. Both methods are trained by the code of the worker on a real S3 store, with the same network, patches, steps and
seed. For the test images the script prints F1 at several IoU and, over the pairs found at IoU 0.5, the boundary
distance: the mean distance of the border pixels of each object from the nearest one of its partner, both ways.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from common import options_for, train_and_predict, training_parameters
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects, gaussian_filter

from parfocal.qc.metrics.objects.instances import Counts, overlap, score_instances
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.stardist import SERVICE

METHODS = ("stardist-2d", "splinedist-2d")
LEVELS = (0.5, 0.7, 0.8, 0.9)
_LENGTH = 160


def draw_crescent(radius: float, angle: float, y: NDArray[Any], x: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a disc without a smaller one that reaches into it from the side."""
    row, column = 0.55 * radius * np.cos(angle), 0.55 * radius * np.sin(angle)
    return (y**2 + x**2 <= radius**2) & ((y - row) ** 2 + (x - column) ** 2 > (0.75 * radius) ** 2)


def draw_dumbbell(radius: float, angle: float, y: NDArray[Any], x: NDArray[Any]) -> NDArray[np.bool_]:
    """Return two discs joined by a bar of a third of their width."""
    along, across = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    ball = 0.55 * radius
    discs = (np.abs(along) - radius) ** 2 + across**2 <= ball**2
    return discs | ((np.abs(along) <= radius) & (np.abs(across) <= ball / 3))


def simulate(folder: Path, images: Mapping[str, int], seed: int = 0) -> None:
    """Write images of `_LENGTH` pixels with about 18 objects, blurred and with noise, and their labels."""
    rng = np.random.default_rng(seed)
    grid = np.indices((_LENGTH, _LENGTH), dtype=np.float64)
    for split, count in images.items():
        for number in range(count):
            labels = np.zeros((_LENGTH, _LENGTH), np.uint16)
            brightness = np.zeros(labels.shape)
            for _ in range(120):
                centre = rng.uniform(0, _LENGTH, 2)
                draw = draw_crescent if rng.random() < 0.5 else draw_dumbbell
                inside = draw(rng.uniform(10, 14), rng.uniform(0, 2 * np.pi), grid[0] - centre[0], grid[1] - centre[1])
                if inside.sum() < 40 or labels[inside].any():
                    continue
                labels[inside] = labels.max() + 1
                brightness[inside] = rng.uniform(0.6, 1.0)
            pixels = 200 + 1000 * gaussian_filter(brightness, 0.8) + rng.normal(0, 80, labels.shape)
            name = f"field_{number + 1:02d}.tif"
            for role, image in (("source", pixels.clip(0).astype(np.uint16)), ("target", labels)):
                write_image(folder / split / role / name, Image(image, "YX", None))


def boundary_distances(target: NDArray[Any], prediction: NDArray[Any]) -> list[float]:
    """Return the mean distance in pixels between the borders of each pair found at IoU 0.5."""
    distances = []
    for mine, other, _ in overlap(target, prediction, name="image").match(0.5).pairs:
        masks = [image == label for image, label in ((target, mine), (prediction, other))]
        (window,) = find_objects((masks[0] | masks[1]).astype(np.int32))
        borders = [(mask := np.pad(each[window], 1)) & ~binary_erosion(mask) for each in masks]
        there, back = (distance_transform_edt(~borders[1 - each])[borders[each]].mean() for each in (0, 1))
        distances.append(float(there + back) / 2)
    return distances


def evaluate(method: str, options: argparse.Namespace, data: Path, folder: Path) -> None:
    """Train, predict the test images and print what came out."""
    parameters = training_parameters(options) | {
        "first_filters": options.filters,
        "learning_rate": options.learning_rate,
        "plateau_patience": options.plateau_patience,
    }
    done = train_and_predict(SERVICE, method, data, parameters, folder)
    counts = dict.fromkeys(LEVELS, Counts())
    distances: list[float] = []
    for stem, path in find_images(data / "test" / "target").items():
        target = read_image(path).pixels
        score = score_instances(target, done.predictions[stem], name=stem)
        counts = {level: counts[level] + score.counts[level] for level in LEVELS}
        distances += boundary_distances(target, done.predictions[stem])
    found = counts[0.5]
    quality = ", ".join(f"{counts[level].f1:.3f} at {level:g}" for level in LEVELS)
    print(
        f"{method}: training {done.training.wall:.0f} s ({done.training.cpu:.0f} s of processor time), prediction "
        f"{done.predicting.wall:.0f} s; F1 {quality}; TP {found.tp}, FN {found.fn}, FP {found.fp}; "
        f"boundary distance {np.mean(distances):.3f} px (median {np.median(distances):.3f})",
        flush=True,
    )


def main() -> None:
    """Train both methods on the same data."""
    parser = options_for(__doc__ or "", epochs=12, patch=64, batch=8, patches_per_image=4)
    parser.add_argument("--filters", type=int, default=16, help="filters of the first level of the network")
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--plateau-patience", type=int, default=4)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = options.data
        if str(data) == "simulated":
            data = Path(name) / "data"
            simulate(data, {"train": 40, "test": 10})
        for method in options.methods:
            folder = Path(name) / method
            folder.mkdir()
            evaluate(method, options, data, folder)


if __name__ == "__main__":
    main()
