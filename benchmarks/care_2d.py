"""CARE 2D against plain csbdeep, in one run on one machine: speed as ratios, quality on the same test images.

Run it in the environment of CARE, on an otherwise idle machine:

    PYTHONPATH=tests:services/qc .venvs/care/bin/python benchmarks/care_2d.py --data FOLDER --epochs 5

FOLDER has {train,test}/{source,target}. csbdeep runs its own loops in float32: `create_patches`, `train`, `predict`.
Parfocal runs the code of its worker (`parfocal.runtime.training.loop.train`, `prediction.job.predict`) on a real S3
store, with the precision it chooses itself. Both see the same number of steps of the same batch and patch size. The
cost beyond the network is the processor time of the whole job per step, less that of the bare network step.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from common import Clock, options_for, restoration_quality, train_and_predict, training_parameters

from parfocal.care import SERVICE
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import read_image
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import Batch
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import ModelManifest


def plain_csbdeep(data: Path, options: argparse.Namespace, steps: int, folder: Path) -> dict[str, Any]:
    """Train and predict as the csbdeep examples do."""
    from csbdeep.data import RawData, create_patches
    from csbdeep.models import CARE, Config

    from parfocal.runtime.frameworks import keras

    keras.prepare(options.seed, Device())  # the arithmetic is global, and Parfocal may have changed it
    raw = RawData.from_folder(str(data / "train"), ["source"], "target", axes="YX")
    with contextlib.redirect_stdout(io.StringIO()), Clock() as preparing:
        x, y, _ = create_patches(
            raw,
            patch_size=(options.patch,) * 2,
            n_patches_per_image=options.patches_per_image,
            patch_filter=None,
            verbose=False,
        )
    x, y = np.moveaxis(x, 1, -1), np.moveaxis(y, 1, -1)
    held_out = max(options.batch, len(x) // 10)
    config = Config(
        "YX",
        probabilistic=True,
        unet_n_depth=3,
        unet_kern_size=options.kernel,
        unet_n_first=options.filters,
        train_epochs=options.epochs,
        train_steps_per_epoch=steps,
        train_batch_size=options.batch,
        train_learning_rate=options.learning_rate,
        train_tensorboard=False,
    )
    model = CARE(config, "plain", basedir=str(folder))
    with contextlib.redirect_stdout(io.StringIO()), Clock() as training:
        model.train(x[held_out:], y[held_out:], validation_data=(x[:held_out], y[:held_out]))
    sources = {stem: read_image(path).pixels for stem, path in find_images(data / "test" / "source").items()}
    with contextlib.redirect_stdout(io.StringIO()), Clock() as predicting:
        predictions = {stem: model.predict(image, "YX") for stem, image in sources.items()}
    psnr, ssim = restoration_quality(predictions, data / "test" / "target")
    return {"prepare": preparing, "train": training, "predict": predicting, "psnr": psnr, "ssim": ssim}


def parameters_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of the training."""
    network = {"first_filters": options.filters, "kernel_size": options.kernel}
    return training_parameters(options) | network | {"learning_rate": options.learning_rate}


def validation_steps(model: ModelManifest, options: argparse.Namespace) -> int:
    """Return how many batches of patches the validation images give."""
    grids = [
        np.prod([(stop - start) // options.patch for start, stop in zip(r["start"], r["stop"], strict=True)])
        for r in model.split["validation"]
    ]
    return min(int(sum(grids)), 512) // options.batch


def bare_steps(options: argparse.Namespace, device: Device) -> tuple[Clock, Clock, int]:
    """Return the times of `count` training and validation steps of the network alone, one batch again and again."""
    from parfocal.care.network import Care2D
    from parfocal.care.parameters import Care2DParameters

    parameters = Care2DParameters(**parameters_of(options))
    learner = Care2D(device).build(parameters, Facts())
    pixels = np.random.default_rng(0).random((options.batch, options.patch, options.patch, 1), dtype=np.float32)
    batch = Batch({"source": pixels}, pixels, options.batch)
    learner.train_batch(batch)
    learner.validate_batch(batch)
    count = 5
    with Clock() as training:
        for _ in range(count):
            learner.train_batch(batch)
    with Clock() as validating:
        for _ in range(count):
            learner.validate_batch(batch)
    return training, validating, count


def main() -> None:
    """Run both and print ratios."""
    parser = options_for(__doc__, epochs=5, patch=64, batch=16, patches_per_image=32)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--kernel", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--skip-csbdeep", action="store_true", help="measure Parfocal alone, for curves")
    options = parser.parse_args()
    device, why = SERVICE.device().choose("auto", 2, training=True)
    print(f"{device.name}: {why}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare, validating, count = bare_steps(options, device)
        ours = train_and_predict(SERVICE, "care-2d", options.data, parameters_of(options), folder)
        psnr, ssim = restoration_quality(ours.predictions, options.data / "test" / "target")
        steps = ours.steps(options.patches_per_image, options.batch)
        for number, row in enumerate(ours.rows, start=1):
            print(f"epoch {number}: " + json.dumps({key: round(value, 6) for key, value in row.items()}))
        print(f"bare training step: {bare.cpu / count:.3f} CPU s, {bare.wall / count:.3f} s")
        print(
            f"Parfocal ({device.precision}): training job {ours.training.wall:.1f} s ({ours.training.cpu:.1f} CPU s), "
            f"of it epochs {ours.epochs:.1f} s; prediction job {ours.predicting.wall:.1f} s; "
            f"{psnr:.2f} dB, SSIM {ssim:.3f}",
            flush=True,
        )
        network = options.epochs / count * (steps * bare.cpu + validation_steps(ours.model, options) * validating.cpu)
        print(f"training job over its bare network steps, CPU seconds: {ours.training.cpu / network:.3f}", flush=True)
        if options.skip_csbdeep:
            return
        plain = plain_csbdeep(options.data, options, steps, folder)
        print(
            f"csbdeep (float32): patches {plain['prepare'].wall:.1f} s, training {plain['train'].wall:.1f} s "
            f"({plain['train'].cpu:.1f} CPU s), prediction {plain['predict'].wall:.1f} s; "
            f"{plain['psnr']:.2f} dB, SSIM {plain['ssim']:.3f}"
        )
        ours.print_ratios(plain["prepare"].wall + plain["train"].wall, plain["predict"].wall, "csbdeep")


if __name__ == "__main__":
    main()
