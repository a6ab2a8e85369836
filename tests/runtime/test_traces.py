"""Traces, as a collector of OpenTelemetry receives them from real processes; and nothing at all where there is none."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import (
    ROOT,
    S3Server,
    ServiceProcess,
    filament_pair,
    free_ports,
    publish_dataset,
    publish_images,
    search_path,
    wait_for,
    write_pairs,
)

from parfocal import v1
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.store.store import Location, Store

_SKIPPED = "OpenTelemetry is installed where the tests of the runtime usually run: in the environment of qc"
pytest.importorskip("opentelemetry.proto", reason=_SKIPPED)

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: E402
from opentelemetry.proto.trace.v1.trace_pb2 import Status  # noqa: E402

FINAL = {v1.JOB_STATE_SUCCEEDED, v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED}
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
START = "parfocal.v1.JobService/StartJob"


@dataclass(frozen=True)
class Received:
    """A span as the collector has it: whose it is, and what it says."""

    trace: str
    id: str
    parent: str
    name: str
    service: str
    pid: int
    seconds: float
    failed: bool
    about: dict[str, Any] = field(compare=False)


class Collector:
    """What receives traces over OTLP/HTTP, as a collector of an installation does."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf":
                    collector.spans += spans_of(ExportTraceServiceRequest.FromString(body))
                    self.send_response(200)
                else:
                    self.send_response(404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def trace(self, trace: str, *names: str) -> list[Received]:
        """Return the spans of a trace once those of these names are among them."""

        def complete() -> list[Received]:
            found = [span for span in self.spans if span.trace == trace]
            return found if set(names) <= {span.name for span in found} else []

        found: list[Received] = wait_for(complete, 30, f"{names} among {[span.name for span in self.spans]}")
        return found


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for resource in request.resource_spans:
        process = values(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    process["service.name"],
                    process["process.pid"],
                    (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                    span.status.code == Status.STATUS_CODE_ERROR,
                    values(span.attributes),
                )


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="module")
def environment(collector: Collector) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENDPOINT, collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        yield


@pytest.fixture(scope="module")
def fake(environment: None, start_service: Callable[..., ServiceProcess]) -> ServiceProcess:
    return start_service("fake", checkpoint_seconds="0")


@pytest.fixture
def jobs(fake: ServiceProcess) -> Iterator[Any]:
    with grpc.insecure_channel(fake.address) as channel:
        yield v1.JobServiceStub(channel)


def new_trace() -> tuple[str, tuple[tuple[str, str]]]:
    """Return the id of a trace, and the metadata of a call that is part of it."""
    trace = uuid.uuid4().hex
    return trace, (("traceparent", f"00-{trace}-{uuid.uuid4().hex[:16]}-01"),)


def training(dataset: str, **parameters: Any) -> v1.StartJobRequest:
    spec = v1.TrainingSpec(method="fake-2d", dataset_uri=dataset, model="traced", parameters=values_struct(parameters))
    return v1.StartJobRequest(request_id=uuid.uuid4().hex, training=spec)


def ended(jobs: Any, job_id: str) -> v1.Job:
    def look() -> v1.Job | None:
        job: v1.Job = jobs.GetJob(v1.GetJobRequest(job_id=job_id)).job
        return job if job.state in FINAL else None

    return wait_for(look, 180, "the end of the job")


def only(spans: list[Received], name: str, **about: Any) -> Received:
    wanted = {f"parfocal.{key}": value for key, value in about.items()}
    found = [span for span in spans if span.name == name and wanted.items() <= span.about.items()]
    assert len(found) == 1, [(span.name, span.about) for span in spans]
    return found[0]


def python(code: str, *path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", search_path(*path))
        for name, value in variables.items():
            patch.setenv(name, value)
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENDPOINT, raising=False)


CLIENT = """
    import sys
    from parfocal import v1
    from parfocal.client.client import Client
    from parfocal.runtime.settings import Settings

    address, request = sys.stdin.readline().split()
    client = Client(Settings(), services=[address])
    started = client.start(v1.StartJobRequest.FromString(bytes.fromhex(request)))
    job = client.wait(started.id)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job
    print(job.traceparent)
"""


def test_a_training_is_one_trace_from_the_client_to_the_worker(
    collector: Collector, fake: ServiceProcess, dataset_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", search_path(ROOT / "orchestrator"))
    request = training(dataset_uri, epochs=3)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CLIENT)],
        input=f"{fake.address} {request.SerializeToString().hex()}\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trace = done.stdout.split("-")[1]
    spans = collector.trace(trace, "start a job", "job", "attempt")

    ids = {span.id for span in spans}
    roots = [span for span in spans if span.parent not in ids]
    assert [span.name for span in roots] == ["start a job"], "one connected trace"
    assert roots[0].parent == ""
    calls = [span for span in spans if span.name == START]
    asked, answered = sorted(calls, key=lambda span: span.service)
    assert (asked.service, answered.service) == ("parfocal-client", "parfocal-fake")
    assert (asked.parent, answered.parent) == (roots[0].id, asked.id)
    assert {span.about["rpc.response.status_code"] for span in calls} == {"OK"}
    listed = [span for span in spans if span.name == "parfocal.v1.MethodService/ListMethods"]
    assert {span.service for span in listed} == {"parfocal-client", "parfocal-fake"}, "asked in a thread of its own"

    queued, attempt, job = (only(spans, name) for name in ("queued", "attempt", "job"))
    assert {queued.parent, attempt.parent, job.parent} == {answered.id}
    assert queued.pid == job.pid == answered.pid != attempt.pid
    assert attempt.about == {
        "parfocal.project": "default",
        "parfocal.job": request.request_id,
        "parfocal.kind": "training",
        "parfocal.method": "fake-2d",
        "parfocal.attempt": 1,
    }
    assert job.about["parfocal.state"] == "SUCCEEDED"
    assert job.seconds >= attempt.seconds - 0.5

    within = {span.name: span.parent for span in spans}
    stages = {name: only(spans, name).id for name in ("preparing", "training", "publishing")}
    assert {within[name] for name in stages} == {attempt.id}
    assert within["open"] == stages["preparing"]
    assert within["download"] == only(spans, "open").id
    assert {within["upload"], within["publish"]} == {stages["publishing"]}
    epochs = sorted((span for span in spans if span.name == "epoch"), key=lambda span: span.about["parfocal.first"])
    assert [span.about["parfocal.last"] for span in epochs] == [1, 2, 3]
    assert {span.parent for span in epochs} == {stages["training"]}
    assert not any(span.failed for span in spans)


def test_a_resumed_job_goes_on_in_its_trace(collector: Collector, jobs: Any, dataset_uri: str) -> None:
    trace, metadata = new_trace()
    request = training(dataset_uri, epochs=60, pause_seconds=0.05)
    job = jobs.StartJob(request, metadata=metadata).job
    assert job.traceparent.split("-")[1] == trace
    found = v1.GetJobRequest(job_id=job.id)
    wait_for(lambda: jobs.GetJob(found).job.progress.epoch >= 1, 120, "an epoch")
    jobs.CancelJob(v1.CancelJobRequest(job_id=job.id, keep_best=False))
    assert ended(jobs, job.id).state == v1.JOB_STATE_CANCELLED
    collector.trace(trace, "job")
    jobs.ResumeJob(v1.ResumeJobRequest(job_id=job.id))
    wait_for(lambda: jobs.GetJob(found).job.attempt == 2, 120, "the second attempt")
    jobs.CancelJob(v1.CancelJobRequest(job_id=job.id, keep_best=True))
    assert ended(jobs, job.id).state == v1.JOB_STATE_SUCCEEDED
    wait_for(lambda: sum(span.name == "job" for span in collector.trace(trace, "job")) == 2, 30, "both ends")
    spans = collector.trace(trace, "publish")
    first, second = only(spans, "queued", attempt=1), only(spans, "queued", attempt=2)
    assert first.parent == second.parent
    assert second.seconds < 30, "since it was resumed"
    assert only(spans, "attempt", attempt=2).parent == first.parent
    assert {span.about["parfocal.state"] for span in spans if span.name == "job"} == {"CANCELLED", "SUCCEEDED"}


def test_what_fails_says_so_by_a_constant(collector: Collector, jobs: Any, store: Store, tmp_path: Path) -> None:
    trace, metadata = new_trace()
    with pytest.raises(grpc.RpcError):
        jobs.StartJob(training("s3://parfocal-datasets/default/none/1"), metadata=metadata)
    refused = only(collector.trace(trace, START), START)
    assert refused.about["rpc.response.status_code"] == "NOT_FOUND"
    assert not refused.failed, "the mistake of a caller"

    # Of a size of its own: what another training has fetched is in the cache.
    dataset = publish_dataset(store, "damaged", write_pairs(tmp_path, filament_pair, (64, 96)))
    store.write(Location.parse(dataset) / "train/source/field0.tif", b"no image")
    trace, metadata = new_trace()
    job = ended(jobs, jobs.StartJob(training(dataset), metadata=metadata).job.id)
    assert job.state == v1.JOB_STATE_FAILED
    spans = collector.trace(trace, "job", "attempt", "download")
    for name in ("download", "attempt", "job"):
        span = only(spans, name)
        assert (span.failed, span.about["error.type"]) == (True, job.error.reason)
    assert only(spans, "job").about["parfocal.state"] == "FAILED"
    text = repr(spans)
    assert "field0" not in text, "names of images stay in the store"
    assert "traced" not in text, "and those of models"


def test_a_malformed_header_begins_a_trace(collector: Collector, jobs: Any) -> None:
    before = len(collector.spans)
    for header in ("nothing", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 500):
        jobs.ListJobs(v1.ListJobsRequest(), metadata=(("traceparent", header),))
    name = "parfocal.v1.JobService/ListJobs"
    found = wait_for(
        lambda: len(each := [span for span in collector.spans[before:] if span.name == name]) == 3 and each, 30, name
    )
    assert len({span.trace for span in found}) == 3
    assert {span.parent for span in found} == {""}


def test_an_evaluation_is_traced(
    collector: Collector, environment: None, s3: S3Server, start_service: Callable[..., Any], pairs_folder: Path
) -> None:
    store = s3.store()
    dataset = publish_dataset(store, "traced", pairs_folder)
    prediction = publish_images(store, pairs_folder / "test" / "target")
    spec = v1.EvaluationSpec(method="restoration", prediction_uri=prediction, dataset_uri=dataset, split="test")
    trace, metadata = new_trace()
    with grpc.insecure_channel(start_service("qc").address) as channel:
        stub = v1.JobServiceStub(channel)
        request = v1.StartJobRequest(request_id=uuid.uuid4().hex, evaluation=spec)
        job = stub.StartJob(request, metadata=metadata).job
        job = ended(stub, job.id)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    spans = collector.trace(trace, "job", "attempt")
    attempt = only(spans, "attempt", kind="evaluation")
    for name in ("preparing", "scoring", "reporting"):
        assert only(spans, name).parent == attempt.id
    images = [span.about for span in spans if span.name == "image"]
    assert [each["parfocal.last"] for each in images] == [1, 2, 3]
    assert {span.service for span in spans} == {"parfocal-qc"}


def test_long_trainings_have_few_spans(collector: Collector, environment: None) -> None:
    before = len(collector.spans)
    code = """
        from parfocal.runtime import traces

        traces.begin("loop")
        with traces.span("all", root=True):
            laps = traces.Laps("round", 101, 1100)
            for number in range(101, 1101):
                laps.done(number)
    """
    python(code)
    spans = wait_for(lambda: [span for span in collector.spans[before:] if span.service == "parfocal-loop"], 30)
    rounds = sorted((span for span in spans if span.name == "round"), key=lambda span: span.about["parfocal.first"])
    assert len(rounds) == 200
    ends = [(span.about["parfocal.first"], span.about["parfocal.last"]) for span in rounds]
    assert ends == [(first, first + 4) for first in range(101, 1101, 5)]


@pytest.mark.usefixtures("off")
def test_without_a_collector_nothing_is_imported_or_said() -> None:
    code = """
        import sys
        import parfocal.client.client, parfocal.qc, parfocal.runtime.jobs.attempt, parfocal.runtime.jobs.worker
        import parfocal.runtime.prediction.job, parfocal.runtime.server.__main__, parfocal.runtime.training.loop
        from parfocal.client.services import Service
        from parfocal.runtime import traces

        traces.begin("care")
        service = Service("127.0.0.1:9")
        assert service.info().error
        with traces.span("all", {"job": "x"}, root=True) as span, traces.span("part"):
            stages, laps = traces.Stages(), traces.Laps("round", 1, 2)
            stages.enter("one")
            laps.done(1)
            stages.leave()
            traces.record("past", {}, 1, 2, parent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
            traces.call("/parfocal.v1.JobService/StartJob", "server").answered("OK")
            span.fail("INTERNAL")
            assert traces.current() == span.traceparent == ""
        traces.finish()
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """
    done = python(code, ROOT / "orchestrator")
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("before", "variables", "said"),
    [
        ('sys.modules["opentelemetry.sdk"] = None', {}, "the extra `traces` of parfocal-runtime is not installed"),
        ("", {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "99999999"}, "a variable of OpenTelemetry (OTEL_…) is wrong"),
    ],
)
def test_what_is_missing_or_wrong_is_said_once(before: str, variables: dict[str, str], said: str) -> None:
    code = f"""
        import sys
        {before}
        from parfocal.runtime import traces

        for _ in range(2):
            traces.begin("care")
        with traces.span("all", root=True) as span:
            assert span.traceparent == ""
    """
    done = python(code, **{ENDPOINT: "http://127.0.0.1:9"}, **variables)
    assert done.stderr.count(said) == 1


def test_a_collector_that_is_away_holds_nobody_up() -> None:
    code = """
        import sys, time
        from parfocal.runtime import traces

        traces.begin("care")
        for number in range(10_000):
            with traces.span("all", root=True):
                pass
        print(time.time())
    """
    done = python(code, **{ENDPOINT: f"http://127.0.0.1:{free_ports(1)[0]}"})
    assert time.time() - float(done.stdout) < 10
