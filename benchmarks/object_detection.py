"""YOLOv2 trained from scratch on real images: the average precision of each class on the test images.

Run it in the environment of yolo:

    PYTHONPATH=tests:services/qc .venvs/yolo/bin/python benchmarks/object_detection.py --data FOLDER

FOLDER has {train,test}/images and {train,test}/annotations (PASCAL VOC), in colour. The average precision is that of
quality control (detection): all points of the curve, as PASCAL VOC since 2010; mAP is its mean over classes. No weights
from elsewhere are used. The weights are those of the best mAP on the validation images. Networks are smaller than
published and images are reduced, so that minutes on a processor show something: both are options and are printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import local_store, run_job
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from support import publish_kind
from watched import Trained, train, write_table

from parfocal import v1
from parfocal.qc.metrics.objects.detections import match_boxes, rank
from parfocal.runtime.datasets.annotations.box import Box
from parfocal.runtime.datasets.annotations.voc import voc_bytes
from parfocal.runtime.datasets.boxes import Boxes, BoxReport, check_boxes
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.methods.outputs import Detections
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.prediction.detections import read_detections
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location, Store
from parfocal.yolo import SERVICE

LEVELS = (0.3, 0.5)
SPLITS = ("train", "test")
_LEAST_CONFIDENCE = 0.01
_SHOWN = 4


@dataclass(frozen=True)
class Test:
    """What is annotated in the test images, by stem, and the names of the classes."""

    names: tuple[str, ...]
    images: Mapping[str, NDArray[Any]]
    truth: Mapping[str, Boxes]

    def precisions(self, found: Mapping[str, Detections]) -> dict[str, float]:
        """Return the average precision of each class, and their mean, at each level."""
        matches = [match_boxes(truth, found[stem], len(self.names), LEVELS) for stem, truth in self.truth.items()]
        result: dict[str, float] = {}
        for level in LEVELS:
            each = [rank(matches, level, "voc", number).average_precision("voc") for number in range(len(self.names))]
            result |= {f"AP{level:g} {name}": value for name, value in zip(self.names, each, strict=True)}
            result[f"mAP{level:g}"] = float(np.nanmean(each))
        return result


def prepare(data: Path, folder: Path, shrink: int, chosen: Sequence[int] | None = None) -> Test:
    """Write reduced images with their boxes to FOLDER/{train,test}/{source,target}; return the test images.

    Parameters
    ----------
    shrink
        Means of so many times so many pixels become one.
    chosen
        Which of the training images, in the order of their names; None for all.
    """
    reports = {
        split: check_boxes(data / split / "images", data / split / "annotations", axes="YXS") for split in SPLITS
    }
    names = tuple(sorted(reports["train"].class_counts))
    pictures: dict[str, NDArray[Any]] = {}
    for split, report in reports.items():
        images = report.images if chosen is None or split == "test" else [report.images[number] for number in chosen]
        for role in ("source", "target"):
            (folder / split / role).mkdir(parents=True)
        for each in images:
            pixels = _reduced(read_image(each.image.path).pixels, shrink)
            stem = each.image.stem
            write_image(folder / split / "source" / f"{stem}.tif", Image(pixels, "YXS"))
            boxes = tuple(_scaled(box, shrink, pixels.shape) for box in each.boxes)
            (folder / split / "target" / f"{stem}.xml").write_bytes(voc_bytes(f"{stem}.tif", pixels.shape[:2], boxes))
            if split == "test":
                pictures[stem] = pixels
    report: BoxReport = check_boxes(folder / "test" / "source", folder / "test" / "target", axes="YXS")
    return Test(names, pictures, {each.image.stem: each.arrays(names) for each in report.images})


def _reduced(pixels: NDArray[Any], shrink: int) -> NDArray[Any]:
    rows, columns = (length // shrink for length in pixels.shape[:2])
    blocks = pixels[: rows * shrink, : columns * shrink].reshape(rows, shrink, columns, shrink, -1)
    return np.rint(blocks.mean(axis=(1, 3))).astype(pixels.dtype)


def _scaled(box: Box, shrink: int, shape: Sequence[int]) -> Box:
    x0, y0, x1, y1 = (value / shrink for value in box.corners)
    return Box(box.name, (x0, y0, min(x1, shape[1]), min(y1, shape[0])), box.difficult, box.truncated)


def parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of a training."""
    return {
        "first_filters": options.filters,
        "patch_size": options.patch,
        "patches_per_image": options.patches_per_image,
        "batch_size": options.batch,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        **options.parameters,
    }


def add_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Add what both benchmarks of detection can be told."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--method", choices=("tiny-yolo-v2", "yolo-v2"), default="tiny-yolo-v2")
    parser.add_argument("--filters", type=int, default=8, help="of the first convolution; published are 16 and 32")
    parser.add_argument("--shrink", type=int, default=2, help="pixels along each side that become one")
    parser.add_argument("--patch", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patches-per-image", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--parameters", type=json.loads, default={}, help="further parameters of the trainings, as JSON"
    )
    parser.add_argument("--out", type=Path, default=Path(out))


def detect(store: Store, model: str, dataset: str, names: Sequence[str], folder: Path) -> dict[str, Detections]:
    """Return the boxes that a model finds in the test images, by stem."""
    spec = v1.PredictionSpec(model_uri=model, input_uri=dataset, split="test")
    thresholds = {"confidence_threshold": _LEAST_CONFIDENCE, "overlap_threshold": 0.45}
    spec.parameters.CopyFrom(values_struct(thresholds))
    job = run_job(SERVICE, store, v1.StartJobRequest(prediction=spec), folder)
    place = Location.parse(job.outputs[0].uri)
    manifest = ResultManifest.read(store, place / RESULT_MANIFEST)
    found = {}
    for entry in manifest.files:
        parent, _, file = entry.public_name.rpartition("/")
        if parent == "detections" and file.endswith(".csv"):
            store.download(place / entry.name, folder / "found" / file)
            table = read_detections(folder / "found" / file)
            classes = np.array([names.index(name) for name in table.names], np.int64)
            found[file.removesuffix(".csv")] = Detections(table.corners, classes, table.confidence)
    return found


def main() -> None:
    """Train, print the table, and write it with a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "object_detection")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--map-every", type=int, default=4, help="epochs between two assessments")
    options = parser.parse_args()
    values = parameters(options) | {"epochs": 100_000, "map_every": options.map_every}
    print(f"{options.method}, {options.minutes:g} minutes, images reduced by {options.shrink}: {values}", flush=True)
    with tempfile.TemporaryDirectory() as name, local_store(Path(name)) as store:
        test = prepare(options.data, Path(name) / "data", options.shrink)
        dataset = publish_kind(store, "benchmark", Path(name) / "data", "boxes", "YXS")
        done = train(
            SERVICE, store, options.method, dataset, values, Path(name), minutes=options.minutes, look=lambda *_: {}
        )
        found = detect(store, done.uri, dataset, test.names, Path(name))
    table = rows_of(test, found)
    for row in table:
        precisions = (f"AP@{level:g} {row[f'AP{level:g}']:.3f}" for level in LEVELS)
        print(f"{row['class']:12s} {row['boxes']:4d} boxes", *precisions, sep="  ")
    best = done.model.weights["best"]
    print(f"{len(done.rows)} epochs in {done.rows[-1]['minutes']:.1f} min, of the processor ", end="")
    print(f"{scored(done)[-1]['processor_minutes']:.1f}; best weights of epoch {best.epoch}, mAP {best.value:.3f}")
    write_table(options.out / "curve.csv", done.rows)
    write_table(options.out / "scores.csv", table)
    figure(done, test, found).savefig(options.out / "object_detection.png", dpi=140)
    print(f"table and figure: {options.out}")


def rows_of(test: Test, found: Mapping[str, Detections]) -> list[dict[str, Any]]:
    """Return the average precisions of each class and their means."""
    precisions = test.precisions(found)
    boxes = np.concatenate([each.classes for each in test.truth.values()])
    rows: list[dict[str, Any]] = [
        {"class": name, "boxes": int((boxes == number).sum())}
        | {f"AP{level:g}": precisions[f"AP{level:g} {name}"] for level in LEVELS}
        for number, name in enumerate(test.names)
    ]
    mean = {f"AP{level:g}": precisions[f"mAP{level:g}"] for level in LEVELS}
    return [*rows, {"class": "mean", "boxes": len(boxes), **mean}]


def scored(done: Trained) -> list[dict[str, float]]:
    """Return the epochs after which the validation images were assessed."""
    return [row for row in done.rows if "mAP" in row]


def figure(done: Trained, test: Test, found: Mapping[str, Detections]) -> Figure:
    """Return losses and mAP over time above test images with annotated (white) and found boxes."""
    result = Figure(figsize=(10, 7), layout="constrained")
    above, below = result.subfigures(2, 1)
    left, right = above.subplots(1, 2)
    minutes = [row["minutes"] for row in done.rows]
    for key in ("loss", "val_loss"):
        left.plot(minutes, [row[key] for row in done.rows], label=key)
    left.set(xlabel="minutes of training", ylabel="loss", yscale="log")
    left.legend(fontsize=8)
    right.plot([row["minutes"] for row in scored(done)], [row["mAP"] for row in scored(done)], marker=".")
    right.set(xlabel="minutes of training", ylabel="mAP at IoU 0.5, validation images", ylim=(0, 1))
    for axes, stem in zip(below.subplots(1, _SHOWN), list(test.images)[:_SHOWN], strict=True):
        axes.imshow(test.images[stem])
        sure = found[stem].confidence >= 0.3
        for corners in test.truth[stem].corners:
            axes.add_patch(_rectangle(corners, "white", ":"))
        for corners, number in zip(found[stem].corners[sure], found[stem].classes[sure], strict=True):
            axes.add_patch(_rectangle(corners, f"C{number}", "-"))
        axes.set_axis_off()
    below.suptitle(
        "Annotated (white, dotted); found with a confidence of 0.3 or more: "
        + ", ".join(f"{name} (C{number})" for number, name in enumerate(test.names)),
        fontsize=8,
    )
    return result


def _rectangle(corners: NDArray[Any], colour: str, style: str) -> Rectangle:
    y0, x0, y1, x1 = corners
    return Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linestyle=style, linewidth=1)


if __name__ == "__main__":
    main()
