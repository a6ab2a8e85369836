"""The generated package is complete and consistent with itself."""

from __future__ import annotations

from google.protobuf import json_format

from parfocal import v1


def test_every_state_of_a_job_has_a_stable_number() -> None:
    # Stored jobs carry names, clients numbers: neither may ever change.
    assert dict(v1.JobState.items()) == {
        "JOB_STATE_UNSPECIFIED": 0,
        "JOB_STATE_QUEUED": 1,
        "JOB_STATE_RUNNING": 2,
        "JOB_STATE_SUCCEEDED": 3,
        "JOB_STATE_FAILED": 4,
        "JOB_STATE_CANCELLED": 5,
        "JOB_STATE_CANCELLING": 6,
    }


def test_each_kind_of_work_is_one_message_in_request_and_job() -> None:
    kinds = {name.removeprefix("JOB_KIND_").lower() for name, _ in v1.JobKind.items()} - {"unspecified"}
    for message in (v1.StartJobRequest, v1.Job):
        assert {field.name for field in message.DESCRIPTOR.oneofs_by_name["spec"].fields} == kinds


def test_a_job_survives_the_json_of_the_store() -> None:
    job = v1.Job(id="a", state=v1.JOB_STATE_RUNNING, metrics={"loss": 0.1}, training=v1.TrainingSpec(method="m"))
    assert json_format.ParseDict(json_format.MessageToDict(job), v1.Job()) == job


def test_the_package_offers_stubs_and_servicers() -> None:
    assert all([v1.JobServiceStub, v1.JobServiceServicer, v1.MethodServiceStub, v1.MethodServiceServicer])
