"""Evaluation jobs: fetch predictions and targets, have them scored, publish tables, figure and verdict.

Scoring streams: at any time only as many images are in memory as there are threads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg

from parfocal import v1
from parfocal.qc.evaluation.inputs import Inputs, Item, read_inputs, require_grey_targets, training_pairs
from parfocal.qc.evaluation.publish import evaluation_published_before, publish_evaluation
from parfocal.qc.evaluation.statistics import ImageScore
from parfocal.qc.evaluation.verdict import Verdict, with_test, with_unscorable
from parfocal.qc.metrics.baselines.gaussian import best_gaussian_sigma
from parfocal.qc.metrics.baselines.linear import fit_linear_predictor
from parfocal.qc.metrics.images.foreground import find_foreground, score_regions
from parfocal.qc.metrics.images.restoration import scale_target, score_scaled
from parfocal.qc.restoration.examples import Example, examples_figure
from parfocal.qc.restoration.figure import restoration_figure, save_png
from parfocal.qc.restoration.judge import PRIMARY, judge, summarise, summary_json
from parfocal.qc.restoration.parameters import RestorationParameters, TranslationParameters
from parfocal.qc.restoration.rows import KINDS, MetricsRow, write_metrics_csv
from parfocal.qc.restoration.scoring import Baseline, mean_values, score_items, shown_input, versions
from parfocal.runtime.images.files import read_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.publish import empty_folder


def evaluate(context: JobContext) -> None:
    """Score the job's prediction and publish the evaluation; add it to the model if one is named."""
    parameters = context.parameters
    assert isinstance(parameters, (RestorationParameters, TranslationParameters))
    if evaluation_published_before(context):
        return
    inputs = read_inputs(context)
    context.report_progress(v1.Progress(stage="preparing"), message="preparing the baseline", at_once=True)
    baselines: dict[str, Baseline] = {}
    for role in inputs.roles:
        require_grey_targets(context, inputs, role)
        if isinstance(parameters, TranslationParameters):
            baselines[role] = fit_linear_predictor(training_pairs(context, inputs, role, validation=False))
        else:
            choice = best_gaussian_sigma(training_pairs(context, inputs, role, validation=True))
            known = inputs.validation_regions
            baselines[role] = choice if known else replace(choice, chosen_on="training images")
    folder = empty_folder(context.scratch / "evaluation")
    rows, unscorable = score_items(context, inputs.items, baselines, folder, maps=parameters.maps)
    _Evaluation(context, parameters, inputs, rows, unscorable, baselines).publish(folder)


class _Evaluation:
    """The scores of all items, summarised for each target and over all of them."""

    def __init__(
        self,
        context: JobContext,
        parameters: RestorationParameters | TranslationParameters,
        inputs: Inputs,
        rows: list[MetricsRow],
        unscorable: Mapping[str, str],
        baselines: Mapping[str, Baseline],
    ) -> None:
        self._context = context
        self._parameters = parameters
        self._inputs = inputs
        self._rows = rows
        self._unscorable = unscorable
        self._baselines = baselines
        self._roles = list(baselines)
        # Of a target whose predictions can none of them be scored there is nothing to summarise.
        self._by_role = {role: summarise(of_role) for role in self._roles if (of_role := self._rows_of(role))}
        self._all = summarise(rows) if len(self._roles) > 1 else self._by_role[self._roles[0]]
        self._metrics: dict[str, float] = {}
        for role, summary in self._by_role.items():
            prefix = f"{role}_" if len(self._roles) > 1 else ""
            for kind in KINDS:
                for name in ("psnr", "ssim", "nrmse", "ssim_inside"):
                    if name in summary.metrics[kind]:
                        self._metrics[f"{prefix}{kind}_{name}"] = summary.metrics[kind][name].mean

    def _rows_of(self, role: str) -> list[MetricsRow]:
        labels = {item.label for item in self._inputs.items if item.role == role}
        return [row for row in self._rows if row.image in labels]

    def _unscorable_of(self, role: str) -> dict[str, str]:
        labels = {item.label for item in self._inputs.items if item.role == role}
        return {label: why for label, why in self._unscorable.items() if label in labels}

    def publish(self, folder: Path) -> None:
        """Write tables, summary and figures, and publish them with the verdict."""
        thresholds, task = self._parameters.thresholds(), self._context.method.name
        lost = {role: self._unscorable_of(role) for role in self._roles}
        verdicts = {
            role: judge(self._by_role[role], thresholds, lost[role])
            if role in self._by_role
            else with_unscorable(Verdict("failed", (), ()), lost[role], len(lost[role]), 0)
            for role in self._roles
        }
        verdict = with_test(_joined(verdicts), self._inputs, thresholds.max_failed_images)
        described = {role: baseline.describe() for role, baseline in self._baselines.items()}
        write_metrics_csv(folder / "metrics.csv", self._rows)
        of_job = partial(summary_json, task=task, thresholds=thresholds)
        content = of_job(self._all, verdict, baseline=described[self._roles[0]], unscorable=self._unscorable)
        if len(self._roles) > 1:
            content["targets"] = {
                role: of_job(summary, verdicts[role], baseline=described[role], unscorable=lost[role])
                for role, summary in self._by_role.items()
            }
        (folder / "summary.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
        for role, summary in self._by_role.items():
            # The worst image, so that nobody is shown a lucky one.
            item = self._item(summary.worst.image)
            suffix = "" if role == self._roles[0] else f"_{role}"
            which = f"Worst of {summary.images} images by {PRIMARY.upper()}: " if summary.images > 1 else ""
            self._draw(item, which, folder / f"figure{suffix}.png")
            examples = [self._example(*each) for each in typical(summary.scores["prediction"]).items()]
            if examples:
                save_png(examples_figure(examples), folder / f"examples{suffix}.png")
        by_image = {item.label: self._mean(item) for item in self._inputs.items if item.label not in self._unscorable}
        publish_evaluation(self._context, self._inputs, folder, verdict, self._metrics, by_image, self._unscorable)

    def _draw(self, item: Item, which: str, path: Path) -> None:
        target = read_image(item.target).pixels
        foreground = find_foreground(target)
        images = dict(versions(item, self._baselines[item.role], target.ndim))
        mask, name = foreground.mask, f"{which}{item.label}"
        if target.ndim == 3:
            index = self._planes(item)[0]
            name += f", plane {index}"
            target, mask, images = target[index], mask[index], {kind: image[index] for kind, image in images.items()}
        scaled = scale_target(target)
        scored = {str(kind): score_scaled(image, scaled) for kind, image in images.items()}
        figure = restoration_figure(
            images["input"],
            images["prediction"],
            target,
            {kind: score for kind, (score, _) in scored.items()},
            {kind: maps for kind, (_, maps) in scored.items()},
            name=name,
            pixel_size=item.pixel_size,
            baseline=str(self._baselines[item.role].describe()["name"]),
            foreground=mask,
            inside={kind: score_regions(scored[kind][1], image, target, mask)[0] for kind, image in images.items()},
        )
        FigureCanvasAgg(figure)
        save_png(figure, path)

    def _example(self, why: str, label: str) -> Example:
        item = self._item(label)
        target, prediction = read_image(item.target).pixels, read_image(item.prediction).pixels
        source = shown_input(read_image(item.source).pixels, target.ndim)
        heading = f"{why.capitalize()} image by {PRIMARY.upper()}: {label}"
        if target.ndim == 3:
            planes = self._planes(item)
            index = planes[(len(planes) - 1) // 2]
            heading += f", its median plane {index}"
            source, target, prediction = source[index], target[index], prediction[index]
        scaled = scale_target(target)
        score, maps = score_scaled(prediction, scaled)
        input_score, _ = score_scaled(source, scaled)
        return Example(heading, source, prediction, target, maps.rse, input_score, score, item.pixel_size)

    def _item(self, label: str) -> Item:
        return next(item for item in self._inputs.items if item.label == label)

    def _planes(self, item: Item) -> list[int]:
        """Return the planes of a stack that have a score, the worst first."""
        rows = [row for row in self._rows if row.image == item.label and row.kind == "prediction"]
        return [row.slice for row in sorted(rows, key=lambda row: row.value(PRIMARY)) if row.slice is not None]

    def _mean(self, item: Item) -> dict[str, float]:
        rows = [row for row in self._rows if row.image == item.label and row.kind == "prediction"]
        return mean_values(rows, ("psnr", "ssim", "ssim_inside"))


def typical(scores: Sequence[ImageScore]) -> dict[str, str]:
    """Return the names of the best and the median image in the primary metric, where there are such besides the worst.

    Of an even number the median is the lower of the two in the middle.
    """
    ordered = [score.image for score in sorted(scores, key=lambda score: score.values[PRIMARY])]
    chosen = {"best": ordered[-1], "median": ordered[(len(ordered) - 1) // 2]}
    return {why: image for why, image in chosen.items() if image != ordered[0]}


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
