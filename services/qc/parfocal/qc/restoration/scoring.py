"""Scoring the test images of a restoration or translation: every number of every image, streamed over the processors.

Two passes over the files: MicroSSIM is fitted to the whole set and can score an image only when all have been seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from parfocal import v1
from parfocal.qc.evaluation.inputs import Item, read_source, scratch_of
from parfocal.qc.evaluation.publish import write_maps
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.score_each import LeftOutError, of_prediction
from parfocal.qc.metrics._arrays import Float64
from parfocal.qc.metrics.bands import bands
from parfocal.qc.metrics.images.fit import has_range, with_range
from parfocal.qc.metrics.images.foreground import Foreground, RegionScore, above, find_foreground, score_regions
from parfocal.qc.metrics.images.microssim import MicroFit, MicroSample, fit_micro_ssim, micro_ssim_means, sample_for_fit
from parfocal.qc.metrics.images.resolution import (
    SMALLEST_SPECTRUM,
    FourierCorrelation,
    Spectrum,
    correlate_spectra,
    spectrum,
)
from parfocal.qc.metrics.images.restoration import RestorationMaps, RestorationScore, score_scaled, score_stack
from parfocal.qc.metrics.images.uncertainty import LEVELS, coverage
from parfocal.qc.metrics.images.volume import score_volume
from parfocal.qc.metrics.parallel import map_bounded, workers_for
from parfocal.qc.restoration.curves import curve_writer
from parfocal.qc.restoration.metrics import score_row
from parfocal.qc.restoration.reliability import SHOWN_LEVELS, write_coverage_csv
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import open_image
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.evaluations import Kind

_MICRO_WINDOWS: Final = 2**19
"""Windows of all images of a kind that MicroSSIM is fitted to, about 24 bytes each."""

_FEWEST_WINDOWS: Final = 16


class Baseline(Protocol):
    """Baseline of a prediction, besides its input."""

    def apply(self, source: NDArray[Any], scratch: Scratch) -> NDArray[np.float32]:
        """Return the baseline's image of a source, which lies in `scratch`."""
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
    rows: tuple[ScoreRow, ...]
    curves: Mapping[Kind, FourierCorrelation]
    samples: Mapping[Kind, tuple[MicroSample, ...]]
    threshold: float
    coverage: Float64 | None = None


def windows_each(images: int) -> int:
    """Return how many windows to sample of each image for the fit of MicroSSIM."""
    return max(_FEWEST_WINDOWS, _MICRO_WINDOWS // images)


def collect_scores(
    context: JobContext,
    stream: Iterator[ImageScores],
    baselines: Mapping[str, Baseline],
    shapes: Iterable[tuple[int, ...]],
    folder: Path,
) -> list[ImageScores]:
    """Return the scores of all images with MicroSSIM; write `frc.csv` and `coverage.csv`.

    Parameters
    ----------
    stream
        One image after the other; curves and samples are not kept.
    baselines
        By role of the target: its baseline.
    shapes
        Shapes of the targets in pixels, by which the number of threads is chosen.
    folder
        Folder to write to.
    """
    samples: dict[tuple[str, Kind], list[MicroSample]] = {}
    coverages: dict[str, Float64] = {}
    kept: list[ImageScores] = []
    with curve_writer(folder / "frc.csv") as write:
        for scored in stream:
            for kind, curve in scored.curves.items():
                write(scored.item.label, kind, curve, scored.item.pixel_size)
            if scored.coverage is not None:
                coverages[scored.item.label] = scored.coverage
            for kind, values in scored.samples.items():
                samples.setdefault((scored.item.role, kind), []).extend(values)
            kept.append(replace(scored, curves={}, samples={}))
    if coverages:
        write_coverage_csv(folder / "coverage.csv", coverages)
    done = v1.Progress(stage="scoring", step=len(kept), steps=len(kept), fraction=1.0)
    context.report_progress(done, message="MicroSSIM", at_once=True)
    fits = {key: fit_micro_ssim(values) for key, values in samples.items()}
    of_image = partial(_with_micro_ssim, baselines=baselines, fits=fits, scratch=scratch_of(context))
    result = []
    for completed in map_bounded(of_image, kept, workers_for(shapes)):
        context.check_cancelled()
        result.append(completed)
    return result


def score_item(
    item: Item, baseline: Baseline, *, windows: int, folder: Path | None = None, scratch: Scratch = IN_MEMORY
) -> ImageScores:
    """Score one image or stack in its three versions.

    Parameters
    ----------
    windows
        Number of windows to sample for the fit of MicroSSIM.
    folder
        Folder to write the maps to; None to write none.
    scratch
        Where the images lie that are too large for the memory, and what is made of them.
    """
    target_image = open_image(item.target, scratch)
    pixels = target_image.pixels
    planes = pixels if pixels.ndim == 3 else pixels[np.newaxis]
    if not any(has_range(plane, name=item.label) for plane in planes):
        why = "its target is constant, or nearly"
        raise LeftOutError(f"{item.label} was not judged: {why}, so that it cannot be compared with.", why)
    target = _Target(
        pixels,
        find_foreground(pixels, name=item.label, scratch=scratch),
        spectrum(pixels, name=item.label) if min(pixels.shape[-2:]) >= SMALLEST_SPECTRUM else None,
    )
    rows: list[ScoreRow] = []
    curves: dict[Kind, FourierCorrelation] = {}
    samples: dict[Kind, tuple[MicroSample, ...]] = {}
    covered: Float64 | None = None
    # The input first: what is wrong with the target shows there, and is not taken for a fault of the prediction.
    for kind, image in versions(item, baseline, pixels.ndim, scratch):
        with of_prediction(item.label, kind):
            version = _score_version(item, kind, image, target, windows, scratch)
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
    """Reference of all versions of an image; without a spectrum for images that are too small for one."""

    pixels: NDArray[Any]
    foreground: Foreground
    spectrum: Spectrum | None


@dataclass(frozen=True)
class _Version:
    """One version of an image, scored."""

    rows: tuple[ScoreRow, ...]
    maps: RestorationMaps
    samples: tuple[MicroSample, ...]
    curve: FourierCorrelation | None
    coverage: Float64 | None


def _score_version(
    item: Item, kind: Kind, image: NDArray[Any], target: _Target, windows: int, scratch: Scratch
) -> _Version:
    name, foreground = f"{item.label} ({kind})", target.foreground
    scores, maps = score_planes(image, target.pixels, name, foreground.mask, scratch)
    whole = _of_whole(image, target.pixels, foreground.mask, name)
    curve = None
    if target.spectrum is not None:
        curve = correlate_spectra(spectrum(image, name=name), target.spectrum, pixel_size=item.voxel_um)
        whole |= _resolution(curve, item)
    planes = _planes(image, target.pixels, scores, foreground.mask)
    widths = _uncertainty(item, kind, target.pixels.shape, scratch)
    rows: list[ScoreRow] = []
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
        rows.append(score_row(item.label, kind, score, index if image.ndim == 3 else None, more))
    samples = tuple(
        sample_for_fit(plane, target_plane, windows=max(_FEWEST_WINDOWS, windows // len(planes)))
        for score, plane, target_plane, _ in planes
        if score is not None
    )
    return _Version(tuple(rows), maps, samples, curve, np.mean(covered, axis=0) if covered else None)


def _uncertainty(item: Item, kind: Kind, shape: tuple[int, ...], scratch: Scratch) -> NDArray[Any] | None:
    """Return the planes of the uncertainty, where the prediction came with one."""
    if kind != "prediction" or item.uncertainty is None:
        return None
    widths = open_image(item.uncertainty, scratch).pixels
    if widths.shape != shape:
        raise InvalidInputError(f"{item.label}: the uncertainty has shape {widths.shape} and the target {shape}.")
    return widths if len(shape) == 3 else widths[np.newaxis]


def versions(item: Item, baseline: Baseline, dimensions: int, scratch: Scratch) -> Iterator[tuple[Kind, NDArray[Any]]]:
    """Yield what is scored of an image, one after the other: input, baseline and prediction."""
    source = read_source(item.source, scratch)
    yield "input", shown_input(source, dimensions)
    yield "baseline", baseline.apply(source, scratch)
    del source
    with of_prediction(item.label):
        if item.problem:
            raise InvalidInputError(item.problem)
        prediction = open_image(item.prediction, scratch).pixels
    yield "prediction", prediction


def shown_input(source: NDArray[Any], dimensions: int) -> NDArray[Any]:
    """Return what is shown and scored of an input: of several channels the middle one, as of a focus series."""
    return source[source.shape[0] // 2] if source.ndim > dimensions else source


def score_planes(
    image: NDArray[Any], target: NDArray[Any], name: str, foreground: NDArray[np.bool_], scratch: Scratch
) -> tuple[tuple[RestorationScore | None, ...], RestorationMaps]:
    """Score an image, or each plane of a stack; None for planes without a score."""
    if target.ndim == 3:
        return score_stack(image, target, foreground=foreground, name=name, scratch=scratch)
    ranged = with_range(target, name=name)
    score, maps = score_scaled(image, ranged, foreground=foreground, name=name, scratch=scratch)
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
    """Return the scores of one plane inside and outside the foreground, by their keys."""
    values = {
        "foreground_fraction": sum(int(np.count_nonzero(mask[band.rows])) for band in bands(mask.shape)) / mask.size,
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
    values = {"resolution_px": curve.resolution, "resolution_at_limit": float(curve.at_least)}
    if item.pixel_size is not None:
        values["resolution_um"] = curve.resolution * item.pixel_size
    return values


def _with_micro_ssim(
    scored: ImageScores,
    *,
    baselines: Mapping[str, Baseline],
    fits: Mapping[tuple[str, Kind], MicroFit],
    scratch: Scratch,
) -> ImageScores:
    """Return one image with MicroSSIM in its rows."""
    item = scored.item
    target = open_image(item.target, scratch).pixels
    mask = above(target, scored.threshold, scratch)
    rows = [
        _micro_row(row, image, target, mask, fits[item.role, kind])
        for kind, image in versions(item, baselines[item.role], target.ndim, scratch)
        for row in scored.rows
        if row.kind == kind
    ]
    return replace(scored, rows=tuple(rows))


def _micro_row(
    row: ScoreRow, image: NDArray[Any], target: NDArray[Any], mask: NDArray[np.bool_], fit: MicroFit
) -> ScoreRow:
    if row.slice is not None:
        image, target, mask = image[row.slice], target[row.slice], mask[row.slice]
    means = micro_ssim_means(image, target, fit, mask, name=row.image)
    inside, outside = means.by_part
    more = {"micro_ssim": means.whole, "micro_ssim_inside": inside, "micro_ssim_outside": outside}
    return replace(row, values={**row.values, **more})
