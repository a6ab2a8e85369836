"""What Prometheus is told, and that alerts and dashboard ask for nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from image_service import Service
from pydantic import ValidationError
from support import ROOT, S3Server, ServiceProcess, free_ports, publish_dataset, wait_for

from parfocal import v1
from parfocal.runtime import metrics
from parfocal.runtime.metrics import Counter, Gauge, Histogram
from parfocal.runtime.server.metrics_page import serve_metrics
from parfocal.runtime.settings import Settings

MONITORING = ROOT / "deploy/kubernetes/components/monitoring"
NAMES = re.compile(r"\bparfocal_\w+")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.Metric, "_all", [])


@pytest.mark.usefixtures("alone")
def test_the_text_is_what_prometheus_reads() -> None:
    counter = Counter("c_total", "Some.", ["kind"])
    counter.add('a "quoted"\n')
    counter.add("b", amount=2.5)
    Gauge("g", "Now.").set(3)
    histogram = Histogram("h_seconds", "Times.")
    for seconds in (0.05, 0.05, 5.0, 1e9):
        histogram.observe(seconds)
    lines = metrics.exposition().splitlines()
    assert lines[:2] == ["# HELP c_total Some.", "# TYPE c_total counter"]
    assert lines[2:4] == [r'c_total{kind="a \"quoted\"\n"} 1', 'c_total{kind="b"} 2.5']
    assert "g 3" in lines
    assert 'h_seconds_bucket{le="0.01"} 0' in lines
    assert 'h_seconds_bucket{le="0.1"} 2' in lines
    assert 'h_seconds_bucket{le="10"} 3' in lines
    assert 'h_seconds_bucket{le="+Inf"} 4' in lines
    assert "h_seconds_count 4" in lines


def counted(url: str) -> str:
    """Return the numbers once they have both jobs."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = str(answer.read(), "utf-8")
    return text if 'parfocal_jobs_ended_total{state="SUCCEEDED"} 2' in text else ""


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, pairs_folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """The address and what is there after a training and a prediction, in a store where no other test left jobs."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    server = S3Server(tmp_path_factory.mktemp("metrics-s3"))
    server.start()
    settings = {
        **server.environment,
        "PARFOCAL_METRICS_LISTEN": f"127.0.0.1:{port}",
        "PARFOCAL_SPARE_SECONDS": "0",
    }
    process = ServiceProcess("fake", settings, tmp_path_factory.mktemp("metrics")).start()
    with grpc.insecure_channel(process.address) as channel:
        service = Service(process, channel, publish_dataset(server.store(), "metrics", pairs_folder))
        service.models["quick"] = service.finish(service.start_training(epochs=1)).outputs[0].uri
        service.finish(service.start_prediction())
        with pytest.raises(grpc.RpcError):
            service.jobs.GetJob(v1.GetJobRequest(job_id="none"))
        # The controller looks at its worker a moment after the job's end.
        text = wait_for(lambda: counted(f"{address}/metrics"), 20, "the count of the jobs")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    yield address, {name: float(value) for name, value in values.items()}
    process.stop()
    server.stop()


def test_jobs_are_counted_with_their_wait_their_device_and_their_worker(answered: tuple[str, dict[str, float]]) -> None:
    values = answered[1]
    assert values['parfocal_jobs_ended_total{state="SUCCEEDED"}'] == 2
    assert values['parfocal_worker_exits_total{how="finished"}'] == 2
    assert values["parfocal_job_wait_seconds_count"] == 2
    assert 0 < values["parfocal_device_seconds_total"] < 120
    assert values['parfocal_predicted_pixels_total{method="fake-2d"}'] == 3 * 64 * 80
    assert 0 < values['parfocal_prediction_seconds_total{method="fake-2d"}'] < values["parfocal_device_seconds_total"]
    assert values["parfocal_jobs_queued"] == 0
    assert values["parfocal_store_seconds_count"] > 10
    assert values['parfocal_calls_total{call="/parfocal.v1.JobService/GetJob",outcome="NOT_FOUND"}'] == 1


def test_nothing_else_is_served_there(answered: tuple[str, dict[str, float]]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{answered[0]}/etc/passwd", timeout=5)
    assert caught.value.code == 404
    caught.value.close()


@pytest.mark.parametrize("wrong", ["9464", ":9464", "localhost", "localhost:http", "localhost:65536"])
def test_a_wrong_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="metrics_listen"):
        Settings(metrics_listen=wrong)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_may_be_given_in_brackets() -> None:
    async def scene() -> str:
        server = await serve_metrics("[::1]:0")
        async with server:
            return str(server.sockets[0].getsockname()[0])

    assert asyncio.run(scene()) == "::1"


def test_alerts_and_dashboard_ask_for_what_there_is(answered: tuple[str, dict[str, float]]) -> None:
    served = {name.split("{")[0] for name in answered[1]}
    # Without a failure yet.
    served |= {"parfocal_job_failures_total"}
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for target in targets for name in NAMES.findall(target["expr"])}
    asked |= set(NAMES.findall((MONITORING / "alerts.yaml").read_text()))
    assert asked
    assert asked <= served
