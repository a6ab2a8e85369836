"""What augmentation gives a detection trained on 30 images: YOLOv2 with and without it, for equally many steps.

Run it in the environment of yolo:

    PYTHONPATH=tests:services/qc .venvs/yolo/bin/python benchmarks/detection_augmentation.py --data FOLDER

FOLDER is as for object_detection.py, whose options this has as well. For each seed, which also draws the images, two
models are trained on the same images from the same weights: without augmentation, and with flips, quarter turns, zoom,
brightness, offset and noise as the method has them by default. Patches are cut at random places in both. Weights are
those of the best mAP on the images that validate. Scores are average precisions on all test images, means over classes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import local_store
from matplotlib.figure import Figure
from object_detection import LEVELS, add_options, detect, parameters, prepare, scored
from support import publish_kind
from watched import Trained, train, write_table

from parfocal.runtime.datasets.pairs import find_images
from parfocal.yolo import SERVICE

NOTHING = {"augment_flip": False, "augment_rotate": False, "augment_zoom": 0}
STILL = {"augment_scale": 0, "augment_offset": 0, "augment_noise": 0}
ARMS: dict[str, dict[str, Any]] = {"without": {**NOTHING, **STILL}, "with augmentation": {}}


def main() -> None:
    """Train all models, print the table, and write it with a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "detection_augmentation")
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on")
    options = parser.parse_args()
    known = len(find_images(options.data / "train" / "images"))
    curves: dict[str, list[Trained]] = {arm: [] for arm in ARMS}
    table: list[dict[str, Any]] = []
    for seed in range(options.seed, options.seed + options.seeds):
        chosen = np.random.default_rng(seed).choice(known, min(options.images, known), replace=False)
        for arm, augment in ARMS.items():
            values = parameters(options) | {"epochs": options.epochs, "map_every": 5, "seed": seed} | augment
            print(f"seed {seed}, {arm}: {options.method}, images reduced by {options.shrink}: {values}", flush=True)
            with tempfile.TemporaryDirectory() as name, local_store(Path(name)) as store:
                test = prepare(options.data, Path(name) / "data", options.shrink, sorted(chosen))
                dataset = publish_kind(store, "benchmark", Path(name) / "data", "boxes", "YXS")
                done = train(SERVICE, store, options.method, dataset, values, Path(name), look=lambda *_: {})
                found = detect(store, done.uri, dataset, test.names, Path(name))
            curves[arm].append(done)
            row = {"seed": seed, "augmentation": arm, **test.precisions(found), "minutes": done.rows[-1]["minutes"]}
            table.append(row)
            print(*(f"{key} {value:.3f}" for key, value in row.items() if key.startswith(("AP", "mAP"))), flush=True)
            write_table(options.out / f"curve-{len(table)}.csv", done.rows)
    write_table(options.out / "scores.csv", table)
    for level in LEVELS:
        means = {arm: [row[f"mAP{level:g}"] for row in table if row["augmentation"] == arm] for arm in ARMS}
        gain = np.subtract(*reversed(list(means.values())))
        print(f"mAP@{level:g}:", *(f"{arm} {np.mean(values):.3f}" for arm, values in means.items()), end="  ")
        print(f"gain {gain.mean():+.3f}" + (f" (from {gain.min():+.3f} to {gain.max():+.3f})" if len(gain) > 1 else ""))
    figure(curves, table, options.images).savefig(options.out / "detection_augmentation.png", dpi=140)
    print(f"table and figure: {options.out}")


def figure(curves: dict[str, list[Trained]], table: list[dict[str, Any]], images: int) -> Figure:
    """Return losses and mAP on validation images over epochs, and the mAP on test images."""
    result = Figure(figsize=(12, 4), layout="constrained")
    losses, validation, test = result.subplots(1, 3)
    for number, (arm, trained) in enumerate(curves.items()):
        for done in trained:
            epochs = [row["epoch"] for row in done.rows]
            first = done is trained[0]
            for key, style in (("loss", "-"), ("val_loss", ":")):
                name = f"{arm}: {'training' if key == 'loss' else 'validation'}" if first else None
                losses.plot(epochs, [row[key] for row in done.rows], style, color=f"C{number}", label=name)
            rows = scored(done)
            validation.plot(
                [row["epoch"] for row in rows],
                [row["mAP"] for row in rows],
                color=f"C{number}",
                label=arm if first else None,
            )
        values = [[row[f"mAP{level:g}"] for row in table if row["augmentation"] == arm] for level in LEVELS]
        where = np.arange(len(LEVELS)) + (number - 0.5) * 0.35
        test.bar(where, [np.mean(each) for each in values], 0.33, color=f"C{number}", label=arm)
        for place, each in zip(where, values, strict=True):
            test.plot([place] * len(each), each, "k.")
    losses.set(xlabel="epoch", ylabel="loss", yscale="log", title=f"{images} images")
    validation.set(xlabel="epoch", ylabel="mAP at IoU 0.5, validation images", ylim=(0, 1))
    test.set(ylabel="mAP, test images", ylim=(0, 1))
    test.set_xticks(range(len(LEVELS)), [f"IoU {level:g}" for level in LEVELS])
    for axes in (losses, validation, test):
        axes.legend(fontsize=7)
    return result


if __name__ == "__main__":
    main()
