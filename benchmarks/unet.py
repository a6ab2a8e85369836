"""U-Net with the loss of the notebook and with the combined one, on the same images: quality and cost.

Run it in the environment of the U-Nets, on an otherwise idle machine:

    PYTHONPATH=tests:services/qc .venvs/unet/bin/python benchmarks/unet.py unet-2d --data FOLDER --kind classes

FOLDER has {train,test}/{source,target}. Each loss trains a network of its own with the code of a worker on a real S3
store, chooses its threshold on the validation images, and predicts the test images. Foreground is the larger of two
values in the masks unless --foreground-value says otherwise; of label images it is every object. The baseline is
Otsu's threshold with the polarity and the smoothing that suit the training images best, as in quality control.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import options_for, train_and_predict, training_parameters
from numpy.typing import NDArray

from parfocal.qc.metrics.baselines.otsu import choose_otsu
from parfocal.qc.metrics.objects.semantic import Areas, areas, boundary_f, iou_parts
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import read_image
from parfocal.unet import SERVICE

_TOLERANCE = 2.0


def sources(folder: Path) -> dict[str, NDArray[Any]]:
    """Return the images of a folder, by stem."""
    return {stem: read_image(path).pixels for stem, path in find_images(folder).items()}


def foregrounds(folder: Path, value: int | None) -> dict[str, NDArray[np.bool_]]:
    """Return what is foreground in the targets of a folder, by stem: a value, or everything above 0."""
    return {stem: pixels > 0 if value is None else pixels == value for stem, pixels in sources(folder).items()}


def baseline(data: Path, value: int | None) -> tuple[str, dict[str, NDArray[np.bool_]]]:
    """Return the baseline in words, and what it takes for foreground in the test images, by stem."""
    known = sources(data / "train" / "source")
    targets = foregrounds(data / "train" / "target", value)
    chosen = choose_otsu(((known[stem], target) for stem, target in targets.items()), iou_parts)
    masks = {stem: chosen.apply(image, image.ndim) > 0 for stem, image in sources(data / "test" / "source").items()}
    return f"Otsu, {'bright' if chosen.bright else 'dark'} side, sigma {chosen.sigma:g} px", masks


def report(name: str, found: dict[str, NDArray[np.bool_]], targets: dict[str, NDArray[np.bool_]]) -> None:
    """Print the scores over all test images together, those of the boundary as a mean over the images."""
    counted = sum((areas(targets[stem], mask) for stem, mask in found.items()), Areas())
    other = sum((areas(~targets[stem], ~mask) for stem, mask in found.items()), Areas())
    outlines = np.mean([boundary_f(targets[stem], mask, _TOLERANCE) for stem, mask in found.items()])
    print(
        f"{name}: foreground IoU {counted.iou:.3f}, Dice {counted.dice:.3f}, boundary F {outlines:.3f}; "
        f"background IoU {other.iou:.3f}",
        flush=True,
    )


def main() -> None:
    """Train with each loss and print scores."""
    parser = options_for(__doc__, epochs=40, patch=128, batch=4, patches_per_image=4)
    parser.add_argument("method", choices=("unet-2d", "unet-3d"))
    parser.add_argument("--kind", default="", help="kind of the dataset, if it is to be recorded")
    parser.add_argument("--foreground-value", type=int)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--poolings", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--parameters", type=json.loads, default={}, help="further parameters, as JSON")
    parser.add_argument("--losses", nargs="+", default=["cross-entropy", "dice-cross-entropy"])
    options = parser.parse_args()
    device, why = SERVICE.device().choose("auto", 2 if options.method == "unet-2d" else 3, training=True)
    print(f"{device.name}: {why}", flush=True)
    targets = foregrounds(options.data / "test" / "target", options.foreground_value)
    name, masks = baseline(options.data, options.foreground_value)
    report(name, masks, targets)
    parameters = training_parameters(options) | {
        "first_filters": options.filters,
        "poolings": options.poolings,
        "learning_rate": options.learning_rate,
        **options.parameters,
    }
    if options.foreground_value is not None:
        parameters["foreground_value"] = options.foreground_value
    for loss in options.losses:
        with tempfile.TemporaryDirectory() as name:
            data, kind = options.data, options.kind
            ours = train_and_predict(SERVICE, options.method, data, parameters | {"loss": loss}, Path(name), kind)
            foreground = ours.model.facts.measured["class_values"][1]
            report(loss, {stem: pixels == foreground for stem, pixels in ours.predictions.items()}, targets)
            print(
                f"  {len(ours.rows)} epochs of {ours.steps(options.patches_per_image, options.batch)} steps in "
                f"{ours.epochs:.0f} s, best epoch {ours.model.best_epoch}, threshold "
                f"{ours.model.facts.measured['threshold']:g}; prediction job {ours.predicting.wall:.1f} s for "
                f"{len(targets)} images",
                flush=True,
            )


if __name__ == "__main__":
    main()
