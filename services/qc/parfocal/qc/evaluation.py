"""Evaluation jobs: fetch predictions and targets, score them, publish tables, maps, figure and verdict.

Scoring streams: at any time only as many images are in memory as there are threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray

from parfocal import v1
from parfocal.qc.figures import restoration_figure, save_png, write_map
from parfocal.qc.metrics.baseline import BaselineChoice, best_gaussian_sigma, gaussian_baseline
from parfocal.qc.metrics.parallel import map_bounded
from parfocal.qc.metrics.restoration import (
    RestorationMaps,
    RestorationScore,
    scale_target,
    score_scaled,
    score_stack,
)
from parfocal.qc.parameters import RestorationParameters
from parfocal.qc.summary import (
    KINDS,
    Kind,
    MetricsRow,
    RestorationSummary,
    Verdict,
    judge,
    summarise,
    summary_json,
    write_metrics_csv,
)
from parfocal.runtime.errors import InvalidInputError, NotFoundError
from parfocal.runtime.images import image_stem, read_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.manifests import (
    DATASET_MANIFEST,
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    DatasetManifest,
    ModelManifest,
    ResultFile,
    ResultManifest,
)
from parfocal.runtime.publish import empty_folder, folder_files, upload_files
from parfocal.runtime.store import Location

_CONTENT = ("metrics.csv", "summary.json", "verdict.json", "figure.png")


@dataclass(frozen=True)
class _Item:
    """One test image: where its three versions lie, and the digest of its source."""

    stem: str
    source: Path
    target: Path
    prediction: Path
    source_sha256: str
    pixel_size: float | None


@dataclass(frozen=True)
class _Scored:
    item: _Item
    rows: tuple[MetricsRow, ...]


def evaluate(context: JobContext) -> None:
    """Score the job's prediction and publish the evaluation; add it to the model if one is named."""
    parameters = context.parameters
    assert isinstance(parameters, RestorationParameters)
    spec = context.job.evaluation
    model_place = Location.parse(spec.model_uri) if spec.model_uri else None
    if context.store.exists(context.reserved / RESULT_MANIFEST):
        context.record_output("evaluation", str(context.reserved), {})
        return
    context.report_progress(v1.Progress(stage="preparing"), message="fetching images", at_once=True)
    context.describe(precision="float32")
    dataset = DatasetManifest.read(context.store, Location.parse(spec.dataset_uri) / DATASET_MANIFEST)
    model = ModelManifest.read(context.store, model_place / MODEL_MANIFEST) if model_place else None
    items = _items(context, dataset)
    context.report_progress(v1.Progress(stage="preparing"), message="choosing the Gaussian filter", at_once=True)
    baseline = best_gaussian_sigma(_validation_pairs(context, dataset, model))
    folder = empty_folder(context.scratch / "evaluation")
    rows = _score(context, items, baseline, parameters, folder)
    summary = summarise(rows)
    verdict = _judge(summary, parameters, items, model)
    _write(folder, context, rows, summary, verdict, parameters, baseline, items)
    metrics = {
        f"{kind}_{name}": summary.metrics[kind][name].mean for kind in KINDS for name in ("psnr", "ssim", "nrmse")
    }
    _publish(context, folder, verdict, summary, rows, items, metrics)
    if model_place is not None:
        place = model_place / "qc" / context.job.id
        # verdict.json last: it is what readers look for.
        for name in sorted(_CONTENT, key=lambda name: name == "verdict.json"):
            context.store.upload(folder / name, place / name)
        context.record_output("qc", str(place), metrics)


def _items(context: JobContext, dataset: DatasetManifest) -> list[_Item]:
    spec = context.job.evaluation
    place = Location.parse(spec.dataset_uri)
    split = spec.split or "test"
    prediction_place = Location.parse(spec.prediction_uri)
    predictions = {
        image_stem(Path(entry.name)): entry
        for entry in ResultManifest.read(context.store, prediction_place / RESULT_MANIFEST).files
        if "/" not in entry.name
    }
    sources = {image.stem: image for image in dataset.select(split, "source")}
    entries = {entry.name: entry for entry in dataset.files}
    missing, items = [], []
    for target in dataset.select(split, "target"):
        if target.stem not in predictions or target.stem not in sources:
            missing.append(target.stem)
            continue
        source_entry = entries[sources[target.stem].file]
        pixel_size = target.pixel_size_um[0] if target.pixel_size_um else None
        items.append(
            _Item(
                stem=target.stem,
                source=context.cache.fetch(context.store, place, source_entry),
                target=context.cache.fetch(context.store, place, entries[target.file]),
                prediction=context.cache.fetch(context.store, prediction_place, predictions[target.stem]),
                source_sha256=source_entry.sha256,
                pixel_size=pixel_size,
            )
        )
    if not items:
        raise InvalidInputError(
            f"No prediction of {spec.prediction_uri} has the name of a target of {spec.dataset_uri} ({split}). "
            "Predict this split of the dataset first."
        )
    if missing:
        context.warn(
            f"{len(missing)} of {len(missing) + len(items)} test images have no prediction and were not scored: "
            f"{', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}."
        )
    return items


def _validation_pairs(
    context: JobContext, dataset: DatasetManifest, model: ModelManifest | None
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the pairs on which the baseline may be tuned: the model's validation images, never the test images."""
    uri = context.job.evaluation.dataset_uri
    if model is not None and model.split.get("validation"):
        regions = [(region["stem"], region["start"], region["stop"]) for region in model.split["validation"]]
        if model.dataset_uri != uri:
            uri = model.dataset_uri
            dataset = DatasetManifest.read(context.store, Location.parse(uri) / DATASET_MANIFEST)
    else:
        regions = [(image.stem, None, None) for image in dataset.select("train", "source")]
    place = Location.parse(uri)
    entries = {entry.name: entry for entry in dataset.files}
    files = {(image.role, image.stem): entries[image.file] for image in dataset.images if image.split == "train"}
    for stem, start, stop in regions:
        pair = []
        for role in ("source", "target"):
            if (role, stem) not in files:
                raise NotFoundError(f"The validation image {stem!r} is missing in {place}.")
            pixels = read_image(context.cache.fetch(context.store, place, files[role, stem])).pixels
            crop = tuple(slice(*bounds) for bounds in zip(start, stop, strict=True)) if start is not None else ...
            pair.append(pixels[crop])
        yield pair[0], pair[1]


def _score(
    context: JobContext,
    items: list[_Item],
    baseline: BaselineChoice,
    parameters: RestorationParameters,
    folder: Path,
) -> list[MetricsRow]:
    def score(item: _Item) -> _Scored:
        target = read_image(item.target).pixels
        rows: list[MetricsRow] = []
        for kind, image in _versions(item, baseline):
            scores, maps = _score_one(image, target, f"{item.stem} ({kind})")
            for index, value in enumerate(scores):
                if value is not None:
                    rows.append(MetricsRow(item.stem, kind, value, index if target.ndim == 3 else None))
            if parameters.maps:
                _write_maps(folder / "maps" / kind, item, maps)
        return _Scored(item, tuple(rows))

    rows: list[MetricsRow] = []
    for number, scored in enumerate(map_bounded(score, items), start=1):
        context.check_cancelled()
        rows.extend(scored.rows)
        mean = [row.score for row in scored.rows if row.kind == "prediction"]
        metrics = {name: float(np.mean([getattr(row, name) for row in mean])) for name in ("psnr", "ssim", "nrmse")}
        context.report_image(
            v1.ImageCompleted(name=scored.item.stem, metrics=metrics),
            v1.Progress(stage="scoring", step=number, steps=len(items), fraction=number / len(items)),
        )
    return rows


def _versions(item: _Item, baseline: BaselineChoice) -> Iterator[tuple[Kind, NDArray[Any]]]:
    source = read_image(item.source).pixels
    yield "input", source
    yield "baseline", gaussian_baseline(source, baseline.sigma)
    yield "prediction", read_image(item.prediction).pixels


def _score_one(
    image: NDArray[Any], target: NDArray[Any], name: str
) -> tuple[tuple[RestorationScore | None, ...], RestorationMaps]:
    if target.ndim == 3:
        return score_stack(image, target, name=name)
    score, maps = score_scaled(image, scale_target(target, name=name), name=name)
    return (score,), maps


def _write_maps(folder: Path, item: _Item, maps: RestorationMaps) -> None:
    for name, values in (("ssim", maps.ssim), ("rse", maps.rse)):
        path = folder / name / f"{item.stem}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_map(path, values, pixel_size=item.pixel_size)


def _judge(
    summary: RestorationSummary,
    parameters: RestorationParameters,
    items: list[_Item],
    model: ModelManifest | None,
) -> Verdict:
    verdict = judge(summary, parameters.thresholds())
    if model is None:
        return verdict
    known = set(model.dataset_sha256.values())
    seen = [item.stem for item in items if item.source_sha256 in known]
    if not seen:
        return verdict
    sentence = (
        f"{len(seen)} of {len(items)} test images were among the training images "
        f"({', '.join(seen[:5])}): such a test shows nothing. Use images the model has not seen."
    )
    failures = verdict.reasons if verdict.verdict == "failed" else ()
    return Verdict("failed", (sentence, *failures), verdict.remarks)


def _write(
    folder: Path,
    context: JobContext,
    rows: list[MetricsRow],
    summary: RestorationSummary,
    verdict: Verdict,
    parameters: RestorationParameters,
    baseline: BaselineChoice,
    items: list[_Item],
) -> None:
    write_metrics_csv(folder / "metrics.csv", rows)
    content = summary_json(summary, verdict, thresholds=parameters.thresholds(), baseline=baseline)
    (folder / "summary.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    (folder / "verdict.json").write_text(json.dumps(_verdict_content(context, verdict), indent=2), encoding="utf-8")
    # The worst image, so that nobody is shown a lucky one.
    item = next(item for item in items if item.stem == summary.worst.image)
    target = read_image(item.target).pixels
    images = dict(_versions(item, baseline))
    if target.ndim == 3:
        planes = [row for row in rows if row.image == item.stem and row.kind == "prediction"]
        index = min(planes, key=lambda row: row.score.ssim).slice
        target, images = target[index], {kind: image[index] for kind, image in images.items()}
    scaled = scale_target(target)
    scored = {str(kind): score_scaled(image, scaled) for kind, image in images.items()}
    figure = restoration_figure(
        images["input"],
        images["prediction"],
        target,
        {kind: score for kind, (score, _) in scored.items()},
        {kind: maps for kind, (_, maps) in scored.items()},
        name=item.stem,
        pixel_size=item.pixel_size,
    )
    FigureCanvasAgg(figure)
    save_png(figure, folder / "figure.png")


def _verdict_content(context: JobContext, verdict: Verdict) -> dict[str, Any]:
    spec = context.job.evaluation
    return {
        "state": verdict.verdict,
        "reasons": list(verdict.reasons),
        "remarks": list(verdict.remarks),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": context.job.id,
        "method": context.method.name,
        "dataset_uri": spec.dataset_uri,
        "prediction_uri": spec.prediction_uri,
    }


def _publish(
    context: JobContext,
    folder: Path,
    verdict: Verdict,
    summary: RestorationSummary,
    rows: list[MetricsRow],
    items: list[_Item],
    metrics: dict[str, float],
) -> None:
    spec = context.job.evaluation
    files = upload_files(context.store, context.reserved, folder_files(folder))
    means: dict[str, dict[str, float]] = {}
    for item in items:
        scores = [row.score for row in rows if row.image == item.stem and row.kind == "prediction"]
        means[item.stem] = {name: float(np.mean([getattr(s, name) for s in scores])) for name in ("psnr", "ssim")}
    environment = context.service.environment(image=context.settings.image)
    manifest = ResultManifest(
        project=context.job.project,
        job=context.job.id,
        service=context.service.name,
        method=context.method.name,
        kind="evaluation",
        model_uri=spec.model_uri,
        input_uri=spec.dataset_uri,
        split=spec.split or "test",
        parameters=context.parameters.model_dump(mode="json"),
        environment={"packages": dict(environment.packages)},
        verdict=_verdict_content(context, verdict),
        summary={"images": summary.images, "metrics": metrics},
        files=files,
        images=tuple(
            ResultFile(
                input=item.stem,
                input_sha256=item.source_sha256,
                outputs={"prediction": spec.prediction_uri},
                metrics=means[item.stem],
            )
            for item in items
        ),
        warnings=tuple(context.job.warnings),
    )
    context.publish(RESULT_MANIFEST, manifest, "evaluation", metrics)
