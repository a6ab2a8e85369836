"""`parfocal study`: the same work with different parameters, judged and compared on the same test images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import App, Command, Group, current_app
from parfocal.cli._errors import DETACHED, FAILED
from parfocal.cli._train import PARAMETERS, PRESET
from parfocal.cli._work import CommandDoer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from parfocal import v1
    from parfocal.client import Client
    from parfocal.client.studies import Outcome

_CSV = "study.csv"
_DATASET = click.option(
    "--dataset", required=True, metavar="NAME[:VERSION]", help="The dataset on whose test images to judge."
)
_VARY = click.option(
    "--vary",
    "varied",
    multiple=True,
    required=True,
    metavar="NAME=V1,V2,…",
    help="Values of a parameter; repeat for more parameters, of which all combinations are tried.",
)
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show the combinations and start nothing.")
_OUTPUT = click.option(
    "--output", type=click.Path(path_type=Path), metavar="FOLDER", help=f"Write {_CSV}, and download the comparison."
)
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace files that exist in FOLDER.")


@click.group(cls=Group, short_help="Try different parameters and compare the results.")
def study() -> None:
    """Try different values of parameters, have quality control judge each on the same test images, and compare.

    The same command again does only what is missing, so a study can be stopped at any time.
    """


@study.command(cls=Command, short_help="Train a model for each combination of values.")
@click.argument("method")
@click.option("--dataset", required=True, metavar="NAME[:VERSION]", help="The dataset to train on and to judge by.")
@click.option("--model", required=True, metavar="NAME", help="Names of the models begin with it: NAME-epochs-50.")
@_VARY
@PRESET
@PARAMETERS
@_DRY_RUN
@_OUTPUT
@_OVERWRITE
def train(
    method: str,
    dataset: str,
    model: str,
    varied: tuple[str, ...],
    preset: str | None,
    parameters: tuple[str, ...],
    dry_run: bool,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Train a model with METHOD for each combination of values.

    \b
      parfocal study train stardist-2d --dataset nuclei --model nuclei \\
          --vary epochs=50,200 --vary learning_rate=0.0001,0.0003

    Ctrl-C stops watching; trainings that have been started continue.
    """  # noqa: D301 - click's mark for kept line ends
    app = current_app()
    from parfocal import v1
    from parfocal.client.parameters import parse_parameters, preset_values, schema_of
    from parfocal.client.published import read_manifest
    from parfocal.client.quality import JUDGE_LABEL
    from parfocal.client.requests import training_request
    from parfocal.client.studies import combinations, model_name, repeatable
    from parfocal.runtime.errors import InvalidInputError
    from parfocal.runtime.store.manifests import DatasetManifest
    from parfocal.runtime.store.names import check_name

    check_name("model", model)
    _check_output(output, overwrite=overwrite)
    with app.client() as client:
        description = client.method(method)
        schema = schema_of(description, v1.JOB_KIND_TRAINING)
        given = parse_parameters(description.title, schema, parameters)
        variants = combinations(description.title, schema, varied, given)
        base = (preset_values(description, preset) if preset else {}) | given
        uri = client.dataset_uri(dataset)
        if not read_manifest(client, uri, DatasetManifest).can_be_judged_by("test"):
            raise InvalidInputError(f"The dataset {dataset!r} has no test images by which models can be compared.")
        requests = [
            repeatable(
                training_request(method, uri, name, base | values, labels={JUDGE_LABEL: "test"}),
                name,
            )
            for values in variants
            for name in (model_name(model, values),)
        ]
        _show_plan(variants, [request.training.model for request in requests])
        if dry_run:
            return
        jobs = _start_all(client, requests)
        outcomes = [
            _trained(app, client, description, values, request, jobs.get(request.request_id))
            for values, request in zip(variants, requests, strict=True)
        ]
        models = [each.model for each in outcomes if each.summary is not None]
        _conclude(app, client, outcomes, uri, output, models=models, overwrite=overwrite)
        if len(models) < len(outcomes):
            raise click.exceptions.Exit(FAILED)


@study.command(cls=Command, short_help="Predict test images with each combination of values.")
@click.argument("model", metavar="MODEL[:VERSION]")
@_DATASET
@_VARY
@PARAMETERS
@_DRY_RUN
@_OUTPUT
@_OVERWRITE
def predict(
    model: str,
    dataset: str,
    varied: tuple[str, ...],
    parameters: tuple[str, ...],
    dry_run: bool,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Apply MODEL to the test images with each combination of values of its prediction.

    \b
      parfocal study predict nuclei:1 --dataset nuclei \\
          --vary probability_threshold=0.4,0.5,0.6

    The verdict on the model, which is about its usual parameters, stays as it is.
    """  # noqa: D301 - click's mark for kept line ends
    app = current_app()
    from parfocal import v1
    from parfocal.client.models import read_model
    from parfocal.client.parameters import parse_parameters, schema_of
    from parfocal.client.published import read_manifest
    from parfocal.client.quality import evaluation_method_by
    from parfocal.client.studies import combinations, judge_prediction
    from parfocal.runtime.errors import InvalidInputError, UnavailableError
    from parfocal.runtime.store.manifests import DatasetManifest

    _check_output(output, overwrite=overwrite)
    with app.client() as client:
        summary = read_model(client, model)
        description = client.method(summary.manifest.method)
        schema = schema_of(description, v1.JOB_KIND_PREDICTION)
        given = parse_parameters(description.title, schema, parameters)
        variants = combinations(description.title, schema, varied, given)
        uri = client.dataset_uri(dataset)
        manifest = read_manifest(client, uri, DatasetManifest)
        if not manifest.can_be_judged_by("test"):
            raise InvalidInputError(f"The dataset {dataset!r} has no test images by which predictions can be compared.")
        judge = evaluation_method_by(client, description.task, manifest)
        if judge is None:
            raise UnavailableError("No service for quality control answers: see `parfocal status`.")
        _show_plan(variants, [])
        if dry_run:
            return
        doer = _StudyDoer(app, client, again=False, afterwards=_AFTERWARDS)
        outcomes, evaluations = [], []
        for values in variants:
            predicted, evaluated = judge_prediction(doer, judge, summary.uri, uri, given | values)
            outcomes.append(_outcome(client, values, evaluated, _seconds(predicted)))
            evaluations.append(evaluated.id)
        _conclude(app, client, outcomes, uri, output, evaluations=evaluations, overwrite=overwrite)


_AFTERWARDS = "The same command again continues the study."


class _StudyDoer(CommandDoer):
    """Has jobs done that have not been done before, and says nothing of those that have."""

    def do(self, request: v1.StartJobRequest, title: str) -> v1.Job:
        """Return the finished job of a request; end the command if it did not succeed."""
        from parfocal.client.quality import finished_job

        return finished_job(self._client, request) or super().do(request, title)

    def found(self, job: v1.Job, what: str) -> None:
        """Hear that something has been done before."""


def _check_output(output: Path | None, *, overwrite: bool) -> None:
    from parfocal.cli import _work
    from parfocal.client.transfer import check_output

    _work.check_evaluation_output(output, overwrite=overwrite)
    if output is not None:
        check_output(output, [_CSV], overwrite=overwrite)


def _show_plan(variants: Sequence[Mapping[str, Any]], models: Sequence[str]) -> None:
    from parfocal.cli._render import say

    for number, values in enumerate(variants, 1):
        what = ", ".join(f"{name} {value}" for name, value in values.items())
        say(f"{number} of {len(variants)}: {what}" + (f" → {models[number - 1]}" if models else ""))


def _start_all(client: Client, requests: Sequence[v1.StartJobRequest]) -> dict[str, v1.Job]:
    """Start as many trainings as the service admits, so that they continue without this command; return them by id.

    If one of them cannot be trained, none is.
    """
    from parfocal.flows._jobs import ACTIVE_STATES
    from parfocal.runtime.errors import InvalidInputError, QueueFullError

    jobs: dict[str, v1.Job] = {}
    try:
        for request in requests:
            jobs[request.request_id] = _begin(client, request, wait_for_queue=False)
    except QueueFullError:
        return jobs
    except InvalidInputError:
        for job in jobs.values():
            if job.state in ACTIVE_STATES:
                client.cancel(job.id, why="another model of the study cannot be trained")
        raise
    return jobs


def _begin(client: Client, request: v1.StartJobRequest, *, wait_for_queue: bool) -> v1.Job:
    """Return the training of a request: a new one, the one that is there, or that one continued if it ended badly."""
    from parfocal import v1

    job = client.start(request, wait_for_queue=wait_for_queue)
    # What is wrong with images or parameters is as wrong the next time.
    again = job.state in {v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED} and job.error.code != "INVALID_ARGUMENT"
    return client.resume(job.id) if again else job


def _trained(
    app: App,
    client: Client,
    method: v1.Method,
    values: Mapping[str, Any],
    request: v1.StartJobRequest,
    job: v1.Job | None,
) -> Outcome:
    """Follow the training of one combination, and have its model judged."""
    from parfocal import v1
    from parfocal.cli import _work
    from parfocal.cli._progress import Detached, follow
    from parfocal.cli._train import judge
    from parfocal.client.models import read_model
    from parfocal.client.studies import Outcome
    from parfocal.runtime.store.names import versioned_name

    job = job or _begin(client, request, wait_for_queue=True)
    try:
        if job.state != v1.JOB_STATE_SUCCEEDED:
            job = follow(client, job, f"Training {request.training.model}")
    except Detached as detached:
        _work.say_detached(app, detached.job, _AFTERWARDS)
        raise click.exceptions.Exit(DETACHED) from None
    if job.state != v1.JOB_STATE_SUCCEEDED:
        _work.show_failure(job)
        return Outcome(values, state=f"training {v1.JobState.Name(job.state).removeprefix('JOB_STATE_').lower()}")
    uri = _work.output_uri(job, "model")
    doer = _StudyDoer(app, client, again=False, training=job, afterwards=_AFTERWARDS)
    evaluation = judge(client, doer, method, uri, request.training.dataset_uri, again=False)
    seconds = read_model(client, uri).manifest.training_seconds
    if evaluation is None:
        return Outcome(values, versioned_name(uri), seconds=seconds)
    return _outcome(client, values, evaluation, seconds, versioned_name(uri))


def _outcome(client: Client, values: Mapping[str, Any], evaluation: v1.Job, seconds: float, model: str = "") -> Outcome:
    from parfocal.client.quality import evaluation_summary
    from parfocal.client.results import result_uri
    from parfocal.client.studies import Outcome

    summary = evaluation_summary(client, result_uri(evaluation))
    return Outcome(values, model, summary.verdict, seconds, summary)


def _seconds(job: v1.Job) -> float:
    return (job.finished_at.ToNanoseconds() - job.started_at.ToNanoseconds()) / 1e9


def _conclude(
    app: App,
    client: Client,
    outcomes: Sequence[Outcome],
    dataset_uri: str,
    output: Path | None,
    *,
    models: Sequence[str] = (),
    evaluations: Sequence[str] = (),
    overwrite: bool,
) -> None:
    """Compare what was judged, print the tables and write them to a folder."""
    from parfocal.cli import _work
    from parfocal.cli._compare import show_comparison
    from parfocal.cli._render import print_fields, print_json, print_table, warn
    from parfocal.client.comparisons import compare, plan_comparison
    from parfocal.client.quality import published_summary
    from parfocal.client.results import result_uri
    from parfocal.client.studies import csv_of, table_of
    from parfocal.runtime.errors import InvalidInputError, UnavailableError
    from parfocal.runtime.store.names import versioned_name

    job = None
    try:
        plan = plan_comparison(client, models, evaluations, versioned_name(dataset_uri))
        job = compare(client, _StudyDoer(app, client, again=False, afterwards=_AFTERWARDS), plan)
    except (InvalidInputError, UnavailableError) as error:
        warn(f"There is no comparison: {error.message}")
    summary = published_summary(client, result_uri(job)) if job is not None else None
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / _CSV).write_text(csv_of(outcomes), encoding="utf-8")
        if job is not None:
            _work.download_evaluation(client, job, output, overwrite=overwrite)
    headings, rows = table_of(outcomes)
    if app.json:
        table = [dict(zip(headings, row, strict=True)) for row in rows]
        print_json({"study": table, "comparison": job and {"job": job.id, "summary": summary}})
        return
    print_table(headings, rows, title=f"{len(rows)} combinations")
    if summary is not None:
        show_comparison(summary)
    if output is not None:
        print_fields({"Table": str(output / _CSV), "Report": str(output / "report.pdf") if job else ""})
    elif job is not None:
        print_fields({"Report": f"parfocal jobs download {job.id} --output FOLDER"})
