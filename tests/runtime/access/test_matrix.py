"""Who may call what: every RPC of the method services by everybody, against a service that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from access_matrix import FOREIGN, OWN, PEOPLE, Case, People, all_services, cases, make_people, outcome
from google.protobuf import message_factory
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from support import ServiceProcess, read_audit

from parfocal import v1
from parfocal.runtime.access.actions import ACTIONS
from parfocal.runtime.jobs.records import JobStore

SERVED = {"parfocal.v1.JobService", "parfocal.v1.MethodService"}
#: Services with a matrix of their own, next to what serves them.
ELSEWHERE = {"parfocal.v1.CatalogService"}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return make_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def service(
    start_service: Callable[..., ServiceProcess],
    s3: Any,
    people: People,
    tmp_path_factory: pytest.TempPathFactory,
) -> ServiceProcess:
    """A service with identities that runs no jobs, and jobs made by different people in both projects."""
    jobs = JobStore(s3.store())
    for project in (OWN, FOREIGN):
        for made_by in ("machine:user", "machine:somebody-else"):
            job = v1.Job(id=job_id(made_by), project=project, service="fake", created_by=made_by)
            job.training.method = "fake-2d"
            jobs.create(job, "")
    return start_service(
        "fake", launcher="none", audit_file=str(tmp_path_factory.mktemp("audit") / "audit.jsonl"), **people.settings
    )


def job_id(made_by: str) -> str:
    return made_by.replace(":", "-")


def request_of(case: Case) -> Any:
    request = message_factory.GetMessageClass(case.method.input_type)()
    fields = case.method.input_type.fields_by_name
    if "project" in fields:
        request.project = case.project
    if "job_id" in fields:
        request.job_id = job_id(case.made_by)
    if case.method.name == "PredictImage":
        request.header.model_uri = f"s3://parfocal-models/{case.project}/none/1"
    return request


def test_every_rpc_has_a_row_and_every_row_an_rpc() -> None:
    rpcs = {f"/{service.full_name}/{method.name}" for service in all_services() for method in service.methods}
    for descriptor in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        rpcs |= {
            f"/{service.full_name}/{method.name}"
            for service in descriptor.services_by_name.values()
            for method in service.methods
        }
    assert ACTIONS.keys() - {f"/{health.SERVICE_NAME}/List"} == rpcs - {f"/{health.SERVICE_NAME}/List"}


def test_every_service_has_a_matrix() -> None:
    assert {service.full_name for service in all_services()} == SERVED | ELSEWHERE


def test_every_rpc_is_decided_as_the_table_says(service: ServiceProcess, people: People) -> None:
    wrong, decided = [], set()
    with grpc.insecure_channel(service.address) as channel:
        for case in cases([each for each in all_services() if each.full_name in SERVED]):
            found = outcome(channel, case, request_of(case), people.metadata(case.caller))
            decided.add(found)
            if found != case.expected:
                wrong.append(f"{case}: {found} instead of {case.expected}")
    assert not wrong
    # Otherwise nothing was told apart.
    assert decided == {"pass", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND"}


def test_health_needs_no_token_and_reflection_does(service: ServiceProcess, people: People) -> None:
    with grpc.insecure_channel(service.address) as channel:
        check = channel.unary_unary(
            f"/{health.SERVICE_NAME}/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        assert check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
        ask = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as refused:
            list(ask(iter([question]), timeout=5))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        (answer,) = ask(iter([question]), timeout=5, metadata=people.metadata("viewer"))
        assert "parfocal.v1.JobService" in {each.name for each in answer.list_services_response.service}


def test_only_operators_act_for_others(service: ServiceProcess, people: People) -> None:
    with grpc.insecure_channel(service.address) as channel:
        jobs = v1.JobServiceStub(channel)
        found = {}
        for name, role in PEOPLE.items():
            metadata = [*people.metadata(name), ("parfocal-acts-for", "ann")]
            try:
                jobs.ListJobs(v1.ListJobsRequest(project=OWN), timeout=5, metadata=metadata)
                found[name] = "pass"
            except grpc.RpcError as error:
                found[name] = error.code().name
            assert role is None or name in found
    assert found == {
        "viewer": "PERMISSION_DENIED",
        "user": "PERMISSION_DENIED",
        "operator": "pass",
        "stranger": "NOT_FOUND",
    }


def test_who_acts_for_somebody_may_do_no_more_than_they(service: ServiceProcess, people: People) -> None:
    metadata = [*people.metadata("operator"), ("parfocal-acts-for", "machine:viewer")]
    with grpc.insecure_channel(service.address) as channel, pytest.raises(grpc.RpcError) as refused:
        v1.JobServiceStub(channel).StartJob(v1.StartJobRequest(project=OWN), timeout=5, metadata=metadata)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_who_acts_for_somebody_changes_only_what_they_have_made(service: ServiceProcess, people: People) -> None:
    metadata = [*people.metadata("operator"), ("parfocal-acts-for", "machine:user")]
    found = {}
    with grpc.insecure_channel(service.address) as channel:
        for made_by in ("machine:user", "machine:somebody-else"):
            request = v1.CancelJobRequest(project=OWN, job_id=job_id(made_by))
            with pytest.raises(grpc.RpcError) as refused:
                v1.JobServiceStub(channel).CancelJob(request, timeout=5, metadata=metadata)
            found[made_by] = refused.value.code()
    # This instance runs no jobs, which it says to those who may cancel them.
    assert found == {
        "machine:user": grpc.StatusCode.UNAVAILABLE,
        "machine:somebody-else": grpc.StatusCode.PERMISSION_DENIED,
    }


def test_each_call_is_in_the_audit_log_and_no_token(service: ServiceProcess, people: People) -> None:
    with grpc.insecure_channel(service.address) as channel:
        jobs = v1.JobServiceStub(channel)
        request = v1.GetJobRequest(project=OWN, job_id=job_id("machine:user"))
        metadata = [*people.metadata("operator"), ("parfocal-acts-for", "ann"), ("x-request-id", "audited")]
        jobs.GetJob(request, timeout=5, metadata=metadata)
    path = service.environment["PARFOCAL_AUDIT_FILE"]
    (entry,) = [entry for entry in read_audit(path) if entry["request_id"] == "audited"]
    assert {key: entry[key] for key in ("who", "acts_for", "rpc", "project", "target", "outcome")} == {
        "who": "machine:operator",
        "acts_for": "ann",
        "rpc": "parfocal.v1.JobService/GetJob",
        "project": OWN,
        "target": "machine-user",
        "outcome": "OK",
    }
    assert "127.0.0.1" in entry["from"]
    logged = service.log.read_text() + "".join(map(str, read_audit(path)))
    assert not [name for name, token in people.tokens.items() if token in logged]
