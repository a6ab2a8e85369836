"""fnet 2D against a plain PyTorch loop of the same network, in one run on one machine: speed as a ratio at equal loss.

Run it in the environment of fnet, on an otherwise idle machine:

    PYTHONPATH=tests:services/qc .venvs/fnet/bin/python benchmarks/fnet_2d.py --data FOLDER --epochs 3

FOLDER has {train,test}/{source,target}. The plain loop is what most scripts do: float32, channels first, patches cut
from normalised images in memory, Adam. Parfocal runs the code of its worker on a real S3 store, with the precision and
the order of axes it chooses itself. Both take the same number of steps of the same batch and patch size, and both
networks are judged on the test images by the mean squared error of z-scores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Clock, options_for, train_and_predict, training_parameters

from parfocal.fnet import SERVICE
from parfocal.fnet.network import FnetModule
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import read_image


def load(folder: Path) -> dict[str, Any]:
    """Return the images of a folder as z-scores, by stem."""
    images = {}
    for stem, path in find_images(folder).items():
        pixels = read_image(path).pixels.astype(np.float32)
        images[stem] = (pixels - pixels.mean()) / pixels.std()
    return images


def plain_pytorch(data: Path, options: argparse.Namespace, steps: int, held_out: set[str]) -> dict[str, Any]:
    """Train and predict with a loop as in the tutorials of PyTorch."""
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    with Clock() as preparing:
        sources, targets = load(data / "train" / "source"), load(data / "train" / "target")
    stems = [stem for stem in sources if stem not in held_out] or list(sources)
    module = FnetModule(2, 1, 1, options.filters)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3, betas=(0.5, 0.999))

    def patches() -> tuple[torch.Tensor, torch.Tensor]:
        pairs = []
        for stem in rng.choice(stems, options.batch):
            top, left = (rng.integers(0, length - options.patch + 1) for length in sources[stem].shape)
            cut = (slice(top, top + options.patch), slice(left, left + options.patch))
            pairs.append((sources[stem][cut], targets[stem][cut]))
        x, y = (torch.from_numpy(np.stack(each)[:, np.newaxis]) for each in zip(*pairs, strict=True))
        return x, y

    module.train()
    with Clock() as training:
        for _ in range(options.epochs * steps):
            x, y = patches()
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(module(x), y).backward()
            optimiser.step()
    module.eval()
    predictions = {}
    with Clock() as predicting, torch.no_grad():
        for stem, image in load(data / "test" / "source").items():
            padding = [(0, -length % 16) for length in image.shape]
            padded = torch.from_numpy(np.pad(image, padding, mode="reflect"))[None, None]
            predictions[stem] = module(padded)[0, 0, : image.shape[0], : image.shape[1]].numpy()
    return {"prepare": preparing, "train": training, "predict": predicting, "predictions": predictions}


def error(predictions: dict[str, Any], data: Path) -> float:
    """Return the mean squared error to the z-scores of the test targets; predictions are brought to z-scores too.

    A straight line is fitted first, so that grey values and z-scores can be compared.
    """
    errors = []
    for stem, target in load(data / "test" / "target").items():
        scale, offset = np.polyfit(predictions[stem].ravel().astype(np.float64), target.ravel(), 1)
        errors.append(float(np.mean((scale * predictions[stem] + offset - target) ** 2)))
    return float(np.mean(errors))


def main() -> None:
    """Run both and print ratios."""
    parser = options_for(__doc__, epochs=3, patch=128, batch=8, patches_per_image=64)
    parser.add_argument("--filters", type=int, default=32)
    options = parser.parse_args()
    device, why = SERVICE.device().choose("auto", 2, training=True)
    print(f"{device.name}: {why}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = {**training_parameters(options), "first_filters": options.filters, "targets": "target"}
        ours = train_and_predict(SERVICE, "fnet-2d", options.data, parameters, folder)
        steps = ours.steps(options.patches_per_image, options.batch)
        print(
            f"Parfocal ({device.precision}): training job {ours.training.wall:.1f} s, of it epochs {ours.epochs:.1f} s "
            f"for {options.epochs} x {steps} steps; prediction job {ours.predicting.wall:.1f} s; error "
            f"{error(ours.predictions, options.data):.4f}",
            flush=True,
        )
        plain = plain_pytorch(options.data, options, steps, ours.held_out)
        before = plain["prepare"].wall + plain["train"].wall
        print(
            f"PyTorch (float32, channels first): training {before:.1f} s, prediction {plain['predict'].wall:.1f} s; "
            f"error {error(plain['predictions'], options.data):.4f}"
        )
        ours.print_ratios(before, plain["predict"].wall, "the plain loop")


if __name__ == "__main__":
    main()
