"""What augmentation gives when there are few training images: StarDist or CARE, trained on some of FOLDER's images.

Run it in the environment of the method:

    PYTHONPATH=tests:services/qc .venvs/stardist/bin/python benchmarks/few_images.py stardist-2d --data FOLDER


FOLDER has {train,test}/{source,target}. For each number of images and each seed, which also draws the images, three
models are trained with the same number of steps: without augmentation, with exact changes (flips and quarter turns),
and with warps and intensities besides. All are scored on all test images: F1 at IoU 0.5 of objects, or PSNR of images
after the best linear fit of intensities. The gain is the mean over seeds and test images of the difference to the model
without augmentation; its interval (95 %) is a bootstrap over seeds and test images together.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from common import train_and_predict
from matplotlib.figure import Figure
from numpy.typing import NDArray

from parfocal import v1
from parfocal.qc.metrics.objects.instances import score_instances
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import read_image
from parfocal.runtime.methods.service import Service, load_service

NOTHING = {"augment_flip": False, "augment_rotate": False}
EXACT = {"augment_flip": True, "augment_rotate": True}
WARPS = {**EXACT, "augment_angle": 180, "augment_zoom": 0.2, "augment_shear": 5, "augment_elastic": 4}
INTENSITIES = {"augment_scale": 1.0, "augment_offset": 0.2, "augment_noise": 0.02}
STILL = dict.fromkeys(INTENSITIES, 0)


def arms(service: Service, method: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of each way to train, with intensities where the method has them."""
    known = service.method(method).work_of(v1.JOB_KIND_TRAINING).parameters.model_fields
    still, varied = (values if "augment_scale" in known else {} for values in (STILL, INTENSITIES))
    return {
        "nothing": {**NOTHING, **still},
        "flips and turns": {**EXACT, **still},
        "warps and intensities": {**WARPS, **varied},
    }


def subset(data: Path, count: int, seed: int, folder: Path) -> Path:
    """Return a folder with `count` of the training images, drawn by the seed, and all test images, as links."""
    stems = sorted(find_images(data / "train" / "source"))
    chosen = set(np.random.default_rng(seed).choice(stems, min(count, len(stems)), replace=False).tolist())
    for split in ("train", "test"):
        for role in ("source", "target"):
            place = folder / split / role
            place.mkdir(parents=True)
            for stem, path in find_images(data / split / role).items():
                if split == "test" or stem in chosen:
                    (place / path.name).symlink_to(path.resolve())
    return folder


def scores(task: str, predictions: Mapping[str, NDArray[Any]], targets: Path) -> dict[str, float]:
    """Return the score of each test image."""
    found = {}
    for stem, path in find_images(targets).items():
        target, prediction = read_image(path).pixels, predictions[stem]
        if task == "objects":
            found[stem] = score_instances(target, prediction, name=stem).counts[0.5].f1
        else:
            values = prediction.astype(np.float64)
            slope, offset = np.polyfit(values.ravel(), target.astype(np.float64).ravel(), 1)
            error = np.mean((slope * values + offset - target) ** 2)
            low, high = np.percentile(target, [0.1, 99.9])
            found[stem] = float(10 * np.log10((high - low) ** 2 / error))
    return found


def interval(differences: NDArray[np.float64], draws: int = 5000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of (seeds, images), which are drawn anew both."""
    rng = np.random.default_rng(0)
    seeds, images = differences.shape
    means = [
        differences[rng.integers(seeds, size=seeds)][:, rng.integers(images, size=images)].mean() for _ in range(draws)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """Train all models, print the table, and write it with a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("stardist-2d", "care-2d"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[5, 15])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--steps", type=int, default=20, help="training steps of an epoch, whatever the number of images"
    )
    parser.add_argument(
        "--parameters", type=json.loads, default={}, help="further parameters of the trainings, as JSON"
    )
    parser.add_argument("--out", type=Path, default=Path("few_images"))
    options = parser.parse_args()
    service = load_service(f"parfocal.{options.method.partition('-')[0]}")
    task, unit = ("objects", "F1") if options.method.startswith("stardist") else ("images", "PSNR [dB]")
    options.out.mkdir(parents=True, exist_ok=True)
    table: list[dict[str, Any]] = []
    for count in options.images:
        for seed in range(options.seeds):
            for arm, augment in arms(service, options.method).items():
                with tempfile.TemporaryDirectory() as name:
                    data = subset(options.data, count, seed, Path(name) / "data")
                    batch = int(options.parameters.get("batch_size", 4))
                    values = {
                        "epochs": options.epochs,
                        "batch_size": batch,
                        # At least one image validates.
                        "patches_per_image": max(1, options.steps * batch // max(1, count - max(1, count // 10))),
                        "seed": seed,
                        **options.parameters,
                        **augment,
                    }
                    made = train_and_predict(service, options.method, data, values, Path(name))
                    for stem, score in scores(task, made.predictions, data / "test" / "target").items():
                        table.append(
                            {"images": count, "seed": seed, "augmentation": arm, "image": stem, "score": score}
                        )
                    mean = np.mean([row["score"] for row in table[-len(made.predictions) :]])
                    print(
                        f"{count} images, seed {seed}, {arm}: {unit} {mean:.3f}, {made.training.wall:.0f} s", flush=True
                    )
    with (options.out / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    summarise(table, options, unit)


def summarise(table: list[dict[str, Any]], options: argparse.Namespace, unit: str) -> None:
    """Print means and gains with their intervals, and draw them."""
    names = list(dict.fromkeys(row["augmentation"] for row in table))
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for place, arm in enumerate(names):
        means, lower, upper = [], [], []
        for count in options.images:
            of = {
                name: np.array(
                    [
                        [
                            row["score"]
                            for row in table
                            if (row["images"], row["seed"], row["augmentation"]) == (count, seed, name)
                        ]
                        for seed in range(options.seeds)
                    ]
                )
                for name in names
            }
            low, high = interval(of[arm])
            means.append(of[arm].mean())
            lower.append(means[-1] - low)
            upper.append(high - means[-1])
            gain = of[arm] - of[names[0]]
            least, most = interval(gain) if place else (0.0, 0.0)
            print(
                f"{count:3d} images  {arm:22s} {unit} {means[-1]:.3f}",
                f"gain {gain.mean():+.3f} [{least:+.3f}, {most:+.3f}]",
                sep="  ",
            )
        where = np.arange(len(options.images)) + (place - 1) * 0.22
        axes.bar(where, means, 0.2, yerr=[lower, upper], capsize=3, label=arm)
    axes.set_xticks(range(len(options.images)), [f"{count} images" for count in options.images])
    axes.set_ylabel(f"{unit}, mean over test images and {options.seeds} seeds")
    axes.set_title(f"{options.method}: what augmentation gives with few training images")
    axes.legend(fontsize=8)
    low = min(bar.get_height() for bar in axes.patches)
    axes.set_ylim(bottom=max(0, low - 0.35 * abs(low)))
    figure.savefig(options.out / "few_images.png", dpi=140)
    print(f"scores and figure: {options.out}")


if __name__ == "__main__":
    main()
