"""How much faster restoration scoring is than a plain loop of scikit-image calls with the same definitions.

Both score the same TIFF files in one run, reading included, and must agree: NRMSE, PSNR, SSIM with its map, Pearson r,
multi-scale SSIM and MicroSSIM, all of them over the whole image, inside the foreground and outside, and Fourier ring
correlation.

    python benchmarks/qc_restoration.py --size 1024 --images 16

The plain loop uses numpy, scipy and scikit-image in float64, one image after the other. Times on a shared machine vary;
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
from scipy.ndimage import gaussian_filter, median_filter
from scipy.signal.windows import tukey
from skimage.filters import threshold_otsu
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from parfocal.qc.metrics.images.fit import scale_target
from parfocal.qc.metrics.images.foreground import find_foreground, score_regions
from parfocal.qc.metrics.images.microssim import MicroFit, micro_ssim_map
from parfocal.qc.metrics.images.multiscale import MS_SSIM_WEIGHTS
from parfocal.qc.metrics.images.resolution import correlate_spectra, spectrum
from parfocal.qc.metrics.images.restoration import score_scaled
from parfocal.qc.metrics.parallel import default_workers, map_bounded
from parfocal.runtime.images.ssim import mean_ssim, mean_ssim_by_part

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any]]
Scored = tuple[dict[str, float], npt.NDArray[Any], npt.NDArray[Any]]
MICRO_FIT = MicroFit(120.0, 400.0, 0.3)  # any fit will do: both ways have the same one


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
        single_times, _ = best_of(options.repeats, lambda: [fast_score(load) for load in loaders])
        many_times, fast = best_of(options.repeats, lambda: list(map_bounded(fast_score, loaders, options.workers)))

    worst: dict[str, float] = {}
    for (numbers, ssim, rse), (plain_numbers, plain_ssim, plain_rse) in zip(fast, plain, strict=True):
        differences = {name: abs(numbers[name] - value) for name, value in plain_numbers.items()}
        differences["SSIM map"] = float(np.abs(ssim - plain_ssim).max())
        differences["error map"] = float(np.abs(rse - plain_rse).max())
        worst = {name: max(difference, worst.get(name, 0.0)) for name, difference in differences.items()}

    print(f"{options.images} images of {options.size} x {options.size}, reading included, best of {options.repeats}")
    for name, (wall, processor) in (
        ("plain loop of scikit-image", plain_times),
        ("Parfocal, 1 thread", single_times),
        (f"Parfocal, {options.workers} threads", many_times),
    ):
        ratios = f"ratio {plain_times[0] / wall:.1f}, of processor time {plain_times[1] / processor:.1f}"
        print(f"{name:28} {wall:7.2f} s, processor {processor:7.2f} s   {ratios}")
    print(f"largest absolute difference: {max(worst.values()):.1e}")
    for name, difference in worst.items():
        print(f"  {name:18} {difference:.1e}")


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


def fast_score(load: Callable[[], Arrays]) -> Scored:
    """Score with Parfocal, as an evaluation does."""
    image, target = load()
    foreground, scaled, target_spectrum = find_foreground(target), scale_target(target), spectrum(target)
    score, maps = score_scaled(image, scaled, foreground=foreground.mask)
    whole = "nrmse", "psnr", "ssim", "ms_ssim", "ms_ssim_inside", "ms_ssim_outside", "scale", "offset", "pearson"
    numbers = {name: getattr(score, name) for name in whole}
    numbers["foreground"] = foreground.fraction
    for part, values in zip(("inside", "outside"), score_regions(maps, image, target, foreground.mask), strict=True):
        numbers |= {f"{name}_{part}": getattr(values, name) for name in ("nrmse", "ssim", "pearson")}
    similarity = micro_ssim_map(image, target, MICRO_FIT)
    numbers["micro_ssim"] = mean_ssim(similarity)
    parts = mean_ssim_by_part(similarity, foreground.mask)
    numbers["micro_ssim_inside"], numbers["micro_ssim_outside"] = parts
    numbers["resolution"] = correlate_spectra(spectrum(image), target_spectrum).resolution
    return numbers, maps.ssim, maps.rse


def plain_score(image: npt.NDArray[Any], target: npt.NDArray[Any]) -> Scored:
    """Score with the same definitions, written as one would by hand."""
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
    error = np.abs(clipped - fitted)
    counts, edges = np.histogram(clipped, 256, (0, 1))
    mask = scaled >= threshold_otsu(hist=(counts, edges[1:]))
    numbers = {
        "nrmse": math.sqrt(mean_squared_error(clipped, fitted)),
        "psnr": peak_signal_noise_ratio(clipped, fitted, data_range=1),  # type: ignore[no-untyped-call]
        "ssim": ssim,
        "scale": scale,
        "offset": offset,
        "pearson": np.corrcoef(x.ravel(), scaled.ravel())[0, 1],
        "foreground": mask.mean(),
    }
    numbers["ms_ssim"], numbers["ms_ssim_inside"], numbers["ms_ssim_outside"] = plain_multiscale(fitted, clipped, mask)
    inner = (slice(5, -5),) * 2
    for part, chosen in (("inside", mask), ("outside", ~mask)):
        numbers[f"nrmse_{part}"] = math.sqrt((error[chosen] ** 2).mean())
        numbers[f"ssim_{part}"] = ssim_map[inner][chosen[inner]].mean()
        numbers[f"pearson_{part}"] = np.corrcoef(x[chosen], scaled[chosen])[0, 1]
    data_range = float(target.max()) - float(target.min())
    numbers["micro_ssim"], micro_map = structural_similarity(  # type: ignore[no-untyped-call]
        target - MICRO_FIT.target_offset,
        MICRO_FIT.factor * (x - MICRO_FIT.image_offset),
        gaussian_weights=True,
        sigma=1.5,
        data_range=data_range,
        full=True,
    )
    for part, chosen in (("inside", mask), ("outside", ~mask)):
        numbers[f"micro_ssim_{part}"] = micro_map[inner][chosen[inner]].mean()
    numbers["resolution"] = plain_resolution(x, target)
    return numbers, ssim_map, error


def plain_multiscale(x: npt.NDArray[Any], y: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> list[float]:
    """Multi-scale SSIM of images of at least 176 x 176 pixels: whole, inside and outside a foreground."""
    result, inside = [1.0, 1.0, 1.0], mask.astype(np.float64)
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        blurred = partial(gaussian_filter, sigma=1.5, truncate=3.5)
        mx, my = blurred(x), blurred(y)
        vx, vy, covariance = blurred(x * x) - mx * mx, blurred(y * y) - my * my, blurred(x * y) - mx * my
        similarity = (2 * covariance + 9e-4) / (vx + vy + 9e-4)
        if scale == len(MS_SSIM_WEIGHTS) - 1:
            similarity *= (2 * mx * my + 1e-4) / (mx * mx + my * my + 1e-4)
        for index, part in enumerate((np.ones_like(inside), inside, 1 - inside)):
            result[index] *= np.average(similarity[5:-5, 5:-5], weights=part[5:-5, 5:-5]) ** weight
        height, width = (size // 2 * 2 for size in x.shape)
        x, y, inside = (
            a[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for a in (x, y, inside)
        )
    return result


def plain_resolution(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """Resolution of square images by ring correlation, in pixels."""
    size = x.shape[0]
    taper = np.outer(*[tukey(size + 2, 0.25)[1:-1]] * 2)
    first, second = np.fft.fft2((x - x.mean()) * taper), np.fft.fft2((y - y.mean()) * taper)
    ring = np.rint(size * np.hypot.outer(np.fft.fftfreq(size), np.fft.fftfreq(size))).astype(int).ravel()
    products = ((first * second.conj()).real, np.abs(first) ** 2, np.abs(second) ** 2)
    cross, power, other = (np.bincount(ring, product.ravel())[1 : size // 2 + 1] for product in products)
    curve = median_filter(cross / np.sqrt(power * other), 5, mode="nearest")
    below = np.flatnonzero(curve < 1 / 7)
    if not below.size:
        return 2.0
    last = below[0] - 1
    return float(size / (last + 1 + (curve[last] - 1 / 7) / (curve[last] - curve[last + 1])))


if __name__ == "__main__":
    main()
