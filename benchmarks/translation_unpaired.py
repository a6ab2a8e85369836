"""CycleGAN after 10 and after 15 minutes of training: how far its images are from real ones, and what they look like.

Run it in the environment of gan:

    PYTHONPATH=tests .venvs/gan/bin/python benchmarks/translation_unpaired.py --data FOLDER

FOLDER has {train,test}/{source,target}, whose images are unpaired. The distance is the sliced Wasserstein distance of
patches of Laplacian pyramids, to the training images of the kind that is made. It is that of the test images of this
kind (real), of what the networks make of the test images of the other kind after training and before it, and of these
images as they are (input; grey is taken for three equal colours). The cycle error is the mean absolute difference of
normalised intensities after both directions. Weights are those that the method would have kept by its validation
images, had training ended after the minutes given. Networks are smaller than published, so that minutes on a processor
show something.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import local_store
from matplotlib.figure import Figure
from numpy.typing import NDArray
from support import publish_kind
from watched import chosen, normalised, read_images, train, write_table

from parfocal import v1
from parfocal.gan import SERVICE
from parfocal.runtime.images.distribution import sliced_wasserstein
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import Selection
from parfocal.runtime.methods.service import load_object
from parfocal.runtime.prediction.tiling import Tiling, apply_tiled
from parfocal.runtime.store.facts import Facts

KINDS = ("source", "target")
Images = dict[str, list[NDArray[Any]]]
_SHOWN = 4
_PATCHES = 256


class TestImages:
    """The test images of both kinds, and how far others are from real ones."""

    def __init__(self, data: Path) -> None:
        implementation = load_object(SERVICE.method("cyclegan").implementation)()
        self.real, self.known = (
            {
                kind: [normalised(implementation, image) for image in read_images(data / split / kind).values()]
                for kind in KINDS
            }
            for split in ("test", "train")
        )
        self.made: list[Images] = []

    def distances(self, images: Images) -> dict[str, float]:
        """Return the distances to the training images of each kind; grey images become three equal colours."""
        found = {}
        for kind, known in self.known.items():
            colours = known[0].shape[2:]
            alike = [image for image in images[kind] if image.shape[2] in (1, *colours)]
            alike = [np.broadcast_to(image, (*image.shape[:2], *colours)) for image in alike]
            found[f"distance_{kind}"] = sliced_wasserstein(alike, known, patches=_PATCHES) if alike else float("nan")
        return found

    def look(self, implementation: Any, learner: Any, parameters: Any, facts: Facts) -> dict[str, float]:
        """Turn all test images into the other kind and back, and score them."""

        def turned(images: Sequence[NDArray[Any]], *, backwards: bool) -> list[NDArray[Any]]:
            geometry = implementation.geometry(parameters, facts.directed(backwards=backwards))
            with learner.directed(backwards=backwards):
                return [apply_tiled(learner, image, geometry, Tiling(2**20)) for image in images]

        made, scores = {}, {}
        for kind, other in zip(KINDS, reversed(KINDS), strict=True):
            made[kind] = turned(self.real[other], backwards=kind == "source")
            again = turned(made[kind], backwards=kind != "source")
            errors = [np.mean(np.abs(one - two)) for one, two in zip(again, self.real[other], strict=True)]
            scores[f"cycle_error_{other}"] = float(np.mean(errors))
        self.made.append(made)
        return {**scores, **self.distances(made)}


def main() -> None:
    """Train, print the table, and write it with a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 15])
    parser.add_argument("--filters", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--score-every", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("translation_unpaired"))
    options = parser.parse_args()
    values = {
        "epochs": 100_000,
        "seed": options.seed,
        "patch_size": options.patch,
        "first_filters": options.filters,
        "residual_blocks": options.blocks,
        "patches_per_image": 1,
        "decay_epochs": 0,
        "score_every": options.score_every,
    }
    print(f"cyclegan, {max(options.minutes):g} minutes: {values}", flush=True)
    test = TestImages(options.data)
    with tempfile.TemporaryDirectory() as name, local_store(Path(name)) as store:
        dataset = publish_kind(store, "benchmark", options.data, "unpaired")
        end = max(options.minutes)
        done = train(SERVICE, store, "cyclegan", dataset, values, Path(name), minutes=end, look=test.look)
    write_table(options.out / "curve.csv", done.rows)
    method = SERVICE.method("cyclegan")
    implementation = method.load(Device())
    parameters = method.parse(v1.JOB_KIND_TRAINING, values)
    table: list[dict[str, Any]] = [{"images": "real"} | test.distances(test.real)]
    shown: dict[str, Images] = {}
    looks = [row for row in done.rows if "distance_target" in row]
    for end in options.minutes:
        row, label = chosen(looks, Selection("distance"), end), f"after {end:g} min"
        shown[label] = test.made[looks.index(row)]
        kept = ("epoch", "minutes", "processor_minutes", "distance", *scores_of(row))
        table.append({"images": label} | {key: row[key] for key in kept})
    learner = implementation.build(parameters, done.model.facts)
    table.append({"images": "untrained"} | test.look(implementation, learner, parameters, done.model.facts))
    others = {kind: test.real[other] for kind, other in zip(KINDS, reversed(KINDS), strict=True)}
    table.append({"images": "input"} | test.distances(others))
    for row in table:
        print(f"{row['images']:15s}", *(f"{key} {row[key]:.3f}" for key in row if key != "images"), sep="  ")
    write_table(options.out / "scores.csv", table)
    figure(test, shown).savefig(options.out / "samples.png", dpi=140)
    print(f"table and figure: {options.out}")


def scores_of(row: Mapping[str, float]) -> list[str]:
    """Return the names of the scores of test images in a row."""
    return [key for key in row if key.startswith(("cycle_error_", "distance_"))]


def figure(test: TestImages, shown: Mapping[str, Images]) -> Figure:
    """Return test images of both kinds, what became of them, and real images of the other kind."""
    result = Figure(figsize=(2 * _SHOWN * 2, 2 * (len(shown) + 2)), layout="constrained")
    for part, kind in zip(result.subfigures(1, 2), reversed(KINDS), strict=True):
        other = next(each for each in KINDS if each != kind)
        rows = {f"{other}": test.real[other], **{label: made[kind] for label, made in shown.items()}}
        rows[f"real {kind}"] = test.real[kind]
        part.suptitle(f"{other} to {kind}")
        for line, (label, images) in zip(part.subplots(len(rows), _SHOWN), rows.items(), strict=True):
            for axes, image in zip(line, images, strict=False):
                axes.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
            line[0].set_ylabel(label, fontsize=8)
    return result


if __name__ == "__main__":
    main()
