"""How much of an SSIM is background: the same noise on images of different foreground fractions.

The experiment of the thesis behind ZeroCostDL4Mic, in which actin, tubulin and mitochondria with equal artificial
noise had different SSIM (chapter III, figures 37 and 38), on simulated filaments: the same Gaussian noise, a tenth of
the target's range, is added to targets that differ in how much structure they hold. The noise is then removed in two
ways: everywhere, by a Gaussian filter, or in the background alone, structures left as noisy as they are.

    PYTHONPATH=orchestrator .venvs/qc/bin/python benchmarks/foreground_ssim.py --size 512 --images 6

Read the spread, the largest mean less the smallest: as much of a score is the amount of background. And compare the
last part with the first: SNR inside, on which the verdict rests, must not rise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from parfocal.demo.simulate import simulate_pair
from parfocal.qc.metrics.images.fit import scale_target
from parfocal.qc.metrics.images.foreground import Foreground, find_foreground, score_regions
from parfocal.qc.metrics.images.restoration import score_scaled

Image = npt.NDArray[Any]
Treatment = Callable[[Image, Foreground], Image]

DENSITIES = (0.05, 0.2, 1.0, 4.0, 12.0)
TREATMENTS: dict[str, Treatment] = {
    "noisy": lambda noisy, _: noisy,
    "noise filtered everywhere": lambda noisy, _: gaussian_filter(noisy, 1),
    "background made even, structures as noisy as before": lambda noisy, foreground: np.where(
        foreground.mask, noisy, np.median(noisy[~foreground.mask])
    ),
}
COLUMNS = ("foreground", "PSNR", "SSIM", "SSIM in", "SSIM out", "SNR in")


def main() -> None:
    """Print the means over the images for each treatment and amount of structure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="pixels along each side")
    parser.add_argument("--images", type=int, default=6, help="images for each amount of structure")
    parser.add_argument("--noise", type=float, default=0.1, help="standard deviation, in ranges of the target")
    options = parser.parse_args()
    shape = options.size, options.size
    for name, treatment in TREATMENTS.items():
        print(f"\n{name}\n{'structure':>10}" + "".join(f"{column:>12}" for column in COLUMNS))
        means = []
        for density in DENSITIES:
            rows = [measure(shape, number, density, options.noise, treatment) for number in range(options.images)]
            means.append(np.mean(rows, axis=0))
            print_row(f"{density:g}", means[-1])
        print_row("spread", np.ptp(means, axis=0))


def print_row(name: str, values: npt.NDArray[np.float64]) -> None:
    """Print one line of the table."""
    print(f"{name:>10}{100 * values[0]:10.1f} %" + "".join(f"{value:12.3f}" for value in values[1:]))


def measure(shape: tuple[int, int], number: int, density: float, noise: float, treatment: Treatment) -> list[float]:
    """Return the numbers of one image in the order of `COLUMNS`."""
    target = simulate_pair(shape, number, density=density)[1].astype(np.float64)
    foreground, scaled = find_foreground(target), scale_target(target)
    noisy = scaled + noise * np.random.default_rng((7, number)).standard_normal(shape)
    image = treatment(noisy, foreground)
    score, maps = score_scaled(image, scaled)
    inside, outside = score_regions(maps, image, target, foreground.mask)
    return [foreground.fraction, score.psnr, score.ssim, inside.ssim, outside.ssim, inside.snr]


if __name__ == "__main__":
    main()
