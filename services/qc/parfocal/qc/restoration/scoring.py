"""Scoring the test images of a restoration or translation: every number of every image, streamed over the processors.

Two passes over the files: MicroSSIM is fitted to the whole set and can score an image only when all have been seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from parfocal import v1
from parfocal.qc.evaluation.inputs import Item
from parfocal.qc.evaluation.publish import write_maps
from parfocal.qc.evaluation.score_each import of_prediction, score_each
from parfocal.qc.metrics._arrays import Float64
from parfocal.qc.metrics.images.foreground import Foreground, RegionScore, find_foreground, score_regions
from parfocal.qc.metrics.images.microssim import MicroFit, MicroSample, fit_micro_ssim, micro_ssim_map, sample_for_fit
from parfocal.qc.metrics.images.resolution import (
    SMALLEST_SPECTRUM,
    FourierCorrelation,
    Spectrum,
    correlate_spectra,
    spectrum,
)
from parfocal.qc.metrics.images.restoration import (
    RestorationMaps,
    RestorationScore,
    scale_target,
    score_scaled,
    score_stack,
)
from parfocal.qc.metrics.images.ssim import mean_ssim, mean_ssim_by_part
from parfocal.qc.metrics.images.uncertainty import LEVELS, coverage
from parfocal.qc.metrics.images.volume import score_volume
from parfocal.qc.metrics.parallel import map_bounded, workers_for
from parfocal.qc.restoration.curves import curve_writer
from parfocal.qc.restoration.reliability import SHOWN_LEVELS, write_coverage_csv
from parfocal.qc.restoration.rows import Kind, MetricsRow
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import read_image
from parfocal.runtime.jobs.context import JobContext

_MICRO_WINDOWS: Final = 2**19
"""Windows of all images of a kind that MicroSSIM is fitted to, about 24 bytes each."""

_FEWEST_WINDOWS: Final = 16


class Baseline(Protocol):
    """What a prediction is compared with besides its input."""

    def apply(self, source: NDArray[Any]) -> NDArray[np.float32]:
        """Return the baseline's image of a source."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what it is and how it was chosen, as plain JSON types."""
        ...


@dataclass(frozen=True)
class ImageScores:
    """The rows of one image, without MicroSSIM, and beside them the curves and samples of each kind.

    `threshold` is that of its foreground, in grey values of the target, from which the second pass has the foreground
    again. `coverage` is that of the prediction's uncertainty, see `metrics.images.uncertainty`; None without one.
    """

    item: Item
    rows: tuple[MetricsRow, ...]
    curves: Mapping[Kind, FourierCorrelation]
    samples: Mapping[Kind, tuple[MicroSample, ...]]
    threshold: float
    coverage: Float64 | None = None


def score_items(
    context: JobContext, items: Sequence[Item], baselines: Mapping[str, Baseline], folder: Path, *, maps: bool
) -> tuple[list[MetricsRow], dict[str, str]]:
    """Score all items as input, baseline and prediction; write `frc.csv`, `coverage.csv` and, if asked for, the maps.

    Parameters
    ----------
    baselines
        By role of the target.
    folder
        Where to write.
    maps
        Write SSIM and error maps.

    Returns
    -------
    rows
        The scores, without those of images whose prediction cannot be scored.
    unscorable
        The labels of these, and why.

    Raises
    ------
    InvalidInputError
        An input or target cannot be used, which the message names, or none of the predictions.
    """
    windows = max(_FEWEST_WINDOWS, _MICRO_WINDOWS // len(items))
    workers = workers_for(item.shape for item in items)

    def score(item: Item) -> ImageScores:
        return score_item(item, baselines[item.role], windows=windows, folder=folder / "maps" if maps else None)

    unscorable: dict[str, str] = {}
    rows: list[MetricsRow] = []
    samples: dict[tuple[str, Kind], list[MicroSample]] = {}
    coverages: dict[str, Float64] = {}
    thresholds: dict[str, float] = {}
    with curve_writer(folder / "frc.csv") as write:
        for scored in score_each(context, items, score, shown=_shown, unscorable=unscorable, workers=workers):
            rows.extend(scored.rows)
            thresholds[scored.item.label] = scored.threshold
            for kind, curve in scored.curves.items():
                write(scored.item.label, kind, curve, scored.item.pixel_size)
            if scored.coverage is not None:
                coverages[scored.item.label] = scored.coverage
            for kind, values in scored.samples.items():
                samples.setdefault((scored.item.role, kind), []).extend(values)
    if coverages:
        write_coverage_csv(folder / "coverage.csv", coverages)
    done = v1.Progress(stage="scoring", step=len(items), steps=len(items), fraction=1.0)
    context.report_progress(done, message="MicroSSIM", at_once=True)
    fits = {key: fit_micro_ssim(values) for key, values in samples.items()}
    by_image: dict[str, list[MetricsRow]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(row)
    of_image = partial(_with_micro_ssim, rows=by_image, baselines=baselines, fits=fits, thresholds=thresholds)
    result: list[MetricsRow] = []
    for completed in map_bounded(of_image, [item for item in items if item.label in by_image], workers):
        context.check_cancelled()
        result.extend(completed)
    return result, unscorable


def score_item(item: Item, baseline: Baseline, *, windows: int, folder: Path | None = None) -> ImageScores:
    """Score one image or stack in its three versions.

    Parameters
    ----------
    windows
        How many windows to sample for the fit of MicroSSIM.
    folder
        Where to write the maps; None for nowhere.
    """
    target_image = read_image(item.target)
    pixels = target_image.pixels
    target = _Target(
        pixels,
        find_foreground(pixels, name=item.label),
        spectrum(pixels, name=item.label) if min(pixels.shape[-2:]) >= SMALLEST_SPECTRUM else None,
    )
    rows: list[MetricsRow] = []
    curves: dict[Kind, FourierCorrelation] = {}
    samples: dict[Kind, tuple[MicroSample, ...]] = {}
    covered: Float64 | None = None
    # The input first: what is wrong with the target shows there, and is not taken for a fault of the prediction.
    for kind, image in versions(item, baseline, pixels.ndim):
        with of_prediction(item.label, kind):
            version = _score_version(item, kind, image, target, windows)
        rows.extend(version.rows)
        samples[kind] = version.samples
        covered = version.coverage
        if version.curve is not None:
            curves[kind] = version.curve
        if folder is not None:
            write_maps(folder / kind, item.label, {"ssim": version.maps.ssim, "rse": version.maps.rse}, target_image)
    return ImageScores(item, tuple(rows), curves, samples, target.foreground.grey_value, covered)


@dataclass(frozen=True)
class _Target:
    """What all versions of an image are scored against; no spectrum of images that are too small for one."""

    pixels: NDArray[Any]
    foreground: Foreground
    spectrum: Spectrum | None


@dataclass(frozen=True)
class _Version:
    """One version of an image, scored."""

    rows: tuple[MetricsRow, ...]
    maps: RestorationMaps
    samples: tuple[MicroSample, ...]
    curve: FourierCorrelation | None
    coverage: Float64 | None


def _score_version(item: Item, kind: Kind, image: NDArray[Any], target: _Target, windows: int) -> _Version:
    name, foreground = f"{item.label} ({kind})", target.foreground
    scores, maps = score_planes(image, target.pixels, name, foreground.mask)
    whole = _of_whole(image, target.pixels, foreground.mask, name)
    curve = None
    if target.spectrum is not None:
        curve = correlate_spectra(spectrum(image, name=name), target.spectrum, pixel_size=item.voxel_um)
        whole |= _resolution(curve, item)
    planes = _planes(image, target.pixels, scores, foreground.mask)
    widths = _uncertainty(item, kind, target.pixels.shape)
    rows: list[MetricsRow] = []
    covered: list[Float64] = []
    for index, (score, plane, target_plane, mask) in enumerate(planes):
        if score is None:
            continue
        more = regions(plane_maps(maps, index), plane, target_plane, mask, foreground) | whole
        if widths is not None and score.failed is None:
            whole_plane, *parts = coverage(target_plane, plane, widths[index], score, mask, name=name)
            covered.append(whole_plane)
            more |= {
                f"coverage_{100 * level:.0f}{part}": float(values[LEVELS.index(level)])
                for part, values in zip(("", "_inside", "_outside"), (whole_plane, *parts), strict=True)
                for level in SHOWN_LEVELS
            }
        rows.append(MetricsRow(item.label, kind, score, index if image.ndim == 3 else None, more))
    samples = tuple(
        sample_for_fit(plane, target_plane, windows=max(_FEWEST_WINDOWS, windows // len(planes)))
        for score, plane, target_plane, _ in planes
        if score is not None
    )
    return _Version(tuple(rows), maps, samples, curve, np.mean(covered, axis=0) if covered else None)


def _uncertainty(item: Item, kind: Kind, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Return the planes of the uncertainty, where the prediction came with one."""
    if kind != "prediction" or item.uncertainty is None:
        return None
    widths = read_image(item.uncertainty).pixels
    if widths.shape != shape:
        raise InvalidInputError(f"{item.label}: the uncertainty has shape {widths.shape} and the target {shape}.")
    return widths if len(shape) == 3 else widths[np.newaxis]


def versions(item: Item, baseline: Baseline, dimensions: int) -> Iterator[tuple[Kind, NDArray[Any]]]:
    """Yield what is scored of an image, one after the other: input, baseline and prediction."""
    source = read_image(item.source).pixels
    yield "input", shown_input(source, dimensions)
    yield "baseline", baseline.apply(source)
    del source
    with of_prediction(item.label):
        prediction = read_image(item.prediction).pixels
    yield "prediction", prediction


def shown_input(source: NDArray[Any], dimensions: int) -> NDArray[Any]:
    """Return what is shown and scored of an input: of several channels the middle one, as of a focus series."""
    return source[source.shape[0] // 2] if source.ndim > dimensions else source


def score_planes(
    image: NDArray[Any], target: NDArray[Any], name: str, foreground: NDArray[np.bool_]
) -> tuple[tuple[RestorationScore | None, ...], RestorationMaps]:
    """Score an image, or each plane of a stack; None for planes without a score."""
    if target.ndim == 3:
        return score_stack(image, target, foreground=foreground, name=name)
    score, maps = score_scaled(image, scale_target(target, name=name), foreground=foreground, name=name)
    return (score,), maps


def plane_maps(maps: RestorationMaps, index: int) -> RestorationMaps:
    """Return the maps of one plane of a stack, or those of an image."""
    return maps if maps.ssim.ndim == 2 else RestorationMaps(maps.ssim[index], maps.rse[index])


def regions(
    maps: RestorationMaps,
    image: NDArray[Any],
    target: NDArray[Any],
    mask: NDArray[np.bool_],
    foreground: Foreground,
) -> dict[str, float]:
    """Return the scores of one plane inside and outside the foreground, by their names in `MORE_COLUMNS`."""
    values = {
        "foreground": float(np.count_nonzero(mask)) / mask.size,
        "foreground_threshold": foreground.threshold,
    }
    return values | _by_part("", *score_regions(maps, image, target, mask))


def _planes(
    image: NDArray[Any],
    target: NDArray[Any],
    scores: Sequence[RestorationScore | None],
    mask: NDArray[np.bool_],
) -> list[tuple[RestorationScore | None, NDArray[Any], NDArray[Any], NDArray[np.bool_]]]:
    if target.ndim == 2:
        return [(scores[0], image, target, mask)]
    return list(zip(scores, image, target, mask, strict=True))


def _of_whole(image: NDArray[Any], target: NDArray[Any], mask: NDArray[np.bool_], name: str) -> dict[str, float]:
    if target.ndim == 2:
        return {}
    score = score_volume(image, target, mask=mask, name=name)
    assert score.inside is not None
    assert score.outside is not None
    values = {"volume_nrmse": score.nrmse, "volume_psnr": score.psnr, "volume_ssim": score.ssim}
    return values | _by_part("volume_", score.inside, score.outside)


def _by_part(prefix: str, inside: RegionScore, outside: RegionScore) -> dict[str, float]:
    return {
        f"{prefix}{metric}_{part}": getattr(score, metric)
        for part, score in (("inside", inside), ("outside", outside))
        for metric in ("nrmse", "psnr", "ssim", "pearson", "snr")
    }


def _resolution(curve: FourierCorrelation, item: Item) -> dict[str, float]:
    values = {"resolution": curve.resolution, "resolution_at_least": float(curve.at_least)}
    if item.pixel_size is not None:
        values["resolution_um"] = curve.resolution * item.pixel_size
    return values


def _with_micro_ssim(
    item: Item,
    *,
    rows: Mapping[str, Sequence[MetricsRow]],
    baselines: Mapping[str, Baseline],
    fits: Mapping[tuple[str, Kind], MicroFit],
    thresholds: Mapping[str, float],
) -> list[MetricsRow]:
    """Return the rows of one image with MicroSSIM."""
    target = read_image(item.target).pixels
    mask = target >= thresholds[item.label]
    return [
        _micro_row(row, image, target, mask, fits[item.role, kind])
        for kind, image in versions(item, baselines[item.role], target.ndim)
        for row in rows[item.label]
        if row.kind == kind
    ]


def _micro_row(
    row: MetricsRow, image: NDArray[Any], target: NDArray[Any], mask: NDArray[np.bool_], fit: MicroFit
) -> MetricsRow:
    if row.slice is not None:
        image, target, mask = image[row.slice], target[row.slice], mask[row.slice]
    values = micro_ssim_map(image, target, fit, name=row.image)
    inside, outside = mean_ssim_by_part(values, mask)
    more = {"micro_ssim": mean_ssim(values), "micro_ssim_inside": inside, "micro_ssim_outside": outside}
    return replace(row, more={**row.more, **more})


def _shown(scored: ImageScores) -> dict[str, float]:
    return mean_values([row for row in scored.rows if row.kind == "prediction"], ("psnr", "ssim", "nrmse"))


def mean_values(rows: Sequence[MetricsRow], metrics: Sequence[str]) -> dict[str, float]:
    """Return the means over the rows that have a value, of the metrics that have one."""
    means: dict[str, float] = {}
    for metric in metrics:
        values = [value for row in rows if not math.isnan(value := row.value(metric))]
        if values:
            means[metric] = float(np.mean(values))
    return means
