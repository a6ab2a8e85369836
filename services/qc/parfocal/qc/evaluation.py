"""Evaluation jobs: fetch predictions and targets, score them, publish tables, maps, figure and verdict.

Scoring streams: at any time only as many images are in memory as there are threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray

from parfocal import v1
from parfocal.qc.figures import restoration_figure, save_png, write_map
from parfocal.qc.metrics.baseline import best_gaussian_sigma
from parfocal.qc.metrics.linear import fit_linear_predictor
from parfocal.qc.metrics.parallel import map_bounded
from parfocal.qc.metrics.restoration import (
    RestorationMaps,
    RestorationScore,
    scale_target,
    score_scaled,
    score_stack,
)
from parfocal.qc.parameters import RestorationParameters, TranslationParameters
from parfocal.qc.summary import (
    KINDS,
    Kind,
    MetricsRow,
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


class _Baseline(Protocol):
    """What a prediction is compared with besides its input."""

    def apply(self, source: NDArray[Any]) -> NDArray[np.float32]: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class _Item:
    """One test image and one of its targets: where its three versions lie, and the digest of its source.

    `label` names it in tables: the stem, or role and stem where there are several targets.
    """

    label: str
    role: str
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
    assert isinstance(parameters, (RestorationParameters, TranslationParameters))
    spec = context.job.evaluation
    model_place = Location.parse(spec.model_uri) if spec.model_uri else None
    if context.store.exists(context.reserved / RESULT_MANIFEST):
        context.record_output("evaluation", str(context.reserved), {})
        return
    context.report_progress(v1.Progress(stage="preparing"), message="fetching images", at_once=True)
    context.describe(precision="float32")
    dataset = DatasetManifest.read(context.store, Location.parse(spec.dataset_uri) / DATASET_MANIFEST)
    model = ModelManifest.read(context.store, model_place / MODEL_MANIFEST) if model_place else None
    prediction = ResultManifest.read(context.store, Location.parse(spec.prediction_uri) / RESULT_MANIFEST)
    source_role = model.source if model else "source"
    items = _items(context, dataset, prediction, source_role)
    roles = list(dict.fromkeys(item.role for item in items))
    context.report_progress(v1.Progress(stage="preparing"), message="preparing the baseline", at_once=True)
    baselines: dict[str, _Baseline] = {}
    for role in roles:
        if isinstance(parameters, TranslationParameters):
            pairs = _training_pairs(context, dataset, model, source_role, role, validation=False)
            baselines[role] = fit_linear_predictor(pairs)
        else:
            pairs = _training_pairs(context, dataset, model, source_role, role, validation=True)
            baselines[role] = best_gaussian_sigma(pairs)
    folder = empty_folder(context.scratch / "evaluation")
    rows = _score(context, items, baselines, parameters, folder)
    evaluation = _Evaluation(context, parameters, items, rows, baselines)
    evaluation.write(folder, model)
    evaluation.publish(folder)
    if model_place is not None:
        place = model_place / "qc" / context.job.id
        # verdict.json last: it is what readers look for.
        for path in sorted(folder.glob("*.*"), key=lambda path: path.name == "verdict.json"):
            context.store.upload(path, place / path.name)
        context.record_output("qc", str(place), evaluation.metrics)


def _items(context: JobContext, dataset: DatasetManifest, prediction: ResultManifest, source_role: str) -> list[_Item]:
    spec = context.job.evaluation
    place = Location.parse(spec.dataset_uri)
    split = spec.split or "test"
    prediction_place = Location.parse(spec.prediction_uri)
    sources = {image.stem: image for image in dataset.select(split, source_role)}
    entries = {entry.name: entry for entry in dataset.files}
    missing, items = [], []
    for number, role in enumerate(prediction.targets):
        folder = "" if number == 0 else f"{role}/"
        predictions = {
            image_stem(Path(entry.name)): entry
            for entry in prediction.files
            if entry.name.startswith(folder) and "/" not in entry.name.removeprefix(folder)
        }
        for target in dataset.select(split, role):
            label = f"{role}/{target.stem}" if len(prediction.targets) > 1 else target.stem
            if target.stem not in predictions or target.stem not in sources:
                missing.append(label)
                continue
            source_entry = entries[sources[target.stem].file]
            items.append(
                _Item(
                    label=label,
                    role=role,
                    source=context.cache.fetch(context.store, place, source_entry),
                    target=context.cache.fetch(context.store, place, entries[target.file]),
                    prediction=context.cache.fetch(context.store, prediction_place, predictions[target.stem]),
                    source_sha256=source_entry.sha256,
                    pixel_size=target.pixel_size_um[0] if target.pixel_size_um else None,
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
    for role in prediction.targets:
        if not any(item.role == role for item in items):
            context.warn(f"The dataset has no {split} images of {role}: this target was not judged.")
    return items


def _training_pairs(
    context: JobContext,
    dataset: DatasetManifest,
    model: ModelManifest | None,
    source_role: str,
    role: str,
    *,
    validation: bool,
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the pairs a baseline may be chosen on, never test images: the model's validation or all its images."""
    uri = context.job.evaluation.dataset_uri
    if model is not None and model.dataset_uri != uri:
        uri = model.dataset_uri
        dataset = DatasetManifest.read(context.store, Location.parse(uri) / DATASET_MANIFEST)
    if validation and model is not None and model.split.get("validation"):
        regions = [(region["stem"], region["start"], region["stop"]) for region in model.split["validation"]]
    else:
        regions = [(image.stem, None, None) for image in dataset.select("train", source_role)]
    place = Location.parse(uri)
    entries = {entry.name: entry for entry in dataset.files}
    files = {(image.role, image.stem): entries[image.file] for image in dataset.images if image.split == "train"}
    for stem, start, stop in regions:
        pair = []
        for each in (source_role, role):
            if (each, stem) not in files:
                raise NotFoundError(f"The training image {stem!r} is missing in {place} as {each}.")
            pixels = read_image(context.cache.fetch(context.store, place, files[each, stem])).pixels
            window: tuple[Any, ...] = (...,)
            if start is not None:  # the last axes: channels of a source come first
                window = ..., *(slice(*bounds) for bounds in zip(start, stop, strict=True))
            pair.append(pixels[window])
        yield pair[0], pair[1]


def _score(
    context: JobContext,
    items: list[_Item],
    baselines: Mapping[str, _Baseline],
    parameters: RestorationParameters | TranslationParameters,
    folder: Path,
) -> list[MetricsRow]:
    def score(item: _Item) -> _Scored:
        target = read_image(item.target).pixels
        rows: list[MetricsRow] = []
        for kind, image in _versions(item, baselines[item.role], target.ndim):
            scores, maps = _score_one(image, target, f"{item.label} ({kind})")
            for index, value in enumerate(scores):
                if value is not None:
                    rows.append(MetricsRow(item.label, kind, value, index if target.ndim == 3 else None))
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
            v1.ImageCompleted(name=scored.item.label, metrics=metrics),
            v1.Progress(stage="scoring", step=number, steps=len(items), fraction=number / len(items)),
        )
    return rows


def _versions(item: _Item, baseline: _Baseline, dimensions: int) -> Iterator[tuple[Kind, NDArray[Any]]]:
    source = read_image(item.source).pixels
    # Of an input with several channels the middle one is shown and scored, as the focal plane of a focus series.
    yield "input", source[source.shape[0] // 2] if source.ndim > dimensions else source
    yield "baseline", baseline.apply(source)
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
        path = folder / name / f"{item.label}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_map(path, values, pixel_size=item.pixel_size)


class _Evaluation:
    """The scores of all items, summarised for each target and over all of them."""

    def __init__(
        self,
        context: JobContext,
        parameters: RestorationParameters | TranslationParameters,
        items: list[_Item],
        rows: list[MetricsRow],
        baselines: Mapping[str, _Baseline],
    ) -> None:
        self._context = context
        self._parameters = parameters
        self._items = items
        self._rows = rows
        self._baselines = baselines
        self._roles = list(baselines)
        self._by_role = {role: summarise(self._rows_of(role)) for role in self._roles}
        self._all = summarise(rows) if len(self._roles) > 1 else self._by_role[self._roles[0]]
        self._verdict: Verdict | None = None
        self.metrics: dict[str, float] = {}
        for role, summary in self._by_role.items():
            prefix = f"{role}_" if len(self._roles) > 1 else ""
            for kind in KINDS:
                for name in ("psnr", "ssim", "nrmse"):
                    self.metrics[f"{prefix}{kind}_{name}"] = summary.metrics[kind][name].mean

    def _rows_of(self, role: str) -> list[MetricsRow]:
        labels = {item.label for item in self._items if item.role == role}
        return [row for row in self._rows if row.image in labels]

    def write(self, folder: Path, model: ModelManifest | None) -> None:
        """Write tables, summary, verdict and figures."""
        thresholds, task = self._parameters.thresholds(), self._context.method.name
        verdicts = {role: judge(summary, thresholds) for role, summary in self._by_role.items()}
        self._verdict = _seen_in_training(_joined(verdicts), self._items, model)
        described = {role: baseline.describe() for role, baseline in self._baselines.items()}
        write_metrics_csv(folder / "metrics.csv", self._rows)
        content = summary_json(
            self._all, self._verdict, task=task, thresholds=thresholds, baseline=described[self._roles[0]]
        )
        if len(self._roles) > 1:
            content["targets"] = {
                role: summary_json(summary, verdicts[role], task=task, thresholds=thresholds, baseline=described[role])
                for role, summary in self._by_role.items()
            }
        (folder / "summary.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        verdict = json.dumps(_verdict_content(self._context, self._verdict), indent=2)
        (folder / "verdict.json").write_text(verdict, encoding="utf-8")
        for role, summary in self._by_role.items():
            # The worst image, so that nobody is shown a lucky one.
            item = next(item for item in self._items if item.label == summary.worst.image)
            self._draw(item, folder / ("figure.png" if role == self._roles[0] else f"figure_{role}.png"))

    def _draw(self, item: _Item, path: Path) -> None:
        target = read_image(item.target).pixels
        images = dict(_versions(item, self._baselines[item.role], target.ndim))
        if target.ndim == 3:
            planes = [row for row in self._rows if row.image == item.label and row.kind == "prediction"]
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
            name=item.label,
            pixel_size=item.pixel_size,
            baseline=str(self._baselines[item.role].describe()["name"]),
        )
        FigureCanvasAgg(figure)
        save_png(figure, path)

    def publish(self, folder: Path) -> None:
        """Publish the evaluation."""
        context, spec = self._context, self._context.job.evaluation
        assert self._verdict is not None
        files = upload_files(context.store, context.reserved, folder_files(folder))
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
            targets=tuple(self._roles),
            parameters=context.parameters.model_dump(mode="json"),
            environment={"packages": dict(environment.packages)},
            verdict=_verdict_content(context, self._verdict),
            summary={"images": self._all.images, "metrics": self.metrics},
            files=files,
            images=tuple(
                ResultFile(
                    input=item.label,
                    input_sha256=item.source_sha256,
                    outputs={"prediction": spec.prediction_uri},
                    metrics=self._mean(item),
                )
                for item in self._items
            ),
            warnings=tuple(context.job.warnings),
        )
        context.publish(RESULT_MANIFEST, manifest, "evaluation", self.metrics)

    def _mean(self, item: _Item) -> dict[str, float]:
        scores = [row.score for row in self._rows if row.image == item.label and row.kind == "prediction"]
        return {name: float(np.mean([getattr(score, name) for score in scores])) for name in ("psnr", "ssim")}


def _joined(verdicts: Mapping[str, Verdict]) -> Verdict:
    """Pass only if every target passes; with several of them each reason names its target."""
    if len(verdicts) == 1:
        return next(iter(verdicts.values()))
    failed = {role: verdict for role, verdict in verdicts.items() if verdict.verdict == "failed"}
    reasons = [f"{role}: {reason}" for role, each in (failed or verdicts).items() for reason in each.reasons]
    remarks = [f"{role}: {remark}" for role, each in verdicts.items() for remark in each.remarks]
    if failed and len(failed) < len(verdicts):
        remarks.append(f"The other targets passed: {', '.join(role for role in verdicts if role not in failed)}.")
    return Verdict("failed" if failed else "passed", tuple(reasons), tuple(remarks))


def _seen_in_training(verdict: Verdict, items: list[_Item], model: ModelManifest | None) -> Verdict:
    known = set(model.dataset_sha256.values()) if model is not None else set()
    labels = [item.label for item in items if item.source_sha256 in known]
    if not labels:
        return verdict
    sentence = (
        f"{len(labels)} of {len(items)} test images were among the training images "
        f"({', '.join(labels[:5])}): such a test shows nothing. Use images the model has not seen."
    )
    failures = verdict.reasons if verdict.verdict == "failed" else ()
    return Verdict("failed", (sentence, *failures), verdict.remarks)


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
