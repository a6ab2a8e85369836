"""The variants of Noise2Void 2D beside a Gaussian filter and n2v's own loop, on the same test images.

Run it in the environment of Noise2Void, on an otherwise idle machine:

    PYTHONPATH=tests:services/qc .venvs/n2v/bin/python benchmarks/n2v_2d.py --data FOLDER --epochs 2

FOLDER has {train,test}/{source,target}. Targets of the training images choose the sigma of the Gaussian filter, the
best over all of them, and are not trained on. n2v runs its own loops in float32: `generate_patches_from_list`, `train`,
`predict`. Parfocal runs the code of its worker (`parfocal.runtime.training.loop.train`, `prediction.job.predict`) on a
real S3 store. Both see the same number of steps of the same batch and patch size with the same network, without
augmentation in n2v. n2v reads the images before the clock starts. A structN2V mask is measured on the training images
unless options say what to hide; n2v is given the same one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from common import Clock, options_for, restoration_quality, train_and_predict, training_parameters

from parfocal.n2v import SERVICE
from parfocal.n2v.masking import struct_mask
from parfocal.qc.metrics.baselines.gaussian import DEFAULT_SIGMAS, gaussian_baseline
from parfocal.qc.metrics.images.fit import fitted_psnr, scale_target
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import read_image
from parfocal.runtime.methods.device import Device

VARIANTS = ("n2v", "n2v2", "structn2v")


def plain_n2v(
    data: Path, options: argparse.Namespace, trained: Mapping[str, Any], steps: int, folder: Path
) -> dict[str, Any]:
    """Train and predict as the examples of n2v do, without augmentation in memory."""
    from n2v.internals.N2V_DataGenerator import N2V_DataGenerator
    from n2v.models import N2V, N2VConfig

    from parfocal.runtime.frameworks import keras

    keras.prepare(options.seed, Device())
    images = [
        read_image(path).pixels[np.newaxis, ..., np.newaxis].astype(np.float32)
        for path in find_images(data / "train" / "source").values()
    ]
    held_out = max(1, round(0.1 * len(images)))
    with contextlib.redirect_stdout(io.StringIO()), Clock() as preparing:
        cut = N2V_DataGenerator().generate_patches_from_list
        training, validation = (
            cut(part, shape=(options.patch,) * 2, augment=False) for part in (images[held_out:], images[:held_out])
        )
    blurred = trained["variant"] == "n2v2"
    length = trained["struct_length"] if trained["variant"] == "structn2v" else 1
    hidden = struct_mask("YX", trained["struct_direction"], length)
    config = N2VConfig(
        training,
        unet_kern_size=3,
        unet_n_first=options.filters,
        train_loss="mse",
        train_epochs=options.epochs,
        train_steps_per_epoch=steps,
        train_batch_size=options.batch,
        train_learning_rate=options.learning_rate,
        train_tensorboard=False,
        n2v_perc_pix=options.masked,
        n2v_patch_shape=(options.patch,) * 2,
        n2v_manipulator="median" if blurred else "uniform_withCP",
        structN2Vmask=hidden.tolist() if hidden.size > 1 else None,
        blurpool=blurred,
        skip_skipone=blurred,
    )
    model = N2V(config, "plain", basedir=str(folder))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), Clock() as clock:
        model.train(training, validation)
    sources = {stem: read_image(path).pixels for stem, path in find_images(data / "test" / "source").items()}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), Clock() as predicting:
        predictions = {stem: model.predict(image.astype(np.float32), "YX") for stem, image in sources.items()}
    psnr, ssim = restoration_quality(predictions, data / "test" / "target")
    return {"prepare": preparing, "train": clock, "predict": predicting, "psnr": psnr, "ssim": ssim}


def baselines(data: Path) -> None:
    """Print what the test images score as they are, and through the filter that suits the training images best."""
    targets = find_images(data / "train" / "target")
    mean = np.zeros(len(DEFAULT_SIGMAS))
    for stem, path in find_images(data / "train" / "source").items():
        source, target = read_image(path).pixels, scale_target(read_image(targets[stem]).pixels)
        mean += [fitted_psnr(gaussian_baseline(source, sigma), target) for sigma in DEFAULT_SIGMAS]
    sigma = DEFAULT_SIGMAS[int(mean.argmax())]
    sources = {stem: read_image(path).pixels for stem, path in find_images(data / "test" / "source").items()}
    filtered = {stem: gaussian_baseline(pixels, sigma) for stem, pixels in sources.items()}
    for name, images in (("input", sources), (f"Gaussian filter, sigma {sigma:g} px", filtered)):
        psnr, ssim = restoration_quality(images, data / "test" / "target")
        print(f"{name}: {psnr:.2f} dB, SSIM {ssim:.3f}", flush=True)


def measure(variant: str, options: argparse.Namespace, precision: str, folder: Path) -> None:
    """Train and predict with one variant, and as n2v does where that is asked for, and print how it went."""
    parameters = training_parameters(options) | {
        "variant": variant,
        "first_filters": options.filters,
        "learning_rate": options.learning_rate,
        "masked_percent": options.masked,
        "struct_direction": options.struct_direction,
        "struct_length": options.struct_length,
    }
    ours = train_and_predict(SERVICE, "n2v-2d", options.data, parameters, folder)
    psnr, ssim = restoration_quality(ours.predictions, options.data / "test" / "target")
    steps = ours.steps(options.patches_per_image, options.batch)
    trained = ours.model.parameters
    for number, row in enumerate(ours.rows, start=1):
        print(f"epoch {number}: " + json.dumps({key: round(value, 6) for key, value in row.items()}))
    for warning in ours.model.warnings:
        print(f"warning: {warning}")
    if variant == "structn2v":
        print(f"hidden around each blind spot: {trained['struct_length']} px along {trained['struct_direction']}")
    print(
        f"Parfocal ({variant}, {precision}, {options.epochs} epochs of {steps} steps): training job "
        f"{ours.training.wall:.1f} s ({ours.training.cpu:.1f} CPU s), of it epochs {ours.epochs:.1f} s; prediction "
        f"job {ours.predicting.wall:.1f} s; {psnr:.2f} dB, SSIM {ssim:.3f}",
        flush=True,
    )
    if variant not in options.plain:
        return
    plain = plain_n2v(options.data, options, trained, steps, folder)
    print(
        f"n2v ({variant}, float32): patches {plain['prepare'].wall:.1f} s, training {plain['train'].wall:.1f} s "
        f"({plain['train'].cpu:.1f} CPU s), prediction {plain['predict'].wall:.1f} s; "
        f"{plain['psnr']:.2f} dB, SSIM {plain['ssim']:.3f}"
    )
    ours.print_ratios(plain["prepare"].wall + plain["train"].wall, plain["predict"].wall, "n2v")
    print(
        f"training in CPU seconds: {plain['train'].cpu / ours.training.cpu:.2f}x, "
        f"epochs alone: {plain['train'].wall / ours.epochs:.2f}x as fast as n2v's",
        flush=True,
    )


def main() -> None:
    """Measure baselines and variants."""
    parser = options_for(__doc__, epochs=2, patch=64, batch=16, patches_per_image=64)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--plain", nargs="*", choices=VARIANTS, default=["n2v"], help="run n2v's own loop for these")
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--masked", type=float, default=0.198, help="per cent of the pixels")
    parser.add_argument("--struct-direction", choices=["auto", "x", "y", "xy"], default="auto")
    parser.add_argument("--struct-length", type=int, default=9)
    options = parser.parse_args()
    device, why = SERVICE.device().choose("auto", 2, training=True)
    print(f"{device.name}: {why}", flush=True)
    baselines(options.data)
    for variant in options.variants:
        with tempfile.TemporaryDirectory() as name:
            measure(variant, options, device.precision, Path(name))


if __name__ == "__main__":
    main()
