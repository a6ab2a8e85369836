"""How much faster restoration scoring is than a plain loop of scikit-image calls with the same definition.

Both score the same TIFF files in one run, reading included, and must agree:

    python benchmarks/qc_restoration.py --size 1024 --images 16

The plain loop uses numpy and scikit-image in float64, one image after the other. Times on a shared machine vary;
read the ratios, and on a busy machine the ratio of processor time, which other programs hardly change.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from scipy.ndimage import gaussian_filter
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from parfocal.qc.metrics.parallel import default_workers, score_many
from parfocal.qc.metrics.restoration import score_restoration

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any]]
NAMES = ("nrmse", "psnr", "ssim", "scale", "offset", "pearson", "nrmse_zerocost")


def main() -> None:
    """Write test images, score them both ways, print ratio and differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="pixels along each side")
    parser.add_argument("--images", type=int, default=16, help="number of image pairs")
    parser.add_argument("--workers", type=int, default=default_workers(), help="threads of the fast way")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the fastest counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), options.size, options.images)
        loaders = [partial(load, *pair) for pair in paths]
        loaders[0]()

        plain_times, plain = best_of(options.repeats, lambda: [plain_score(*load()) for load in loaders])
        single_times, _ = best_of(options.repeats, lambda: [score_restoration(*load()) for load in loaders])
        many_times, fast = best_of(options.repeats, lambda: list(score_many(loaders, options.workers)))

    worst = dict.fromkeys((*NAMES, "SSIM map", "RSE map"), 0.0)
    for (score, maps), (numbers, ssim, rse) in zip(fast, plain, strict=True):
        for name in NAMES:
            worst[name] = max(worst[name], abs(getattr(score, name) - numbers[name]))
        worst["SSIM map"] = max(worst["SSIM map"], float(np.abs(maps.ssim - ssim).max()))
        worst["RSE map"] = max(worst["RSE map"], float(np.abs(maps.rse - rse).max()))

    print(f"{options.images} images of {options.size} x {options.size}, reading included, best of {options.repeats}")
    for name, (wall, processor) in (
        ("plain loop of scikit-image", plain_times),
        ("score_restoration, 1 thread", single_times),
        (f"score_many, {options.workers} threads", many_times),
    ):
        ratios = f"ratio {plain_times[0] / wall:.1f}, of processor time {plain_times[1] / processor:.1f}"
        print(f"{name:28} {wall:7.2f} s, processor {processor:7.2f} s   {ratios}")
    print("largest absolute differences:")
    for name, difference in worst.items():
        print(f"  {name:15} {difference:.1e}")


def write_images(folder: Path, size: int, count: int) -> list[tuple[Path, Path]]:
    """Write pairs of a float32 restoration and a 16-bit target with structure, plateaus and noise."""
    random = np.random.default_rng(0)
    paths = []
    for index in range(count):
        structure = gaussian_filter(random.standard_normal((size, size)), 6)
        structure = np.clip(structure / structure.std() / 4 + 0.3, 0, 1)
        target = (100 + 4000 * structure + 20 * random.standard_normal((size, size))).astype(np.uint16)
        image = (3 * (target + 150 * random.standard_normal((size, size))) + 50).astype(np.float32)
        pair = folder / f"{index}_image.tif", folder / f"{index}_target.tif"
        tifffile.imwrite(pair[0], image)
        tifffile.imwrite(pair[1], target)
        paths.append(pair)
    return paths


def load(image: Path, target: Path) -> Arrays:
    """Read one pair."""
    return tifffile.imread(image), tifffile.imread(target)


def best_of(repeats: int, run: Callable[[], list[Any]]) -> tuple[tuple[float, float], list[Any]]:
    """Return the least wall and processor seconds of several runs, and the last result."""
    wall, processor, result = math.inf, math.inf, []
    for _ in range(repeats):
        start, start_processor = time.perf_counter(), time.process_time()
        result = run()
        wall = min(wall, time.perf_counter() - start)
        processor = min(processor, time.process_time() - start_processor)
    return (wall, processor), result


def plain_score(image: npt.NDArray[Any], target: npt.NDArray[Any]) -> tuple[dict[str, float], Any, Any]:
    """Score with the definition of `parfocal.qc.metrics.restoration`, written as one would by hand."""
    x = image.astype(np.float64)
    low, high = np.percentile(target, [0.1, 99.9])
    scaled = (target - low) / (high - low)
    covariance = np.cov(x.ravel(), scaled.ravel(), ddof=0)
    scale = covariance[0, 1] / covariance[0, 0]
    offset = scaled.mean() - scale * x.mean()
    fitted, clipped = np.clip(scale * x + offset, 0, 1), np.clip(scaled, 0, 1)
    ssim, ssim_map = structural_similarity(  # type: ignore[no-untyped-call]
        fitted, clipped, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
    )
    old_x, old_target = x - x.mean(), scaled - scaled.mean()
    old_x = old_x * (np.cov(old_x.ravel(), old_target.ravel())[0, 1] / np.var(old_x))
    numbers = {
        "nrmse": math.sqrt(mean_squared_error(clipped, fitted)),
        "psnr": peak_signal_noise_ratio(clipped, fitted, data_range=1),  # type: ignore[no-untyped-call]
        "ssim": ssim,
        "scale": scale,
        "offset": offset,
        "pearson": np.corrcoef(x.ravel(), scaled.ravel())[0, 1],
        "nrmse_zerocost": math.sqrt(np.abs(old_target - old_x).mean()),
    }
    return numbers, ssim_map, np.abs(clipped - fitted)


if __name__ == "__main__":
    main()
