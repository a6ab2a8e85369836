"""Evaluations as jobs: a real QC service, a real store, and predictions made by changing the targets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format, struct_pb2
from support import publish_dataset, wait_for

from parfocal import v1
from parfocal.runtime.images import Image, read_image, write_image
from parfocal.runtime.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.names import result_location
from parfocal.runtime.publish import folder_files, publish, upload_files

FINAL = {v1.JOB_STATE_SUCCEEDED, v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED}


@pytest.fixture(scope="module")
def evaluate_changed(
    start_service: Any, s3: Any, nuclei_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., v1.Job]:
    """Evaluate the label images of the test nuclei, changed by a function, as if a model had predicted them."""
    store, address = s3.store(), start_service("qc").address
    dataset = publish_dataset(store, "nuclei", nuclei_folder)

    def run(method: str, change: Callable[[Any], Any], **parameters: Any) -> v1.Job:
        folder = tmp_path_factory.mktemp("predicted")
        for path in (nuclei_folder / "test" / "target").iterdir():
            write_image(folder / path.name, Image(change(read_image(path).pixels), "YX", None))
        place = result_location(store, "default", folder.name)
        files = upload_files(store, place, folder_files(folder))
        manifest = ResultManifest(
            project="default", job="none", service="test", method="test", kind="prediction", files=files
        )
        prediction = publish(store, place, RESULT_MANIFEST, manifest)
        values = struct_pb2.Struct()
        json_format.ParseDict(parameters, values)
        spec = v1.EvaluationSpec(
            method=method, dataset_uri=dataset, prediction_uri=prediction, split="test", parameters=values
        )
        with grpc.insecure_channel(address) as channel:
            jobs = v1.JobServiceStub(channel)
            job = jobs.StartJob(v1.StartJobRequest(evaluation=spec)).job
            get = v1.GetJobRequest(job_id=job.id)
            wait_for(lambda: jobs.GetJob(get).job.state in FINAL, 120, "the evaluation")
            return jobs.GetJob(get).job

    return run
