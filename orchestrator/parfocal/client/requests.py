"""Requests for jobs, each with a fresh request id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import struct_pb2

from parfocal import v1
from parfocal.runtime.images.taken import EVERYTHING, Taken
from parfocal.runtime.store.names import new_request_id


def training_request(
    method: str,
    dataset_uri: str,
    model: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    initial_model_uri: str = "",
    initial_weights: str = "",
    project: str = "",
    request_id: str = "",
    labels: Mapping[str, str] | None = None,
) -> v1.StartJobRequest:
    """Return the request to make a model from a dataset.

    Parameters
    ----------
    method
        Name of the method, e.g. "care-2d".
    dataset_uri
        As returned by `Client.dataset_uri`.
    model
        Name of the model; the service gives it the next version number.
    parameters
        Those that differ from their defaults.
    initial_model_uri, initial_weights
        A model to start from instead of random weights, and which of its weights; empty: its usual ones.
    project, request_id, labels
        Empty: the client's project, a fresh id, no labels.
    """
    spec = v1.TrainingSpec(
        method=method,
        dataset_uri=dataset_uri,
        model=model,
        parameters=to_struct(parameters),
        initial_model_uri=initial_model_uri,
        initial_weights_name=initial_weights,
    )
    request = _request(f"train-{model}", project, request_id, labels)
    request.training.CopyFrom(spec)
    return request


def prediction_request(
    model_uri: str,
    input_uri: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    split: str = "",
    inputs: Sequence[str] = (),
    taken: Taken = EVERYTHING,
    project: str = "",
    request_id: str = "",
    labels: Mapping[str, str] | None = None,
) -> v1.StartJobRequest:
    """Return the request to apply a model to a folder of images, or to one split of a dataset.

    Parameters
    ----------
    model_uri
        As returned by `Client.model_uri`.
    input_uri
        As returned by `parfocal.client.results.upload_inputs`, or a dataset version with `split`.
    parameters
        Those that differ from their defaults.
    split
        "test" or "train" where the input is a dataset.
    inputs
        Which images of a folder, by their names below it; empty: all.
    taken
        What is taken of each image, as far as it has that.
    project, request_id, labels
        As for `training_request`.
    """
    spec = v1.PredictionSpec(
        model_uri=model_uri, input_uri=input_uri, split=split, parameters=to_struct(parameters), inputs=list(inputs)
    )
    if taken:
        spec.taken.CopyFrom(taken.message)
    request = _request("predict", project, request_id, labels)
    request.prediction.CopyFrom(spec)
    return request


def evaluation_request(
    method: str,
    prediction_uri: str,
    dataset_uri: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    split: str = "test",
    model_uri: str = "",
    project: str = "",
    request_id: str = "",
    labels: Mapping[str, str] | None = None,
) -> v1.StartJobRequest:
    """Return the request to score predictions against the targets of a dataset.

    Parameters
    ----------
    method
        Name of the evaluation method, e.g. "restoration".
    prediction_uri
        Published result of predicting the same split.
    dataset_uri, split
        Where the targets are.
    parameters
        Those that differ from their defaults, e.g. the thresholds of the verdict.
    model_uri
        The model that predicted; the verdict is added to it. Empty: the verdict stays with the job.
    project, request_id, labels
        As for `training_request`.
    """
    spec = v1.EvaluationSpec(
        method=method,
        prediction_uri=prediction_uri,
        dataset_uri=dataset_uri,
        split=split,
        model_uri=model_uri,
        parameters=to_struct(parameters),
    )
    request = _request("evaluate", project, request_id, labels)
    request.evaluation.CopyFrom(spec)
    return request


def comparison_request(
    method: str,
    evaluation_uris: Sequence[str],
    dataset_uri: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    project: str = "",
    request_id: str = "",
    labels: Mapping[str, str] | None = None,
) -> v1.StartJobRequest:
    """Return the request to compare published evaluations of the same test images.

    Parameters
    ----------
    method
        Name of the evaluation method that made them, e.g. "restoration".
    evaluation_uris
        Two or more, as returned by `parfocal.client.results.result_uri`.
    dataset_uri
        The dataset version they have in common.
    parameters
        Those that differ from their defaults.
    project, request_id, labels
        As for `training_request`.
    """
    spec = v1.ComparisonSpec(
        method=method,
        evaluation_uris=list(evaluation_uris),
        dataset_uri=dataset_uri,
        parameters=to_struct(parameters),
    )
    request = _request("compare", project, request_id, labels)
    request.comparison.CopyFrom(spec)
    return request


def derivation_request(
    input_uris: Sequence[str],
    parameters: Mapping[str, Any] | None = None,
    *,
    method: str = "tiles",
    project: str = "",
    request_id: str = "",
    labels: Mapping[str, str] | None = None,
) -> v1.StartJobRequest:
    """Return the request to make what a browser shows of published images.

    Parameters
    ----------
    input_uris
        Dataset versions and results, one or more, as returned by `Client.dataset_uri` and
        `parfocal.client.results.result_uri`.
    parameters
        Those that differ from their defaults.
    method
        Name of the method.
    project, request_id, labels
        As for `training_request`.
    """
    spec = v1.DerivationSpec(method=method, input_uris=list(input_uris), parameters=to_struct(parameters))
    request = _request("tiles", project, request_id, labels)
    request.derivation.CopyFrom(spec)
    return request


def to_struct(values: Mapping[str, Any] | None) -> struct_pb2.Struct:
    """Return plain values (numbers, text, truth values, lists, None) as a Struct."""
    struct = struct_pb2.Struct()
    struct.update(dict(values or {}))
    return struct


def _request(what: str, project: str, request_id: str, labels: Mapping[str, str] | None) -> v1.StartJobRequest:
    return v1.StartJobRequest(request_id=request_id or new_request_id(what), project=project, labels=labels or {})
