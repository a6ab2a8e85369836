"""Comparisons of models on the same test images: what is compared with what, and how the answer reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.datasets import read_dataset
from parfocal.client.models import read_model
from parfocal.client.quality import Doer, evaluation_method, judge_model
from parfocal.client.requests import comparison_request
from parfocal.client.results import read_result, result_uri
from parfocal.runtime.errors import InvalidInputError, UnavailableError
from parfocal.runtime.store.evaluations import Metric
from parfocal.runtime.store.manifests import ResultManifest

Row = dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """What is to be compared.

    Attributes
    ----------
    method
        The evaluation method that suits all models and made all evaluations.
    dataset_uri, split
        On whose images.
    model_uris, evaluation_uris
        The models, which are judged first where they have not been, and the evaluations that are there already.
    """

    method: v1.Method
    dataset_uri: str
    split: str
    model_uris: tuple[str, ...]
    evaluation_uris: tuple[str, ...]


def plan_comparison(
    client: Client, models: Sequence[str], evaluations: Sequence[str], dataset: str, split: str = "test"
) -> Comparison:
    """Return what is to be compared.

    Parameters
    ----------
    models
        Each "name" (newest version) or "name:version".
    evaluations
        Jobs that have scored something already.
    dataset
        "name" or "name:version"; may be empty where no models are named.

    Raises
    ------
    InvalidInputError
        There are too few to compare, one is named twice, or they do different things.
    NotFoundError, UnavailableError
        Something that is named does not exist, or no service compares it.
    """
    check_candidates(models, evaluations, dataset)
    known = [_evaluation(client, job_id) for job_id in evaluations]
    dataset_uri = _dataset_uri(client, dataset, split) if dataset else known[0][1].input_uri
    return Comparison(
        _method(client, models, [result for _, result in known]),
        dataset_uri,
        split,
        tuple(client.model_uri(model) for model in models),
        tuple(uri for uri, _ in known),
    )


def check_candidates(models: Sequence[str], evaluations: Sequence[str], dataset: str) -> None:
    """Raise InvalidInputError unless two different models or evaluations are named, and for models a dataset."""
    named = (*models, *evaluations)
    if len(named) < 2:
        raise InvalidInputError("Name two models or more, or evaluations that there are already.")
    if models and not dataset:
        raise InvalidInputError("Name the dataset on whose images the models shall be compared.")
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise InvalidInputError(f"Named twice: {', '.join(twice)}. A comparison needs different ones.")


def compare(
    client: Client,
    doer: Doer,
    comparison: Comparison,
    parameters: Mapping[str, Any] | None = None,
    *,
    again: bool = False,
) -> v1.Job:
    """Judge the models that have not been judged yet, compare all, and return the finished job.

    Parameters
    ----------
    parameters
        Of the comparison, those that differ from their defaults.
    again
        Judge all models again.
    """
    judged = [
        judge_model(
            client,
            doer,
            comparison.method,
            model_uri,
            comparison.dataset_uri,
            split=comparison.split,
            again=again,
            reuse=True,
        )
        for model_uri in comparison.model_uris
    ]
    uris = [*map(result_uri, judged), *comparison.evaluation_uris]
    return doer.do(comparison_request(comparison.method.name, uris, comparison.dataset_uri, parameters), "Comparing")


def mean_rows(summary: Mapping[str, Any], target: str) -> list[Row]:
    """Return one row for each candidate: its mean in each metric, with the interval where there is one."""
    metrics = _metrics(summary)
    return [
        {
            "Model or baseline": each["name"],
            **{
                metrics[key].heading: _mean(metrics[key], columns[each["name"]])
                for key, columns in summary["metrics"][target].items()
            },
        }
        for each in summary["candidates"]
    ]


def difference_rows(summary: Mapping[str, Any], target: str) -> list[Row]:
    """Return one row for each test: the pair, the difference, how sure it is, and who is better if that is shown."""
    metrics = _metrics(summary)
    rows = []
    for test in summary["tests"]:
        if test["target"] != target:
            continue
        metric = metrics[test["metric"]]
        row = {
            "Pair": f"{test['first']} - {test['second']}",
            "Metric": metric.heading,
            "Difference": metric.number(test["mean_difference"], signed=True),
            "Interval": _interval(metric, test["difference_low"], test["difference_high"]),
            "Wilcoxon": f"{test['wilcoxon_p']:.2g}",
            "corrected": f"{test['wilcoxon_p_holm']:.2g}",
            "Real": _winner(test),
        }
        rows.append(row)
    return rows


def ranking_sentence(summary: Mapping[str, Any], target: str) -> str:
    """Return which images are best and worst for the models."""
    ranked = _metrics(summary)[summary["ranked_by"]].heading
    return (
        f"Best image by the models' mean {ranked}: {summary['best_images'][target]}; "
        f"worst: {summary['worst_images'][target]}."
    )


def _evaluation(client: Client, job_id: str) -> tuple[str, ResultManifest]:
    """Return place and manifest of what an evaluation published."""
    job = client.get(job_id)
    result = read_result(client, job)
    if result.kind != "evaluation":
        raise InvalidInputError(
            f"The job {job_id} is no evaluation, but a {result.kind}. Name jobs of `parfocal evaluate`."
        )
    return result_uri(job), result


def _dataset_uri(client: Client, dataset: str, split: str) -> str:
    manifest = read_dataset(client, dataset)
    if not manifest.has_targets(split):
        raise InvalidInputError(
            f"The dataset {manifest.dataset!r} (version {manifest.version}) has no {split} images to compare on. "
            f"Create it again with pairs in {split}/source and {split}/target."
        )
    return client.dataset_uri(client.catalog.title(manifest.project, manifest.dataset, manifest.version))


def _method(client: Client, models: Sequence[str], evaluations: Sequence[ResultManifest]) -> v1.Method:
    """Return the evaluation method that suits all models and made all evaluations."""
    makers = {result.method: f"the evaluation {result.job}" for result in evaluations}
    for model in models:
        made_by = read_model(client, model).manifest.method
        method = evaluation_method(client, client.method(made_by).task)
        if method is None or v1.JOB_KIND_COMPARISON not in method.job_kinds:
            raise UnavailableError(
                f"No service compares models of {made_by}. Check that the QC service runs (`parfocal status`)."
            )
        makers.setdefault(method.name, model)
    if len(makers) > 1:
        kinds = ", ".join(f"{who} is judged by {name}" for name, who in makers.items())
        raise InvalidInputError(f"These cannot be compared, for they do different things: {kinds}.")
    return client.method(next(iter(makers)))


def _metrics(summary: Mapping[str, Any]) -> dict[str, Metric]:
    """Return what is known of the metrics that are compared, by key."""
    return {column["key"]: Metric.model_validate(column) for column in summary["columns"]}


def _mean(metric: Metric, values: Mapping[str, Any]) -> str:
    mean = metric.number(values["mean"])
    return (
        mean if values["low"] is None else f"{mean} ({metric.number(values['low'])} to {metric.number(values['high'])})"
    )


def _interval(metric: Metric, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "too few images"
    return f"{metric.number(low, signed=True)} to {metric.number(high, signed=True)}"


def _winner(test: Mapping[str, Any]) -> str:
    if said := test.get("conclusion"):  # older comparisons have the outcome alone
        return str(said)
    if test["outcome"] == "not shown":
        return "not shown"
    return f"{test['first'] if test['outcome'] == 'first is better' else test['second']} is better"
