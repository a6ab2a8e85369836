"""StarDist 2D against plain stardist, in one run on one machine: speed as ratios, quality on the same test images.

Run it in the environment of StarDist, on an otherwise idle machine:

    PYTHONPATH=tests:services/qc .venvs/stardist/bin/python benchmarks/stardist_2d.py --data FOLDER --epochs 5

FOLDER has {train,test}/{source,target}. stardist runs its own loops in float32: `train`, `optimize_thresholds`,
`predict_instances`, with the same augmentation written as its examples do. Parfocal runs the code of its worker on a
real S3 store, with the precision it chooses itself. Both see the same number of steps of the same batch and patch size.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from common import Clock, options_for, train_and_predict, training_parameters

from parfocal.qc.metrics.objects.instances import Counts, score_instances
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import read_image
from parfocal.runtime.methods.device import Device
from parfocal.stardist import SERVICE


def quality(predictions: dict[str, Any], target_folder: Path) -> float:
    """Return F1 at IoU 0.5 over all objects of the test images."""
    total = Counts()
    for stem, path in find_images(target_folder).items():
        total += score_instances(read_image(path).pixels, predictions[stem], name=stem).counts[0.5]
    return total.f1


def plain_stardist(
    data: Path, options: argparse.Namespace, steps: int, held_out: set[str], folder: Path
) -> dict[str, Any]:
    """Train and predict as the stardist examples do, validating on the same images as Parfocal."""
    from csbdeep.utils import normalize
    from stardist.models import Config2D, StarDist2D
    from stardist.utils import fill_label_holes

    from parfocal.runtime.frameworks import keras

    keras.prepare(options.seed, Device())  # the arithmetic is global, and Parfocal may have changed it
    rng = np.random.default_rng(options.seed)

    def augment(image: Any, labels: Any) -> tuple[Any, Any]:
        turns, flip = rng.integers(4), rng.integers(2)
        image, labels = np.rot90(image, turns), np.rot90(labels, turns)
        if flip:
            image, labels = image[::-1], labels[::-1]
        image = image * rng.uniform(0.6, 2) + rng.uniform(-0.2, 0.2)
        return image + 0.02 * rng.uniform(0, 1) * rng.normal(0, 1, image.shape), labels

    def load(split: str, role: str) -> dict[str, Any]:
        return {stem: read_image(path).pixels for stem, path in find_images(data / split / role).items()}

    with Clock() as preparing:
        images = {stem: normalize(image, 1, 99.8) for stem, image in load("train", "source").items()}
        labels = {stem: fill_label_holes(image.astype(np.int32)) for stem, image in load("train", "target").items()}
    kept = [stem for stem in images if stem not in held_out]
    config = Config2D(
        grid=(2, 2),
        train_epochs=options.epochs,
        train_steps_per_epoch=steps,
        train_batch_size=options.batch,
        train_patch_size=(options.patch,) * 2,
        train_tensorboard=False,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        model = StarDist2D(config, "plain", basedir=str(folder))
        validation = [images[stem] for stem in sorted(held_out)], [labels[stem] for stem in sorted(held_out)]
        with Clock() as training:
            model.train(
                [images[stem] for stem in kept],
                [labels[stem] for stem in kept],
                validation_data=validation,
                augmenter=augment,
                seed=options.seed,
            )
            model.optimize_thresholds(*validation)
        sources = load("test", "source")
        with Clock() as predicting:
            predictions = {
                stem: model.predict_instances(normalize(image, 1, 99.8))[0] for stem, image in sources.items()
            }
    f1 = quality(predictions, data / "test" / "target")
    return {"prepare": preparing, "train": training, "predict": predicting, "f1": f1}


def making_targets(options: argparse.Namespace, data: Path, device: Device) -> tuple[float, float]:
    """Return the seconds that the targets of a batch take, and that a training step takes."""
    from parfocal.runtime.methods.implementation import Batch
    from parfocal.runtime.store.facts import Facts
    from parfocal.stardist.network import StarDist2D
    from parfocal.stardist.parameters import StarDist2DParameters

    parameters = StarDist2DParameters(patch_size=options.patch, batch_size=options.batch)
    method = StarDist2D(device)
    learner = method.build(parameters, Facts())
    paths = list(find_images(data / "train" / "target").values())[: options.batch]
    cut = (slice(options.patch), slice(options.patch))
    labels = np.stack([read_image(path).pixels[cut] for path in paths])[..., np.newaxis]
    inputs = np.random.default_rng(0).random((options.batch, options.patch, options.patch, 1), dtype=np.float32)
    raw, rng = Batch({"source": inputs}, labels, options.batch), np.random.default_rng(0)
    learner.train_batch(method.prepare(raw, parameters, Facts(), rng))
    count = 5
    with Clock() as making:
        for _ in range(count):
            batch = method.prepare(raw, parameters, Facts(), rng)
    with Clock() as training:
        for _ in range(count):
            learner.train_batch(batch)
    return making.wall / count, training.wall / count


def main() -> None:
    """Run both and print ratios."""
    parser = options_for(__doc__, epochs=5, patch=128, batch=4, patches_per_image=4)
    options = parser.parse_args()
    device, why = SERVICE.device().choose("auto", 2, training=True)
    print(f"{device.name}: {why}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        making, step = making_targets(options, options.data, device)
        print(f"targets of a batch: {making:.3f} s, training step: {step:.3f} s", flush=True)
        ours = train_and_predict(SERVICE, "stardist-2d", options.data, training_parameters(options), folder)
        our_f1 = quality(ours.predictions, options.data / "test" / "target")
        print(
            f"Parfocal ({device.precision}): training job {ours.training.wall:.1f} s, of it epochs "
            f"{ours.epochs:.1f} s; prediction job {ours.predicting.wall:.1f} s; F1 {our_f1:.3f}",
            flush=True,
        )
        plain = plain_stardist(
            options.data, options, ours.steps(options.patches_per_image, options.batch), ours.held_out, folder
        )
        before = plain["prepare"].wall + plain["train"].wall
        print(
            f"stardist (float32): training {before:.1f} s, prediction {plain['predict'].wall:.1f} s; "
            f"F1 {plain['f1']:.3f}"
        )
        ours.print_ratios(before, plain["predict"].wall, "stardist")


if __name__ == "__main__":
    main()
