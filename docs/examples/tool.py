"""What a tool asks of Parfocal: who is there, one image predicted, a test set predicted by a job and judged by another.

Needs parfocal-proto, grpcio-health-checking, grpcio-status and tifffile; docs/for-tool-authors.md says where from.

Usage: python tool.py SERVICE QC CATALOG MODEL DATASET IMAGE     SERVICE, QC, CATALOG: host:port; MODEL, DATASET: s3://…
"""
# ruff: noqa: T201

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tifffile
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from parfocal import v1

PROJECT = os.environ.get("PARFOCAL_PROJECT", "default")  # that of model and dataset
TOKEN = os.environ.get("PARFOCAL_TOKEN", "")
CALLER = [("authorization", f"Bearer {TOKEN}")] if TOKEN else []  # of every call, where services ask who calls
MOST_BYTES = 3 * 2**20


def connect(address: str) -> grpc.Channel:
    """Return a channel; without TLS a token must not leave this machine."""
    authority = os.environ.get("PARFOCAL_TLS_CA", "")
    if authority:
        roots = None if authority == "system" else Path(authority).read_bytes()
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(roots))
    if TOKEN and address.rpartition(":")[0] not in {"127.0.0.1", "[::1]", "localhost"}:
        sys.exit(f"The token is not sent to {address} without TLS: set PARFOCAL_TLS_CA.")
    return grpc.insecure_channel(address)


def explain(error: grpc.RpcError) -> str:
    """Return the code and reason of an error, for programs, and its text, for people."""
    reason, fields = "", []
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        for message in (error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()):
            if detail.Unpack(message):
                reason = getattr(message, "reason", reason)
                fields += getattr(message, "field_violations", [])
    lines = [f"{error.code().name} {reason}: {error.details()}"]
    return "\n".join([*lines, *(f"  {field.field}: {field.description}" for field in fields)])


def predict(
    methods: v1.MethodServiceStub, model: str, pixels: np.ndarray[Any, Any], axes: str
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the images that a model makes of one; tables are left out here."""

    def messages() -> Iterator[v1.PredictImageRequest]:
        image = v1.ImageHeader(shape=pixels.shape, dtype=pixels.dtype.name, axes=axes)
        yield v1.PredictImageRequest(header=v1.PredictImageHeader(model_uri=model, image=image))
        data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        yield from (v1.PredictImageRequest(pixels=data[at : at + MOST_BYTES]) for at in range(0, len(data), MOST_BYTES))

    heads: list[v1.ImageHeader] = []
    parts: list[bytearray] = []
    for answer in methods.PredictImage(messages(), metadata=CALLER, timeout=600):
        part = answer.WhichOneof("part")
        if part == "warning":
            print("warning:", answer.warning)
        elif part == "header":
            heads.append(answer.header)
            parts.append(bytearray())
        elif part == "pixels":
            parts[-1].extend(answer.pixels)
    images = {}
    for head, part in zip(heads, parts, strict=True):
        images[head.name] = np.frombuffer(part, np.dtype(head.dtype).newbyteorder("<")).reshape(head.shape)
    return images


def finish(channel: grpc.Channel, **spec: Any) -> v1.Job:
    """Start a job and return it when it has ended; a job that failed says why in the same words as a call."""
    jobs = v1.JobServiceStub(channel)
    request = v1.StartJobRequest(request_id=uuid.uuid4().hex, project=PROJECT, **spec)
    job = jobs.StartJob(request, metadata=CALLER, timeout=60).job
    for report in jobs.WatchJob(v1.WatchJobRequest(project=job.project, job_id=job.id), metadata=CALLER):
        job = report.job
    state = v1.JobState.Name(job.state).removeprefix("JOB_STATE_")
    print(job.id, state, *(output.uri for output in job.outputs))
    if job.state != v1.JOB_STATE_SUCCEEDED:
        sys.exit(f"{job.error.code} {job.error.reason}: {job.error.text}")
    return job


def main(service: str, qc: str, catalog: str, model: str, dataset: str, image: str) -> None:
    """Do all of it, one after the other."""
    with connect(service) as work, connect(qc) as judge, connect(catalog) as entries:
        health = health_pb2_grpc.HealthStub(work).Check(health_pb2.HealthCheckRequest(), timeout=5)
        print("ping:", health_pb2.HealthCheckResponse.ServingStatus.Name(health.status))

        methods = v1.MethodServiceStub(work)
        offered = methods.ListMethods(v1.ListMethodsRequest(), metadata=CALLER, timeout=10)
        for method in offered.methods:
            print("method:", method.name, method.data_requirements.axes, v1.Task.Name(method.task), method.title)

        pixels = tifffile.imread(image)
        for name, output in predict(methods, model, pixels, "YX").items():
            tifffile.imwrite(f"{name}.tif", output)
            print("image:", name, output.dtype, output.shape)

        # A job: of the test images of a dataset, whose result is kept and can be traced.
        spec = v1.PredictionSpec(model_uri=model, input_uri=dataset, split="test")
        predicted = finish(work, prediction=spec)

        result = next(output.uri for output in predicted.outputs if output.kind == "result")

        # Quality control has a method for each task; here that which compares with the targets, image by image.
        made_by = v1.GetEntryRequest(uri=model)
        catalogue = v1.CatalogServiceStub(entries)
        entry = catalogue.GetEntry(made_by, metadata=CALLER, timeout=10).entry
        (task,) = (method.task for method in offered.methods if method.name == entry.model.method)
        kinds = v1.MethodServiceStub(judge).ListMethods(v1.ListMethodsRequest(), metadata=CALLER, timeout=10).methods
        score = judging(kinds, task)
        judged = v1.EvaluationSpec(
            method=score, prediction_uri=result, dataset_uri=dataset, split="test", model_uri=model
        )
        finish(judge, evaluation=judged)

        verdict = catalogue.GetEntry(made_by, metadata=CALLER, timeout=10).entry.model.verdict
        print("verdict:", verdict.state, *verdict.reasons, sep="\n  ")


def judging(methods: Sequence[v1.Method], task: v1.Task.ValueType) -> str:
    """Return the name of the method that judges what methods of a task predict, by targets of the same images."""
    without = {v1.TARGET_KIND_NONE, v1.TARGET_KIND_UNPAIRED_IMAGE}
    for method in methods:
        judges = v1.JOB_KIND_EVALUATION in method.job_kinds and method.data_requirements.target not in without
        if judges and method.task == task:
            return method.name
    sys.exit(f"Nothing here judges {v1.Task.Name(task)}.")


if __name__ == "__main__":
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except grpc.RpcError as error:
        sys.exit(explain(error))
