"""Evaluation jobs: fetch predictions and targets, score them, publish tables, maps, figure and verdict.

Scoring streams: at any time only as many images are in memory as there are threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray

from parfocal import v1
from parfocal.qc.figures import restoration_figure, save_png, write_map
from parfocal.qc.job import Inputs, Item, open_evaluation, publish_evaluation, seen_in_training, training_pairs
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
from parfocal.runtime.images import read_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.publish import empty_folder


class _Baseline(Protocol):
    """What a prediction is compared with besides its input."""

    def apply(self, source: NDArray[Any]) -> NDArray[np.float32]: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class _Scored:
    item: Item
    rows: tuple[MetricsRow, ...]


def evaluate(context: JobContext) -> None:
    """Score the job's prediction and publish the evaluation; add it to the model if one is named."""
    parameters = context.parameters
    assert isinstance(parameters, (RestorationParameters, TranslationParameters))
    inputs = open_evaluation(context)
    if inputs is None:
        return
    context.report_progress(v1.Progress(stage="preparing"), message="preparing the baseline", at_once=True)
    baselines: dict[str, _Baseline] = {}
    for role in inputs.roles:
        if isinstance(parameters, TranslationParameters):
            baselines[role] = fit_linear_predictor(training_pairs(context, inputs, role, validation=False))
        else:
            baselines[role] = best_gaussian_sigma(training_pairs(context, inputs, role, validation=True))
    folder = empty_folder(context.scratch / "evaluation")
    rows = _score(context, inputs.items, baselines, parameters, folder)
    _Evaluation(context, parameters, inputs, rows, baselines).publish(folder)


def _score(
    context: JobContext,
    items: list[Item],
    baselines: Mapping[str, _Baseline],
    parameters: RestorationParameters | TranslationParameters,
    folder: Path,
) -> list[MetricsRow]:
    def score(item: Item) -> _Scored:
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


def _versions(item: Item, baseline: _Baseline, dimensions: int) -> Iterator[tuple[Kind, NDArray[Any]]]:
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


def _write_maps(folder: Path, item: Item, maps: RestorationMaps) -> None:
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
        inputs: Inputs,
        rows: list[MetricsRow],
        baselines: Mapping[str, _Baseline],
    ) -> None:
        self._context = context
        self._parameters = parameters
        self._inputs = inputs
        self._rows = rows
        self._baselines = baselines
        self._roles = list(baselines)
        self._by_role = {role: summarise(self._rows_of(role)) for role in self._roles}
        self._all = summarise(rows) if len(self._roles) > 1 else self._by_role[self._roles[0]]
        self._metrics: dict[str, float] = {}
        for role, summary in self._by_role.items():
            prefix = f"{role}_" if len(self._roles) > 1 else ""
            for kind in KINDS:
                for name in ("psnr", "ssim", "nrmse"):
                    self._metrics[f"{prefix}{kind}_{name}"] = summary.metrics[kind][name].mean

    def _rows_of(self, role: str) -> list[MetricsRow]:
        labels = {item.label for item in self._inputs.items if item.role == role}
        return [row for row in self._rows if row.image in labels]

    def publish(self, folder: Path) -> None:
        """Write tables, summary and figures, and publish them with the verdict."""
        thresholds, task = self._parameters.thresholds(), self._context.method.name
        verdicts = {role: judge(summary, thresholds) for role, summary in self._by_role.items()}
        verdict = seen_in_training(_joined(verdicts), self._inputs)
        described = {role: baseline.describe() for role, baseline in self._baselines.items()}
        write_metrics_csv(folder / "metrics.csv", self._rows)
        content = summary_json(self._all, verdict, task=task, thresholds=thresholds, baseline=described[self._roles[0]])
        if len(self._roles) > 1:
            content["targets"] = {
                role: summary_json(summary, verdicts[role], task=task, thresholds=thresholds, baseline=described[role])
                for role, summary in self._by_role.items()
            }
        (folder / "summary.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        for role, summary in self._by_role.items():
            # The worst image, so that nobody is shown a lucky one.
            item = next(item for item in self._inputs.items if item.label == summary.worst.image)
            self._draw(item, folder / ("figure.png" if role == self._roles[0] else f"figure_{role}.png"))
        by_image = {item.label: self._mean(item) for item in self._inputs.items}
        publish_evaluation(self._context, self._inputs, folder, verdict, self._metrics, by_image)

    def _draw(self, item: Item, path: Path) -> None:
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

    def _mean(self, item: Item) -> dict[str, float]:
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
