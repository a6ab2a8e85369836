"""Starting jobs, joining those that are already there, and what follows from how they end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import App
from parfocal.cli._errors import DETACHED, FAILED, NOT_PASSED, fail_text, unsaid
from parfocal.cli._progress import Detached, follow, transfer
from parfocal.cli._render import print_json, print_table, print_verdict, say, warn
from parfocal.runtime.errors import NotFoundError, ParfocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from parfocal import v1
    from parfocal.client import Client
    from parfocal.client.convert import Part
    from parfocal.client.models import ModelSummary
    from parfocal.runtime.store.evaluations import EvaluationSummary
    from parfocal.runtime.store.manifests import DatasetManifest
    from parfocal.runtime.store.verdicts import Verdict


def start_or_join(client: Client, request: v1.StartJobRequest, *, again: bool) -> v1.Job:
    """Start a job, or return an identical one that is at work already unless `again`.

    A training that asks for a verdict on its model is at work until there is one.
    """
    if not again:
        from parfocal import v1
        from parfocal.client.quality import JUDGE_LABEL, awaits_verdict

        active = (v1.JOB_STATE_QUEUED, v1.JOB_STATE_RUNNING)
        spec = str(request.WhichOneof("spec"))
        jobs = client.jobs(() if JUDGE_LABEL in request.labels else active)
        for job in jobs:
            same = job.WhichOneof("spec") == spec and getattr(job, spec) == getattr(request, spec)
            if same and (job.state in active or awaits_verdict(job, jobs)):
                say(f"The same work is under way already as job {job.id}; joining it (--again starts another).")
                return job
    job = client.start(request)
    say(f"Job {job.id}")
    for text in job.warnings:
        warn(text)
    return job


def finish(
    app: App,
    client: Client,
    job: v1.Job,
    label: str,
    *,
    on_report: Callable[[v1.Job], None] | None = None,
    fraction: Callable[[v1.Job], tuple[float, float]] | None = None,
    afterwards: str = "",
) -> v1.Job:
    """Follow a job; return it if it succeeded, else show why not and end the command.

    `afterwards` is said as well when the user stops watching.
    """
    from parfocal import v1

    try:
        if job.state != v1.JOB_STATE_SUCCEEDED:
            job = follow(client, job, label, on_report=on_report, fraction=fraction)
    except Detached as detached:
        say_detached(app, detached.job, afterwards)
        raise click.exceptions.Exit(DETACHED) from None
    if job.state == v1.JOB_STATE_SUCCEEDED:
        return job
    show_failure(job)
    if app.json:
        print_json({"job": job_json(job)})
    raise click.exceptions.Exit(FAILED)


def say_detached(app: App, job: v1.Job, afterwards: str = "") -> None:
    """Say that a job goes on without this command, and how to get back to it."""
    say(
        f"The job {job.id} goes on.\n"
        f"  watch it:   parfocal jobs watch {job.id}\n"
        f"  cancel it:  parfocal jobs cancel {job.id}"
    )
    if afterwards:
        say(afterwards)
    if app.json:
        print_json({"job": job_json(job)})


def show_failure(job: v1.Job) -> None:
    """Show why a job did not succeed."""
    from parfocal import v1

    if job.state == v1.JOB_STATE_CANCELLED:
        fail_text(f"The job {job.id} was cancelled. {_sentence(job.message)}")
    else:
        fail_text(f"The job {job.id} failed. {job.error.text or _sentence(job.message)}")
        for line in unsaid(job.error.text, job.error.violations):
            click.echo(line, err=True)
    # What is wrong with images or parameters is as wrong the next time.
    if job.HasField("training") and job.error.code != "INVALID_ARGUMENT":
        click.echo(f"Go on, from its last checkpoint if there is one, with: parfocal jobs resume {job.id}", err=True)


def say_unchecked(model: ModelSummary) -> None:
    """Say how to have a model judged that quality control has not looked at, whoever started its training."""
    from parfocal.runtime.store.names import versioned_name

    if model.verdict.state == "unchecked":
        trained_on = model.manifest.dataset_uri
        dataset = versioned_name(trained_on) if trained_on else "DATASET"
        command = f"parfocal evaluate --model {versioned_name(model.uri)} --dataset {dataset}"
        say(f"Quality control has not judged the model. Have it judged: {command}")


def job_json(job: v1.Job) -> dict[str, Any]:
    """Return a job as plain values, for --json."""
    from google.protobuf import json_format

    values = json_format.MessageToDict(job, preserving_proto_field_name=True)
    assert isinstance(values, dict)
    values["state"] = values["state"].removeprefix("JOB_STATE_")
    return values


def output_uri(job: v1.Job, kind: str) -> str:
    """Return where a job published an output of this kind."""
    for output in job.outputs:
        if output.kind == kind:
            return output.uri
    raise NotFoundError(f"The job {job.id} published no {kind}.")


def start_prediction(
    client: Client,
    model: ModelSummary,
    paths: Sequence[Path],
    parameters: Mapping[str, Any] | None = None,
    *,
    axes: str = "",
    part: Part | None = None,
) -> v1.Job:
    """Upload images and start a job that applies a model to them."""
    from parfocal.client.convert import WHOLE
    from parfocal.client.requests import prediction_request
    from parfocal.client.results import upload_inputs
    from parfocal.runtime.store.names import new_request_id

    request_id = new_request_id(f"predict-{model.manifest.model}")
    with transfer("Uploading") as on_progress:
        uri = upload_inputs(client, request_id, paths, axes=axes, part=part or WHOLE, on_progress=on_progress)
    return start_or_join(client, prediction_request(model.uri, uri, parameters, request_id=request_id), again=True)


class CommandDoer:
    """Has the jobs of a larger piece of work done for a command, which follows each of them.

    Parameters
    ----------
    again
        Have them done even if the same work is under way.
    training
        The training whose model is judged: its jobs are those of all who judge it, for instance of a flow runner.
    afterwards
        Said as well when the user stops watching.
    """

    def __init__(
        self, app: App, client: Client, *, again: bool, training: v1.Job | None = None, afterwards: str = ""
    ) -> None:
        self._app, self._client, self._again = app, client, again
        self._training, self._afterwards = training, afterwards

    def do(self, request: v1.StartJobRequest, title: str) -> v1.Job:
        """Return the finished job of a request; end the command if it did not succeed."""
        from parfocal import v1
        from parfocal.client.quality import judging_request
        from parfocal.runtime.store.names import new_request_id

        mine = request if self._training is None else judging_request(self._training.id, request)
        job = start_or_join(self._client, mine, again=self._again or self._training is not None)
        if job.state in {v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED}:
            # It was tried before, under the same id.
            request.request_id = new_request_id(str(request.WhichOneof("spec")))
            job = start_or_join(self._client, request, again=True)
        return finish(self._app, self._client, job, title, afterwards=self._afterwards)

    def found(self, job: v1.Job, what: str) -> None:  # noqa: ARG002
        """Say that something has been done before."""
        say(f"{what} Using that (--again does it again).")


def show_evaluation(client: Client, job: v1.Job) -> Verdict:
    """Print table and verdict of an evaluation and say where everything is; return the verdict."""
    from parfocal.client.quality import evaluation_summary
    from parfocal.client.results import read_result, result_uri
    from parfocal.runtime.store.verdicts import verdict_of

    result, uri = read_result(client, job), result_uri(job)
    print_metrics(evaluation_summary(client, uri))
    verdict = verdict_of(result.verdict, job.id, uri)
    print_verdict(verdict)
    for remark in result.verdict.get("remarks", ()):
        say(f"Note: {remark}")
    return verdict


def evaluation_json(client: Client, job: v1.Job) -> tuple[Verdict, dict[str, Any]]:
    """Return the verdict of an evaluation, and all of it as plain values, for --json."""
    from parfocal.client.quality import evaluation_summary
    from parfocal.client.results import read_result, result_uri
    from parfocal.runtime.store.verdicts import verdict_of

    result, uri = read_result(client, job), result_uri(job)
    values = {"uri": uri, "verdict": result.verdict, "summary": evaluation_summary(client, uri).model_dump(mode="json")}
    return verdict_of(result.verdict, job.id, uri), values


def print_metrics(summary: EvaluationSummary) -> None:
    """Print each metric for the prediction, the input and the baseline beside each other, for each target."""
    for role, part in summary.parts.items():
        names = part.names
        others = [kind for kind in names if kind != "prediction"]
        columns = ["Mean", names["prediction"], "95 % interval", *(names[kind] for kind in others)]
        rows = []
        for metric in part.shown_metrics:
            ours = part.metrics["prediction"][metric.key]
            interval = "too few images"
            if ours.low is not None and ours.high is not None:
                interval = f"{metric.number(ours.low)} to {metric.number(ours.high)}"
            means = (metric.number(part.metrics[kind][metric.key].mean) for kind in others)
            rows.append((metric.heading, metric.number(ours.mean), interval, *means))
        title = f"{f'{role}: ' if role else ''}{part.images} image{'' if part.images == 1 else 's'}"
        print_table(columns, rows, title=title, numbers=columns[1:])
        say(part.note)


def require_pass(verdict: Verdict, wanted: bool) -> None:
    """End the command with its own exit code if a pass was wanted and is not there."""
    if wanted and verdict.state != "passed":
        raise click.exceptions.Exit(NOT_PASSED)


def check_evaluation_output(folder: Path | None, *, overwrite: bool) -> None:
    """Look whether an evaluation can be downloaded to a folder, if there is one, before there is an evaluation."""
    from parfocal.client.transfer import check_output

    if folder is not None:
        check_output(folder, ["report.pdf", "report.html", "summary.json"], overwrite=overwrite)


def download_evaluation(client: Client, job: v1.Job, folder: Path, *, overwrite: bool) -> list[Path]:
    """Download figure, maps and tables of an evaluation."""
    from parfocal.client.results import download_result

    try:
        with transfer("Downloading") as on_progress:
            return download_result(client, job, folder, overwrite=overwrite, on_progress=on_progress)
    except ParfocalError:
        say(f"The evaluation is kept. Download it: parfocal jobs download {job.id} --output FOLDER")
        raise


def check_test_images(dataset: DatasetManifest, split: str = "test") -> bool:
    """Return whether a dataset has images for quality control; say so if not."""
    if dataset.can_be_judged_by(split):
        return True
    warn(
        f"The dataset {dataset.dataset!r} has no {split} images with targets, so quality control cannot judge the "
        "model. Create it again with a few in test/source and test/target that are not among the training images."
    )
    return False


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""
