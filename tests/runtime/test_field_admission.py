"""What a method advises about a training is a warning of the job before it begins."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from fake import SERVICE

from parfocal import v1
from parfocal.runtime.jobs.admission import admit
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.store.manifests import DatasetManifest
from parfocal.runtime.store.store import Store


def test_advice_is_a_warning_of_the_admitted_job(store: Store, dataset_uri: str) -> None:
    def advise(parameters: Any, dataset: DatasetManifest) -> list[str]:
        return [f"patches of {parameters.patch_size} for {dataset.dataset}"]

    service = replace(SERVICE, methods=(replace(SERVICE.method("fake-2d"), advise=advise),))
    spec = v1.TrainingSpec(method="fake-2d", dataset_uri=dataset_uri, model=f"advised-{uuid.uuid4().hex[:8]}")
    request = v1.StartJobRequest(request_id=uuid.uuid4().hex, project="default", training=spec)
    job = admit(service, store, JobStore(store), request)
    assert job.state == v1.JOB_STATE_QUEUED
    assert len(job.warnings) == 1
    assert job.warnings[0].startswith("patches of ")
