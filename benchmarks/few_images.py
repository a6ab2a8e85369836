"""The gain by augmentation with few training images: StarDist, DenoiSeg or CARE, on some of FOLDER's images.

Run it in the environment of the method:

    PYTHONPATH=tests:services/qc .venvs/stardist/bin/python benchmarks/few_images.py stardist-2d --data FOLDER

FOLDER has {train,test}/{source,target}. For each number of images and each seed, which also draws the images, three
models are trained with the same number of steps: without augmentation, with exact changes (flips and quarter turns),
and with warps and intensities besides; `--ways` leaves some of them out. All are scored on all test images: F1 at IoU
0.5 of objects, or PSNR of images after the best linear fit of intensities. The gain is the mean over seeds and test
images of the difference to the first of the ways; its interval (95 %) is a bootstrap over seeds and test images
together.

Where several images show one field of view, such as its channels, `--field` names the part of the file names that tells
the fields apart: whole fields are then drawn, and counted, and the bootstrap draws whole fields of the test images.

DenoiSeg is also given `--unlabelled` further images, drawn by the same seed, without their labels. It has no warps and
intensities: `--ways "flips and turns"` compares it with StarDist on the same annotated images.

Scores are written as they come. A run with the same settings and the same `--out` goes on where the one before was
stopped, or adds numbers of images and seeds to it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from common import train_and_predict
from matplotlib.figure import Figure
from numpy.typing import NDArray
from watched import write_table

from parfocal import v1
from parfocal.qc.metrics.objects.instances import score_instances
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.methods.service import Service, load_service

SCORES = "scores.csv"
WAYS = ("nothing", "flips and turns", "warps and intensities")
NOTHING = {"augment_flip": False, "augment_rotate": False}
EXACT = {"augment_flip": True, "augment_rotate": True}
WARPS = {**EXACT, "augment_angle": 180, "augment_zoom": 0.2, "augment_shear": 5, "augment_elastic": 4}
INTENSITIES = {"augment_scale": 1.0, "augment_offset": 0.2, "augment_noise": 0.02}
STILL = dict.fromkeys(INTENSITIES, 0)


def arms(service: Service, method: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of each way to train, with intensities where the method has them."""
    known = service.method(method).work_of(v1.JOB_KIND_TRAINING).parameters.model_fields
    still, varied = (values if "augment_scale" in known else {} for values in (STILL, INTENSITIES))
    return dict(zip(WAYS, ({**NOTHING, **still}, {**EXACT, **still}, {**WARPS, **varied}), strict=True))


def fields_of(stems: Iterable[str], pattern: str) -> dict[str, list[str]]:
    """Return the stems of each field, whose name is the first group of the pattern (or, without one, all it finds)."""
    fields: dict[str, list[str]] = {}
    for stem in sorted(stems):
        match = re.search(pattern, stem)
        if match is None:
            raise SystemExit(f"--field {pattern}: not found in {stem}")
        fields.setdefault(match[1] if match.re.groups else match[0], []).append(stem)
    return fields


def subset(
    data: Path, fields: Mapping[str, Sequence[str]], count: int, seed: int, folder: Path, unlabelled: int = 0
) -> int:
    """Link the images of `count` fields, drawn by the seed, and all test images; return the number of the first.

    The images of `unlabelled` further fields are drawn as well, and get label images that are 0 everywhere.
    """
    if count + unlabelled > len(fields):
        raise SystemExit(f"{count + unlabelled} images are wanted: there are only {len(fields)}")
    rng = np.random.default_rng(seed)
    drawn = rng.choice(sorted(fields), count, replace=False).tolist()
    others = rng.choice(sorted(set(fields) - set(drawn)), unlabelled, replace=False).tolist()
    empty = {stem for field in others for stem in fields[field]}
    chosen = {stem for field in drawn for stem in fields[field]} | empty
    for split in ("train", "test"):
        for role in ("source", "target"):
            place = folder / split / role
            place.mkdir(parents=True)
            for stem, path in find_images(data / split / role).items():
                if split == "train" and role == "target" and stem in empty:
                    image = read_image(path)
                    write_image(place / f"{stem}.tif", Image(np.zeros_like(image.pixels), image.axes))
                elif split == "test" or stem in chosen:
                    (place / path.name).symlink_to(path.resolve())
    return len(chosen)


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


def interval(
    differences: NDArray[np.float64], fields: Sequence[Sequence[int]], draws: int = 5000
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of (seeds, images); seeds and fields are drawn anew."""
    rng = np.random.default_rng(0)
    places = [np.array(field) for field in fields]
    means = []
    for _ in range(draws):
        seeds = rng.integers(len(differences), size=len(differences))
        images = np.concatenate([places[field] for field in rng.integers(len(places), size=len(places))])
        means.append(differences[np.ix_(seeds, images)].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """Train all models, print the table, and write it with a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("stardist-2d", "denoiseg-2d", "care-2d"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--images", type=int, nargs="+", default=[5, 15], help="training images, or fields with --field"
    )
    parser.add_argument("--field", default=".+", help="regular expression that finds the field of an image in its name")
    parser.add_argument("--unlabelled", type=int, default=0, help="further images without labels, for DenoiSeg")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="how to augment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each draws images and weights anew")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--steps", type=int, default=20, help="training steps of an epoch, whatever the number of images"
    )
    parser.add_argument(
        "--parameters", type=json.loads, default={}, help="further parameters of the trainings, as JSON"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no training later than this")
    parser.add_argument("--out", type=Path, default=Path("few_images"))
    options = parser.parse_args()
    family = options.method.partition("-")[0]
    service = load_service(f"parfocal.{'n2v' if family == 'denoiseg' else family}")
    task, unit = ("images", "PSNR [dB]") if family == "care" else ("objects", "F1")
    ways = {way: values for way, values in arms(service, options.method).items() if way in options.ways}
    fields = fields_of(find_images(options.data / "train" / "source"), options.field)
    table = earlier_scores(options)
    stop = time.monotonic() + 60 * options.minutes
    known = {(row["images"], row["seed"], row["augmentation"]) for row in table}
    for count, seed, arm in itertools.product(options.images, options.seeds, ways):
        if (count, seed, arm) in known:
            continue
        if time.monotonic() > stop:
            raise SystemExit("The time is up. Run the same command again to go on.")
        with tempfile.TemporaryDirectory() as name:
            data = Path(name) / "data"
            number = subset(options.data, fields, count, seed, data, options.unlabelled)
            batch = int(options.parameters.get("batch_size", 4))
            values = {
                "epochs": options.epochs,
                "batch_size": batch,
                # A tenth of the images validates, at least one.
                "patches_per_image": max(1, options.steps * batch // max(1, number - max(1, round(number / 10)))),
                "seed": seed,
                **options.parameters,
                **ways[arm],
            }
            made = train_and_predict(service, options.method, data, values, Path(name))
            found = scores(task, made.predictions, data / "test" / "target")
        table += [
            {"images": count, "seed": seed, "augmentation": arm, "image": stem, "score": score}
            for stem, score in found.items()
        ]
        write_table(options.out / SCORES, table)
        mean = np.mean(list(found.values()))
        noun = "images" if len(fields) == sum(map(len, fields.values())) else "fields"
        print(f"{count} {noun}, seed {seed}, {arm}: {unit} {mean:.3f}, {made.training.wall:.0f} s", flush=True)
    summarise(table, options, unit)


def earlier_scores(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the scores of the runs before, which must have had the same settings, and take these down."""
    names = ("method", "field", "unlabelled", "epochs", "steps", "parameters")
    settings = {name: getattr(options, name) for name in names}
    settings["data"] = str(options.data.resolve())
    options.out.mkdir(parents=True, exist_ok=True)
    noted = options.out / "settings.json"
    if noted.is_file() and json.loads(noted.read_text()) != settings:
        raise SystemExit(f"{noted}: the scores there come from other settings. Choose another --out.")
    noted.write_text(json.dumps(settings, indent=2) + "\n")
    if not (options.out / SCORES).is_file():
        return []
    with (options.out / SCORES).open(newline="") as file:
        return [
            {**row, "images": int(row["images"]), "seed": int(row["seed"]), "score": float(row["score"])}
            for row in csv.DictReader(file)
        ]


def summarise(table: list[dict[str, Any]], options: argparse.Namespace, unit: str) -> None:
    """Print means and gains with their intervals, and draw them."""
    names = [way for way in WAYS if way in options.ways]
    stems = sorted({row["image"] for row in table})
    score = {(row["images"], row["seed"], row["augmentation"], row["image"]): row["score"] for row in table}
    fields = [[stems.index(stem) for stem in field] for field in fields_of(stems, options.field).values()]
    noun = "images" if len(fields) == len(stems) else "fields"
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    of = {
        (count, name): np.array([[score[count, seed, name, stem] for stem in stems] for seed in options.seeds])
        for count in options.images
        for name in names
    }
    for place, arm in enumerate(names):
        means, lower, upper = [], [], []
        for count in options.images:
            low, high = interval(of[count, arm], fields)
            means.append(of[count, arm].mean())
            lower.append(means[-1] - low)
            upper.append(high - means[-1])
            line = f"{count:3d} {noun}  {arm:22s} {unit} {means[-1]:.3f} [{low:.3f}, {high:.3f}]"
            if place:
                gain = of[count, arm] - of[count, names[0]]
                least, most = interval(gain, fields)
                line += f"  gain {gain.mean():+.3f} [{least:+.3f}, {most:+.3f}]"
            print(line)
        where = np.arange(len(options.images)) + (place - (len(names) - 1) / 2) * 0.15
        axes.errorbar(where, means, [lower, upper], fmt="o", capsize=3, label=arm)
    axes.set_xticks(range(len(options.images)), [f"{count} training {noun}" for count in options.images])
    axes.set_xlim(-0.5, len(options.images) - 0.5)
    axes.set_ylabel(f"{unit}: mean and 95 % interval")
    axes.set_title(f"{options.method}: augmentation with few training images", fontsize=11)
    axes.legend(fontsize=8, title=f"seeds: {len(options.seeds)}, test images: {len(stems)}")
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(options.out / "few_images.png", dpi=140)
    print(f"scores and figure: {options.out}")


if __name__ == "__main__":
    main()
