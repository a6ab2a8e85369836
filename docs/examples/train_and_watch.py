"""Trains a model and watches it with nothing but the generated stubs (parfocal-proto and grpcio).

Usage: python train_and_watch.py HOST:PORT s3://BUCKET/PROJECT/DATASET/VERSION [METHOD]
"""
# ruff: noqa: T201

import sys
import uuid

import grpc

from parfocal import v1

address, dataset_uri, method = (*sys.argv[1:], "care-2d")[:3]
request = v1.StartJobRequest(
    request_id=uuid.uuid4().hex,  # a repeated call with the same id returns the same job
    training=v1.TrainingSpec(method=method, dataset_uri=dataset_uri, model="scripted"),
)
request.training.parameters.update({"epochs": 5})  # what is left out has its default

with grpc.insecure_channel(address) as channel:
    jobs = v1.JobServiceStub(channel)
    job = jobs.StartJob(request).job
    print(job.id)
    for report in jobs.WatchJob(v1.WatchJobRequest(job_id=job.id)):
        job, event = report.job, report.event
        if event.HasField("epoch_completed"):
            print(f"epoch {event.epoch_completed.epoch}:", dict(event.epoch_completed.metrics))

print(v1.JobState.Name(job.state), job.error.text, *(output.uri for output in job.outputs))
