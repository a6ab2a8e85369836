"""`parfocal compare`: which of several models is better on the same test images, and whether that is chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import Command, current_app
from parfocal.cli._train import PARAMETERS

if TYPE_CHECKING:
    from parfocal import v1
    from parfocal.client import Client
    from parfocal.runtime.manifests import ResultManifest


@click.command(cls=Command, short_help="Tell which of several models is better.")
@click.argument("models", nargs=-1, metavar="MODEL[:VERSION]…")
@click.option("--dataset", default="", metavar="NAME[:VERSION]", help="On whose images to compare the models.")
@click.option(
    "--split",
    type=click.Choice(("test", "train")),
    default="test",
    show_default=True,
    help="Which part of the dataset; models know the training images, which shows nothing.",
)
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    metavar="JOB",
    help="Also compare what this job of `parfocal evaluate` has scored; repeat for more.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Download figures and tables.")
@PARAMETERS
@click.option("--again", is_flag=True, help="Predict and score again even if there is a result.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist in FOLDER.")
def compare(
    models: tuple[str, ...],
    dataset: str,
    split: str,
    evaluations: tuple[str, ...],
    output: Path | None,
    parameters: tuple[str, ...],
    again: bool,
    overwrite: bool,
) -> None:
    """Compare two models or more on the same images, and say which difference is more than chance.

    \b
      parfocal compare w2s:1 w2s:2 --dataset w2s

    Each model predicts the test images and is scored, unless that has been done before. The scores are compared
    image by image, beside those of the plain input and a simple filter. A difference counts as real if Wilcoxon's
    test says so after correction for the number of comparisons; with few images nothing can be shown, and the
    answer says how many it takes.

    The parameters (-p) are those of the comparison: `parfocal methods restoration` lists them.
    """  # noqa: D301 - click's mark for kept line ends
    app = current_app()
    from parfocal import v1
    from parfocal.cli import _work
    from parfocal.cli._parameters import parse_parameters, schema_of
    from parfocal.cli._render import print_fields, print_json, say
    from parfocal.client.requests import comparison_request
    from parfocal.client.results import read_result, result_uri

    _check_arguments(models, evaluations, dataset)
    with app.client() as client:
        known = [_evaluation(client, job_id) for job_id in evaluations]
        dataset_uri = _dataset_uri(client, dataset, split) if dataset else known[0][1].input_uri
        method = _method(client, models, [result for _, result in known])
        values = parse_parameters(method.title, schema_of(method, v1.JOB_KIND_COMPARISON), parameters)
        uris = []
        for model in models:
            say(f"{model}:")
            uri = client.model_uri(model)
            job = _work.run_evaluation(app, client, method, uri, dataset_uri, split=split, again=again, reuse=True)
            uris.append(result_uri(job))
        uris += [result_uri(job) for job, _ in known]
        request = comparison_request(method.name, uris, dataset_uri, values)
        job = _work.finish(app, client, _work.start_or_join(client, request, again=again), "Comparing")
        uri = result_uri(job)
        if output is not None:
            _work.download_evaluation(client, job, output, overwrite=overwrite)
        result = read_result(client, job)
        summary = _work.evaluation_summary(client, result, uri)
        if app.json:
            print_json({"job": _work.job_json(job), "uri": uri, "summary": summary})
            return
        _show(summary)
        place = str(output) if output is not None else uri
        pictures = sorted(entry.name for entry in result.files if entry.name.startswith("images"))
        print_fields(
            {
                "Figure": f"{place}/figure.png",
                "Best, worst": ", ".join(f"{place}/{name}" for name in pictures),
                "Tables": f"{place}/comparison.csv, {place}/tests.csv",
            }
        )
        if output is None:
            say(f"Download them: parfocal jobs download {job.id} --output FOLDER")


def _check_arguments(models: Sequence[str], evaluations: Sequence[str], dataset: str) -> None:
    count = len(models) + len(evaluations)
    if count < 2:
        raise click.UsageError(
            "Name two models or more (or jobs of `parfocal evaluate` with --evaluation): "
            "parfocal compare MODEL MODEL --dataset NAME"
        )
    if models and not dataset:
        raise click.UsageError("Say with --dataset on whose test images the models shall be compared.")
    twice = {name for name in (*models, *evaluations) if (*models, *evaluations).count(name) > 1}
    if twice:
        raise click.UsageError(f"Named twice: {', '.join(sorted(twice))}. A comparison needs different ones.")


def _evaluation(client: Client, job_id: str) -> tuple[v1.Job, ResultManifest]:
    """Return a job of `parfocal evaluate` with what it published."""
    from parfocal.client.results import read_result
    from parfocal.runtime.errors import InvalidInputError

    job = client.get(job_id)
    result = read_result(client, job)
    if result.kind != "evaluation":
        raise InvalidInputError(
            f"The job {job_id} is no evaluation, but a {result.kind}. Name jobs of `parfocal evaluate`."
        )
    return job, result


def _dataset_uri(client: Client, dataset: str, split: str) -> str:
    from parfocal.client.datasets import read_dataset
    from parfocal.runtime.errors import InvalidInputError

    manifest = read_dataset(client, dataset)
    if not manifest.select(split, "target"):
        raise InvalidInputError(
            f"The dataset {manifest.dataset!r} (version {manifest.version}) has no {split} images to compare on. "
            f"Create it again with pairs in {split}/source and {split}/target."
        )
    return client.dataset_uri(f"{manifest.dataset}:{manifest.version}")


def _method(client: Client, models: Sequence[str], evaluations: Sequence[ResultManifest]) -> v1.Method:
    """Return the evaluation method that suits all models and made all evaluations."""
    from parfocal import v1
    from parfocal.client.models import read_model
    from parfocal.runtime.errors import InvalidInputError, UnavailableError

    makers = {result.method: f"the evaluation {result.job}" for result in evaluations}
    for model in models:
        made_by = read_model(client, model).manifest.method
        method = client.evaluation_method(client.method(made_by).task)
        if method is None or v1.JOB_KIND_COMPARISON not in method.job_kinds:
            raise UnavailableError(
                f"No service compares models of {made_by}. Check that the QC service runs (`parfocal status`)."
            )
        makers.setdefault(method.name, model)
    if len(makers) > 1:
        kinds = ", ".join(f"{who} is judged by {name}" for name, who in makers.items())
        raise InvalidInputError(f"These cannot be compared, for they do different things: {kinds}.")
    return client.method(next(iter(makers)))


def _show(summary: Mapping[str, Any]) -> None:
    from parfocal.cli._render import print_table, print_text, say

    several = len(summary["metrics"]) > 1
    for target, metrics in summary["metrics"].items():
        names = [each["name"] for each in summary["competitors"]]
        rows = [(name, *(_mean(metric, columns[name]) for metric, columns in metrics.items())) for name in names]
        count = summary["images"]
        title = f"{target + ': ' if several else ''}mean and interval over {count} image{'' if count == 1 else 's'}"
        headings = [summary["shown"][metric] for metric in metrics]
        print_table(("Competitor", *headings), rows, title=title, numbers=headings)
        print_table(
            ("Pair", "Metric", "Difference", "Interval", "Wilcoxon", "corrected", "Real"),
            [
                (
                    f"{test['first']} - {test['second']}",
                    test["metric"],
                    f"{test['mean difference']:+.3g}",
                    _interval(test["interval low"], test["interval high"]),
                    f"{test['Wilcoxon p']:.2g}",
                    f"{test['Wilcoxon p after Holm']:.2g}",
                    _winner(test),
                )
                for test in summary["tests"]
                if test["target"] == target
            ],
            title=f"{target + ': ' if several else ''}differences, image by image",
            numbers=("Difference", "Interval", "Wilcoxon", "corrected"),
        )
        ranked = summary["shown"][summary["ranked_by"]]
        say(
            f"Best image by the models' mean {ranked}: {summary['best_images'][target]}; "
            f"worst: {summary['worst_images'][target]}."
        )
    for sentence in summary["sentences"]:
        print_text(f"  - {sentence}")


def _mean(metric: str, values: Mapping[str, Any]) -> str:
    from parfocal.cli._work import metric_text

    if values["low"] is None:
        return metric_text(metric, values["mean"])
    low, high = (metric_text(metric, values[each]) for each in ("low", "high"))
    return f"{metric_text(metric, values['mean'])} ({low} to {high})"


def _interval(low: float | None, high: float | None) -> str:
    return "too few images" if low is None or high is None else f"{low:+.3g} to {high:+.3g}"


def _winner(test: Mapping[str, Any]) -> str:
    if test["outcome"] == "not shown":
        return "not shown"
    return f"{test['first'] if test['outcome'] == 'first is better' else test['second']} is better"
