"""A worker of quality control that is lost after it has published: the next attempt finishes what is missing."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import publish_dataset, publish_images, publish_model

from parfocal import v1
from parfocal.qc import SERVICE
from parfocal.qc.restoration.job import evaluate
from parfocal.runtime.jobs.admission import admit
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.jobs.records import JobStore, set_state
from parfocal.runtime.store.store import Location, Store

# A name of its own: a running service would take up the jobs that are done here.
OWN = replace(SERVICE, name="qc-by-hand")


class LostAtTheModel(Store):
    """A store whose worker is killed when it begins to write to a model."""

    def upload(self, path: Path, location: Location) -> None:
        if "/qc/" in str(location):
            raise SystemExit("killed")
        super().upload(path, location)


def test_the_model_has_its_verdict_although_the_worker_was_lost_before(
    s3: Any, pairs_folder: Path, tmp_path: Path
) -> None:
    settings = s3.store().settings.model_copy(update={"state_dir": tmp_path / "state"})
    store, losing = Store(settings), LostAtTheModel(settings)
    dataset = publish_dataset(store, "lost", pairs_folder)
    model = publish_model(store, "judged", dataset)
    shutil.copytree(pairs_folder / "test" / "target", tmp_path / "predicted")
    spec = v1.EvaluationSpec(
        method="restoration",
        dataset_uri=dataset,
        prediction_uri=publish_images(store, tmp_path / "predicted"),
        split="test",
        model_uri=model,
    )
    jobs = JobStore(store)
    job = admit(OWN, store, jobs, v1.StartJobRequest(request_id=uuid.uuid4().hex, project="default", evaluation=spec))

    def attempt(number: int, of: Store) -> JobContext:
        def begin(job: v1.Job) -> v1.JobEvent:
            job.attempt = number
            return set_state(job, v1.JOB_STATE_RUNNING, "running")

        scratch = tmp_path / f"attempt-{number}"
        scratch.mkdir()
        return JobContext(OWN, of, jobs.change("default", job.id, begin), scratch)

    with pytest.raises(SystemExit, match="killed"):
        evaluate(attempt(1, losing))
    place = Location.parse(model) / "qc" / job.id
    assert not store.exists(place / "verdict.json")
    second = attempt(2, store)
    evaluate(second)
    assert store.read_json(place / "verdict.json")["state"] == "passed"
    assert store.exists(place / "report.pdf")
    assert [output.kind for output in second.job.outputs] == ["evaluation", "qc"]
    assert second.job.metrics["prediction_ssim"] == pytest.approx(1)
