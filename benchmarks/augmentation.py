"""Whether the device waits for augmentation: seconds to cut and change a batch, and seconds of a training step with it.

Run it in the environment of the method, on an otherwise idle machine:

    .venvs/care/bin/python benchmarks/augmentation.py care-2d

Batches are made in a thread ahead of the training, so training waits only where a batch takes longer than a step. The
images are random numbers of 16 bits, 512 x 512 pixels; patches, batches and network are the method's defaults.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from parfocal import v1
from parfocal.runtime.methods.implementation import Batch
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.service import load_service
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.augmentation import Augmentation, Change
from parfocal.runtime.training.sampler import PatchSampler
from parfocal.runtime.training.split import Region

EVERYTHING = Augmentation(
    angle=Change(strength=180),
    zoom=Change(strength=0.3),
    shear=Change(strength=10),
    shift=Change(strength=0.1),
    elastic=Change(strength=6),
    scale=Change(strength=1),
    offset=Change(strength=0.2),
    gamma=Change(strength=0.5),
    noise=Change(strength=0.02),
    blur=Change(strength=1),
)
SIDE = 512


def seconds(work: Callable[[int], object], count: int) -> float:
    """Return the median seconds of one call; the first call is not counted."""
    taken = []
    for number in range(count + 1):
        begin = time.perf_counter()
        work(number)
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken[1:]))


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("care-2d", "fnet-2d", "stardist-2d"))
    parser.add_argument("--batches", type=int, default=10)
    options = parser.parse_args()
    method = load_service(f"parfocal.{options.method.partition('-')[0]}").method(options.method)
    parameters = method.parse(v1.JOB_KIND_TRAINING, {})
    implementation, facts = method.load(), Facts()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60_000, (SIDE, SIDE)).astype(np.uint16)
    labels = np.kron(np.arange(1, 257).reshape(16, 16), np.ones((SIDE // 16, SIDE // 16))).astype(np.uint16)
    objects, normaliser = method.target == v1.TARGET_KIND_LABELS, Normaliser()
    constants = normaliser.fit(image, "YX")

    def sampler(augmentation: Augmentation) -> PatchSampler:
        return PatchSampler(
            sources=[image],
            targets=[(labels if objects else image,)],
            regions=[Region(index=0, stem="a", start=(0, 0), stop=(SIDE, SIDE))],
            patch_shape=parameters.patch_shape("YX"),
            patches_per_image=parameters.batch_size,
            batch_size=parameters.batch_size,
            seed=0,
            source_constants=[constants],
            target_constants=None if objects else [(constants,)],
            augmentation=augmentation,
        )

    def making(augmentation: Augmentation) -> float:
        made = sampler(augmentation)
        return seconds(lambda epoch: made.batch(epoch, 0), options.batches)

    plain, full = making(Augmentation()), making(EVERYTHING)
    source, targets = sampler(Augmentation()).batch(0, 0)
    raw = Batch({"source": source[..., np.newaxis]}, np.stack(targets, axis=-1), len(source))
    batch = implementation.prepare(raw, parameters, facts, rng)
    learner = implementation.build(parameters, facts)
    learner.begin_epoch(0, parameters.learning_rate)
    step = seconds(lambda _: learner.train_batch(batch), options.batches)
    print(f"{options.method}: step {step:.3f} s; flips and turns {plain:.4f} s, everything {full:.4f} s a batch")
    waits = "waits" if full > step else "never waits"
    print(f"a batch with everything takes {full / step:.2f} of a step: training {waits}")


if __name__ == "__main__":
    main()
