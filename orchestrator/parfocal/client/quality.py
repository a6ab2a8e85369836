"""Quality control of models: which method judges, what has been done before, and what an evaluation says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.models import judging_parameters, read_model
from parfocal.client.requests import evaluation_request, prediction_request
from parfocal.client.results import is_gone, result_uri
from parfocal.runtime.errors import DamagedError
from parfocal.runtime.store.evaluations import SUMMARY_FILE, EvaluationSummary
from parfocal.runtime.store.manifests import TURNED_BACK, DatasetManifest
from parfocal.runtime.store.names import versioned_name

# On a training: its model shall be judged on this split as soon as it is there, by whoever sees it first.
JUDGE_LABEL = "parfocal.judge"
# On the jobs that judge the model of a training: that training.
TRAINING_LABEL = "parfocal.training"
# By kind of job: what the steps after a training are called in their ids.
JUDGING_STEPS = {"prediction": "predict", "evaluation": "qc"}
_LONGEST_ORIGIN = 50
_ENDED_BADLY = (v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED)


class Doer(Protocol):
    """Whoever has the jobs of a larger piece of work done: a command, or a workflow."""

    def do(self, request: v1.StartJobRequest, title: str) -> v1.Job:
        """Return the job of a request when it has succeeded; `title` says what is going on."""

    def found(self, job: v1.Job, what: str) -> None:
        """Hear that something has been done before; `what` is a sentence."""


def evaluation_method(
    client: Client, task: v1.Task.ValueType, *, targets: bool = True, unpaired: bool = False
) -> v1.Method | None:
    """Return the evaluation method for what methods of a task make, or None where no service offers one.

    With `targets` it is one that compares with them, image by image, or as a set where they are `unpaired`; without,
    one that does without.
    """
    others = {v1.TARGET_KIND_NONE: not targets, v1.TARGET_KIND_UNPAIRED_IMAGE: unpaired}
    for info in client.services():
        for method in info.methods:
            wanted = others.get(method.data_requirements.target, targets and not unpaired)
            if v1.JOB_KIND_EVALUATION in method.job_kinds and method.task == task and wanted:
                return method
    return None


def evaluation_method_by(
    client: Client, task: v1.Task.ValueType, dataset: DatasetManifest, split: str = "test"
) -> v1.Method | None:
    """Return the evaluation method that suits the images of a split, which may be no pairs; None without one."""
    return evaluation_method(client, task, unpaired=dataset.has_unpaired(split))


def evaluation_summary(client: Client, uri: str) -> EvaluationSummary:
    """Return what an evaluation says, from the place where it was published."""
    return EvaluationSummary.parse(client.catalog.read(uri, SUMMARY_FILE), uri)


def published_summary(client: Client, uri: str) -> dict[str, Any]:
    """Return what a comparison or a check of a dataset says, from the place where it was published."""
    try:
        content = json.loads(client.catalog.read(uri, SUMMARY_FILE))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DamagedError(f"{SUMMARY_FILE} of {uri} is damaged. Compare or check again.")
    return content


def finished_job(client: Client, request: v1.StartJobRequest) -> v1.Job | None:
    """Return the newest job that has done exactly what a request asks for, and whose result is there, or None."""
    spec = str(request.WhichOneof("spec"))
    for job in client.jobs((v1.JOB_STATE_SUCCEEDED,)):
        same = job.WhichOneof("spec") == spec and getattr(job, spec) == getattr(request, spec)
        if same and job.outputs and not is_gone(client, job):
            return job
    return None


def judge_model(
    client: Client,
    doer: Doer,
    method: v1.Method,
    model_uri: str,
    dataset_uri: str,
    *,
    split: str = "test",
    parameters: Mapping[str, Any] | None = None,
    again: bool = False,
    reuse: bool = False,
) -> v1.Job:
    """Have a model predict a split and have that scored; return the finished evaluation.

    Parameters
    ----------
    method
        The evaluation method, see `evaluation_method`.
    parameters
        Of the evaluation, those that differ from their defaults.
    again
        Predict again even if there is such a prediction.
    reuse
        Take the newest evaluation with the same prediction, targets, model and parameters, if there is one.
    """
    name = versioned_name(model_uri)
    manifest = read_model(client, model_uri).manifest
    wanted = judging_parameters(manifest)
    if method.data_requirements.target == v1.TARGET_KIND_UNPAIRED_IMAGE:
        wanted |= _both_ways(client.method(manifest.method))
    request = prediction_request(model_uri, dataset_uri, wanted, split=split)
    predicted = None if again else finished_job(client, request)
    if predicted is not None:
        doer.found(predicted, f"The {split} images have been predicted with {name} before (job {predicted.id}).")
    else:
        predicted = doer.do(request, f"Predicting {split} images with {name}")
    request = evaluation_request(
        method.name, result_uri(predicted), dataset_uri, parameters, split=split, model_uri=model_uri
    )
    evaluated = finished_job(client, request) if reuse and not again else None
    if evaluated is not None:
        doer.found(evaluated, f"{name} has been scored before (job {evaluated.id}).")
        return evaluated
    return doer.do(request, f"Quality control of {name}")


def judging_id(training_id: str) -> str:
    """Return what the ids of the jobs begin with that judge the model of a training; at most 50 characters."""
    if len(training_id) <= _LONGEST_ORIGIN:
        return training_id
    digest = hashlib.sha256(training_id.encode()).hexdigest()[:8]
    return f"{training_id[: _LONGEST_ORIGIN - 9]}-{digest}"


def judging_request(training_id: str, request: v1.StartJobRequest) -> v1.StartJobRequest:
    """Return a request of `judge_model` as all make it who judge the model of a training, so that it is one job."""
    step = JUDGING_STEPS[str(request.WhichOneof("spec"))]
    mine = v1.StartJobRequest(labels={TRAINING_LABEL: training_id})
    mine.MergeFrom(request)
    mine.request_id = f"{judging_id(training_id)}-{step}"
    return mine


def awaits_verdict(training: v1.Job, jobs: Iterable[v1.Job]) -> bool:
    """Return whether a training asks for a verdict on its model, and none of its project's jobs gave or failed to."""
    if JUDGE_LABEL not in training.labels or training.state != v1.JOB_STATE_SUCCEEDED:
        return False
    models = {output.uri for output in training.outputs if output.kind == "model"}
    return not any(
        (job.state == v1.JOB_STATE_SUCCEEDED and job.evaluation.model_uri in models)
        or (job.state in _ENDED_BADLY and job.labels.get(TRAINING_LABEL) == training.id)
        for job in jobs
    )


def _both_ways(method: v1.Method) -> dict[str, Any]:
    """Return the parameter by which a method turns its predictions back as well, if it can."""
    schemas = (each.json_schema for each in method.parameter_schemas if each.job_kind == v1.JOB_KIND_PREDICTION)
    known: set[str] = set().union(*(json.loads(schema)["properties"] for schema in schemas))
    return {TURNED_BACK: True} if TURNED_BACK in known else {}
