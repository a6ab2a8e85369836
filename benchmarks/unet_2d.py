"""U-Net 2D with the loss of the notebook and with the combined one, on the same images: quality, and what it takes.

Run it in the environment of the U-Nets, on an otherwise idle machine:

    PYTHONPATH=tests:services/qc .venvs/unet/bin/python benchmarks/unet_2d.py --data FOLDER --kind classes

FOLDER has {train,test}/{source,target}. Each loss trains a network of its own with the code of a worker on a real S3
store, chooses its threshold on the validation images, and predicts the test images. Foreground is the larger of two
values in the masks unless --foreground-value says otherwise; of label images it is every object.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import options_for, train_and_predict, training_parameters
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from parfocal.qc.metrics.objects.semantic import Areas, areas, boundary_f
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import read_image
from parfocal.unet import SERVICE

_TOLERANCE = 2.0


def foregrounds(folder: Path, value: int | None) -> dict[str, NDArray[np.bool_]]:
    """Return what is foreground in the targets of a folder, by stem: a value, or everything above 0."""
    images = {stem: read_image(path).pixels for stem, path in find_images(folder).items()}
    return {stem: pixels > 0 if value is None else pixels == value for stem, pixels in images.items()}


def otsu(pixels: NDArray[Any], *, bright: bool, sigma: float) -> NDArray[np.bool_]:
    """Return the brighter or the darker side of Otsu's threshold (1979), of 256 bins, in a smoothed image."""
    pixels = gaussian_filter(pixels.astype(np.float32), sigma)
    counts, edges = np.histogram(pixels, 256)
    middles = (edges[1:] + edges[:-1]) / 2
    below = counts.cumsum()
    sums = (counts * middles).cumsum()
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    mask: NDArray[np.bool_] = (pixels > edges[1:][np.nanargmax(between)]) == bright
    return mask


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
    parser.add_argument("--kind", default="", help="kind of the dataset, if it is to be recorded")
    parser.add_argument("--foreground-value", type=int)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--poolings", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--losses", nargs="+", default=["cross-entropy", "dice-cross-entropy"])
    options = parser.parse_args()
    device, why = SERVICE.device().choose("auto", 2, training=True)
    print(f"{device.name}: {why}", flush=True)
    targets = foregrounds(options.data / "test" / "target", options.foreground_value)
    sources = {stem: read_image(path).pixels for stem, path in find_images(options.data / "test" / "source").items()}
    for bright, sigma in itertools.product((True, False), (0, 1, 2)):
        masks = {stem: otsu(sources[stem], bright=bright, sigma=sigma) for stem in targets}
        report(f"Otsu, {'bright' if bright else 'dark'} side, sigma {sigma} px", masks, targets)
    parameters = training_parameters(options) | {
        "first_filters": options.filters,
        "poolings": options.poolings,
        "learning_rate": options.learning_rate,
    }
    if options.foreground_value is not None:
        parameters["foreground_value"] = options.foreground_value
    for loss in options.losses:
        with tempfile.TemporaryDirectory() as name:
            data, kind = options.data, options.kind
            ours = train_and_predict(SERVICE, "unet-2d", data, parameters | {"loss": loss}, Path(name), kind)
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
