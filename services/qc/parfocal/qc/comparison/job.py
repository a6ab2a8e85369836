"""Comparison jobs: read evaluations of the same test, test their differences, publish tables, figures and sentences.

Only the table of scores is held for all images; pixels are fetched for the best and the worst image alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parfocal.qc.comparison.candidates import (
    Candidate,
    Evaluation,
    TargetScores,
    check_same_test,
    choose_candidates,
    lay_side_by_side,
    read_evaluation,
)
from parfocal.qc.comparison.figure import scores_figure
from parfocal.qc.comparison.images import draw_images, report
from parfocal.qc.comparison.parameters import ComparisonParameters
from parfocal.qc.comparison.report import comparison_report
from parfocal.qc.comparison.summary import (
    DEFINITION,
    PairResult,
    conclusion,
    interval_remark,
    power_remark,
    rank_images,
    row_of,
    run_tests,
    sentences,
    write_comparison_csv,
    write_tests_csv,
)
from parfocal.qc.evaluation.publish import packages_of, publish_result, published_before
from parfocal.qc.evaluation.statistics import INTERVAL, statistics
from parfocal.qc.evaluation.verdict import listed
from parfocal.qc.evaluation.words import count
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.metrics.paired import smallest_p
from parfocal.qc.report import write_report
from parfocal.runtime.errors import NotFoundError
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.manifests import (
    MODEL_MANIFEST,
    ModelManifest,
    ResultFile,
)
from parfocal.runtime.store.publish import empty_folder
from parfocal.runtime.store.store import Location


@dataclass(frozen=True)
class _Found:
    """Everything that a comparison is made of; `seen` says which models were trained on test images."""

    evaluations: Sequence[Evaluation]
    candidates: Sequence[Candidate]
    scores: Sequence[TargetScores]
    tests: Sequence[PairResult]
    seen: Sequence[str]


def compare(context: JobContext) -> None:
    """Compare the evaluations that the job names and publish the comparison."""
    parameters = context.parameters
    assert isinstance(parameters, ComparisonParameters)
    if published_before(context) is not None:
        return
    context.describe(precision="float64")
    evaluations = _read(context, parameters.metrics)
    check_same_test(evaluations, context.job.comparison, parameters.scoring)
    kinds = parameters.compared_with if parameters.references else ()
    candidates, remarks = choose_candidates(evaluations, kinds)
    scores = lay_side_by_side(candidates, list(dict.fromkeys(parameters.metrics)))
    report(context, "testing", 0.4)
    tests = run_tests(candidates, scores, parameters.alpha)
    found = _Found(evaluations, candidates, scores, tests, _seen_in_training(context, evaluations))
    why = power_remark(tests, parameters.alpha), interval_remark(tests, parameters.alpha)
    for text in (*remarks, *why, *found.seen):
        if text:
            context.warn(text)
    folder = empty_folder(context.scratch / "comparison")
    write_comparison_csv(folder / "comparison.csv", scores)
    write_tests_csv(folder / "tests.csv", tests)
    report(context, "drawing", 0.6)
    save_png(scores_figure(scores, candidates), folder / "figure.png")
    if parameters.figures:
        draw_images(context, candidates, scores, folder)
    _publish(context, parameters, found, folder)


def _read(context: JobContext, metrics: Sequence[str]) -> list[Evaluation]:
    evaluations = []
    uris = context.job.comparison.evaluation_uris
    for number, uri in enumerate(uris):
        context.check_cancelled()
        report(context, "reading evaluations", 0.4 * number / len(uris), number, len(uris))
        evaluations.append(read_evaluation(context.store, uri, metrics))
    return evaluations


def _seen_in_training(context: JobContext, evaluations: Sequence[Evaluation]) -> list[str]:
    """Name the models that were trained on images of this test."""
    texts = []
    for each in evaluations:
        if not each.manifest.model_uri:
            continue
        try:
            place = Location.parse(each.manifest.model_uri) / MODEL_MANIFEST
            model = ModelManifest.read(context.store, place)
        except NotFoundError:
            texts.append(
                f"The model {each.name} was deleted, so that it is unknown whether it was trained on test images."
            )
            continue
        if model.origin:
            texts.append(
                f"{each.name} was made elsewhere, so that it is unknown whether it was trained on test images."
            )
        known = set(model.dataset_sha256.values())
        seen = [image.input for image in each.manifest.images if image.input_sha256 in known]
        if seen:
            texts.append(
                f"{each.name} was trained on {len(seen)} of {count(len(each.manifest.images), 'test image')} "
                f"({listed(seen)}): the comparison favours it and proves nothing. Use images that no model was trained "
                "on."
            )
    return texts


def _publish(context: JobContext, parameters: ComparisonParameters, found: _Found, folder: Path) -> None:
    first = found.evaluations[0].manifest
    summary = _summary(context, parameters, found)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
    report(context, "publishing", 0.95)
    facts = {
        "Compared": context.method.title,
        "Test images": f"{summary['images']}, {first.split} images of {first.input_uri}",
        "Job": context.job.id,
    }
    write_report(comparison_report(summary, facts, packages_of(context), folder), folder)
    several = len(found.scores) > 1
    metrics = {
        f"{f'{scores.target} ' if several else ''}{metric} {name}": float(values.mean())
        for scores in found.scores
        for metric, columns in scores.scores.items()
        for name, values in columns.items()
    }
    publish_result(
        context,
        folder,
        "comparison",
        metrics,
        input_uri=first.input_uri,
        split=first.split,
        targets=tuple(scores.target for scores in found.scores),
        summary={name: summary[name] for name in ("images", "sentences", "remarks")} | {"metrics": metrics},
        images=tuple(
            ResultFile(
                input=f"{scores.target}/{stem}" if several else stem,
                input_sha256=digest,
                outputs={
                    model.name: model.evaluation.prediction_uri for model in found.candidates if model.kind == "model"
                },
            )
            for scores in found.scores
            for stem, digest in sorted(found.evaluations[0].images(scores.target).items())
        ),
    )


def _summary(context: JobContext, parameters: ComparisonParameters, found: _Found) -> dict[str, Any]:
    """Everything a reader needs, as plain JSON types."""
    images = len(found.scores[0].images)
    confidence = 1 - parameters.alpha
    first = found.evaluations[0]
    ranked = {scores.target: rank_images(found.candidates, scores, parameters.metrics[0]) for scores in found.scores}
    return {
        "task": context.method.name,
        "dataset_uri": first.manifest.input_uri,
        "split": first.manifest.split,
        "images": images,
        # First what takes the meaning from all that follows.
        "sentences": [*found.seen, *sentences(found.tests, parameters.alpha)],
        "remarks": list(context.job.warnings),
        "candidates": [
            {
                "name": each.name,
                "kind": each.kind,
                "model_uri": each.evaluation.manifest.model_uri if each.kind == "model" else "",
                "evaluation_uri": each.evaluation.uri,
                "prediction_uri": each.evaluation.prediction_uri if each.kind == "model" else "",
            }
            for each in found.candidates
        ],
        "metrics": {
            scores.target: {
                metric: {name: asdict(statistics(values, confidence=confidence)) for name, values in columns.items()}
                for metric, columns in scores.scores.items()
            }
            for scores in found.scores
        },
        "columns": [each.model_dump() for each in found.scores[0].metrics.values()],
        "shown": list(found.scores[0].scores),
        "tests": [
            row_of(test) | {"conclusion": conclusion(test, len(found.tests), parameters.alpha)} for test in found.tests
        ],
        "best_images": {target: order[0][0] for target, order in ranked.items()},
        "worst_images": {target: order[-1][0] for target, order in ranked.items()},
        "ranked_by": parameters.metrics[0],
        "correction": {"method": "Holm", "tests": len(found.tests), "alpha": parameters.alpha},
        "smallest_p": smallest_p(images),
        "interval": {**INTERVAL, "confidence": confidence},
        "definition": f"{DEFINITION} {first.summary.definition}",
    }
